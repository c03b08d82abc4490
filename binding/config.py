"""The [measurement] section of a host's TOML file, and the switches of docs/rfc7717.md as they stand in it.

A switch that docs/rfc7717.md names and this version does not have is refused by name, never ignored.
docs/measurement.md explains each key.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from binding.derivation import Derivation
from binding.provider import KeyOptions
from binding.switches import NOT_YET
from ikev2.embedding import ConfigurationError
from ippm import ConfigurationError as IppmConfigurationError
from ippm import Limits, parse_limits

Path = Literal["tunnel", "bypass", "both"]

DEFAULT_BYPASS_PORTS = (18688, 18751)
"""64 ports, aligned, so that one selector with a port mask covers them in the kernel."""

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SCALE_S = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: object) -> object:
    """A number of seconds, or a text such as 60s or 5m, as the IKE side reads it, too."""
    if isinstance(value, str):
        match = _TIME.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a time such as 60s, 5m, 1h")
        return float(match[1]) * _SCALE_S[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a time is a number of seconds or a text such as 60s, 5m, 1h")
    return value


def _ports(value: object) -> object:
    """`FIRST-LAST`, or the two as a list."""
    if isinstance(value, str):
        first, dash, last = value.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise ValueError(f"is a range such as 18760-19959, not {value!r}")
        value = [int(first), int(last if dash else first)]
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(port) is int for port in value):
        raise ValueError("is a range such as 18760-19959")
    low, high = value
    if not 0 < low <= high <= 65535:
        raise ValueError(f"{low}-{high} is not a range of ports between 1 and 65535")
    return low, high


def _switch_prf(value: object) -> object:
    """Reading A4: only the PRF of the IKE SA is there."""
    if value != "negotiated":
        raise ValueError(f"{value!r}: this version has the prf of the IKE SA only, which is called negotiated")
    return value


Ports = Annotated[tuple[int, int], BeforeValidator(_ports)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]


class MeasurementConfig(BaseModel):
    """How this host measures, and how it reads RFC 7717 where the text is open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    derivation: Derivation = Derivation.RFC7717
    path: Path = "bypass"
    mode: Literal["encrypted", "authenticated", "mixed", "open"] = "encrypted"
    token_key: Literal["pbkdf2", "truncate16", "auto"] = "pbkdf2"
    secret_encoding: Literal["raw", "hex"] = "raw"
    prf: Annotated[Literal["negotiated"], BeforeValidator(_switch_prf)] = "negotiated"
    label: str = Field("IPPM", min_length=1, max_length=16)
    key_count: Literal[2, 4] = 4
    strict_modes: bool = Field(True, strict=True)
    no_sa: Literal["initiate", "fail", "fallback"] = "initiate"
    require_ikev2: bool = Field(True, strict=True)
    key_file: str | None = None
    key_id: str | None = None
    prefer: Literal["ikev2", "passphrase"] = "ikev2"
    peer_binding: Literal["off", "warn", "enforce"] = "warn"
    accept_no_sa: Literal[1, 6] = 6
    sa_grace: Seconds = 60.0
    count: int = Field(1024, ge=1024, le=2**31, strict=True)
    tw_auth_pad: Literal[56, 64] = 64
    listen: tuple[str, ...] = ()
    port: int = Field(862, ge=1, le=65535, strict=True)
    owamp_port: int = Field(861, ge=0, le=65535, strict=True)
    owamp_ikev2_bit: Literal[4, 7] = 4
    test_ports: Ports = (18760, 19959)
    bypass_ports: Ports = DEFAULT_BYPASS_PORTS

    @field_validator("label")
    @classmethod
    def _ascii(cls, value: str) -> str:
        if not value.isascii():
            raise ValueError("is ASCII, at most 16 octets")
        return value

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_address(text)  # its ValueError is a sentence
        return value

    @field_validator("bypass_ports")
    @classmethod
    def _aligned(cls, value: tuple[int, int]) -> tuple[int, int]:
        low, high = value
        size = high - low + 1
        if size & (size - 1) or low % size:
            raise ValueError(f"{low}-{high} is not an aligned power of two, such as 18688-18751")
        return value

    @field_validator("count")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"{value} is not a power of two (RFC 4656 section 3.1)")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        low, high = self.bypass_ports
        if any(low <= port <= high for port in (self.port, self.owamp_port)) or (
            low <= self.test_ports[1] and self.test_ports[0] <= high
        ):
            raise ValueError(
                "bypass_ports: holds a port of the server (port, owamp_port, test_ports), "
                "whose traffic would always bypass"
            )
        if self.prefer == "passphrase" and (self.require_ikev2 or self.key_file is None):
            raise ValueError('prefer: "passphrase" needs a key_file, and require_ikev2 = false')
        if self.no_sa == "fallback" and self.require_ikev2:
            raise ValueError(
                'no_sa: "fallback" measures without keys from IKEv2, so it needs require_ikev2 = false'
            )
        return self

    @property
    def owamp_ikev2_mode(self) -> int:
        """The value in OWAMP-Modes that says IKEv2-derived keys (reading A6)."""
        return 1 << self.owamp_ikev2_bit

    def key_options(self) -> KeyOptions:
        """The part that shapes keys and their signalling."""
        return KeyOptions(
            derivation=self.derivation,
            token_key=self.token_key,
            secret_encoding=self.secret_encoding,
            key_count=self.key_count,
            accept_no_sa=self.accept_no_sa,
            peer_binding=self.peer_binding,
            count=self.count,
        )


