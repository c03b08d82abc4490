"""A peer that speaks OWAMP and TWAMP by hand, so that a test may break any rule of them.

Both sides of Control as octets, and test packets of both directions, made from the RFCs' figures with the AES and the
HMAC of the second decoder: nothing here is of this project. What is right by default is wrong when asked: every field
of a message is an argument, and every octet may be changed before it goes out.

    client = FakeClient(("127.0.0.1", port), mode, b"correct horse", b"alice")
    client.set_up()                                             # -> the Accept of Server-Start
    client.command(request_tw_session(sender_port=9000))
    client.accept_session()                                     # -> fields of Accept-Session

RFC 4656, RFC 5357, RFC 5618, RFC 5938.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from decoder.twamp_decoder import (
    AUTHENTICATED,
    ENCRYPTED,
    MIXED,
    aes_encrypt_block,
    cbc_decrypt,
    cbc_encrypt,
    decode_accept_session,
    decode_greeting,
    decode_n_sessions,
    decode_server_start,
    decode_set_up_response,
    decode_start_ack,
    derive_token_key,
    hmac_sha1_128,
    rfc4656_test_keys,
)

Keys = tuple[bytes, bytes]
Address = tuple[str, int]

WAIT_S = 30.0
KEYED = AUTHENTICATED | ENCRYPTED | MIXED
AES_KEY = bytes(range(0x40, 0x50))
HMAC_KEY = bytes(range(0x60, 0x80))
CLIENT_IV = bytes(range(0x80, 0x90))
SERVER_IV = bytes(range(0x90, 0xA0))
SECOND = 1 << 32
SYNCHRONIZED = 0x8A20


def is_keyed(mode: int) -> bool:
    return bool(mode & KEYED)


# Messages of a client, in the clear and without an HMAC.


def set_up_response(
    mode: int, key_id: bytes = b"", token: bytes = bytes(64), client_iv: bytes = bytes(16)
) -> bytes:
    """Mode 4 | KeyID 80 | Token 64 | Client-IV 16. RFC 4656 section 3.1."""
    return mode.to_bytes(4, "big") + key_id.ljust(80, b"\0") + token + client_iv


def request_tw_session(
    *,
    sender_port: int,
    receiver_port: int = 0,
    sender_address: bytes = bytes(16),
    receiver_address: bytes = bytes(16),
    command: int = 5,
    ipvn: int = 4,
    conf: tuple[int, int] = (0, 0),
    slots: int = 0,
    packets: int = 0,
    sid: bytes = bytes(16),
    padding: int = 0,
    start_time: int = 0,
    timeout: int = SECOND // 5,
    type_p: int = 0,
    last: bytes = bytes(8),
    unused: int = 0,
) -> bytes:
    """96 octets. RFC 4656 section 3.5, RFC 5357 section 3.5."""
    head = bytes([command, unused << 4 | ipvn, *conf]) + slots.to_bytes(4, "big") + packets.to_bytes(4, "big")
    head += sender_port.to_bytes(2, "big") + receiver_port.to_bytes(2, "big")
    head += sender_address.ljust(16, b"\0") + receiver_address.ljust(16, b"\0") + sid
    rest = padding.to_bytes(4, "big") + start_time.to_bytes(8, "big") + timeout.to_bytes(8, "big")
    return head + rest + type_p.to_bytes(4, "big") + last


def request_session(
    *, port: int, slots: int = 1, server_sends: bool = False, packets: int = 10, **fields: Any
) -> bytes:
    """The first 96 octets of a Request-Session; the slots follow as a part of their own. RFC 4656 section 3.5."""
    return request_tw_session(
        command=fields.pop("command", 1),
        conf=fields.pop("conf", (1, 0) if server_sends else (0, 1)),
        sender_port=fields.pop("sender_port", 0 if server_sends else port),
        receiver_port=fields.pop("receiver_port", port if server_sends else 0),
        slots=slots,
        packets=packets,
        **fields,
    )


def slot(parameter: int, kind: int = 1, mbz: bytes = bytes(7)) -> bytes:
    """Slot Type 1 | MBZ 7 | Slot Parameter 8. RFC 4656 section 3.5."""
    return bytes([kind]) + mbz + parameter.to_bytes(8, "big")


def start_sessions(mbz: bytes = bytes(15)) -> bytes:
    """2 | MBZ 15. RFC 4656 section 3.7."""
    return b"\x02" + mbz


def stop_sessions(sessions: int, accept: int = 0, mbz: bytes = bytes(10)) -> bytes:
    """3 | Accept 1 | MBZ 2 | Number of Sessions 4 | MBZ 8. RFC 5357 section 3.8."""
    return bytes([3, accept]) + mbz[:2] + sessions.to_bytes(4, "big") + mbz[2:]


def description(
    sid: bytes, next_seqno: int, skips: list[tuple[int, int]] | None = None, count: int | None = None
) -> bytes:
    """A session description record with its padding. RFC 4656 section 3.8."""
    ranges = skips or []
    octets = sid + next_seqno.to_bytes(4, "big") + (len(ranges) if count is None else count).to_bytes(4, "big")
    octets += b"".join(first.to_bytes(4, "big") + last.to_bytes(4, "big") for first, last in ranges)
    return octets + bytes(-len(octets) % 16)


def fetch_session(sid: bytes, begin: int = 0, end: int = 0xFFFFFFFF, mbz: bytes = bytes(7)) -> bytes:
    """4 | MBZ 7 | Begin Seq 4 | End Seq 4 | SID 16. RFC 4656 section 3.9."""
    return b"\x04" + mbz + begin.to_bytes(4, "big") + end.to_bytes(4, "big") + sid


def n_sessions(command: int, sids: list[bytes], count: int | None = None, accept: int = 0) -> bytes:
    """7 to 10 | Accept or MBZ | MBZ | Number of Sessions 4 | SIDs. RFC 5938 section 3."""
    number = len(sids) if count is None else count
    return bytes([command, accept]) + bytes(10) + number.to_bytes(4, "big") + b"".join(sids)


# Messages of a server.


def server_greeting(
    modes: int, challenge: bytes = b"c" * 16, salt: bytes = b"s" * 16, count: int = 1024, mbz: bytes = bytes(12)
) -> bytes:
    """Unused 12 | Modes 4 | Challenge 16 | Salt 16 | Count 4 | MBZ 12. RFC 4656 section 3.1."""
    return mbz + modes.to_bytes(4, "big") + challenge + salt + count.to_bytes(4, "big") + mbz


def accept_session(
    accept: int = 0, port: int = 0, sid: bytes = bytes(16), last: bytes = bytes(12), mbz: int = 0
) -> bytes:
    """Accept 1 | MBZ 1 | Port 2 | SID 16 | MBZ 12. RFC 4656 section 3.5."""
    return bytes([accept, mbz]) + port.to_bytes(2, "big") + sid + last


def start_ack(accept: int = 0, mbz: bytes = bytes(15)) -> bytes:
    """Accept 1 | MBZ 15. RFC 4656 section 3.7."""
    return bytes([accept]) + mbz


def fetch_ack(accept: int = 0, finished: int = 1, next_seqno: int = 0, skips: int = 0, records: int = 0) -> bytes:
    """Accept 1 | Finished 1 | MBZ 2 | Next Seqno 4 | Number of Skip Ranges 4 | Number of Records 4. Section 3.9."""
    numbers = (next_seqno, skips, records)
    return bytes([accept, finished, 0, 0]) + b"".join(number.to_bytes(4, "big") for number in numbers)


# Test packets.


def sender_packet(
    mode: int,
    keys: Keys | None,
    sequence: int,
    timestamp: int,
    error: int = SYNCHRONIZED,
    padding: bytes = b"",
    *,
    mbz: bytes = bytes(18),
    hmac: bytes | None = None,
    iv: bytes = bytes(16),
) -> bytes:
    """14 octets, or in a keyed mode 48. RFC 4656 section 4.1.2; mixed mode is open here, RFC 5618."""
    number, stamp, estimate = sequence.to_bytes(4, "big"), timestamp.to_bytes(8, "big"), error.to_bytes(2, "big")
    if not mode & (AUTHENTICATED | ENCRYPTED) or keys is None:
        return number + stamp + estimate + padding
    aes_key, hmac_key = keys
    clear = number + mbz[:12] + stamp + estimate + mbz[12:]
    if mode & ENCRYPTED:
        tag = hmac_sha1_128(hmac_key, clear) if hmac is None else hmac
        return cbc_encrypt(aes_key, iv, clear) + tag + padding
    tag = hmac_sha1_128(hmac_key, clear[:16]) if hmac is None else hmac
    return cbc_encrypt(aes_key, iv, clear[:16]) + clear[16:] + tag + padding


def reflector_packet(
    mode: int,
    keys: Keys | None,
    sequence: int,
    stamp: int,
    received: int,
    sender: tuple[int, int, int],
    *,
    error: int = SYNCHRONIZED,
    ttl: int = 255,
    padding: bytes = b"",
    hmac: bytes | None = None,
) -> bytes:
    """41 octets, or in a keyed mode 112; `sender` has the fields of the packet. RFC 5357 section 4.2.1."""
    number, sent, estimate = sequence.to_bytes(4, "big"), stamp.to_bytes(8, "big"), error.to_bytes(2, "big")
    arrived = received.to_bytes(8, "big")
    theirs = [sender[0].to_bytes(4, "big"), sender[1].to_bytes(8, "big"), sender[2].to_bytes(2, "big")]
    if not mode & (AUTHENTICATED | ENCRYPTED) or keys is None:
        clear = number + sent + estimate + bytes(2) + arrived + theirs[0] + theirs[1] + theirs[2] + bytes(2)
        return clear + bytes([ttl]) + padding
    aes_key, hmac_key = keys
    clear = number + bytes(12) + sent + estimate + bytes(6) + arrived + bytes(8) + theirs[0] + bytes(12)
    clear += theirs[1] + theirs[2] + bytes(6) + bytes([ttl]) + bytes(15)
    covered = 96 if mode & ENCRYPTED else 16
    tag = hmac_sha1_128(hmac_key, clear[:covered]) if hmac is None else hmac
    return cbc_encrypt(aes_key, bytes(16), clear[:covered]) + clear[covered:] + tag + padding


# One direction of a Control stream.


class Sealer:
    """Messages go in, octets come out: CBC over all of them, an HMAC over what came since the one before.

    Without a key the HMAC is zeros and nothing is encrypted. RFC 4656 sections 3.1 and 3.4.
    """

    def __init__(self, keys: Keys | None, iv: bytes) -> None:
        self.keys = keys
        self.iv = iv
        self.covered = b""

    def blocks(self, clear: bytes) -> bytes:
        """Whole blocks, without an HMAC."""
        self.covered += clear
        return self._encrypt(clear)

    def message(self, clear: bytes, hmac: bytes | None = None) -> bytes:
        """Whole blocks and their HMAC, or another one."""
        octets = self.blocks(clear)
        covered, self.covered = self.covered, b""
        right = bytes(16) if self.keys is None else hmac_sha1_128(self.keys[1], covered)
        return octets + self._encrypt(right if hmac is None else hmac)

    def _encrypt(self, clear: bytes) -> bytes:
        if self.keys is None or not clear:
            return clear
        sealed = cbc_encrypt(self.keys[0], self.iv, clear)
        self.iv = sealed[-16:]
        return sealed


class Opener:
    """The other way round; an HMAC that does not verify is an AssertionError."""

    def __init__(self, keys: Keys | None, iv: bytes) -> None:
        self.keys = keys
        self.iv = iv
        self.covered = b""

    def blocks(self, octets: bytes) -> bytes:
        """Octets in the clear, which the next HMAC covers."""
        clear = self._decrypt(octets)
        self.covered += clear
        return clear

    def check(self, octets: bytes) -> None:
        """The HMAC."""
        covered, self.covered = self.covered, b""
        tag = self._decrypt(octets)
        if self.keys is not None:
            assert tag == hmac_sha1_128(self.keys[1], covered), "an HMAC of the peer does not verify"

    def _decrypt(self, octets: bytes) -> bytes:
        if self.keys is None or not octets:
            return octets
        clear = cbc_decrypt(self.keys[0], self.iv, octets)
        self.iv = octets[-16:]
        return clear


class Wire:
    """A TCP connection of which octets are taken in exact amounts."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(WAIT_S)

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def take(self, count: int) -> bytes:
        """Exactly so many octets; EOFError when the peer ends before."""
        octets = b""
        while len(octets) < count:
            try:
                some = self.sock.recv(count - len(octets))
            except ConnectionResetError:
                some = b""
            if not some:
                raise EOFError(f"{len(octets)} octets of {count}, then the end")
            octets += some
        return octets

    def rest(self) -> bytes:
        """All until the peer ends the connection."""
        octets = b""
        while True:
            try:
                some = self.sock.recv(65536)
            except ConnectionResetError:
                return octets
            if not some:
                return octets
            octets += some

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def send_until_stuck(self, octets: bytes) -> int:
        """Reads nothing; how many of the octets go out before nothing more is taken for half a second."""
        self.sock.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(octets):
                sent += self.sock.send(octets[sent : sent + 4096])
        return sent

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Gone without a word: RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4))
        self.sock.close()


