"""`ippm-ipsec demo`: two hosts, an IKE SA, a Child SA, three measurements and a refusal, and a folder that proves it.

With root, or where unprivileged namespaces really allow it, A and B are two processes in two network namespaces
joined by veth. Otherwise both hosts live in this process over the memory backend, and the demo says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from binding.init import host_toml, write_psk
from ikev2.embedding import ConfigurationError, IkeError, TwoHosts, probe_namespaces, probe_unshare

UNSHARED = "IPPM_IPSEC_UNSHARED"
"""Set in the environment of the copy of this process that runs inside `unshare`."""

MARK = "demo.json"
HOST_TIMEOUT_S = 60.0

SERVERS_OF_B = """
[[measurement.servers]]
port = 8620
derivation = "keymat-sid"
"""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asked for."""

    report: Path = Path("demo-report")
    backend: str = "auto"
    mode: str = "tunnel"
    count: int = 100
    as_json: bool = False


@dataclass(slots=True)
class DemoResult:
    """All that the summary and the JSON are made from."""

    backend: str = ""
    reason: str = ""
    place: str = ""
    ike_sa: dict[str, Any] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    records_a: list[dict[str, Any] | None] = field(default_factory=list)
    records_b: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Three runs without a lost key or an empty result, the refusal as RFC 7717 wants it, no failure."""
        return (
            not self.failures
            and len(self.runs) == 3
            and all(run["result"]["sent"] > run["result"]["lost"] for run in self.runs)
            and all(run["keys_equal"] is not False for run in self.runs)
            and [entry["accept"] for entry in self.refusals] == [6]
        )

    def take(self, document: dict[str, Any]) -> None:
        """One line of host A."""
        match document["event"]:
            case "ready":
                self.backend, self.reason = document["backend"], document["reason"]
            case "sa":
                self.ike_sa = document["ike_sa"]
            case "run":
                self.runs.append(document["run"])
                self.records_a.append(document["record"])
            case "refusal":
                self.refusals.append(document["refusal"])
            case "failed":
                self.failures.append(f"host A: {document['reason']}")

    def compare_keys(self) -> None:
        """Set `keys_equal` of each keyed run: B derived the same keys, by their fingerprints."""
        for run, record in zip(self.runs, self.records_a, strict=True):
            if record is not None:
                mine = (record["derivation"], record["spi_i"], record["spi_r"], record["fingerprints"])
                run["keys_equal"] = any(
                    mine == (other["derivation"], other["spi_i"], other["spi_r"], other["fingerprints"])
                    for other in self.records_b
                )

    def to_dict(self) -> dict[str, Any]:
        """The document of `ippm-ipsec demo --json` (docs/cli.md)."""
        return {
            "ok": self.ok,
            "backend": self.backend,
            "reason": self.reason,
            "place": self.place,
            "ike_sa": self.ike_sa,
            "runs": self.runs,
            "refusals": self.refusals,
            "key_chain": [record for record in self.records_a if record is not None],
            "failures": self.failures,
        }


def say(text: str) -> None:
    """Progress and explanations go to stderr; stdout is for the summary or the JSON."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def run_demo(options: DemoOptions) -> int:
    """The whole demo; 0 when all of it showed what it should, 1 when not."""
    prepare_report(options.report)
    namespaces = probe_namespaces() if options.backend != "memory" else None
    if namespaces is None:
        result = _memory(options, "the memory backend was asked for")
    elif namespaces.ok:
        result = _two_namespaces(options)
    else:
        unprivileged = namespaces if UNSHARED in os.environ else probe_unshare()
        if unprivileged.ok:
            say(f"demo: {namespaces.reason}; going on inside an unprivileged user namespace")
            _enter_user_namespace(options)
        result = _memory(options, f"{namespaces.reason}; {unprivileged.reason}")
    result.compare_keys()
    document = result.to_dict()
    (options.report / MARK).write_text(json.dumps(document, indent=2) + "\n")
    if options.as_json:
        print(json.dumps(document, indent=2))  # noqa: T201
    else:
        from binding.demo_summary import print_summary

        print_summary(result, options.report)
    return 0 if result.ok else 1


def prepare_report(report: Path) -> None:
    """An empty report folder; an earlier demo's is emptied. Raises ConfigurationError for any other."""
    if report.exists() and any(report.iterdir()) and not (report / MARK).exists():
        raise ConfigurationError(
            f"--report: {report} is not empty and is not an earlier demo's; give another folder"
        )
    for name in ("a", "b"):
        shutil.rmtree(report / name, ignore_errors=True)
        (report / name).mkdir(parents=True, mode=0o700)
    (report / MARK).write_text("{}\n")


