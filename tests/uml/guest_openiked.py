"""Runs inside the guest: `ikev2 run` with the xfrm backend on host A, OpenIKED with PF_KEY on host B.

Each case has addresses, identities, a policy of iked's and a connection of ours of its own: one iked, one process of
ours. Prints one JSON object a line: {"case", "ok", "error", "seconds"}. Not a test module: `test_uml_openiked.py` boots
the guest once, runs this, and looks at the lines.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit/ikev2")]

import guest_strongswan as kernel  # noqa: E402

from ikev2.io.netns import TwoHosts  # noqa: E402
from ikev2.ipsec.xfrm.kernel import XfrmSocket  # noqa: E402
from interop.peers.openiked import OpenIked, Policy  # noqa: E402
from interop.peers.ours import Ours  # noqa: E402
from interop.peers.strongswan import wait_until  # noqa: E402

WAIT_S = 30.0
LIFETIME_S = 8
"""After which iked rekeys, where it is to do so; it takes 85 to 95 percent of that."""
IKE = itertools.cycle(
    (
        "aes256-sha256-curve25519",
        "aes128gcm16-prfsha256-ecp256",
        "aes128-sha1-modp2048",
        "aes256gcm16-prfsha384-ecp384",
        "aes192-sha384-ecp521",
        "aes256gcm12-prfsha512-ecp256bp",
        "aes256-sha512-ecp384bp",
        "aes128-sha256-ecp224bp",
        "aes128gcm12-prfsha1-ecp512bp",
    )
)
ESPS = {
    "aes128-sha1": r"auth-trunc hmac\(sha1\) .* 96\n\s+enc cbc\(aes\) ",
    "aes192-sha384": r"auth-trunc hmac\(sha384\) .* 192\n\s+enc cbc\(aes\) ",
    "aes256-sha512": r"auth-trunc hmac\(sha512\) .* 256\n\s+enc cbc\(aes\) ",
}
kernel.ALGORITHMS.update(ESPS)
FLOWS = 3
WE, CHILD, IKE_SA = "", "child", "ike"


@dataclass(frozen=True, slots=True)
class Case(kernel.Case):
    """`by_peer`: which SA iked rekeys, by a lifetime of some seconds; else we rekey both."""

    ike: str = ""
    by_peer: str = WE

    @property
    def name(self) -> str:
        rekeyed = (f"{self.by_peer}-rekeyed-by-peer",) if self.by_peer else ()
        return "-".join((self.mode, self.esp, f"ipv{self.family}", *rekeyed, self.role))

    @property
    def our_id(self) -> str:
        return f"a{self.number}.example"


def _cases() -> Iterator[Case]:
    """Where iked begins, it begins all at once: what it rekeys by itself comes first."""
    number = itertools.count(1)
    for role in ("initiator", "responder"):
        for by_peer in (CHILD, IKE_SA):
            yield Case(next(number), "openiked", "tunnel", "aes128-sha1", 4, False, role, next(IKE), by_peer)
        for mode, esp in itertools.product(("tunnel", "transport"), ESPS):
            yield Case(next(number), "openiked", mode, esp, 4, False, role, next(IKE))
        for mode in ("tunnel", "transport"):
            yield Case(next(number), "openiked", mode, "aes128-sha1", 6, False, role, next(IKE))


CASES = {case.name: case for case in _cases()}


def our_document(cases: Sequence[Case]) -> dict[str, Any]:
    """Our configuration for these cases."""
    connections = {
        case.connection: {
            "local_addrs": [case.here],
            "remote_addrs": [case.there],
            "proposals": [case.ike],
            "local": {"auth": "psk", "id": case.our_id},
            "remote": {"auth": "psk", "id": "b.example"},
            "retransmit_timeout": "500ms",
            "retransmit_base": 1.4,
            "retransmit_tries": 3,
            "children": {case.child: {"mode": case.mode, "esp_proposals": [case.esp]}},
        }
        for case in cases
    }
    return {"connections": connections, "endpoint": {"backend": "xfrm"}}


def policy(case: Case) -> Policy:
    """iked's policy for a case."""
    return Policy(
        case.connection,
        case.there,
        case.here,
        "b.example",
        case.our_id,
        case.mode,
        case.ike,
        case.esp,
        active=case.role == "responder",
        lifetime=str(LIFETIME_S) if case.by_peer == CHILD else "",
        ikelifetime=str(LIFETIME_S) if case.by_peer == IKE_SA else "",
    )


