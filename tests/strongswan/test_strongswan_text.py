"""How strongSwan's own words are read: needs no strongSwan. The texts are cut from output of version 5.9.8."""

from __future__ import annotations

import pytest

from interop.peers.strongswan import render
from interop.peers.strongswan_text import LeaseState, parse_keys, parse_leases, parse_raw, parse_sas, tellable

LIST = (
    "list-sa event {lab {uniqueid=7 version=2 state=ESTABLISHED local-host=192.0.2.2 local-port=4500 "
    "local-id=b.example remote-host=192.0.2.1 remote-port=4500 remote-id=a.example initiator=yes "
    "initiator-spi=937260732c61dc9e responder-spi=7453a876834fab07 encr-alg=AES_GCM_16 encr-keysize=128 "
    "prf-alg=PRF_HMAC_SHA2_256 dh-group=CURVE_25519 established=0 child-sas {net-1 {name=net uniqueid=1 "
    "state=INSTALLED mode=TUNNEL protocol=ESP encap=yes spi-in=ebe8ad84 spi-out=a1fa25c7 bytes-in=640 packets-in=5 "
    "bytes-out=1280 packets-out=6 local-ts=[192.0.2.2/32 10.2.0.0/24] remote-ts=[192.0.2.1/32]}}}}\n"
    "list-sas reply {}\n"
)

LOG = """\
14[IKE] <7> SKEYSEED => 32 bytes @ 0x7f0000000000
14[IKE] <7>    0: FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF  ................
14[IKE] <7>   16: FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF  ................
14[IKE] <7> Sk_d secret => 20 bytes @ 0x7f0000000001
14[IKE] <7>    0: 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F  ................
02[NET] <8> received packet: from 192.0.2.1[500] to 192.0.2.2[500] (200 bytes)
14[IKE] <7>   16: 10 11 12 13                                      ....
14[CHD] <lab|7> encryption initiator key => 4 bytes @ 0x7f0000000002
14[CHD] <lab|7>    0: 01 02 03 04                                      ....
14[CHD] <lab|7> encryption responder key => 4 bytes @ 0x7f0000000003
14[CHD] <lab|7>    0: 05 06 07 08                                      ....
14[CHD] <lab|7> encryption initiator key => 2 bytes @ 0x7f0000000004
14[CHD] <lab|7>    0: 11 12                                            ..
14[CHD] <lab|7> integrity initiator key => 2 bytes @ 0x7f0000000005
14[CHD] <lab|7>    0: 13 14                                            ..
14[CHD] <lab|7> encryption responder key => 2 bytes @ 0x7f0000000006
14[CHD] <lab|7>    0: 15 16                                            ..
14[CHD] <lab|7> integrity responder key => 2 bytes @ 0x7f0000000007
14[CHD] <lab|7>    0: 17 18                                            ..
"""


def test_listed_sas_become_values() -> None:
    [sa] = parse_sas(LIST)
    assert (sa.name, sa.unique_id, sa.state, sa.initiator) == ("lab", 7, "ESTABLISHED", True)
    assert (sa.spi_i.hex(), sa.spi_r.hex()) == ("937260732c61dc9e", "7453a876834fab07")
    assert (sa.local_id, sa.remote_id, sa.remote) == ("b.example", "a.example", "192.0.2.1:4500")
    [child] = sa.children
    assert (child.spi_in, child.spi_out) == (0xEBE8AD84, 0xA1FA25C7)
    assert (child.packets_in, child.octets_in, child.packets_out, child.octets_out) == (5, 640, 6, 1280)
    assert child.local_ts == ("192.0.2.2/32", "10.2.0.0/24")
    assert child.remote_ts == ("192.0.2.1/32",)


def test_a_child_sa_that_lingers_after_rekeying_is_left_out() -> None:
    [sa] = parse_sas(LIST.replace("state=INSTALLED", "state=DELETED"))
    assert sa.children == ()


def test_no_sa_is_an_empty_list() -> None:
    assert parse_sas("list-sas reply {}\n") == []


def test_raw_output_nests() -> None:
    assert parse_raw("c {local-ts=[192.0.2.2/32[udp/7777] 10.2.0.0/24[udp]] n=1 } }") == {
        "c": {"local-ts": ["192.0.2.2/32[udp/7777]", "10.2.0.0/24[udp]"], "n": "1"}
    }
    assert parse_raw("a {b=1 c=[] d {e=} } f=[x y]") == {
        "a": {"b": "1", "c": [], "d": {"e": ""}},
        "f": ["x", "y"],
    }


def test_keys_are_put_together_from_their_dumps() -> None:
    keys = parse_keys(LOG)[7]
    assert keys.sk == {"SK_d": bytes(range(20))}
    assert keys.keymat(0).hex() == "0102030405060708"
    # Encryption before integrity, the initiator's before the responder's: RFC 7296 section 2.17.
    assert keys.keymat().hex() == "1112131415161718"
    assert "0102" not in repr(keys)


def test_what_goes_into_a_report_has_no_dump() -> None:
    assert [line for line in LOG.splitlines() if tellable(line)] == [
        "02[NET] <8> received packet: from 192.0.2.1[500] to 192.0.2.2[500] (200 bytes)"
    ]


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"a": {"b": True, "c": ["x", "y"]}, "d": 1.5}, "a {\n  b = yes\n  c = x,y\n}\nd = 1.5\n"),
        ({}, ""),
        ({"id": "@#00ff"}, 'id = "@#00ff"\n'),
    ],
)
def test_sections_are_written_as_strongswan_reads_them(section: dict[str, object], text: str) -> None:
    assert render(section) == text


def test_virtual_addresses_of_an_ike_sa() -> None:
    text = LIST.replace("established=0", "established=0 local-vips=[10.9.0.1] remote-vips=[10.8.0.1 2001:db8::1]")
    [sa] = parse_sas(text)
    assert (sa.local_vips, sa.remote_vips) == (("10.9.0.1",), ("10.8.0.1", "2001:db8::1"))
    assert parse_sas(LIST)[0].remote_vips == ()


POOLS = (
    "get-pools reply {road {base=10.9.0.1 size=254 online=1 offline=1 leases {0 {address=10.9.0.1 "
    "identity=a.example status=online} 1 {address=10.9.0.2 identity=b.example status=offline}}} "
    "six {base=2001:db8::1 size=65535 online=0 offline=0}}\n"
)


def test_leases_of_all_pools() -> None:
    assert parse_leases(POOLS) == {
        "10.9.0.1": LeaseState("a.example", True),
        "10.9.0.2": LeaseState("b.example", False),
    }
