"""One process that is a whole host: an IKE endpoint, and O/TWAMP servers whose keys come from its IKE SAs.

The [measurement] section makes one TWAMP server and one OWAMP server; each `[[measurement.servers]]` table makes one
more, with the words that it changes (another port, another derivation). Under `path = "bypass"` or `"both"` the
traffic whose client side has a port of `bypass_ports` stays outside the tunnel (policies of both hosts); everything
else goes into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from binding.config import MeasurementConfig, parse_host_limits, parse_servers
from binding.measurement import (
    BY_ADDRESS,
    NO_TRAFFIC,
    AnyRequest,
    Circumstances,
    Measurement,
    MeasureRequest,
    OneWayMeasurement,
    WithoutEnd,
    measure,
    measure_without_end,
    perform,
    with_passphrases,
)
from binding.policy import ChildView, SaChoice, SaView
from binding.provider import IkeKeyProvider, KeyOptions
from binding.secret_log import SecretLog
from ikev2.embedding import (
    Backend,
    Bypass,
    ChildSaParameters,
    ChildSaReady,
    Configuration,
    ConnectionConfig,
    Daemon,
    DaemonOptions,
    Endpoint,
    IkeError,
    KeyExporter,
    LocalProtocolError,
    LogRing,
    PcapWriter,
    choose_backend,
    load_configuration,
)
from ikev2.embedding import KeyLogWriter as IkeKeyLogWriter
from ippm import (
    ClientSetUp,
    KeyLogWriter,
    Limits,
    LimitUsage,
    OwampServer,
    OwampServerOptions,
    ServerOptions,
    StopSignal,
    TwampServer,
)

log = logging.getLogger("ippm-ipsec")

TCP, UDP = 6, 17
HMAC_COUNTER = "hmac_mismatch (key_count differs?)"
"""key_count is not signalled: an end that has another one sees every Test HMAC fail."""

TOKEN_KEY_RULES = ("pbkdf2", "truncate16")
"""In the order in which a server with `token_key = "auto"` tries them."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """A host's file, read: the IKE side, the measurement section, and the servers it asks for."""

    file: Configuration
    measurement: MeasurementConfig
    servers: tuple[MeasurementConfig, ...]
    limits: Limits | None = None


def load_host_config(path: Path, switches: Mapping[str, Any] | None = None) -> HostConfig:
    """Read a host's TOML; `switches` are words of [measurement] that the command line changes.

    Raises ConfigurationError: each fault in a line of its own, with its full path.
    """
    file = load_configuration(path)
    section = {**file.measurement, **(switches or {})}
    if isinstance(section.get("key_file"), str):
        section["key_file"] = str(path.parent / section["key_file"])
    measurement, servers = parse_servers(section)
    limits = parse_host_limits(section)
    endpoint = replace(file.endpoint, label=measurement.label.encode("ascii"), sa_grace_s=measurement.sa_grace)
    return HostConfig(replace(file, endpoint=endpoint), measurement, servers, limits)


