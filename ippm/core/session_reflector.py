"""The Session-Reflector of TWAMP-Test, sans-IO: a packet and its arrival stamp in, a stamped reply out.

The order of work is the point of it: the packet is verified, the reply is laid out, and the transmit stamp is taken
last, by calling the clock that was injected, so that T2 and T3 are two readings and their difference is the
time that the packet spent here. Anything that is not to be answered is dropped in silence and counted by name.
RFC 5357 section 4.2, RFC 6038 section 5.2, RFC 7750 section 2.2.1, RFC 8186 section 2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from ipaddress import ip_address

from ippm.crypto_packet import Octets, PacketKeys, TestProtection
from ippm.errors import IntegrityError, InvalidMessage
from ippm.timestamps import DEFAULT_UTC_OFFSET_S, PTP_FLAG, ptp_from_ntp
from ippm.wire.test_packet import PacketLayout, PacketMode

DEFAULT_REFWAIT_NS = 900_000_000_000
"""REFWAIT: how long a started session may be silent before it is given up. RFC 5357 section 4.2."""

MAX_REPLY_OCTETS = 65_507


class PaddingRule(StrEnum):
    """What the padding of a reply is: the sender's, cut at its end; or zeros. RFC 5357 section 4.2.1."""

    REUSE = "reuse"
    ZERO = "zero"


@dataclass(frozen=True, slots=True)
class ReflectorPlan:
    """All that a Session-Reflector needs to know of a session.

    `local` and `remote` are (address, UDP port). With `check_peer` packets from anywhere but `remote` are ignored;
    without it they are answered to where they came from (a NAT between). `hmac_counter` is the name under which
    failed HMACs are counted: a configuration that is not signalled can put its guess there. `dscp` is for replies.
    `reflected_octets` of the padding come back as they came, with Reflect Octets; `tw_auth_pad` are the MBZ octets of
    Symmetrical Size in a keyed mode; `utc_offset_s` is TAI less UTC, for PTP stamps. `stateless` is TWAMP Light: there
    is no session whose replies could be numbered, so each has the number of its packet. A `refwait_ns` of 0 is no
    REFWAIT. `allow`, where given, says of the address that a packet comes from whether it is answered.
    """

    sid: bytes
    mode: int
    keys: PacketKeys | None = field(repr=False)
    local: tuple[str, int]
    remote: tuple[str, int]
    timeout_ns: int = 2_000_000_000
    refwait_ns: int = DEFAULT_REFWAIT_NS  # rfc5357-s4.2-09
    dscp: int = 0
    padding: PaddingRule = PaddingRule.REUSE
    check_peer: bool = True
    hmac_counter: str = "hmac_mismatch"
    reflected_octets: int = 0
    tw_auth_pad: int = 64
    utc_offset_s: int = DEFAULT_UTC_OFFSET_S
    stateless: bool = False
    allow: Callable[[tuple[str, int]], bool] | None = None

    @property
    def layout(self) -> PacketLayout:
        """Where the parts of this session's packets lie."""
        return PacketLayout.of(self.mode, self.reflected_octets, self.tw_auth_pad)


def canonical_host(host: str) -> str:
    """An address literal as the socket layer writes it, an IPv6 one without its zone; any other text as it is."""
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return host


class ReflectorState(Enum):
    """Accepted until Start-Sessions; stopping from Stop-Sessions until Timeout has passed."""

    ACCEPTED = "accepted"
    STARTED = "started"
    STOPPING = "stopping"
    CLOSED = "closed"


