"""Somebody waits for an SA: which events end the waiting, and with what reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ikev2.core.events import (
    ChildSaDeleted,
    ChildSaFailed,
    ChildSaReady,
    ChildSaRekeyed,
    Event,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaFailed,
    IkeSaRekeyed,
    IkeSaRekeyFailed,
)
from ikev2.errors import IkeError

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa
    from ikev2.core.info import IkeSaInfo


class Wish:
    """Somebody waits for an IKE SA (and, with a name, for one of its Child SAs) to come up or to go, or, with `rekey`,
    to be replaced: the Child SA with `spi_in`, or the IKE SA.
    """

    def __init__(
        self,
        sa: IkeSa,
        *,
        up: bool,
        child: str | None = None,
        spi_in: int | None = None,
        rekey: bool = False,
    ) -> None:
        self.sa = sa
        self.rekey = rekey
        self.spi_i = sa.spi_i
        self.up = up
        self.child = child
        self.spi_in = spi_in
        self.done = False
        self.failure: str | None = None
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.future.add_done_callback(lambda future: future.cancelled() or future.exception())

    def hear(self, event: Event) -> None:
        """Take one event of the turn."""
        if self.rekey:
            self._hear_of_rekeying(event)
            return
        match event:
            case IkeSaEstablished(ike_sa) if self.up and self.child is None and self._mine(ike_sa):
                self.done = True
            case ChildSaReady(child) if self.up and child.name == self.child and child.ike_spi_i == self.spi_i:
                self.done = True
            case IkeSaRekeyed(old, new) if self.up and self._mine(old):
                self.spi_i = new.spi_i
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

    def _hear_of_rekeying(self, event: Event) -> None:
        match event:
            case ChildSaRekeyed(pair) if pair.spi_in == self.spi_in:
                self.done = True
            case IkeSaRekeyed(old, new) if self._mine(old):
                self.done = self.done or self.spi_in is None
                self.spi_i = new.spi_i
            case ChildSaFailed(ike_sa, name, reason) if self.spi_in is not None and self._mine(ike_sa):
                if name == self.child:
                    self.failure, self.done = reason, True
            case ChildSaDeleted(child, reason) if child.spi_in == self.spi_in and not self.done:
                self.failure, self.done = reason or "it was deleted", True
            case IkeSaRekeyFailed(ike_sa, reason) | IkeSaDeleted(ike_sa, reason) if self._mine(ike_sa):
                if not self.done:
                    self.failure, self.done = reason, True
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
        return info.spi_i == self.spi_i
