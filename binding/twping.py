"""`ippm-ipsec twping`: a two-way measurement with keys from the IKE SA.

With an endpoint running on this host (`ippm-ipsec host`, `ikev2 run`) its key agent gives the keys. Otherwise the
command is a host of its own for as long as it runs: it brings the IKE SA up, measures, and deletes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from binding.config import MeasurementConfig, parse_measurement
from binding.host import Host, HostConfig, Measurement, MeasureRequest, load_host_config
from binding.policy import SaChoice
from binding.provider import IkeKeyProvider
from ikev2 import ConfigurationError, IkeError, KeyAgentClient, NoSuchSa, choose_backend
from ippm import TwpingOptions, format_result, twping

log = logging.getLogger("ippm-ipsec")

SECURITY = {"O": "open", "A": "authenticated", "E": "encrypted"}
DEFAULT_PORT = 862

SWITCHES = (
    "derivation", "token_key", "secret_encoding", "key_count", "no_sa", "require_ikev2", "tw_auth_pad", "label",
)  # fmt: skip
"""Options that change a word of [measurement] for this run."""


@dataclass(frozen=True, slots=True)
class TwpingRequest:
    """One command line, checked."""

    config: HostConfig
    measurement: MeasurementConfig
    requests: tuple[MeasureRequest, ...]
    backend: str
    keylog: Path | None

    @classmethod
    def from_command_line(cls, destination: str, config_file: Path, options: Mapping[str, Any]) -> TwpingRequest:
        """Read the file and the options. Raises ConfigurationError."""
        config = load_host_config(config_file)
        given = {word: options[word] for word in SWITCHES if options.get(word) is not None}
        for number in ("key_count", "tw_auth_pad"):
            if number in given:
                given[number] = int(given[number])
        base = config.measurement.model_dump(mode="json", exclude_unset=True)
        for word in ("test_ports", "bypass_ports"):
            if word in base:
                base[word] = "-".join(str(port) for port in base[word])
        measurement = parse_measurement({**base, **given})
        host, port = split_destination(destination)
        letter = options.get("security")
        if letter is not None and letter.upper() not in SECURITY:
            raise ConfigurationError(f"-A: {letter!r} is not one of O, A, E")
        mode = SECURITY[letter.upper()] if letter else measurement.mode
        path = options.get("path_") or measurement.path
        choice = SaChoice.parse(options.get("ike_sa"), options.get("ike_peer"))
        requests = tuple(
            MeasureRequest(
                TwpingOptions(
                    host=host,
                    port=port or measurement.port,
                    mode=mode,
                    count=options["count"],
                    interval_s=options["interval_s"],
                    padding=options["padding"],
                    timeout_s=options["timeout_s"],
                    dscp=options["dscp"],
                    tw_auth_pad=measurement.tw_auth_pad,
                    local_port_range=measurement.bypass_ports if way == "bypass" else None,
                    require_ikev2=measurement.require_ikev2 and mode != "open",
                    path=way,
                ),
                measurement,
                way,
                choice,
            )
            for way in (("bypass", "tunnel") if path == "both" else (path,))
        )
        return cls(config, measurement, requests, options["backend"], options.get("keylog"))


def split_destination(destination: str) -> tuple[str, int | None]:
    """HOST, HOST:PORT or [HOST]:PORT. Raises ConfigurationError."""
    host, port = destination, ""
    if destination.startswith("["):
        host, _, rest = destination[1:].partition("]")
        port = rest.removeprefix(":")
    elif destination.count(":") == 1:
        host, _, port = destination.partition(":")
    if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise ConfigurationError(f"{destination!r} is not HOST, HOST:PORT or [HOST]:PORT")
    return host, int(port) if port else None


def run_twping(request: TwpingRequest) -> tuple[list[dict[str, Any]], str]:
    """The measurements, as JSON objects and as text. Raises IkeError or IppmError."""
    socket_path = request.config.file.key_agent_socket
    if socket_path.exists():
        try:
            return _present(asyncio.run(_through_agent(request, KeyAgentClient(socket_path))))
        except NoSuchSa:
            raise
        except IkeError as error:
            # A socket that a crashed endpoint left behind: nobody answers there.
            log.info("no key agent at %s (%s): this command runs an endpoint of its own", socket_path, error)
    return _present(asyncio.run(_as_host(request)))


async def _as_host(request: TwpingRequest) -> list[Measurement]:
    chosen, _ = choose_backend(request.backend)
    host = Host(
        replace(request.config, measurement=request.measurement), chosen(), keylog=request.keylog, serve=False
    )
    await host.start()
    try:
        return [await host.measure(one) for one in request.requests]
    finally:
        await host.stop()


async def _through_agent(request: TwpingRequest, agent: KeyAgentClient) -> list[Measurement]:
    """Keys from the endpoint that runs on this host; its policies decide the path."""
    measurements = []
    for one in request.requests:
        keyed = one.destination.security.keyed
        if one.choice.peer_identity is not None:
            raise ConfigurationError("--ike-peer does not go with a running endpoint; give --ike-sa SPIi:SPIr")
        provider = IkeKeyProvider(agent, one.measurement.key_options(), select=one.choice.selector(list))
        started = time.monotonic()
        result = await twping(one.destination, provider if keyed else None)
        measurements.append(
            Measurement(
                mode=one.destination.mode,
                path=one.path,
                derivation=one.measurement.derivation.value if keyed else None,
                ike_sa=None,
                child=None,
                result=result,
                record=provider.records[-1] if provider.records else None,
                elapsed_ms=round((time.monotonic() - started) * 1000),
            )
        )
    return measurements


def _present(measurements: list[Measurement]) -> tuple[list[dict[str, Any]], str]:
    texts = []
    for measurement in measurements:
        key = f"keys by {measurement.record.derivation}" if measurement.record else "no derived key"
        texts.append(
            f"path {measurement.path}, {measurement.mode} mode, {key}\n{format_result(measurement.result)}"
        )
    return [measurement.to_dict() for measurement in measurements], "\n\n".join(texts)
