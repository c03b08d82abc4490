"""One TWAMP measurement keyed or carried by an IKE SA: which SA, whether to bring it up, what went through it.

`IkeSide` is the IKE endpoint that serves it, in this process (binding.host) or in another one (binding.agent).

RFC 7717 sections 5.1 and 5.4; readings A10, A11, A14 and A26 in docs/rfc7717.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from binding.config import MeasurementConfig
from binding.policy import ChildView, SaChoice, SaView, connection_for, newest_with
from binding.provider import Exporter, IkeKeyProvider, KeyChainRecord
from binding.secret_log import SecretLog
from ikev2 import ConnectionConfig, IkeError, NoSuchSa
from ippm import NoProvider, RunResult, TwpingOptions, twping

log = logging.getLogger("ippm-ipsec")

BY_ADDRESS = SaChoice()
NO_TRAFFIC = frozenset({"memory", "dry-run"})
"""Backends that carry nothing of what this machine's sockets send: there is no tunnel to measure through."""


class IkeSide(Protocol):
    """What a measurement needs of the IKE endpoint of this host."""

    @property
    def backend_name(self) -> str:
        """Which backend carries the Child SAs."""
        ...

    @property
    def exporter(self) -> Exporter:
        """Where key handles come from."""
        ...

    @property
    def connections(self) -> Sequence[ConnectionConfig]:
        """What may be brought up."""
        ...

    def sas(self) -> list[SaView]:
        """The established IKE SAs, in the order in which they came up."""
        ...

    async def up(self, name: str) -> None:
        """Bring a connection up. Raises IkeError with the reason when it does not come up."""
        ...


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """One TWAMP measurement from this host. `destination` is what would be asked without IKE."""

    destination: TwpingOptions
    measurement: MeasurementConfig
    path: str
    choice: SaChoice = BY_ADDRESS


@dataclass(frozen=True, slots=True)
class ChildTraffic:
    """A Child SA's counters before and after a measurement: what went through it."""

    backend: str
    before: ChildView
    after: ChildView

    @property
    def packets_out(self) -> int:
        """Packets that we sent through it meanwhile."""
        return self.after.counters.packets_out - self.before.counters.packets_out

    def to_dict(self) -> dict[str, Any]:
        """The `child_sa` object of the JSON: SPIs, and packets and octets each way during the run."""
        before, after = self.before.counters, self.after.counters
        return {
            "backend": self.backend,
            "spis": {"in": f"{self.after.spi_in:08x}", "out": f"{self.after.spi_out:08x}"},
            "packets_out": self.packets_out,
            "octets_out": after.octets_out - before.octets_out,
            "packets_in": after.packets_in - before.packets_in,
            "octets_in": after.octets_in - before.octets_in,
            "before": {"packets_out": before.packets_out, "packets_in": before.packets_in},
            "after": {"packets_out": after.packets_out, "packets_in": after.packets_in},
        }


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one measurement gave, with the SA that keyed or carried it."""

    mode: str
    path: str
    derivation: str | None
    ike_sa: SaView | None
    child: ChildTraffic | None
    result: RunResult
    record: KeyChainRecord | None
    elapsed_ms: int

    def to_dict(self) -> dict[str, Any]:
        """One entry of `runs` (docs/cli.md). `keys_equal` is known only to who sees both ends."""
        sa = self.ike_sa
        return {
            "derivation": self.derivation,
            "protocol": "twamp",
            "mode": self.mode,
            "path": self.path,
            "ike": None if sa is None else {
                "spi_i": sa.spi_i.hex(), "spi_r": sa.spi_r.hex(), "proposal": sa.proposal, "auth": sa.auth,
            },
            "child_sa": None if self.child is None else self.child.to_dict(),
            "keys_equal": None,
            "result": self.result.to_dict(),
            "elapsed_ms": self.elapsed_ms,
        }  # fmt: skip


async def measure(side: IkeSide, request: MeasureRequest, secret_log: SecretLog | None = None) -> Measurement:
    """Measure once. Raises IkeError or IppmError with a reason for a person."""
    wish = request.measurement
    options = replace(request.destination, host=await resolve(request.destination))
    sa = await sa_for(side, request, options.host)
    if sa is None and options.security.keyed:
        # rfc7717-s5.1-m4: an error is logged, and the plain mode taken that needs no passphrase.
        log.error("no IKE SA with %s: measuring in open mode, without keys (no_sa = fallback)", options.host)
        options = replace(options, mode="open", require_ikev2=False)
    if request.path == "tunnel":
        _check_tunnel(side, sa)
    provider = None
    if options.security.keyed:
        provider = IkeKeyProvider(
            side.exporter, wish.key_options(), select=request.choice.selector(side.sas), secret_log=secret_log
        )
    before = _newest_child(sa)
    started = time.monotonic()
    result = await twping(options, provider or NoProvider())
    elapsed_ms = round((time.monotonic() - started) * 1000)
    record = provider.records[-1] if provider is not None and provider.records else None
    traffic = _traffic(side, before)
    _check_path(request.path, traffic, result.sent)
    return Measurement(
        mode=options.mode,
        path=request.path,
        derivation=wish.derivation.value if provider is not None else None,
        ike_sa=_used(side, sa, record),
        child=traffic,
        result=result,
        record=record,
        elapsed_ms=elapsed_ms,
    )


async def resolve(options: TwpingOptions) -> str:
    """The address of the server: IKE SAs are found by it. Raises IkeError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(options.host, options.port, family=options.family, type=socket.SOCK_STREAM)
    except OSError as error:
        raise IkeError(f"{options.host}: {error.strerror or error}") from None
    return str(found[0][4][0])


