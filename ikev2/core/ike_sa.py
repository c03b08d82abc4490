"""One IKE SA, sans I/O: datagrams and time go in, datagrams, events and one timer come out.

The rules, before the code:

- Every message of the peer is looked up in the table of core/transitions.py; what has no row is dropped, or refused
  when it is authentic and the SA is established.
- Nothing that is not authenticated changes the SA once keys exist. Before that, in IKE_SA_INIT, an unauthenticated
  message can only make us send another one, a bounded number of times. RFC 7296 sections 2.4 and 2.21.1.
- No more requests of ours are in flight than the peer's window allows, one until it says more; local actions wait in
  a queue for their turn. RFC 7296 section 2.3 and core/scheduling.py.
- Responses are kept, as many as we have promised, and sent again for the same request, octet for octet, also for a
  while after the SA has closed. RFC 7296 section 2.1 and core/window.py.
- No peer input raises out of `receive_datagram`.

RFC 7296 sections 1 and 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ikev2.core import cp, dispatch, lifetime, scheduling, succession, transmission
from ikev2.core.channel import SecureChannel
from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.child_table import ChildTable
from ikev2.core.config import ChildConfig, ConnectionConfig, Identity, Limits
from ikev2.core.events import (
    ChildSaFailed,
    Event,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaFailed,
)
from ikev2.core.exchange import (
    Ask,
    CheckLiveness,
    CloseChildSa,
    CloseIkeSa,
    Ignored,
    Inbound,
    MakeChildSa,
    PacketSelectors,
    RekeyChildSa,
    RekeyIkeSa,
    Task,
)
from ikev2.core.exchanges import ike_sa_init
from ikev2.core.exchanges.ike_sa_init import ZERO_SPI, Handshake
from ikev2.core.fragmentation import Fragmentation
from ikev2.core.impair import Impairment, Outlet, message_impairments
from ikev2.core.info import IkeSaInfo, ike_sa_info
from ikev2.core.keylog import KeyLog
from ikev2.core.nat import NatState
from ikev2.core.observer import LoneObserver, Observer
from ikev2.core.state import State
from ikev2.core.tracer import NullTracer, Tracer
from ikev2.core.transitions import TRANSITIONS
from ikev2.core.types import Address, ChildSpiSource, Datagram, Role
from ikev2.core.window import Requests, Responses
from ikev2.crypto.entropy import Entropy
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.suites import IkeSuite
from ikev2.errors import IkeError, LocalProtocolError, ProtocolError
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.header import Header
from ikev2.wire.message import Message, encode_payloads
from ikev2.wire.payloads import Payload

_INIT = bytes((ExchangeType.IKE_SA_INIT,))


class IkeSa(ChildTable):
    """One IKE SA in either role.

    `connection` is what we want (initiator) or the first of `candidates` (responder; the one that counts is known
    after IKE_AUTH). `impairments` spoil what this SA sends, `shared_impairments` only the messages that it makes: their
    datagrams are someone else's. Errors of the peer never raise; LocalProtocolError for a local action that does not
    fit.
    RFC 7296 sections 1.2 to 1.4, 2.1 to 2.4.
    """

    def __init__(
        self,
        connection: ConnectionConfig,
        role: Role,
        entropy: Entropy,
        spi_source: ChildSpiSource,
        *,
        local: Address,
        remote: Address,
        candidates: Sequence[ConnectionConfig] = (),
        limits: Limits | None = None,
        observer: Observer | None = None,
        tracer: Tracer | None = None,
        keylog: KeyLog | None = None,
        impairments: Sequence[Impairment] = (),
        shared_impairments: Sequence[Impairment] = (),
    ) -> None:
        super().__init__()
        self.connection = connection
        self.role = role
        self.entropy = entropy
        self.spi_source = spi_source
        self.local, self.remote = local, remote
        self.candidates = tuple(candidates) or (connection,)
        self.limits = limits or Limits()
        self.observer: Observer = observer or LoneObserver(entropy)
        self.tracer: Tracer = tracer or NullTracer()
        self.keylog = keylog
        self.impairments = tuple(impairments)
        self.rewriters = message_impairments((*impairments, *shared_impairments))
        self._outlet = Outlet(impairments) if impairments else None
        self.state = State.IDLE
        self.spi_i = self.spi_r = ZERO_SPI
        self.nat = NatState()
        self.suite: IkeSuite | None = None
        self.keys: IkeKeys | None = None
        self.handshake: Handshake | None = None
        self.local_id: Identity | None = None
        self.peer_id: Identity | None = None
        self.cp = cp.CpState()
        self.wanted = _wanted(connection) if role is Role.INITIATOR else ()
        self.packet: PacketSelectors | None = None
        self.replaces: IkeSa | None = None
        self.tried_anew = False
        self.predecessor: IkeSa | None = None
        self.heir: IkeSa | None = None
        self.authenticated_first = role is Role.INITIATOR
        self.times = lifetime.Times()
        self.busy_since: float | None = None
        self.requests = Requests(connection.retransmission, entropy)
        self.responses = Responses()
        self.created_at = 0.0
        self.established_at: float | None = None
        self.last_inbound_at = 0.0
        self.dropped = 0
        self.channel: SecureChannel | None = None
        self.fragmentation = Fragmentation()
        self.extensions: dict[str, object] = {}
        self.tasks: deque[Task] = deque()
        self._outbox: list[Datagram] = []
        self.deadline: float | None = None
        self.last_hint_at = self.last_report_at = float("-inf")
        self.close_after: tuple[str, NotifyType | None] | None = None
        self.failed = False
        self.comes_of_rekeying = False

    # --- the sans-IO contract ------------------------------------------------------------------------------------

    def receive_datagram(
        self, data: bytes, local: Address, remote: Address, now: float, header: Header | None = None
    ) -> None:
        """Take one datagram of the peer, from the IKE header on, which may be read already.

        Raises nothing on peer input.
        """
        try:
            message = Message.parse(data, header)
        except ProtocolError as error:
            self._drop(f"malformed message: {error}")
            return
        self.receive_message(message, data, local, remote, now)

    def receive_message(self, message: Message, data: bytes, local: Address, remote: Address, now: float) -> None:
        """The same for a message that is parsed already."""
        inbound = Inbound(message, message.payloads, data, local, remote, now)
        try:
            if message.header.is_response:
                dispatch.receive_response(self, inbound)
            else:
                dispatch.receive_request(self, inbound)
        except (IkeError, Ignored) as error:
            self._drop(str(error))
        self._pump(now)

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent now; each is given once."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def next_event(self) -> Event | None:
        """The next event, None when there is none."""
        return self._events.popleft() if self._events else None

    def child_installed(self, child: ChildSaParameters, now: float) -> bool:
        """The driver has carried out a ChildSaReady: what this pair replaces may go. False when it replaces nothing."""
        if not self.take_place(child.spi_in):
            return False
        self._pump(now)
        return True

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, None for never."""
        others = (
            self.deadline,
            self.requests.next_timer(),
            self._liveness_at(),
            self.fragmentation.next_timer(),
            lifetime.next_timer(self),
        )
        times = [time for time in others if time is not None]
        if self._outlet is not None and (delayed_until := self._outlet.next_timer()) is not None:
            times.append(delayed_until)
        return min(times) if times else None

    def handle_timer(self, now: float) -> None:
        """Send again, give up, forget, or ask whether the peer lives: whatever is due."""
        if self.deadline is not None and self.deadline <= now:
            self.deadline = None
            if self.state is State.CLOSED:
                self.responses = Responses()
            elif self.state is State.REKEYED:
                self.queue(CloseIkeSa("replaced, and the peer did not delete it"))
            else:
                self.close("the initiator did not come back with IKE_AUTH", now)
        self.fragmentation.expire(now)
        if self._outlet is not None:
            self._outbox += self._outlet.take_due(now)
        transmission.send_late(self, now)
        lifetime.handle_timer(self, now)
        due = self._liveness_at()
        if due is not None and due <= now:
            self.tasks.append(CheckLiveness())
        self._pump(now)

    # --- local actions -------------------------------------------------------------------------------------------

    def initiate(self, now: float) -> None:
        """Begin IKE_SA_INIT. LocalProtocolError unless this is a fresh initiator."""
        if self.state is not State.IDLE or self.role is not Role.INITIATOR:
            raise LocalProtocolError("only a fresh initiator can begin")
        self.spi_i = self.observer.new_ike_spi()  # rfc7296-s2.6-01, rfc7296-s3.1-03
        self.created_at = now
        ike_sa_init.begin(self, now)
        self.go(State.INIT_SENT, "send our proposals, a KE value and a nonce")

    def delete(self, now: float, reason: str = "deleted here") -> None:
        """Close the IKE SA with its Child SAs; IkeSaDeleted comes when the peer has answered or is given up."""
        if self.state in (State.IDLE, State.INIT_SENT, State.HALF_OPEN):
            self.close(reason, now)
        elif self.state not in (State.DELETING, State.CLOSED) and not self.is_closing():
            self.queue_first(CloseIkeSa(reason))
            self._pump(now)

    def delete_child(self, child: ChildSaParameters | int, now: float, reason: str = "deleted here") -> None:
        """Close a Child SA, given as its parameters or its inbound SPI. LocalProtocolError when it is not here."""
        spi_in = child if isinstance(child, int) else child.spi_in
        found = self.children.get(spi_in)
        if found is None:
            raise LocalProtocolError(f"this IKE SA has no Child SA with the inbound SPI {spi_in:08x}")
        if not any(isinstance(task, CloseChildSa) and task.spi_in == spi_in for task in self.tasks):
            self.tasks.append(CloseChildSa(spi_in, reason))
            self._pump(now)

    def make_child(self, config: ChildConfig, now: float, *, packet: PacketSelectors | None = None) -> None:
        """Make a further Child SA: ChildSaReady or ChildSaFailed follows. `packet`: the selectors of what wants it.

        RFC 7296 sections 1.3.1 and 2.9.
        """
        self._need_peer()
        self.tasks.append(MakeChildSa(config, packet=packet))
        self._pump(now)

    def rekey_child(self, child: ChildSaParameters | int, now: float) -> None:
        """Replace a Child SA: ChildSaRekeyed or ChildSaFailed follows. LocalProtocolError when it is not here.

        RFC 7296 section 2.8.
        """
        spi_in = child if isinstance(child, int) else child.spi_in
        found = self.children.get(spi_in)
        if found is None:
            raise LocalProtocolError(f"this IKE SA has no Child SA with the inbound SPI {spi_in:08x}")
        if not found.rekeying and not self.is_closing_child(found):
            found.rekeying = True
            self.tasks.append(RekeyChildSa(spi_in))
            self._pump(now)

    def rekey(self, now: float) -> None:
        """Replace the IKE SA: IkeSaRekeyed or IkeSaRekeyFailed follows. RFC 7296 section 2.18."""
        self._need_peer()
        if self.state is State.ESTABLISHED and not any(isinstance(task, RekeyIkeSa) for task in self.tasks):
            self.tasks.append(RekeyIkeSa())
            self._pump(now)

    def expire(self, now: float, reason: str) -> None:
        """The IKE SA may not be used any longer, nor its Child SAs: all that still goes out is its Delete."""
        for child in list(self.children.values()):
            self.remove_child(child, reason)
        self.times = lifetime.Times()
        self.delete(now, reason)

    def expire_child(self, child: ChildSaParameters, now: float, reason: str = "its lifetime is over") -> None:
        """A Child SA may not be used any longer: it goes now, and the peer is told (rfc7296-s2.8-01).

        With it goes the IKE SA when the peer has refused to rekey it (rfc7296-s2.8-02).
        """
        found = self.children.get(child.spi_in)
        if found is None:
            return
        if found.rekey_failed:
            self.expire(now, f"{reason}, and it could not be rekeyed")  # rfc7296-s2.8-02
            return
        self.remove_child(found, reason)  # rfc7296-s2.8-01
        if not found.closing:
            self.delete_unwanted(child.spi_in, reason)
        self._pump(now)

    def ask(self, exchange: ExchangeType, payloads: Sequence[Payload], now: float) -> Ask:
        """Send a request of the caller's own making when its turn comes; Answered, with what this returns, follows.

        LocalProtocolError when a payload cannot be encoded, or the SA is not established.
        """
        self._need_peer()
        encode_payloads(payloads)
        task = Ask(exchange, tuple(payloads))
        self.tasks.append(task)
        self._pump(now)
        return task

    def _need_peer(self) -> None:
        if self.state not in (State.ESTABLISHED, State.REKEYING):
            raise LocalProtocolError(f"the IKE SA is {self.state}")

    def check_liveness(self, now: float) -> None:
        """Ask whether the peer lives, unless a request is in flight, which asks the same. RFC 7296 section 2.4."""
        if self.state is State.ESTABLISHED and self.requests.in_flight is None and not self.tasks:
            self.tasks.append(CheckLiveness())
            self._pump(now)

    def child_install_failed(self, child: ChildSaParameters, reason: str, now: float) -> None:
        """The backend could not install this pair: take it back, also from the peer."""
        if self.children.pop(child.spi_in, None) is None:
            return
        old = self.children.get(self.replacing.pop(child.spi_in, 0))
        if old is not None:
            old.rekey_failed = True
        self.add_event(ChildSaFailed(self.info(), child.name, reason))
        self.spi_source.release_spi(child.spi_in, child.local, child.remote)
        self.delete_unwanted(child.spi_in, reason)
        self._pump(now)

    def note_path_mtu(self, octets: int, now: float) -> None:
        """IP datagrams of more than `octets` do not get to the peer. RFC 7383 section 2.5.2."""
        transmission.note_path_mtu(self, octets, now)

    def note_inbound_traffic(self, now: float) -> None:
        """A Child SA has received authentic packets: the peer lives. RFC 7296 section 2.4."""
        self.last_inbound_at = max(self.last_inbound_at, now)

    # --- what others see -----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when nothing is left to do: the owner can forget this object."""
        waiting = self._outlet is not None and self._outlet.next_timer() is not None
        return self.state is State.CLOSED and self.deadline is None and not waiting

    @property
    def is_half_open(self) -> bool:
        """True for a responder's SA whose initiator has proved nothing, also while it lingers after a failure."""
        return self.role is Role.RESPONDER and self.established_at is None and self.state is not State.IDLE

    @property
    def name(self) -> str:
        """`connection[SPIi:SPIr]`, for logs."""
        return f"{self.connection.name}[{self.spi_i.hex()}:{self.spi_r.hex()}]"

    def info(self) -> IkeSaInfo:
        """A snapshot."""
        return ike_sa_info(self)

    @property
    def purpose_in_flight(self) -> object:
        """What our oldest outstanding request is for, None when there is none; one for a new IKE SA is alone."""
        in_flight = self.requests.in_flight
        return None if in_flight is None else in_flight.purpose

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        self.tracer.note(f"{self.name}: dropped: {reason}")

    # --- sending -------------------------------------------------------------------------------------------------

    def send_request(
        self, exchange: ExchangeType, payloads: tuple[Payload, ...], purpose: object, now: float
    ) -> None:
        """Send a protected request and keep it until it is answered."""
        transmission.send_request(self, exchange, payloads, purpose, now)

    def post(self, data: tuple[bytes, ...], local: Address, remote: Address, now: float) -> None:
        """Hand over the messages of one request or response, to be sent now, or as the impairments will have it."""
        for octets in data:
            # IKE_SA_INIT messages cannot go in fragments of ours. RFC 7383 section 2.5.2.
            wanted = self.fragmentation.negotiated and octets[18:19] != _INIT
            datagram = Datagram(octets, local, remote, wanted)
            self._outbox += [datagram] if self._outlet is None else self._outlet.send(datagram, now)

    def _pump(self, now: float) -> None:
        """Begin the local actions whose turn it is."""
        scheduling.begin_what_may(self, now)

    # --- what handlers call --------------------------------------------------------------------------------------

    def need_handshake(self) -> Handshake:
        """The state of the initial exchanges; IkeError when they are over."""
        if self.handshake is None:
            raise IkeError("the initial exchanges are over")
        return self.handshake

    def need_keys(self) -> tuple[IkeSuite, IkeKeys]:
        """The suite and keys; IkeError before IKE_SA_INIT is complete."""
        if self.suite is None or self.keys is None:
            raise IkeError("there are no keys yet")
        return self.suite, self.keys

    def new_spi(self) -> bytes:
        """A fresh IKE SPI of ours."""
        return self.observer.new_ike_spi()

    def take_keys(self, suite: IkeSuite, keys: IkeKeys, channel: SecureChannel) -> None:
        """IKE_SA_INIT is complete."""
        self.suite, self.keys, self.channel = suite, keys, channel
        channel.rewriters = self.rewriters
        if self.keylog is not None:
            self.keylog.ike_sa(self.info(), suite, keys)

    def establish(self, now: float, *, initial_contact: bool) -> None:
        """The peer is authenticated."""
        self.established_at = now
        self.deadline = None
        self.go(State.ESTABLISHED, TRANSITIONS[self.state, ExchangeType.IKE_AUTH, self.role].story)
        lifetime.begin(self, now, authenticated=True)
        self.add_event(IkeSaEstablished(self.info()))
        self.observer.established(self, now, initial_contact=initial_contact)

    def end_handshake(self) -> None:
        """Forget what only the initial exchanges need, the private value with it (rfc7296-s2.12-01)."""
        self.handshake = None

    def fail(self, reason: str, notify_type: NotifyType | None) -> None:
        """The peer is not who it should be: say so to the driver, once; the SA has still to be closed."""
        self.failed = True
        self.handshake = None
        self.add_event(IkeSaFailed(self.info(), reason, notify_type))

    def queue(self, *tasks: Task) -> None:
        """Put local actions behind all others."""
        self.tasks.extend(tasks)

    def queue_first(self, task: Task) -> None:
        """Put a local action before all others."""
        self.tasks.appendleft(task)

    def retry_later(self, task: Task, now: float) -> None:
        """The peer is busy: try a local action again after a while. RFC 7296 section 2.25."""
        lifetime.retry_later(self, task, now)

    def postpone(self, task: Task, now: float) -> None:
        """Put a local action off for a while."""
        lifetime.postpone(self, task, now)

    # --- succession ----------------------------------------------------------------------------------------------

    def take_over(self, old: IkeSa) -> None:
        """Inherit what was still to be done on the IKE SA that this one replaces."""
        self.tasks.extend(task for task in old.tasks if succession.inherited(task))
        self.times.retries += [entry for entry in old.times.retries if succession.inherited(entry[1])]
        self.times.reauth_at, self.times.auth_ends_at = old.times.reauth_at, old.times.auth_ends_at
        self.unwanted_spis |= old.unwanted_spis
        self.replacing |= old.replacing
        old.replacing = {}
        self.replaces, old.replaces = old.replaces, None
        old.tasks.clear()
        old.times = lifetime.Times()

    def resume(self, now: float) -> None:
        """Go on with what is to be done, though no message came."""
        self._pump(now)
        self.observer.touched(self)

    def close_after_response(self, reason: str, notify_type: NotifyType | None = None) -> None:
        """Close as soon as the response to the request in hand is on its way."""
        self.close_after = (reason, notify_type)

    def close(
        self, reason: str, now: float, notify_type: NotifyType | None = None, *, linger: bool = False
    ) -> None:
        """Forget everything; with `linger`, answer retransmissions of the last request for a while."""
        if self.state is State.CLOSED:
            return
        succession.settle(self, now)
        for child in list(self.children.values()):
            self.remove_child(child, reason)
        cp.release(self)
        if self.established_at is not None:
            self.add_event(IkeSaDeleted(self.info(), reason))
        elif not self.failed and (self.role is Role.INITIATOR or notify_type is not None):
            self.add_event(IkeSaFailed(self.info(), reason, notify_type))
        self.observer.closing(self, now)
        self.go(State.CLOSED, reason)
        # rfc7296-s2.12-01
        self.keys = self.channel = self.handshake = None
        self.requests.outstanding.clear()
        self.release_all_spis()
        self.fragmentation = Fragmentation()
        self.tasks.clear()
        self.replacing.clear()
        self.close_after = None
        self.deadline = now + self.limits.linger_s if linger else None
        if not linger:
            self.responses = Responses()

    # --- small things --------------------------------------------------------------------------------------------

    def go(self, state: State, story: str) -> None:
        """Enter a state."""
        if state is not self.state:
            self.tracer.transition(self.name, str(self.state), str(state), story)
            self.state = state

    def is_closing(self) -> bool:
        """True when the deletion of the IKE SA waits for its turn."""
        return any(isinstance(task, CloseIkeSa) for task in self.tasks)

    def _liveness_at(self) -> float | None:
        delay = self.connection.dpd_delay_s
        if not delay or self.state is not State.ESTABLISHED or self.requests.in_flight is not None or self.tasks:
            return None
        return self.last_inbound_at + delay


def _wanted(connection: ConnectionConfig) -> tuple[ChildConfig, ...]:
    """The Child SAs that come with an IKE SA: the first one, and whatever starts by itself."""
    first, others = connection.children[:1], connection.children[1:]
    return (*first, *(child for child in others if child.starts))
