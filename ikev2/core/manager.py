"""All IKE SAs of one endpoint: which datagram is whose, who may begin one, and what strangers get for an answer.

Messages are given to an SA by the SPI that is ours, never by address (RFC 7296 section 2.6). A request that begins
an SA makes one only when it asks for nothing that we refuse, within the limits, and, when there are many half-open
ones, with a cookie. RFC 7296 sections 1.5, 2.1, 2.4, 2.6 and 2.21.4.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.config import ChildConfig, ConnectionConfig, Identity, Limits
from ikev2.core.cookie import CookieJar
from ikev2.core.events import Event
from ikev2.core.exchanges.ike_sa_init import ZERO_SPI, clear_reply
from ikev2.core.halfopen import HalfOpenTable, TokenBucket
from ikev2.core.ike_sa import IkeSa
from ikev2.core.impair import Impairment, Outlet
from ikev2.core.keylog import KeyLog
from ikev2.core.observer import SPI_OCTETS
from ikev2.core.state import WITH_PEER, State
from ikev2.core.tracer import NullTracer, Tracer
from ikev2.core.types import Address, ChildSpiSource, Datagram, Role
from ikev2.core.window import request_digest
from ikev2.crypto.entropy import Entropy
from ikev2.errors import InvalidSyntax, LocalProtocolError, ProtocolError
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.header import HEADER_OCTETS, MAJOR_VERSION, Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Nonce, Notify
from ikev2.wire.rules import check_message

REQID_BASE = 0x4950_0001
REQID_COUNT = 0xFFFE
REAUTH_RETRY_S = 60.0
"""How long to wait after an authentication that did not succeed while the SA that it was to replace still lives."""


class SaListener(Protocol):
    """Told when an IKE SA gets and loses its authenticated keys."""

    def sa_established(self, sa: IkeSa, now: float) -> None:
        """The SA is established."""
        ...

    def sa_closing(self, sa: IkeSa, now: float) -> None:
        """The SA still has its keys, for the last time."""
        ...

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        ...

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        ...


class SaManager:
    """The IKE endpoint, sans I/O: the methods of IkeSa over all of them, and the choice of connections.

    `impairments` act on what is sent. A driver handles all events before it sends the datagrams of the same turn.
    """

    def __init__(
        self,
        connections: Sequence[ConnectionConfig],
        entropy: Entropy,
        spi_source: ChildSpiSource,
        limits: Limits | None = None,
        *,
        impairments: Sequence[Impairment] = (),
        tracer: Tracer | None = None,
        keylog: KeyLog | None = None,
    ) -> None:
        self.connections: list[ConnectionConfig] = list(connections)
        self.limits = limits or Limits()
        self._outlet = Outlet(impairments)
        self.impairments = self._outlet.impairments
        self.listeners: list[SaListener] = []
        self.now = 0.0
        self.dropped = 0
        self.internal_errors = 0
        self._entropy = entropy
        self._spi_source = spi_source
        self._tracer: Tracer = tracer or NullTracer()
        self._keylog = keylog
        self._by_spi: dict[bytes, IkeSa] = {}
        self._by_request: dict[bytes, bytes] = {}
        self._request_of: dict[bytes, bytes] = {}
        self._half_open = HalfOpenTable(self.limits)
        self._cookies = CookieJar(entropy, self.limits.cookie_secret_s)
        self._replies = TokenBucket(self.limits.unprotected_replies_per_s)
        self._events: deque[Event] = deque()
        self._outbox: list[Datagram] = []
        self._timers: list[tuple[float, int, bytes]] = []
        self._timer_of: dict[bytes, float] = {}
        self._serial = 0
        self._reqid = 0
        self._touched: list[IkeSa] = []

    # --- the sans-IO contract ------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """Take one datagram, from the IKE header on (without the non-ESP marker). Raises nothing on peer input."""
        self.now = max(self.now, now)
        try:
            self._receive(data, local, remote, now)
        except ProtocolError as error:
            self._drop(f"{remote}: {error}")
        except Exception as error:
            # No peer input may take the endpoint down: a mistake of ours costs one datagram, and is counted.
            self.internal_errors += 1
            self._tracer.note(f"internal error on a datagram from {remote}: {type(error).__name__}: {error}")

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent now; each is given once."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def next_event(self) -> Event | None:
        """The next event, None when there is none."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, None for never."""
        while self._timers and self._timer_of.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        times = [listener_at for listener in self.listeners if (listener_at := listener.next_timer()) is not None]
        if self._timers:
            times.append(self._timers[0][0])
        if (delayed_until := self._outlet.next_timer()) is not None:
            times.append(delayed_until)
        return min(times) if times else None

    def handle_timer(self, now: float) -> None:
        """Do whatever is due."""
        self.now = max(self.now, now)
        self._outbox += self._outlet.take_due(now)
        for listener in self.listeners:
            listener.handle_timer(now)
        while self._timers and self._timers[0][0] <= now:
            at, _, spi = heapq.heappop(self._timers)
            sa = self._by_spi.get(spi)
            if sa is None or self._timer_of.get(spi) != at:
                continue
            del self._timer_of[spi]
            sa.handle_timer(now)
            self._collect(sa, now)

    # --- local actions -------------------------------------------------------------------------------------------

    def initiate(
        self,
        connection_name: str,
        remote: Address | None,
        local: Address,
        now: float,
        *,
        child: str | None = None,
        impairments: Sequence[Impairment] = (),
    ) -> IkeSa:
        """Begin an IKE SA. `remote` None takes the connection's first address and its IKE port.

        It comes with the first Child SA and those that start by themselves, or with the one that is named.
        `impairments` spoil what this one SA sends, before those of the manager.
        LocalProtocolError when there is no such connection or Child SA, or the connection names no address.
        """
        self.now = max(self.now, now)
        connection = self.connection(connection_name)
        if remote is None:
            host = next((text for text in connection.remote_addrs if _is_address(text)), None)
            if host is None:
                raise LocalProtocolError(f"connection {connection_name} names no address to call")
            remote = Address(host, connection.ike_port)
        sa = self._make(connection, Role.INITIATOR, local, remote, (), impairments)
        if child is not None:
            sa.wanted = (_child_config(connection, child),)
        sa.initiate(now)
        self._by_spi[sa.spi_i] = sa
        self._collect(sa, now)
        return sa

    def delete(self, sa: IkeSa, now: float, reason: str = "deleted here") -> None:
        """Close an IKE SA."""
        self.now = max(self.now, now)
        sa.delete(now, reason)
        self._collect(sa, now)

    def delete_child(self, child: ChildSaParameters, now: float, reason: str = "deleted here") -> None:
        """Close a Child SA; LocalProtocolError when its IKE SA, or it, is gone."""
        sa = self._owner(child)
        if sa is None:
            raise LocalProtocolError(f"no IKE SA has {child.label}")
        sa.delete_child(child, now, reason)
        self._collect(sa, now)

    def make_child(self, sa: IkeSa, name: str, now: float) -> None:
        """Make a further Child SA, by its name in the configuration. LocalProtocolError when there is no such.

        RFC 7296 section 1.3.1.
        """
        sa.make_child(_child_config(sa.connection, name), now)
        self._collect(sa, now)

    def rekey(self, sa: IkeSa, now: float) -> None:
        """Replace an IKE SA. RFC 7296 section 2.18."""
        sa.rekey(now)
        self._collect(sa, now)

    def rekey_child(self, child: ChildSaParameters, now: float) -> None:
        """Replace a Child SA; LocalProtocolError when its IKE SA, or it, is gone. RFC 7296 section 2.8."""
        sa = self._owner(child)
        if sa is None:
            raise LocalProtocolError(f"no IKE SA has {child.label}")
        sa.rekey_child(child, now)
        self._collect(sa, now)

    def expire_child(self, child: ChildSaParameters, now: float, reason: str = "its lifetime is over") -> None:
        """A Child SA has reached its limit: it is not used any longer, and the peer is told."""
        sa = self._owner(child)
        if sa is not None:
            sa.expire_child(child, now, reason)
            self._collect(sa, now)

    def check_liveness(self, sa: IkeSa, now: float) -> None:
        """Ask a peer whether it lives."""
        sa.check_liveness(now)
        self._collect(sa, now)

    def child_install_failed(self, child: ChildSaParameters, reason: str, now: float) -> None:
        """The backend could not install this pair: it is deleted again, also at the peer."""
        sa = self._owner(child)
        if sa is not None:
            sa.child_install_failed(child, reason, now)
            self._collect(sa, now)

    def connection(self, name: str) -> ConnectionConfig:
        """The connection of this name, or LocalProtocolError."""
        for connection in self.connections:
            if connection.name == name:
                return connection
        raise LocalProtocolError(f"there is no connection {name!r}")

    # --- what others see -----------------------------------------------------------------------------------------

    @property
    def sas(self) -> list[IkeSa]:
        """All IKE SAs that are not closed, oldest first."""
        return [sa for sa in self._by_spi.values() if sa.state is not State.CLOSED]

    @property
    def half_open_count(self) -> int:
        """How many responder SAs there are whose initiator has proved nothing."""
        return len(self._half_open)

    @property
    def remembered(self) -> int:
        """How many SAs are kept in all, with those that are closed and only answer retransmissions."""
        return len(self._by_spi)

    def find(self, spi_i: bytes, spi_r: bytes) -> IkeSa | None:
        """The established IKE SA of these SPIs, in the order of the IKE header."""
        for spi in (spi_i, spi_r):
            sa = self._by_spi.get(spi)
            if sa is not None and (sa.spi_i, sa.spi_r) == (spi_i, spi_r) and _has_keys(sa):
                return sa
        return None

    def find_by_peer(self, host: str) -> list[IkeSa]:
        """Established IKE SAs whose peer has this address, or whose Child SAs lead to it; the newest first.

        An SA whose peer itself has the address goes before one that only leads there.
        """
        found = [
            (sa.remote.host == host, sa.established_at or 0.0, serial, sa)
            for serial, sa in enumerate(self._by_spi.values())
            if _has_keys(sa) and (sa.remote.host == host or _leads_to(sa, host))
        ]
        return [sa for *_, sa in sorted(found, key=lambda entry: entry[1:3], reverse=True)]

    # --- Observer ------------------------------------------------------------------------------------------------

    def is_only_sa(self, sa: IkeSa) -> bool:
        """True when no other SA that may be of this connection's identities is there, or on its way.

        An identity that is not known before the peer says it may be any. RFC 7296 section 2.4.
        """
        wanted = sa.connection
        return not any(
            other is not sa
            and other.state is not State.CLOSED
            and _may_be_one(wanted.local_id, other.connection.local_id)
            and _may_be_one(wanted.remote_id, other.peer_id or other.connection.remote_id)
            for other in self._by_spi.values()
        )

    def next_reqid(self) -> int:
        """The next number of our range."""
        self._reqid = (self._reqid + 1) % REQID_COUNT
        return REQID_BASE + self._reqid

    def new_ike_spi(self) -> bytes:
        """An IKE SPI that is unique here (rfc7296-s2.6-01)."""
        while (spi := self._entropy.octets(SPI_OCTETS)) == ZERO_SPI or spi in self._by_spi:
            continue
        return spi

    def established(self, sa: IkeSa, now: float, *, initial_contact: bool) -> None:
        """Tell the listeners; after INITIAL_CONTACT drop the SAs that the peer has forgotten.

        Those that came up after the new one was begun are spared: the peer may have made both at once.
        """
        for listener in self.listeners:
            listener.sa_established(sa, now)
        if not initial_contact:
            return
        for other in list(self._by_spi.values()):
            if (
                other is not sa
                and other.established_at is not None
                and other.established_at < sa.created_at
                and (other.local_id, other.peer_id) == (sa.local_id, sa.peer_id)
            ):
                other.close("the peer has started anew (INITIAL_CONTACT)", now)  # rfc7296-s2.4-04
                self._collect(other, now)

    def adopted(self, sa: IkeSa, now: float) -> None:
        """Keep what came of the rekeying of another."""
        self._by_spi[_own_spi(sa)] = sa
        self._touched.append(sa)
        for listener in self.listeners:
            listener.sa_established(sa, now)

    def touched(self, sa: IkeSa) -> None:
        """Look at this one, too, at the end of the turn."""
        self._touched.append(sa)

    def reauthenticate(self, sa: IkeSa, now: float) -> None:
        """Begin the IKE SA that is to replace this one. RFC 7296 section 2.8.3."""
        port = sa.connection.ike_port
        local, remote = Address(sa.local.host, port), Address(sa.remote.host, port)
        new = self._make(sa.connection, Role.INITIATOR, local, remote, ())
        new.replaces = sa
        new.wanted = tuple({child.config.name: child.config for child in sa.children.values()}.values())
        new.initiate(now)
        self._by_spi[new.spi_i] = new
        self._touched.append(new)

    def replaced(self, sa: IkeSa, now: float) -> None:
        """Delete what this one replaces, when it has all of its Child SAs."""
        old, sa.replaces = sa.replaces, None
        while old is not None and old.heir is not None:
            old = old.heir
        if old is None or old.state is State.CLOSED:
            return
        missing = _child_names(old) - _child_names(sa)
        if missing:
            self._tracer.note(f"{old.name} stays: {sa.name} has no {', '.join(sorted(missing))}")
            return
        old.delete(now, "authenticated anew")
        self._touched.append(old)

    def closing(self, sa: IkeSa, now: float) -> None:
        """Tell the listeners, while there are keys."""
        old = sa.replaces
        if old is not None and sa.established_at is None:
            # It did not come up: try again, as long as the old one lives.
            old.times.reauth_at = now + REAUTH_RETRY_S
            self._touched.append(old)
        if sa.established_at is not None:
            for listener in self.listeners:
                listener.sa_closing(sa, now)

    # --- receiving -----------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        header = Header.parse(data)
        if header.major_version != MAJOR_VERSION:
            self._refuse_version(header, local, remote, now)
            return
        sa = self._find_for(header, data)
        if sa is not None:
            sa.receive_datagram(data, local, remote, now)
            self._collect(sa, now)
        elif header.is_response:
            # rfc7296-s2.21.4-01, rfc7296-s2.21.4-05, rfc7296-s3.1-14
            raise InvalidSyntax("a response that nobody waits for")
        elif _begins(header):
            self._begin(data, local, remote, now)
        elif header.exchange_type != ExchangeType.IKE_SA_INIT and header.length == len(data) > HEADER_OCTETS:
            self._reply(header, Notify(NotifyType.INVALID_IKE_SPI), local, remote, now)

    def _find_for(self, header: Header, data: bytes) -> IkeSa | None:
        """The SA to which our SPI in this message belongs. RFC 7296 section 2.6."""
        if _begins(header):
            # rfc7296 section 2.1: a repeated first request is known by the whole of it.
            spi = self._by_request.get(request_digest(data))
            return None if spi is None else self._by_spi.get(spi)
        sa = self._by_spi.get(header.responder_spi if header.is_initiator else header.initiator_spi)
        if sa is None or (sa.role is Role.RESPONDER) is not header.is_initiator:
            return None
        return sa

    def _refuse_version(self, header: Header, local: Address, remote: Address, now: float) -> None:
        # rfc7296-s2.5-02, rfc7296-s2.5-03, rfc7296-s3.1-07: dropped; a lower version is another protocol.
        if header.major_version > MAJOR_VERSION and not header.is_response:
            self._reply(header, Notify(NotifyType.INVALID_MAJOR_VERSION), local, remote, now)
        self._drop(f"{remote}: version {header.major_version}.{header.minor_version}")

    def _reply(self, header: Header, notify: Notify, local: Address, remote: Address, now: float) -> None:
        """Answer outside of an IKE SA, unprotected, within the rate (rfc7296-s2.4-05, rfc7296-s2.21.4-03)."""
        if self._replies.take(now):
            self._queue([Datagram(clear_reply(header, (notify,)), local, remote)], now)
        else:
            self._drop(f"{remote}: no reply, too many already")

    def _begin(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """A stranger wants an IKE SA: make a half-open one, ask for a cookie, or refuse and forget."""
        candidates = [connection for connection in self.connections if connection.serves(local.host, remote.host)]
        try:
            message = Message.parse(data)
        except InvalidSyntax as error:
            if candidates and len(data) == Header.parse(data).length:
                self._reply(Header.parse(data), Notify(NotifyType.INVALID_SYNTAX), local, remote, now)
            raise error
        if message.header.initiator_spi in self._by_spi:
            # Somebody returns what we send: we would prove the shared secret to ourselves.
            raise InvalidSyntax("a request with an SPI of our own")
        if self._half_open.wants_cookies and not self._has_cookie(message, remote, now):
            check_message(message)  # what could not begin an SA is shorter than a cookie: nobody shall gain by it
            self._ask_for_cookie(message, local, remote, now)
            return
        if not self._half_open.has_room(remote.host) or len(self._by_spi) >= self.limits.ike_sa_limit:
            self._drop(f"{remote}: too many half-open IKE SAs")
            return
        if not candidates:
            self._reply(message.header, Notify(NotifyType.NO_PROPOSAL_CHOSEN), local, remote, now)
            self._drop(f"{remote}: no connection between {local.host} and {remote.host}")
            return
        sa = self._make(candidates[0], Role.RESPONDER, local, remote, candidates)
        sa.receive_message(message, data, local, remote, now)
        if sa.state is State.HALF_OPEN:
            digest = request_digest(data)
            self._by_spi[sa.spi_r] = sa
            self._by_request[digest] = sa.spi_r
            self._request_of[sa.spi_r] = digest
            self._collect(sa, now)
        else:
            self._refused(sa, now)

    def _refused(self, sa: IkeSa, now: float) -> None:
        """Nothing is kept of it but the answer; all but INVALID_KE_PAYLOAD, which helps, within the rate."""
        for datagram in sa.datagrams_to_send():
            notify = Message.parse(datagram.data).payloads[0]
            helps = isinstance(notify, Notify) and notify.notify_type == NotifyType.INVALID_KE_PAYLOAD
            if helps or self._replies.take(now):
                self._queue([datagram], now)

    def _has_cookie(self, message: Message, remote: Address, now: float) -> bool:
        nonce = _nonce(message)
        return any(
            self._cookies.holds(payload.data, nonce, remote.host, message.header.initiator_spi, now)
            for payload in message.payloads
            if isinstance(payload, Notify) and payload.notify_type == NotifyType.COOKIE
        )

    def _ask_for_cookie(self, message: Message, local: Address, remote: Address, now: float) -> None:
        """Answer with a cookie and keep nothing (rfc7296-s2.6-02, rfc7296-s2.6-05)."""
        cookie = self._cookies.bake(_nonce(message), remote.host, message.header.initiator_spi, now)
        reply = clear_reply(message.header, (Notify(NotifyType.COOKIE, cookie),))
        self._queue([Datagram(reply, local, remote)], now)

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        self._tracer.note(f"dropped: {reason}")

    # --- keeping order -------------------------------------------------------------------------------------------

    def _make(
        self,
        connection: ConnectionConfig,
        role: Role,
        local: Address,
        remote: Address,
        candidates: Iterable[ConnectionConfig],
        impairments: Sequence[Impairment] = (),
    ) -> IkeSa:
        return IkeSa(
            connection,
            role,
            self._entropy,
            self._spi_source,
            local=local,
            remote=remote,
            candidates=tuple(candidates),
            limits=self.limits,
            observer=self,
            tracer=self._tracer,
            keylog=self._keylog,
            impairments=impairments,
            shared_impairments=self.impairments,
        )

    def _collect(self, sa: IkeSa, now: float) -> None:
        """Take what an SA has to say, and whoever was touched by it, and keep the tables in step with their states."""
        self._collect_one(sa, now)
        while self._touched:
            self._collect_one(self._touched.pop(0), now)

    def _collect_one(self, sa: IkeSa, now: float) -> None:
        while (event := sa.next_event()) is not None:
            self._events.append(event)
        self._queue(sa.datagrams_to_send(), now)
        spi = _own_spi(sa)
        if sa.finished:
            self._forget(spi)
            return
        self._half_open.set(spi, sa.remote.host, half_open=sa.is_half_open)
        at = sa.next_timer()
        if at is None:
            self._timer_of.pop(spi, None)
        elif self._timer_of.get(spi) != at:
            self._timer_of[spi] = at
            self._serial += 1
            heapq.heappush(self._timers, (at, self._serial, spi))

    def _forget(self, spi: bytes) -> None:
        self._by_spi.pop(spi, None)
        self._timer_of.pop(spi, None)
        self._half_open.set(spi, "", half_open=False)
        digest = self._request_of.pop(spi, None)
        if digest is not None:
            self._by_request.pop(digest, None)

    def _queue(self, datagrams: Iterable[Datagram], now: float) -> None:
        for datagram in datagrams:
            self._outbox += self._outlet.send(datagram, now)

    def _owner(self, child: ChildSaParameters) -> IkeSa | None:
        return next((sa for sa in self._by_spi.values() if child.spi_in in sa.children), None)


def _begins(header: Header) -> bool:
    return (
        header.exchange_type == ExchangeType.IKE_SA_INIT
        and not header.is_response
        and header.is_initiator
        and header.responder_spi == ZERO_SPI
        and header.initiator_spi != ZERO_SPI
        and header.message_id == 0
    )


def _own_spi(sa: IkeSa) -> bytes:
    return sa.spi_i if sa.role is Role.INITIATOR else sa.spi_r


def _child_config(connection: ConnectionConfig, name: str) -> ChildConfig:
    for child in connection.children:
        if child.name == name:
            return child
    raise LocalProtocolError(f"connection {connection.name} has no child {name!r}")


def _child_names(sa: IkeSa) -> set[str]:
    return {child.config.name for child in sa.children.values()}


def _may_be_one(one: Identity | None, other: Identity | None) -> bool:
    return one is None or other is None or one.matches(other)


def _nonce(message: Message) -> bytes:
    return next((payload.data for payload in message.payloads if isinstance(payload, Nonce)), b"")


def _has_keys(sa: IkeSa) -> bool:
    return sa.established_at is not None and sa.state in WITH_PEER and sa.keys is not None


def _leads_to(sa: IkeSa, host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0]).packed
    except ValueError:
        return False
    return any(
        len(ts.start_address) == len(address) and ts.start_address <= address <= ts.end_address
        for child in sa.children.values()
        for ts in child.params.ts_remote
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
