"""A network and a clock that are only numbers: hosts with SaManagers, links that lose, double, delay and translate.

Time is a float that jumps from event to event, chance comes from one seeded generator, so the same seed is the same
run, octet for octet.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.config import ChildConfig, ConnectionConfig, Identity, Limits, Retransmission
from ikev2.core.events import (
    AddressesReleased,
    AddressesTaken,
    ChildSaDeleted,
    ChildSaFailed,
    ChildSaMoved,
    ChildSaReady,
    ChildSaRekeyed,
    Event,
)
from ikev2.core.ike_sa import IkeSa
from ikev2.core.manager import SaManager
from ikev2.core.tracer import ListTracer
from ikev2.core.types import Address, Datagram
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal, parse_ike_proposal

A = "192.0.2.1"
B = "192.0.2.2"
PSK = b"a secret that both ends share"
IKE_PROPOSAL = "aes256gcm16-prfsha256-curve25519"
ESP_PROPOSAL = "aes256gcm16"
FAST = Retransmission(timeout_s=1.0, base=1.5, tries=5)


class SeededEntropy:
    """Octets from a seeded generator."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)

    def octets(self, count: int, /) -> bytes:
        return self._random.randbytes(count)


class SequentialSpis:
    """SPIs of Child SAs, counted up; `problem` makes the next allocation fail; `reserved` wait for their Child SA."""

    def __init__(self, base: int = 0xC000_0000) -> None:
        self._next = base
        self.problem: Exception | None = None
        self.reserved: set[int] = set()

    def allocate_spi(self, local: str, remote: str) -> int:
        if self.problem is not None:
            raise self.problem
        self._next += 1
        self.reserved.add(self._next)
        return self._next

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        self.reserved.remove(spi)


def child_config(name: str = "net", **changes: object) -> ChildConfig:
    return replace(ChildConfig(name=name, esp_proposals=(parse_esp_proposal(ESP_PROPOSAL),)), **changes)  # type: ignore[arg-type]


