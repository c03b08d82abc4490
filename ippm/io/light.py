"""TWAMP Light: test packets without a Control connection. Both ends are told all that it would have agreed on.

The reflector keeps no state of a session: whoever sends to its port gets a reply, with the number of the packet
instead of one of its own. Keys of the protected modes come from a passphrase that both ends have.
RFC 5357 appendix I; port 862 is RFC 8545 section 4.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from ippm.core.schedule import FixedSchedule, Schedule, poisson_schedule
from ippm.core.session_reflector import PaddingRule, ReflectorPlan, canonical_host
from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.crypto import Entropy, SessionKeys
from ippm.errors import ConfigurationError, ConnectionFailed, IppmError
from ippm.iana import DEFAULT_MAXIMUM_COUNT, FEATURE_BITS, SECURITY_BITS, TWAMP_PORT, Mode
from ippm.io.clock import SystemClock, clock_state, utc_offset_s
from ippm.io.entropy import SystemEntropy
from ippm.io.options import check_stream
from ippm.io.pacing import StopSignal, frozen_heap
from ippm.io.realtime import check_realtime
from ippm.io.reflector_loop import Reflector
from ippm.io.sender_loop import run_sender
from ippm.io.test_socket import impaired, open_test_socket
from ippm.io.transmit_stamps import DEFAULT_STAMPS, StampOptions
from ippm.timestamps import ClockState

if TYPE_CHECKING:
    from ippm.core.impair import Impairments
    from ippm.core.key_log import KeyLog
    from ippm.report.result import RunResult

_NO_SID = bytes(16)
_LABEL = b"TWAMP-Light"
_LIGHT_FEATURES = FEATURE_BITS & ~Mode.INDIVIDUAL_SESSION_CONTROL

_REMEMBERED_HOSTS = 4096

Network = IPv4Network | IPv6Network


class _Allowed:
    """Whether a packet from an address is answered, remembered for the hosts that were asked for last.

    Never one from the port of a reflector: two of them would answer each other for ever, once somebody has sent the one
    a packet in the name of the other. With `networks` only hosts in one of these.
    """

    def __init__(self, networks: tuple[Network, ...], own_port: int) -> None:
        self._networks = networks
        self._reflectors = {own_port, TWAMP_PORT}
        self._known: dict[str, bool] = {}

    def __call__(self, address: tuple[str, int]) -> bool:
        host, port = address[:2]
        if port in self._reflectors:
            return False
        if not self._networks:
            return True
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _REMEMBERED_HOSTS:
                self._known.clear()
            source = ip_address(canonical_host(host))
            mapped = source.ipv4_mapped if isinstance(source, IPv6Address) else None
            known = self._known[host] = any((mapped or source) in network for network in self._networks)
        return known


def light_keys(key_id: str, passphrase: bytes) -> SessionKeys:
    """The AES and the HMAC Session-key of a passphrase: our own way, as the RFC leaves it open.

    PBKDF2-HMAC-SHA1(passphrase, "TWAMP-Light" | KeyID, 32768, 48): the first 16 octets and the next 32. They are the
    same for every run, so a packet of an earlier one is not told from a new one. RFC 5357 appendix I.
    """
    # rfc5357-sI-06
    octets = hashlib.pbkdf2_hmac("sha1", passphrase, _LABEL + key_id.encode(), DEFAULT_MAXIMUM_COUNT, 48)
    return SessionKeys(octets[:16], octets[16:])


@dataclass(frozen=True, slots=True)
class LightAgreement:
    """What a Control connection would have agreed on; both ends are given the same. Raises ConfigurationError.

    `mode` is one security mode (mixed has no meaning) with features of RFC 6038, 7750 and 8186.
    """

    mode: Mode = Mode.OPEN
    keys: SessionKeys | None = None
    reflected_octets: int = 0
    tw_auth_pad: int = 64

    def __post_init__(self) -> None:
        security, features = self.mode.security, self.mode & ~SECURITY_BITS
        if security.bit_count() != 1 or security & Mode.MIXED:
            raise ConfigurationError("mode: one of open, authenticated, encrypted is agreed on in TWAMP Light")
        if features & ~_LIGHT_FEATURES:
            raise ConfigurationError(
                "feature: session-control needs a Control connection, which TWAMP Light has not"
            )
        if security.keyed and self.keys is None:
            raise ConfigurationError(f"mode: {security.word} needs a passphrase")
        if self.reflected_octets and not features & Mode.REFLECT_OCTETS:
            raise ConfigurationError("reflected_octets: needs the feature reflect-octets")

    @property
    def monitored(self) -> bool:
        """True when DSCP and ECN are."""
        return bool(self.mode & Mode.DSCP_ECN_MONITORING)


@dataclass(frozen=True, slots=True)
class LightSender:
    """One run of a sender; the words are those of `TwpingOptions`. `numbered`: the reflector numbers its replies.

    `key_log` is told the keys, `impairments` spoil test packets. Raises ConfigurationError.
    """

    host: str
    port: int = TWAMP_PORT
    agreement: LightAgreement = LightAgreement()
    count: int = 100
    interval_s: float = 0.1
    exponential: bool = False
    padding: int = 0
    zero_padding: bool = False
    timeout_s: float = 2.0
    dscp: int = 0
    local_address: str | None = None
    test_port_range: tuple[int, int] | None = None
    family: int = 0
    interface: str | None = None
    numbered: bool = False
    io: str = "auto"
    stamps: StampOptions = DEFAULT_STAMPS
    realtime: bool = False
    key_log: KeyLog | None = None
    impairments: Impairments | None = None

    def __post_init__(self) -> None:
        check_stream(self)
        check_light_impairments(self.impairments)

    def plan(self, local: tuple[str, int], remote: tuple[str, int], entropy: Entropy | None = None) -> SenderPlan:
        """What the Session-Sender does, under a Session ID that tells this run from others and is in no packet.

        An exponential schedule follows from it, so that no two runs have the same. RFC 2330 section 11.1.1.
        """
        sid = (entropy or SystemEntropy()).octets(16)
        agreement, interval_ns = self.agreement, round(self.interval_s * 1e9)
        schedule: Schedule = FixedSchedule(interval_ns)
        if self.exponential:
            schedule = poisson_schedule(interval_ns, sid, self.count)
        plan = SenderPlan(
            sid=sid,
            mode=int(agreement.mode),
            keys=agreement.keys,
            local=local,
            remote=remote,
            count=self.count,
            schedule=schedule,
            padding_octets=self.padding,
            timeout_ns=round(self.timeout_s * 1e9),
            dscp=self.dscp,
            zero_padding=self.zero_padding,
            reflected_octets=agreement.reflected_octets,
            tw_auth_pad=agreement.tw_auth_pad,
            utc_offset_s=utc_offset_s(),
            numbered_replies=self.numbered,
        )
        if agreement.mode & (Mode.REFLECT_OCTETS | Mode.SYMMETRICAL_SIZE):
            least = plan.layout.least_padding_octets
            if self.padding < least:
                raise ConfigurationError(f"padding = {self.padding}: at least {least} with these features")
        return plan


@dataclass(frozen=True, slots=True)
class LightRun:
    """All that is known of one run of a sender."""

    plan: SenderPlan
    records: SenderRecords
    clock: ClockState

    @property
    def result(self) -> RunResult:
        """What was measured."""
        from ippm.report.result import RunResult  # not before the first packet: it takes its time

        return replace(RunResult.of(self.plan, self.records, self.clock), random_start=False)


def run_light_sender(options: LightSender, stop: StopSignal | None = None) -> LightRun:
    """Send and measure in the calling thread; `stop` ends it early. Raises IppmError.

    A host that refuses the packets (ICMP) does not end the run: they are lost.
    """
    if options.realtime:
        check_realtime(options.interval_s * 1e9)
    family, remote = _resolve(options)
    local = options.local_address or _source(family, remote)
    mark = None if options.interface is None else _bound_to(options.interface)
    ports = options.test_port_range or 0
    try:
        with (
            frozen_heap(),
            open_test_socket(
                local, ports, mark, dscp=options.dscp, monitor_dscp_ecn=options.agreement.monitored
            ) as opened,
        ):
            plan = options.plan((local, int(opened.getsockname()[1])), remote)
            _log_keys(options.key_log, plan.sid, options.agreement, plan.local, plan.remote)
            with _spoilt(opened, options.impairments, options.agreement) as sock:
                clock = clock_state()
                records = run_sender(
                    plan, sock, stop, io=options.io, stamps=options.stamps, in_realtime=options.realtime
                )
    except OSError as error:
        raise IppmError(f"test packets cannot be sent from {local}: {error.strerror or error}") from None
    return LightRun(plan, records, clock)


def check_light_impairments(impairments: Impairments | None) -> None:
    """Raises ConfigurationError for a knob on a Control message, of which there are none here."""
    for knob in () if impairments is None else impairments.knobs:
        if knob.message != "test":
            raise ConfigurationError(
                f"impairment {knob.text!r}: there is no Control connection, only MESSAGE test has a meaning"
            )


def _spoilt(
    sock: socket.socket, impairments: Impairments | None, agreement: LightAgreement, *, reply: bool = False
) -> socket.socket:
    return impaired(
        sock,
        impairments,
        int(agreement.mode),
        agreement.keys,
        reply=reply,
        reflected_octets=agreement.reflected_octets,
    )


def _log_keys(
    key_log: KeyLog | None,
    sid: bytes,
    agreement: LightAgreement,
    sender: tuple[str, int],
    receiver: tuple[str, int],
) -> None:
    if key_log is None or agreement.keys is None:
        return
    from ippm.core.control_events import Endpoint  # not before the first packet: it takes its time
    from ippm.core.key_log import TestKeys

    ends = Endpoint(*sender), Endpoint(*receiver)
    key_log.test(TestKeys("twamp", int(agreement.mode), sid, *ends, agreement.keys))


def _resolve(options: LightSender) -> tuple[int, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(options.host, options.port, options.family, socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectionFailed(f"{options.host}: {error.strerror or error}") from None
    family, _, _, _, address = found[0]
    host = str(address[0])
    if family == socket.AF_INET6 and len(address) == 4 and address[3] and "%" not in host:
        host = f"{host}%{socket.if_indextoname(int(address[3]))}"
    return int(family), (host, options.port)


def _source(family: int, remote: tuple[str, int]) -> str:
    """The address from which the system would send there. No packet is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(remote)
        except OSError as error:
            raise ConnectionFailed(f"{remote[0]}: {error.strerror or error}") from None
        host = str(sock.getsockname()[0])
        zone = remote[0].partition("%")[2]
        return f"{host}%{zone}" if zone and "%" not in host else host


