"""The laboratory: namespaces, a guest kernel with real ESP, impairments, and what must be installed for them."""
