"""`ippm-ipsec twping`: a two-way measurement with keys from the IKE SA; and what `owping` shares with it.

With an endpoint running on this host (`ippm-ipsec host`, `ikev2 run`) its key agent gives the keys. Otherwise the
command is a host of its own for as long as it runs: it brings the IKE SA up, measures, and deletes it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from binding.agent import RunningHost, runs_at
from binding.derivation import Derivation
from binding.host import Host, HostConfig, load_host_config
from binding.measurement import (
    AnyRequest,
    Circumstances,
    Measurement,
    MeasureRequest,
    OneWayMeasurement,
    OneWayRequest,
    WithoutEnd,
    measure_without_end,
    perform,
)
from binding.policy import SaChoice
from binding.secret_log import SecretLog
from binding.switches import CLIENT, Switch, given_switches
from ikev2.embedding import ConfigurationError, IkeError, choose_backend
from ippm import ConfigurationError as KeyLogError
from ippm import (
    Form,
    Impairments,
    IppmError,
    OneWayResult,
    RunResult,
    ServerRefused,
    StampOptions,
    StopSignal,
    Thresholds,
    TwpingOptions,
    form_table,
    one_way_form,
    two_way_form,
    until_interrupted,
)

log = logging.getLogger("ippm-ipsec")

_SLOT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([ef]?)", re.ASCII)
SECURITY = {"O": "open", "A": "authenticated", "E": "encrypted", "M": "mixed"}


@dataclass(frozen=True, slots=True)
class PingRequest:
    """One command line, checked. `switched` are the words of [measurement] that it changes."""

    config: HostConfig
    requests: tuple[AnyRequest, ...]
    switched: Mapping[str, Any]
    backend: str | None
    keylog: Path | None
    thresholds: Thresholds

    @classmethod
    def from_command_line(
        cls,
        destination: str,
        config_file: Path,
        options: Mapping[str, Any],
        switches: tuple[Switch, ...],
        requests_of: Callable[[HostConfig, str, Mapping[str, Any]], Sequence[AnyRequest]],
    ) -> PingRequest:
        """Read the file and the options. Raises ConfigurationError."""
        switched = given_switches(switches, options)
        config = load_host_config(config_file, switched)
        return cls(
            config,
            tuple(requests_of(config, destination, options)),
            switched,
            options.get("backend"),
            options.get("keylog"),
            Thresholds(options.get("max_loss"), options.get("max_delay")),
        )


def twping_request(destination: str, config_file: Path, options: Mapping[str, Any]) -> PingRequest:
    """The command line of `twping`. Raises ConfigurationError."""
    return PingRequest.from_command_line(destination, config_file, options, CLIENT, measure_requests)


def measure_requests(
    config: HostConfig, destination: str, options: Mapping[str, Any]
) -> tuple[MeasureRequest, ...]:
    """One request for each path, `bypass` first. Raises ConfigurationError."""
    measurement = config.measurement
    host, port = split_destination(destination)
    mode = security_mode(options.get("security"), measurement.mode)
    choice = SaChoice.parse(options.get("ike_sa"), options.get("ike_peer"))
    exponential, interval_s = slot(str(options["interval_s"]), exponential=False)
    spoilt = impairments_of(options)
    ways = ("bypass", "tunnel") if measurement.path == "both" else (measurement.path,)
    return tuple(
        MeasureRequest(
            TwpingOptions(
                host=host,
                port=port or measurement.port,
                mode=mode,
                count=options["count"],
                interval_s=interval_s,
                exponential=exponential,
                padding=options["padding"],
                equal_size=options["equal_size"],
                timeout_s=options["timeout_s"],
                dscp=options["dscp"],
                tw_auth_pad=measurement.tw_auth_pad,
                local_port_range=measurement.bypass_ports if way == "bypass" else None,
                require_ikev2=measurement.require_ikev2 and mode != "open",
                path=way,
                io=options.get("io", "auto"),
                realtime=options.get("realtime", False),
                stamps=stamps_with(spoilt),
                impairments=spoilt,
            ),
            measurement,
            way,
            choice,
        )
        for way in ways
    )


def impairments_of(options: Mapping[str, Any]) -> Impairments | None:
    """The knobs of `--impair`, None without any. Raises ConfigurationError."""
    knobs = options.get("knobs") or ()
    for knob in knobs:
        log.warning("impaired on purpose: %s", knob)
    return Impairments.parse(knobs) if knobs else None


def stamps_with(impairments: Impairments | None) -> StampOptions:
    """No transmit stamps of the kernel where test packets are spoilt: they would be given to other packets."""
    return StampOptions(transmit=impairments is None or not impairments.touches_packets)


def slot(text: str, *, exponential: bool) -> tuple[bool, float]:
    """Whether an interval is exponential, by its letter `e` or `f` or as given, and its seconds. ConfigurationError."""
    match = _SLOT.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"-i: {text!r} is not seconds with e or f, such as 0.1 or 0.02f")
    return {"e": True, "f": False}.get(match[2], exponential), float(match[1])


def security_mode(given: str | None, default: str) -> str:
    """The word of -A's letter. Raises ConfigurationError."""
    if given is None:
        return default
    word = SECURITY.get(given.upper(), given.lower())
    if word not in SECURITY.values():
        raise ConfigurationError(f"-A: {given!r} is not one of {', '.join(SECURITY)}")
    return word


