"""`ippm decode` of captures of real runs between two hosts: `ippm serve`, `twping` and `owping`, in every mode."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ikev2.io.netns import TwoHosts
from ikev2.io.pcap import InterfaceCapture, PcapWriter
from interop.lab.netns import why_no_namespaces

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]
IPPM = [sys.executable, "-m", "ippm"]
FEATURES = ["session-control", "reflect-octets", "symmetrical-size", "dscp-ecn", "ptp-timestamps"]
COUNT = 4


@contextmanager
def captured(hosts: TwoHosts, path: Path) -> Iterator[None]:
    """What passes the interface of host b."""
    with PcapWriter(path) as writer:
        capture = hosts.call("b", lambda: InterfaceCapture(writer, hosts.interface("b")))
        capture.start()
        try:
            yield
        finally:
            capture.stop()


@contextmanager
def serving(hosts: TwoHosts, key_file: Path, *more: str) -> Iterator[None]:
    """OWAMP and TWAMP on their own ports of host b."""
    command = [*IPPM, "serve", "-k", str(key_file), *more]
    server = hosts.popen("b", command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert [server.stdout.readline().split(" on ")[0] for _ in range(2)] == ["OWAMP server", "TWAMP server"]
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert "Traceback" not in log


def client(hosts: TwoHosts, *arguments: str) -> dict[str, Any]:
    done = hosts.run("a", [*IPPM, *arguments, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def decode(path: Path, *more: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*IPPM, "decode", str(path), *more, "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["messages"]  # type: ignore[no-any-return]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.pfs"
    path.write_text("alice 636f7272656374\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("features", [[], FEATURES], ids=["plain", "features"])
def test_twping_in_every_mode(features: list[str], key_file: Path, tmp_path: Path) -> None:
    """The server's key log; both ends' logs have the same lines."""
    wanted = [word for name in features for word in ("--feature", name)]
    wanted += ["--reflect", "6"] if features else []
    with TwoHosts() as hosts:
        with captured(hosts, tmp_path / "c.pcapng"), serving(hosts, key_file, "--keylog", str(tmp_path / "b")):
            runs = {
                mode: client(
                    hosts, "twping", "-c", str(COUNT), "-i", "0.01f", "-L", "0.2", "-A", mode, "-D", "10",
                    "-k", str(key_file), "-u", "alice", "--keylog", str(tmp_path / "a"), *wanted, hosts.address_b,
                )
                for mode in "OAEM"
            }  # fmt: skip
        logs = [(tmp_path / side / "o_twamp_keys").read_text().splitlines()[1:] for side in "ab"]
    assert sorted(logs[0]) == sorted(logs[1])
    assert [line.split()[0] for line in logs[1]] == ["control", "test", "control", "test", "control"]
    found = decode(tmp_path / "c.pcapng", "--keys", str(tmp_path / "b"))
    assert [one["problems"] for one in found if one["problems"]] == []
    assert {one["protocol"] for one in found} == {"twamp"}
    names = Counter(one["name"] for one in found)
    stop = "Stop-N-Sessions" if features else "Stop-Sessions"
    assert names["Server Greeting"] == names["Accept-Session"] == names[stop] == 4
    assert names["Session-Sender packet"] == names["Session-Reflector packet"] == 4 * COUNT
    hmacs = Counter(one["hmac"] for one in found if one["channel"] == "test")
    assert hmacs == {"verified": 4 * COUNT, None: 4 * COUNT}  # mixed mode has open test packets
    for mode, run in runs.items():
        assert run["result"]["received"] == COUNT, mode
        sid = run["result"]["sid"]
        mine = [one for one in found if one["fields"].get("sid") == sid and one["channel"] == "test"]
        assert [one["fields"]["sequence_number"] for one in mine if "receive_timestamp" not in one["fields"]] == [
            *range(COUNT)
        ]
        assert {one["fields"]["dscp_ecn"] >> 2 for one in mine} == {10}
        estimates = {one["fields"]["error_estimate"]["format"] for one in mine}
        assert estimates == {"ptp" if features else "ntp"}


@pytest.mark.parametrize("mode", ["O", "A", "E"])
def test_owping_and_its_fetch(mode: str, key_file: Path, tmp_path: Path) -> None:
    """The records on the wire are those in the file that the client saved; the client's key log."""
    with TwoHosts() as hosts:
        keys = ["-A", mode, "-k", str(key_file), "-u", "alice", "--keylog", str(tmp_path / "a")]
        with captured(hosts, tmp_path / "c.pcapng"), serving(hosts, key_file):
            (tmp_path / "saved").mkdir()
            run = client(
                hosts, "owping", "-c", str(COUNT), "-i", "0.01e,0.02f", "-L", "0.2", "-d", str(tmp_path / "saved"),
                *keys, hosts.address_b,
            )  # fmt: skip
    found = decode(tmp_path / "c.pcapng", "--keys", str(tmp_path / "a"))
    assert [one["problems"] for one in found if one["problems"]] == []
    assert {one["protocol"] for one in found} == {"owamp"}
    names = Counter(one["name"] for one in found)
    assert names["Request-Session"] == names["Accept-Session"] == names["Stop-Sessions"] == 2
    assert names["Session-Sender packet"] == 2 * COUNT
    assert {one["hmac"] for one in found if one["channel"] == "test"} == {None if mode == "O" else "verified"}
    (records,) = [one["fields"]["records"] for one in found if one["name"] == "packet records"]
    to, back = run["results"]
    assert (to["direction"], back["direction"]) == ("to", "from")
    stats = subprocess.run(
        [*IPPM, "stats", "-R", str(tmp_path / "saved" / f"{to['sid']}.owp")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line.split() for line in stats.stdout.splitlines()]
    assert [int(line[0]) for line in lines] == [row["sequence_number"] for row in records]
    stamps = [re.findall(r"\d{15,}", " ".join(line)) for line in lines]
    assert [[int(stamp) for stamp in pair[:2]] for pair in stamps] == [
        [int(row["send_timestamp"], 16), int(row["receive_timestamp"], 16)] for row in records
    ]


def test_without_keys_the_set_up_is_read_and_nothing_else(key_file: Path, tmp_path: Path) -> None:
    with TwoHosts() as hosts, captured(hosts, tmp_path / "c.pcapng"), serving(hosts, key_file):
        client(
            hosts,
            "twping",
            "-c",
            "2",
            "-i",
            "0.01f",
            "-A",
            "E",
            "-k",
            str(key_file),
            "-u",
            "alice",
            hosts.address_b,
        )
    found = decode(tmp_path / "c.pcapng")
    assert {one["decrypted"] for one in found[2:]} == {False}
    assert {one["name"] for one in found[3:]} == {"encrypted octets"}
