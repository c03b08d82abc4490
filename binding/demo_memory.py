"""The demo without privileges: both hosts in this process.

IKE runs between two endpoints on loopback addresses; the Child SA's packets, and everything that TWAMP sends, are whole
IPv4 packets on a memory network, where the memory backends protect or bypass them as a kernel would.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from binding.demo import configuration
from binding.demo_hosts import CONNECTION, PORT_RFC7717, UnknownSpis, run_requests
from binding.host import Host, load_host_config
from binding.measurement import ChildTraffic, Measurement, MeasureRequest
from binding.provider import IkeKeyProvider
from ikev2.embedding import IkeError, MemoryBackend, MemoryNetwork, PcapWriter
from ippm import IppmError, PacketEndpoint, PacketSession, ServerRefused, TwpingOptions

if TYPE_CHECKING:
    from binding.demo import DemoOptions, DemoResult

__all__ = ["run_in_memory"]

ADDRESS_A, ADDRESS_B = "127.0.0.1", "127.0.0.2"
REFLECTOR_PORT = 18760
TUNNEL_PORTS = 40862
"""Where the client's ports begin in the tunnel; each session takes two, as it does in the bypass range."""

LINKTYPE_RAW = 101
"""Raw IP, in the registry of link-layer types of pcap files."""

_numbers = itertools.count()

Say = Callable[[dict[str, Any]], None]


def free_ports() -> tuple[int, int]:
    """Two UDP ports that are free on both loopback addresses just now."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < 2:
            first = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            second = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            first.bind((ADDRESS_A, 0))
            try:
                second.bind((ADDRESS_B, first.getsockname()[1]))
            except OSError:
                continue
            ports.append(first.getsockname()[1])
    return ports[0], ports[1]


def run_in_memory(options: DemoOptions, result: DemoResult, progress: Say) -> None:
    """The whole demo in this process; fills `result`."""

    def say(document: dict[str, Any]) -> None:
        progress(document)
        result.take(document)

    ike_port, nat_port = free_ports()
    extra = f"\nike_port = {ike_port}\nnat_port = {nat_port}\nretransmit_timeout = 0.5"
    with configuration(ADDRESS_A, ADDRESS_B, options.mode, servers="", extra=extra) as directory:
        network = MemoryNetwork()
        with _captures(options, network) as writers:
            hosts = [
                Host(
                    load_host_config(directory / f"{role}.toml"),
                    MemoryBackend(network, (address,)),
                    keylog=options.report / role / "keys",
                    pcap=writer,
                    serve=False,
                )
                for role, address, writer in zip("ab", (ADDRESS_A, ADDRESS_B), writers, strict=True)
            ]
            try:
                asyncio.run(_run(hosts[0], hosts[1], options.count, say, result))
            except (IkeError, IppmError, OSError) as error:
                say({"event": "failed", "reason": str(error)})


def _tap(writer: PcapWriter, interface: int) -> Callable[[bytes], None]:
    return lambda packet: writer.packet(interface, time.time_ns(), packet)


@contextlib.contextmanager
def _captures(options: DemoOptions, network: MemoryNetwork) -> Iterator[list[PcapWriter]]:
    """Every packet of the memory network, in the captures of both sides."""
    writers = []
    with contextlib.ExitStack() as stack:
        for role in ("a", "b"):
            writer = stack.enter_context(PcapWriter(options.report / role / "host.pcapng", "ippm-ipsec demo"))
            interface = writer.add_interface("memory", LINKTYPE_RAW)
            network.taps.append(_tap(writer, interface))
            writers.append(writer)
        yield writers
        network.taps.clear()


async def _run(a: Host, b: Host, count: int, say: Say, result: DemoResult) -> None:
    await b.start()
    try:
        await a.start()
        try:
            say({"event": "step", "text": f"IKE_SA_INIT and IKE_AUTH with {ADDRESS_B}, pre-shared key"})
            info = await a.endpoint.up(CONNECTION)
            say({"event": "sa", "ike_sa": info.to_dict(a.endpoint.now())})
            for run, request in run_requests(a.config, ADDRESS_B, count):
                say({"event": "step", "text": run.title})
                measurement, provider = _measure(a, b, request)
                record = None if measurement.record is None else asdict(measurement.record)
                say({"event": "run", "run": {**measurement.to_dict(), "title": run.title}, "record": record})
                result.records_b += [asdict(record) for record in provider.records]
            say({"event": "step", "text": "d. the refusal: SPIs that B does not know"})
            say({"event": "refusal", "refusal": _refusal(a, b)})
        finally:
            await a.stop()
    finally:
        await b.stop()


def _session(
    a: Host, b: Host, options: TwpingOptions, client: IkeKeyProvider | None, server: IkeKeyProvider
) -> PacketSession:
    """A session whose client-side ports are in the bypass range, or not, as its path says."""
    number = next(_numbers) % 16
    low = (options.local_port_range[0] if options.local_port_range else TUNNEL_PORTS) + 2 * number
    if not isinstance(a.backend, MemoryBackend) or not isinstance(b.backend, MemoryBackend):
        raise IkeError("the memory demo runs over memory backends")
    return PacketSession(
        replace(options, key_log=a.key_log),
        a.backend,
        b.backend,
        client=PacketEndpoint(ADDRESS_A, low),
        server=PacketEndpoint(ADDRESS_B, options.port),
        sender_port=low + 1,
        reflector_port=REFLECTOR_PORT + number,
        client_keys=client,
        server_keys=server,
        server_key_log=b.key_log,
    )


def _measure(a: Host, b: Host, request: MeasureRequest) -> tuple[Measurement, IkeKeyProvider]:
    keyed = request.destination.security.keyed
    sa = a.sas()[-1]
    client = a.provider(request.measurement.key_options()) if keyed else None
    server = b.provider(request.measurement.key_options())
    started = time.monotonic()
    outcome = _session(a, b, request.destination, client, server).run()
    measurement = Measurement(
        mode=request.destination.mode,
        path=request.path,
        derivation=request.measurement.derivation.value if keyed else None,
        ike_sa=sa,
        child=ChildTraffic("memory", sa.children[-1], a.sas()[-1].children[-1]),
        result=outcome,
        record=client.records[-1] if client is not None else None,
        elapsed_ms=round((time.monotonic() - started) * 1000),
    )
    return measurement, server


def _refusal(a: Host, b: Host) -> dict[str, Any]:
    handle = a.endpoint.exporter.open(ADDRESS_B, "rfc7717")
    spi_i, spi_r = UnknownSpis.SPI_I, UnknownSpis.SPI_R
    options = a.config.measurement.key_options()
    what = f"Set-Up-Response with SPIi {spi_i.hex()} SPIr {spi_r.hex()}, which B does not know"
    try:
        client = IkeKeyProvider(UnknownSpis(handle), options)
        _session(
            a, b,
            TwpingOptions(host=ADDRESS_B, port=PORT_RFC7717, mode="encrypted", count=1, require_ikev2=True,
                          local_port_range=a.config.measurement.bypass_ports),
            client, b.provider(options),
        ).run()  # fmt: skip
    except ServerRefused as error:
        return {"what": what, "accept": error.accept, "message": str(error)}
    finally:
        handle.close()
    return {"what": what, "accept": 0, "message": "the server accepted it"}
