"""What a TWAMP Server refuses: modes in a Set-Up-Response, and Request-TW-Sessions.

RFC 4656 sections 3.1 and 6; RFC 5357 section 3.5; RFC 7717 section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from ippm.core.control_events import Endpoint
from ippm.errors import ConfigurationError, ProtocolError, RefuseSession
from ippm.iana import MINIMUM_COUNT, SECURITY_BITS, Accept, Mode
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.octets import Address
from ippm.wire.request_tw_session import RequestTwSession


@dataclass(frozen=True, slots=True)
class ControlServerConfig:
    """What the Server role is willing to do. The limits are low by default.

    `modes` are security modes only; IKEv2Derived is added when the key provider offers it. `servwait_s` bounds the
    wait for each whole command, `setup_wait_s` the wait for the Set-Up-Response. `strict_modes`: with IKEv2Derived
    exactly one of authenticated, encrypted, mixed. `any_sender`: the Sender Address may be another than the
    client's own. Raises ConfigurationError. RFC 4656 sections 3.1 and 6.5.
    """

    modes: Mode = SECURITY_BITS
    count: int = 4096
    servwait_s: float = 900.0  # rfc5357-s3.1-06
    setup_wait_s: float = 60.0
    start_time: int = 0
    strict_modes: bool = True
    any_sender: bool = False
    sessions_per_connection: int = 16  # rfc4656-s6.5-03
    open_sessions_per_connection: int = 16  # rfc4656-s6.5-02
    maximum_padding_octets: int = 65000
    maximum_timeout_ns: int = 900_000_000_000
    sid_address: bytes = bytes(4)

    def __post_init__(self) -> None:
        check_count(self.count)
        if self.modes & ~SECURITY_BITS:
            raise ConfigurationError(f"modes = {self.modes!r}: only security modes are configured")
        if len(self.sid_address) != 4:
            raise ConfigurationError("sid_address has 4 octets")


def check_count(count: int) -> int:
    """A Count that a server may send. Raises ConfigurationError. RFC 4656 section 3.1."""
    # rfc4656-s3.1-04, rfc4656-s3.1-05
    if count < MINIMUM_COUNT or count & (count - 1) or count > 1 << 31:
        raise ConfigurationError(f"count = {count}: it must be a power of two, at least {MINIMUM_COUNT}")
    return count


def check_mode(chosen: Mode, offered: Mode, *, strict: bool) -> Mode:
    """The mode to work in, of the bits that a client chose. Raises ProtocolError with Accept 3.

    RFC 4656 section 3.1, RFC 7717 sections 5.2 and 5.3.
    """
    security = chosen.security
    derived = chosen & Mode.IKEV2_DERIVED
    if derived and not offered & Mode.IKEV2_DERIVED:
        raise _unsupported("the client chose IKEv2Derived, which was not offered")
    if security.bit_count() != 1:
        raise _unsupported(f"the client chose {security.bit_count()} security modes")
    if not security & offered:  # rfc4656-s3.1-11
        raise _unsupported(f"the client chose {security.word}, which was not offered")
    if derived and not security.keyed:
        if strict:
            raise _unsupported("the client chose IKEv2Derived together with open mode")
        return security
    return security | derived


def check_request(
    request: RequestTwSession, config: ControlServerConfig, local: Endpoint, remote: Endpoint
) -> None:
    """Raises RefuseSession for what this server does not do. RFC 5357 section 3.5, RFC 4656 section 6.2."""
    unsupported = Accept.NOT_SUPPORTED
    if request.conf_sender or request.conf_receiver:  # rfc5357-s3.5-04, rfc5357-s3.5-05
        raise RefuseSession(unsupported, "Conf-Sender and Conf-Receiver must be zero")
    if request.number_of_schedule_slots:
        raise RefuseSession(unsupported, "there are no schedule slots in TWAMP")
    if request.ipvn != bare_address(local.host).version:
        raise RefuseSession(unsupported, f"IPVN {request.ipvn} is not that of the Control connection")
    if request.sender_port == 0:
        raise RefuseSession(unsupported, "the Sender Port is zero")
    if request.dscp is None:
        raise RefuseSession(unsupported, f"Type-P {request.type_p:#010x} is not a DSCP")
    if request.padding_length > config.maximum_padding_octets:
        raise RefuseSession(unsupported, f"padding of {request.padding_length} octets is too long")
    if ns_from_fixed_point(request.timeout) > config.maximum_timeout_ns:
        raise RefuseSession(Accept.PERMANENT_LIMITATION, "the Timeout is too long")
    # Test packets go to nobody but the client.  rfc4656-s6.2-02
    sender = request.sender_address
    if not config.any_sender and sender is not None and sender != bare_address(remote.host):
        raise RefuseSession(unsupported, f"the Sender Address {sender} is not the client's")


def bare_address(host: str) -> Address:
    """An address of its text, without an IPv6 zone."""
    return ip_address(host.partition("%")[0])


def _unsupported(text: str) -> ProtocolError:
    return ProtocolError(text, accept=Accept.NOT_SUPPORTED)
