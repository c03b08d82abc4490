"""Namespaces for real: made, joined, entered, and gone again however their process ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ikev2.io.netns import NamespaceError, TwoHosts, can_unshare, probe_namespaces, probe_unshare
from interop.lab.netns import NAMES, Lab, remove_stale_names, why_no_namespaces

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]
ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def command_of(pid: int) -> str:
    """Empty for a process that is gone or a zombie that nobody has collected yet."""
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def test_two_hosts_reach_each_other_and_only_each_other() -> None:
    with TwoHosts() as hosts:
        assert hosts.run("a", ["ping", "-c1", "-W2", hosts.address_b], stdout=subprocess.DEVNULL).returncode == 0
        links = hosts.run("b", ["ip", "-o", "link"], capture_output=True, text=True).stdout
        assert [line.split(":")[1].strip().split("@")[0] for line in links.splitlines()] == ["lo", "veth-b"]


def test_a_socket_made_inside_belongs_to_the_host() -> None:
    with TwoHosts() as hosts:

        def server() -> socket.socket:
            return socket.create_server((hosts.address_b, 862))

        with hosts.call("b", server) as listening:
            client = hosts.call("a", lambda: socket.create_connection((hosts.address_b, 862), 5))
            with client, listening.accept()[0] as accepted:
                assert accepted.getpeername()[0] == hosts.address_a


def test_this_process_stays_where_it_was() -> None:
    before = os.stat("/proc/self/ns/net").st_ino
    with TwoHosts() as hosts:
        inside = hosts.call("a", lambda: os.stat("/proc/thread-self/ns/net").st_ino)
        assert os.stat("/proc/self/ns/net").st_ino == before != inside


def test_processes_of_a_host_end_with_it() -> None:
    with TwoHosts() as hosts:
        process = hosts.popen("a", ["sleep", "100"])
        stubborn = hosts.popen("b", ["sh", "-c", "exec sleep 100"])
    assert process.returncode == stubborn.returncode == -signal.SIGTERM
    with pytest.raises(NamespaceError, match="no host"):
        hosts.run("a", ["true"])


def test_hosts_are_closed_when_the_block_fails() -> None:
    def interrupted() -> None:
        with TwoHosts() as hosts:
            processes.append(hosts.popen("a", ["sleep", "100"]))
            raise KeyboardInterrupt

    processes: list[subprocess.Popen[str]] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (process,) = processes
    assert process.returncode == -signal.SIGTERM


def test_a_killed_process_takes_its_hosts_processes_along() -> None:
    script = (
        "import sys; from ikev2.io.netns import TwoHosts\n"
        "hosts = TwoHosts(); hosts.open()\n"
        "print(hosts.popen('a', ['sleep', '1000'], stdout=2).pid, flush=True); sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    inner = int(owner.stdout.readline())
    wait_for(lambda: command_of(inner) == "sleep")  # setpriv has done its part
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    wait_for(lambda: command_of(inner) == "")


def test_probes_agree_with_what_was_just_done() -> None:
    assert probe_namespaces().ok
    unshare = probe_unshare()
    assert unshare.ok == can_unshare()
    assert unshare.reason


def test_a_router_forwards_between_two_links() -> None:
    with Lab() as lab:
        lab.link("moon", "192.0.2.1/25", "router", "192.0.2.126/25")
        lab.link("router", "192.0.2.254/25", "sun", "192.0.2.129/25")
        lab.forward("router")
        lab.route("moon", "default", "192.0.2.126")
        lab.route("sun", "default", "192.0.2.254")
        done = lab.run("moon", ["ping", "-c1", "-W2", "192.0.2.129"], stdout=subprocess.DEVNULL)
        assert done.returncode == 0


named = pytest.mark.skipif(not os.access("/run", os.W_OK), reason="/run is not writable: hosts can have no names")


@named
def test_names_are_there_while_the_lab_is() -> None:
    with Lab(named=True) as lab:
        lab.host("moon")
        name = NAMES / f"lab-{os.getpid()}-moon"
        assert name.stat().st_ino == lab.call("moon", lambda: os.stat("/proc/thread-self/ns/net").st_ino)
    assert not name.exists()


@named
def test_the_next_lab_removes_the_names_of_a_killed_one() -> None:
    script = (
        "import sys; from interop.lab.netns import Lab\n"
        "lab = Lab(named=True).__enter__(); lab.host('moon'); print('ready', flush=True); sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    left = NAMES / f"lab-{owner.pid}-moon"
    assert left.exists()
    assert left.name in remove_stale_names()
    assert not left.exists()
