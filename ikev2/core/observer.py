"""What one IKE SA asks of, and tells, whoever owns it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ikev2.core.pools import AddressPools
from ikev2.crypto.entropy import Entropy

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa

SPI_OCTETS = 8


class Observer(Protocol):
    """Who owns the SAs: told of the two moments when others may care, asked what one SA cannot know."""

    pools: AddressPools

    def is_only_sa(self, sa: IkeSa) -> bool:
        """True when there is no other IKE SA between these identities: INITIAL_CONTACT may be said."""
        ...

    def others_behind(self, sa: IkeSa) -> Iterable[IkeSa]:
        """The IKE SAs of other peers that are seen under the address of this one's, behind a NAT."""
        ...

    def next_reqid(self) -> int:
        """A number that ties the SAs and policies of one Child SA together."""
        ...

    def new_ike_spi(self) -> bytes:
        """An IKE SPI that no other SA of ours has."""
        ...

    def is_taken(self, spi_i: bytes, spi_r: bytes) -> bool:
        """True when an IKE SA of ours has both of these SPIs: they name an SA, so a second one may not have them."""
        ...

    def established(self, sa: IkeSa, now: float, *, initial_contact: bool) -> None:
        """The peer is authenticated; `initial_contact`: it says that it has no other SA with us."""
        ...

    def closing(self, sa: IkeSa, now: float) -> None:
        """The SA is about to forget its keys."""
        ...

    def adopted(self, sa: IkeSa, now: float) -> None:
        """An SA has come of the rekeying of another. RFC 7296 section 2.18."""
        ...

    def touched(self, sa: IkeSa) -> None:
        """This SA may have events, datagrams or another timer, though it was not its turn."""
        ...

    def reauthenticate(self, sa: IkeSa, now: float) -> None:
        """It is time to replace this SA by one that is authenticated anew. RFC 7296 section 2.8.3."""
        ...

    def replaced(self, sa: IkeSa, now: float) -> None:
        """The SA that was to replace another is complete."""
        ...


class LoneObserver:
    """The observer of an IKE SA that nobody manages."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._reqid = 0
        self.pools = AddressPools()

    def is_only_sa(self, sa: IkeSa) -> bool:
        """It is the only one that we know."""
        return True

    def others_behind(self, sa: IkeSa) -> Iterable[IkeSa]:
        """It is the only one that we know."""
        return ()

    def next_reqid(self) -> int:
        """1, 2, ..."""
        self._reqid += 1
        return self._reqid

    def new_ike_spi(self) -> bytes:
        """Eight octets of entropy, not zero."""
        while (spi := self._entropy.octets(SPI_OCTETS)) == bytes(SPI_OCTETS):
            continue
        return spi

    def is_taken(self, spi_i: bytes, spi_r: bytes) -> bool:
        """It is the only one that we know."""
        return False

    def established(self, sa: IkeSa, now: float, *, initial_contact: bool) -> None:
        """Nobody cares."""

    def closing(self, sa: IkeSa, now: float) -> None:
        """Nobody cares."""

    def adopted(self, sa: IkeSa, now: float) -> None:
        """Nobody cares."""

    def touched(self, sa: IkeSa) -> None:
        """Nobody cares."""

    def reauthenticate(self, sa: IkeSa, now: float) -> None:
        """Nobody would look after the new one."""

    def replaced(self, sa: IkeSa, now: float) -> None:
        """Nobody cares."""
