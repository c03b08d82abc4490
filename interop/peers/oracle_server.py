"""A TWAMP server beside strongSwan: its keys come from SK_d in strongSwan's log, not from any IKE code of ours.

    python -m interop.peers.oracle_server DIRECTORY      DIRECTORY is that of interop.peers.strongswan.StrongSwan

It stands for an implementation of RFC 7717 on a host whose IKE daemon is strongSwan. HMAC over SK_d is Python's own.
It says READY=1 to NOTIFY_SOCKET and ends on SIGTERM. RFC 7717 sections 5.1 and 5.3.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from binding.provider import IkeKeyProvider
from ikev2.embedding import LocalProtocolError, NoSuchSa
from ikev2.io.notify import sd_notify
from interop.peers.strongswan import Swanctl
from ippm import ServerOptions, TwampServer

LABEL = b"IPPM"
PRFS = {
    "PRF_HMAC_SHA1": ("hmac-sha1", "sha1"),
    "PRF_HMAC_SHA2_256": ("hmac-sha2-256", "sha256"),
    "PRF_HMAC_SHA2_384": ("hmac-sha2-384", "sha384"),
    "PRF_HMAC_SHA2_512": ("hmac-sha2-512", "sha512"),
}
"""strongSwan's name -> our name, and hashlib's."""


@dataclass(slots=True)
class OracleHandle:
    """A KeyHandle on an IKE SA of strongSwan's."""

    derivation: str
    prf_name: str
    spi_i: bytes
    spi_r: bytes
    local_identity: str
    peer_identity: str
    peer_address: str
    child_spi: int | None
    label: bytes
    shared_secret: bytes

    def secret(self, context: bytes) -> bytes:
        """The shared secret key: prf(SK_d, "IPPM")."""
        if context != self.label:
            raise LocalProtocolError(f"rfc7717 has the one context {self.label!r}")
        return self.shared_secret

    def close(self) -> None:
        """Forget it."""
        self.shared_secret = b""


class LogExporter:
    """Finds an IKE SA among strongSwan's, and its SK_d in strongSwan's log."""

    def __init__(self, peer: Swanctl) -> None:
        self._peer = peer

    def open(
        self,
        sa: tuple[bytes, bytes] | str,
        derivation: str,
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> OracleHandle:
        """A handle for the SPIs. NoSuchSa when strongSwan lists no such IKE SA."""
        found = next((one for one in self._peer.list_sas() if (one.spi_i, one.spi_r) == sa), None)
        if found is None or derivation != "rfc7717":
            raise NoSuchSa("strongSwan has no IKE SA with these SPIs")
        sk_d = self._peer.log_secrets()[found.unique_id].sk["SK_d"]
        prf_name, digest = PRFS[next(word for word in found.suite if word in PRFS)]
        secret = hmac.digest(sk_d, LABEL, digest)
        return OracleHandle(
            derivation, prf_name, found.spi_i, found.spi_r, found.local_id, found.remote_id, found.remote_host,
            None, LABEL, secret,
        )  # fmt: skip


async def serve(directory: Path) -> None:
    """Until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = TwampServer(ServerOptions(), IkeKeyProvider(LogExporter(Swanctl(directory))))
    await server.start()
    sd_notify("READY=1")
    await stopped.wait()
    await server.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(serve(Path(sys.argv[1])))