def _enter_user_namespace(options: DemoOptions) -> NoReturn:
    arguments = [
        "--report", str(options.report), "--backend", options.backend, "--mode", options.mode,
        "--count", str(options.count), *(["--json"] if options.as_json else []),
    ]  # fmt: skip
    os.environ[UNSHARED] = "1"
    command = ["unshare", "-Urnm", sys.executable, "-m", "binding", "demo", *arguments]
    os.execvp(command[0], command)  # noqa: S606


def _memory(options: DemoOptions, why: str) -> DemoResult:
    if options.backend in ("xfrm", "userspace"):
        raise IkeError(f"the {options.backend} backend needs network namespaces, and {why}")
    from binding.demo_memory import run_in_memory

    say(f"demo: both hosts in this process over the memory backend, because {why}")
    result = DemoResult(place=f"one process: {why}")
    run_in_memory(options, result, _progress)
    result.backend, result.reason = "memory", why
    return result


def _progress(document: dict[str, Any]) -> None:
    match document["event"]:
        case "step":
            say(f"demo: {document['text']}")
        case "ready":
            say(f"demo: backend {document['reason']}")
        case "failed":
            say(f"demo: {document['reason']}")


@contextmanager
def configuration(
    local: str, remote: str, mode: str, *, servers: str = SERVERS_OF_B, extra: str = ""
) -> Iterator[Path]:
    """A temporary folder with a.toml, b.toml and a PSK made for this run; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="ippm-ipsec-") as name:
        directory = Path(name)
        psk = directory / "demo.psk"
        write_psk(psk)
        both = 'path = "both"'
        text = host_toml("a.example", "b.example", local, remote, psk, mode=mode).replace('path = "bypass"', both)
        (directory / "a.toml").write_text(text.replace("[connections.lab]", f"[connections.lab]{extra}"))
        text = host_toml("b.example", "a.example", remote, local, psk, mode=mode).replace('path = "bypass"', both)
        (directory / "b.toml").write_text(text.replace("[connections.lab]", f"[connections.lab]{extra}") + servers)
        yield directory


def _two_namespaces(options: DemoOptions) -> DemoResult:
    result = DemoResult(place="two processes in two network namespaces joined by veth")
    say(f"demo: {result.place}")
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(TwoHosts())
        directory = stack.enter_context(configuration(hosts.address_a, hosts.address_b, options.mode))
        b = stack.enter_context(_host(hosts, "b", options, directory))
        if _await_ready(b, result):
            with _host(hosts, "a", options, directory) as a:
                _follow_a(a, result)
            _finish_b(b, result)
    return result


def _follow_a(a: subprocess.Popen[str], result: DemoResult) -> None:
    """Take host A's lines until it ends."""
    for document in _lines(a):
        _progress(document)
        result.take(document)
    if a.wait(HOST_TIMEOUT_S) != 0 and not result.failures:
        result.failures.append(f"host A ended with status {a.returncode}")


def _finish_b(b: subprocess.Popen[str], result: DemoResult) -> None:
    """Close host B's standard input, and take what it derived."""
    if b.stdin is not None:
        b.stdin.close()
    for document in _lines(b):
        if document["event"] == "records":
            result.records_b = document["records"]
    if b.wait(HOST_TIMEOUT_S) != 0:
        result.failures.append(f"host B ended with status {b.returncode}")


def _await_ready(b: subprocess.Popen[str], result: DemoResult) -> bool:
    for document in _lines(b):
        if document["event"] == "ready":
            return True
        if document["event"] == "failed":
            result.failures.append(f"host B: {document['reason']}")
    if not result.failures:
        result.failures.append("host B ended before it was ready")
    say(f"demo: {result.failures[-1]}")
    return False


@contextmanager
def _host(hosts: TwoHosts, role: str, options: DemoOptions, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A host's process in its namespace; it ends with the block, whatever happens."""
    report = options.report / role
    command = [
        sys.executable, "-m", "binding", "demo-host", role, "--config", str(directory / f"{role}.toml"),
        "--backend", options.backend, "--directory", str(report), "--address", hosts.address_b,
        "--count", str(options.count), "--interface", hosts.interface(role),
    ]  # fmt: skip
    with (report / "log.txt").open("w") as log:
        process: subprocess.Popen[str] = hosts.popen(
            role, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a host, as they come."""
    if process.stdout is None:
        return
    for line in process.stdout:
        try:
            document = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(document, dict) and "event" in document:
            yield document
