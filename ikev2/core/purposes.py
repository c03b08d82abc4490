"""What our CREATE_CHILD_SA requests are for, and what their responses need to be understood.

RFC 7296 sections 1.3 and 2.8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ikev2.core.child_negotiation import ChildOffer
from ikev2.core.exchange import MakeChildSa, RekeyChildSa, RekeyIkeSa
from ikev2.core.state import State
from ikev2.crypto.ke import KePair
from ikev2.wire.payloads import Proposal

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


@dataclass(slots=True)
class ChildCollision:
    """The peer rekeys the same Child SA: the one that it made of it, and the lowest nonce of its exchange."""

    spi_in: int
    lowest: bytes


@dataclass(slots=True)
class ChildRequest:
    """The purpose of our request: what is wanted, and what the response needs to be understood.

    `deleted` are the SPIs that the peer has deleted meanwhile and that were not known: it may have been the very
    Child SA of whose making the response tells.
    """

    task: MakeChildSa | RekeyChildSa
    offer: ChildOffer
    nonce: bytes
    pair: KePair | None = None
    reqid: int | None = None
    collision: ChildCollision | None = None
    deleted: set[int] = field(default_factory=set)

    @property
    def rekeys(self) -> int | None:
        """The inbound SPI of the Child SA that is to be replaced."""
        return self.task.spi_in if isinstance(self.task, RekeyChildSa) else None


@dataclass(slots=True)
class IkeCollision:
    """The peer rekeys the IKE SA as well: the one that came of it, and the lowest nonce of its exchange."""

    sa: IkeSa
    lowest: bytes


@dataclass(slots=True)
class IkeRequest:
    """The purpose of our request, and what the response needs to be understood."""

    task: RekeyIkeSa
    proposals: tuple[Proposal, ...]
    spi: bytes
    nonce: bytes
    pair: KePair
    collision: IkeCollision | None = None

    @property
    def rival(self) -> IkeSa | None:
        """The IKE SA of the peer's own exchange, while it is there."""
        found = None if self.collision is None else self.collision.sa
        return None if found is None or found.state is not State.ESTABLISHED else found