class FakeClient(Wire):
    """A Control-Client; `mode` is the Mode field that it sends. It has read the Greeting when it is made.

    `buffers` are the octets that the kernel keeps for it in each direction.
    """

    def __init__(
        self,
        server: Address,
        mode: int,
        secret: bytes = b"",
        key_id: bytes = b"",
        *,
        buffers: int = 0,
    ) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if buffers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        super().__init__(sock)
        sock.connect(server)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.mode = mode
        self.secret = secret
        self.key_id = key_id
        self.keys: Keys | None = (AES_KEY, HMAC_KEY) if is_keyed(mode) else None
        self.greeting = decode_greeting(self.take(64))
        self.sealer = Sealer(None, bytes(16))
        self.opener = Opener(None, bytes(16))

    def token(self, challenge: bytes | None = None) -> bytes:
        """AES-CBC of Challenge | AES Session-key | HMAC Session-key under the key of the secret."""
        key = derive_token_key(self.secret, self.greeting["salt"], self.greeting["count"])
        return cbc_encrypt(key, bytes(16), (challenge or self.greeting["challenge"]) + AES_KEY + HMAC_KEY)

    def response(self, **fields: Any) -> bytes:
        """The Set-Up-Response."""
        if self.keys is None:
            return set_up_response(fields.get("mode", self.mode))
        right = {"mode": self.mode, "key_id": self.key_id, "token": self.token(), "client_iv": CLIENT_IV}
        return set_up_response(**(right | fields))

    def set_up(self, response: bytes | None = None, *, sealed_with: bytes = CLIENT_IV) -> int:
        """Set-Up-Response and Server-Start; gives its Accept. `sealed_with` is the IV that is really used."""
        self.send(self.response() if response is None else response)
        return self.server_start(sealed_with)

    def server_start(self, sealed_with: bytes = CLIENT_IV) -> int:
        """Reads Server-Start; gives its Accept."""
        octets = self.take(48)
        start = decode_server_start(octets)
        if start["accept"] == 0:
            self.sealer = Sealer(self.keys, sealed_with)
            self.opener = Opener(self.keys, start["server_iv"])
            if self.keys is not None:
                self.opener.blocks(octets[32:])
        return int(start["accept"])

    def command(self, clear: bytes, hmac: bytes | None = None) -> bytes:
        """Sends a message with its HMAC; gives the octets."""
        octets = self.sealer.message(clear, hmac)
        self.send(octets)
        return octets

    def request(self, head: bytes, slots: bytes) -> None:
        """The two parts of a Request-Session."""
        self.send(self.sealer.message(head) + self.sealer.message(slots))

    def message(self, count: int) -> bytes:
        """A message of the server without its HMAC, which verifies."""
        clear = self.opener.blocks(self.take(count))
        self.opener.check(self.take(16))
        return clear

    def accept_session(self) -> dict[str, Any]:
        return decode_accept_session(self.message(32) + bytes(16))

    def start_ack(self) -> int:
        return int(decode_start_ack(self.message(16) + bytes(16))["accept"])

    def n_ack(self) -> dict[str, Any]:
        """Start-N-Ack or Stop-N-Ack."""
        head = self.opener.blocks(self.take(16))
        sids = self.opener.blocks(self.take(16 * int.from_bytes(head[12:16], "big")))
        self.opener.check(self.take(16))
        return decode_n_sessions(head + sids + bytes(16))

    def stop_of_server(self) -> list[tuple[bytes, int, int]]:
        """The server's Stop-Sessions of OWAMP: (SID, Next Seqno, Number of Skip Ranges) of each session it sent."""
        head = self.opener.blocks(self.take(16))
        assert head[0] == 3
        found = []
        for _ in range(int.from_bytes(head[4:8], "big")):
            start = self.opener.blocks(self.take(32))
            count = int.from_bytes(start[20:24], "big")
            if count > 1:
                self.opener.blocks(self.take((24 + 8 * count + 15) // 16 * 16 - 32))
            found.append((start[:16], int.from_bytes(start[16:20], "big"), count))
        self.opener.check(self.take(16))
        return found

    def fetched(self) -> dict[str, Any] | int:
        """The answer to Fetch-Session: its Accept when that is not zero, else its records as (number, 25 octets)."""
        ack = self.message(16)
        if ack[0]:
            assert not any(ack[1:])
            return ack[0]
        head = self.message(96)
        self.message(16 * int.from_bytes(head[4:8], "big"))
        skips, count = int.from_bytes(ack[8:12], "big"), int.from_bytes(ack[12:16], "big")
        self.message((8 * skips + 15) // 16 * 16)
        octets = self.message((25 * count + 15) // 16 * 16)
        records = [octets[25 * n : 25 * n + 25] for n in range(count)]
        return {
            "finished": ack[1],
            "next_seqno": int.from_bytes(ack[4:8], "big"),
            "skips": skips,
            "records": records,
            "numbers": [int.from_bytes(record[:4], "big") for record in records],
        }

    def ended(self) -> bool:
        """True when the server ends the connection without another octet."""
        return self.rest() == b""

    def test_keys(self, sid: bytes) -> Keys | None:
        """The keys of a Test session; none in open and mixed mode."""
        if not self.mode & (AUTHENTICATED | ENCRYPTED):
            return None
        return rfc4656_test_keys(AES_KEY, HMAC_KEY, sid)


class FakeServer:
    """The octets of a server, whoever carries them: in memory for a sans-IO client, or over TCP."""

    def __init__(self, modes: int, secret: bytes = b"", *, count: int = 1024, challenge: bytes = b"c" * 16) -> None:
        self.modes = modes
        self.secret = secret
        self.count = count
        self.challenge = challenge
        self.keys: Keys | None = None
        self.mode = 0
        self.sealer = Sealer(None, bytes(16))
        self.opener = Opener(None, bytes(16))

    def greeting(self, **fields: Any) -> bytes:
        return server_greeting(fields.pop("modes", self.modes), self.challenge, count=self.count, **fields)

    def take_response(self, octets: bytes) -> dict[str, Any]:
        """Reads the Set-Up-Response, finds the keys in its Token."""
        response = decode_set_up_response(octets)
        self.mode = response["mode"]
        if is_keyed(self.mode):
            key = derive_token_key(self.secret, b"s" * 16, self.count)
            token = cbc_decrypt(key, bytes(16), response["token"])
            assert token[:16] == self.challenge, "the client has another secret"
            self.keys = token[16:32], token[32:64]
            self.opener = Opener(self.keys, response["client_iv"])
        return response

    def server_start(self, accept: int = 0, *, start_time: int = 0, sealed_with: bytes = SERVER_IV) -> bytes:
        """MBZ 15 | Accept 1 | Server-IV 16 | Start-Time 8 | MBZ 8, the last block encrypted."""
        self.sealer = Sealer(self.keys, sealed_with)
        block = start_time.to_bytes(8, "big") + bytes(8)
        if accept:
            return bytes(15) + bytes([accept]) + bytes(32)
        return bytes(15) + bytes([accept]) + SERVER_IV + self.sealer.blocks(block)

    def take(self, octets: bytes) -> bytes:
        """A message of the client without its HMAC, which verifies."""
        clear = self.opener.blocks(octets[:-16])
        self.opener.check(octets[-16:])
        return clear

    def answer(self, clear: bytes, hmac: bytes | None = None) -> bytes:
        return self.sealer.message(clear, hmac)

    def test_keys(self, sid: bytes) -> Keys | None:
        if self.keys is None or not self.mode & (AUTHENTICATED | ENCRYPTED):
            return None
        return rfc4656_test_keys(*self.keys, sid)


__all__ = [
    "AES_KEY", "CLIENT_IV", "HMAC_KEY", "SECOND", "SERVER_IV", "SYNCHRONIZED", "FakeClient", "FakeServer", "Opener",
    "Sealer", "Wire", "accept_session", "aes_encrypt_block", "description", "fetch_ack", "fetch_session", "is_keyed",
    "n_sessions", "reflector_packet", "request_session", "request_tw_session", "sender_packet", "server_greeting",
    "set_up_response", "slot", "start_ack", "start_sessions", "stop_sessions",
]  # fmt: skip
