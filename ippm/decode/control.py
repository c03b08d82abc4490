"""One Control connection of OWAMP or TWAMP, read from the octets of both directions.

Each direction has a reader, a generator that asks for octets and says what they are:

    yield N       until N octets of its direction are there, and gives them
    yield ANY     some octets, as many as there are
    yield WAIT    until the other direction has been read further

    client  Set-Up-Response, then commands
    server  Server Greeting, Server-Start, then answers in the order of the commands; of OWAMP also Stop-Sessions

The server's reader waits for the client's where its answer cannot be told without the command. A reader that ends
leaves what follows unread, and says why.
RFC 4656 section 3, RFC 5357 section 3, RFC 5938 section 3, RFC 6038 section 4.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

from ippm.core.control_events import Endpoint
from ippm.crypto import CbcReceiver, OpenReceiver, ReceiveStream, SessionKeys, test_session_keys
from ippm.decode.messages import (
    HMAC_OCTETS,
    Decoded,
    Fields,
    Origin,
    differences,
    examine,
    fields_of,
    mode_words,
    not_zero,
)
from ippm.decode.sessions import Session, Sessions
from ippm.errors import IntegrityError, InvalidMessage
from ippm.iana import MINIMUM_COUNT, OWAMP_IKEV2_DERIVED, Accept, Command, Mode
from ippm.io.keylog import LoggedKeys, canonical
from ippm.wire.accept_session import AcceptSession
from ippm.wire.fetch_session import FetchAck, FetchSession
from ippm.wire.n_sessions import NSessions
from ippm.wire.octets import Address
from ippm.wire.packet_record import RECORD_OCTETS, packet_records, records_octets
from ippm.wire.request_session import RequestSession
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.skip_ranges import SKIP_RANGE, SkipRange, unpack_skip_ranges
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_descriptions import StopSessionsWithDescriptions
from ippm.wire.stop_sessions import StopSessions

BLOCK = 16
ANY, WAIT = -1, -2
_SECURITY, _KEYED = 0xF, 0xE
_MOST_SESSIONS, _MOST_SKIP_RANGES = 4096, 1 << 20
_ADDRESSES = ("sender_address", "receiver_address")
_OWAMP_COMMANDS = frozenset({Command.REQUEST_SESSION, Command.FETCH_SESSION})
_TWAMP_COMMANDS = frozenset({Command.REQUEST_TW_SESSION, Command.START_N_SESSIONS, Command.STOP_N_SESSIONS})

Reader = Generator[int, bytes, None]
Part = Generator[int, bytes, "_Part"]
Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class _Part:
    """The plaintext of a part of a message without its HMAC, and what is wrong with the HMAC."""

    octets: bytes
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Awaited:
    """A command that is to be answered, by `answer`; `request` is the parsed one when it asked for a session."""

    answer: Literal["accept-session", "start-ack", "fetch", "n-acks"]
    request: RequestSession | RequestTwSession | None = None
    sids: set[bytes] | None = None


class _Half:
    """The octets of one direction that are not read yet, and their reader."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.read = 0
        """How many octets of the direction were read before the buffer."""
        self.message_at = 0
        self.time_ns = 0
        self.stream: ReceiveStream = OpenReceiver()
        self.reader: Reader | None = None
        self.wanted = 0

    def begin(self, reader: Reader) -> None:
        self.reader = reader
        self.wanted = next(reader)

    @property
    def left_over(self) -> str:
        """What the octets in the buffer are when no more come."""
        if self.reader is None:
            return "behind what could be read"
        return "that answer nothing" if self.wanted == WAIT else "of a message that is not whole"

    def step(self) -> bool:
        """Give the reader what it asks for, if that is there; False when it is not."""
        if self.reader is None:
            return False
        data = b""
        if self.wanted == ANY:
            data = bytes(self.buffer)
        elif self.wanted >= 0:
            data = bytes(self.buffer[: self.wanted])
        if (self.wanted == ANY and not data) or len(data) < self.wanted:
            return False
        waited = self.wanted == WAIT
        del self.buffer[: len(data)]
        self.read += len(data)
        try:
            self.wanted = self.reader.send(data)
        except StopIteration:
            self.reader = None
        return not (waited and self.wanted == WAIT)


