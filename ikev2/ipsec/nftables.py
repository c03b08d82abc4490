"""A NETLINK_NETFILTER socket for one table of nftables: rules as expressions, and many changes in one transaction.

Messages, attributes and expressions of `linux/netfilter/nf_tables.h` and `linux/netfilter/nfnetlink.h`. Numbers in
attributes are in network order there; what a packet holds is compared as octets.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ikev2.ipsec.xfrm.messages import encode_attribute, encode_message, parse_attributes, parse_messages

_NETLINK_NETFILTER, _SOL_NETLINK, _NETLINK_CAP_ACK = 12, 270, 10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _ECHO, _DUMP, _EXCL, _CREATE, _APPEND = 0x01, 0x04, 0x08, 0x300, 0x200, 0x400, 0x800
_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 16, 17, 10
_NESTED = 0x8000

_NFGENMSG = struct.Struct("!BBH")
"""struct nfgenmsg: family, version, resource id."""
_U32 = struct.Struct("!I").pack
_I32 = struct.Struct("!i").pack
_U64 = struct.Struct("!Q")
_ERROR = struct.Struct("=i")
_INET = 1
_RECEIVE_OCTETS = 1 << 18
_TIMEOUT_S = 10.0
_AT_ONCE = 128
"""So many changes, with their answers, fit into a socket's buffers for certain."""

_REGISTER, _FIRST_WORD = 1, 8
"""NFT_REG_1, of 16 octets, and NFT_REG32_00, the first of its four words."""
_CONCATENATED_BITS = 6


class _Message(IntEnum):
    """`NFT_MSG_*`."""

    NEW_TABLE = 0
    GET_TABLE = 1
    DELETE_TABLE = 2
    NEW_CHAIN = 3
    NEW_RULE = 6
    GET_RULE = 7
    DELETE_RULE = 8
    NEW_SET = 9
    NEW_ELEMENT = 12
    DELETE_ELEMENT = 14


class Meta(IntEnum):
    """`NFT_META_*`: what is known of a packet beside its octets."""

    IIFNAME = 6
    NFPROTO = 15
    L4PROTO = 16


class Header(IntEnum):
    """`NFT_PAYLOAD_*`: from which header on an offset counts. The transport header of a later fragment is none."""

    NETWORK = 1
    TRANSPORT = 2


class Verdict(IntEnum):
    """`NF_DROP`, `NF_ACCEPT` and those of nftables that lead to another chain."""

    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4


class TableFlag(IntEnum):
    """`NFT_TABLE_F_*`: a table of our socket alone (Linux 5.12), which outlives it (Linux 6.9)."""

    NONE = 0
    OURS_AND_STAYS = 2 | 4


def _expression(name: str, *attributes: bytes) -> bytes:
    data = encode_attribute(2 | _NESTED, b"".join(attributes))
    return encode_attribute(1 | _NESTED, encode_attribute(1, name.encode() + b"\0") + data)


def _value(attribute: int, octets: bytes) -> bytes:
    return encode_attribute(attribute | _NESTED, encode_attribute(1, octets))


def _verdict(verdict: Verdict, chain: str) -> bytes:
    named = encode_attribute(2, chain.encode() + b"\0") if chain else b""
    return encode_attribute(2 | _NESTED, encode_attribute(2 | _NESTED, encode_attribute(1, _I32(verdict)) + named))


def meta(key: Meta) -> bytes:
    """Load what is known of the packet."""
    return _expression("meta", encode_attribute(2, _U32(key)), encode_attribute(1, _U32(_REGISTER)))


def payload(header: Header, offset: int, length: int, *, word: int = 0) -> bytes:
    """Load octets of the packet; the rule does not match when it has none there. `word`: behind so many words."""
    numbers = (_FIRST_WORD + word, header, offset, length)
    return _expression("payload", *(encode_attribute(at, _U32(number)) for at, number in enumerate(numbers, 1)))


def extension(header: int, offset: int, length: int) -> bytes:
    """Load octets of an IPv6 extension header; the rule does not match when there is no such header."""
    return _expression(
        "exthdr",
        encode_attribute(1, _U32(_REGISTER)),
        encode_attribute(2, bytes((header,))),
        encode_attribute(3, _U32(offset)),
        encode_attribute(4, _U32(length)),
    )


def masked(mask: bytes) -> bytes:
    """Keep these bits of what was loaded."""
    return _expression(
        "bitwise",
        encode_attribute(1, _U32(_REGISTER)),
        encode_attribute(2, _U32(_REGISTER)),
        encode_attribute(3, _U32(len(mask))),
        _value(4, mask),
        _value(5, bytes(len(mask))),
    )


