"""IKEv2-derived keys for O/TWAMP (RFC 7717)."""
