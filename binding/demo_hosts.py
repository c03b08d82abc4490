"""The two processes of the demo. Each is a whole host in its own network namespace and speaks JSON lines on stdout.

Host B serves until its standard input ends, then prints what it derived as fingerprints. Host A brings the IKE SA up,
measures three times, is refused once, and prints each step and result as it comes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from binding.config import MeasurementConfig
from binding.derivation import Derivation
from binding.host import Host, HostConfig, load_host_config
from binding.measurement import Measurement, MeasureRequest
from binding.provider import IkeKeyProvider
from ikev2.embedding import Backend, IkeError, InterfaceCapture, KeyHandle, PcapWriter, choose_backend
from ippm import IppmError, ServerRefused, TwpingOptions, twping

PORT_RFC7717 = 862
PORT_KEYMAT_SID = 8620
INTERVAL_S = 0.01
CONNECTION = "lab"
"""What `init` calls the connection of its two files."""

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of the demo."""

    title: str
    mode: str
    path: str
    port: int
    derivation: Derivation


RUNS = (
    Run("a. authenticated mode, keys by keymat-sid (unverified reading), outside the tunnel",
        "authenticated", "bypass", PORT_KEYMAT_SID, Derivation.KEYMAT_SID),
    Run("b. encrypted mode, keys by rfc7717, outside the tunnel",
        "encrypted", "bypass", PORT_RFC7717, Derivation.RFC7717),
    Run("c. unauthenticated mode, inside the tunnel (RFC 7717 section 5.4)",
        "open", "tunnel", PORT_RFC7717, Derivation.RFC7717),
)  # fmt: skip


