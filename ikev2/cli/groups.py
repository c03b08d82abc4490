"""`dh_groups`: MODP groups of one's own in the configuration, under keywords that its proposals may name.

    [dh_groups.ours]
    transform_id = 65001        # of the range for private use, 1024 to 65535
    prime = "FFFFFFFF ..."      # a safe prime in hexadecimal, spaces and line ends where one likes
    generator = 2
    exponent_bits = 320

RFC 7296 section 3.3.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ikev2.crypto.declared import declare_modp_group
from ikev2.errors import ConfigurationError


def _hexadecimal(text: str) -> str:
    if not re.fullmatch(r"\s*(0x)?[0-9a-fA-F\s]*[0-9a-fA-F]\s*", text):
        raise ValueError("the modulus is written in hexadecimal digits")
    return text


class GroupSection(BaseModel):
    """One group."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    transform_id: int
    prime: Annotated[str, Field(strict=True, max_length=10_000), AfterValidator(_hexadecimal)]
    generator: int = 2
    exponent_bits: int | None = None


class _Groups(BaseModel):
    """The part of the file that says what words in the rest mean."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    dh_groups: dict[str, GroupSection] = {}


def declare_groups(document: Mapping[str, Any]) -> list[str]:
    """Make the groups of a file known before its proposals are read; the faults, with their paths."""
    try:
        groups = _Groups.model_validate(document).dh_groups
    except ValidationError:
        return []  # the whole file has the same fault, and tells it
    faults = []
    for name, group in groups.items():
        try:
            prime = int("".join(group.prime.split()), 16)
            declare_modp_group(name, group.transform_id, prime, group.generator, group.exponent_bits)
        except ConfigurationError as error:
            faults.append(f"dh_groups.{name}: {error}")
    return faults