@dataclass(slots=True)
class Iked:
    """Host B of `guest_strongswan`'s laboratory: its counters are the kernel's."""

    iked: OpenIked

    def counters(self, case: Case) -> None:
        return None

    def log(self) -> str:
        return self.iked.log()[-6000:]


def spis(hosts: TwoHosts, host: str, case: Case) -> set[int]:
    """The SPIs of a host's SAs between the addresses of a case."""

    def dump() -> set[int]:
        with XfrmSocket() as netlink:
            return {
                sa.info.spi
                for sa in netlink.dump_sas()
                if case.here in (str(sa.info.source), str(sa.info.destination))
            }

    return hosts.call(host, dump)


def has_flows(hosts: TwoHosts, case: Case) -> bool:
    """Whether host B protects what it sends to A: iked loads its flows after its SAs, and after it has answered."""

    def dump() -> bool:
        with XfrmSocket() as netlink:
            selectors = [policy.info.selector for policy in netlink.dump_policies()]
        ends = [{str(end).partition("/")[0] for end in (one.source, one.destination)} for one in selectors]
        # In, out and forward.
        return sum(case.here in pair for pair in ends) >= FLOWS

    return hosts.call("b", dump)


def ike_sas(lab: kernel.Lab, case: Case) -> list[dict[str, Any]]:
    """Our IKE SAs of a case."""
    return [sa for sa in lab.ours.sas() if sa["name"] == case.connection]


def living_ike_sas(lab: kernel.Lab, case: Case) -> list[dict[str, Any]]:
    """Those without what we have rekeyed and are closing.

    OpenIKED 7.2 does not answer the Delete for an IKE SA that it began and we have rekeyed: it has given it up already.
    """
    dying = "DELETING" if case.role == "responder" and not case.by_peer else None
    return [sa for sa in ike_sas(lab, case) if sa["state"] != dying]


def one_pair(lab: kernel.Lab, case: Case) -> dict[str, Any] | None:
    """Our IKE SA, if there is no other, and it has one Child SA, whose pair is all that both kernels have."""
    sas = living_ike_sas(lab, case)
    if [sa["state"] for sa in sas] != ["ESTABLISHED"] or len(sas[0]["children"]) != 1:
        return None
    pair = {int(sas[0]["children"][0][f"spi_{way}"], 16) for way in kernel.WAYS}
    complete = all(spis(lab.hosts, host, case) == pair for host in "ab") and has_flows(lab.hosts, case)
    return sas[0] if complete else None


def settled(lab: kernel.Lab, case: Case, what: str, good: Callable[[dict[str, Any]], bool], wait_s: float) -> Any:
    """`one_pair` as soon as it is `good`."""
    return wait_until(lambda: one_pair(lab, case), lambda sa: sa is not None and good(sa), wait_s, what)


