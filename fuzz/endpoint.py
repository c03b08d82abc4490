"""An IKE endpoint whose peer is the fuzzer: it holds the keys, so that what it sends is authentic, and says anything.

An input names a situation (who began, and what is under way) and then steps, one after the other: a message whose
payload chain are the input's own octets, sealed for the endpoint; a message in clear; the next timer; an action of
the person at the endpoint. After each step:

- nothing went wrong inside (`internal_errors` stays 0), and only a LocalProtocolError answers the person's actions;
- every IKE SA is in a state of the table, is found by its SPIs, and no two have one SPI;
- what was installed and deleted fits, and is what the IKE SAs have;
- what is sent can be opened, parses, keeps the rules of its exchange, and encodes to the same octets again;
- SAs, tasks and fragments are bounded by the limits.

Time is a number and entropy is seeded: an input always does the same.
"""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from sim import network as sim

from ikev2.core.channel import Plain, SecureChannel
from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.config import ChildConfig, ConnectionConfig, Limits
from ikev2.core.events import (
    ChildSaDeleted,
    ChildSaFailed,
    ChildSaMoved,
    ChildSaReady,
    ChildSaRekeyed,
    IkeSaEstablished,
)
from ikev2.core.identity import Identity
from ikev2.core.ike_sa import IkeSa
from ikev2.core.state import State
from ikev2.core.types import Address, Datagram, Role
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import IkeSuite
from ikev2.errors import LocalProtocolError
from ikev2.iana import ExchangeType, PayloadType
from ikev2.wire.header import Header
from ikev2.wire.message import Message, encode_payloads, parse_payloads, received_prefix
from ikev2.wire.payloads import EncryptedFragment, Notify, Proposal
from ikev2.wire.rules import check_message

SMALL = Limits(child_sas=6, half_open_limit=6, half_open_per_address=6, cookie_threshold=4, ike_sa_limit=40)
STEPS_MAX = 24
TIMERS_MAX = 60
"""How often timers may come due at one time; more is a loop."""

EXCHANGES = (
    ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
)  # fmt: skip
FRAGMENT_OCTETS = 300


# --- situations --------------------------------------------------------------------------------------------------


def _pair() -> tuple[sim.Network, sim.Host, sim.Host]:
    children = (sim.child_config(), sim.child_config("more"))
    changes = {"children": children, "dpd_delay_s": 30.0}
    return sim.pair(7, a=dict(changes), b=dict(changes), limits=SMALL)


def _begun(until: float) -> tuple[sim.Network, sim.Host, sim.Host]:
    network, a, b = _pair()
    sim.up(network, a, until=until)
    return network, a, b


def _established(who: str, act: Callable[[sim.Host, float], None] | None = None) -> tuple[sim.Network, sim.Host]:
    """Both ends up; then, perhaps, something that the endpoint asks of its peer and has no answer to yet."""
    network, a, b = _begun(5.0)
    target = a if who == "a" else b
    if act is not None:
        act(target, network.now)
    return network, target


def _child(host: sim.Host) -> ChildSaParameters:
    return next(iter(host.installed.values()))


def _rekeyed() -> tuple[sim.Network, sim.Host]:
    network, a, b = _begun(5.0)
    a.manager.rekey(a.sa, network.now)
    network.run(network.now + 0.015)
    return network, b


SITUATIONS: tuple[Callable[[], tuple[sim.Network, sim.Host]], ...] = (
    lambda: _established("b"),
    lambda: _established("a"),
    lambda: (lambda all_: (all_[0], all_[2]))(_begun(0.015)),  # half-open
    lambda: (lambda all_: (all_[0], all_[1]))(_begun(0.025)),  # IKE_AUTH sent
    lambda: (lambda all_: (all_[0], all_[1]))(_begun(0.005)),  # IKE_SA_INIT sent
    lambda: _established("b", lambda host, now: host.manager.rekey(host.sa, now)),
    lambda: _established("a", lambda host, now: host.manager.rekey_child(_child(host), now)),
    lambda: _established("b", lambda host, now: host.manager.make_child(host.sa, "more", now)),
    lambda: _established("a", lambda host, now: host.manager.delete(host.sa, now)),
    lambda: _established("b", lambda host, now: host.manager.delete_child(_child(host), now)),
    _rekeyed,
    lambda: (lambda all_: (all_[0], all_[2]))(_pair()),  # nobody has called
)


