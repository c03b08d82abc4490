"""A TUN device: the host's packets come out of a descriptor, and what is written to it goes into the host.

The device lives as long as its descriptor, so that a crash takes it, and the routes through it, away. Also here:
the check of source addresses (rp_filter), which such a device makes harder to pass.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
from pathlib import Path

from ikev2.errors import BackendError

log = logging.getLogger(__name__)

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

    def with_ipv6(self) -> None:
        """Let IPv6 packets through, without any address or question of the kernel's own on the device."""
        # The last one begins it.
        for name, value in (
            ("addr_gen_mode", "1"),
            ("accept_ra", "0"),
            ("router_solicitations", "0"),
            ("disable_ipv6", "0"),
        ):
            with contextlib.suppress(OSError):
                (_SYSCTL / f"ipv6/conf/{self.name}/{name}").write_text(value)

    def without_ipv6(self) -> None:
        """Keep the host from soliciting routers on the device, until `with_ipv6`."""
        with contextlib.suppress(OSError):
            (_SYSCTL / f"ipv6/conf/{self.name}/disable_ipv6").write_text("1")


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all."""
    return (_SYSCTL / "ipv6").exists()


class TunBusy(BackendError):
    """Another process holds the device of that name."""


class SourceCheck:
    """rp_filter of interfaces whose traffic comes back another way: strict becomes loose, until `restore`.

    A strict check asks whether the way back to the source leads through the same interface. Where the way to the
    peer leads into the TUN device, nothing that the peer sends passes it, its ARP requests among it. Loose asks
    whether there is a way at all. The kernel takes the stricter of "all" and the interface. RFC 3704 section 2.4.
    """

    _STRICT, _LOOSE = "1", "2"

    def __init__(self) -> None:
        self._before: dict[str, str] = {}

    def relax(self, interface: str) -> None:
        """Make a strict check of the interface loose; others stay as they are."""
        everywhere, own = self._value("all"), self._value(interface)
        if self._STRICT not in (everywhere, own) or self._LOOSE in (everywhere, own):
            return
        if self._set(interface, self._LOOSE):
            log.info("the check of source addresses of %s (rp_filter) is loose while Child SAs use it", interface)
            self._before.setdefault(interface, own)

    def restore(self) -> None:
        """Give every interface back what it had."""
        while self._before:
            self._set(*self._before.popitem())

    @staticmethod
    def _path(interface: str) -> Path:
        return _SYSCTL / "ipv4/conf" / interface / "rp_filter"

    def _value(self, interface: str) -> str:
        try:
            return self._path(interface).read_text().strip()
        except OSError:
            return ""

    def _set(self, interface: str, value: str) -> bool:
        try:
            self._path(interface).write_text(value)
        except OSError as error:
            log.warning("rp_filter of %s cannot be set to %s: %s", interface, value, error.strerror)
            return False
        return True
