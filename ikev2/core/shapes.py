"""First requests that differ only in what no check looks at: what was accepted once is known again without parsing.

Of an IKE_SA_INIT request the parser and the payload rules look at the header, at the types and lengths of the payloads,
and into the SA payload; never at the octets of the public value, of the nonce, or of notification data. What is left
without those is the shape of the request. Who floods us sends one shape over and over, so that asking for a cookie
costs a walk over the payload headers. A request of a shape that is not known takes the way through the parser.
RFC 7296 sections 2.6, 3.2, 3.4, 3.9 and 3.10.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from ikev2.iana import NotifyType, PayloadType
from ikev2.wire.header import HEADER_OCTETS
from ikev2.wire.message import GENERIC_HEADER
from ikev2.wire.payloads import GENERIC_HEADER_OCTETS

SHAPES_KEPT = 64
_MOST_PAYLOADS = 16
_MOST_OCTETS = 2048
_AFTER_SPIS = 16
_KE, _NONCE, _NOTIFY = int(PayloadType.KE), int(PayloadType.NONCE), int(PayloadType.N)
_NOTIFY_HEAD = struct.Struct("!BBH")  # protocol, SPI size, type


def shape_of(data: bytes) -> tuple[bytes, bytes] | None:
    """The shape of a first request and its nonce; None for one that has a cookie, or is not worth a closer look."""
    if len(data) > _MOST_OCTETS:
        return None
    parts = [data[_AFTER_SPIS:HEADER_OCTETS]]
    nonce = b""
    at, payload_type = HEADER_OCTETS, data[_AFTER_SPIS]
    while payload_type:
        body = at + GENERIC_HEADER_OCTETS
        if body > len(data) or len(parts) > _MOST_PAYLOADS:
            return None
        following, _, octets = GENERIC_HEADER.unpack_from(data, at)
        end = seen = at + octets
        if octets < GENERIC_HEADER_OCTETS or end > len(data):
            return None
        if payload_type == _NONCE:
            seen, nonce = body, data[body:end]
        elif payload_type == _KE and end >= body + 4:
            seen = body + 4  # the group and RESERVED
        elif payload_type == _NOTIFY and end >= body + _NOTIFY_HEAD.size:
            _, spi_octets, notify_type = _NOTIFY_HEAD.unpack_from(data, body)
            if notify_type == NotifyType.COOKIE:
                return None
            if not spi_octets:
                seen = body + _NOTIFY_HEAD.size
        parts.append(data[at:seen])
        at, payload_type = end, following
    return (b"".join(parts), nonce) if at == len(data) else None


class KnownShapes:
    """The shapes that the parser and the rules have accepted, SHAPES_KEPT at most: the oldest goes first."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def nonce_of(self, data: bytes) -> bytes | None:
        """The nonce of a request without a cookie whose shape is known, else None."""
        found = shape_of(data)
        return found[1] if found is not None and found[0] in self._known else None

    def accept(self, data: bytes) -> None:
        """The parser and the rules have nothing against this request, nor against any of its shape."""
        found = shape_of(data)
        if found is None:
            return
        self._known[found[0]] = None
        if len(self._known) > SHAPES_KEPT:
            self._known.popitem(last=False)
