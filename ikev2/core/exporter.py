"""Secrets for other protocols by handle: only prf outputs leave, never SK_d or KEYMAT. RFC 7717 section 5.1."""

from __future__ import annotations

from typing import Literal, Protocol

Derivation = Literal["rfc7717", "keymat-sid", "skd-sid"]


class KeyHandle(Protocol):
    """One IKE SA's key for one use, held until `close`."""

    derivation: str
    prf_name: str
    spi_i: bytes
    spi_r: bytes
    local_identity: str
    peer_identity: str
    peer_address: str
    child_spi: int | None
    label: bytes

    def secret(self, context: bytes) -> bytes:
        """prf(K, context), whole; LocalProtocolError for a context that is not allowed."""
        ...

    def close(self) -> None:
        """Forget the key."""
        ...
