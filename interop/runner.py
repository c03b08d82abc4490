"""Runs the scenarios against strongSwan and writes what happened: report.md, report.json, a capture for each case.

    python -m interop.runner --list
    python -m interop.runner --report interop-report 'psk-tunnel/*'

`interop/scenarios/cases.py` says what a scenario is. Host a is ours, host b is strongSwan. Both have 192.0.2.x,
2001:db8::x and the inner addresses 10.x.0.1 and 2001:db8:x::1; one charon serves all cases.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ikev2.errors import IkeError
from ikev2.io.netns import End, Namespace, TwoHosts, join
from interop.lab.nat import Nat44, Router
from interop.lab.netns import interrupted_by_signals, why_no_namespaces
from interop.peers.ours import Capture, Ours
from interop.peers.strongswan import PeerError, StrongSwan, why_not
from interop.scenarios.cases import (
    BY_NAT,
    CONNECTION,
    Case,
    expectation,
    load_cases,
    our_document,
    peer_connections,
)
from interop.scenarios.run import Mismatch, Run

OUR_ADDRESSES = ("192.0.2.1/24", "2001:db8::1/64", "10.1.0.1/24", "2001:db8:1::1/64")
PEER_ADDRESSES = ("192.0.2.2/24", "2001:db8::2/64", "10.2.0.1/24", "2001:db8:2::1/64")
OUR_SUBNET, PEER_SUBNET = ip_network("198.51.100.0/24"), ip_network("203.0.113.0/24")
NAT_CABLE = "veth-nat"
NAT_SEED = 7
CHARON: dict[str, Any] = {
    # With one half-open IKE SA it asks for cookies: the scenario "cookie" makes one.
    "cookie_threshold": 1,
    "retransmit_timeout": 0.5,
    "retransmit_base": 1.4,
    "retransmit_tries": 4,
}


def why_not_here() -> str | None:
    """Why no scenario can run on this machine; None when they can."""
    return why_not() or why_no_namespaces()


@dataclass(slots=True)
class Result:
    """What became of a case. `failure` is None when all was as expected."""

    case: Case
    failure: str | None
    checks: list[str]
    figures: dict[str, Any]
    elapsed_s: float
    directory: Path

    def to_dict(self) -> dict[str, Any]:
        """The entry of report.json."""
        return {
            "name": self.case.name,
            "summary": self.case.summary,
            "requirements": list(self.case.requirements),
            "ok": self.failure is None,
            "failure": self.failure,
            "checks": self.checks,
            "figures": self.figures,
            "elapsed_ms": round(1000 * self.elapsed_s),
            "capture": str(Path(*self.case.name.split("/")) / "host.pcapng"),
        }


class StrongSwanLab:
    """Two hosts, and strongSwan on host b: a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._between: Namespace | None = None

    def __enter__(self) -> Self:
        with self._stack:
            self.hosts = self._stack.enter_context(TwoHosts(OUR_ADDRESSES, PEER_ADDRESSES))
            self.peer = self._stack.enter_context(StrongSwan(self.hosts.host("b"), self._directory, CHARON))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, case: Case, directory: Path) -> Result:
        """One case; its files are in `directory`: capture, key log, both logs. Failures are in the result."""
        if (directory / "ours.toml").exists():
            shutil.rmtree(directory)  # an earlier run's
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        psk = f"0x{secrets.token_hex(32)}"
        other = f"0x{secrets.token_hex(32)}" if case.settings.get("peer", {}).get("other_psk") else psk
        start = self.peer.log_position()
        self.peer.change_settings(CHARON | case.part("peer", "charon"))
        connections = peer_connections(case)
        # Without identities it is anybody's: where the peer's is a pattern, and in "refused".
        ids = {f"id-{end}": connections[CONNECTION][end]["id"] for end in ("local", "remote")}
        named = {} if any("*" in one for one in ids.values()) else ids
        self.peer.load(connections, {"ike-lab": named | {"secret": other}}, case.part("peer", "pools"))
        interface = NAT_CABLE if case.nat else self.hosts.interface("a")
        capture = Capture(interface, directory / "host.pcapng")
        impairments = case.settings.get("ours", {}).get("impair", ())
        ours = Ours(
            self.hosts.host("a"), directory, our_document(case), psk, impairments=impairments, capture=capture
        )
        started, failure = time.monotonic(), None
        run = Run(case, self.hosts, ours, self.peer, start)
        try:
            with self._router(case) as run.router, ours:
                expectation(case.scenario)(run)
            run.look_at_capture(capture.path)
        except (Mismatch, PeerError, IkeError, OSError) as error:
            failure = f"{type(error).__name__}: {error}"
        finally:
            elapsed_s = time.monotonic() - started
            self._clean()
            (directory / "strongswan.log").write_text(self.peer.story(start))
        return Result(case, failure, run.checks, run.figures, elapsed_s, directory)

    @contextlib.contextmanager
    def _router(self, case: Case) -> Iterator[Router | None]:
        """The NAT that the case asks for, between a second pair of addresses."""
        if not case.nat:
            yield None
            return
        if self._between is None:
            self._between = self._stack.enter_context(Namespace("nat"))
            for host, subnet in (("a", OUR_SUBNET), ("b", PEER_SUBNET)):
                one = str(subnet[1 if host == "a" else 2])
                end = End(self.hosts.host(host), NAT_CABLE, (f"{one}/{subnet.prefixlen}",))
                join(end, End(self._between, f"to-{host}", (f"{subnet[254]}/{subnet.prefixlen}",)))
                far = PEER_SUBNET if host == "a" else OUR_SUBNET
                self.hosts.run(host, ["ip", "route", "add", str(far), "via", str(subnet[254])], check=True)
        inside = (str(OUR_SUBNET if case.nat == "ours" else PEER_SUBNET),)
        nat = Nat44(BY_NAT[case.nat]["seen"], inside, seed=NAT_SEED)
        with Router(self._between, inside, nat=nat) as router:
            yield router

    def _clean(self) -> None:
        """No SA of one case is there in the next."""
        for sa in self.peer.list_sas():
            with contextlib.suppress(PeerError):
                self.peer.terminate_id(sa.unique_id)
        self.peer.wait_sas(lambda sas: not sas)


