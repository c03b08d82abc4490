"""`ippm serve --user`: a server that has bound its ports goes on as another user, or not at all."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ippm.cli.main import cli
from ippm.errors import ConfigurationError, IppmError
from ippm.io import privileges
from ippm.io.privileges import RunAs, check_unprivileged_ports, drop_privileges, parse_user

NOBODY = pwd.getpwnam("nobody")
WHO = RunAs("nobody", NOBODY.pw_uid, "its", NOBODY.pw_gid)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def free_low_port(taken: int = 0) -> int:
    for port in range(700, 1000):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port != taken:
            return port
    raise AssertionError("no port below 1024 is free")


@needs_root
def test_a_server_on_low_ports_is_nobody_and_serves(tmp_path: Path) -> None:
    two_way = free_low_port()
    one_way = free_low_port(two_way)
    data = Path("/tmp") / f"ippm-serve-user-{os.getpid()}"
    command = [sys.executable, "-m", "ippm", "serve", "--listen", f"127.0.0.1:{two_way}"]
    command += ["--owamp-port", str(one_way), "-P", "29400-29499", "--user", "nobody", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(3)]
        assert lines[2].startswith(f"running as user nobody ({WHO.uid}), group ")
        status = Path(f"/proc/{server.pid}/status").read_text()
        rows = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert rows["Uid"].split() == [str(WHO.uid)] * 4
        assert rows["Gid"].split() == [str(WHO.gid)] * 4
        assert "0" not in rows["Groups"].split()
        assert int(rows["CapEff"], 16) == 0
        assert data.stat().st_uid == WHO.uid
        for client, port in (("twping", two_way), ("owping", one_way)):
            ping = [
                sys.executable,
                "-m",
                "ippm",
                client,
                "-c",
                "3",
                "-i",
                "0.001f",
                "-L",
                "0.3",
                f"127.0.0.1:{port}",
            ]
            done = subprocess.run(ping, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            assert "0 lost" in done.stdout
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=60)
        assert (server.returncode, said) == (0, "")
    data.rmdir()


class FakeOs:
    """The IDs of a process, as os has them; `refuse` is a call that fails, `deaf` makes setresuid do nothing."""

    def __init__(self, uid: int = 0, refuse: str = "", *, deaf: bool = False, returns: bool = False) -> None:
        self.uid, self.gid = [uid] * 3, [uid] * 3
        self.refuse, self.deaf, self.returns = refuse, deaf, returns
        self.calls: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeOs:
        for name in ("initgroups", "setresgid", "setresuid", "setuid"):
            monkeypatch.setattr(privileges.os, name, getattr(self, name))
        monkeypatch.setattr(privileges.os, "geteuid", lambda: self.uid[1])
        monkeypatch.setattr(privileges.os, "getegid", lambda: self.gid[1])
        monkeypatch.setattr(privileges.os, "getresuid", lambda: tuple(self.uid))
        monkeypatch.setattr(privileges.os, "getresgid", lambda: tuple(self.gid))
        return self

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.refuse == name:
            raise PermissionError(1, "Operation not permitted")

    def initgroups(self, name: str, gid: int) -> None:
        self._call("initgroups")

    def setresgid(self, *ids: int) -> None:
        self._call("setresgid")
        self.gid = list(ids)

    def setresuid(self, *ids: int) -> None:
        self._call("setresuid")
        if not self.deaf:
            self.uid = list(ids)

    def setuid(self, uid: int) -> None:
        if not self.returns:
            raise PermissionError(1, "Operation not permitted")


def test_groups_go_first_and_the_user_last(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOs().install(monkeypatch)
    drop_privileges(WHO)
    assert fake.calls == ["initgroups", "setresgid", "setresuid"]
    assert (fake.uid, fake.gid) == ([WHO.uid] * 3, [WHO.gid] * 3)


@pytest.mark.parametrize("refuse", ["initgroups", "setresgid", "setresuid"])
def test_what_fails_ends_the_server(monkeypatch: pytest.MonkeyPatch, refuse: str) -> None:
    FakeOs(refuse=refuse).install(monkeypatch)
    with pytest.raises(IppmError, match=r"cannot become nobody: .*; the server does not go on as root"):
        drop_privileges(WHO)


@pytest.mark.parametrize("fault", [{"deaf": True}, {"returns": True}])
def test_who_is_still_root_does_not_go_on(monkeypatch: pytest.MonkeyPatch, fault: dict[str, bool]) -> None:
    FakeOs(**fault).install(monkeypatch)
    with pytest.raises(IppmError, match="still root"):
        drop_privileges(WHO)


def test_who_is_not_root_cannot_become_another(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeOs(uid=1234).install(monkeypatch)
    with pytest.raises(IppmError, match="only root can become another user"):
        drop_privileges(WHO)
    FakeOs(uid=WHO.uid).install(monkeypatch)
    drop_privileges(RunAs("nobody", WHO.uid, "its", WHO.uid))


def test_a_directory_that_the_user_cannot_write_in_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    FakeOs().install(monkeypatch)
    monkeypatch.setattr(privileges.os, "access", lambda path, mode: False)
    with pytest.raises(IppmError, match=f"{tmp_path}: nobody cannot write there"):
        drop_privileges(WHO, tmp_path)


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("nobody-here", "--user nobody-here: there is no user 'nobody-here'"),
        ("nobody:no-such", "--user nobody:no-such: there is no group 'no-such'"),
        ("root", "--user root: a user and a group without root's rights are wanted"),
        ("nobody:0", "--user nobody:0: a user and a group without root's rights are wanted"),
    ],
)
def test_a_wrong_user_is_one_line(user: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_user(user)
    done = CliRunner().invoke(cli, ["serve", "--listen", "127.0.0.1:0", "--user", user])
    assert done.exit_code == 2
    assert said in done.stderr


def test_test_ports_that_only_root_can_bind_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="nobody cannot bind ports below 1024; a range from 1024 up"):
        check_unprivileged_ports(WHO, "twamp.test_ports", (1000, 1100))
    check_unprivileged_ports(WHO, "twamp.test_ports", (1024, 1100))
