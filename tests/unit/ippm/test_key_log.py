"""The O/TWAMP key log: what both roles write is what a second decoder finds from the secret; who may look into it."""

from __future__ import annotations

import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decoder import owamp_decoder, twamp_decoder
from ippm_control_peers import WISH, pair_in_mode
from owamp_control_peers import FROM_SERVER, TO_SERVER, OwampPair

from ippm.core.control_client import ControlClientConfig
from ippm.core.key_log import ControlKeys, TestKeys
from ippm.errors import ConfigurationError
from ippm.iana import Mode
from ippm.io.keylog import FILE_NAME, KeyLogWriter, canonical, read_key_log

SECRETS = {
    Mode.AUTHENTICATED: b"correct horse",
    Mode.ENCRYPTED: b"correct horse",
    Mode.MIXED: b"correct horse",
    Mode.AUTHENTICATED | Mode.IKEV2_DERIVED: b"\x00\n\r shared secret \xff",
    Mode.ENCRYPTED | Mode.IKEV2_DERIVED: b"\x00\n\r shared secret \xff",
}


class Kept:
    """A KeyLog that keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[ControlKeys | TestKeys] = []

    def control(self, entry: ControlKeys) -> None:
        self.entries.append(entry)

    def test(self, entry: TestKeys) -> None:
        self.entries.append(entry)


def twamp_session(mode: Mode, client: Any, server: Any) -> Any:
    pair = pair_in_mode(mode, key_log=server)
    pair.client.config = replace(pair.client.config, key_log=client)
    pair.run()
    pair.client.request_session(WISH, pair.now)
    pair.run()
    return pair


@pytest.mark.parametrize("mode", SECRETS, ids=repr)
def test_both_ends_of_twamp_log_the_keys_that_the_second_decoder_derives(mode: Mode) -> None:
    client, server = Kept(), Kept()
    pair = twamp_session(mode, client, server)
    control = twamp_decoder.decode_control(pair.to_server, pair.to_client, SECRETS[mode])
    assert client.entries == server.entries
    logged, *sessions = client.entries
    assert isinstance(logged, ControlKeys)
    assert (logged.keys.aes, logged.keys.hmac) == (control.aes_key, control.hmac_key)
    assert logged.modes == control.mode
    assert logged.client_iv == control.client[0].fields["client_iv"]
    assert logged.server_iv == control.server[1].fields["server_iv"]
    if mode & Mode.MIXED:
        assert not sessions  # Test has no keys
        return
    (session,) = sessions
    assert isinstance(session, TestKeys)
    assert session.sid == control.sids[0]
    assert (session.keys.aes, session.keys.hmac) == control.test_keys(session.sid)
    assert session.receiver.port == control.server[2].fields["port"]
    assert session.sender == WISH.sender


@pytest.mark.parametrize("mode", [mode for mode in SECRETS if not mode & Mode.MIXED], ids=repr)
def test_both_ends_of_owamp_log_the_keys_that_the_second_decoder_derives(mode: Mode) -> None:
    client, server = Kept(), Kept()
    pair = OwampPair(mode, key_log=server)
    pair.client.config = ControlClientConfig(mode.security, key_log=client)
    pair.set_up()
    for wish in (TO_SERVER, FROM_SERVER):
        pair.client.request_session(wish, pair.now)
    pair.run()
    control = owamp_decoder.decode_control(pair.to_server, pair.to_client, SECRETS[mode])
    assert client.entries == server.entries
    logged, *sessions = client.entries
    assert isinstance(logged, ControlKeys)
    assert (logged.keys.aes, logged.keys.hmac) == (control.aes_key, control.hmac_key)
    assert logged.modes == control.mode  # with bit 4, not bit 7, for keys of an IKE SA
    for session, wish in zip(sessions, (TO_SERVER, FROM_SERVER), strict=True):
        assert isinstance(session, TestKeys)
        assert (session.keys.aes, session.keys.hmac) == control.test_keys(session.sid)
        assert wish.here == (session.receiver if wish.server_sends else session.sender)


def test_nobody_asked_so_nobody_is_told() -> None:
    pair = pair_in_mode(Mode.ENCRYPTED)
    assert pair.client.config.key_log is None
    assert pair.server.config.key_log is None


def test_a_file_that_is_read_back_has_the_same_keys(tmp_path: Path) -> None:
    kept = Kept()
    writer = KeyLogWriter(tmp_path / "keys")
    pair = twamp_session(Mode.ENCRYPTED, writer, kept)
    writer.close()
    logged = read_key_log(tmp_path / "keys")
    control, session = kept.entries
    assert isinstance(control, ControlKeys)
    assert isinstance(session, TestKeys)
    assert logged.connections == {(control.client_iv, control.server_iv): control}
    assert logged.sessions == {("twamp", session.sid): session}
    assert pair.client.mode == Mode.ENCRYPTED


def test_only_its_owner_can_look_into_it(tmp_path: Path) -> None:
    writer = KeyLogWriter(tmp_path / "keys")
    writer.close()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys" / FILE_NAME).stat().st_mode) == 0o600
    assert "WARNING" in writer.warning
    assert str(tmp_path / "keys") in writer.warning


def test_a_directory_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="others can look into the key log's directory: chmod 700 it"):
        KeyLogWriter(directory)
    assert not list(directory.iterdir())


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    (directory / FILE_NAME).touch(mode=0o644)
    with pytest.raises(ConfigurationError, match="others can read this key log: chmod 600 it"):
        KeyLogWriter(directory)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    (tmp_path / "elsewhere").touch(mode=0o600)
    (directory / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot keep a key log there"):
        KeyLogWriter(directory)


def test_no_key_shows_in_the_repr_of_an_entry() -> None:
    kept = Kept()
    twamp_session(Mode.ENCRYPTED, kept, None)
    for entry in kept.entries:
        assert entry.keys.aes.hex() not in repr(entry)
        assert repr(entry.keys.aes) not in repr(entry)


GOOD = f"control twamp 00000004 {'11' * 16} {'22' * 16} {'33' * 16} {'44' * 32}"
GOOD_TEST = f"test owamp 00000002 {'11' * 16} 192.0.2.1:5000 [2001:db8::1]:6000 {'33' * 16} {'44' * 32}"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (GOOD + " 55", "`control` has 7 words, not 8"),
        (GOOD.replace("twamp", "stamp"), "the protocol is owamp or twamp"),
        (GOOD.replace("33", "zz"), "the AES Session-key has 16 octets in hexadecimal"),
        (GOOD.replace("00000004", "4"), "the Mode field has 4 octets in hexadecimal"),
        (GOOD_TEST.replace("192.0.2.1:5000", "192.0.2.1"), "a place is ADDRESS:PORT"),
        (GOOD_TEST.replace("192.0.2.1:5000", "a.example:5"), "a place is ADDRESS:PORT"),
        (GOOD_TEST.rpartition(" ")[0], "`test` has 8 words, not 7"),
    ],
)
def test_a_line_that_is_not_understood_is_named_and_not_repeated(tmp_path: Path, line: str, what: str) -> None:
    (tmp_path / FILE_NAME).write_text(f"# a comment\n\nlater 1 2 3\n{line}\n")
    with pytest.raises(ConfigurationError, match=what) as caught:
        read_key_log(tmp_path)
    assert f"{FILE_NAME}:4" in str(caught.value)
    assert "44" * 32 not in str(caught.value)


def test_good_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(f"{GOOD}\n{GOOD_TEST}\n")
    logged = read_key_log(tmp_path)
    assert len(logged.connections) == len(logged.sessions) == 1
    (session,) = logged.sessions.values()
    assert session.sender == ("192.0.2.1", 5000)
    assert session.receiver == ("2001:db8::1", 6000)


def test_no_key_log_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no key log there"):
        read_key_log(tmp_path)


def test_addresses_are_found_however_they_are_written() -> None:
    assert canonical("fe80::1%eth0") == "fe80::1"
    assert canonical("::ffff:192.0.2.1") == "192.0.2.1"
    assert canonical("2001:0DB8:0::1") == "2001:db8::1"


def test_the_command_warns_before_it_connects_and_refuses_an_open_directory(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "keys.pfs").write_text("alice 636f7272656374\n")
    (tmp_path / "keys.pfs").chmod(0o600)
    command = [sys.executable, "-m", "ippm", "twping", "-k", str(tmp_path / "keys.pfs"), "127.0.0.1:1", "--keylog"]
    done = subprocess.run([*command, str(tmp_path / "open")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "chmod 700 it" in done.stderr
    done = subprocess.run([*command, str(tmp_path / "keys")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1  # nobody listens there
    assert done.stderr.startswith("ippm: WARNING: the keys of every Control connection")
