"""IKEv2 (RFC 7296) initiator and responder."""
