"""One measurement keyed or carried by an IKE SA: which SA, whether to bring it up, what went through it.

`IkeSide` is the IKE endpoint that serves it, in this process (binding.host) or in another one (binding.agent).

RFC 7717 sections 5.1 and 5.4; readings A10, A11, A14 and A26 in docs/rfc7717.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from binding.config import MeasurementConfig
from binding.policy import ChildView, SaChoice, SaView, connection_for, newest_with
from binding.provider import Exporter, IkeKeyProvider, KeyChainRecord
from binding.secret_log import SecretLog
from ikev2.embedding import ConnectionConfig, IkeError, NoSuchSa
from ippm import (
    ConfigurationError,
    KeyProvider,
    NoProvider,
    OneWayResult,
    OwpingOptions,
    PassphraseProvider,
    PreferringProvider,
    RunResult,
    StopSignal,
    TwampRun,
    TwpingOptions,
    owping,
    read_key_file,
    run_continuous,
    run_continuous_owping,
    run_twping,
    unless_stopped,
)

log = logging.getLogger("ippm-ipsec")

Options = TypeVar("Options", TwpingOptions, OwpingOptions)
Result = TypeVar("Result")

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
class OneWayRequest:
    """One OWAMP measurement from this host, to the server, from it, or both on one Control connection."""

    destination: OwpingOptions
    measurement: MeasurementConfig
    path: str
    choice: SaChoice = BY_ADDRESS


AnyRequest = MeasureRequest | OneWayRequest


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

    @property
    def packets_in(self) -> int:
        """Packets that came through it meanwhile."""
        return self.after.counters.packets_in - self.before.counters.packets_in

    def to_dict(self) -> dict[str, Any]:
        """The `child_sa` object of the JSON: SPIs, and packets and octets each way during the run."""
        before, after = self.before.counters, self.after.counters
        return {
            "backend": self.backend,
            "spis": {"in": f"{self.after.spi_in:08x}", "out": f"{self.after.spi_out:08x}"},
            "packets_out": self.packets_out,
            "octets_out": after.octets_out - before.octets_out,
            "packets_in": self.packets_in,
            "octets_in": after.octets_in - before.octets_in,
            "before": {"packets_out": before.packets_out, "packets_in": before.packets_in},
            "after": {"packets_out": after.packets_out, "packets_in": after.packets_in},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How a measurement was done, with the SA that keyed or carried it."""

    mode: str
    path: str
    derivation: str | None
    ike_sa: SaView | None
    child: ChildTraffic | None
    record: KeyChainRecord | None
    elapsed_ms: int

    def circumstances_dict(self, protocol: str) -> dict[str, Any]:
        """An entry of `runs` (docs/cli.md) but for the result. `keys_equal` is known only to who sees both ends."""
        sa = self.ike_sa
        return {
            "derivation": self.derivation,
            "protocol": protocol,
            "mode": self.mode,
            "path": self.path,
            "ike": None if sa is None else {
                "spi_i": sa.spi_i.hex(), "spi_r": sa.spi_r.hex(), "proposal": sa.proposal, "auth": sa.auth,
            },
            "child_sa": None if self.child is None else self.child.to_dict(),
            "keys_equal": None,
            "elapsed_ms": self.elapsed_ms,
        }  # fmt: skip

    def _run(self, protocol: str, result: dict[str, Any]) -> dict[str, Any]:
        """One entry of `runs`."""
        return {**self.circumstances_dict(protocol), "result": result}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Circumstances):
    """What one two-way measurement gave. `run` has every packet; None where only the result is known."""

    result: RunResult
    run: TwampRun | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry of `runs`."""
        return self._run("twamp", self.result.to_dict())

    def to_dicts(self) -> list[dict[str, Any]]:
        """The entries of `runs`: one."""
        return [self.to_dict()]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWayMeasurement(Circumstances):
    """What one one-way measurement gave: a result for each direction, first to the server."""

    results: tuple[OneWayResult, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """The entries of `runs`: one for each direction; what is not in `result` is that of both together."""
        return [self._run("owamp", result.to_dict()) for result in self.results]


async def measure(
    side: IkeSide,
    request: MeasureRequest,
    secret_log: SecretLog | None = None,
    stop: StopSignal | None = None,
) -> Measurement:
    """Measure two ways, once; `stop` ends it early. Raises IkeError or IppmError with a reason for a person."""
    run, how = await _measure(side, request, request.destination, partial(run_twping, stop=stop), secret_log, stop)
    result = run.result
    _check_path(request.path, how.child, result.sent)
    return _with(Measurement, how, result=result, run=run)


async def measure_one_way(
    side: IkeSide,
    request: OneWayRequest,
    secret_log: SecretLog | None = None,
    stop: StopSignal | None = None,
) -> OneWayMeasurement:
    """Measure one way, once; `stop` ends it early. Raises IkeError or IppmError with a reason for a person."""
    results, how = await _measure(side, request, request.destination, partial(owping, stop=stop), secret_log, stop)
    _check_path(request.path, how.child, sum(one.sent for one in results if one.direction == "to"))
    received = sum(one.metrics.received for one in results if one.direction == "from")
    _check_path(request.path, how.child, received, out=False)
    for result in results:
        if not result.metrics.received and result.rejected.get("hmac_mismatch"):
            log.warning("the HMAC of every packet %s the server is wrong (key_count differs?)", result.direction)
    return _with(OneWayMeasurement, how, results=results)


async def perform(
    side: IkeSide,
    request: AnyRequest,
    secret_log: SecretLog | None = None,
    stop: StopSignal | None = None,
) -> Measurement | OneWayMeasurement:
    """Either of the two."""
    if isinstance(request, OneWayRequest):
        return await measure_one_way(side, request, secret_log, stop)
    return await measure(side, request, secret_log, stop)


@dataclass(frozen=True, slots=True)
class WithoutEnd:
    """A measurement that goes on until it is stopped: `report` gets a dictionary each `period_s`, and at the end."""

    report: Callable[[dict[str, Any]], None]
    period_s: float = 10.0


async def measure_without_end(
    side: IkeSide,
    request: AnyRequest,
    wish: WithoutEnd,
    secret_log: SecretLog | None = None,
    stop: StopSignal | None = None,
) -> Circumstances:
    """Measure until `stop`, and say how it was done. Raises IkeError or IppmError with a reason for a person."""
    if isinstance(request, OneWayRequest):
        one_way = partial(run_continuous_owping, report=wish.report, period_s=wish.period_s, stop=stop)
        _, how = await _measure(side, request, request.destination, one_way, secret_log, stop)
    else:
        two_way = partial(run_continuous, report=wish.report, period_s=wish.period_s, stop=stop)
        _, how = await _measure(side, request, request.destination, two_way, secret_log, stop)
    return how


MeasuredAs = TypeVar("MeasuredAs", bound=Circumstances)


def _with(kind: Callable[..., MeasuredAs], how: Circumstances, **result: object) -> MeasuredAs:
    return kind(**{one.name: getattr(how, one.name) for one in fields(Circumstances)}, **result)


async def _measure(
    side: IkeSide,
    request: AnyRequest,
    destination: Options,
    ping: Callable[[Options, KeyProvider], Awaitable[Result]],
    secret_log: SecretLog | None,
    stop: StopSignal | None,
) -> tuple[Result, Circumstances]:
    wish = request.measurement
    key_log = None if secret_log is None else secret_log.key_log
    options = replace(destination, host=await resolve(destination), key_log=key_log)
    sa = await unless_stopped(stop, sa_for(side, request, options.host))
    if sa is None and options.security.keyed and wish.key_file is None:
        # rfc7717-s5.1-m4: an error is logged, and the plain mode taken that needs no passphrase.
        log.error("no IKE SA with %s: measuring in open mode, without keys (no_sa = fallback)", options.host)
        options = replace(options, mode="open", require_ikev2=False)
    if request.path == "tunnel":
        _check_tunnel(side, sa)  # rfc7717-s5.4-01
    provider = None
    if options.security.keyed:
        provider = IkeKeyProvider(
            side.exporter, wish.key_options(), select=request.choice.selector(side.sas), secret_log=secret_log
        )
    before = _newest_child(sa)
    started = time.monotonic()
    keys = NoProvider() if provider is None else with_passphrases(provider, wish)
    result = await ping(options, keys)
    elapsed_ms = round((time.monotonic() - started) * 1000)
    record = provider.records[-1] if provider is not None and provider.records else None
    traffic = _traffic(side, before)
    return result, Circumstances(
        mode=options.mode,
        path=request.path,
        derivation=wish.derivation.value if record is not None else None,
        ike_sa=_used(side, sa, record),
        child=traffic,
        record=record,
        elapsed_ms=elapsed_ms,
    )


def with_passphrases(provider: IkeKeyProvider, wish: MeasurementConfig) -> KeyProvider:
    """The provider, with the passphrases of `key_file` beside it when there is one (reading A34).

    Raises ConfigurationError for a file that cannot be used.
    """
    if wish.key_file is None:
        return provider
    passphrases = read_key_file(wish.key_file)
    if wish.key_id is not None and wish.key_id not in passphrases:
        raise ConfigurationError(f"{wish.key_file}: no passphrase for {wish.key_id}")
    try:
        with_key_ids = PassphraseProvider(passphrases, wish.key_id)
    except ConfigurationError as error:
        raise ConfigurationError(f"{wish.key_file}: {error}") from None
    return PreferringProvider(provider, with_key_ids, wish.prefer)


async def resolve(options: TwpingOptions | OwpingOptions) -> str:
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


async def sa_for(side: IkeSide, request: AnyRequest, address: str) -> SaView | None:
    """The IKE SA for a measurement, brought up when there is none and `no_sa` says so (reading A10).

    None when none is needed, or under `no_sa = "fallback"`. Raises IkeError.
    """
    choice, no_sa = request.choice, request.measurement.no_sa
    found = existing_sa(side, choice, address)
    keyed = bool(request.destination.security.keyed) and request.measurement.prefer == "ikev2"
    needed = keyed or request.path == "tunnel"
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


def _check_path(path: str, traffic: ChildTraffic | None, packets: int, *, out: bool = True) -> None:
    """Say so when the Child SA's counters do not fit the path that the result will name.

    `packets` are the Test packets that we sent, or that we received when not `out`.
    """
    if traffic is None or not packets:
        return
    through, verb = (traffic.packets_out, "went") if out else (traffic.packets_in, "came")
    if path == "bypass" and through >= packets:
        log.warning("path bypass, but %d packets %s through the Child SA", through, verb)
    if path == "tunnel" and through < packets:
        log.warning("path tunnel, but only %d packets %s through the Child SA", through, verb)


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
