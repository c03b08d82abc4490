"""Two hosts in two network namespaces joined by a veth pair, each a process of its own.

Nothing is seen in the namespace of the test: the hosts make their namespaces with unshare(1), and everything in
them ends with the processes.
"""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("userspace_host.py")
ANSWER_TIMEOUT_S = 60.0

A, B = "192.0.2.1", "192.0.2.2"
A6, B6 = "2001:db8::1", "2001:db8::2"


class HostError(AssertionError):
    """The host could not do what it was told."""


class RemoteHost:
    """A host process; any method name is a command of `userspace_host.Host`."""

    def __init__(self, *prefix: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.begin(name, **arguments)
            return self.end()

        return call

    def begin(self, name: str, /, **arguments: Any) -> None:
        """Give a command without waiting for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": name} | arguments) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """The result of the command begun."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise HostError("the host did not answer")
        answer = json.loads(line)
        if "error" in answer:
            raise HostError(answer["error"])
        return answer["result"]

    def kill(self) -> None:
        """End the process without its consent, as a crash does."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> int:
        """Let the process end; its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._process.stdout.close()
        return code


def why_not(*, user_namespace: bool = False) -> str:
    """Why namespaces cannot be made here; "" when they can."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    flags = "-Urn" if user_namespace else "-n"
    command = "ip tuntap add dev probe mode tun && ip link add v0 type veth peer name v1"
    done = subprocess.run(["unshare", flags, "sh", "-c", command], capture_output=True, text=True)
    if done.returncode:
        return f"unshare {flags}: {done.stderr.strip() or done.returncode}"
    return ""


@contextmanager
def two_hosts(*, user_namespace: bool = False, mtu: int = 1500) -> Iterator[tuple[RemoteHost, RemoteHost]]:
    """Hosts a (192.0.2.1, 2001:db8::1) and b (..2) on one link, `v0` on both; in one user namespace if wished."""
    a = RemoteHost("unshare", *(["-Urn"] if user_namespace else ["-n"]))
    b = None
    try:
        a.run(command="ip link set lo up")
        enter = ["nsenter", "--preserve-credentials", "-U", "-t", str(a.pid)] if user_namespace else []
        b = RemoteHost(*enter, "unshare", "-n")
        b.run(command="ip link set lo up")
        a.run(command=f"ip link add v0 mtu {mtu} type veth peer name v0 mtu {mtu} netns {b.pid}")
        for host, address, address6 in ((a, A, A6), (b, B, B6)):
            host.run(command=f"ip addr add {address}/24 dev v0")
            host.run(command="ip link set v0 up")
            host.run(command=f"ip addr add {address6}/64 dev v0 nodad")
        yield a, b
    finally:
        for host in (a, b):
            if host is not None:
                host.kill()
