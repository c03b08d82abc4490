"""The levels in `ikev2 algorithms` are those of the tables of RFC 8247 and RFC 8221, and what must not be is not."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from ikev2.cli.algorithms import Row, rows
from ikev2.iana import EncrId, IntegId, KeId, PrfId

TABLES = Path(__file__).parents[2] / "requirements"
ROWS = list(rows())
NAMES = {
    "ENCR": {"3DES": "TRIPLE_DES", "3IDEA": "TRIPLE_IDEA"},
    "PRF": {},
    "AUTH": {},
}


def levels(rfc: str) -> list[tuple[str, str, str]]:
    """(id, name, level) of each row of a table of algorithms, as the RFC has it."""
    with (TABLES / f"{rfc}.csv").open(encoding="utf-8", newline="") as file:
        return [(row["id"], row["text"].split(":")[0], row["level"]) for row in csv.DictReader(file)]


def implemented(name: str) -> list[Row]:
    """What we have of an algorithm, by its name in the RFC."""
    if group := re.match(r"Group (\d+),", name):
        return [row for row in ROWS if (row.type, row.number) == ("KE", int(group[1]))]
    kind, _, rest = name.partition("_")
    rest = NAMES[kind].get(rest, rest)
    if kind == "ENCR":
        return [row for row in ROWS if (row.type, row.number) == ("ENCR", EncrId[rest])]
    if kind == "PRF":
        return [row for row in ROWS if (row.type, row.number) == ("PRF", PrfId[rest])]
    return [row for row in ROWS if (row.type, row.number) == ("INTEG", IntegId[rest])]


def parameters(rfc: str) -> list[object]:
    return [
        pytest.param(name, level, id=f"{rfc}-{name}", marks=pytest.mark.req(identifier))
        for identifier, name, level in levels(rfc)
    ]


def check(name: str, level: str, shown: list[tuple[int | None, str]]) -> None:
    """`shown`: key length in bits and level of each row of the algorithm."""
    if level.endswith("NOT"):
        assert [text for _, text in shown if text] == [], "what must or should not be implemented is"
        return
    assert shown, "what must or should be implemented is not"
    for bits, text in shown:
        if name == "ENCR_AES_CCM_8":
            wanted = "SHOULD (IoT)" if bits == 128 else "MAY"
        elif bits == 192:
            wanted = "MAY"
        else:
            wanted = level
        assert text.split(",")[0].removesuffix(" (IoT)") == wanted.removesuffix(" (IoT)"), (name, bits, text)


@pytest.mark.parametrize(("name", "level"), parameters("rfc8247"))
def test_levels_for_ike_are_those_of_rfc_8247(name: str, level: str) -> None:
    check(name, level, [(row.key_bits, row.ike) for row in implemented(name)])


@pytest.mark.parametrize(("name", "level"), parameters("rfc8221"))
def test_levels_for_esp_are_those_of_rfc_8221(name: str, level: str) -> None:
    check(name, level, [(row.key_bits, row.esp) for row in implemented(name)])


def test_what_the_tables_do_not_name_is_at_may() -> None:
    """RFC 8247 section 1, RFC 8221 section 1: such as the Brainpool groups, AES-CTR, AES-CMAC."""
    named = {id(row) for rfc in ("rfc8247", "rfc8221") for _, name, _ in levels(rfc) for row in implemented(name)}
    others = [row for row in ROWS if id(row) not in named]
    assert {"ecp224bp", "ecp256bp", "ecp384bp", "ecp512bp", "curve25519", "aes128ctr", "aescmac"} <= {
        row.keyword for row in others
    }
    assert {level for row in others for level in (row.ike, row.esp) if level} == {"MAY"}


def test_groups_under_2048_bits_of_modp_or_224_of_ecp_are_not_there() -> None:
    assert {row.number for row in ROWS if row.type == "KE"}.isdisjoint(
        {KeId.MODP_768, KeId.MODP_1024, KeId.MODP_1536, KeId.ECP_192, KeId.ECP_224, 22, 23, 24}
    )