class ControlDecoder:
    """Both directions of a connection: `feed` gives what the octets complete, `end` what is left over.

    `origin.protocol` is None until something tells it. Raises nothing, whatever the octets are.
    """

    def __init__(
        self,
        client: Endpoint,
        server: Endpoint,
        origin: Origin,
        keys: LoggedKeys,
        sessions: Sessions,
    ) -> None:
        self.client, self.server, self.origin = client, server, origin
        self._keys, self._sessions = keys, sessions
        self._made: list[Decoded] = []
        self._response: SetUpResponse | None = None
        self._session_keys: SessionKeys | None = None
        self._ready = False
        self._opaque = False
        self._awaited: deque[_Awaited] = deque()
        self._active = False
        self._offered: int | None = None
        self._later: list[Callable[[], None]] = []
        self._from_client, self._from_server = _Half(), _Half()
        self._from_client.begin(self._read_client())
        self._from_server.begin(self._read_server())

    def feed(self, from_client: bool, time_ns: int, octets: bytes) -> list[Decoded]:
        """More octets of one direction, in order."""
        half = self._from_client if from_client else self._from_server
        half.buffer += octets
        half.time_ns = time_ns
        while self._from_client.step() | self._from_server.step():
            pass
        return self._take()

    def end(self, missing_from_client: int = 0, missing_from_server: int = 0) -> list[Decoded]:
        """The capture, or the connection, is over: a remark about octets that were not read or are missing."""
        for half, missing in ((self._from_client, missing_from_client), (self._from_server, missing_from_server)):
            problems = []
            if half.buffer:
                problems.append(f"{len(half.buffer)} octets {half.left_over}")
            if missing:
                problems.append(f"the capture lacks {missing} octets behind these: what follows cannot be read")
            if problems:
                half.message_at = half.read
                self._emit(half, "octets that were not read", {}, problems, octets=len(half.buffer))
            half.buffer.clear()
        self._says(None)
        return self._take()

    def _take(self) -> list[Decoded]:
        made, self._made = self._made, []
        return made

    @property
    def _mode(self) -> Mode:
        """The chosen mode with the bits of TWAMP."""
        bits = 0 if self._response is None else self._response.mode
        if self.origin.protocol == "owamp":
            return Mode(bits & 7) | (Mode.IKEV2_DERIVED if bits & OWAMP_IKEV2_DERIVED else Mode(0))
        return Mode(bits)

    # What both readers do.

    def _emit(
        self,
        half: _Half,
        name: str,
        fields: Fields,
        problems: list[str],
        *,
        octets: int | None = None,
        hmac: bool = False,
    ) -> None:
        """A message that began at `half.message_at` and ends where the reader is. `hmac`: it has HMACs."""
        ends = (self.client, self.server) if half is self._from_client else (self.server, self.client)
        keyed = isinstance(half.stream, CbcReceiver)
        wrong = any("HMAC does not verify" in problem for problem in problems)
        self._made.append(
            Decoded(
                half.time_ns,
                *ends,
                self.origin,
                "control",
                name,
                half.read - half.message_at if octets is None else octets,
                half.message_at,
                fields,
                decrypted=True if keyed else False if self._opaque else None,
                hmac=("wrong" if wrong else "verified") if keyed and hmac else None,
                problems=problems,
            )
        )
        half.message_at = half.read

    def _part(self, half: _Half, octets: int, first: bytes = b"", at: int = 0) -> Part:
        """The rest of a part of which `first` is decrypted already, and its HMAC. It lies at `at` in its message."""
        sealed = yield octets - len(first) + HMAC_OCTETS
        plain = half.stream.decrypt(sealed)
        body, tag = first + plain[:-HMAC_OCTETS], plain[-HMAC_OCTETS:]
        if isinstance(half.stream, OpenReceiver):
            return _Part(body, tuple(not_zero(tag, at + octets, "HMAC, MBZ without keys")))
        try:
            half.stream.verify(body, tag)
        except IntegrityError:
            return _Part(body, (f"the HMAC does not verify: octets {at + octets} to {at + octets + 15}",))
        return _Part(body, ())

    def _unreadable(self, half: _Half) -> Reader:
        """Octets of a stream whose key is not known."""
        while True:
            yield ANY
            self._emit(half, "encrypted octets", {}, [])

    def _says(self, protocol: str | None) -> None:
        """Something tells the protocol, or (None) nothing will."""
        if self.origin.protocol is None:
            self.origin.protocol = protocol
            later, self._later = self._later, []
            for describe in later:
                describe()

    def _when_known(self, describe: Callable[[], None]) -> None:
        """Have a message described once the protocol is known; nobody has seen it before that."""
        if self.origin.protocol is None:
            self._later.append(describe)
        else:
            describe()

    # The client's direction.

    def _read_client(self) -> Reader:
        half = self._from_client
        data = yield SetUpResponse.OCTETS
        response = SetUpResponse.parse(data)
        self._response = response
        if response.mode & Mode.MIXED:
            self._says("twamp")
        fields, problems = fields_of(response), list[str]()
        self._emit(half, "Set-Up-Response", fields, problems)
        self._when_known(lambda: self._describe_response(response, fields, problems))
        yield from self._while(lambda: not self._ready)
        if self._opaque:
            yield from self._unreadable(half)
        while True:
            block = half.stream.decrypt((yield BLOCK))
            command = Command(block[0])
            if command in _OWAMP_COMMANDS:
                self._says("owamp")
            elif command in _TWAMP_COMMANDS:
                self._says("twamp")
            reader = _COMMANDS.get(command)
            if reader is None:
                problem = f"Command Number {int(command)} has no length known: nothing behind it can be read"
                self._emit(half, f"Command {int(command)}", {}, [problem])
                self._awaited.append(_Awaited("accept-session"))
                return
            try:
                yield from reader(self, block)
            except InvalidMessage as error:
                self._emit(half, _NAMES[command], {}, [f"{error}; nothing behind it can be read"])
                self._awaited.append(_Awaited("accept-session"))
                return

    def _while(self, condition: Callable[[], bool]) -> Reader:
        while condition():
            yield WAIT

    def _describe_response(self, response: SetUpResponse, fields: Fields, problems: list[str]) -> None:
        protocol = self.origin.protocol
        fields["mode_words"] = mode_words(response.mode, protocol)
        derived = OWAMP_IKEV2_DERIVED if protocol == "owamp" else Mode.IKEV2_DERIVED
        if not response.mode & _KEYED:
            for name in ("key_id", "token", "client_iv"):
                del fields[name]
        elif response.mode & derived:
            # SPIi and SPIr of the IKE SA: RFC 7717 section 5.3.
            fields |= {"spi_i": response.key_id[:8].hex(), "spi_r": response.key_id[8:16].hex()}
        else:
            fields["key_id_text"] = response.key_id.rstrip(b"\0").decode(errors="replace")
        if not response.mode:
            return
        security = Mode(response.mode & _SECURITY)
        if security.bit_count() != 1:
            problems.append(f"octets 0 to 3: {security.bit_count()} security modes are chosen, not one")
        if alien := response.mode & ~(response.mode if self._offered is None else self._offered):
            problems.append(f"octets 0 to 3: not offered: {', '.join(mode_words(alien, protocol))}")

    def _one_part(
        self,
        half: _Half,
        name: str,
        octets: int,
        block: bytes,
        parse: Callable[[bytes], Message],
        encode: Callable[[Message], bytes],
    ) -> Generator[int, bytes, tuple[Message | None, list[str], bytes]]:
        """A message of one part: what it is, and what is wrong with it."""
        part = yield from self._part(half, octets, block)
        message, problems = examine(part.octets, parse, encode)
        return message, [*problems, *part.problems], part.octets

    def _request_session(self, block: bytes) -> Reader:
        half = self._from_client
        head = yield from self._part(half, RequestSession.OCTETS, block)
        slots_at = RequestSession.OCTETS + HMAC_OCTETS
        slots = yield from self._part(half, RequestSession.slots_octets(block), at=slots_at)
        request, problems = _parse_request(head.octets, slots.octets)
        problems += [*head.problems, *slots.problems]
        if self.origin.protocol == "twamp":
            problems.append("octet 0: Request-Session is a command of OWAMP, and this is TWAMP")
        fields = {} if request is None else fields_of(request)
        self._emit(half, "Request-Session", fields, problems, hmac=True)
        self._awaited.append(_Awaited("accept-session", request))

    def _request_tw_session(self, block: bytes) -> Reader:
        half, octets = self._from_client, RequestTwSession.OCTETS
        request, problems, body = yield from self._one_part(
            half, "", octets, block, RequestTwSession.parse, RequestTwSession.encode
        )
        fields: Fields = {}
        if request is not None:
            reflects = bool(self._mode & Mode.REFLECT_OCTETS)
            only_with = ("octets_to_be_reflected", "length_of_padding_to_reflect")
            fields = fields_of(request, () if reflects else only_with)
            if not reflects:
                problems += not_zero(body[88:92], 88, "MBZ without Reflect Octets")
            for what in ("conf_sender", "conf_receiver", "number_of_schedule_slots", "number_of_packets"):
                if getattr(request, what):
                    problems.append(f"{what} is {getattr(request, what)}, and zero in TWAMP")
        if self.origin.protocol == "owamp":
            problems.append("octet 0: Request-TW-Session is a command of TWAMP, and this is OWAMP")
        self._emit(half, "Request-TW-Session", fields, problems, hmac=True)
        self._awaited.append(_Awaited("accept-session", request))

    def _start_sessions(self, block: bytes) -> Reader:
        half = self._from_client
        _, problems, _ = yield from self._one_part(
            half, "", StartSessions.OCTETS, block, StartSessions.parse, StartSessions.encode
        )
        self._emit(half, "Start-Sessions", {}, problems, hmac=True)
        individual = self.origin.protocol == "twamp" and self._mode & Mode.INDIVIDUAL_SESSION_CONTROL
        self._awaited.append(_Awaited("accept-session" if individual else "start-ack"))

    def _stop_sessions(self, block: bytes) -> Reader:
        if self.origin.protocol == "owamp":
            yield from self._stop_with_descriptions(self._from_client, block)
            return
        half = self._from_client
        stop, problems, _ = yield from self._one_part(
            half, "", StopSessions.OCTETS, block, StopSessions.parse, StopSessions.encode
        )
        self._emit(half, "Stop-Sessions", {} if stop is None else fields_of(stop), problems, hmac=True)
        if self.origin.protocol == "twamp" and self._mode & Mode.INDIVIDUAL_SESSION_CONTROL:
            self._awaited.append(_Awaited("accept-session"))

    def _stop_with_descriptions(self, half: _Half, block: bytes) -> Reader:
        body = block
        while True:
            octets = StopSessionsWithDescriptions.octets(body, _MOST_SESSIONS, _MOST_SKIP_RANGES)
            if octets <= len(body):
                break
            body += half.stream.decrypt((yield octets - len(body)))
        stop, problems, _ = yield from self._one_part(
            half, "", len(body), body, StopSessionsWithDescriptions.parse, StopSessionsWithDescriptions.encode
        )
        self._emit(half, "Stop-Sessions", {} if stop is None else fields_of(stop), problems, hmac=True)

    def _fetch_session(self, block: bytes) -> Reader:
        half = self._from_client
        fetch, problems, _ = yield from self._one_part(
            half, "", FetchSession.OCTETS, block, FetchSession.parse, FetchSession.encode
        )
        self._emit(half, "Fetch-Session", {} if fetch is None else fields_of(fetch), problems, hmac=True)
        self._awaited.append(_Awaited("fetch"))

    def _n_sessions(self, block: bytes) -> Reader:
        half = self._from_client
        message, problems, _ = yield from self._one_part(
            half, "", NSessions.octets(block), block, NSessions.parse, NSessions.encode
        )
        fields = {} if message is None else fields_of(message, ("accept", "command"))
        self._emit(half, _NAMES[Command(block[0])], fields, problems, hmac=True)
        if message is not None and message.sids and self._mode & Mode.INDIVIDUAL_SESSION_CONTROL:
            self._awaited.append(_Awaited("n-acks", sids=set(message.sids)))
        else:
            self._awaited.append(_Awaited("accept-session"))

    # The server's direction.

    def _read_server(self) -> Reader:
        half = self._from_server
        data = yield ServerGreeting.OCTETS
        greeting = ServerGreeting.parse(data)
        self._offered = greeting.modes
        fields = fields_of(greeting)
        self._emit(half, "Server Greeting", fields, self._greeting_problems(greeting, data))
        self._when_known(lambda: fields.update(mode_words=mode_words(greeting.modes, self.origin.protocol)))
        yield from self._while(lambda: self._response is None)
        start = yield ServerStart.CLEAR_OCTETS
        accept = Accept(start[15])
        if accept == Accept.OK:
            self._find_keys(start[16:])
        rest = yield ServerStart.OCTETS - ServerStart.CLEAR_OCTETS
        self._start(start, rest)
        if self._opaque:
            yield from self._unreadable(half)
        while accept == Accept.OK:
            yield from self._while(lambda: not self._awaited and not self._active)
            block = half.stream.decrypt((yield BLOCK))
            awaited = self._awaited.popleft() if self._awaited else None
            try:
                yield from self._answer(awaited, block)
            except InvalidMessage as error:
                self._emit(half, "an answer", {}, [f"{error}; nothing behind it can be read"])
                return

    def _greeting_problems(self, greeting: ServerGreeting, data: bytes) -> list[str]:
        problems = differences(data[52:], bytes(12), 52)
        if greeting.modes and (greeting.count < MINIMUM_COUNT or greeting.count & (greeting.count - 1)):
            problems.append(f"octets 48 to 51: Count {greeting.count} is no power of two from {MINIMUM_COUNT} up")
        return problems

    def _find_keys(self, server_iv: bytes) -> None:
        """The keys of the connection, from the key log, when the mode has keys."""
        response = self._response
        if response is None or not response.mode & _KEYED:
            return
        logged = self._keys.connections.get((response.client_iv, server_iv))
        if logged is None:
            self._opaque = True
            return
        self._says(logged.protocol)
        self._session_keys = logged.keys
        self._from_server.stream = CbcReceiver(logged.keys, server_iv)
        self._from_client.stream = CbcReceiver(logged.keys, response.client_iv)

    def _start(self, clear: bytes, rest: bytes) -> None:
        half = self._from_server
        if self._opaque:
            fields: Fields = {"accept": 0, "server_iv": clear[16:].hex()}
            words = "its last 16 octets, and what follows, are encrypted: the key log has no key of this connection"
            self._emit(half, "Server-Start", fields, [*differences(clear[:16], bytes(16)), words])
        else:
            plain = half.stream.decrypt(rest)
            half.stream.cover(plain)  # by the HMAC of the next message: RFC 4656 section 3.2
            start, problems = examine(clear + plain, ServerStart.parse, ServerStart.encode)
            self._emit(half, "Server-Start", {} if start is None else fields_of(start), problems)
        self._ready = clear[15] == 0

    def _answer(self, awaited: _Awaited | None, block: bytes) -> Reader:
        if awaited is None:
            yield from self._unasked(block)
        elif awaited.answer == "start-ack":
            yield from self._start_ack(block)
        elif awaited.answer == "fetch":
            yield from self._fetch_answer(block)
        elif awaited.answer == "n-acks" and block[0] in (Command.START_N_ACK, Command.STOP_N_ACK):
            yield from self._n_ack(awaited, block)
        else:
            yield from self._accept_session(awaited, block)

    def _unasked(self, block: bytes) -> Reader:
        if block[0] != Command.STOP_SESSIONS:
            raise InvalidMessage(f"octet 0 is {block[0]:#04x} where the server's Stop-Sessions is due")
        self._active = False
        yield from self._stop_with_descriptions(self._from_server, block)

    def _start_ack(self, block: bytes) -> Reader:
        half = self._from_server
        ack, problems, _ = yield from self._one_part(
            half, "", StartAck.OCTETS, block, StartAck.parse, StartAck.encode
        )
        self._emit(half, "Start-Ack", {} if ack is None else fields_of(ack), problems, hmac=True)
        # OWAMP: the server's own Stop-Sessions comes when its sessions have ended.
        self._active = block[0] == Accept.OK and self.origin.protocol == "owamp"

    def _n_ack(self, awaited: _Awaited, block: bytes) -> Reader:
        half = self._from_server
        ack, problems, _ = yield from self._one_part(
            half, "", NSessions.octets(block), block, NSessions.parse, NSessions.encode
        )
        fields = {} if ack is None else fields_of(ack, ("command",))
        self._emit(half, _NAMES[Command(block[0])], fields, problems, hmac=True)
        if ack is not None and awaited.sids is not None:
            awaited.sids.difference_update(ack.sids)
            if awaited.sids:
                self._awaited.appendleft(awaited)

    def _accept_session(self, awaited: _Awaited, block: bytes) -> Reader:
        half = self._from_server
        answer, problems, body = yield from self._one_part(
            half, "", AcceptSession.OCTETS, block, AcceptSession.parse, AcceptSession.encode
        )
        fields: Fields = {}
        if answer is not None:
            reflects = self.origin.protocol == "twamp" and bool(self._mode & Mode.REFLECT_OCTETS)
            fields = fields_of(answer, () if reflects else ("reflected_octets", "server_octets"))
            if not reflects:
                problems += not_zero(body[20:24], 20, "MBZ without Reflect Octets")
            if answer.accept == Accept.OK and awaited.request is not None:
                self._agreed(awaited.request, answer)
        self._emit(half, "Accept-Session", fields, problems, hmac=True)

    def _agreed(self, request: RequestSession | RequestTwSession, answer: AcceptSession) -> None:
        """A session: its packets will be known by their addresses and ports."""
        mode, protocol = self._mode, self.origin.protocol or "twamp"
        ours = isinstance(request, RequestSession) and request.conf_sender
        sid = request.sid if ours else answer.sid
        ends = (self.server, self.client) if ours else (self.client, self.server)
        ports = (answer.port, request.receiver_port) if ours else (request.sender_port, answer.port)
        hosts = (_host(request.sender_address, ends[0]), _host(request.receiver_address, ends[1]))
        keys = None
        if self._session_keys is not None and not mode & Mode.MIXED:
            logged = self._keys.sessions.get((protocol, sid))
            keys = test_session_keys(self._session_keys, sid) if logged is None else logged.keys
        reflects = isinstance(request, RequestTwSession) and mode & Mode.REFLECT_OCTETS
        self._sessions.add(
            Session(
                sid,
                mode,
                Endpoint(hosts[0], ports[0]),
                Endpoint(hosts[1], ports[1]),
                self.origin,
                keys,
                request.padding_length,
                request.length_of_padding_to_reflect if isinstance(request, RequestTwSession) and reflects else 0,
                answer.server_octets if reflects else 0,
            )
        )

    def _fetch_answer(self, block: bytes) -> Reader:
        half = self._from_server
        ack, problems, _ = yield from self._one_part(
            half, "", FetchAck.OCTETS, block, FetchAck.parse, FetchAck.encode
        )
        self._emit(half, "Fetch-Ack", {} if ack is None else fields_of(ack), problems, hmac=True)
        if ack is None or ack.accept != Accept.OK:
            return
        head = yield from self._part(half, RequestSession.OCTETS)
        slots = yield from self._part(
            half, RequestSession.slots_octets(head.octets), at=RequestSession.OCTETS + HMAC_OCTETS
        )
        request, problems = _parse_request(head.octets, slots.octets)
        fields = {} if request is None else fields_of(request)
        problems += [*head.problems, *slots.problems]
        self._emit(half, "Request-Session of the fetched session", fields, problems, hmac=True)
        octets = ack.number_of_skip_ranges * SKIP_RANGE.size
        part = yield from self._part(half, octets + -octets % BLOCK)
        ranges, problems = _parse_skips(part.octets, octets, ack.next_seqno)
        fields = {"skip_ranges": [one._asdict() for one in ranges]}
        self._emit(half, "Skip Ranges", fields, [*problems, *part.problems], hmac=True)
        yield from self._records(ack.number_of_records)

    def _records(self, number: int) -> Reader:
        half = self._from_server
        part = yield from self._part(half, records_octets(number))
        octets = number * RECORD_OCTETS
        problems = not_zero(part.octets[octets:], octets, "padding of the records")
        records = [fields_of(record) for record in packet_records(part.octets[:octets])]
        self._emit(half, "packet records", {"records": records}, [*problems, *part.problems], hmac=True)