def _bound_to(interface: str) -> Callable[[socket.socket], None]:
    def bind(sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        except OSError as error:
            raise ConfigurationError(f"interface {interface}: {error.strerror or error}") from None

    return bind


class LightReflector:
    """Reflects on one port, for anybody, or for senders of the networks in `allow` alone; never for a reflector.

    A context manager; `port` says where (0 as a wish takes a free one). `key_log` is told the keys, `impairments` spoil
    replies. Raises IppmError. RFC 5357 appendix I.
    """

    def __init__(
        self,
        address: str = "0.0.0.0",
        port: int = TWAMP_PORT,
        agreement: LightAgreement | None = None,
        *,
        allow: tuple[Network, ...] = (),
        dscp: int = 0,
        padding: PaddingRule = PaddingRule.REUSE,
        interface: str | None = None,
        clock: SystemClock | None = None,
        io: str = "auto",
        correct_stamps: bool = False,
        key_log: KeyLog | None = None,
        impairments: Impairments | None = None,
    ) -> None:
        agreement = agreement or LightAgreement()
        check_light_impairments(impairments)
        mark = None if interface is None else _bound_to(interface)
        try:
            sock = open_test_socket(address, port, mark, dscp=dscp, monitor_dscp_ecn=agreement.monitored)
        except OSError as error:
            raise IppmError(f"{address} port {port}: {error.strerror or error}") from None
        self.port = int(sock.getsockname()[1])
        # Whoever sends: an address and a port of zero.
        anybody = "::" if ":" in address else "0.0.0.0", 0
        _log_keys(key_log, _NO_SID, agreement, anybody, (address, self.port))
        sock = _spoilt(sock, impairments, agreement, reply=True)
        plan = ReflectorPlan(
            sid=_NO_SID,
            mode=int(agreement.mode),  # rfc5357-sI-05
            keys=agreement.keys,
            local=(address, self.port),
            remote=("", 0),
            refwait_ns=0,
            dscp=dscp,
            padding=padding,
            check_peer=False,
            reflected_octets=agreement.reflected_octets,
            tw_auth_pad=agreement.tw_auth_pad,
            utc_offset_s=utc_offset_s(),
            stateless=True,
            allow=_Allowed(allow, self.port),
        )
        self._reflector = Reflector(clock, io=io, correct_stamps=correct_stamps)
        self._reflector.add_session(plan, sock)
        self._reflector.start(_NO_SID)

    def __enter__(self) -> LightReflector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def counters(self) -> dict[str, int]:
        """What was received, reflected, and dropped, by name."""
        return self._reflector.counters(_NO_SID)

    def close(self) -> None:
        """Stop, and close the socket."""
        self._reflector.close()
