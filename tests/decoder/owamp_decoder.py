"""A second decoder of OWAMP: from captured octets and the shared secret to fields, written from RFC 4656's figures.

It shares nothing with the packages of this project and imports none of them; the AES modes and the messages that OWAMP
and TWAMP have in common are those of the second decoder, in `twamp_decoder`. It is slow and does not care.

    control = decode_control(client_octets, server_octets, secret)
    fields = decode_test(datagram, control.test_keys(sid), control.mode)

RFC 4656 sections 3, 4 and 5; RFC 7718 section 3.2.4 for the bit of IKEv2-derived keys.
"""

from __future__ import annotations

from typing import Any

from decoder.twamp_decoder import (
    AUTHENTICATED,
    ENCRYPTED,
    Control,
    DecodeError,
    Message,
    aes_decrypt_block,
    aes_encrypt_block,
    cbc_decrypt,
    decode_accept_session,
    decode_greeting,
    decode_server_start,
    decode_set_up_response,
    decode_start_ack,
    decode_start_sessions,
    hmac_sha1_128,
    need,
    open_token,
)

IKEV2_DERIVED = 16


def number(octets: bytes, at: int, size: int) -> int:
    return int.from_bytes(octets[at : at + size], "big")


class Stream:
    """One direction in the clear: takes octets, and checks each HMAC over what came since the one before."""

    def __init__(self, octets: bytes, hmac_key: bytes | None, covered: bytes = b"") -> None:
        self.octets = octets
        self.hmac_key = hmac_key
        self.covered = covered
        self.at = 0

    @property
    def ended(self) -> bool:
        return self.at >= len(self.octets)

    def peek(self, size: int) -> bytes:
        need(self.octets[self.at :], size, "stream")
        return self.octets[self.at : self.at + size]

    def take(self, size: int) -> bytes:
        octets = self.peek(size)
        self.at += size
        self.covered += octets
        return octets

    def check(self, what: str) -> bool | None:
        """The HMAC: the next 16 octets."""
        tag = self.peek(16)
        self.at += 16
        covered, self.covered = self.covered, b""
        if self.hmac_key is None:
            return None
        if hmac_sha1_128(self.hmac_key, covered) != tag:
            raise DecodeError(f"{what}: HMAC does not verify")
        return True


def decode_request_session(stream: Stream) -> tuple[dict[str, Any], bool | None]:
    """96 octets, HMAC, then 16 octets a slot, HMAC. RFC 4656 section 3.5."""
    head = stream.take(96)
    stream.check("Request-Session")
    size = 4 if head[1] & 0x0F == 4 else 16
    fields = {
        "command": head[0],
        "ipvn": head[1] & 0x0F,
        "conf_sender": head[2],
        "conf_receiver": head[3],
        "packets": number(head, 8, 4),
        "sender_port": number(head, 12, 2),
        "receiver_port": number(head, 14, 2),
        "sender_address": head[16 : 16 + size],
        "receiver_address": head[32 : 32 + size],
        "address_rest": head[16 + size : 32] + head[32 + size : 48],
        "sid": head[48:64],
        "padding_length": number(head, 64, 4),
        "start_time": number(head, 68, 8),
        "timeout": number(head, 76, 8),
        "type_p": number(head, 84, 4),
        "mbz": bytes([head[1] & 0xF0]) + head[88:96],
    }
    slots = []
    for _ in range(number(head, 4, 4)):
        slot = stream.take(16)
        slots.append((slot[0], number(slot, 8, 8)))
        fields["mbz"] += slot[1:8]
    fields["slots"] = slots
    return fields, stream.check("Request-Session, the slots")


def decode_skip_ranges(octets: bytes, count: int) -> list[tuple[int, int]]:
    if any(octets[8 * count :]):
        raise DecodeError("Skip Ranges: the padding is not zero")
    return [(number(octets, 8 * n, 4), number(octets, 8 * n + 4, 4)) for n in range(count)]


def whole(size: int) -> int:
    return (size + 15) // 16 * 16


def decode_stop_sessions(stream: Stream) -> tuple[dict[str, Any], bool | None]:
    """16 octets; a description of each session, padded to a block; HMAC. RFC 4656 section 3.8."""
    head = stream.take(16)
    sessions = []
    for _ in range(number(head, 4, 4)):
        start = stream.take(32)  # two blocks: 24 octets, and the first Skip Range or padding
        count = number(start, 20, 4)
        octets = start[24:] + (stream.take(whole(24 + 8 * count) - 32) if count > 1 else b"")
        sessions.append(
            {"sid": start[:16], "next_seqno": number(start, 16, 4), "skips": decode_skip_ranges(octets, count)}
        )
    fields = {"command": head[0], "accept": head[1], "sessions": sessions, "mbz": head[2:4] + head[8:16]}
    return fields, stream.check("Stop-Sessions")


