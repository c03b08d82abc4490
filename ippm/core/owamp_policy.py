"""What an OWAMP Server refuses of a Request-Session, before anything is allocated for it.

RFC 4656 sections 3.5, 6.2 and 6.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from ippm.core.control_events import Endpoint
from ippm.core.owamp_events import SECURITY
from ippm.core.server_policy import ControlServerConfig, bare_address
from ippm.core.session_schedule import mean_interval
from ippm.errors import ConfigurationError, RefuseSession
from ippm.iana import OWAMP_IKEV2_DERIVED, Accept, Mode
from ippm.timestamps import ns_from_fixed_point, ntp_difference_ns
from ippm.wire.octets import Address
from ippm.wire.request_session import MAXIMUM_SLOTS, RequestSession
from ippm.wire.test_packet import PacketMode


@dataclass(frozen=True, slots=True)
class OwampServerConfig(ControlServerConfig):
    """What an OWAMP Server is willing to do. The limits are low by default, and lower in open mode.

    `maximum_packets` bounds a session, `bits_per_second` its average rate, `maximum_duration_s` its schedule,
    `maximum_start_delay_s` how far in the future it may start. `any_receiver`: test packets may go to, or come from,
    others than the client. `ikev2_bit` is the bit for IKEv2-derived keys. Raises ConfigurationError.
    RFC 4656 sections 3.1 and 6.5.
    """

    modes: Mode = SECURITY
    any_receiver: bool = False
    maximum_slots: int = MAXIMUM_SLOTS
    maximum_packets: int = 2_000_000
    open_maximum_packets: int = 1_000_000  # rfc4656-s6.5-02, rfc4656-s6.5-03
    bits_per_second: int = 200_000_000
    open_bits_per_second: int = 100_000_000
    maximum_duration_s: float = 86_400.0
    maximum_start_delay_s: float = 86_400.0
    maximum_skip_ranges: int = 1 << 18
    ikev2_bit: int = OWAMP_IKEV2_DERIVED

    def __post_init__(self) -> None:
        ControlServerConfig.__post_init__(self)
        if self.ikev2_bit not in (OWAMP_IKEV2_DERIVED, int(Mode.IKEV2_DERIVED)):
            raise ConfigurationError(f"ikev2_bit = {self.ikev2_bit}: 16 (RFC 7718) or 128")


def check_owamp_request(
    request: RequestSession,
    config: OwampServerConfig,
    mode: Mode,
    *,
    local: Endpoint,
    remote: Endpoint,
    now_ntp: int,
) -> None:
    """Raises RefuseSession for what this server does not do. RFC 4656 sections 3.5, 6.2 and 6.5."""
    _check_direction(request)
    if request.ipvn != bare_address(local.host).version:
        raise _unsupported(f"IPVN {request.ipvn} is not that of the Control connection")
    if request.conf_sender and request.dscp is None:  # rfc4656-s3.5-08, rfc4656-s3.5-09
        raise _unsupported(f"Type-P {request.type_p:#010x} is not a DSCP")
    _check_addresses(request, config, local, remote)
    _check_size(request, config, mode)
    _check_start(request, config, ntp_difference_ns(request.start_time, now_ntp) / 1e9)


def _check_direction(request: RequestSession) -> None:
    if not (request.conf_sender or request.conf_receiver):  # rfc4656-s3.5-07
        raise _unsupported("neither Conf-Sender nor Conf-Receiver is set")
    if request.conf_sender and request.conf_receiver:
        raise _unsupported("a session between two hosts of the server is not served")
    if not request.slots:
        raise _unsupported("a schedule has at least one slot")
    if not request.number_of_packets:
        raise _unsupported("a session has at least one packet")
    if request.conf_sender and not request.receiver_port:
        raise _unsupported("the Receiver Port is zero")
    if request.conf_receiver and not request.sender_port:
        raise _unsupported("the Sender Port is zero")


def _check_addresses(request: RequestSession, config: OwampServerConfig, local: Endpoint, remote: Endpoint) -> None:
    """Test packets come from us, and go to nobody but the client, unless configured otherwise."""
    sender, receiver = request.sender_address, request.receiver_address
    ours, theirs = (sender, receiver) if request.conf_sender else (receiver, sender)
    if ours is not None and ours != bare_address(local.host):  # rfc4656-s6.2-03
        raise _unsupported(f"{ours} is not the address of the server that the client talks to")
    # rfc4656-s6.2-01, rfc4656-s6.2-02
    if theirs is not None and theirs != bare_address(remote.host) and not config.any_receiver:
        raise _unsupported(f"{theirs} is not the client's address")


def _check_size(request: RequestSession, config: OwampServerConfig, mode: Mode) -> None:
    """Raises RefuseSession when the session would take too much. RFC 4656 section 6.5."""
    too_much = Accept.PERMANENT_LIMITATION
    packets = config.maximum_packets if mode.keyed else config.open_maximum_packets
    rate = config.bits_per_second if mode.keyed else config.open_bits_per_second
    if len(request.slots) > config.maximum_slots:
        raise RefuseSession(too_much, f"{len(request.slots)} schedule slots: at most {config.maximum_slots}")
    if request.number_of_packets > packets:  # rfc4656-s6.5-01
        raise RefuseSession(too_much, f"{request.number_of_packets} packets: at most {packets}")
    if request.padding_length > config.maximum_padding_octets:
        raise _unsupported(f"padding of {request.padding_length} octets is too long")
    if ns_from_fixed_point(request.timeout) > config.maximum_timeout_ns:
        raise RefuseSession(too_much, "the Timeout is too long")
    interval = mean_interval(request.slots)
    if interval * request.number_of_packets > config.maximum_duration_s:
        raise RefuseSession(too_much, f"the session takes longer than {config.maximum_duration_s:g} s")
    if request.number_of_packets > 1 and packet_bits(request, mode) > rate * interval:  # rfc4656-s6.5-01
        raise RefuseSession(too_much, f"the average rate is above {rate} bits per second")


def _check_start(request: RequestSession, config: OwampServerConfig, delay_s: float) -> None:
    """Raises RefuseSession for a session that is too far ahead, or that is over before it can begin.

    A Start Time in the past is no fault as such (RFC 4656 section 3.7); when even the Timeout of the last packet has
    passed, no packet can count. Poisson streams get four standard deviations more.
    """
    if delay_s > config.maximum_start_delay_s:
        raise _unsupported(
            f"the Start Time is {delay_s:.1f} s in the future, at most {config.maximum_start_delay_s:g} s are allowed; "
            "do the clocks differ?"
        )
    packets = request.number_of_packets
    schedule_s = mean_interval(request.slots) * (packets + 4 * packets**0.5)
    if -delay_s > schedule_s + ns_from_fixed_point(request.timeout) / 1e9:
        raise _unsupported(
            f"the Start Time is {-delay_s:.1f} s in the past, and so is the whole session; do the clocks differ?"
        )


def packet_bits(request: RequestSession, mode: Mode) -> int:
    """The bits of one test packet, IP and UDP headers counted."""
    headers = 28 if request.ipvn == 4 else 48
    return 8 * (PacketMode.of(int(mode.security)).sender_octets + request.padding_length + headers)


def mean_bits_per_second(request: RequestSession, mode: Mode) -> float:
    """The average rate that a request asks for; 0 when its packets have no time between them (it has one packet)."""
    interval = mean_interval(request.slots)
    return packet_bits(request, mode) / interval if interval else 0.0


def endpoints(request: RequestSession, local: Endpoint, remote: Endpoint) -> tuple[Endpoint, Endpoint]:
    """(sender, receiver) of a request; addresses that are zero are those of the Control connection."""
    sender = _host(request.sender_address, local if request.conf_sender else remote)
    receiver = _host(request.receiver_address, remote if request.conf_sender else local)
    return Endpoint(sender, request.sender_port), Endpoint(receiver, request.receiver_port)


def _host(address: Address | None, connection: Endpoint) -> str:
    if address is None or ip_address(connection.host.partition("%")[0]) == address:
        return connection.host
    return str(address)


def _unsupported(text: str) -> RefuseSession:
    return RefuseSession(Accept.NOT_SUPPORTED, text)
