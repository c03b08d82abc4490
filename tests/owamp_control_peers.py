"""Both ends of OWAMP in one process: no socket, a clock that the test moves, packets that the test may lose or copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ippm_control_peers import CountedEntropy, derived_provider, passphrases

from ippm.core.client_connection import ControlClientConfig
from ippm.core.control_events import ConnectionClosed, Endpoint, SessionsStarted
from ippm.core.one_way_sender import OneWayPlan, OneWaySender
from ippm.core.owamp_client import OwampClient, OwampWish
from ippm.core.owamp_events import OwampSession, Owner, StopReceived
from ippm.core.owamp_policy import OwampServerConfig
from ippm.core.owamp_server import OwampServer, with_port
from ippm.core.schedule import Slot, SlotType
from ippm.core.session_receiver import ReceiverPlan, ReceiverResult, SessionEnd, SessionReceiver
from ippm.core.session_schedule import SessionSchedule
from ippm.crypto import KeyProvider, NoProvider
from ippm.errors import RefuseSession
from ippm.iana import Mode
from ippm.io.session_store import of_range
from ippm.timestamps import ntp_add_ns
from ippm.wire.packet_record import RECORD_OCTETS
from ippm.wire.request_session import RequestSession
from ippm.wire.skip_ranges import SkipRange

CLIENT = Endpoint("192.0.2.1", 40000)
SERVER = Endpoint("192.0.2.2", 861)
NTP_NOW = 0xE0000000_80000000
SECOND = 1_000_000_000
FIXED_10_MS = (Slot(SlotType.FIXED, (1 << 32) // 100),)
POISSON_10_MS = (Slot(SlotType.EXPONENTIAL, (1 << 32) // 100),)
SYNCHRONIZED = 0x8A20
SID_OF_CLIENT = bytes.fromhex("c0000201e00000008000000011223344")

TO_SERVER = OwampWish(
    here=Endpoint(CLIENT.host, 18700),
    server_sends=False,
    count=20,
    slots=FIXED_10_MS,
    start_time=ntp_add_ns(NTP_NOW, SECOND),
    timeout_ns=2 * SECOND,
    dscp=46,
)
FROM_SERVER = replace(TO_SERVER, here=Endpoint(CLIENT.host, 18701), server_sends=True, sid=SID_OF_CLIENT)


@dataclass
class Stored:
    """Data of a session, in memory."""

    request: RequestSession
    owner: Owner
    records_: bytearray = field(default_factory=bytearray)
    finished: int = 0
    next_seqno: int = 0
    skip_ranges: tuple[SkipRange, ...] = ()
    closed: int = 0

    def count(self, begin: int, end: int) -> int:
        return len(of_range(bytes(self.records_), begin, end)) // RECORD_OCTETS

    def records(self, begin: int, end: int) -> Iterator[bytes]:
        chosen = of_range(bytes(self.records_), begin, end)
        for at in range(0, len(chosen), 7 * RECORD_OCTETS):
            yield chosen[at : at + 7 * RECORD_OCTETS]

    def close(self) -> None:
        self.closed += 1


@dataclass
class Hooks:
    """A server's surroundings: ports one after the other, and a store in memory that several connections may share."""

    port: int = 18760
    refusal: RefuseSession | None = None
    wished: list[OwampSession] = field(default_factory=list)
    opened: list[OwampSession] = field(default_factory=list)
    store: dict[bytes, Stored] = field(default_factory=dict)
    ntp: int = NTP_NOW

    def ntp_time(self) -> int:
        return self.ntp

    def open_owamp_session(self, session: OwampSession, owner: Owner) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.port += 1
        self.wished.append(session)
        opened = with_port(session, self.port)
        self.opened.append(opened)
        if not session.server_sends:
            self.store[session.sid] = Stored(opened.request, owner)
        return self.port

    def fetch(self, sid: bytes, owner: Owner) -> Stored:
        stored = self.store.get(sid)
        if stored is None or stored.owner != owner:
            raise RefuseSession(1, "no such session")
        return stored