def decode_fetch_session(stream: Stream) -> tuple[dict[str, Any], bool | None]:
    """4 | MBZ 7 | Begin Seq 4 | End Seq 4 | SID 16: 32 octets, and HMAC. RFC 4656 section 3.9."""
    octets = stream.take(32)
    fields = {
        "command": octets[0],
        "begin": number(octets, 8, 4),
        "end": number(octets, 12, 4),
        "sid": octets[16:32],
        "mbz": octets[1:8],
    }
    return fields, stream.check("Fetch-Session")


def decode_fetch_answer(stream: Stream) -> tuple[dict[str, Any], bool | None]:
    """Fetch-Ack, HMAC; when accepted, Request-Session, Skip Ranges, HMAC, records, HMAC. RFC 4656 section 3.9."""
    ack = stream.take(16)
    verified = stream.check("Fetch-Ack")
    fields: dict[str, Any] = {
        "accept": ack[0],
        "finished": ack[1],
        "next_seqno": number(ack, 4, 4),
        "mbz": ack[2:4],
    }
    skips, records = number(ack, 8, 4), number(ack, 12, 4)
    if ack[0] != 0:
        return {**fields, "rest": ack[1:]}, verified
    fields["request"], _ = decode_request_session(stream)
    fields["skips"] = decode_skip_ranges(stream.take(whole(8 * skips)), skips)
    stream.check("Fetch-Session data, Skip Ranges")
    octets = stream.take(whole(25 * records))
    if any(octets[25 * records :]):
        raise DecodeError("packet records: the padding is not zero")
    fields["records"] = [decode_record(octets[25 * n : 25 * n + 25]) for n in range(records)]
    return fields, stream.check("Fetch-Session data, records")


def decode_record(octets: bytes) -> dict[str, int]:
    """25 octets. RFC 4656 section 3.9."""
    return {
        "seq": number(octets, 0, 4),
        "send_error": number(octets, 4, 2),
        "receive_error": number(octets, 6, 2),
        "send": number(octets, 8, 8),
        "receive": number(octets, 16, 8),
        "ttl": octets[24],
    }


def decode_control(client: bytes, server: bytes, secret: bytes | None = None) -> Control:
    """Decodes and verifies both directions of an OWAMP-Control connection, from their first octet on.

    DecodeError when the Challenge in the Token or any HMAC does not verify, or octets are left.
    """
    greeting = decode_greeting(server)
    control = Control(0)
    control.server.append(Message("Server-Greeting", greeting, 0))
    set_up = decode_set_up_response(client)
    control.mode = set_up["mode"]
    control.client.append(Message("Set-Up-Response", set_up, 0))
    keyed = bool(control.mode & (AUTHENTICATED | ENCRYPTED))
    if keyed:
        open_token(control, greeting, set_up, secret, "pbkdf2")
    start = decode_server_start(server[64:])
    control.server.append(Message("Server-Start", start, 64))
    if start["accept"]:
        return control
    ours, theirs, covered = client[164:], server[112:], b""
    if keyed:
        ours = cbc_decrypt(control.aes_key, set_up["client_iv"], ours)
        clear = cbc_decrypt(control.aes_key, start["server_iv"], server[96:])
        covered, theirs = clear[:16], clear[16:]
        start["start_time"] = number(covered, 0, 8)
        start["mbz"] = start["mbz"][:15] + covered[8:16]
    key = control.hmac_key if keyed else None
    decode_client(control, Stream(ours, key))
    decode_server(control, Stream(theirs, key, covered))
    return control


def decode_client(control: Control, stream: Stream) -> None:
    while not stream.ended:
        command, offset = stream.peek(1)[0], 164 + stream.at
        if command == 1:
            name, (fields, verified) = "Request-Session", decode_request_session(stream)
        elif command == 2:
            name, fields = "Start-Sessions", decode_start_sessions(stream.take(16) + bytes(16))
            verified = stream.check(name)
        elif command == 3:
            name, (fields, verified) = "Stop-Sessions", decode_stop_sessions(stream)
        elif command == 4:
            name, (fields, verified) = "Fetch-Session", decode_fetch_session(stream)
        else:
            raise DecodeError(f"command {command} at octet {offset} of the client")
        control.client.append(Message(name, fields, offset, verified))


