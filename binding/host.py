"""One process that is a whole host: an IKE endpoint, and O/TWAMP servers whose keys come from its IKE SAs.

The [measurement] section makes one TWAMP server; each `[[measurement.servers]]` table makes one more, with the words
that it changes (another port, another derivation). Under `path = "bypass"` or `"both"` the traffic whose client side
has a port of `bypass_ports` stays outside the tunnel (policies of both hosts); everything else goes into it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binding.config import MeasurementConfig, parse_measurement
from binding.policy import SaChoice, connection_for
from binding.provider import IkeKeyProvider, KeyChainRecord, KeyOptions
from binding.secret_log import SecretLog
from ikev2 import (
    Backend,
    Bypass,
    ChildCounters,
    ChildSaReady,
    Configuration,
    ConfigurationError,
    Endpoint,
    IkeError,
    IkeSaInfo,
    KeyAgentClient,
    KeyLogWriter,
    PcapWriter,
    choose_backend,
    load_configuration,
)
from ippm import NoProvider, RunResult, ServerOptions, TwampServer, TwpingOptions, twping

log = logging.getLogger("ippm-ipsec")

TCP, UDP = 6, 17
BY_ADDRESS = SaChoice()


@dataclass(frozen=True, slots=True)
class HostConfig:
    """A host's file, read: the IKE side, the measurement section, and the servers it asks for."""

    file: Configuration
    measurement: MeasurementConfig
    servers: tuple[MeasurementConfig, ...]


def load_host_config(path: Path) -> HostConfig:
    """Read a host's TOML. Raises ConfigurationError: each fault in a line of its own, with its full path."""
    file = load_configuration(path)
    section = dict(file.measurement)
    tables = section.pop("servers", [])
    measurement = parse_measurement(section)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError("measurement.servers: is written as [[measurement.servers]] tables")
    servers = [measurement, *(parse_measurement({**section, **table}) for table in tables)]
    ports = [server.port for server in servers]
    if len(set(ports)) != len(ports):
        raise ConfigurationError(f"measurement.servers: two servers have the same port: {sorted(ports)}")
    return HostConfig(file, measurement, tuple(servers))


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """One TWAMP measurement from this host. `options` is what would be asked without IKE."""

    destination: TwpingOptions
    measurement: MeasurementConfig
    path: str
    choice: SaChoice = BY_ADDRESS


@dataclass(frozen=True, slots=True)
class ChildTraffic:
    """A Child SA's counters before and after a measurement: what went through it."""

    backend: str
    spi_in: str
    spi_out: str
    before: ChildCounters
    after: ChildCounters

    def to_dict(self) -> dict[str, Any]:
        """The `child_sa` object of the demo's JSON: SPIs, and packets and octets each way during the run."""
        return {
            "backend": self.backend,
            "spis": {"in": self.spi_in, "out": self.spi_out},
            "packets_out": self.after.packets_out - self.before.packets_out,
            "octets_out": self.after.octets_out - self.before.octets_out,
            "packets_in": self.after.packets_in - self.before.packets_in,
            "octets_in": self.after.octets_in - self.before.octets_in,
        }


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one measurement gave, with the SA that keyed or carried it."""

    mode: str
    path: str
    derivation: str | None
    ike_sa: IkeSaInfo | None
    child: ChildTraffic | None
    result: RunResult
    record: KeyChainRecord | None
    elapsed_ms: int

    def to_dict(self) -> dict[str, Any]:
        """One entry of `runs` in the demo's JSON (docs/cli.md)."""
        sa = self.ike_sa
        return {
            "derivation": self.derivation,
            "protocol": "twamp",
            "mode": self.mode,
            "path": self.path,
            "ike": None if sa is None else {
                "spi_i": sa.spi_i.hex(), "spi_r": sa.spi_r.hex(), "proposal": sa.suite, "auth": sa.auth,
            },
            "child_sa": None if self.child is None else self.child.to_dict(),
            "keys_equal": None,
            "result": self.result.to_dict(),
            "elapsed_ms": self.elapsed_ms,
        }  # fmt: skip