class OwampPair:
    """A client and a server with a memory pipe between them."""

    def __init__(
        self,
        mode: Mode = Mode.OPEN,
        *,
        hooks: Hooks | None = None,
        client_provider: KeyProvider | None = None,
        server_provider: KeyProvider | None = None,
        **server: object,
    ) -> None:
        self.now = 1000.0
        self.hooks = hooks or Hooks()
        config = OwampServerConfig(**{"count": 1024, **server})  # type: ignore[arg-type]
        self.client = OwampClient(
            ControlClientConfig(mode.security),
            client_provider or _provider(mode),
            CountedEntropy("client"),
            local=CLIENT,
            remote=SERVER,
            now=self.now,
            ikev2_bit=config.ikev2_bit,
        )
        self.server = OwampServer(
            config,
            server_provider or _provider(mode),
            self.hooks,
            CountedEntropy("server"),
            local=SERVER,
            remote=CLIENT,
            now=self.now,
        )
        self.to_client = b""
        self.to_server = b""
        self.server_said: list[object] = []

    def run(self, piece: int = 1 << 20) -> None:
        """Carry octets both ways, in pieces, until nothing is left to carry."""
        while True:
            down, up = self.server.data_to_send(), self.client.data_to_send()
            if not down and not up:
                self.server_events()
                return
            self.to_client += down
            self.to_server += up
            for at in range(0, len(down), piece):
                self.client.receive_data(down[at : at + piece], self.now)
            for at in range(0, len(up), piece):
                self.server.receive_data(up[at : at + piece], self.now)
                self.server_events()

    def client_events(self) -> list[object]:
        return _drain(self.client)

    def server_events(self) -> list[object]:
        events = _drain(self.server)
        self.server_said += events
        return events

    def closed(self) -> ConnectionClosed | None:
        """The server's last word, when it has closed the connection."""
        self.server_events()
        return next((event for event in self.server_said if isinstance(event, ConnectionClosed)), None)

    def set_up(self) -> OwampPair:
        self.run()
        self.client_events()
        return self


def _provider(mode: Mode) -> KeyProvider:
    if mode & Mode.IKEV2_DERIVED:
        return derived_provider()
    return passphrases() if mode.keyed else NoProvider()


def _drain(role: OwampClient | OwampServer) -> list[object]:
    events: list[object] = []
    while (event := role.next_event()) is not None:
        events.append(event)
    return events


def sender_of(session: OwampSession) -> OneWaySender:
    """The Session-Sender of a session."""
    request = session.request
    return OneWaySender(
        OneWayPlan(
            session.sid,
            int(session.mode),
            session.keys,
            (session.receiver.host, session.receiver.port),
            SessionSchedule(request.slots, session.sid, request.number_of_packets),
            request.start_time,
            session.timeout_ns,
            request.padding_length,
        )
    )


def receiver_of(session: OwampSession) -> SessionReceiver:
    """The Session-Receiver of a session."""
    request = session.request
    schedule = SessionSchedule(request.slots, session.sid, request.number_of_packets)
    return SessionReceiver(
        ReceiverPlan(session.sid, int(session.mode), session.keys, schedule, request.start_time, request.timeout),
        SYNCHRONIZED,
    )


def deliver(
    sender: OneWaySender, receiver: SessionReceiver, *, lost: tuple[int, ...] = (), copied: tuple[int, ...] = ()
) -> None:
    """Send every packet on time, 1 ms on its way; some are lost, some come twice."""
    plan = sender.plan
    while not sender.ended:
        number = sender.next_seqno
        sent = plan.start_time + plan.schedule.offset(number)
        sender.prepare()
        data = bytes(sender.pack(sent, SYNCHRONIZED))
        sender.was_sent()
        for _ in range(0 if number in lost else 2 if number in copied else 1):
            receiver.handle(data, 250, ntp_add_ns(sent, 1_000_000))


def finish(receiver: SessionReceiver, stored: Stored, result: ReceiverResult) -> None:
    """What a driver does at the end of a session that is received."""
    stored.records_ += of_range(receiver.take_records(), 0, result.keep_below - 1)
    for records in receiver.lost_records(result):
        stored.records_ += records
    stored.finished = int(result.end)
    stored.next_seqno, stored.skip_ranges = result.next_seqno, result.skip_ranges


__all__ = [
    "CLIENT",
    "FIXED_10_MS",
    "FROM_SERVER",
    "NTP_NOW",
    "POISSON_10_MS",
    "SECOND",
    "SERVER",
    "SID_OF_CLIENT",
    "SYNCHRONIZED",
    "TO_SERVER",
    "Hooks",
    "OwampPair",
    "SessionEnd",
    "SessionsStarted",
    "StopReceived",
    "Stored",
    "deliver",
    "finish",
    "receiver_of",
    "sender_of",
]
