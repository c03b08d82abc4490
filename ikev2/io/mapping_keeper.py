"""NAT keepalives of an endpoint: the core says when, this has the timer, the sockets and the backend's counts.

RFC 3948 sections 2.3 and 4.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from ikev2.core.keepalive import Keepalives
from ikev2.core.manager import SaManager
from ikev2.core.types import Address
from ikev2.errors import BackendError
from ikev2.io.sockets import SocketSet
from ikev2.io.udp import NAT_KEEPALIVE
from ikev2.ipsec.backend import Backend


class MappingKeeper:
    """Reminds the NATs that translate this host; `counters` has how often."""

    def __init__(self, manager: SaManager, backend: Backend, sockets: SocketSet, counters: Counter[str]) -> None:
        self._manager = manager
        self._backend = backend
        self._sockets = sockets
        self._counters = counters
        self._keepalives = Keepalives()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """True while there is a mapping to be looked after."""
        return self._timer is not None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use this loop from now on."""
        self._loop = loop

    def stop(self) -> None:
        """Remind nobody any more."""
        self._loop = None
        self._cancel()

    def sent(self, local: Address, remote: Address, now: float) -> None:
        """An IKE message went out this way."""
        self._keepalives.sent(local, remote, now)

    def add(self, spi_i: bytes, spi_r: bytes) -> None:
        """A NAT translates us for a new IKE SA: its mapping is looked after with the others."""
        sa = self._manager.find(spi_i, spi_r)
        if self._loop is None or sa is None:
            return
        when = self._keepalives.add(sa, self._loop.time())
        if when is None or (self._timer is not None and self._timer.when() <= when):
            return
        self._cancel()
        self._timer = self._loop.call_at(when, self._remind)

    def _remind(self) -> None:
        """One octet 0xFF from where a NAT translates us and we have been silent. RFC 3948 sections 2.3 and 4."""
        if self._loop is None:
            return
        self._cancel()
        now = self._loop.time()
        packets_out: dict[int, int] = {}
        for child in self._keepalives.follow(self._manager.sas, now):
            with contextlib.suppress(BackendError):
                packets_out[child.spi_in] = self._backend.query(child).packets_out
        for local, remote in self._keepalives.due(packets_out, now):
            sock = self._sockets.find(local)
            if sock is not None and sock.nat_traversal:
                sock.send_raw(NAT_KEEPALIVE, local, remote)
                self._counters["nat_keepalives_sent"] += 1
        when = self._keepalives.next_timer()
        if when is not None:
            self._timer = self._loop.call_at(when, self._remind)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
