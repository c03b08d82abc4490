"""A test socket whose datagrams go out by way of impairments: for nobody but who asked for it with `--impair`."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from ippm.core.impair import Delivery, Impairments, PacketContext

_one_at_a_time = threading.Lock()


class ImpairedSocket(socket.socket):
    """Takes over a socket; `send` and `sendto` do what the knobs say. It says that all was sent."""

    def __init__(self, sock: socket.socket, impairments: Impairments, context: PacketContext) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.settimeout(timeout)
        self._impairments, self._context = impairments, context

    def send(self, data: Any, flags: int = 0, /) -> int:
        """To the peer of the socket."""
        octets = bytes(data)
        outlet: Callable[[bytes], object] = super().send
        for delivery in self._deliveries(octets):
            _deliver(delivery, outlet)
        return len(octets)

    def sendto(self, data: Any, address: Any, /) -> int:  # type: ignore[override]
        """To an address."""
        octets = bytes(data)
        send = super().sendto
        for delivery in self._deliveries(octets):
            _deliver(delivery, lambda one: send(one, address))
        return len(octets)

    def _deliveries(self, octets: bytes) -> list[Delivery]:
        with _one_at_a_time:
            return self._impairments.packet(octets, self._context)


def _deliver(delivery: Delivery, send: Callable[[bytes], object]) -> None:
    if not delivery.delay_s:
        send(delivery.data)
        return

    def later() -> None:
        with contextlib.suppress(OSError):  # the session is over, and its socket closed
            send(delivery.data)

    timer = threading.Timer(delivery.delay_s, later)
    timer.daemon = True
    timer.start()
