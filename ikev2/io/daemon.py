"""The endpoint as a process: backend, key log, capture, control socket, key agent, signals, what starts by itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ikev2.core.impair import Knob
from ikev2.core.info import child_sa_info
from ikev2.core.progress import child_sa_progress, ike_sa_progress
from ikev2.errors import BackendError, ConfigurationError, IkeError
from ikev2.io.configuration import Configuration, EndpointConfig
from ikev2.io.control import ControlServer
from ikev2.io.endpoint import Endpoint
from ikev2.io.key_agent import KeyAgentServer
from ikev2.io.keylog import KeyLogWriter
from ikev2.io.log import LogRing
from ikev2.io.notify import sd_notify
from ikev2.io.pcap import InterfaceCapture, PcapWriter
from ikev2.io.unix_socket import JsonObject
from ikev2.ipsec.probe import choose_backend

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa
    from ikev2.ipsec.backend import Backend

RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0
"""A connection that starts by itself and does not come up is tried again, after longer and longer pauses."""

GC_THRESHOLDS = (20_000, 20, 10)
"""An IKE SA leaves some hundred objects that stay, and hardly a cycle: 700 means a look at them every second time."""


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """What the command line says beyond the configuration."""

    backend: str | None = None
    keylog: Path | None = None
    pcap: Path | None = None
    pcap_interface: str | None = None
    pcap_esp: bool = False
    impairments: tuple[str, ...] = ()
    control_socket: Path | None = None
    verbose: bool = False


class Daemon:
    """One configured endpoint with all that surrounds it; `run()` lasts until SIGTERM or SIGINT.

    As the target of the control socket it answers `ikev2 up`, `down`, `list`, `stats`, `reload`.
    """

    def __init__(
        self,
        configuration: Configuration,
        options: DaemonOptions | None = None,
        *,
        reload: Callable[[], Configuration] | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.configuration = configuration
        self.options = options or DaemonOptions()
        self.log = LogRing(configuration.endpoint.log_lines)
        self._reload = reload
        self._given_backend = backend
        self._endpoint: Endpoint | None = None
        self._started_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()

    @property
    def endpoint(self) -> Endpoint:
        """The running endpoint. IkeError before start and after stop."""
        if self._endpoint is None:
            raise IkeError("the endpoint is not running")
        return self._endpoint

    async def run(self) -> None:
        """Start, say READY=1, wait for a signal, stop. Raises ConfigurationError or BackendError when it cannot."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        async with contextlib.AsyncExitStack() as stack:
            await self.start(stack)
            gc.collect()
            gc.freeze()  # what is there by now stays: later collections need not look at it
            gc.set_threshold(*GC_THRESHOLDS)
            sd_notify("READY=1")
            await self._stopped.wait()
            sd_notify("STOPPING=1")
            self.log.log("LIB", "stopping")

    def stop(self) -> None:
        """End `run`."""
        self._stopped.set()

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Bring everything up; leaving `stack` takes it down in reverse order."""
        if self.options.verbose:
            self.log.subscribe(lambda record: print(record, file=sys.stderr, flush=True))  # noqa: T201
        keylog = self._open_keylog(stack)
        pcap = self._open_pcap(stack)
        backend = self._given_backend or self._choose_backend(pcap if self.options.pcap_esp else None)
        impairments = tuple(Knob.parse(text) for text in self.options.impairments)
        for knob in self.options.impairments:
            self._warn(f"WARNING: messages are spoiled on purpose: {knob}")
        endpoint = Endpoint(
            self.configuration.endpoint,
            backend,
            keylog=keylog,
            pcap=None if self.options.pcap_interface else pcap,
            impairments=impairments,
            log=self.log,
        )
        await endpoint.start()
        stack.push_async_callback(endpoint.stop)
        self._endpoint = endpoint
        self._started_at = time.monotonic()
        control = ControlServer(self.options.control_socket or self.configuration.control_socket, self)
        await control.start()
        stack.push_async_callback(control.stop)
        agent = KeyAgentServer(
            self.configuration.key_agent_socket, endpoint.exporter, lambda text: self.log.log("LIB", text)
        )
        await agent.start()
        stack.push_async_callback(agent.stop)
        stack.push_async_callback(self._cancel_tasks)
        self._say_where(control.path)
        self._autostart(self.configuration.endpoint)

    # --- the control socket's commands ---------------------------------------------------------------------------

    async def up(self, name: str) -> JsonObject:
        """Bring a connection or a child up; the description of its IKE SA."""
        return (await self.endpoint.up(name)).to_dict(self.endpoint.now())

    async def down(self, name: str) -> JsonObject:
        """Take it down."""
        self._cancel_autostart(name)
        await self.endpoint.down(name)
        return {"name": name}

    async def rekey(self, name: str) -> JsonObject:
        """Rekey a connection's IKE SA, or a Child SA."""
        await self.endpoint.rekey(name)
        return {"name": name}

    def list_sas(self) -> JsonObject:
        """Every IKE SA with its Child SAs and their counters, and the connections that are configured."""
        endpoint = self.endpoint
        return {
            "backend": endpoint.backend.name,
            "connections": [connection.name for connection in endpoint.config.connections],
            "ike_sas": [self._listed(sa) for sa in endpoint.manager.sas],
            "pools": self._pools(),
            "traps": [
                {
                    "name": trap.name,
                    "connection": connection,
                    "mode": str(trap.mode),
                    "local": trap.local,
                    "remote": trap.remote,
                    "ts_local": [str(ts) for ts in trap.ts_local],
                    "ts_remote": [str(ts) for ts in trap.ts_remote],
                }
                for connection, trap in endpoint.traps()
            ],
        }

    def stats(self) -> JsonObject:
        """Counters of the process, its sockets, the core and each Child SA."""
        endpoint = self.endpoint
        infos = endpoint.sa_infos()
        children: JsonObject = {}
        for info in infos:
            for child in info.children:
                with contextlib.suppress(IkeError):
                    counters = endpoint.child_counters(child.spi_in)
                    children[f"{child.name}{{{child.spi_in:08x}}}"] = {
                        **self._counted(child.spi_in),
                        "errors": dict(counters.errors),
                    }
        states: JsonObject = {}
        for info in infos:
            states[info.state] = states.get(info.state, 0) + 1
        return {
            "uptime_s": int(time.monotonic() - self._started_at),
            "backend": endpoint.backend.name,
            "ike_sas": states,
            "io": endpoint.socket_counters(),
            "core": {
                "half_open_ike_sas": endpoint.manager.half_open_count,
                "dropped_messages": endpoint.manager.dropped + sum(sa.dropped for sa in endpoint.manager.sas),
                "internal_errors": endpoint.manager.internal_errors,
            },
            "backend_drops": endpoint.backend.drops(),
            "child_sas": children,
        }

    async def reload(self) -> JsonObject:
        """Read the configuration again; SAs that are up stay. Raises ConfigurationError and changes nothing."""
        if self._reload is None:
            raise ConfigurationError("this endpoint was not started from a file")
        new = self._reload()
        before = {connection.name: connection for connection in self.endpoint.config.connections}
        after = {connection.name: connection for connection in new.endpoint.connections}
        await self.endpoint.reload(new.endpoint)
        self.configuration = new
        changes: JsonObject = {
            "added": [name for name in after if name not in before],
            "changed": [name for name in after if name in before and after[name] != before[name]],
            "removed": [name for name in before if name not in after],
        }
        self.log.log("CFG", f"configuration read again: {', '.join(after) or 'no connection'}")
        self._autostart(replace(new.endpoint, connections=tuple(after[name] for name in changes["added"])))
        return changes

    # --- parts ---------------------------------------------------------------------------------------------------

    def _pools(self) -> JsonObject:
        """Each pool with its leases; `online`: an IKE SA holds the address, else it is only remembered."""
        pools: JsonObject = {
            config.name: {"size": config.size, "online": 0, "leases": []}
            for config in self.endpoint.manager.pools.configs
        }
        for lease in self.endpoint.manager.pools:
            pool = pools.setdefault(lease.pool, {"size": 0, "online": 0, "leases": []})
            pool["online"] += lease.holders > 0
            pool["leases"].append(
                {
                    "address": str(lease.address),
                    "identity": str(lease.identity),
                    "online": lease.holders > 0,
                    "ike_sas": lease.holders,
                }
            )
        return pools

    def _listed(self, sa: IkeSa) -> JsonObject:
        now = self.endpoint.now()
        children = []
        for spi_in, child in sa.children.items():
            listed = {**child_sa_info(child).to_dict(now), **child_sa_progress(child, now).to_dict()}
            with contextlib.suppress(IkeError):  # a backend without this pair has no counters
                listed |= self._counted(spi_in)
            children.append(listed)
        return {**sa.info().to_dict(now), **ike_sa_progress(sa, now).to_dict(), "children": children}

    def _counted(self, spi_in: int) -> JsonObject:
        counters = self.endpoint.child_counters(spi_in)
        return {
            "packets_in": counters.packets_in,
            "octets_in": counters.octets_in,
            "packets_out": counters.packets_out,
            "octets_out": counters.octets_out,
        }

    def _open_keylog(self, stack: contextlib.AsyncExitStack) -> KeyLogWriter | None:
        if self.options.keylog is None:
            return None
        keylog = KeyLogWriter(self.options.keylog)
        stack.callback(keylog.close)
        self._warn(keylog.warning)
        return keylog

    def _open_pcap(self, stack: contextlib.AsyncExitStack) -> PcapWriter | None:
        if self.options.pcap is None:
            return None
        pcap = PcapWriter(self.options.pcap)
        stack.callback(pcap.close)
        if self.options.pcap_interface is not None:
            capture = InterfaceCapture(pcap, self.options.pcap_interface)
            capture.start()
            stack.callback(capture.stop)
        return pcap

    def _choose_backend(self, esp_trace: PcapWriter | None) -> Backend:
        kind, reason = choose_backend(self.options.backend or self.configuration.backend)
        self.log.log("KNL", f"backend {reason}")
        if esp_trace is None:
            return kind()
        from ikev2.ipsec.userspace import UserspaceBackend

        if not issubclass(kind, UserspaceBackend):
            raise ConfigurationError(f"--pcap-esp needs ESP in userspace (--backend userspace), not {kind.name}")
        self._warn(f"WARNING: {esp_trace.path} gets in clear what ESP protects")
        return kind(trace=esp_trace)

    def _warn(self, text: str) -> None:
        """On stderr in any case: nobody may miss it."""
        if not self.options.verbose:
            print(f"ikev2: {text}", file=sys.stderr, flush=True)  # noqa: T201
        self.log.log("LIB", text)

    def _say_where(self, control_socket: Path) -> None:
        """To the log, and to whoever started it on a terminal."""
        text = f"listening on {', '.join(map(str, self.endpoint.addresses()))}; control socket {control_socket}"
        self.log.log("NET", text)
        if sys.stderr.isatty() and not self.options.verbose:
            print(f"ikev2: {text}; Ctrl-C stops", file=sys.stderr, flush=True)  # noqa: T201

    def _autostart(self, config: EndpointConfig) -> None:
        for connection in config.connections:
            if any(child.starts for child in connection.children):
                task = asyncio.create_task(self._keep_trying(connection.name), name=connection.name)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _keep_trying(self, name: str) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await self.endpoint.up(name)
                return
            except IkeError as error:
                self.log.log("IKE", f"{name} did not come up: {error}; again in {pause_s:.0f} s")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)

    def _cancel_autostart(self, name: str) -> None:
        for task in self._tasks:
            if task.get_name() == name:
                task.cancel()

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _hang_up(self) -> None:
        async def reload() -> None:
            try:
                await self.reload()
            except (ConfigurationError, BackendError) as error:
                self._warn(f"the configuration stays as it was: {error}")

        task = asyncio.create_task(reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
