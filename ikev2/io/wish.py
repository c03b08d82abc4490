"""Somebody waits for an SA: which events end the waiting, and with what reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ikev2.core.events import ChildSaDeleted, ChildSaFailed, Event, IkeSaDeleted, IkeSaEstablished, IkeSaFailed
from ikev2.errors import IkeError

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa
    from ikev2.core.info import IkeSaInfo


class Wish:
    """Somebody waits for an IKE SA (and, with a name, for one of its Child SAs) to come up or to go."""

    def __init__(self, sa: IkeSa, *, up: bool, child: str | None = None, spi_in: int | None = None) -> None:
        self.sa = sa
        self.up = up
        self.child = child
        self.spi_in = spi_in
        self.done = False
        self.failure: str | None = None
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.future.add_done_callback(lambda future: future.cancelled() or future.exception())

    def hear(self, event: Event) -> None:
        """Take one event of the turn."""
        match event:
            case IkeSaEstablished(ike_sa) if self.up and self._mine(ike_sa):
                self.done = True
            case IkeSaFailed(ike_sa, reason) | IkeSaDeleted(ike_sa, reason) if self._mine(ike_sa):
                self.done = True
                if self.up:
                    self.failure = reason
            case ChildSaFailed(ike_sa, name, reason) if self.up and self._mine(ike_sa):
                self.failure, self.done = f"Child SA {name}: {reason}", True
            case ChildSaDeleted(child) if not self.up and child.spi_in == self.spi_in:
                self.done = True
            case _:
                pass

    def settle(self) -> None:
        """At the end of a turn: wake who waits. All that belongs to an IKE_AUTH is in one turn."""
        if not self.done or self.future.done():
            return
        if self.failure is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(IkeError(self.failure))

    def _mine(self, info: IkeSaInfo) -> bool:
        return info.spi_i == self.sa.spi_i
