"""The key log: private files in Wireshark's words, read back by our decoder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.info import IkeSaInfo
from ikev2.core.types import Address, Mode, Role
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite, IkeSuite, parse_esp_proposal, parse_ike_proposal
from ikev2.errors import ConfigurationError
from ikev2.io.keylog import ESP_TABLE, IKE_TABLE, PREFERENCES, KeyLogWriter, read_ike_table


def info() -> IkeSaInfo:
    host = Address("192.0.2.1", 500)
    return IkeSaInfo(
        "lab", "AUTH_SENT", Role.INITIATOR, bytes(7) + b"\x01", bytes(7) + b"\x02", "", "", "psk", host, host, "a", "b",
        False, False, 0.0, None, (),
    )  # fmt: skip


def secrets(count: int, octets: int) -> list[SecretOctets]:
    return [SecretOctets(f"key {number}", bytes([number]) * octets) for number in range(1, count + 1)]


def ike_keys() -> IkeKeys:
    return IkeKeys(*secrets(7, 4))


def child(esp: str, local: str = "192.0.2.1", remote: str = "192.0.2.2") -> ChildSaParameters:
    encr_in, integ_in, encr_out, integ_out = secrets(4, 4)
    suite = EspSuite.from_proposal(parse_esp_proposal(esp))
    return ChildSaParameters(
        "net", bytes(8), bytes(8), suite, Mode.TUNNEL, Role.INITIATOR, local, remote, 0x1001, 0x2002,
        encr_in, integ_in if suite.integ else None, encr_out, integ_out if suite.integ else None, (), (),
    )  # fmt: skip


def test_the_lines_are_wiresharks(tmp_path: Path) -> None:
    writer = KeyLogWriter(tmp_path / "keys")
    for text in ("aes128gcm16-prfsha256-curve25519", "aes256-sha256-curve25519"):
        # Another SA each time: an SA is written once.
        keys = ike_keys()
        one = info() if "gcm" in text else IkeSaInfo(*[*_fields(info())[:3], b"\xaa" * 8, *_fields(info())[4:]])
        writer.ike_sa(one, IkeSuite.from_proposal(parse_ike_proposal(text)), keys)
        writer.ike_sa(one, IkeSuite.from_proposal(parse_ike_proposal(text)), keys)
    writer.child_sa(child("aes256gcm16"))
    writer.child_sa(child("aes128-sha256", "2001:db8::1", "2001:db8::2"))
    writer.close()
    gcm, cbc = (tmp_path / "keys" / IKE_TABLE).read_text().splitlines()
    # The order of IkeKeys is SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr: 1 to 7. Only 2 to 5 may be written.
    assert gcm == (
        '0000000000000001,0000000000000002,04040404,05050505,"AES-GCM-128 with 16 octet ICV [RFC5282]",,,'
        '"NONE [RFC4306]"'
    )
    assert cbc == (
        'aaaaaaaaaaaaaaaa,0000000000000002,04040404,05050505,"AES-CBC-256 [RFC3602]",02020202,03030303,'
        '"HMAC_SHA2_256_128 [RFC4868]"'
    )
    lines = (tmp_path / "keys" / ESP_TABLE).read_text().splitlines()
    gcm_name, none = "AES-GCM with 16 octet ICV [RFC4106]", "NULL"
    cbc_name, sha = "AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"
    assert lines == [
        f'"IPv4","192.0.2.2","192.0.2.1","0x00001001","{gcm_name}","0x01010101","{none}",""',
        f'"IPv4","192.0.2.1","192.0.2.2","0x00002002","{gcm_name}","0x03030303","{none}",""',
        f'"IPv6","2001:db8::2","2001:db8::1","0x00001001","{cbc_name}","0x01010101","{sha}","0x02020202"',
        f'"IPv6","2001:db8::1","2001:db8::2","0x00002002","{cbc_name}","0x03030303","{sha}","0x04040404"',
    ]


def _fields(one: IkeSaInfo) -> list[object]:
    return [getattr(one, name) for name in one.__dataclass_fields__]


def test_sk_d_and_sk_p_are_never_written(tmp_path: Path) -> None:
    writer = KeyLogWriter(tmp_path / "keys")
    writer.ike_sa(info(), IkeSuite.from_proposal(parse_ike_proposal("aes128-sha256-curve25519")), ike_keys())
    writer.close()
    text = (tmp_path / "keys" / IKE_TABLE).read_text()
    for number in (1, 6, 7):
        assert (bytes([number]) * 4).hex() not in text


def test_directory_and_files_are_private(tmp_path: Path) -> None:
    writer = KeyLogWriter(tmp_path / "deep" / "keys")
    writer.close()
    assert stat.S_IMODE((tmp_path / "deep" / "keys").stat().st_mode) == 0o700
    for name in (IKE_TABLE, ESP_TABLE, PREFERENCES):
        assert stat.S_IMODE((tmp_path / "deep" / "keys" / name).stat().st_mode) == 0o600
    assert "WARNING" in writer.warning
    assert str(tmp_path) in writer.warning


def test_places_that_others_can_read_are_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        KeyLogWriter(shared)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / IKE_TABLE).touch()
    (private / IKE_TABLE).chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        KeyLogWriter(private)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot keep a key log there"):
        KeyLogWriter(tmp_path / "file")


@pytest.mark.parametrize(
    "text",
    [
        "aes256gcm16-prfsha384-curve25519",
        "aes192-sha512-curve25519",
        "chacha20poly1305-prfsha256-curve25519",
        "aes128-aesxcbc-curve25519",
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, text: str) -> None:
    suite = IkeSuite.from_proposal(parse_ike_proposal(text))
    writer = KeyLogWriter(tmp_path / "keys")
    writer.ike_sa(info(), suite, ike_keys())
    writer.close()
    (sa,) = read_ike_table(tmp_path / "keys")
    assert (sa.spi_i, sa.spi_r, sa.encr) == (info().spi_i, info().spi_r, suite.encr)
    assert (sa.keys.ei, sa.keys.er) == (b"\x04" * 4, b"\x05" * 4)
    assert (sa.integ is None) == (suite.integ is None)
    assert "04040404" not in repr(sa)


def test_a_table_that_is_not_one_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no key log there"):
        read_ike_table(tmp_path)
    path = tmp_path / IKE_TABLE
    path.write_text("# a comment\n00,01\n")
    with pytest.raises(ConfigurationError, match=rf"{IKE_TABLE}:2: not a line of"):
        read_ike_table(tmp_path)
    path.write_text('00,01,02,03,"ROT13",,,"NONE [RFC4306]"\n')
    with pytest.raises(ConfigurationError, match="the algorithm 'ROT13' is not implemented"):
        read_ike_table(tmp_path)