def split_destination(destination: str) -> tuple[str, int | None]:
    """HOST, HOST:PORT or [HOST]:PORT. Raises ConfigurationError."""
    host, port, good = destination, "", True
    if destination.startswith("["):
        host, bracket, rest = destination[1:].partition("]")
        good = bool(bracket) and (not rest or (rest.startswith(":") and len(rest) > 1))
        port = rest[1:]
    elif destination.count(":") == 1:
        host, _, port = destination.partition(":")
        good = bool(port)
    if not good or not host or (port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)):
        raise ConfigurationError(f"{destination!r} is not HOST, HOST:PORT or [HOST]:PORT")
    return host, int(port) if port else None


@dataclass(slots=True)
class Outcome:
    """What came of a command line: all that was measured, and the error that ended it, if one did."""

    measurements: list[Measurement | OneWayMeasurement] = field(default_factory=list)
    error: IkeError | IppmError | None = None
    exceeded: str | None = None

    def add(self, request: AnyRequest, measurement: Measurement | OneWayMeasurement) -> None:
        """Keep what was measured. Raises IppmError when a direction that was asked for gave nothing."""
        self.measurements.append(measurement)
        if isinstance(request, OneWayRequest) and isinstance(measurement, OneWayMeasurement):
            wanted = {"to": request.destination.to_server, "from": request.destination.from_server}
            there = {result.direction for result in measurement.results}
            for direction in (way for way, asked in wanted.items() if asked and way not in there):
                raise IppmError(f"path {measurement.path}: no data of the session {direction} the server")

    def to_dict(self) -> dict[str, Any]:
        """The one document of `--json`."""
        document: dict[str, Any] = {
            "ok": self.error is None and self.exceeded is None,
            "runs": [run for measurement in self.measurements for run in measurement.to_dicts()],
        }
        if self.error is not None:
            accept = self.error.accept if isinstance(self.error, ServerRefused) else None
            document |= {"error": str(self.error), "accept": accept}
        if self.exceeded is not None:
            document["exceeded"] = self.exceeded
        return document


def run_ping(request: PingRequest) -> Outcome:
    """Measure; SIGINT ends that with what there is. Raises ConfigurationError; what is refused is in the outcome."""
    outcome = Outcome()
    doing = _through_agent if runs_at(request.config.file.control_socket) else _as_host
    try:
        asyncio.run(until_interrupted(lambda stop: doing(request, outcome, stop)))
    except (ConfigurationError, KeyLogError):
        raise
    except (IkeError, IppmError) as error:
        outcome.error = error
    reasons = (_exceeded(request.thresholds, measurement) for measurement in outcome.measurements)
    outcome.exceeded = next((reason for reason in reasons if reason is not None), None)
    return outcome


