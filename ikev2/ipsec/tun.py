"""A TUN device: the host's packets come out of a descriptor, and what is written to it goes into the host.

The device lives as long as its descriptor, so that a crash takes it, and the routes through it, away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

from ikev2.errors import BackendError

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFREQ = struct.Struct("16sH22x")
_DEVICE = "/dev/net/tun"
_SYSCTL = Path("/proc/sys/net")


class TunDevice:
    """An open TUN device; `fd` does not block. Raises BackendError when it cannot be made."""

    def __init__(self, name: str) -> None:
        try:
            self.fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BackendError(f"{_DEVICE} cannot be opened: {error.strerror}") from error
        try:
            request = fcntl.ioctl(self.fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            os.close(self.fd)
            if error.errno == errno.EBUSY:
                raise TunBusy(f"the TUN device {name} belongs to a running process") from error
            raise BackendError(f"the TUN device {name} cannot be made: {error.strerror}") from error
        self.name: str = _IFREQ.unpack(request)[0].rstrip(b"\0").decode()

    @classmethod
    def first_free(cls, prefix: str, count: int) -> tuple[TunDevice, int]:
        """The first of `prefix0`, `prefix1`, ... that nobody holds, and its number: the claim is atomic."""
        for number in range(count):
            try:
                return cls(f"{prefix}{number}"), number
            except TunBusy:
                continue
        raise BackendError(f"all TUN devices {prefix}0 to {prefix}{count - 1} belong to running processes")

    def close(self) -> None:
        """Let the device go; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def relax_source_check(self) -> None:
        """Let packets in whose way back is decided by more than their addresses.

        The strictest of "all" and the device counts, so a loose check of its own is the way out of a strict "all".
        RFC 3704 section 2.4.
        """
        everywhere = _SYSCTL / "ipv4/conf/all/rp_filter"
        own = _SYSCTL / f"ipv4/conf/{self.name}/rp_filter"
        with contextlib.suppress(OSError, ValueError):
            own.write_text("0" if int(everywhere.read_text()) == 0 else "2")

    def without_ipv6(self) -> None:
        """Keep the host from soliciting routers on the device."""
        with contextlib.suppress(OSError):
            (_SYSCTL / f"ipv6/conf/{self.name}/disable_ipv6").write_text("1")


class TunBusy(BackendError):
    """Another process holds the device of that name."""
