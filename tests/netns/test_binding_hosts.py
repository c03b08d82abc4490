"""`ippm-ipsec host` on A and B in namespaces of their own, and other commands on A that find A's host.

ippm-ipsec twping      in A: list, up  -> control socket of A's host
(a third process)            keys      -> key agent of A's host
                             TWAMP     -> server of B's host
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ikev2.embedding import TwoHosts, probe_namespaces

_PROBE = probe_namespaces()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(not _PROBE.ok, reason=_PROBE.reason)]
ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-m")


@dataclass
class Lab:
    """Two namespaces with a folder each; the hosts' processes run as long as the fixture."""

    hosts: TwoHosts
    directory: Path

    def run(self, role: str, *arguments: str, package: str = "binding") -> subprocess.CompletedProcess[str]:
        """One command on a host, to its end."""
        done: subprocess.CompletedProcess[str] = self.hosts.run(
            role, [*PYTHON, package, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr
        return done

    def twping(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """`ippm-ipsec twping` from A to B."""
        return self.ping("twping", *arguments, status=status)

    def ping(self, command: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """`ippm-ipsec owping` or `twping` from A to B."""
        done = self.run("a", command, "-c", str(self.config("a")), self.hosts.address_b, "-i", "0.005", *arguments)
        assert done.returncode == status, (done.stdout, done.stderr, self.log("a"), self.log("b"))
        return done

    def config(self, role: str) -> Path:
        return self.directory / role / f"{role}.toml"

    def log(self, role: str) -> str:
        return (self.directory / role / "log").read_text()

    def ikev2(self, role: str, command: str, *arguments: str) -> str:
        """`ikev2 COMMAND` to a host's control socket; its standard output."""
        socket = str(self.directory / role / "control")
        done = self.run(role, command, "--socket", socket, *arguments, package="ikev2")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def listed(self, role: str) -> list[dict[str, Any]]:
        sas: list[dict[str, Any]] = json.loads(self.ikev2(role, "list", "--json"))["ike_sas"]
        return sas


@contextmanager
def host(hosts: TwoHosts, directory: Path, role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ippm-ipsec host`, running and ready."""
    with (directory / role / "log").open("w") as log:
        process: subprocess.Popen[str] = hosts.popen(
            role, [*PYTHON, "binding", "host", "-c", str(directory / role / f"{role}.toml"), *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        with process.stdout:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("ready"):
                    break
            assert lines, (directory / role / "log").read_text()
            assert lines[-1].startswith("ready"), ("".join(lines), (directory / role / "log").read_text())
            yield process
            process.terminate()
            assert process.wait(60) == 0, (directory / role / "log").read_text()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        # A socket's path is short: not the folder that pytest gives.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ippm-")))
        hosts = stack.enter_context(TwoHosts())
        command = [*PYTHON, "binding", "init", "--local", hosts.address_a, "--peer", hosts.address_b]
        subprocess.run([*command, "--directory", str(directory)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for role in ("a", "b"):
            (directory / role).mkdir()
            shutil.copy(directory / "lab.psk", directory / role)
            text = (directory / f"{role}.toml").read_text().replace('path = "bypass"', 'path = "both"')
            sockets = '\n[endpoint]\ncontrol_socket = "control"\nkey_agent_socket = "keys"\n'
            (directory / role / f"{role}.toml").write_text(text + sockets)
        with host(hosts, directory, "b"), host(hosts, directory, "a"):
            yield Lab(hosts, directory)
        assert [path.name for path in directory.glob("*/*") if path.is_socket()] == []


@pytest.mark.req("rfc7717-s5.1-m2")
def test_twping_in_another_process_takes_its_keys_from_the_key_agent(lab: Lab) -> None:
    document = json.loads(lab.twping("-n", "10", "--json").stdout)
    assert document["ok"] is True
    bypass, tunnel = document["runs"]
    (sa,) = lab.listed("a")  # no second endpoint made another one
    for run, path in ((bypass, "bypass"), (tunnel, "tunnel")):
        assert (run["path"], run["mode"], run["derivation"]) == (path, "encrypted", "rfc7717")
        assert (run["result"]["sent"], run["result"]["lost"]) == (10, 0)
        assert (run["ike"]["spi_i"], run["ike"]["spi_r"]) == (sa["spi_i"], sa["spi_r"])
    assert (bypass["child_sa"]["packets_out"], bypass["child_sa"]["packets_in"]) == (0, 0)
    assert tunnel["child_sa"]["packets_out"] >= 10
    assert tunnel["child_sa"]["packets_in"] >= 10
    assert "key agent: opened a rfc7717 handle" in lab.ikev2("a", "log")
    assert "set up in encrypted mode, IKEv2-derived keys, peer a.example" in lab.log("b")


@pytest.mark.parametrize("derivation", ["keymat-sid", "skd-sid"])
def test_derivations_that_the_ends_do_not_share_are_refused_in_one_line(lab: Lab, derivation: str) -> None:
    """keymat-sid names an ESP SPI that B looks at only under keymat-sid; the secrets differ in either case."""
    done = lab.twping("--derivation", derivation, "--path", "bypass", status=1)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "Accept 1" in line


@pytest.mark.req("rfc7717-s5.1-01")
def test_owping_goes_both_ways_outside_the_tunnel_and_through_it_with_keys_from_the_agent(lab: Lab) -> None:
    opened = "key agent: opened a rfc7717 handle"
    before = lab.ikev2("a", "log").count(opened)
    document = json.loads(lab.ping("owping", "-n", "10", "--json").stdout)
    runs = document["runs"]
    assert document["ok"]
    assert [(run["path"], run["result"]["direction"]) for run in runs] == [
        ("bypass", "to"), ("bypass", "from"), ("tunnel", "to"), ("tunnel", "from"),
    ]  # fmt: skip
    for run in runs:
        assert (run["protocol"], run["derivation"], run["mode"]) == ("owamp", "rfc7717", "encrypted")
        assert (run["result"]["sent"], run["result"]["lost"], run["result"]["finished"]) == (10, 0, 1)
        child = run["child_sa"]
        inside = run["path"] == "tunnel"
        assert (child["packets_out"] >= 10) == inside
        assert (child["packets_in"] >= 10) == inside
        assert inside or (child["packets_out"], child["packets_in"]) == (0, 0)
    assert lab.ikev2("a", "log").count(opened) >= before + 2


@pytest.mark.req("rfc7717-s5.4-01")
@pytest.mark.parametrize("letter", ["-f", "-t"])
def test_owping_in_open_mode_inside_the_tunnel_in_one_direction(lab: Lab, letter: str) -> None:
    done = lab.ping("owping", "-n", "10", "-A", "O", "--path", "tunnel", letter, "--json")
    assert "Child SA" not in done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["mode"], run["derivation"], run["result"]["lost"]) == ("open", None, 0)
    assert run["result"]["direction"] == ("from" if letter == "-f" else "to")
    assert run["child_sa"]["packets_in" if letter == "-f" else "packets_out"] >= 10


@pytest.mark.req("rfc7717-s5.4-01")
def test_open_mode_goes_through_the_tunnel(lab: Lab) -> None:
    (run,) = json.loads(lab.twping("-n", "10", "-A", "O", "--path", "tunnel", "--json").stdout)["runs"]
    assert (run["mode"], run["derivation"], run["result"]["lost"]) == ("open", None, 0)
    assert min(run["child_sa"]["packets_out"], run["child_sa"]["packets_in"]) >= 10


@pytest.mark.req("rfc7717-s5.1-m3")
def test_an_sa_is_brought_up_by_the_running_host_and_that_is_logged(lab: Lab) -> None:
    lab.ikev2("a", "down", "lab")
    assert lab.listed("a") == []
    done = lab.twping("-n", "3", "--path", "bypass", "--no-sa", "fail", status=1)
    assert done.stderr.splitlines() == [
        f'ippm-ipsec: there is no IKE SA with {lab.hosts.address_b} (no_sa = "fail")'
    ]
    done = lab.twping("-n", "3", "--path", "bypass", "--json")
    assert f"no IKE SA with {lab.hosts.address_b}: bringing up connection lab" in done.stderr
    (sa,) = lab.listed("a")
    assert json.loads(done.stdout)["runs"][0]["ike"]["spi_i"] == sa["spi_i"]


@pytest.mark.req("rfc7717-s5.1-m4")
def test_fallback_measures_in_open_mode_and_logs_an_error(lab: Lab) -> None:
    lab.twping("-n", "1", "--path", "bypass")
    lab.ikev2("a", "down", "lab")
    without = ("-n", "3", "--path", "bypass", "--no-sa", "fallback", "--no-require-ikev2", "--json")
    done = lab.twping(*without)
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["mode"], run["derivation"], run["ike"], run["result"]["lost"]) == ("open", None, None, 0)
    assert "ERROR ippm-ipsec: no IKE SA" in done.stderr
    assert lab.listed("a") == []  # it did not initiate
    refused = lab.twping("--path", "tunnel", "--no-sa", "fallback", "--no-require-ikev2", status=1)
    assert "no IKE SA" in refused.stderr
    lab.ikev2("a", "up", "lab")
    done = lab.twping(*without)
    assert (
        json.loads(done.stdout)["runs"][0]["mode"] == "encrypted"
    )  # with an SA there is nothing to fall back from


def test_the_caller_names_the_sa_by_its_spis_or_its_peer(lab: Lab) -> None:
    lab.twping("-n", "1", "--path", "bypass")
    (sa,) = lab.listed("a")
    for choice in (("--ike-sa", f"{sa['spi_i']}:{sa['spi_r']}"), ("--ike-peer", "B.example")):
        run = json.loads(lab.twping("-n", "2", "--path", "bypass", "--json", *choice).stdout)["runs"][0]
        assert run["ike"]["spi_i"] == sa["spi_i"]
    swapped = f"{sa['spi_r']}:{sa['spi_i']}"
    done = lab.twping("--path", "bypass", "--ike-sa", swapped, status=1)
    assert done.stderr.splitlines() == [f"ippm-ipsec: there is no established IKE SA {swapped}"]
    done = lab.twping("--path", "bypass", "--no-sa", "fail", "--ike-peer", "c.example", status=1)
    assert "c.example" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--label", "OTHER"), "--label"), (("--backend", "xfrm"), "--backend xfrm"), (("-A", "X"), "-A")],
)
def test_what_only_the_running_host_could_change_is_a_usage_error(
    lab: Lab, arguments: tuple[str, ...], words: str
) -> None:
    if "xfrm" in arguments and json.loads(lab.ikev2("a", "list", "--json"))["backend"] == "xfrm":
        pytest.skip("the hosts have the xfrm backend")
    done = lab.twping(*arguments, status=2)
    (line,) = done.stderr.splitlines()
    assert words in line


def test_a_threshold_that_is_exceeded_ends_with_3(lab: Lab) -> None:
    done = lab.twping("-n", "3", "--path", "bypass", "--max-delay", "0", status=3)
    assert "more than 0 ms" in done.stderr
    document = json.loads(lab.twping("-n", "3", "--path", "bypass", "--max-delay", "0", "--json", status=3).stdout)
    assert document["ok"] is False
    assert "more than 0 ms" in document["exceeded"]
    lab.twping("-n", "3", "--path", "bypass", "--max-loss", "0", "--max-delay", "10000")


@pytest.mark.parametrize("command", ["twping", "owping"])
def test_a_measurement_without_an_end_is_ended_by_a_signal(lab: Lab, command: str) -> None:
    words = ["binding", command, "-c", str(lab.config("a")), lab.hosts.address_b, "-i", "0.02f"]
    process = lab.hosts.popen(
        "a", [*PYTHON, *words, "--path", "bypass", "--continuous", "--period", "1", "-L", "0.5"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    *_, end, how = map(json.loads, rest.splitlines())
    one = "period" if command == "twping" else "one_way_period"
    assert (first["kind"], end["kind"], end["ok"]) == (one, one.replace("period", "end"), True)
    (sa,) = lab.listed("a")
    assert how["kind"] == "circumstances"
    assert (how["derivation"], how["ike"]["spi_i"]) == ("rfc7717", sa["spi_i"])


def test_packets_are_lost_on_purpose(lab: Lab) -> None:
    done = lab.twping("-n", "5", "--path", "bypass", "--impair", "drop:test:2", "--json", "-L", "3")
    (run,) = json.loads(done.stdout)["runs"]
    assert (run["result"]["sent"], run["result"]["lost"]) == (5, 1)
    assert "impaired on purpose: drop:test:2" in done.stderr


def test_the_key_log_of_a_command_at_the_agent_has_what_is_of_o_twamp_only(lab: Lab, tmp_path: Path) -> None:
    lab.twping("-n", "2", "--path", "bypass", "--keylog", str(tmp_path / "keys"))
    files = sorted((tmp_path / "keys").iterdir())
    assert [file.name for file in files] == ["o_twamp_keys", "o_twamp_secrets"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    _, control, session = files[0].read_text().splitlines()
    assert (control.split()[:3], session.split()[:3]) == (
        ["control", "twamp", "00000084"],
        ["test", "twamp", "00000084"],
    )
    (line,) = files[1].read_text().splitlines()
    assert line.startswith("control ")


def test_no_key_in_the_log_of_a_host(lab: Lab, tmp_path: Path) -> None:
    lab.twping("-n", "2", "--path", "bypass", "--keylog", str(tmp_path))
    secrets = [(tmp_path / "o_twamp_secrets").read_text().split()[-1]]
    for line in (tmp_path / "o_twamp_keys").read_text().splitlines()[1:]:
        secrets += line.split()[-2:]
    for role in ("a", "b"):
        log = lab.log(role) + lab.ikev2(role, "log")
        assert not [secret for secret in secrets if secret in log]


def test_a_reload_with_a_faulty_file_changes_nothing(lab: Lab) -> None:
    text = lab.config("a").read_text()
    try:
        lab.config("a").write_text(text.replace("aes256gcm16-prf", "aes255-prf"))
        done = lab.run("a", "reload", "--socket", str(lab.directory / "a" / "control"), package="ikev2")
        assert done.returncode != 0
        assert "aes255" in done.stderr
    finally:
        lab.config("a").write_text(text)
    lab.ikev2("a", "reload")
    lab.twping("-n", "2", "--path", "bypass")


def test_a_second_host_with_the_same_sockets_is_refused_in_one_line(lab: Lab) -> None:
    done = lab.run("a", "host", "-c", str(lab.config("a")))
    assert done.returncode in (1, 2)
    assert done.stderr.splitlines()[-1].startswith("ippm-ipsec: ")


def test_without_a_running_host_twping_is_one_itself(lab: Lab, tmp_path: Path) -> None:
    """A file whose sockets nobody serves: the command brings up an SA of its own, measures, and deletes it."""
    with TwoHosts() as hosts:
        own = Lab(hosts, tmp_path)
        for role in ("a", "b"):
            shutil.copytree(lab.directory / role, tmp_path / role, ignore=shutil.ignore_patterns("control", "keys"))
            impatient = "[connections.lab]\nretransmit_timeout = 0.3\nretransmit_tries = 4"
            text = lab.config(role).read_text().replace("[connections.lab]", impatient)
            sockets = lab.directory / f"{role}-alone"
            (tmp_path / role / f"{role}.toml").write_text(
                text.replace('"control"', f'"{sockets}-control"').replace('"keys"', f'"{sockets}-keys"')
            )
        with host(hosts, tmp_path, "b"):
            done = own.twping("-n", "5", "--json")
            assert "bringing up connection lab" in done.stderr
            runs = json.loads(done.stdout)["runs"]
            assert [(run["path"], run["result"]["lost"]) for run in runs] == [("bypass", 0), ("tunnel", 0)]
            socket = str(lab.directory / "b-alone-control")
            listed = own.run("b", "list", "--socket", socket, "--json", package="ikev2")
            assert json.loads(listed.stdout)["ike_sas"] == []  # deleted, and B was told

            mistaken = own.twping("-n", "1", "--ike-peer", "c.example", status=1)
            assert "c.example" in mistaken.stderr.splitlines()[-1]
        refused = own.twping("--json", status=1)  # nobody answers any more
        document = json.loads(refused.stdout)
        assert (document["ok"], document["runs"]) == (False, [])
        assert refused.stderr.splitlines()[-1] == f"ippm-ipsec: {document['error']}"