def existing_sa(side: IkeSide, choice: SaChoice, address: str) -> SaView | None:
    """The established IKE SA for a server, by the caller's choice or by the exporter's (reading A11); None: none."""
    sas = side.sas()
    try:
        if choice.peer_identity is not None:
            return newest_with(choice.peer_identity, sas)
        spis = choice.spis
        if spis is None:
            handle = side.exporter.open(address, "rfc7717")
            spis = handle.spi_i, handle.spi_r
            handle.close()
    except NoSuchSa:
        return None
    return next((sa for sa in sas if sa.spis == spis), None)


async def sa_for(side: IkeSide, request: MeasureRequest, address: str) -> SaView | None:
    """The IKE SA for a measurement, brought up when there is none and `no_sa` says so (reading A10).

    None when none is needed, or under `no_sa = "fallback"`. Raises IkeError.
    """
    choice, no_sa = request.choice, request.measurement.no_sa
    found = existing_sa(side, choice, address)
    needed = bool(request.destination.security.keyed) or request.path == "tunnel"
    if found is not None or not needed:
        return found
    if choice.spis is not None:
        raise NoSuchSa(f"there is no established IKE SA {choice.spis[0].hex()}:{choice.spis[1].hex()}")
    if no_sa == "fallback" and request.path != "tunnel":
        return None
    if no_sa != "initiate":
        raise NoSuchSa(f'there is no IKE SA with {choice.peer_identity or address} (no_sa = "{no_sa}")')
    name = connection_for(side.connections, request.destination.host, address)
    # rfc7717-s5.1-m3: the client initiates the SA, and logs that it does.
    log.info("no IKE SA with %s: bringing up connection %s", address, name)
    await side.up(name)
    found = existing_sa(side, choice, address)
    if found is None:
        raise NoSuchSa(
            f"connection {name} is up, and still there is no IKE SA for {choice.peer_identity or address}"
        )
    return found


def _check_tunnel(side: IkeSide, sa: SaView | None) -> None:
    """RFC 7717 section 5.4 asks for the tunnel; a run is not called by that name when there is none."""
    if side.backend_name in NO_TRAFFIC:
        raise IkeError(
            f"the {side.backend_name} backend carries no traffic of this machine: there is no tunnel to measure "
            "through; --path bypass measures without it"
        )
    if sa is None or not sa.children:
        raise IkeError("the IKE SA has no Child SA: there is no tunnel to measure through")


def _check_path(path: str, traffic: ChildTraffic | None, sent: int) -> None:
    """Say so when the Child SA's counters do not fit the path that the result will name."""
    if traffic is None or not sent:
        return
    if path == "bypass" and traffic.packets_out >= sent:
        log.warning("path bypass, but %d packets went through the Child SA", traffic.packets_out)
    if path == "tunnel" and traffic.packets_out < sent:
        log.warning("path tunnel, but only %d packets went through the Child SA", traffic.packets_out)


def _newest_child(sa: SaView | None) -> ChildView | None:
    return sa.children[-1] if sa is not None and sa.children else None


def _traffic(side: IkeSide, before: ChildView | None) -> ChildTraffic | None:
    """What went through that Child SA since; None when there is none, or it is gone."""
    if before is None:
        return None
    children = (child for sa in side.sas() for child in sa.children)
    after = next((child for child in children if child.spi_in == before.spi_in), None)
    return None if after is None else ChildTraffic(side.backend_name, before, after)


def _used(side: IkeSide, sa: SaView | None, record: KeyChainRecord | None) -> SaView | None:
    """The SA that the keys came from, which is newer than `sa` when that one was replaced meanwhile."""
    if record is None:
        return sa
    spis = bytes.fromhex(record.spi_i), bytes.fromhex(record.spi_r)
    return next((one for one in side.sas() if one.spis == spis), sa)