def _parse_request(head: bytes, slots: bytes) -> tuple[RequestSession | None, list[str]]:
    """The two parts of a Request-Session, and what is wrong with them."""

    def encode(request: RequestSession) -> bytes:
        return b"".join(request.encode())

    def parse(octets: bytes) -> RequestSession:
        return RequestSession.parse(octets[: RequestSession.OCTETS], octets[RequestSession.OCTETS :])

    request, problems = examine(head + slots, parse, encode)
    if request is None:
        # A slot that is not known must not hide the rest.
        bare = head[:4] + struct.pack(">I", 0) + head[8:]
        request, _ = examine(bare, parse, encode)
    return request, problems


def _parse_skips(body: bytes, octets: int, next_seqno: int) -> tuple[tuple[SkipRange, ...], list[str]]:
    problems = not_zero(body[octets:], octets, "padding of the Skip Ranges")
    try:
        return unpack_skip_ranges(body[:octets], next_seqno), problems
    except InvalidMessage as error:
        ranges = tuple(SkipRange(*one) for one in SKIP_RANGE.iter_unpack(body[:octets]))
        return ranges, [*problems, str(error)]


def _host(address: Address | None, end: Endpoint) -> str:
    """The address of a request, or that of the connection when it has none. RFC 5357 section 3.5."""
    return end.host if address is None else canonical(str(address))


_NAMES = {
    Command.REQUEST_SESSION: "Request-Session",
    Command.START_SESSIONS: "Start-Sessions",
    Command.STOP_SESSIONS: "Stop-Sessions",
    Command.FETCH_SESSION: "Fetch-Session",
    Command.REQUEST_TW_SESSION: "Request-TW-Session",
    Command.START_N_SESSIONS: "Start-N-Sessions",
    Command.START_N_ACK: "Start-N-Ack",
    Command.STOP_N_SESSIONS: "Stop-N-Sessions",
    Command.STOP_N_ACK: "Stop-N-Ack",
}
_COMMANDS: dict[Command, Callable[[ControlDecoder, bytes], Reader]] = {
    Command.REQUEST_SESSION: ControlDecoder._request_session,
    Command.START_SESSIONS: ControlDecoder._start_sessions,
    Command.STOP_SESSIONS: ControlDecoder._stop_sessions,
    Command.FETCH_SESSION: ControlDecoder._fetch_session,
    Command.REQUEST_TW_SESSION: ControlDecoder._request_tw_session,
    Command.START_N_SESSIONS: ControlDecoder._n_sessions,
    Command.STOP_N_SESSIONS: ControlDecoder._n_sessions,
}