class Host:
    """The IKE endpoint, the servers and the client of one host. Use: `start`, `measure`, `stop`."""

    def __init__(
        self,
        config: HostConfig,
        backend: Backend,
        *,
        keylog: Path | None = None,
        pcap: PcapWriter | None = None,
        serve: bool = True,
    ) -> None:
        self.config = config
        self.backend = backend
        self.providers: list[IkeKeyProvider] = []
        self._keylog = keylog
        self._pcap = pcap
        self._serve = serve
        self._usage = None if config.limits is None else LimitUsage(config.limits)
        self._endpoint: Endpoint | None = None
        self._secret_log: SecretLog | None = None
        self._stack = AsyncExitStack()
        self._bypassed: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Open the sockets, the backend and the servers; nothing stays open when this raises.

        Raises IkeError, IppmError or OSError.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._forget)
            if self._keylog is not None:
                self._secret_log = SecretLog(self._keylog)
                stack.callback(self._secret_log.close)
            self._endpoint = await self._open_endpoint(stack)
            self._watch(self._endpoint)
            for measurement in self.config.servers if self._serve else ():
                await self._start_server(measurement, stack)
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """End the servers, delete the SAs, take everything out of the system."""
        await self._stack.aclose()

    def _forget(self) -> None:
        self._endpoint = self._secret_log = None
        self._bypassed.clear()

    @property
    def endpoint(self) -> Endpoint:
        """The running endpoint. IkeError before start and after stop."""
        if self._endpoint is None:
            raise IkeError("the host is not running")
        return self._endpoint

    # --- IkeSide -------------------------------------------------------------------------------------------------

    @property
    def backend_name(self) -> str:
        """Which backend carries the Child SAs."""
        return self.backend.name

    @property
    def exporter(self) -> KeyExporter:
        """Where key handles come from."""
        return self.endpoint.exporter

    @property
    def key_log(self) -> KeyLogWriter | None:
        """The O/TWAMP key log, when there is one."""
        return None if self._secret_log is None else self._secret_log.key_log

    @property
    def connections(self) -> Sequence[ConnectionConfig]:
        """What may be brought up."""
        return self.endpoint.config.connections

    def sas(self) -> list[SaView]:
        """The established IKE SAs."""
        endpoint = self.endpoint
        views = []
        for info in endpoint.sa_infos():
            if info.established_at is None:
                continue
            children = []
            for child in info.children:
                with contextlib.suppress(LocalProtocolError):
                    counters = endpoint.child_counters(child.spi_in)
                    children.append(ChildView(child.spi_in, child.spi_out, counters))
            views.append(SaView.of(info, children))
        return views

    async def up(self, name: str) -> None:
        """Bring a connection up. Raises IkeError with the reason when it does not come up."""
        await self.endpoint.up(name)

    # --- what it does --------------------------------------------------------------------------------------------

    def provider(self, options: KeyOptions, choice: SaChoice = BY_ADDRESS) -> IkeKeyProvider:
        """A key provider over this host's IKE SAs."""
        return IkeKeyProvider(self.exporter, options, select=choice.selector(self.sas), secret_log=self._secret_log)

    async def measure(self, request: MeasureRequest) -> Measurement:
        """One TWAMP measurement. Raises IkeError or IppmError with a reason for a person."""
        return await measure(self, request, self._secret_log)

    async def perform(self, request: AnyRequest, stop: StopSignal | None = None) -> Measurement | OneWayMeasurement:
        """One measurement of either kind; `stop` ends it early. Raises IkeError or IppmError, for a person."""
        return await perform(self, request, self._secret_log, stop)

    async def perform_without_end(
        self, request: AnyRequest, wish: WithoutEnd, stop: StopSignal | None = None
    ) -> Circumstances:
        """One that goes on until `stop`. Raises IkeError or IppmError with a reason for a person."""
        return await measure_without_end(self, request, wish, self._secret_log, stop)

    async def _open_endpoint(self, stack: AsyncExitStack) -> Endpoint:
        """A started endpoint; `stack` takes it down."""
        keylog = None
        if self._keylog is not None:
            keylog = IkeKeyLogWriter(self._keylog)
            stack.callback(keylog.close)
            log.warning("%s", keylog.warning)
        endpoint = Endpoint(self.config.file.endpoint, self.backend, keylog=keylog, pcap=self._pcap)
        await endpoint.start()
        stack.push_async_callback(endpoint.stop)
        return endpoint

    async def _start_server(self, measurement: MeasurementConfig, stack: AsyncExitStack) -> None:
        provider = IkeKeyProvider(self.exporter, measurement.key_options(), secret_log=self._secret_log)
        self.providers.append(provider)
        keys = with_passphrases(provider, measurement)
        addresses: Sequence[str | None] = measurement.listen or sorted(
            {address for c in self.connections for address in c.local_addrs if address != "%any"}
        )
        for address in addresses or [None]:
            options = ServerOptions(
                address=address, port=measurement.port, test_ports=measurement.test_ports,
                strict_modes=measurement.strict_modes, hmac_counter=HMAC_COUNTER, usage=self._usage,
                key_log=self.key_log,
            )  # fmt: skip
            await self._serve_one(TwampServer(options, keys), measurement, stack)
            if measurement.owamp_port:
                one_way = OwampServerOptions(
                    address=address, port=measurement.owamp_port, test_ports=measurement.test_ports,
                    strict_modes=measurement.strict_modes, ikev2_bit=measurement.owamp_ikev2_mode, usage=self._usage,
                    key_log=self.key_log,
                )  # fmt: skip
                await self._serve_one(OwampServer(one_way, keys), measurement, stack)

    async def _serve_one(
        self, server: TwampServer | OwampServer, measurement: MeasurementConfig, stack: AsyncExitStack
    ) -> None:
        if measurement.token_key == "auto":
            server.subscribe(_log_token_key)
        await server.start()
        stack.push_async_callback(server.stop)

    def _watch(self, endpoint: Endpoint) -> None:
        """Under `bypass` and `both`, keep measurement traffic of each pair of hosts outside its tunnel."""
        if self.config.measurement.path == "tunnel":
            return

        def on_event(event: object) -> None:
            if isinstance(event, ChildSaReady):
                self._bypass(event.child)

        endpoint.subscribe(on_event)
        for info in endpoint.sa_infos():  # a peer may have been quicker than we
            for child in info.children:
                self._bypass(endpoint.find_child(child.spi_in))

    def _bypass(self, child: ChildSaParameters) -> None:
        pair = (child.local, child.remote)
        if pair in self._bypassed:
            return
        try:
            for protocol in (TCP, UDP):
                self.backend.add_bypass(Bypass(protocol, self.config.measurement.bypass_ports, *pair))
        except IkeError as error:
            log.error("no bypass between %s and %s: %s", *pair, error)
            return
        self._bypassed.add(pair)


