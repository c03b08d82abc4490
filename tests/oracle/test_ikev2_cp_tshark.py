"""tshark reads the configuration payloads of an IKE_AUTH exchange from our capture with our key log.

HDR, SK {IDi, ..., AUTH, CP(CFG_REQUEST), SA, TSi, TSr}  -->
                                                    <--  HDR, SK {IDr, AUTH, CP(CFG_REPLY), SA, TSi, TSr}

Types, lengths and values are tshark's own view of the octets. RFC 7296 sections 3.15 and 3.15.1.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ikev2_pair import Pair
from oracle.test_ikev2_tshark import dissected, record

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

POOLS = {
    "road": {
        "addrs": ["10.9.0.10-10.9.0.20", "2001:db8:9::/64"],
        "dns": ["10.2.0.53", "2001:db8:2::53"],
        "nbns": ["10.2.0.54"],
        "dhcp": ["10.2.0.55"],
        "subnet": ["10.2.0.0/24", "2001:db8:2::/48"],
        "netmask": "255.255.255.0",
    }
}


IDI, IDR, AUTH, CP, SA, TSI, TSR = 35, 36, 39, 47, 33, 44, 45


def exchange(directory: Path, vips: list[str]) -> list[Any]:
    """tshark's trees of the IKE_AUTH request and response."""
    own = {"a": {"vips": vips}, "b": {"pools": ["road"]}}
    pair = Pair(directory, own=own, sections={"b": {"pools": POOLS}})
    packets = dissected(record(pair, directory), directory / "keys", pair.ports)
    text = json.dumps(packets)
    assert "_ws.malformed" not in text
    assert "Malformed" not in text
    return [layers["isakmp"] for layers in packets if "isakmp" in layers][2:4]


def found(tree: Any, name: str) -> list[Any]:
    """The values of a field, in the order of the tree, lists of them unfolded."""
    if isinstance(tree, list):
        return [value for part in tree for value in found(part, name)]
    if not isinstance(tree, dict):
        return []
    values: list[Any] = []
    for key, value in tree.items():
        if key == name:
            values += value if isinstance(value, list) else [value]
        else:
            values += found(value, name)
    return values


def attributes(tree: Any) -> list[tuple[int, bytes]]:
    """Type and value of each configuration attribute; the reserved bit is zero, the length fits."""
    attributes = []
    for one in found(tree, "isakmp.cfg.attr"):
        value = bytes.fromhex(one.get("isakmp.cfg.attr.value", "").replace(":", ""))
        assert one["isakmp.cfg.attr.format"] == "0"
        assert int(one["isakmp.cfg.attr.length"]) == len(value)
        attributes.append((int(one["isakmp.cfg.attr.type"]), value))
    return attributes


def said(tree: Any, name: str) -> list[str]:
    """tshark's reading of the values of one kind of attribute."""
    return [str(value) for value in found(tree, f"isakmp.cfg.attr.{name}")]


def order(tree: Any) -> list[int]:
    """The types of the encrypted payloads, notifies and the parts of SA payloads aside, by the Next Payload fields."""
    chain = [int(value) for value in found(tree, "isakmp.nextpayload")]
    return [kind for kind in chain if kind in (IDI, IDR, AUTH, CP, SA, TSI, TSR)]


@pytest.mark.req("rfc7296-s2.19-02", "rfc7296-s3.15-01", "rfc7296-s3.15.1-01", "rfc7296-s3.15.1-04")
def test_request_has_the_octets_of_the_figures(tmp_path: Path) -> None:
    request, _ = exchange(tmp_path, ["0.0.0.0", "2001:db8:9::7"])
    assert found(request, "isakmp.cfg.type") == ["1"]
    seven = ipaddress.ip_address("2001:db8:9::7").packed
    assert attributes(request) == [(1, b""), (8, seven + b"\x80"), (3, b""), (10, b"")]
    assert said(request, "internal_ip6_address") == ["2001:db8:9::7"]
    assert said(request, "internal_ip6_address.prefix") == ["128"]
    assert order(request) == [IDI, IDR, AUTH, CP, SA, TSI, TSR]


@pytest.mark.req("rfc7296-s2.19-02", "rfc7296-s3.15.1-03", "rfc7296-s4-09")
def test_reply_has_the_octets_of_the_figures(tmp_path: Path) -> None:
    _, response = exchange(tmp_path, ["0.0.0.0", "2001:db8:9::7"])
    assert found(response, "isakmp.cfg.type") == ["2"]
    values = attributes(response)
    assert [kind for kind, _ in values] == [1, 8, 3, 10, 4, 6, 13, 15, 2]
    assert said(response, "internal_ip4_address") == ["10.9.0.10"]
    assert said(response, "internal_ip6_address") == ["2001:db8:9::7"]
    assert said(response, "internal_ip4_dns") == ["10.2.0.53"]
    assert said(response, "internal_ip6_dns") == ["2001:db8:2::53"]
    assert said(response, "internal_ip4_nbns") == ["10.2.0.54"]
    assert said(response, "internal_ip4_dhcp") == ["10.2.0.55"]
    assert said(response, "internal_ip4_subnet_ip") == ["10.2.0.0"]
    assert said(response, "internal_ip4_subnet_netmask") == ["255.255.255.0"]
    assert said(response, "internal_ip6_subnet_ip") == ["2001:db8:2::"]
    assert said(response, "internal_ip6_subnet_prefix") == ["48"]
    assert said(response, "internal_ip4_netmask") == ["255.255.255.0"]
    assert order(response) == [IDR, AUTH, CP, SA, TSI, TSR]