class UnknownSpis:
    """An exporter whose handles carry SPIs that no host has: what the refusal is shown with."""

    SPI_I = bytes.fromhex("deadbeefdeadbeef")
    SPI_R = bytes.fromhex("feedfacefeedface")

    def __init__(self, handle: KeyHandle) -> None:
        self._handle = handle

    def open(
        self,
        sa: tuple[bytes, bytes] | str,
        derivation: str,
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> KeyHandle:
        """The handle, with other SPIs."""
        return _Renamed(self._handle, self.SPI_I, self.SPI_R)


class _Renamed:
    """A key handle under SPIs that are not its own."""

    def __init__(self, handle: KeyHandle, spi_i: bytes, spi_r: bytes) -> None:
        self._handle = handle
        self.spi_i = spi_i
        self.spi_r = spi_r
        self.child_spi: int | None = None
        self.derivation = handle.derivation
        self.prf_name = handle.prf_name
        self.local_identity = handle.local_identity
        self.peer_identity = handle.peer_identity
        self.peer_address = handle.peer_address
        self.label = handle.label

    def secret(self, context: bytes) -> bytes:
        return self._handle.secret(context)

    def close(self) -> None:
        self._handle.close()


def run_requests(config: HostConfig, address: str, count: int) -> list[tuple[Run, MeasureRequest]]:
    """The three measurements towards B at `address`."""
    low, high = config.measurement.bypass_ports
    requests = []
    for run in RUNS:
        options = TwpingOptions(
            host=address,
            port=run.port,
            mode=run.mode,
            count=count,
            interval_s=INTERVAL_S,
            timeout_s=1.0,
            local_port_range=(low, high) if run.path == "bypass" else None,
            path=run.path,
            require_ikev2=run.mode != "open",
        )
        measurement = config.measurement.model_copy(update={"derivation": run.derivation})
        requests.append((run, MeasureRequest(options, measurement, run.path)))
    return requests


async def refusal(host: Host, address: str, measurement: MeasurementConfig) -> dict[str, Any]:
    """A Set-Up-Response with SPIs that B does not know, and what came back. RFC 7717 section 5.3."""
    handle = host.endpoint.exporter.open(address, Derivation.RFC7717.value)
    spi_i, spi_r = UnknownSpis.SPI_I, UnknownSpis.SPI_R
    provider = IkeKeyProvider(UnknownSpis(handle), measurement.key_options())
    options = TwpingOptions(
        host=address, port=PORT_RFC7717, mode="encrypted", count=1,
        local_port_range=host.config.measurement.bypass_ports, require_ikev2=True,
    )  # fmt: skip
    what = f"Set-Up-Response with SPIi {spi_i.hex()} SPIr {spi_r.hex()}, which B does not know"
    try:
        await twping(options, provider)
    except ServerRefused as error:
        return {"what": what, "accept": error.accept, "message": str(error)}
    except IppmError as error:
        return {"what": what, "accept": None, "message": str(error)}
    finally:
        handle.close()
    return {"what": what, "accept": 0, "message": "the server accepted it"}


async def measure_all(
    host: Host,
    address: str,
    count: int,
    say: Say,
    report: Path,
    measure: Callable[[MeasureRequest], Coroutine[Any, Any, Measurement]],
) -> None:
    """A's part once the IKE SA is up: the three runs and the refusal."""
    for run, request in run_requests(host.config, address, count):
        say({"event": "step", "text": run.title})
        measurement = await measure(request)
        document = measurement.to_dict()
        document["title"] = run.title
        record = None if measurement.record is None else asdict(measurement.record)
        say({"event": "run", "run": document, "record": record})
        if host.backend.name == "xfrm":
            note_kernel_state(report)
    say({"event": "step", "text": "d. the refusal: SPIs that B does not know"})
    say({"event": "refusal", "refusal": await refusal(host, address, host.config.measurement)})


def note_kernel_state(report: Path) -> None:
    """What `ip` says of the kernel's SAs and policies, beside our own counters; nothing without `ip`."""
    ip = shutil.which("ip")
    if ip is None:
        return
    with (report / "xfrm-state.txt").open("w") as file:
        # nokeys: the key log has the keys, in files that only their owner can read.
        for what in (("state", "list", "nokeys"), ("policy",)):
            subprocess.run([ip, "-s", "xfrm", *what], stdout=file, check=False, timeout=10)


def print_line(document: dict[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def records(host: Host) -> list[dict[str, Any]]:
    """What a host's servers derived, as fingerprints."""
    return [asdict(record) for provider in host.providers for record in provider.records]


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    """A started host, stopped at the end."""
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


async def _end_of_input() -> None:
    """Wait until standard input ends: the parent has no more use for this host."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        pass


@contextmanager
def capturing(directory: Path, interface: str | None) -> Iterator[None]:
    """Copy what passes the interface into host.pcapng while the block runs."""
    if interface is None:
        yield
        return
    with PcapWriter(directory / "host.pcapng", "ippm-ipsec demo") as writer:
        capture = InterfaceCapture(writer, interface)
        capture.start()
        try:
            yield
        finally:
            capture.stop()


async def _host_b(config: HostConfig, backend: Backend, reason: str, directory: Path) -> None:
    host = Host(config, backend, keylog=directory / "keys")
    async with running(host):
        print_line({"event": "ready", "backend": backend.name, "reason": reason})
        await _end_of_input()
        print_line({"event": "records", "records": records(host)})


async def _host_a(
    config: HostConfig, backend: Backend, reason: str, directory: Path, address: str, count: int
) -> None:
    host = Host(replace(config, servers=()), backend, keylog=directory / "keys")
    async with running(host):
        print_line({"event": "ready", "backend": backend.name, "reason": reason})
        print_line({"event": "step", "text": f"IKE_SA_INIT and IKE_AUTH with {address}, pre-shared key"})
        info = await host.endpoint.up(CONNECTION)
        print_line({"event": "sa", "ike_sa": info.to_dict(host.endpoint.now())})
        await measure_all(host, address, count, print_line, directory, host.measure)
    print_line({"event": "done"})


def main(
    role: str, config_file: Path, backend: str, directory: Path, address: str, count: int, interface: str | None
) -> int:
    """One host of the demo, in this process's namespace; the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"{role.upper()} %(name)s: %(message)s")
    try:
        chosen, reason = choose_backend(backend)
        config = load_host_config(config_file)
        with capturing(directory, interface):
            if role == "b":
                asyncio.run(_host_b(config, chosen(), reason, directory))
            else:
                asyncio.run(_host_a(config, chosen(), reason, directory, address, count))
    except (IkeError, IppmError, OSError) as error:
        print_line({"event": "failed", "reason": str(error)})
        return 1
    except KeyboardInterrupt:
        return 1
    return 0