class _LastNote:
    """A tracer that keeps the last line, for the words of a finding."""

    def __init__(self) -> None:
        self.line = ""

    def message(self, direction: str, line: str, local: Address, remote: Address) -> None:
        self.line = f"{direction} {line}"

    def transition(self, ike_sa: str, before: str, after: str, story: str) -> None:
        self.line = f"{before} -> {after}: {story}"

    def note(self, text: str) -> None:
        self.line = text


_SHARED: tuple[type, ...] = (
    ConnectionConfig, Limits, IkeKeys, SkCipher, SecretOctets, IkeSuite, ChildSaParameters, Header, Address, Plain,
    Message, Proposal, Identity, ChildConfig, ChildSaReady, IkeSaEstablished, Enum, types.FunctionType,
    types.BuiltinFunctionType,
)  # fmt: skip
"""What never changes is not copied with a situation."""


class _Snapshot:
    """A situation as octets, from which it is made again as often as wanted; a fifth of what a deep copy costs."""

    def __init__(self, situation: tuple[sim.Network, sim.Host]) -> None:
        shared: list[object] = []
        numbers: dict[int, int] = {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: object) -> int | None:
                if not isinstance(value, _SHARED) and not type(value).__module__.startswith("cryptography."):
                    return None
                if id(value) not in numbers:
                    numbers[id(value)] = len(shared)
                    shared.append(value)
                return numbers[id(value)]

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, number: int) -> object:
                return shared[number]

        octets = io.BytesIO()
        Pickler(octets, pickle.HIGHEST_PROTOCOL).dump(situation)
        self._octets, self._unpickler = octets.getvalue(), Unpickler

    def fresh(self) -> tuple[sim.Network, sim.Host]:
        network, host = self._unpickler(io.BytesIO(self._octets)).load()
        return network, host


@functools.cache
def _situation(index: int) -> _Snapshot:
    network, target = SITUATIONS[index]()
    target.manager.datagrams_to_send()
    target.manager._tracer = _LastNote()
    for sa in target.manager.sas:
        sa.tracer = target.manager._tracer
    network.hosts = {}
    network.sent = []
    network._queue = []
    target.tracer = sim.ListTracer()
    return _Snapshot((network, target))


# --- the endpoint ------------------------------------------------------------------------------------------------


