"""The algorithms: the only place in ikev2 that imports cryptography."""
