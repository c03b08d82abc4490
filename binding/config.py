"""The [measurement] section of a host's TOML file, and the switches of docs/rfc7717.md as they stand in it.

A switch that docs/rfc7717.md names and this version does not have yet is refused by name, never ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from binding.derivation import Derivation
from binding.provider import KeyOptions
from ikev2 import ConfigurationError

Path = Literal["tunnel", "bypass", "both"]

NOT_YET = frozenset(
    {"end_on_ike_delete", "id_map", "allow_null_auth", "offer", "prefer", "owamp_ikev2_bit", "stamp_ikev2", "prf"}
)
"""Switches of docs/rfc7717.md that later versions will have."""

DEFAULT_BYPASS_PORTS = (18688, 18751)
"""64 ports, aligned, so that one selector with a port mask covers them in the kernel."""


def _range(value: object, name: str) -> tuple[int, int]:
    text = str(value)
    first, dash, last = text.partition("-")
    try:
        low, high = int(first), int(last if dash else first)
    except ValueError:
        raise ValueError(f"{name} is a range such as 18760-19959, not {text!r}") from None
    if not 0 < low <= high <= 65535:
        raise ValueError(f"{name} {text!r} is not a range of ports between 1 and 65535")
    return low, high


class MeasurementConfig(BaseModel):
    """How this host measures, and how it reads RFC 7717 where the text is open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    derivation: Derivation = Derivation.RFC7717
    path: Path = "bypass"
    mode: Literal["authenticated", "encrypted", "open"] = "encrypted"
    token_key: Literal["pbkdf2", "truncate16", "auto"] = "pbkdf2"
    secret_encoding: Literal["raw", "hex"] = "raw"
    prf: Literal["negotiated"] = "negotiated"
    label: str = Field("IPPM", min_length=1, max_length=16)
    key_count: Literal[2, 4] = 4
    strict_modes: bool = True
    no_sa: Literal["initiate", "fail", "fallback"] = "initiate"
    require_ikev2: bool = True
    peer_binding: Literal["off", "warn", "enforce"] = "warn"
    accept_no_sa: Literal[1, 6] = 6
    sa_grace: str = "60s"
    count: int = Field(1024, ge=1024, le=2**31)
    tw_auth_pad: Literal[56, 64] = 64
    listen: list[str] = Field(default_factory=list)
    port: int = Field(862, ge=1, le=65535)
    test_ports: tuple[int, int] = (18760, 19959)
    bypass_ports: tuple[int, int] = DEFAULT_BYPASS_PORTS

    @field_validator("test_ports", mode="before")
    @classmethod
    def _test_ports(cls, value: object) -> object:
        return _range(value, "test_ports") if isinstance(value, (str, int)) else value

    @field_validator("bypass_ports", mode="before")
    @classmethod
    def _bypass_ports(cls, value: object) -> object:
        return _range(value, "bypass_ports") if isinstance(value, (str, int)) else value

    @field_validator("bypass_ports")
    @classmethod
    def _aligned(cls, value: tuple[int, int]) -> tuple[int, int]:
        low, high = value
        size = high - low + 1
        if size & (size - 1) or low % size:
            raise ValueError(f"bypass_ports {low}-{high} is not an aligned power of two, such as 18688-18751")
        return value

    @field_validator("count")
    @classmethod
    def _count(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"count {value} is not a power of two (RFC 4656 section 3.1)")
        return value

    @property
    def sa_grace_s(self) -> float:
        """How long SPIs of an SA that has gone are still accepted, in seconds (reading A14)."""
        text = self.sa_grace.strip()
        scale = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
        digits = text[:-1] if scale else text
        if not digits.isdigit():
            raise ConfigurationError(f"measurement.sa_grace: {text!r} is not a time such as 60s")
        return float(int(digits) * (scale or 1))

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


def parse_measurement(section: Mapping[str, Any]) -> MeasurementConfig:
    """Validate the section. Raises ConfigurationError: each fault in one line with its full path."""
    faults: list[str] = []
    for word in section:
        if word in NOT_YET and section[word] != "negotiated":
            faults.append(f"measurement.{word}: this version does not have that switch yet")
        elif word not in MeasurementConfig.model_fields:
            near = difflib.get_close_matches(word, MeasurementConfig.model_fields, 1)
            faults.append(f"measurement.{word}: unknown" + (f"; did you mean {near[0]}?" if near else ""))
    known = {word: value for word, value in section.items() if word in MeasurementConfig.model_fields}
    try:
        config = MeasurementConfig.model_validate(known)
        config.label.encode("ascii")
        _ = config.sa_grace_s
    except ValidationError as error:
        for item in error.errors():
            where = ".".join(str(part) for part in ("measurement", *item["loc"]))
            faults.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    except UnicodeEncodeError:
        faults.append("measurement.label: is ASCII")
    except ConfigurationError as error:
        faults.append(str(error))
    if faults:
        raise ConfigurationError("\n".join(faults))
    return config
