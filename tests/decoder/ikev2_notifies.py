"""A reader of the Notify payloads of IKEv2 messages that shares no code with the project: struct and AES-GCM only.

RFC 7296 sections 3.1, 3.2, 3.10 and 3.14, RFC 5282 (AES-GCM: IV of 8 octets, 4 octets of salt at the end of the key,
associated data up to and with the header of the SK payload).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NOTIFY, SK = 41, 46
_HEADER = struct.Struct("!8s8sBBBBII")


@dataclass(frozen=True)
class ReadNotify:
    """One Notify payload with its fields as they were on the wire, and where it was."""

    protocol_id: int
    spi_size: int
    message_type: int
    spi: bytes
    data: bytes
    exchange: int
    is_response: bool
    protected: bool


def read(message: bytes, sk_ei: bytes = b"", sk_er: bytes = b"") -> list[ReadNotify]:
    """All Notify payloads of a message; raises when its lengths do not fit, or the ICV is wrong."""
    *_, first, version, exchange, flags, _, length = _HEADER.unpack_from(message)
    assert version >> 4 == 2
    assert length == len(message)
    assert flags & ~0x28 == 0
    found, rest, kind = [], message[_HEADER.size :], first
    protected = False
    while kind:
        following, reserved, size = struct.unpack_from("!BBH", rest)
        assert size >= 4
        assert size <= len(rest)
        assert reserved == 0
        body, after = rest[4:size], rest[size:]
        if kind == SK:
            assert not after
            key = sk_ei if flags & 0x08 else sk_er
            aad = message[: len(message) - len(body)]
            plain = AESGCM(key[:-4]).decrypt(key[-4:] + body[:8], body[8:], aad)
            rest, kind, protected = plain[: len(plain) - 1 - plain[-1]], following, True
            continue
        if kind == NOTIFY:
            protocol_id, spi_size, message_type = struct.unpack_from("!BBH", body)
            spi, data = body[4 : 4 + spi_size], body[4 + spi_size :]
            assert len(spi) == spi_size
            is_response = bool(flags & 0x20)
            found.append(
                ReadNotify(protocol_id, spi_size, message_type, spi, data, exchange, is_response, protected)
            )
        rest, kind = after, following
    assert not rest
    return found
