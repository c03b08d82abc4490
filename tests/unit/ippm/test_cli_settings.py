"""Texts of the command line, key files and the server's configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ippm.cli.settings import read_server_file
from ippm.cli.words import parse_host, parse_interval, parse_ports
from ippm.errors import ConfigurationError
from ippm.iana import Mode
from ippm.io.keyfile import read_key_file
from ippm.io.options import ServerOptions
from ippm.io.owamp_options import OwampServerOptions


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host.example", "host.example", 862),
        ("host.example:8620", "host.example", 8620),
        ("192.0.2.1", "192.0.2.1", 862),
        ("[2001:db8::1]:8620", "2001:db8::1", 8620),
        ("[2001:db8::1]", "2001:db8::1", 862),
        ("2001:db8::1", "2001:db8::1", 862),
        ("fe80::1%eth0", "fe80::1%eth0", 862),
    ],
)
def test_hosts(text: str, host: str, port: int) -> None:
    assert parse_host(text, 862) == (host, port)


@pytest.mark.parametrize("text", ["", ":862", "host:", "host:0", "host:65536", "host:http", "[::1]:x"])
def test_texts_that_are_no_host(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_host(text, 862)


def test_ports() -> None:
    assert parse_ports("8760-8960") == (8760, 8960)
    assert parse_ports("8760") == (8760, 8760)
    for wrong in ("", "0-5", "5-4", "1-65536", "a-b", "1-2-3", "-5"):
        with pytest.raises(ConfigurationError, match="ports"):
            parse_ports(wrong)


def test_intervals() -> None:
    assert parse_interval("0.1") == (0.1, True)
    assert parse_interval("0.1e") == (0.1, True)
    assert parse_interval(".5f") == (0.5, False)
    assert parse_interval("1") == (1.0, True)
    for wrong in ("", "f", "-1", "1x", "1ef", "inf", "nan"):
        with pytest.raises(ConfigurationError, match="seconds"):
            parse_interval(wrong)


class TestKeyFile:
    """The format of perfSONAR's .pfs files."""

    def write(self, tmp_path: Path, text: str, mode: int = 0o600) -> Path:
        path = tmp_path / "keys.pfs"
        path.write_text(text)
        path.chmod(mode)
        return path

    def test_identities_and_passphrases(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "# a comment\n\nalice\t636f72726563740a00\n  bob   ABCD\r\n   # more\n")
        assert read_key_file(path) == {"alice": b"correct\n\0", "bob": b"\xab\xcd"}

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
    def test_a_file_that_others_can_read_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = self.write(tmp_path, "alice abcd\n", mode)
        with pytest.raises(ConfigurationError, match=f"mode {mode:04o}.*chmod 600"):
            read_key_file(path)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("alice hunter2\n", ":1: the passphrase of alice is not hexadecimal"),
            ("\nalice\n", ":2: an identity and a hexadecimal passphrase are wanted"),
            ("alice ab cd\n", ":1: an identity and a hexadecimal passphrase are wanted"),
            ("alice ab\nalice cd\n", ":2: alice is there twice"),
            ("x" * 81 + " ab\n", ":1: an identity has at most 80 octets"),
            ("# nobody\n", ": no identity in it"),
        ],
    )
    def test_errors_say_where_and_repeat_no_secret(self, tmp_path: Path, text: str, said: str) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(ConfigurationError) as caught:
            read_key_file(path)
        assert str(caught.value) == f"{path}{said}"
        assert "hunter2" not in str(caught.value)

    def test_a_file_that_is_not_there_or_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="No such file"):
            read_key_file(tmp_path / "none")
        path = tmp_path / "keys"
        path.write_bytes(b"\xff\xfe")
        path.chmod(0o600)
        with pytest.raises(ConfigurationError, match="not UTF-8"):
            read_key_file(path)
        with pytest.raises(ConfigurationError):
            read_key_file(tmp_path)


class TestServerFile:
    """The [twamp] table."""

    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "server.toml"
        path.write_text(text)
        return path

    def test_every_kind_of_value(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            '[twamp]\naddress = "192.0.2.1"\nport = 8620\ntest_ports = "9000-9099"\nmodes = "AE"\n'
            'servwait_s = 60\nstrict_modes = false\nkey_file = "keys.pfs"\n',
        )
        tables = read_server_file(path)
        assert tables.owamp is None
        assert tables.twamp == ServerOptions(
            address="192.0.2.1",
            port=8620,
            test_ports=(9000, 9099),
            modes=Mode.AUTHENTICATED | Mode.ENCRYPTED,
            servwait_s=60.0,
            strict_modes=False,
        )
        assert tables.key_file == tmp_path / "keys.pfs"

    def test_a_table_for_owamp(self, tmp_path: Path) -> None:
        tables = read_server_file(self.write(tmp_path, '[owamp]\nport = 8610\nmodes = "E"\ndirectory = "data"\n'))
        assert tables.twamp is None
        assert tables.owamp == OwampServerOptions(port=8610, modes=Mode.ENCRYPTED, directory=str(tmp_path / "data"))
        with pytest.raises(ConfigurationError, match=r"owamp\.refwait_s: not known"):
            read_server_file(self.write(tmp_path, "[owamp]\nrefwait_s = 1\n"))

    def test_an_empty_file_is_all_defaults(self, tmp_path: Path) -> None:
        tables = read_server_file(self.write(tmp_path, ""))
        assert (tables.twamp, tables.owamp, tables.key_file) == (ServerOptions(), OwampServerOptions(), None)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[stamp]\n", "stamp: not known; [twamp], [owamp], [limit.NAME] and [assign] are"),
            ("twamp = 3\n", "twamp: a table is wanted"),
            ("[twamp]\nporrt = 5\n", "twamp.porrt: not known"),
            ('[twamp]\nport = "862"\n', "twamp.port: a value of type int is wanted"),
            ("[twamp]\nport = true\n", "twamp.port: a value of type int is wanted"),
            ("[twamp]\nport = 70000\n", "twamp.port = 70000: 0 to 65535"),
            ('[twamp]\nmodes = "X"\n', "twamp.modes: no security mode is called 'X'"),
            ("[twamp]\nmodes = 3\n", "twamp.modes: letters of OAEM are wanted"),
            ('[twamp]\ntest_ports = "5-2"\n', "twamp.test_ports = 5-2"),
            ("[twamp]\nmark_callback = 1\n", "twamp.mark_callback: not known"),
            ("[twamp]\nkey_file = 1\n", "twamp.key_file: a path is wanted"),
            ("[twamp\n", ""),
        ],
    )
    def test_errors_have_the_full_path(self, tmp_path: Path, text: str, said: str) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(ConfigurationError) as caught:
            read_server_file(path)
        assert str(caught.value).startswith(f"{path}: {said}")
        assert "\n" not in str(caught.value)