def write_report(results: Sequence[Result], directory: Path) -> None:
    """report.md for people, report.json for programs."""
    failed = sum(result.failure is not None for result in results)
    document = {"peer": "strongSwan", "failed": failed, "cases": [result.to_dict() for result in results]}
    (directory / "report.json").write_text(json.dumps(document, indent=2) + "\n")
    lines = [
        "# Interworking with strongSwan\n",
        f"{len(results)} cases, {failed} failed. Host a (192.0.2.1) is ours, host b (192.0.2.2) strongSwan.\n",
        "| case | result | checks | s |",
        "| --- | --- | ---: | ---: |",
    ]
    for result in results:
        word = "ok" if result.failure is None else "**failed**"
        lines.append(f"| {result.case.name} | {word} | {len(result.checks)} | {result.elapsed_s:.1f} |")
    for result in results:
        lines += [f"\n## {result.case.name}\n", f"{result.case.summary}\n"]
        if result.failure is not None:
            lines.append(f"**Failed.** {result.failure}\n")
        lines += [f"- {check}" for check in result.checks]
    (directory / "report.md").write_text("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 all as expected, 1 a case failed or none can run here, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m interop.runner", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names of cases, as 'psk-tunnel/*'")
    parser.add_argument("--list", action="store_true", help="the cases, and nothing else")
    parser.add_argument("--report", type=Path, default=Path("interop-report"), metavar="DIR")
    options = parser.parse_args(arguments)
    cases = load_cases(options.patterns)
    if not cases:
        parser.error("no case has such a name; --list shows them")
    if options.list:
        for case in cases:
            print(f"{case.name:<50} {case.summary}")
        return 0
    if (reason := why_not_here()) is not None:
        print(f"nothing can run here: {reason}", file=sys.stderr)
        return 1
    options.report.mkdir(parents=True, exist_ok=True)
    results = []
    with (
        interrupted_by_signals(),
        tempfile.TemporaryDirectory() as temporary,
        StrongSwanLab(Path(temporary)) as lab,
    ):
        for case in cases:
            result = lab.run(case, options.report.joinpath(*case.name.split("/")))
            results.append(result)
            print(
                f"{'ok    ' if result.failure is None else 'FAILED'} {case.name} {result.failure or ''}", flush=True
            )
    write_report(results, options.report)
    print(f"{len(results)} cases; see {options.report / 'report.md'}")
    return 1 if any(result.failure is not None for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