def connection(local: str, remote: str, **changes: object) -> ConnectionConfig:
    """A connection of one end: PSK, one tunnel-mode Child SA of the two addresses."""
    base = ConnectionConfig(
        name="lab",
        local_addrs=(local,),
        remote_addrs=(remote,),
        proposals=(parse_ike_proposal(IKE_PROPOSAL),),
        local_id=Identity.parse(f"fqdn:host-{local}"),
        remote_id=Identity.parse(f"fqdn:host-{remote}"),
        psk=SecretOctets("PSK", PSK),
        children=(child_config(),),
        retransmission=FAST,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def proposals(*keywords: str) -> tuple[object, ...]:
    return tuple(parse_ike_proposal(keyword) for keyword in keywords)


@dataclass
class Host:
    """One endpoint: a manager, the events it gave, and the Child SAs that are installed."""

    name: str
    address: Address
    manager: SaManager
    tracer: ListTracer
    spis: SequentialSpis
    events: list[Event] = field(default_factory=list)
    installed: dict[int, ChildSaParameters] = field(default_factory=dict)
    sending: list[int] = field(default_factory=list)
    """The inbound SPIs of the installed pairs; the first one is sent on."""
    refuse_install: str | None = None
    addresses: Counter[str] = field(default_factory=Counter)
    """The virtual addresses of the host: how many IKE SAs brought each."""

    @property
    def host(self) -> str:
        return self.address.host

    def of(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def sa(self) -> IkeSa:
        (sa,) = self.manager.sas
        return sa


@dataclass
class Sent:
    """One datagram on the wire, numbered in the order of sending."""

    number: int
    datagram: Datagram
    sender: Host


Delays = Sequence[float]
"""What a link does with one datagram: a delivery after each of these times; none at all: it is lost."""

Link = Callable[[Sent], Delays]


def perfect(sent: Sent) -> Delays:
    return (0.01,)


class Network:
    """Hosts, a clock, and one link function for all."""

    def __init__(self, seed: int = 0, link: Link = perfect) -> None:
        self.now = 0.0
        self.seed = seed
        self.link = link
        self.hosts: dict[str, Host] = {}
        self.sent: list[Sent] = []
        self.translate: Callable[[Datagram], Datagram] = lambda datagram: datagram
        self._queue: list[tuple[float, int, Datagram]] = []
        self._serial = 0

    def add(
        self,
        name: str,
        host: str,
        connections: Sequence[ConnectionConfig],
        limits: Limits | None = None,
        **options: object,
    ) -> Host:
        tracer = ListTracer()
        spis = SequentialSpis(0xC000_0000 + 0x0100_0000 * len(self.hosts))
        entropy = SeededEntropy(f"{self.seed}/{name}")
        manager = SaManager(connections, entropy, spis, limits, tracer=tracer, **options)  # type: ignore[arg-type]
        made = Host(name, Address(host, 500), manager, tracer, spis)
        self.hosts[host] = made
        return made

    def flush(self, host: Host) -> None:
        """Handle a host's events, then send its datagrams: the driver's rule."""
        while (event := host.manager.next_event()) is not None:
            host.events.append(event)
            self._install(host, event)
        for datagram in host.manager.datagrams_to_send():
            sent = Sent(len(self.sent), datagram, host)
            self.sent.append(sent)
            for delay in self.link(sent):
                self.inject(self.translate(datagram), delay)

    def inject(self, datagram: Datagram, delay: float = 0.0) -> None:
        """Deliver a datagram, made by anybody, after some time."""
        self._serial += 1
        heapq.heappush(self._queue, (self.now + delay, self._serial, datagram))

    def run(self, until: float = float("inf"), *, steps: int = 20_000) -> None:
        """Deliver and fire timers in order until nothing is left, or until a time."""
        for host in self.hosts.values():
            self.flush(host)
        for _ in range(steps):
            times = [at for host in self.hosts.values() if (at := host.manager.next_timer()) is not None]
            if self._queue:
                times.append(self._queue[0][0])
            if not times or min(times) > until:
                self.now = max(self.now, until) if until != float("inf") else self.now
                return
            self.now = max(self.now, min(times))
            self._step()
        raise AssertionError("the simulation does not come to rest")

    def _step(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            datagram = heapq.heappop(self._queue)[2]
            receiver = self.hosts.get(datagram.remote.host)
            if receiver is not None:
                receiver.manager.receive_datagram(datagram.data, datagram.remote, datagram.local, self.now)
                self.flush(receiver)
        for host in self.hosts.values():
            at = host.manager.next_timer()
            if at is not None and at <= self.now:
                host.manager.handle_timer(self.now)
                self.flush(host)

    def _install(self, host: Host, event: Event) -> None:
        match event:
            case ChildSaReady(child, standby):
                if host.refuse_install is not None:
                    host.manager.child_install_failed(child, host.refuse_install, self.now)
                else:
                    assert child.spi_in not in host.installed
                    host.spis.reserved.remove(child.spi_in)
                    host.installed[child.spi_in] = child
                    host.sending.insert(len(host.sending) if standby else 0, child.spi_in)
            case ChildSaRekeyed(old, new):
                assert old.spi_in in host.installed
                if new.spi_in in host.installed:
                    host.sending.remove(new.spi_in)
                    host.sending.insert(0, new.spi_in)
            case ChildSaMoved(old, new):
                assert host.installed[old.spi_in] == old
                host.installed[new.spi_in] = new
            case ChildSaDeleted(child):
                assert host.installed.pop(child.spi_in, None) is not None
                host.sending.remove(child.spi_in)
            case AddressesTaken(_, addresses):
                host.addresses.update(addresses)
            case AddressesReleased(_, addresses):
                host.addresses.subtract(addresses)
                assert all(number >= 0 for number in host.addresses.values())
                host.addresses += Counter()
            case ChildSaFailed():
                pass


def pair(
    seed: int = 0,
    link: Link = perfect,
    *,
    a: dict[str, object] | None = None,
    b: dict[str, object] | None = None,
    limits: Limits | None = None,
    **options: object,
) -> tuple[Network, Host, Host]:
    """Two hosts with a connection to each other; `a` and `b` change one end's connection."""
    network = Network(seed, link)
    host_a = network.add("a", A, [connection(A, B, **(a or {}))], limits, **options)
    host_b = network.add("b", B, [connection(B, A, **(b or {}))], limits, **options)
    return network, host_a, host_b


def up(network: Network, host: Host, name: str = "lab", until: float | None = None) -> IkeSa:
    """Initiate and let the network run until everything is quiet, or `until`."""
    sa = host.manager.initiate(name, None, host.address, network.now)
    network.run(network.now + 300 if until is None else until)
    return sa


def connected(seed: int = 0, link: Link = perfect, **options: object) -> tuple[Network, Host, Host]:
    """A pair with an IKE SA and its Child SA."""
    network, a, b = pair(seed, link, **options)  # type: ignore[arg-type]
    up(network, a, until=5.0)
    assert len(a.installed) == len(b.installed) == 1, (a.tracer.lines, b.tracer.lines)
    return network, a, b


def assert_joined(a: Host, b: Host) -> None:
    """One IKE SA at each end, the same one, and Child SAs that fit each other."""
    sa_a, sa_b = a.sa, b.sa
    assert (sa_a.spi_i, sa_a.spi_r) == (sa_b.spi_i, sa_b.spi_r)
    assert sa_a.keys is not None
    assert sa_b.keys is not None
    assert sa_a.keys.sk_d == sa_b.keys.sk_d
    assert sorted(a.installed) == sorted(child.spi_out for child in b.installed.values())
    assert sorted(b.installed) == sorted(child.spi_out for child in a.installed.values())
    for child in a.installed.values():
        other = b.installed[child.spi_out]
        assert child.encr_key_in == other.encr_key_out
        assert child.encr_key_out == other.encr_key_in
        assert child.integ_key_in == other.integ_key_out
        assert child.ts_local == other.ts_remote
        assert child.ts_remote == other.ts_local
        assert child.mode == other.mode


def assert_nothing_left(*hosts: Host) -> None:
    """No SA, no timer, nothing installed, no mistake of ours."""
    for host in hosts:
        assert host.manager.sas == []
        assert host.manager.remembered == 0
        assert host.manager.half_open_count == 0
        assert host.manager.next_timer() is None
        assert host.installed == {}
        assert host.addresses == {}
        assert all(lease.holders == 0 for lease in host.manager.pools)
        assert host.manager.internal_errors == 0
        assert host.spis.reserved == set()