class SessionReflector:
    """One session's state. `clock` gives the time as an NTP stamp; `now` arguments are monotonic nanoseconds.

    `error_estimate` (16 bits) is what goes into replies; the caller sets it when its clock's state changes.
    """

    def __init__(self, plan: ReflectorPlan, clock: Callable[[], int], error_estimate: int) -> None:
        self.plan = plan
        self.error_estimate = error_estimate
        self.state = ReflectorState.ACCEPTED
        self.counters: dict[str, int] = {"received": 0, "reflected": 0}
        self._clock = clock
        self._protection = TestProtection.of(plan.mode, plan.keys)
        layout = plan.layout
        self._in_octets = layout.sender_octets
        self._out_octets = layout.reflector_octets
        self._least_octets = layout.sender_octets + layout.least_padding_octets if layout.reflected_octets else 0
        self._reflected_octets = layout.reflected_octets
        self._ptp = layout.ptp
        self.monitored = layout.monitored
        self._stateless = plan.stateless
        self._check_peer = plan.check_peer
        self._allow = plan.allow
        self._utc_offset_s = plan.utc_offset_s
        self._unpack = self._protection.unpack_sender
        self._pack = self._protection.pack_reflector_into
        self._peer_host, self._peer_port = canonical_host(plan.remote[0]), plan.remote[1]
        self._reuse_padding = plan.padding is PaddingRule.REUSE  # rfc5357-s4.2.1-07
        self._sequence = 0
        self.sent_at = 0
        """T3 of the last reply, NTP."""
        self._reply = bytearray(self._out_octets)
        self._reply_view = memoryview(self._reply)
        self._deadline: int | None = None
        self._active_at = 0
        self._active_count = 0
        self._protection.prepare(0)

    @property
    def mode(self) -> PacketMode:
        """How this session's packets are protected."""
        return self._protection.mode

    def start(self, now: int) -> None:
        """Start-Sessions: packets are answered from here on."""
        if self.state is ReflectorState.ACCEPTED:
            self.state = ReflectorState.STARTED
            self._active_at = now

    def stop(self, now: int) -> None:
        """Stop-Sessions: packets that are under way are still answered until Timeout has passed."""
        if self.state in (ReflectorState.ACCEPTED, ReflectorState.STARTED):
            started = self.state is ReflectorState.STARTED
            self.state = ReflectorState.STOPPING if started else ReflectorState.CLOSED  # rfc5357-s3.5-10
            self._deadline = now + self.plan.timeout_ns  # rfc5357-s3.5-09

    def close(self) -> None:
        """Ends the session at once."""
        self.state = ReflectorState.CLOSED

    def next_timer(self) -> int | None:
        """When `handle_timer` wants to be called."""
        if self.state is ReflectorState.STOPPING:
            return self._deadline
        if self.state is ReflectorState.STARTED and self.plan.refwait_ns:
            return self._active_at + self.plan.refwait_ns
        return None

    def handle_timer(self, now: int) -> None:
        """Closes the session when Timeout after Stop-Sessions has passed, or REFWAIT without a packet."""
        if self.state is ReflectorState.STOPPING and self._deadline is not None and now >= self._deadline:
            self.state = ReflectorState.CLOSED  # rfc5357-s4.2-07, rfc5938-s4.2-02
        elif self.state is ReflectorState.STARTED and self.plan.refwait_ns:
            if self.counters["reflected"] != self._active_count:
                self._active_count = self.counters["reflected"]
                self._active_at = now
            elif now >= self._active_at + self.plan.refwait_ns:  # rfc5357-s3.1-05, rfc5938-s3.6-03, rfc5938-s4.2-04
                self._count("refwait_expired")
                self.state = ReflectorState.CLOSED

    def arrived_too_late(self, arrived: int) -> bool:
        """True, and counted, for a packet that arrived (monotonic nanoseconds) when Timeout after the stop had passed.

        For a driver that reads packets later than they arrive. RFC 5357 section 3.8.
        """
        if self.state is not ReflectorState.STOPPING or self._deadline is None or arrived < self._deadline:
            return False
        self.counters["received"] += 1
        self._count("after_stop")  # rfc5357-s3.5-11, rfc5357-s3.8-06
        return True

    def handle(
        self,
        packet: Octets,
        ttl: int | None,
        receive_timestamp: int,
        address: tuple[str, int],
        dscp_ecn: int | None = None,
    ) -> memoryview | None:
        """The reply to a packet, or None; the reply is valid until the next call.

        `address` is (host, port) of where it came from; more elements are not looked at. `ttl` None: not known.
        `dscp_ecn` is the octet of its IP header that holds the DSCP and the ECN.
        """
        counters = self.counters
        counters["received"] += 1
        if self.state is not ReflectorState.STARTED and self.state is not ReflectorState.STOPPING:
            self._count("not_started" if self.state is ReflectorState.ACCEPTED else "after_stop")
            return None  # rfc5357-s4.2-08, rfc5938-s4.2-02, rfc5938-s4.2-03
        if self._check_peer and (address[1] != self._peer_port or address[0] != self._peer_host):
            self._count("other_address")
            return None
        if self._allow is not None and not self._allow(address):
            self._count("not_allowed")
            return None
        try:
            sender = self._unpack(packet)
        except IntegrityError:
            self._count(self.plan.hmac_counter)  # rfc4656-s4.2-01: discarded
            return None
        except InvalidMessage:
            self._count("too_short" if len(packet) < self._protection.sender_octets else "zero_multiplier")
            return None
        length = len(packet)
        if length < self._in_octets or length < self._least_octets:
            self._count("too_short")  # without the MBZ octets, or without what is to be reflected
            return None
        # rfc5357-s4.2.1-10, rfc6038-s5.2.1-06, rfc6038-s5.2.1-07, rfc6038-s5.2.2-02
        octets = self._out_octets + self._reflected_octets
        if octets < length:
            octets = length
        if octets > self._out_octets:
            self._lay_out_padding(packet, octets)
        if self._ptp:
            receive_timestamp = ptp_from_ntp(receive_timestamp, self._utc_offset_s)
        # rfc5357-s4.2-06: the last thing before the packet is closed
        self.sent_at = sent_at = self._clock()
        self._pack(
            self._reply,
            sender[0] if self._stateless else self._sequence,  # rfc5357-sI-01
            ptp_from_ntp(sent_at, self._utc_offset_s) if self._ptp else sent_at,
            self.error_estimate | PTP_FLAG if self._ptp else self.error_estimate,
            receive_timestamp,  # rfc5357-s4.2-01
            sender,
            255 if ttl is None else ttl,  # rfc5357-s4.2-02, rfc5357-s4.2-03
            (dscp_ecn or 0) if self.monitored else 0,
        )
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        counters["reflected"] += 1
        return self._reply_view[:octets]  # rfc5357-s4.2.1-01

    def prepare(self) -> None:
        """Does beforehand what can be done for the next reply: call it when the last one is on its way."""
        if not self._stateless:
            self._protection.prepare(self._sequence)

    def _lay_out_padding(self, packet: Octets, octets: int) -> None:
        if octets > len(self._reply):
            self._reply = bytearray(max(octets, min(2 * len(self._reply), MAX_REPLY_OCTETS)))
            self._reply_view = memoryview(self._reply)
        # rfc5357-s4.2.1-11, rfc6038-s5.2.1-05: the octets with the highest numbers are cut off
        padding = octets - self._out_octets if self._reuse_padding else self._reflected_octets
        if padding:
            at = self._out_octets
            # rfc6038-s5.1.2-04, rfc6038-s5.2-01, rfc6038-s4.2-04, rfc6038-s5.2.1-02, -03, -04
            self._reply[at : at + padding] = packet[self._in_octets : self._in_octets + padding]

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
