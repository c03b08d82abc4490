"""What a TWAMP Server refuses: modes in a Set-Up-Response, and Request-TW-Sessions.

RFC 4656 sections 3.1 and 6; RFC 5357 section 3.5; RFC 6038 section 4; RFC 7717 section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ippm.core.control_events import Endpoint
from ippm.core.key_log import KeyLog
from ippm.core.limits import LimitUsage
from ippm.errors import ConfigurationError, ProtocolError, RefuseSession
from ippm.iana import FEATURE_BITS, MINIMUM_COUNT, NO_FEATURES, SECURITY_BITS, Accept, Mode, feature_words
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.octets import Address
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.test_packet import PacketLayout

if TYPE_CHECKING:
    from ippm.core.impair import Impairments


@dataclass(frozen=True, slots=True)
class ControlServerConfig:
    """What the Server role is willing to do. The limits are low by default.

    `modes` are security modes only; IKEv2Derived is added when the key provider offers it. `servwait_s` bounds the
    wait for each whole command, `setup_wait_s` the wait for the Set-Up-Response. `strict_modes`: with IKEv2Derived
    exactly one of authenticated, encrypted, mixed. `any_sender`: the Sender Address may be another than the
    client's own. `features` are what of RFC 5938, 6038, 7750 and 8186 is offered (TWAMP only), `server_octets` what
    this server wants to have in each test packet (0: nothing), `tw_auth_pad` the padding that a keyed mode takes for
    replies of the same length (64, or 56 by the text of RFC 6038). `usage` has the limit classes and what is taken of
    them; None: there are none. `key_log` is told the keys;
    `impairments` spoil what is sent.
    Raises ConfigurationError. RFC 4656 sections 3.1 and 6.5.
    """

    modes: Mode = SECURITY_BITS
    count: int = 4096  # rfc4656-s3.1-06
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
    features: Mode = NO_FEATURES
    server_octets: int = 0
    tw_auth_pad: int = 64
    usage: LimitUsage | None = None
    key_log: KeyLog | None = None
    impairments: Impairments | None = None

    def __post_init__(self) -> None:
        check_count(self.count)
        if self.features & ~FEATURE_BITS:
            raise ConfigurationError(f"features = {self.features!r}: only features of TWAMP are configured there")
        if not 0 <= self.server_octets <= 0xFFFF:
            raise ConfigurationError(f"server_octets = {self.server_octets}: two octets, 0 to 65535")
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
    if alien := chosen.features & ~offered:
        raise _unsupported(f"the client chose {feature_words(alien)}, which was not offered")
    if derived and not security.keyed:
        if strict:
            raise _unsupported("the client chose IKEv2Derived together with open mode")
        return security | chosen.features
    return security | derived | chosen.features


def check_request(
    request: RequestTwSession, config: ControlServerConfig, mode: Mode, local: Endpoint, remote: Endpoint
) -> None:
    """Raises RefuseSession for what this server does not do. RFC 5357 section 3.5, RFC 4656 section 6.2."""
    check_padding(request, config, mode)
    unsupported = Accept.NOT_SUPPORTED
    if request.conf_sender or request.conf_receiver:  # rfc5357-s3.5-04, rfc5357-s3.5-05
        raise RefuseSession(unsupported, "Conf-Sender and Conf-Receiver must be zero")
    if request.number_of_schedule_slots:  # rfc5618-s4.1.2-01a
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


def check_padding(request: RequestTwSession, config: ControlServerConfig, mode: Mode) -> None:
    """Raises RefuseSession when the padding is too short for what the features promise. RFC 6038 sections 4.2, 4.3."""
    if not mode & (Mode.REFLECT_OCTETS | Mode.SYMMETRICAL_SIZE):
        return
    layout = PacketLayout.of(mode, request.length_of_padding_to_reflect, config.tw_auth_pad)
    padding = request.padding_length
    if mode & Mode.REFLECT_OCTETS and padding <= layout.reflected_octets:  # rfc6038-s4.2-07
        words = (
            f"padding of {padding} octets, of which {layout.reflected_octets} are to be reflected: more is needed"
        )
        raise RefuseSession(Accept.NOT_SUPPORTED, words)
    if padding < layout.least_padding_octets:  # rfc6038-s4.3-09
        words = f"padding of {padding} octets: equal packets both ways need {layout.least_padding_octets}"
        raise RefuseSession(Accept.NOT_SUPPORTED, words)


def bare_address(host: str) -> Address:
    """An address of its text, without an IPv6 zone."""
    return ip_address(host.partition("%")[0])


def _unsupported(text: str) -> ProtocolError:
    return ProtocolError(text, accept=Accept.NOT_SUPPORTED)