@dataclass
class Driver:
    """One endpoint from its situation on, what it has installed, and the keys that its peer has."""

    host: sim.Host
    now: float
    peer: Address
    channels: dict[tuple[bytes, bytes], SecureChannel] = field(default_factory=dict)
    fragments: dict[tuple[bytes, bytes, int, bool], dict[int, bytes]] = field(default_factory=dict)
    sent: int = 0

    @classmethod
    def of(cls, index: int) -> Driver:
        """The situation of this number, fresh."""
        network, host = _situation(index % len(SITUATIONS)).fresh()
        driver = cls(host, network.now, Address(sim.A if host.host == sim.B else sim.B, 500))
        driver.look()
        return driver

    def sas(self) -> list[IkeSa]:
        return self.host.manager.sas

    def channel(self, sa: IkeSa) -> SecureChannel | None:
        """The peer's end of an IKE SA; an initiator has the keys before the responder has made its own."""
        name = (sa.spi_i, sa.spi_r)
        if name not in self.channels:
            keys = sa.keys
            if keys is None and sa.state is State.HALF_OPEN:
                keys = _keys_of_half_open(sa)
            if keys is None or sa.suite is None:
                return None
            role = Role.RESPONDER if sa.role is Role.INITIATOR else Role.INITIATOR
            self.channels[name] = SecureChannel(sa.suite, keys, role, *name, sim.SeededEntropy(1))
        return self.channels[name]

    def give(self, data: bytes, sender: Address) -> None:
        """One datagram to the endpoint."""
        manager = self.host.manager
        manager.receive_datagram(data, self.host.address, sender, self.now)
        self.look()

    def act(self, number: int) -> None:
        """What a person may ask for; a LocalProtocolError says why not."""
        manager, now = self.host.manager, self.now
        sas, children = manager.sas, list(self.host.installed.values())
        try:
            match number % 8:
                case 0 if sas:
                    manager.rekey(sas[number // 8 % len(sas)], now)
                case 1 if sas:
                    manager.make_child(sas[number // 8 % len(sas)], "more", now)
                case 2 if children:
                    manager.rekey_child(children[number // 8 % len(children)], now)
                case 3 if children:
                    manager.delete_child(children[number // 8 % len(children)], now)
                case 4 if sas:
                    manager.check_liveness(sas[number // 8 % len(sas)], now)
                case 5 if sas:
                    manager.delete(sas[number // 8 % len(sas)], now)
                case 6 if children:
                    manager.expire_child(children[number // 8 % len(children)], now)
                case 7 if len(sas) < 4:
                    manager.initiate("lab", None, self.host.address, now)
        except LocalProtocolError:
            pass
        self.look()

    def wait(self, most_s: float) -> None:
        """Until the next timer, or `most_s`."""
        at = self.host.manager.next_timer()
        self.now = self.now + most_s if at is None else max(self.now, min(at, self.now + most_s))
        for _ in range(TIMERS_MAX):
            at = self.host.manager.next_timer()
            if at is None or at > self.now:
                break
            self.host.manager.handle_timer(self.now)
            self.look()
        else:
            raise AssertionError("timers come due again and again")

    def look(self) -> None:
        """Take events and datagrams as a driver does, and check all that has to hold."""
        manager = self.host.manager
        assert manager.internal_errors == 0, manager._tracer.line
        for sa in manager.sas:
            self.channel(sa)
        while (event := manager.next_event()) is not None:
            self._install(event)
        for datagram in manager.datagrams_to_send():
            self._check_sent(datagram)
        self._check_tables()

    def _install(self, event: object) -> None:
        installed = self.host.installed
        match event:
            case ChildSaReady(child):
                assert child.spi_in not in installed, "an SPI twice"
                installed[child.spi_in] = child
            case ChildSaRekeyed(old, new):
                assert old.spi_in in installed
                assert new.spi_in in installed
            case ChildSaMoved(old, new):
                assert installed[old.spi_in] == old
                installed[new.spi_in] = new
            case ChildSaDeleted(child):
                assert installed.pop(child.spi_in, None) is not None, "deleted and never installed"
            case ChildSaFailed():
                pass

    def _check_tables(self) -> None:
        manager, sas = self.host.manager, self.sas()
        ours = [sa.spi_i if sa.role is Role.INITIATOR else sa.spi_r for sa in sas]
        assert len(set(ours)) == len(ours), "two IKE SAs with one SPI"
        children: list[int] = []
        for sa in sas:
            assert sa.state in State
            assert sa.state not in (State.IDLE, State.CLOSED)
            if sa.established_at is not None:
                assert manager.find(sa.spi_i, sa.spi_r) is sa
            children += sa.children
            assert len(sa.children) <= 2 * SMALL.child_sas
            assert len(sa.tasks) <= 40, "tasks pile up"
            for queue in (*sa.fragmentation.requests.values(), *sa.fragmentation.responses.values()):
                assert queue.octets <= SMALL.reassembly_octets
            assert len(sa.responses.kept) <= max(1, sa.responses.window)
        assert sorted(children) == sorted(self.host.installed), "installed is not what the IKE SAs have"
        assert manager.remembered <= SMALL.ike_sa_limit
        assert manager.half_open_count <= SMALL.half_open_limit

    def _check_sent(self, datagram: Datagram) -> None:
        self.sent += 1
        assert self.sent < 4000, "far more is sent than received"
        message = Message.parse(datagram.data)
        header, sealed = message.header, message.encrypted
        if sealed is None:
            if header.exchange_type == ExchangeType.IKE_SA_INIT:
                check_message(message)
            else:
                assert header.is_response
                assert [type(payload) for payload in message.payloads] == [Notify]
            assert message.encode() == datagram.data
            return
        channel = self.channels.get((header.initiator_spi, header.responder_spi))
        assert channel is not None, "sealed with keys that the peer has never had"
        if isinstance(sealed, EncryptedFragment):
            content = self._reassembled(channel, datagram.data, header, sealed)
            if content is None:
                return
        else:
            content = channel._inbound.open(received_prefix(datagram.data, sealed), sealed.body)
        first = sealed.first_payload
        if isinstance(sealed, EncryptedFragment):
            first = self._first
        payloads = parse_payloads(first, content)
        # A refusal is one notify in the response, whatever exchange it was that has no place.
        alone = payloads[0] if len(payloads) == 1 else None
        if not (header.is_response and isinstance(alone, Notify) and alone.notify_type.is_error):
            check_message(message, payloads)
        assert encode_payloads(payloads, response=header.is_response) == (first, content)

    def _reassembled(
        self, channel: SecureChannel, data: bytes, header: Header, sealed: EncryptedFragment
    ) -> bytes | None:
        if sealed.fragment_number == 1:
            self._first = sealed.first_payload
        name = (header.initiator_spi, header.responder_spi, header.message_id, header.is_response)
        parts = self.fragments.setdefault(name, {})
        parts[sealed.fragment_number] = channel.open_fragment(data, sealed)
        if sealed.fragment_number != sealed.total_fragments:
            return None
        content = b"".join(parts[number] for number in range(1, sealed.total_fragments + 1))
        del self.fragments[name]
        return content


def _keys_of_half_open(sa: IkeSa) -> IkeKeys | None:
    from ikev2.core.exchanges import ike_sa_init

    ike_sa_init.derive_late(sa)
    return sa.keys


# --- inputs ------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def octet(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def some(self) -> bytes:
        length = (self.octet() << 8 | self.octet()) % 2048
        self.at += length
        return self.data[self.at - length : self.at]

    @property
    def more(self) -> bool:
        return self.at < len(self.data)


SEALED, CLEAR, WAIT, ACT = range(4)
RESPONSE, FRAGMENTS, WRONG_END, ELSEWHERE, TWICE = 0x04, 0x08, 0x10, 0x20, 0x40


def ikev2_endpoint(data: bytes) -> None:
    """A situation, then steps.

    A message is: control (two bits choose the IKE SA, then flags), the message id relative to the one that is
    expected, the exchange, the type of the first payload, and the octets of the chain behind their length.
    """
    reader = _Reader(data)
    driver = Driver.of(reader.octet())
    for _ in range(STEPS_MAX):
        if not reader.more:
            break
        match reader.octet() % 4:
            case 0:
                _message(driver, reader)
            case 1:
                _in_clear(driver, reader)
            case 2:
                driver.wait((0.5, 3.0, 40.0, 200.0)[reader.octet() % 4])
            case _:
                driver.act(reader.octet())
    for _ in range(2):
        driver.wait(40.0)


def _exchange(number: int) -> ExchangeType:
    return EXCHANGES[number % 4] if number < 192 else ExchangeType(number)


def _relative(base: int, octet: int) -> int:
    return (base + (octet if octet < 128 else octet - 256)) % 2**32


def _expected(sa: IkeSa, *, response: bool) -> int:
    """The message id that goes on: of the oldest request of ours without a response, or of the peer's next request."""
    waiting = sa.requests.in_flight
    if not response:
        return sa.responses.expected_id
    return sa.requests.next_id if waiting is None else waiting.message_id


def _message(driver: Driver, reader: _Reader) -> None:
    control, number, exchange = reader.octet(), reader.octet(), _exchange(reader.octet())
    first, content = PayloadType(reader.octet()), reader.some()
    sas = driver.sas()
    if not sas:
        return
    sa = sas[min(control & 3, len(sas) - 1)]
    channel = driver.channel(sa)
    if channel is None:
        return
    response = bool(control & RESPONSE)
    base = _expected(sa, response=response)
    initiator = (sa.role is Role.RESPONDER) is not bool(control & WRONG_END)
    header = Header.to_send(
        sa.spi_i, sa.spi_r, exchange, _relative(base, number), is_initiator=initiator, is_response=response
    )
    plain = Plain(header, first, content)
    messages = (
        channel.seal_fragments(plain, FRAGMENT_OCTETS) if control & FRAGMENTS else (channel.seal_whole(plain),)
    )
    sender = Address(driver.peer.host, 4501) if control & ELSEWHERE else sa.remote
    for message in messages * (2 if control & TWICE else 1):
        driver.give(message, sender)


def _in_clear(driver: Driver, reader: _Reader) -> None:
    control, number, exchange = reader.octet(), reader.octet(), _exchange(reader.octet())
    first, content = PayloadType(reader.octet()), reader.some()
    sas = driver.sas()
    response = bool(control & RESPONSE)
    spi_i, spi_r, base = bytes([control | 1]) * 8, bytes(8), 0
    initiator = not control & WRONG_END
    if sas and (response or control & TWICE):
        sa = sas[min(control & 3, len(sas) - 1)]
        spi_i, spi_r = sa.spi_i, sa.spi_r if any(sa.spi_r) else bytes([0x22]) * 8
        base = _expected(sa, response=response)
        initiator = (sa.role is Role.RESPONDER) is not bool(control & WRONG_END)
    header = Header.to_send(
        spi_i, spi_r, exchange, _relative(base, number), is_initiator=initiator, is_response=response
    )
    octets = bytearray(header.encode() + content)
    octets[16] = first
    octets[24:28] = len(octets).to_bytes(4, "big")
    driver.give(bytes(octets), driver.peer)
