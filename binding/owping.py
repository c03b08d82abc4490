"""`ippm-ipsec owping`: a one-way measurement with keys from the IKE SA, to an OWAMP server, from it, or both.

How it finds the IKE SA and the keys is what `twping` does. RFC 4656; RFC 7717; RFC 7718 section 3.2.4 for the bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from binding.host import HostConfig
from binding.measurement import Measurement, OneWayMeasurement, OneWayRequest
from binding.policy import SaChoice
from binding.switches import ONE_WAY_CLIENT
from binding.twping import PingRequest, impairments_of, security_mode, slot, split_destination, stamps_with
from ikev2.embedding import ConfigurationError
from ippm import OneWayResult, OwpingOptions


def owping_request(destination: str, config_file: Path, options: Mapping[str, Any]) -> PingRequest:
    """The command line of `owping`. Raises ConfigurationError."""
    return PingRequest.from_command_line(destination, config_file, options, ONE_WAY_CLIENT, one_way_requests)


def one_way_requests(config: HostConfig, destination: str, options: Mapping[str, Any]) -> tuple[OneWayRequest, ...]:
    """One request for each path, `bypass` first. Raises ConfigurationError."""
    measurement = config.measurement
    host, port = split_destination(destination)
    port = port or measurement.owamp_port
    if not port:
        raise ConfigurationError("measurement.owamp_port is 0: name the server's port, HOST:PORT")
    mode = security_mode(options.get("security"), measurement.mode)
    if mode == "mixed":
        raise ConfigurationError("-A, measurement.mode: OWAMP has no mixed mode: open, authenticated or encrypted")
    choice = SaChoice.parse(options.get("ike_sa"), options.get("ike_peer"))
    both = options["from_server"] == options["to_server"]
    spoilt = impairments_of(options)
    ways = ("bypass", "tunnel") if measurement.path == "both" else (measurement.path,)
    return tuple(
        OneWayRequest(
            OwpingOptions(
                host=host,
                port=port,
                mode=mode,
                to_server=options["to_server"] or both,
                from_server=options["from_server"] or both,
                count=options["count"],
                schedule=schedule(options["interval"]),
                padding=options["padding"],
                timeout_s=options["timeout_s"],
                start_delay_s=options["start_delay_s"],
                dscp=options["dscp"],
                local_port_range=measurement.bypass_ports if way == "bypass" else None,
                require_ikev2=measurement.require_ikev2 and mode != "open",
                ikev2_bit=measurement.owamp_ikev2_mode,
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


def schedule(text: str) -> tuple[tuple[bool, float], ...]:
    """The slots of `-i`: seconds, each with `e` (exponential, the default) or `f` (fixed). ConfigurationError."""
    return tuple(slot(one, exponential=True) for one in text.split(","))


def prepare(directory: Path) -> None:
    """Make the directory for the data before anything is measured. Raises ConfigurationError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"-d {directory}: cannot make the directory: {error.strerror}") from None
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"-d {directory}: no file can be made in the directory: {error.strerror}"
        ) from None


def save(measurements: Sequence[Measurement | OneWayMeasurement], directory: Path) -> None:
    """Write the data of each session to DIRECTORY/SID.owp, which `ippm stats` reads. Raises OSError."""
    for measurement in measurements:
        for result in measurement.results if isinstance(measurement, OneWayMeasurement) else ():
            _save(result, directory / f"{result.session.sid.hex()}.owp")


def _save(result: OneWayResult, path: Path) -> None:
    """As a whole: a name that is there has all of its octets."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(result.saved())
    new.replace(path)