def _exceeded(thresholds: Thresholds, measurement: Measurement | OneWayMeasurement) -> str | None:
    """Which threshold a measurement exceeds, in a sentence; None when it does not."""
    if isinstance(measurement, Measurement):
        return thresholds.exceeded(measurement.result)
    reasons = map(thresholds.exceeded_one_way, measurement.results)
    return next((reason for reason in reasons if reason is not None), None)


def run_without_end(request: PingRequest, wish: WithoutEnd) -> None:
    """Measure on the one path until SIGINT or SIGTERM; the last report says how it was done.

    Raises ConfigurationError, IkeError or IppmError.
    """
    if len(request.requests) > 1:
        raise ConfigurationError("--continuous is on one path: --path bypass or --path tunnel")
    doing = _through_agent if runs_at(request.config.file.control_socket) else _as_host
    asyncio.run(until_interrupted(lambda stop: doing(request, wish, stop), until_terminated=True))


async def _as_host(request: PingRequest, result: Outcome | WithoutEnd, stop: StopSignal) -> None:
    chosen, _ = choose_backend(request.backend or request.config.file.backend)
    host = Host(request.config, chosen(), keylog=request.keylog, serve=False)
    await host.start()
    try:
        for one in request.requests:
            if isinstance(result, WithoutEnd):
                _tell_how(one, await host.perform_without_end(one, result, stop), result)
            elif not stop():
                result.add(one, await host.perform(one, stop))
    finally:
        await host.stop()


async def _through_agent(request: PingRequest, result: Outcome | WithoutEnd, stop: StopSignal) -> None:
    """Keys from the endpoint that runs on this host; its policies decide the path."""
    side = RunningHost(request.config.file)
    check_running(request, side.backend_name)
    secret_log = SecretLog(request.keylog) if request.keylog is not None else None
    if secret_log is not None:
        log.warning("keys of O/TWAMP are written to %s", request.keylog)
    try:
        for one in request.requests:
            if isinstance(result, WithoutEnd):
                _tell_how(one, await measure_without_end(side, one, result, secret_log, stop), result)
            elif not stop():
                result.add(one, await perform(side, one, secret_log, stop))
    finally:
        if secret_log is not None:
            secret_log.close()


def _tell_how(request: AnyRequest, how: Circumstances, wish: WithoutEnd) -> None:
    protocol = "owamp" if isinstance(request, OneWayRequest) else "twamp"
    wish.report({"kind": "circumstances", **how.circumstances_dict(protocol)})


def check_running(request: PingRequest, backend: str) -> None:
    """Refuse what only the endpoint that runs could do, and does not. Raises ConfigurationError."""
    file = request.config.file
    if request.backend not in (None, "auto", backend):
        raise ConfigurationError(f"--backend {request.backend}: the endpoint that runs here has {backend}")
    if "label" in request.switched:
        raise ConfigurationError(
            "--label: it is the IKE side's, and that runs already; set measurement.label and start it again"
        )
    if file.measurement.get("path", "bypass") == "tunnel" and request.config.measurement.path != "tunnel":
        raise ConfigurationError(
            "--path: the endpoint that runs here keeps all in the tunnel; set measurement.path and start it again"
        )


def present(measurements: Sequence[Measurement | OneWayMeasurement], form: Form | None = None) -> Iterator[str]:
    """What is printed of them, in any form but JSON: pieces of text. Text says the path and the key of each."""
    form = form or Form()
    if form.kind in ("csv", "openmetrics"):
        yield form_table([result for measurement in measurements for result in _results(measurement)], form)
        return
    for number, measurement in enumerate(measurements):
        if form.kind == "text":
            key = "no derived key"
            if measurement.derivation is not None:
                key = f"keys by {Derivation(measurement.derivation).described}"
            yield "\n" * (number > 0) + f"path {measurement.path}, {measurement.mode} mode, {key}\n"
        elif number and form.kind == "machine":
            yield "\n"
        if isinstance(measurement, OneWayMeasurement):
            yield from one_way_form(measurement.results, form)
        elif measurement.run is not None:
            yield from two_way_form((measurement.result, measurement.run.plan, measurement.run.records), form)


def _results(measurement: Measurement | OneWayMeasurement) -> Sequence[RunResult | OneWayResult]:
    return [measurement.result] if isinstance(measurement, Measurement) else measurement.results
