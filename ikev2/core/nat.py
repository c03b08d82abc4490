"""NAT detection: each end tells a digest of the addresses it used, and the other compares. RFC 7296 section 2.23."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from ikev2.core.types import Address, host_octets
from ikev2.iana import NotifyType
from ikev2.value import value
from ikev2.wire.payloads import Notify

_NOWHERE = Address("0.0.0.0", 0)


@value(frozen=True, slots=True)
class NatState:
    """What NAT detection found. `supported`: the peer takes part in it."""

    supported: bool = False
    local: bool = False
    remote: bool = False

    def pretended(self) -> NatState:
        """The same with a NAT before us, which we have claimed: `encap` in the configuration."""
        return NatState(self.supported, True, self.remote)

    @property
    def between(self) -> bool:
        """True when there is a NAT on either side."""
        return self.local or self.remote


def detection_digest(spi_i: bytes, spi_r: bytes, address: Address) -> bytes:
    """SHA-1(SPIi | SPIr | IP address | port), 20 octets. RFC 7296 section 2.23."""
    data = spi_i + spi_r + host_octets(address.host) + address.port.to_bytes(2, "big")
    return hashlib.sha1(data, usedforsecurity=False).digest()


def detection_notifies(
    spi_i: bytes, spi_r: bytes, source: Address, destination: Address, *, fake: bool
) -> tuple[Notify, Notify]:
    """Both notifies of a message from `source` to `destination`; `fake` claims a NAT before us.

    RFC 7296 section 2.23.
    """
    claimed = _NOWHERE if fake else source
    return (  # rfc7296-s2.23-09
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, detection_digest(spi_i, spi_r, claimed)),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, detection_digest(spi_i, spi_r, destination)),
    )


def detect(notifies: Iterable[Notify], spi_i: bytes, spi_r: bytes, local: Address, remote: Address) -> NatState:
    """Compare the digests in a message that came from `remote` to `local`. RFC 7296 section 2.23."""
    told = [(notify.notify_type, notify.data) for notify in notifies]
    sources = [data for kind, data in told if kind == NotifyType.NAT_DETECTION_SOURCE_IP]
    destinations = [data for kind, data in told if kind == NotifyType.NAT_DETECTION_DESTINATION_IP]
    # rfc7296-s2.23-10, rfc7296-s2.23-12: each kind is checked if present
    return NatState(
        supported=bool(sources or destinations),
        local=bool(destinations) and not _any_equal(destinations, detection_digest(spi_i, spi_r, local)),
        remote=bool(sources) and not _any_equal(sources, detection_digest(spi_i, spi_r, remote)),
    )


def _any_equal(digests: Iterable[bytes], wanted: bytes) -> bool:
    return any(hmac.compare_digest(digest, wanted) for digest in digests)
