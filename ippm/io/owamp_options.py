"""What an OWAMP server and an OWAMP client can be told. RFC 4656 sections 3 and 6.5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ippm.core.key_log import KeyLog
from ippm.core.limits import LimitUsage
from ippm.core.owamp_events import SECURITY
from ippm.errors import ConfigurationError
from ippm.iana import DEFAULT_MAXIMUM_COUNT, OWAMP_IKEV2_DERIVED, OWAMP_PORT, Mode
from ippm.io.batch import is_linux
from ippm.io.options import MarkCallback, check_port, check_port_range, check_run, security_of
from ippm.io.transmit_stamps import DEFAULT_STAMPS, StampOptions

if TYPE_CHECKING:
    from ippm.core.impair import Impairments


@dataclass(frozen=True, slots=True)
class OwampServerOptions:
    """An OWAMP server. The limits are low by default, those of open mode apart. Raises ConfigurationError.

    `address` None listens on all addresses of both families; `port` 0 takes a free one. `test_ports` is the inclusive
    range of UDP ports. `directory` keeps the records of sessions; None is a temporary one. `disk_octets` bounds them
    all. `keep_s` is how long the records of a keyed session are kept; those of an open one go when its Control
    connection is closed, or `keep_open_s` later. `bits_per_second` bounds all sessions that the server sends or
    receives at once, `schedule_slots` the slots of all their schedules (some 130 octets of memory each); a schedule of
    16 slots or less does not count. `io` is a way of `ippm.io.batch`; `correct_stamps` puts the stamps in packets that
    it sends forward by their median age. `usage` counts what limit classes have taken; servers that share it share the
    limits.
    `key_log` is told the keys, `impairments` spoil what is sent. RFC 4656 sections 3.1 and 6.5.
    """

    address: str | None = None
    port: int = OWAMP_PORT
    test_ports: tuple[int, int] = (18760, 18960)
    modes: Mode = SECURITY
    count: int = 4096
    servwait_s: float = 900.0
    setup_wait_s: float = 60.0
    strict_modes: bool = True
    any_receiver: bool = False
    maximum_connections: int = 128
    connections_per_address: int = 32
    maximum_sessions: int = 512
    sessions_per_connection: int = 16
    open_sessions_per_connection: int = 16
    maximum_packets: int = 2_000_000
    open_maximum_packets: int = 1_000_000
    bits_per_second: int = 200_000_000
    open_bits_per_second: int = 100_000_000
    schedule_slots: int = 1 << 20
    open_schedule_slots: int = 1 << 18
    directory: str | None = None
    disk_octets: int = 512 * 1024 * 1024
    open_disk_octets: int = 128 * 1024 * 1024
    keep_s: float = 86_400.0
    keep_open_s: float = 0.0
    ikev2_bit: int = OWAMP_IKEV2_DERIVED
    io: str = "auto"
    correct_stamps: bool = False
    mark_callback: MarkCallback | None = None
    usage: LimitUsage | None = None
    key_log: KeyLog | None = None
    impairments: Impairments | None = None

    def __post_init__(self) -> None:
        check_port_range("test_ports", self.test_ports)
        check_port("port", self.port)
        is_linux(self.io)
        if self.modes & ~SECURITY:
            raise ConfigurationError(f"modes = {self.modes!r}: OWAMP has open, authenticated and encrypted mode")

    @property
    def store(self) -> Path | None:
        """Where the records are kept; None: in a temporary directory."""
        return None if self.directory is None else Path(self.directory)


@dataclass(frozen=True, slots=True)
class OwpingOptions:
    """One run of an OWAMP client: a session each way on one Control connection. Raises ConfigurationError.

    `to_server` and `from_server` say which way; `mode` is `open`, `authenticated` or `encrypted`, or letters as in
    `AE`: of several the strictest that the server offers is taken. `interval_s` is the time between packets, their
    mean when `exponential`; or `schedule` gives the slots as (exponential, seconds). `start_delay_s` is from the first
    request to the first packet. `local_port_range` is the inclusive range in which TCP and UDP ports are bound;
    `test_port_range` is for UDP alone. `io` is a way of `ippm.io.batch`; `stamps` says what is asked of the kernel;
    `realtime` sends in a thread with precedence over all other work.
    `key_log` is told the keys, `impairments` spoil what is sent.
    RFC 4656 sections 3 and 4.
    """

    host: str
    port: int = OWAMP_PORT
    mode: str = "open"
    to_server: bool = True
    from_server: bool = True
    count: int = 100
    interval_s: float = 0.1
    exponential: bool = True
    schedule: tuple[tuple[bool, float], ...] = ()
    padding: int = 0
    zero_padding: bool = False
    timeout_s: float = 2.0
    dscp: int = 0
    start_delay_s: float = 0.25
    local_address: str | None = None
    local_port_range: tuple[int, int] | None = None
    test_port_range: tuple[int, int] | None = None
    family: int = 0
    require_ikev2: bool = False
    ikev2_bit: int = OWAMP_IKEV2_DERIVED
    maximum_count: int = DEFAULT_MAXIMUM_COUNT
    connect_wait_s: float = 10.0
    response_wait_s: float = 30.0
    path: str | None = None
    io: str = "auto"
    stamps: StampOptions = DEFAULT_STAMPS
    realtime: bool = False
    mark_callback: MarkCallback | None = None
    key_log: KeyLog | None = None
    impairments: Impairments | None = None

    def __post_init__(self) -> None:
        if self.security & ~SECURITY:
            raise ConfigurationError("OWAMP has no mixed mode: open, authenticated, encrypted")
        check_port("port", self.port)
        if not (self.to_server or self.from_server):
            raise ConfigurationError("to_server or from_server, or both")
        check_run(self, [seconds for _, seconds in self.schedule])

    @property
    def ways(self) -> tuple[bool, ...]:
        """Whether the server sends, for each way that is asked for."""
        return (False,) * self.to_server + (True,) * self.from_server

    @property
    def security(self) -> Mode:
        """The security modes as bits. Raises ConfigurationError."""
        return security_of(self.mode)