class ServingHost(Host):
    """A host that others find: `ikev2 list` by its control socket, `owping` and `twping` by its key agent, too."""

    def __init__(
        self,
        config: HostConfig,
        backend: Backend,
        options: DaemonOptions,
        reload: Callable[[], Configuration] | None = None,
    ) -> None:
        super().__init__(config, backend, keylog=options.keylog)
        self.daemon = Daemon(config.file, options, reload=reload, backend=backend)

    async def _open_endpoint(self, stack: AsyncExitStack) -> Endpoint:
        await self.daemon.start(stack)
        handler = RingHandler(self.daemon.log)
        for name in ("ippm", "ippm-ipsec"):
            logging.getLogger(name).addHandler(handler)
            stack.callback(logging.getLogger(name).removeHandler, handler)
        return self.daemon.endpoint

    async def reload(self) -> None:
        """Read the connections again; servers and [measurement] stay as they are. A faulty file changes nothing."""
        try:
            await self.daemon.reload()
        except IkeError as error:
            log.error("the configuration stays as it was: %s", error)


class RingHandler(logging.Handler):
    """What the O/TWAMP side logs, for `ikev2 log`, too: a refusal for want of an SA is found where SAs are."""

    def __init__(self, ring: LogRing) -> None:
        super().__init__(logging.INFO)
        self._ring = ring

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self._ring.log("LIB", f"{record.name}: {record.getMessage()}")


def _log_token_key(client: object, event: object) -> None:
    """Reading A2: the Challenge has told which rule the client goes by."""
    if isinstance(event, ClientSetUp) and event.token_key_index is not None:
        log.info("%s makes its token key by %s", client, TOKEN_KEY_RULES[event.token_key_index])


def run_host(
    config_file: Path, switches: Mapping[str, Any], options: DaemonOptions, say: Callable[[str], None]
) -> None:
    """`ippm-ipsec host`: run until SIGINT or SIGTERM; SIGHUP reads the connections again."""
    config = load_host_config(config_file, switches)
    chosen, reason = choose_backend(options.backend or config.file.backend)
    say(f"backend {reason}")
    if chosen.name in NO_TRAFFIC:
        log.warning("the %s backend carries no traffic of this machine: there is no tunnel", chosen.name)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        host = ServingHost(config, chosen(), options, lambda: load_host_config(config_file, switches).file)
        reloads: set[asyncio.Task[None]] = set()

        def hang_up() -> None:
            reloads.add(task := loop.create_task(host.reload()))
            task.add_done_callback(reloads.discard)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        await host.start()
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        try:
            ports = ", ".join(str(server.port) for server in config.servers)
            one_way = ", ".join(str(server.owamp_port) for server in config.servers if server.owamp_port)
            served = f"TWAMP on TCP {ports}" + (f", OWAMP on TCP {one_way}" if one_way else "")
            say(f"ready: IKE endpoint, {served}; Ctrl-C ends")
            await ended.wait()
        finally:
            await host.stop()

    asyncio.run(run())
