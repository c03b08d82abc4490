"""TWAMP and OWAMP sessions of a client behind a NAT of addresses and ports.

alice 10.0.0.2 --- NAT 203.0.113.5 --- server 203.0.113.2

RFC 5357 section 3.5: zero addresses are those of the Control connection.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ike_hosts import INSIDE, PUBLIC, SERVER, Site, site

from interop.lab.nat import Nat44
from interop.lab.netns import why_no_namespaces

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]
IPPM = [sys.executable, "-m", "ippm"]


@pytest.fixture(scope="module")
def behind_nat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("nat"), nat=Nat44(PUBLIC, INSIDE, seed=7)) as found:
        yield found


@contextmanager
def serving(behind_nat: Site, *arguments: str) -> Iterator[None]:
    command = [*IPPM, "serve", *arguments]
    server = behind_nat.lab.popen("server", command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert " on " in server.stdout.readline()
        assert " on " in server.stdout.readline()
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)


def client(behind_nat: Site, *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [*IPPM, *arguments, "-i", "0.01f", "-L", "3", "--json", SERVER]
    done = behind_nat.lab.run("alice", command, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_twping_with_both_ends_told(behind_nat: Site) -> None:
    with serving(behind_nat, "--nat"):
        status, document = client(behind_nat, "twping", "--nat", "-c", "10")
        assert status == 0
        result = document["result"]
        assert (result["sent"], result["lost"], result["rejected"]) == (10, 0, {})
        # Without being told the client names an address that the server does not see.
        status, document = client(behind_nat, "twping", "-c", "1")
        assert (status, document["accept"]) == (1, 3)


def test_a_server_that_is_not_told_answers_nobody_there(behind_nat: Site) -> None:
    with serving(behind_nat):
        status, document = client(behind_nat, "twping", "--nat", "-c", "3")
        assert (status, document["result"]["sent"], document["result"]["lost"]) == (0, 3, 3)


def test_owping_to_a_server_that_takes_any_receiver(behind_nat: Site, tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("[twamp]\n[owamp]\nany_receiver = true\n")
    with serving(behind_nat, "-c", str(file)):
        status, document = client(behind_nat, "owping", "-t", "-c", "5")
        assert status == 0
        (result,) = document["results"]
        assert (result["sent"], result["lost"]) == (5, 0)