def check(lab: kernel.Lab, case: Case, iked: OpenIked) -> None:
    """Up, datagrams, IKE SA and Child SA rekeyed, datagrams, deleted; neither kernel has an SA of it then."""
    we_begin = case.role == "initiator"
    if we_begin:
        lab.ours.up(case.connection)
    first = settled(lab, case, "a Child SA", lambda sa: True, WAIT_S)
    assert (first["role"], first["suite"], first["children"][0]["suite"]) == (case.role, case.ike, case.esp), first
    kernel.exchange(lab, case, fresh=True)
    spi_in, spi_i = first["children"][0]["spi_in"], first["spi_i"]
    if case.by_peer != IKE_SA:
        if not case.by_peer:
            lab.ours.rekey(case.child)
        wait_s = WAIT_S if not case.by_peer else 2 * LIFETIME_S
        settled(lab, case, "the Child SA rekeyed", lambda sa: sa["children"][0]["spi_in"] != spi_in, wait_s)
        kernel.exchange(lab, case, fresh=True)
    if case.by_peer != CHILD:
        if not case.by_peer:
            lab.ours.rekey(case.connection)
        wait_s = WAIT_S if not case.by_peer else 2 * LIFETIME_S
        again = settled(lab, case, "the IKE SA rekeyed", lambda sa: sa["spi_i"] != spi_i, wait_s)
        assert (again["role"] == "initiator") == (not case.by_peer), again
        kernel.exchange(lab, case, fresh=False)
    if we_begin:
        lab.ours.down(case.connection)
    else:
        iked.reset(f"FQDN/{case.our_id}")
    for host in "ab":
        wait_until(lambda h=host: spis(lab.hosts, h, case), lambda now: not now, WAIT_S, f"no SA left on {host}")  # type: ignore[misc]
    wait_until(lambda: ike_sas(lab, case), lambda sas: not sas, WAIT_S, "no IKE SA left")


def run_case(lab: kernel.Lab, case: Case, iked: OpenIked) -> bool:
    began, error = time.monotonic(), ""
    log_start = len(lab.ours.log())
    try:
        check(lab, case, iked)
    except Exception:
        ours, theirs = lab.ours.log()[log_start:][-4000:], iked.log()[-4000:]
        error = f"{traceback.format_exc()}\nhost A:\n{ours}\nhost B:\n{theirs}"
        with contextlib.suppress(Exception):
            lab.ours.down(case.connection)
    seconds = round(time.monotonic() - began, 2)
    print(json.dumps({"case": case.name, "ok": not error, "error": error, "seconds": seconds}), flush=True)
    return not error


def sources(hosts: TwoHosts, cases: Sequence[Case]) -> None:
    """iked leaves the source of what it begins to the kernel: a route for each case names it."""
    for case in cases:
        family = ["-6"] if case.family == 6 else []
        route = ["ip", *family, "route", "add", case.here, "dev", hosts.interface("b"), "src", case.there]
        hosts.run("b", route, check=True)


def main(names: list[str]) -> int:
    subprocess.run(["modprobe", "af_key"], check=True)
    cases = [CASES[name] for name in names] if names else list(CASES.values())
    psk = f"0x{secrets.token_hex(32)}"
    failed = 0
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lengths = {4: 24, 6: 64}
        hosts = stack.enter_context(
            TwoHosts(
                [f"{case.here}/{lengths[case.family]}" for case in cases],
                [f"{case.there}/{lengths[case.family]}" for case in cases],
            )
        )
        sources(hosts, cases)
        ours = stack.enter_context(Ours(hosts.host("a"), directory / "ours", our_document(cases), psk))
        policies = [policy(case) for case in cases]
        iked = stack.enter_context(OpenIked(hosts.host("b"), directory / "iked", policies, psk))
        lab = kernel.Lab(hosts, ours, Iked(iked))  # type: ignore[arg-type]
        for role in ("initiator", "responder"):
            some = [case for case in cases if case.role == role]
            if some and role == "responder":
                # In passive mode again it does not begin anew what was deleted, nor end what it has begun.
                iked.active()
                names = [case.connection for case in some]
                wait_until(lambda wanted=names: iked.established() >= set(wanted), bool, 2 * WAIT_S, "all IKE SAs")  # type: ignore[misc]
                iked.passive()
            failed += sum(not run_case(lab, case, iked) for case in some)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
