"""A client of strongSwan's vici: what swanctl does, without a process for each command.

    with Vici(path) as vici:
        vici.command("initiate", {"child": "net", "timeout": "5000"})
        for event in vici.events("list-sas", "list-sa"): ...

The protocol is in strongSwan's src/libcharon/plugins/vici/README.md: a length of four octets, a packet type, a name,
then the elements of a message.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

Value: TypeAlias = "str | Sequence[str] | Mapping[str, Value]"
TIMEOUT_S = 30.0


class ViciError(Exception):
    """charon refused a command; the text has its own words."""


class _Packet(IntEnum):
    CMD_REQUEST = 0
    CMD_RESPONSE = 1
    CMD_UNKNOWN = 2
    EVENT_REGISTER = 3
    EVENT_UNREGISTER = 4
    EVENT_CONFIRM = 5
    EVENT_UNKNOWN = 6
    EVENT = 7


class _Element(IntEnum):
    SECTION_START = 1
    SECTION_END = 2
    KEY_VALUE = 3
    LIST_START = 4
    LIST_ITEM = 5
    LIST_END = 6


def _name(text: str) -> bytes:
    octets = text.encode()
    return bytes([len(octets)]) + octets


def _value(text: str) -> bytes:
    octets = text.encode()
    return struct.pack("!H", len(octets)) + octets


def encode(section: Mapping[str, Value]) -> bytes:
    """The elements of a message."""
    out = b""
    for key, value in section.items():
        if isinstance(value, str):
            out += bytes([_Element.KEY_VALUE]) + _name(key) + _value(value)
        elif isinstance(value, Mapping):
            out += bytes([_Element.SECTION_START]) + _name(key) + encode(value) + bytes([_Element.SECTION_END])
        else:
            items = b"".join(bytes([_Element.LIST_ITEM]) + _value(item) for item in value)
            out += bytes([_Element.LIST_START]) + _name(key) + items + bytes([_Element.LIST_END])
    return out


def decode(octets: bytes) -> dict[str, Any]:
    """The sections, texts and lists of texts of a message."""
    position = 0

    def take(length_octets: int) -> str:
        nonlocal position
        start = position + length_octets
        end = start + int.from_bytes(octets[position:start], "big")
        position = end
        return octets[start:end].decode(errors="replace")

    root: dict[str, Any] = {}
    stack, items = [root], []
    while position < len(octets):
        element = _Element(octets[position])
        position += 1
        if element is _Element.SECTION_START:
            stack.append(stack[-1].setdefault(take(1), {}))
        elif element is _Element.SECTION_END:
            stack.pop()
        elif element is _Element.KEY_VALUE:
            key = take(1)
            stack[-1][key] = take(2)
        elif element is _Element.LIST_START:
            items = stack[-1].setdefault(take(1), [])
        elif element is _Element.LIST_ITEM:
            items.append(take(2))
    return root


class Vici:
    """One connection to charon's vici socket: a context manager."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(str(path))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def command(self, name: str, arguments: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """The response to a command. ViciError when charon says that it failed."""
        self._send(_Packet.CMD_REQUEST, name, encode(arguments or {}))
        return self._response(name, [])

    def events(
        self, name: str, event: str, arguments: Mapping[str, Value] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The events that a command brings before its response, as `list-sa` for `list-sas`."""
        self._registered(event, _Packet.EVENT_REGISTER)
        self._send(_Packet.CMD_REQUEST, name, encode(arguments or {}))
        found: list[dict[str, Any]] = []
        try:
            self._response(name, found)
        finally:
            self._registered(event, _Packet.EVENT_UNREGISTER)
        yield from found

    def _registered(self, event: str, packet: _Packet) -> None:
        self._send(packet, event)
        while (kind := self._receive()[0]) is _Packet.EVENT:
            continue
        if kind is not _Packet.EVENT_CONFIRM:
            raise ViciError(f"charon knows no event {event!r}")

    def _response(self, name: str, events: list[dict[str, Any]]) -> dict[str, Any]:
        while True:
            kind, octets = self._receive()
            if kind is _Packet.EVENT:
                events.append(decode(octets[1 + octets[0] :]))
                continue
            if kind is not _Packet.CMD_RESPONSE:
                raise ViciError(f"charon knows no command {name!r}")
            response = decode(octets)
            if response.get("success") == "no":
                raise ViciError(f"{name}: {response.get('errmsg', 'it failed')}")
            return response

    def _send(self, packet: _Packet, name: str, body: bytes = b"") -> None:
        octets = bytes([packet]) + _name(name) + body
        self._socket.sendall(struct.pack("!I", len(octets)) + octets)

    def _receive(self) -> tuple[_Packet, bytes]:
        (length,) = struct.unpack("!I", self._exactly(4))
        octets = self._exactly(length)
        return _Packet(octets[0]), octets[1:]

    def _exactly(self, count: int) -> bytes:
        octets = b""
        while len(octets) < count:
            more = self._socket.recv(count - len(octets))
            if not more:
                raise ViciError("charon closed the connection")
            octets += more
        return octets