class Host:
    """The IKE endpoint, the servers and the client of one host. Use: `start`, `up` or `measure`, `stop`."""

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
        self._keylog = KeyLogWriter(keylog) if keylog is not None else None
        self._secret_log = SecretLog(keylog) if keylog is not None else None
        if self._keylog is not None:
            log.warning("%s", self._keylog.warning)
        self.endpoint = Endpoint(config.file.endpoint, backend, keylog=self._keylog, pcap=pcap)
        self.providers: list[IkeKeyProvider] = []
        self._servers: list[TwampServer] = []
        self._serve = serve
        self._bypassed: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Open the sockets, the backend and the servers. Raises IkeError, IppmError or OSError."""
        self.endpoint.subscribe(self._on_event)
        await self.endpoint.start()
        try:
            if self._serve:
                for measurement in self.config.servers:
                    await self._start_server(measurement)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the servers, delete the SAs, take everything out of the system."""
        for server in self._servers:
            await server.stop()
        self._servers.clear()
        await self.endpoint.stop()
        for channel in (self._keylog, self._secret_log):
            if channel is not None:
                channel.close()

    def provider(self, options: KeyOptions, choice: SaChoice = BY_ADDRESS) -> IkeKeyProvider:
        """A key provider over this host's IKE SAs."""
        return IkeKeyProvider(
            self.endpoint.exporter,
            options,
            select=choice.selector(self.endpoint.sa_infos),
            secret_log=self._secret_log,
        )

    async def sa_for(self, server: str, no_sa: str = "initiate") -> IkeSaInfo:
        """The established IKE SA with a server; brought up when there is none and `no_sa` says so (reading A10).

        Raises IkeError.
        """
        established = [info for info in self.endpoint.sa_infos() if info.established_at is not None]
        for info in reversed(established):
            if info.remote.host == server:
                return info
        if no_sa != "initiate":
            raise IkeError(f"there is no IKE SA with {server} (no_sa = {no_sa!r})")
        name = connection_for([(c.name, c.remote_addrs) for c in self.config.file.endpoint.connections], server)
        log.info("no IKE SA with %s: bringing up connection %s", server, name)
        return await self.endpoint.up(name)

    async def measure(self, request: MeasureRequest) -> Measurement:
        """One TWAMP measurement. Raises IkeError or IppmError with a reason for a person."""
        options = request.destination
        keyed = options.security.keyed
        sa = await self.sa_for(options.host, request.measurement.no_sa)
        provider = self.provider(request.measurement.key_options(), request.choice) if keyed else None
        before = self._counters(sa)
        started = time.monotonic()
        result = await twping(options, provider or NoProvider())
        elapsed_ms = round((time.monotonic() - started) * 1000)
        after = self._counters(sa)
        return Measurement(
            mode=options.mode,
            path=request.path,
            derivation=request.measurement.derivation.value if keyed else None,
            ike_sa=sa,
            child=_traffic(self.backend.name, sa, before, after),
            result=result,
            record=provider.records[-1] if provider is not None and provider.records else None,
            elapsed_ms=elapsed_ms,
        )

    def _counters(self, sa: IkeSaInfo) -> ChildCounters | None:
        return self.endpoint.child_counters(sa.children[-1].spi_in) if sa.children else None

    async def _start_server(self, measurement: MeasurementConfig) -> None:
        provider = IkeKeyProvider(self.endpoint.exporter, measurement.key_options(), secret_log=self._secret_log)
        self.providers.append(provider)
        addresses: Sequence[str | None] = measurement.listen or sorted(
            {
                address
                for c in self.config.file.endpoint.connections
                for address in c.local_addrs
                if address != "%any"
            }
        )
        for address in addresses or [None]:
            options = ServerOptions(
                address=address, port=measurement.port, test_ports=measurement.test_ports,
                strict_modes=measurement.strict_modes, hmac_counter="hmac_mismatch (key_count differs?)",
            )  # fmt: skip
            server = TwampServer(options, provider)
            await server.start()
            self._servers.append(server)

    def _on_event(self, event: object) -> None:
        """Under `bypass` and `both`, keep measurement traffic of a new pair of hosts outside its tunnel."""
        if not isinstance(event, ChildSaReady) or self.config.measurement.path == "tunnel":
            return
        pair = (event.child.local, event.child.remote)
        if pair in self._bypassed:
            return
        self._bypassed.add(pair)
        for protocol in (TCP, UDP):
            self.backend.add_bypass(Bypass(protocol, self.config.measurement.bypass_ports, *pair))


def _traffic(
    backend: str, sa: IkeSaInfo, before: ChildCounters | None, after: ChildCounters | None
) -> ChildTraffic | None:
    if before is None or after is None:
        return None
    child = sa.children[-1]
    return ChildTraffic(backend, f"{child.spi_in:08x}", f"{child.spi_out:08x}", before, after)


def run_host(config_file: Path, *, backend: str, keylog: Path | None, pcap: Path | None) -> None:
    """`ippm-ipsec host`: run until SIGINT or SIGTERM."""
    config = load_host_config(config_file)
    chosen, reason = choose_backend(backend)
    print(f"backend {chosen.name}: {reason}", flush=True)  # noqa: T201

    async def run(writer: PcapWriter | None) -> None:
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        host = Host(config, chosen(), keylog=keylog, pcap=writer)
        await host.start()
        ports = ", ".join(str(server.port) for server in config.servers)
        print(f"ready: IKE endpoint, TWAMP on TCP {ports}; Ctrl-C ends", flush=True)  # noqa: T201
        try:
            await ended.wait()
        finally:
            await host.stop()

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with PcapWriter(pcap, "ippm-ipsec host") if pcap is not None else nullcontext() as capture:
        asyncio.run(run(capture))


def agent_or_none(paths: Sequence[Path]) -> KeyAgentClient | None:
    """The key agent of an endpoint that runs already on this machine, if there is one."""
    for path in paths:
        if path.exists():
            return KeyAgentClient(path)
    return None