def equal(octets: bytes, *, negated: bool = False) -> bytes:
    """Go on when what was loaded begins with these octets, or when it does not."""
    return _expression(
        "cmp", encode_attribute(1, _U32(_REGISTER)), encode_attribute(2, _U32(negated)), _value(3, octets)
    )


def between(first: bytes, last: bytes) -> bytes:
    """Go on when what was loaded lies between these two, both included."""
    if first == last:
        return equal(first)
    return _expression(
        "range",
        encode_attribute(1, _U32(_REGISTER)),
        encode_attribute(2, _U32(0)),
        _value(3, first),
        _value(4, last),
    )


def in_set(name: str) -> bytes:
    """Go on when what was loaded is an element of a set."""
    return _expression("lookup", _named(1, name), encode_attribute(2, _U32(_FIRST_WORD)))


def counter() -> bytes:
    """Count the packets that come so far."""
    return _expression("counter", encode_attribute(1, _U64.pack(0)), encode_attribute(2, _U64.pack(0)))


def verdict(what: Verdict, chain: str = "") -> bytes:
    """What becomes of the packet."""
    return _expression("immediate", encode_attribute(1, _U32(0)), _verdict(what, chain))


@dataclass(frozen=True, slots=True)
class BaseChain:
    """Where in the way of packets a chain hangs: a hook of `linux/netfilter.h` and a priority, smaller is earlier."""

    hook: int
    priority: int


@dataclass(frozen=True, slots=True)
class SetOf:
    """A set whose elements have parts, each in whole words: their octets, and the numbers that nft has for these."""

    name: str
    octets: int
    types: tuple[int, ...]


_Request = tuple[_Message, int, bytes]
Element = tuple[str, bytes]
"""The name of a set, and what is in it."""