SERVER_WORDS = frozenset(
    {
        "derivation", "token_key", "secret_encoding", "prf", "key_count", "strict_modes", "peer_binding",
        "accept_no_sa", "count", "listen", "port", "owamp_port", "owamp_ikev2_bit", "test_ports",
    }
)  # fmt: skip
"""What a [[measurement.servers]] table may change: the rest is the client's, or one for the whole host."""


def parse_measurement(section: Mapping[str, Any], where: str = "measurement") -> MeasurementConfig:
    """Validate a section. Raises ConfigurationError: each fault in one line with its full path."""
    faults = [
        f"{where}.{word}: {fault}"
        for word in section
        if word not in LIMIT_WORDS and (fault := _unknown(word)) is not None
    ]
    known = {word: value for word, value in section.items() if word in MeasurementConfig.model_fields}
    try:
        config = MeasurementConfig.model_validate(known)
    except ValidationError as error:
        faults += [_fault(item["loc"], item["msg"], where) for item in error.errors()]
    if faults:
        raise ConfigurationError("\n".join(faults))
    return config


def parse_servers(section: Mapping[str, Any]) -> tuple[MeasurementConfig, tuple[MeasurementConfig, ...]]:
    """The section without `servers`, and what each server does: the section's own, then one a table.

    A table serves OWAMP only when it has an `owamp_port` of its own.
    Raises ConfigurationError with every fault.
    """
    own = {word: value for word, value in section.items() if word != "servers" and word not in LIMIT_WORDS}
    tables = section.get("servers", [])
    faults: list[str] = []
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        faults.append("measurement.servers: is written as [[measurement.servers]] tables")
        tables = []
    for number, table in enumerate(tables):
        faults += [
            f"measurement.servers[{number}].{word}: is one for the whole host, in [measurement]"
            for word in table
            if (word in MeasurementConfig.model_fields and word not in SERVER_WORDS) or word in LIMIT_WORDS
        ]
    parsed: list[MeasurementConfig] = []
    try:
        parsed.append(parse_measurement(own))
        for number, table in enumerate(tables):
            parsed.append(parse_measurement({**own, "owamp_port": 0, **table}, f"measurement.servers[{number}]"))
    except ConfigurationError as error:
        faults.append(str(error))
    ports = [port for server in parsed for port in (server.port, server.owamp_port) if port]
    faults += [f"measurement.servers: two servers have port {port}" for port in _repeated(ports)]
    if faults:
        raise ConfigurationError("\n".join(faults))
    return parsed[0], tuple(parsed)


LIMIT_WORDS = ("limit", "assign", "id_map")
"""Tables of [measurement] that are about limit classes; they are one for the whole host."""


def parse_host_limits(section: Mapping[str, Any]) -> Limits | None:
    """The limit classes of [measurement], and by `id_map` those of IKE identities (reading A20); None: there are none.

    Raises ConfigurationError with every fault.
    """
    if not any(word in section for word in LIMIT_WORDS):
        return None
    try:
        return parse_limits(
            section.get("limit", {}),
            section.get("assign", {}),
            section.get("id_map"),
            prefix="measurement.",
            id_map_at="measurement.id_map",
        )
    except IppmConfigurationError as error:
        raise ConfigurationError(str(error)) from None


def _repeated(numbers: Iterable[int]) -> list[int]:
    seen: set[int] = set()
    return [number for number in numbers if number in seen or seen.add(number)]  # type: ignore[func-returns-value]


def _unknown(word: str) -> str | None:
    if word in MeasurementConfig.model_fields:
        return None
    if word in NOT_YET:
        return "this version does not have that switch yet"
    near = difflib.get_close_matches(word, MeasurementConfig.model_fields, 1)
    return "unknown" + (f"; did you mean {near[0]}?" if near else "")


def _fault(location: tuple[int | str, ...], message: str, where: str) -> str:
    """One line: the path, what is wrong. A fault of the whole section begins with the word that it is about."""
    text = message.removeprefix("Value error, ")
    if not location:
        return f"{where}.{text}"
    return f"{where}.{'.'.join(str(part) for part in location)}: {text}"
