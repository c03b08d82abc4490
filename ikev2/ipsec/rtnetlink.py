"""A NETLINK_ROUTE socket for what is asked often: many changes in one system call, each with its own answer.

Structures of `linux/netlink.h` and `linux/rtnetlink.h`.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from ikev2.ipsec.rules import AF_INET, AF_INET6, Route, Rule
from ikev2.ipsec.xfrm.messages import encode_attribute, encode_message, parse_attributes, parse_messages

_NETLINK_ROUTE, _SOL_NETLINK, _NETLINK_CAP_ACK = 0, 270, 10
_NLMSG_ERROR = 2
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE = 0x01, 0x04, 0x100, 0x200, 0x400
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE, _RTM_NEWRULE, _RTM_DELRULE = (
    16, 18, 24, 25, 26, 32, 33,
)  # fmt: skip
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_MARK = 1, 4, 5, 8, 16
_RTAX_MTU = 2
_IFLA_IFNAME, _IFLA_MTU = 3, 4

_RTMSG = struct.Struct("=BBBBBBBBI")
_IFINFOMSG = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
_U32 = struct.Struct("=I")
_RECEIVE_OCTETS = 1 << 16
_TIMEOUT_S = 10.0
_AT_ONCE = 64
"""So many answers fit into a socket's buffer for certain."""


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """How the kernel would send: the interface's index, the gateway (None on the link), the route's own MTU or 0."""

    interface_index: int
    gateway: str | None
    mtu: int


class RouteSocket:
    """In the network namespace of the thread that makes it; for one thread at a time. Raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.settimeout(_TIMEOUT_S)
        self._sequence = 0

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._socket.close()

    def add(self, items: Sequence[Rule | Route]) -> list[int]:
        """Put them into force in this order; for each 0 or the error number. A route replaces another in its place."""
        return self._execute([_addition(item) for item in items])

    def delete(self, items: Sequence[Rule | Route]) -> list[int]:
        """Take them away in this order; for each 0 or the error number."""
        return self._execute([_deletion(item) for item in items])

    def route_to(self, host: str, mark: int = 0, interface_index: int = 0) -> RouteAnswer:
        """The way to a host, for traffic of that mark, through that interface if it is not 0."""
        packed = ip_address(host).packed
        family = AF_INET if len(packed) == 4 else AF_INET6
        body = _RTMSG.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + encode_attribute(_RTA_DST, packed)
        if mark:
            body += encode_attribute(_RTA_MARK, _U32.pack(mark))
        if interface_index:
            body += encode_attribute(_RTA_OIF, _U32.pack(interface_index))
        found = parse_attributes(self._ask(_RTM_GETROUTE, _RTM_NEWROUTE, body), _RTMSG.size)
        gateway = found.get(_RTA_GATEWAY)
        mtu = parse_attributes(found.get(_RTA_METRICS, b""), 0).get(_RTAX_MTU, bytes(4))
        return RouteAnswer(
            _U32.unpack(found[_RTA_OIF])[0] if _RTA_OIF in found else 0,
            str(ip_address(gateway)) if gateway is not None else None,
            _U32.unpack(mtu)[0],
        )

    def link(self, interface_index: int) -> tuple[str, int]:
        """Name and MTU of an interface."""
        body = _IFINFOMSG.pack(0, 0, interface_index, 0, 0)
        found = parse_attributes(self._ask(_RTM_GETLINK, _RTM_NEWLINK, body), _IFINFOMSG.size)
        return found[_IFLA_IFNAME].rstrip(b"\0").decode(), _U32.unpack(found[_IFLA_MTU])[0]

    def _execute(self, requests: Sequence[tuple[int, int, bytes]]) -> list[int]:
        answers: list[int] = []
        for begin in range(0, len(requests), _AT_ONCE):
            part = requests[begin : begin + _AT_ONCE]
            first = self._sequence + 1
            self._sequence += len(part)
            self._socket.send(
                b"".join(
                    encode_message(kind, flags | _REQUEST | _ACK, number, body)
                    for number, (kind, flags, body) in enumerate(part, first)
                )
            )
            waiting = len(part)
            while waiting:
                for message in parse_messages(self._socket.recv(_RECEIVE_OCTETS)):
                    if message.type == _NLMSG_ERROR and message.sequence >= first:
                        answers.append(-int.from_bytes(message.body[:4], sys.byteorder, signed=True))
                        waiting -= 1
        return answers

    def _ask(self, request: int, answer: int, body: bytes) -> bytes:
        self._sequence += 1
        self._socket.send(encode_message(request, _REQUEST, self._sequence, body))
        while True:
            for message in parse_messages(self._socket.recv(_RECEIVE_OCTETS)):
                if message.sequence != self._sequence:
                    continue
                if message.type == answer:
                    return message.body
                if message.type == _NLMSG_ERROR:
                    number = -int.from_bytes(message.body[:4], sys.byteorder, signed=True)
                    raise OSError(number, os.strerror(number))


def _addition(item: Rule | Route) -> tuple[int, int, bytes]:
    if isinstance(item, Rule):
        return _RTM_NEWRULE, _CREATE | _EXCL, item.encode()
    return _RTM_NEWROUTE, _CREATE | _REPLACE, item.encode()


def _deletion(item: Rule | Route) -> tuple[int, int, bytes]:
    if isinstance(item, Rule):
        return _RTM_DELRULE, 0, item.encode()
    return _RTM_DELROUTE, 0, item.encode(deleting=True)