class NftSocket:
    """In the network namespace of the thread that makes it; for one thread at a time. Raises OSError.

    Every table is of the family `inet`: IPv4 and IPv6.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.settimeout(_TIMEOUT_S)
        self._sequence = 0

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._socket.close()

    def tables(self) -> list[str]:
        """The names of the tables that are there."""
        found = self._dump(_Message.GET_TABLE, b"")
        return [parse_attributes(body, _NFGENMSG.size).get(1, b"").rstrip(b"\0").decode() for body in found]

    def add_table(self, name: str, flags: TableFlag) -> None:
        """Make a table; EEXIST when there is one of the name, EINVAL or EOPNOTSUPP when the flags are not known."""
        body = _named(1, name) + encode_attribute(2, _U32(flags))
        self._transact([(_Message.NEW_TABLE, _CREATE | _EXCL, body)])

    def delete_table(self, name: str) -> None:
        """Take a table away with all that is in it; ENOENT when there is none."""
        self._transact([(_Message.DELETE_TABLE, 0, _named(1, name))])

    def add_chains(self, table: str, chains: Iterable[tuple[str, BaseChain | None]]) -> None:
        """Make chains, those that hang in the way of packets, and those that others lead to."""
        bodies = []
        for name, base in chains:
            body = _named(1, table) + _named(3, name)
            if base is not None:
                place = encode_attribute(1, _U32(base.hook)) + encode_attribute(2, _I32(base.priority))
                body += encode_attribute(4 | _NESTED, place) + _named(7, "filter")
            bodies.append(body)
        self._transact([(_Message.NEW_CHAIN, _CREATE | _EXCL, body) for body in bodies])

    def add_sets(self, table: str, sets: Iterable[SetOf]) -> None:
        """Make sets, with nothing in them."""
        requests = []
        for number, one in enumerate(sets, 1):
            kind = 0
            for part in one.types:
                kind = kind << _CONCATENATED_BITS | part
            numbers = ((3, 0), (4, kind), (5, one.octets), (10, number))
            body = _named(1, table) + _named(2, one.name)
            body += b"".join(encode_attribute(attribute, _U32(value)) for attribute, value in numbers)
            requests.append((_Message.NEW_SET, _CREATE | _EXCL, body))
        self._transact(requests)

    def change(
        self,
        table: str,
        added: Sequence[tuple[str, Sequence[bytes]]],
        removed: Sequence[tuple[str, int]] = (),
        elements: Sequence[Element] = (),
        gone: Sequence[Element] = (),
    ) -> list[int]:
        """Add rules, (chain, expressions), at the ends of their chains, and delete others, (chain, handle).

        The same with the elements of sets. The handles of the new rules. All in one transaction, as long as there are
        not very many.
        """
        requests: list[_Request] = [
            (
                _Message.NEW_RULE,
                _CREATE | _APPEND | _ECHO,
                _named(1, table) + _named(2, chain) + encode_attribute(4 | _NESTED, b"".join(expressions)),
            )
            for chain, expressions in added
        ]
        requests += [_element(_Message.NEW_ELEMENT, table, one) for one in elements]
        requests += [_element(_Message.DELETE_ELEMENT, table, one) for one in gone]
        requests += [_deletion(table, chain, handle) for chain, handle in removed]
        handles: list[int] = []
        done = 0
        try:
            for begin in range(0, len(requests), _AT_ONCE):
                handles += self._transact(requests[begin : begin + _AT_ONCE])
                done = begin + _AT_ONCE
        except OSError:
            undo = [_deletion(table, chain, handle) for (chain, _), handle in zip(added, handles, strict=False)]
            added_elements = elements[: max(0, done - len(added))]
            undo += [_element(_Message.DELETE_ELEMENT, table, one) for one in added_elements]
            for begin in range(0, len(undo), _AT_ONCE):
                self._transact(undo[begin : begin + _AT_ONCE])
            raise
        return handles

    def packets(self, table: str, chain: str) -> int:
        """How many packets the counters of a chain have counted."""
        total = 0
        for body in self._dump(_Message.GET_RULE, _named(1, table) + _named(2, chain)):
            for expression in _list(parse_attributes(body, _NFGENMSG.size).get(4, b"")):
                parts = parse_attributes(expression, 0)
                if parts.get(1, b"").rstrip(b"\0") == b"counter":
                    total += _U64.unpack(parse_attributes(parts[2], 0)[2])[0]
        return total

    # -- transport

    def _transact(self, requests: Sequence[_Request]) -> list[int]:
        """Carry these out in one transaction, all or none; the handles of the rules that were added."""
        first, last = self._sequence + 2, self._sequence + 1 + len(requests)
        self._sequence = last + 1
        batch = _NFGENMSG.pack(0, 0, _SUBSYSTEM)
        parts = [encode_message(_BATCH_BEGIN, _REQUEST, first - 1, batch)]
        for number, (kind, flags, body) in enumerate(requests, first):
            flags |= _REQUEST | (_ACK if number == last else 0)  # refusals come in any case
            parts.append(encode_message(_SUBSYSTEM << 8 | kind, flags, number, _NFGENMSG.pack(_INET, 0, 0) + body))
        parts.append(encode_message(_BATCH_END, _REQUEST, last + 1, batch))
        self._socket.send(b"".join(parts))
        handles: dict[int, int] = {}
        refusal, waiting = 0, True
        while waiting:
            for message in parse_messages(self._socket.recv(_RECEIVE_OCTETS)):
                if not first - 1 <= message.sequence <= last:
                    continue
                if message.type == _SUBSYSTEM << 8 | _Message.NEW_RULE:
                    handle = parse_attributes(message.body, _NFGENMSG.size)[3]
                    handles[message.sequence] = _U64.unpack(handle)[0]
                elif message.type == _NLMSG_ERROR:
                    refusal = refusal or -_ERROR.unpack_from(message.body)[0]
                    # The kernel may refuse the transaction as a whole, and says so of its beginning.
                    waiting = first <= message.sequence < last
        if refusal:
            raise OSError(refusal, os.strerror(refusal))
        return [handles[number] for number in sorted(handles)]

    def _dump(self, kind: _Message, body: bytes) -> list[bytes]:
        self._sequence += 1
        message = encode_message(
            _SUBSYSTEM << 8 | kind, _REQUEST | _DUMP, self._sequence, _NFGENMSG.pack(_INET, 0, 0) + body
        )
        self._socket.send(message)
        found: list[bytes] = []
        while True:
            for answer in parse_messages(self._socket.recv(_RECEIVE_OCTETS)):
                if answer.sequence != self._sequence:
                    continue
                if answer.type == _NLMSG_DONE:
                    return found
                if answer.type == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(answer.body)[0]
                    raise OSError(number, os.strerror(number))
                found.append(answer.body)


def _element(kind: _Message, table: str, element: Element) -> _Request:
    name, octets = element
    one = encode_attribute(1 | _NESTED, _value(1, octets))
    body = _named(1, table) + _named(2, name) + encode_attribute(3 | _NESTED, one)
    return kind, _CREATE if kind is _Message.NEW_ELEMENT else 0, body


def _deletion(table: str, chain: str, handle: int) -> _Request:
    body = _named(1, table) + _named(2, chain) + encode_attribute(3, _U64.pack(handle))
    return _Message.DELETE_RULE, 0, body


def _named(attribute: int, name: str) -> bytes:
    return encode_attribute(attribute, name.encode() + b"\0")


def _list(octets: bytes) -> Iterable[bytes]:
    """The elements of a list, whose attributes are all of one type."""
    offset = 0
    while offset + 4 <= len(octets):
        (length,) = struct.unpack_from("=H", octets, offset)
        if length < 4:
            return
        yield octets[offset + 4 : offset + length]
        offset += (length + 3) & ~3