def decode_server(control: Control, stream: Stream) -> None:
    """The server's messages: answers in the order of the commands, and its Stop-Sessions after a Start-Ack."""
    for command in control.client[1:]:
        if stream.ended:
            return
        offset = 112 + stream.at
        if command.name == "Request-Session":
            fields = decode_accept_session(stream.take(32) + bytes(16))
            control.server.append(Message("Accept-Session", fields, offset, stream.check("Accept-Session")))
        elif command.name == "Start-Sessions":
            fields = decode_start_ack(stream.take(16) + bytes(16))
            control.server.append(Message("Start-Ack", fields, offset, stream.check("Start-Ack")))
        elif command.name == "Stop-Sessions":
            fields, verified = decode_stop_sessions(stream)
            control.server.append(Message("Stop-Sessions", fields, offset, verified))
        else:
            fields, verified = decode_fetch_answer(stream)
            control.server.append(Message("Fetch-Ack", fields, offset, verified))
    if not stream.ended:
        raise DecodeError(f"{len(stream.octets) - stream.at} octets of the server are nobody's")


# OWAMP-Test.


def decode_test(datagram: bytes, keys: tuple[bytes, bytes] | None, mode: int) -> dict[str, Any]:
    """Sequence Number, Timestamp, Error Estimate and padding of a test packet. RFC 4656 section 4.1.2."""
    if not mode & (AUTHENTICATED | ENCRYPTED):
        need(datagram, 14, "test packet")
        return {
            "seq": number(datagram, 0, 4),
            "timestamp": number(datagram, 4, 8),
            "error": number(datagram, 12, 2),
            "padding": datagram[14:],
        }
    need(datagram, 48, "test packet")
    if keys is None:
        raise DecodeError("this mode needs keys")
    aes_key, hmac_key = keys
    if mode & ENCRYPTED:
        clear = covered = cbc_decrypt(aes_key, bytes(16), datagram[:32])
    else:
        covered = aes_decrypt_block(aes_key, datagram[:16])
        clear = covered + datagram[16:32]
    if hmac_sha1_128(hmac_key, covered) != datagram[32:48]:
        raise DecodeError("test packet: HMAC does not verify")
    return {
        "seq": number(clear, 0, 4),
        "mbz": clear[4:16] + clear[26:32],
        "timestamp": number(clear, 16, 8),
        "error": number(clear, 24, 2),
        "padding": datagram[48:],
    }


# Send schedules. RFC 4656 section 5.

Q = [
    0xB17217F8, 0xEEF193F7, 0xFD271862, 0xFF9D6DD0, 0xFFF4CFD0, 0xFFFEE819,
    0xFFFFE7FF, 0xFFFFFE2B, 0xFFFFFFE0, 0xFFFFFFFE, 0xFFFFFFFF,
]  # fmt: skip


class Uniform:
    """32 bits at a time: the counter encrypted under the SID, a block for every four. RFC 4656 section 5.3."""

    def __init__(self, sid: bytes) -> None:
        self.sid = sid
        self.used = 0
        self.block = b""

    def next(self) -> int:
        if self.used % 4 == 0:
            self.block = aes_encrypt_block(self.sid, self.used.to_bytes(16, "big"))
        at = 4 * (self.used % 4)
        self.used += 1
        return number(self.block, at, 4)


def exponential(uniform: Uniform) -> int:
    """A deviate of mean 1, 32.32 fixed point. RFC 4656 section 5.1."""
    ln2 = Q[0]
    bits = uniform.next()
    j = 0
    while bits & 0x80000000 and j < 32:
        bits, j = (bits << 1) & 0xFFFFFFFF, j + 1
    bits = (bits << 1) & 0xFFFFFFFF
    if bits < ln2:
        return j * ln2 + bits
    k = 2
    while bits >= Q[k - 1]:
        k += 1
    least = min(uniform.next() for _ in range(k))
    return ((j << 32) + least) * ln2 >> 32


def send_offsets(slots: list[tuple[int, int]], sid: bytes, count: int) -> list[int]:
    """When packets 0, 1, ... are sent after Start Time, 32.32 fixed point. RFC 4656 section 3.6."""
    uniform, at, offsets = Uniform(sid), 0, []
    for n in range(count):
        kind, parameter = slots[n % len(slots)]
        at += exponential(uniform) * parameter >> 32 if kind == 0 else parameter
        offsets.append(at)
    return offsets
