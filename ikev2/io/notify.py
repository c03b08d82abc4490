"""Telling the service manager that the endpoint is ready: sd_notify(3) without its library."""

from __future__ import annotations

import contextlib
import os
import socket


def sd_notify(state: str) -> bool:
    """Send `state` (as `READY=1`) to the socket that NOTIFY_SOCKET names; False when there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    name: str | bytes = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else address
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
        try:
            sock.sendto(state.encode(), name)
        except OSError:
            return False
    return True
