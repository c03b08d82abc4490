"""All IKE SAs of one endpoint: which datagram is whose, who may begin one, and what strangers get for an answer.

Messages are given to an SA by the SPI that is ours, never by address (RFC 7296 section 2.6). A request that begins
an SA makes one only when it asks for nothing that we refuse, within the limits, and, when there are many half-open
ones, with a cookie. RFC 7296 sections 1.5, 2.1, 2.4, 2.6 and 2.21.4.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from ikev2.core import dispatch, suspicion
from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.config import ChildConfig, ConnectionConfig, Limits
from ikev2.core.events import ChildSaReady, Event
from ikev2.core.exchange import Ask, PacketSelectors
from ikev2.core.ike_sa import IkeSa
from ikev2.core.impair import Impairment
from ikev2.core.keylog import KeyLog
from ikev2.core.pools import PoolConfig
from ikev2.core.sa_keeper import SaKeeper
from ikev2.core.state import State
from ikev2.core.strangers import begins, deserves_hint, nonce_of
from ikev2.core.tracer import Tracer
from ikev2.core.types import Address, ChildSpiSource, Datagram, Role
from ikev2.core.window import request_digest
from ikev2.crypto.entropy import Entropy
from ikev2.errors import InvalidSyntax, LocalProtocolError, ProtocolError
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.header import MAJOR_VERSION, Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Notify, Payload
from ikev2.wire.rules import check_message


class SaManager(SaKeeper):
    """The IKE endpoint, sans I/O: the methods of IkeSa over all of them, and the choice of connections.

    `impairments` act on what is sent. A driver handles all events before it sends the datagrams of the same turn.
    `before_timer` is called with an SA whose time has come, before it is handled: the moment to tell it of traffic that
    it has not seen (`IkeSa.note_inbound_traffic`).
    """

    def __init__(
        self,
        connections: Sequence[ConnectionConfig],
        entropy: Entropy,
        spi_source: ChildSpiSource,
        limits: Limits | None = None,
        *,
        pools: Sequence[PoolConfig] = (),
        impairments: Sequence[Impairment] = (),
        tracer: Tracer | None = None,
        keylog: KeyLog | None = None,
        before_timer: Callable[[IkeSa], None] | None = None,
    ) -> None:
        super().__init__(
            entropy,
            spi_source,
            limits or Limits(),
            pools=pools,
            impairments=impairments,
            tracer=tracer,
            keylog=keylog,
        )
        self.connections: list[ConnectionConfig] = list(connections)
        self.dropped = 0
        self.internal_errors = 0
        self._given: Event | None = None
        self._before_timer = before_timer

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
        """The next event, None when there is none.

        Who asks for it has carried out the one before: a Child SA that was ready is installed now, unless
        `child_install_failed` said otherwise.
        """
        done, self._given = self._given, None
        if isinstance(done, ChildSaReady):
            owner = self._table.owner(done.child)
            if owner is not None and owner.child_installed(done.child, self.now):
                self._collect(owner, self.now)
        self._given = self._events.popleft() if self._events else None
        return self._given

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, None for never."""
        times = [listener_at for listener in self.listeners if (listener_at := listener.next_timer()) is not None]
        if (table_at := self._table.next_timer()) is not None:
            times.append(table_at)
        if (delayed_until := self._outlet.next_timer()) is not None:
            times.append(delayed_until)
        return min(times) if times else None

    def handle_timer(self, now: float) -> None:
        """Do whatever is due."""
        self.now = max(self.now, now)
        self._outbox += self._outlet.take_due(now)
        for listener in self.listeners:
            listener.handle_timer(now)
        for sa in self._table.take_due(now):
            if self._before_timer is not None:
                self._before_timer(sa)
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
        packet: PacketSelectors | None = None,
        impairments: Sequence[Impairment] = (),
    ) -> IkeSa:
        """Begin an IKE SA. `remote` None takes the connection's first address and the port to begin at.

        It comes with the first Child SA and those that start by themselves, or with the one that is named, which a
        `packet` of these selectors wants.
        `impairments` spoil what this one SA sends, before those of the manager.
        LocalProtocolError when there is no such connection or Child SA, or the connection names no address.
        """
        self.now = max(self.now, now)
        connection = self.connection(connection_name)
        if remote is None:
            host = next((text for text in connection.remote_addrs if _is_address(text)), None)
            if host is None:
                raise LocalProtocolError(f"connection {connection_name} names no address to call")
            remote = Address(host, connection.first_ports[1])
        sa = self._make(connection, Role.INITIATOR, local, remote, (), impairments)
        if child is not None:
            sa.wanted, sa.packet = (_child_config(connection, child),), packet
        sa.initiate(now)
        self._table.add(sa)
        self._collect(sa, now)
        return sa

    def delete(self, sa: IkeSa, now: float, reason: str = "deleted here") -> None:
        """Close an IKE SA."""
        self.now = max(self.now, now)
        sa.delete(now, reason)
        self._collect(sa, now)

    def delete_child(self, child: ChildSaParameters, now: float, reason: str = "deleted here") -> None:
        """Close a Child SA; LocalProtocolError when its IKE SA, or it, is gone."""
        sa = self._table.owner(child)
        if sa is None:
            raise LocalProtocolError(f"no IKE SA has {child.label}")
        sa.delete_child(child, now, reason)
        self._collect(sa, now)

    def make_child(self, sa: IkeSa, name: str, now: float, *, packet: PacketSelectors | None = None) -> None:
        """Make a further Child SA, by its name in the configuration. LocalProtocolError when there is no such.

        `packet` are the selectors of that for which it is wanted. RFC 7296 sections 1.3.1 and 2.9.
        """
        sa.make_child(_child_config(sa.connection, name), now, packet=packet)
        self._collect(sa, now)

    def rekey(self, sa: IkeSa, now: float) -> None:
        """Replace an IKE SA. RFC 7296 section 2.18."""
        sa.rekey(now)
        self._collect(sa, now)

    def rekey_child(self, child: ChildSaParameters, now: float) -> None:
        """Replace a Child SA; LocalProtocolError when its IKE SA, or it, is gone. RFC 7296 section 2.8."""
        sa = self._table.owner(child)
        if sa is None:
            raise LocalProtocolError(f"no IKE SA has {child.label}")
        sa.rekey_child(child, now)
        self._collect(sa, now)

    def expire_child(self, child: ChildSaParameters, now: float, reason: str = "its lifetime is over") -> None:
        """A Child SA has reached its limit: it is not used any longer, and the peer is told."""
        sa = self._table.owner(child)
        if sa is not None:
            sa.expire_child(child, now, reason)
            self._collect(sa, now)

    def ask(self, sa: IkeSa, exchange: ExchangeType, payloads: Sequence[Payload], now: float) -> Ask:
        """Send a request of the caller's own making; Answered, with what this returns, follows.

        LocalProtocolError when a payload cannot be encoded, or the SA is not established.
        """
        asked = sa.ask(exchange, payloads, now)
        self._collect(sa, now)
        return asked

    def check_liveness(self, sa: IkeSa, now: float) -> None:
        """Ask a peer whether it lives."""
        sa.check_liveness(now)
        self._collect(sa, now)

    def peer_moved(self, child: ChildSaParameters, remote: Address, now: float) -> None:
        """A fresh authentic ESP packet of this pair came from another address of the peer. RFC 7296 section 2.23."""
        sa = self._table.owner(child)
        if sa is not None:
            dispatch.follow(sa, sa.local, remote)
            self._collect(sa, now)

    def note_path_mtu(self, host: str, octets: int, now: float) -> None:
        """An ICMP error says that IP datagrams to `host` may have `octets` at most. RFC 7383 section 2.5.2."""
        worth = self._path_mtus.note(host, octets, now)
        for sa in self._table if worth else ():
            if sa.remote.host == host and sa.fragmentation.path_mtu != worth:
                sa.note_path_mtu(worth, now)
                self._collect(sa, now)

    def child_install_failed(self, child: ChildSaParameters, reason: str, now: float) -> None:
        """The backend could not install this pair: it is deleted again, also at the peer."""
        sa = self._table.owner(child)
        if sa is not None:
            sa.child_install_failed(child, reason, now)
            self._collect(sa, now)

    def connection(self, name: str) -> ConnectionConfig:
        """The connection of this name, or LocalProtocolError."""
        for connection in self.connections:
            if connection.name == name:
                return connection
        raise LocalProtocolError(f"there is no connection {name!r}")

    # --- receiving -----------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        header = Header.parse(data)
        if header.major_version != MAJOR_VERSION:  # rfc7296-s2.5-04: this one, and none between it and another
            self._refuse_version(header, local, remote, now)
            return
        sa = self._find_for(header, data)
        if sa is not None:
            sa.receive_datagram(data, local, remote, now, header)
            self._collect(sa, now)
        elif header.is_response:
            # rfc7296-s2.21.4-01, rfc7296-s2.21.4-05, rfc7296-s3.1-14
            raise InvalidSyntax("a response that nobody waits for")
        elif begins(header):
            self._begin(header, data, local, remote, now)
        elif deserves_hint(header, data):
            notify = Notify(NotifyType.INVALID_IKE_SPI)  # rfc7296-s2.21.4-04
            self._reply(header, notify, local, remote, now)
            self._report(notify, remote, now)
        elif suspicion.is_hint(header, data):
            self._drop(f"{remote}: an unprotected INVALID_SPI")
            partner = suspicion.partner(self._table, remote, in_udp=True)
            if partner is not None:
                suspicion.hint(partner, now)
                self._collect(partner, now)

    def stray_esp(self, spi: int, local: Address, remote: Address, now: float, *, in_udp: bool) -> None:
        """An ESP packet came whose SPI is not ours; the ports are those of UDP, or else of IKE.

        Its sender is told over an IKE SA with it, or else unprotected. RFC 7296 sections 1.5 and 2.21.4.
        """
        self.now = max(self.now, now)
        if self._retired.holds(spi, now) or self._table.owner_of_spi(spi) is not None:
            return
        notify = suspicion.invalid_spi(spi)
        if suspicion.partner(self._table, remote, in_udp=in_udp) is not None:
            self._report(notify, remote, now, in_udp=in_udp)
        elif self._strangers.may_reply(now):
            self._queue([Datagram(suspicion.unprotected(notify), local, remote)], now)
        else:
            self._drop(f"{remote}: no reply, too many already")

    def wrong_selectors(self, spi_in: int, packet: bytes, now: float) -> None:
        """A packet that came on a Child SA was dropped because its selectors do not mean it.

        The peer is told, not too often, where the connection says so. RFC 4301 section 5.2, RFC 7296 section 3.10.1.
        """
        self.now = max(self.now, now)
        sa = self._table.owner_of_spi(spi_in)
        if sa is None or not sa.connection.invalid_selectors:
            return
        if suspicion.report(sa, suspicion.invalid_selectors(spi_in, packet), now):
            self._tracer.note(f"{sa.name}: the peer is told of {NotifyType.INVALID_SELECTORS}")
            self._collect(sa, now)

    def _report(self, notify: Notify, remote: Address, now: float, *, in_udp: bool = True) -> None:
        """Tell the peer of what came from its address, over the IKE SA that there is with it."""
        partner = suspicion.partner(self._table, remote, in_udp=in_udp)
        if partner is not None and suspicion.report(partner, notify, now):
            self._tracer.note(f"{partner.name}: the peer is told of {notify.notify_type}")
            self._collect(partner, now)

    def _find_for(self, header: Header, data: bytes) -> IkeSa | None:
        """The SA to which our SPI in this message belongs. RFC 7296 section 2.6."""
        if begins(header):
            return self._table.by_request(request_digest(data))
        sa = self._table.by_spi(header.responder_spi if header.is_initiator else header.initiator_spi)
        if sa is None or (sa.role is Role.RESPONDER) is not header.is_initiator:
            return None
        return sa

    def _refuse_version(self, header: Header, local: Address, remote: Address, now: float) -> None:
        # rfc7296-s2.5-02, rfc7296-s2.5-03, rfc7296-s3.1-07: dropped; a lower version is another protocol.
        if header.major_version > MAJOR_VERSION and not header.is_response:
            self._reply(header, Notify(NotifyType.INVALID_MAJOR_VERSION), local, remote, now)
        self._drop(f"{remote}: version {header.major_version}.{header.minor_version}")

    def _reply(self, header: Header, notify: Notify, local: Address, remote: Address, now: float) -> None:
        """Answer outside of an IKE SA."""
        reply = self._strangers.reply(header, notify, local, remote, now)
        if reply is not None:
            self._queue([reply], now)
        else:
            self._drop(f"{remote}: no reply, too many already")

    def _serving(self, local: Address, remote: Address) -> list[ConnectionConfig]:
        """The connections between these addresses: those that name them first, else in the order of the file."""
        ranked = [(one.address_quality(local.host, remote.host), one) for one in self.connections]
        return [one for rank, one in sorted(ranked, key=lambda entry: -entry[0]) if rank]

    def _begin(self, header: Header, data: bytes, local: Address, remote: Address, now: float) -> None:
        """A stranger wants an IKE SA: make a half-open one, ask for a cookie, or refuse and forget."""
        if header.initiator_spi in self._table:
            # Somebody returns what we send: we would prove the shared secret to ourselves.
            raise InvalidSyntax("a request with an SPI of our own")
        strangers = self._strangers
        wants_cookies = strangers.want_cookies(now)
        if wants_cookies and (nonce := strangers.shapes.nonce_of(data)) is not None:
            self._queue([strangers.cookie_request(header.initiator_spi, nonce, local, remote, now)], now)
            return
        candidates = self._serving(local, remote)
        try:
            message = Message.parse(data, header)
        except InvalidSyntax as error:
            if candidates and len(data) == header.length:
                self._reply(header, Notify(NotifyType.INVALID_SYNTAX), local, remote, now)
            raise error
        if wants_cookies and not strangers.has_cookie(message, remote, now):
            check_message(message)  # what could not begin an SA is shorter than a cookie: nobody shall gain by it
            strangers.shapes.accept(data)
            self._queue(
                [strangers.cookie_request(header.initiator_spi, nonce_of(message), local, remote, now)], now
            )
            return
        if not strangers.half_open.has_room(remote.host) or len(self._table) >= self.limits.ike_sa_limit:
            self._drop(f"{remote}: too many half-open IKE SAs")
            return
        if not candidates:
            self._reply(message.header, Notify(NotifyType.NO_PROPOSAL_CHOSEN), local, remote, now)
            self._drop(f"{remote}: no connection between {local.host} and {remote.host}")
            return
        sa = self._make(candidates[0], Role.RESPONDER, local, remote, candidates)
        sa.receive_message(message, data, local, remote, now)
        if sa.state is State.HALF_OPEN:
            self._table.add(sa, request_digest(data))
            self._collect(sa, now)
        else:
            # Nothing is kept of it but the answer.
            told = [refusal for refusal in sa.datagrams_to_send() if strangers.may_be_told(refusal, now)]
            self._queue(told, now)

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        self._tracer.note(f"dropped: {reason}")


def _child_config(connection: ConnectionConfig, name: str) -> ChildConfig:
    for child in connection.children:
        if child.name == name:
            return child
    raise LocalProtocolError(f"connection {connection.name} has no child {name!r}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
