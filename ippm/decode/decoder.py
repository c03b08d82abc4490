"""From the frames of a capture to messages of Control and packets of Test, in the order of the capture.

A TCP connection is one of O/TWAMP when it has port 861 or 862, or when one side begins with what can only be a Server
Greeting. Test packets are known by the addresses and ports that their Control connection, or the key log, tells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ippm.core.control_events import Endpoint
from ippm.decode.capture import Frame, read_capture
from ippm.decode.control import ControlDecoder
from ippm.decode.messages import Decoded, Origin
from ippm.decode.packets import Dissector, TcpSegment, UdpDatagram
from ippm.decode.sessions import Sessions
from ippm.decode.streams import Stream
from ippm.iana import OWAMP_PORT, TWAMP_PORT, Mode
from ippm.io.keylog import LoggedKeys, read_key_log
from ippm.wire.server_greeting import ServerGreeting

PORTS = {OWAMP_PORT: "owamp", TWAMP_PORT: "twamp"}
_KNOWN_MODES = int(max(Mode)) * 2 - 1
_MOST_HELD = 10_000
"""Messages that wait until the protocol of the first of them is known."""

_Ends = frozenset[Endpoint]


def decode_capture(path: Path, keys: Path | None = None) -> Iterator[Decoded]:
    """What a pcap or pcapng file holds, decrypted with the key log in `keys`.

    Raises ConfigurationError for a file that cannot be read, DamagedCapture behind what could be read of one that
    ends too early.
    """
    decoder = Decoder(LoggedKeys() if keys is None else read_key_log(keys))
    yield from decoder.decode(read_capture(path))


@dataclass(slots=True)
class _Connection:
    """One TCP connection. `control` is None until it is known to be one of O/TWAMP."""

    ends: tuple[Endpoint, Endpoint]
    client: Endpoint | None = None
    origin: Origin = field(default_factory=Origin)
    streams: dict[Endpoint, Stream] = field(default_factory=dict)
    held: list[tuple[Endpoint, int, bytes]] = field(default_factory=list)
    octets: dict[Endpoint, bytearray] = field(default_factory=dict)
    control: ControlDecoder | None = None
    ended: bool = False


class Decoder:
    """Takes frames one after the other. Raises nothing for what is in them."""

    def __init__(self, keys: LoggedKeys | None = None) -> None:
        self._keys = keys or LoggedKeys()
        self._sessions = Sessions(self._keys.sessions.values())
        self._dissector = Dissector()
        self._connections: dict[_Ends, _Connection | None] = {}
        """None for a connection that is none of O/TWAMP."""
        self._ready: deque[tuple[Decoded, _Connection | None]] = deque()

    def decode(self, frames: Iterable[Frame]) -> Iterator[Decoded]:
        """What the frames hold; what they leave open is told at their end, also when reading them raises."""
        try:
            for frame in frames:
                packet = frame.ip_packet()
                found = None if packet is None else self._dissector.feed(packet)
                if isinstance(found, UdpDatagram):
                    self._add([self._sessions.decode(found, frame.time_ns)], None)
                elif found is not None:
                    self._segment(found, frame.time_ns)
                yield from self._flush()
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._finish()
            raise
        yield from self._finish()

    def _finish(self) -> Iterator[Decoded]:
        for connection in self._connections.values():
            if connection is not None:
                self._end(connection)
        self._connections.clear()
        yield from self._flush()

    def _add(self, made: Iterable[Decoded | None], connection: _Connection | None) -> None:
        self._ready.extend((one, connection) for one in made if one is not None)

    def _flush(self) -> Iterator[Decoded]:
        """All that can be told: nothing behind a message whose protocol may yet come to be known."""
        while self._ready:
            one, connection = self._ready[0]
            open_question = connection is not None and not connection.ended and connection.origin.protocol is None
            if open_question and len(self._ready) < _MOST_HELD:
                return
            self._ready.popleft()
            yield one

    # TCP.

    def _segment(self, segment: TcpSegment, time_ns: int) -> None:
        ends = frozenset((segment.source, segment.destination))
        if segment.opens and ends in self._connections:
            # The same ports again: another connection, unless it is the first segment once more.
            former = self._connections[ends]
            if former is None or any(former.octets.values()) or former.control is not None:
                if former is not None:
                    self._end(former)
                del self._connections[ends]
        if ends not in self._connections:
            self._connections[ends] = self._new_connection(segment)
        connection = self._connections[ends]
        if connection is None:
            return
        if segment.opens:
            connection.client = segment.source
        stream = connection.streams.setdefault(segment.source, Stream())
        for at_ns, octets in stream.feed(segment, time_ns):
            self._octets(connection, segment.source, at_ns, octets)

    def _new_connection(self, segment: TcpSegment) -> _Connection:
        connection = _Connection((segment.source, segment.destination))
        for end, other in ((segment.source, segment.destination), (segment.destination, segment.source)):
            if end.port in PORTS and other.port not in PORTS:
                connection.client = other
                connection.origin.protocol = PORTS[end.port]
        return connection

    def _octets(self, connection: _Connection, source: Endpoint, time_ns: int, octets: bytes) -> None:
        if connection.control is not None:
            made = connection.control.feed(source == connection.client, time_ns, octets)
            self._add(made, connection)
            return
        connection.held.append((source, time_ns, octets))
        begun = connection.octets.setdefault(source, bytearray())
        begun += octets
        if source == connection.client or len(begun) < ServerGreeting.OCTETS:
            if len(begun) > 4 * ServerGreeting.OCTETS:
                self._forget(connection, time_ns)
            return
        well_known = connection.origin.protocol is not None
        if is_greeting(bytes(begun)) or (well_known and connection.streams[source].from_the_start):
            self._begin(connection, source)
        else:
            self._forget(connection, time_ns)

    def _begin(self, connection: _Connection, server: Endpoint) -> None:
        one, other = connection.ends
        connection.client = other if server == one else one
        connection.control = ControlDecoder(
            connection.client, server, connection.origin, self._keys, self._sessions
        )
        held, connection.held = connection.held, []
        for source, time_ns, octets in held:
            self._add(connection.control.feed(source == connection.client, time_ns, octets), connection)

    def _forget(self, connection: _Connection, time_ns: int) -> None:
        """This is no connection of O/TWAMP, or its beginning was not captured."""
        connection.held.clear()
        connection.octets.clear()
        if connection.origin.protocol is not None:
            server = next(end for end in connection.ends if end != connection.client)
            words = "the beginning of this connection was not captured: it cannot be read"
            remark = Decoded(
                time_ns, connection.client or server, server, connection.origin, "control", "no Server Greeting", 0
            )
            remark.problems.append(words)
            self._add([remark], None)
        self._connections[frozenset(connection.ends)] = None

    def _end(self, connection: _Connection) -> None:
        connection.ended = True
        if connection.control is None:
            return
        missing = {end: stream.missing for end, stream in connection.streams.items()}
        client = connection.client
        server = next(end for end in connection.ends if end != client)
        missing_from_client = 0 if client is None else missing.get(client, 0)
        made = connection.control.end(missing_from_client, missing.get(server, 0))
        self._add(made, connection)


def is_greeting(octets: bytes) -> bool:
    """Whether these octets begin like a Server Greeting, and hardly anything else does. RFC 4656 section 3.1."""
    greeting = ServerGreeting.parse(octets[: ServerGreeting.OCTETS])
    zeros = not any(octets[:12]) and not any(octets[52:64])
    power = greeting.count > 1 and not greeting.count & (greeting.count - 1)
    return zeros and power and not greeting.modes & ~_KNOWN_MODES
