"""What the kernel announces when links, addresses, rules or routes of the host change, and whether it was us.

The notice of a change lies in the socket before the change's own system call returns, so that whoever asks here
before using what it remembers never uses what is out of date. Structures of `linux/netlink.h`, `linux/rtnetlink.h`
and `linux/fib_rules.h`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

from ikev2.errors import BackendError

_NETLINK_ROUTE = 0
_GROUP_NUMBERS = (1, 5, 7, 8, 9, 11, 19)  # LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, _ROUTE, _RULE
_GROUPS = sum(1 << number - 1 for number in _GROUP_NUMBERS)
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWRULE, _RTM_DELRULE = 24, 25, 32, 33
_NLMSGHDR = struct.Struct("=IHHII")  # len, type, flags, seq, pid
_RTM_PROTOCOL = _NLMSGHDR.size + 5
"""Where `struct rtmsg` says who made a route."""
_ATTRIBUTES = _NLMSGHDR.size + 12
"""Where the attributes begin behind `struct fib_rule_hdr`."""
_NLATTR = struct.Struct("=HH")  # len, type
_FRA_PROTOCOL = 21
_RECEIVE_OCTETS = 1 << 16


class HostNotices:
    """A netlink socket that listens in the network namespace of the calling thread. Raises BackendError.

    `own_protocol` is the protocol number of our own rules and routes, which are no news.
    """

    def __init__(self, own_protocol: int) -> None:
        self._own_protocol = own_protocol
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
            self._socket.bind((0, _GROUPS))
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise BackendError(f"changes of the host's addresses and routes cannot be followed: {why}") from error

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def any_of_others(self) -> bool:
        """Whether anything that was not us has changed since the last call; True also when notices were lost."""
        found = False
        while self._poll.poll(0):  # a read of nothing is an exception, which costs more than the question
            try:
                notice = self._socket.recv(_RECEIVE_OCTETS)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise BackendError(f"the kernel's notices cannot be read: {error.strerror}") from error
                found = True
                continue
            found = found or self._made_by(notice) != self._own_protocol
        return found

    @staticmethod
    def _made_by(notice: bytes) -> int | None:
        """The protocol number of the rule or the route that a notice is about; None for all else."""
        kind = _NLMSGHDR.unpack_from(notice)[1]
        if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
            return notice[_RTM_PROTOCOL]
        if kind in (_RTM_NEWRULE, _RTM_DELRULE):
            at = _ATTRIBUTES
            while at + _NLATTR.size < len(notice):
                length, attribute = _NLATTR.unpack_from(notice, at)
                if attribute == _FRA_PROTOCOL:
                    return notice[at + _NLATTR.size]
                at += max(length + 3 & ~3, _NLATTR.size)
        return None
