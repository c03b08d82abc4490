"""What a TWAMP server and a TWAMP client can be told.

RFC 5357 section 3, RFC 4656 section 6.5.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ippm.errors import ConfigurationError
from ippm.iana import DEFAULT_MAXIMUM_COUNT, FEATURE_WORDS, SECURITY_BITS, TWAMP_PORT, Mode, features_of
from ippm.io.batch import is_linux
from ippm.io.transmit_stamps import DEFAULT_STAMPS, StampOptions

if TYPE_CHECKING:
    from ippm.core.impair import Impairments
    from ippm.core.key_log import KeyLog
    from ippm.core.limits import LimitUsage
    from ippm.io.owamp_options import OwpingOptions

MarkCallback = Callable[[socket.socket], None]
"""Called with each socket before it is bound: SO_MARK, SO_BINDTODEVICE, a socket policy."""

LONGEST_STREAM_S = 5 * 366 * 86_400
"""Times in schedules have 32 bits of seconds, and an exponential interval may be 23 times its mean."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """A TWAMP server. The limits are low by default. Raises ConfigurationError.

    `address` None listens on all addresses of both families; `port` 0 takes a free one. `modes` are security modes.
    `test_ports` is the inclusive range of UDP ports for test sessions. `count` is the PBKDF2 Count where the key
    provider has no wish of its own. `servwait_s` and `refwait_s` are SERVWAIT and REFWAIT. `check_peer`: test
    packets are answered only when they come from the address and port that the session names. Of all sessions at most
    `maximum_open_sessions` are in open mode, so that clients without a key leave room for those with one.
    `features` are words of `ippm.iana.FEATURE_WORDS`: what is offered beyond RFC 5357. `server_octets` (0: none) begin
    the padding of each test packet in sessions that reflect two octets or more; `tw_auth_pad` is 64, or 56 by the text
    of RFC 6038. `io` is a way of `ippm.io.batch`; `correct_stamps` puts the transmit stamps in replies forward by their
    median age. `usage` counts what limit classes have taken; servers that share it share the limits.
    `key_log` is told the keys, `impairments` spoil what is sent.
    RFC 5357 sections 3.1 and 4.2, RFC 4656 section 6.5, RFC 6038 section 4.3.
    """

    address: str | None = None
    port: int = TWAMP_PORT
    test_ports: tuple[int, int] = (18760, 18960)
    modes: Mode = SECURITY_BITS
    count: int = 4096
    servwait_s: float = 900.0
    refwait_s: float = 900.0
    setup_wait_s: float = 60.0
    strict_modes: bool = True
    any_sender: bool = False
    check_peer: bool = True
    maximum_connections: int = 128
    connections_per_address: int = 32
    maximum_sessions: int = 512
    maximum_open_sessions: int = 128
    sessions_per_connection: int = 16
    open_sessions_per_connection: int = 16
    io: str = "auto"
    correct_stamps: bool = False
    hmac_counter: str = "hmac_mismatch"
    features: tuple[str, ...] = tuple(FEATURE_WORDS)
    server_octets: int = 0
    tw_auth_pad: int = 64
    mark_callback: MarkCallback | None = None
    usage: LimitUsage | None = None
    key_log: KeyLog | None = None
    impairments: Impairments | None = None

    def __post_init__(self) -> None:
        check_port_range("test_ports", self.test_ports)
        check_port("port", self.port)
        is_linux(self.io)
        _ = self.feature_bits
        if not 0 <= self.server_octets <= 0xFFFF:
            raise ConfigurationError(f"server_octets = {self.server_octets}: two octets, 0 to 65535")
        check_tw_auth_pad(self.tw_auth_pad)

    @property
    def feature_bits(self) -> Mode:
        """The features as bits. Raises ConfigurationError."""
        return feature_bits(self.features)


@dataclass(frozen=True, slots=True)
class TwpingOptions:
    """One run of a TWAMP client: one session on one Control connection. Raises ConfigurationError.

    `mode` is `open`, `authenticated`, `encrypted` or `mixed`, or letters as in `AE`: of several the strictest that
    the server offers is taken. `interval_s` is the time between
    packets, their mean when `exponential`. `padding` is in octets; `tw_auth_pad` (64 or 56) is the padding that
    makes both directions equally long in a keyed mode, added when `equal_size`. `local_port_range` is the inclusive
    range in which the TCP port and the UDP port of the sender are bound; `test_port_range` is for UDP alone.
    `require_ikev2` takes no other keys. `reflector_port` is what the server is asked for, which may give another.
    `zero_addresses` leaves the addresses of the session to the Control connection, for a host behind a NAT.
    `features` (words of `ippm.iana.FEATURE_WORDS`) are wanted of the server; with `reflected_octets` it sends that much
    of the padding back as it came.
    `path` is a word for the report. `io` is a way of `ippm.io.batch`; `stamps` says what is asked of the kernel;
    `realtime` sends in a thread with precedence over all other work.
    `key_log` is told the keys, `impairments` spoil what is sent.
    RFC 5357 sections 3 and 4.
    """

    host: str
    port: int = TWAMP_PORT
    mode: str = "open"
    count: int = 100
    interval_s: float = 0.01
    exponential: bool = False
    padding: int = 0
    zero_padding: bool = False
    equal_size: bool = False
    tw_auth_pad: int = 64
    timeout_s: float = 2.0
    dscp: int = 0
    start_delay_s: float = 0.0
    local_address: str | None = None
    local_port_range: tuple[int, int] | None = None
    test_port_range: tuple[int, int] | None = None
    reflector_port: int = 0
    family: int = 0
    require_ikev2: bool = False
    maximum_count: int = DEFAULT_MAXIMUM_COUNT
    connect_wait_s: float = 10.0
    response_wait_s: float = 30.0
    zero_addresses: bool = False
    path: str | None = None
    io: str = "auto"
    stamps: StampOptions = DEFAULT_STAMPS
    realtime: bool = False
    features: tuple[str, ...] = ()
    reflected_octets: int = 0
    mark_callback: MarkCallback | None = None
    key_log: KeyLog | None = None
    impairments: Impairments | None = None

    def __post_init__(self) -> None:
        _ = self.security
        if not self.feature_bits & Mode.REFLECT_OCTETS and self.reflected_octets:
            raise ConfigurationError(
                f"reflected_octets = {self.reflected_octets}: needs the feature reflect-octets"
            )
        if not 0 <= self.reflected_octets <= 0xFFFF:
            raise ConfigurationError(f"reflected_octets = {self.reflected_octets}: 0 to 65535")
        check_port("port", self.port)
        check_port("reflector_port", self.reflector_port)
        check_run(self)
        check_tw_auth_pad(self.tw_auth_pad)

    @property
    def security(self) -> Mode:
        """The security modes as bits. Raises ConfigurationError."""
        return security_of(self.mode)

    @property
    def feature_bits(self) -> Mode:
        """The features as bits. Raises ConfigurationError."""
        return feature_bits(self.features)


def security_of(words: str) -> Mode:
    """The bits of a `mode` in words. Raises ConfigurationError."""
    try:
        return Mode.of_words(words)
    except ValueError as error:
        raise ConfigurationError(f"mode = {words!r}: {error}") from None


def feature_bits(words: tuple[str, ...]) -> Mode:
    """The bits of `features` in words. Raises ConfigurationError."""
    try:
        return features_of(words)
    except ValueError as error:
        raise ConfigurationError(f"features: {error}") from None


def check_tw_auth_pad(octets: int) -> None:
    """Raises ConfigurationError when it is neither by the figures nor by the text. RFC 5357 section 4.1.2."""
    if octets not in (64, 56):
        raise ConfigurationError(f"tw_auth_pad = {octets}: 64 or 56")


def check_run(options: TwpingOptions | OwpingOptions, intervals_s: Sequence[float] = ()) -> None:
    """Raises ConfigurationError when a field of the options is out of range; `intervals_s` as in `check_stream`."""
    is_linux(options.io)
    for name in ("local_port_range", "test_port_range"):
        ports = getattr(options, name)
        if ports is not None:
            check_port_range(name, ports)
    _check_seconds("start_delay_s", options.start_delay_s)
    check_stream(options, intervals_s)


class Stream(Protocol):
    """What every sender is told of its packets."""

    @property
    def count(self) -> int:
        """Packets."""

    @property
    def interval_s(self) -> float:
        """From one to the next, on average."""

    @property
    def timeout_s(self) -> float:
        """Until a packet counts as lost."""

    @property
    def padding(self) -> int:
        """Octets."""

    @property
    def dscp(self) -> int:
        """Six bits."""


def check_stream(stream: Stream, intervals_s: Sequence[float] = ()) -> None:
    """Raises ConfigurationError when what is to be sent is out of range; `intervals_s` stand for `interval_s`."""
    if not 0 < stream.count < 1 << 32:
        raise ConfigurationError(f"count = {stream.count}: at least one packet")
    intervals_s = intervals_s or (stream.interval_s,)
    for interval_s in intervals_s:
        _check_seconds("interval_s", interval_s)  # rfc4656-s4.1.1-05
    _check_seconds("timeout_s", stream.timeout_s)
    mean_s = sum(intervals_s) / len(intervals_s)
    if mean_s * (stream.count - 1) > LONGEST_STREAM_S:
        raise ConfigurationError(
            f"interval_s = {mean_s:g}: {stream.count} packets take longer than {LONGEST_STREAM_S} seconds (five years)"
        )
    if not 0 <= stream.padding <= 65000:
        raise ConfigurationError(f"padding = {stream.padding}: 0 to 65000 octets")
    if not 0 <= stream.dscp < 64:
        raise ConfigurationError(f"dscp = {stream.dscp}: 0 to 63")


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 <= seconds <= LONGEST_STREAM_S:
        raise ConfigurationError(f"{name} = {seconds:g}: 0 to {LONGEST_STREAM_S} seconds")


def check_port(name: str, port: int) -> None:
    """Raises ConfigurationError when `port` is none; 0 is one."""
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{name} = {port}: 0 to 65535")


def check_port_range(name: str, ports: tuple[int, int]) -> None:
    """Raises ConfigurationError when `ports` is not (first, last)."""
    first, last = ports
    if not 0 < first <= last <= 65535:
        raise ConfigurationError(f"{name} = {first}-{last}: first and last port, from 1 to 65535")
