"""Runs inside the guest: every transform that this kernel's ESP has, in each mode and family, over the xfrm backend.

Host A has the kernel's ESP; host B has the kernel's, too, and then our own. NAT is forced (ESP in UDP) and ESN used in
half of the cases each. Then the sequence numbers cross 2**32, and what was sent before is sent again.
Prints one JSON object a line: {"case", "ok", "error", "seconds"}. Not a test module: `test_uml_matrix.py` boots the
guest once, runs this, and looks at the lines.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit/ikev2"), str(ROOT / "tests/uml")]

from guest_xfrm import A6, B6, A, B, Lab, protocols  # noqa: E402
from xfrm_support import child_pair  # noqa: E402

from ikev2.cli.algorithms import rows  # noqa: E402
from ikev2.core.child_sa import ChildSaParameters  # noqa: E402
from ikev2.core.types import Mode  # noqa: E402
from ikev2.io.netns import TwoHosts  # noqa: E402
from ikev2.ipsec.userspace import UserspaceBackend  # noqa: E402
from ikev2.ipsec.xfrm.backend import XfrmBackend  # noqa: E402
from ikev2.ipsec.xfrm.kernel import XfrmSocket  # noqa: E402
from ikev2.ipsec.xfrm.structs import SaId  # noqa: E402
from ikev2.wire.payloads.ts import TrafficSelector  # noqa: E402

XFRM, USERSPACE = "xfrm", "userspace"
ROUNDS = 2
NEAR = 0xFFFF_FFF8
"""A sequence number from which a few packets lead across 2**32."""


def suites() -> list[str]:
    """Each cipher with each length of key, and each integrity algorithm, that a kernel has."""
    found = []
    for row in rows():
        if row.type == "ENCR" and row.esp and not row.keyword.endswith("iiv"):
            aead = any(word in row.keyword for word in ("gcm", "ccm", "gmac", "poly1305"))
            found.append(row.keyword if aead else f"{row.keyword}-sha256")
        if row.type == "INTEG" and row.keyword != "sha256":
            found.append(f"aes128-{row.keyword}")
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """One Child SA between A, over the kernel's ESP, and B."""

    peer: str
    suite: str
    mode: Mode
    family: int
    encap: bool
    esn: bool

    @property
    def name(self) -> str:
        words = [self.peer, self.suite, self.mode.value, f"ipv{self.family}"]
        return "-".join(words + ["encap"] * self.encap + ["esn"] * self.esn)

    @property
    def ends(self) -> tuple[str, str]:
        return (A, B) if self.family == 4 else (A6, B6)

    def pair(self) -> tuple[ChildSaParameters, ChildSaParameters]:
        a, b = self.ends
        ts_a, ts_b = ((TrafficSelector.from_network(host),) for host in (a, b))
        keyword = f"{self.suite}-esn" if self.esn else self.suite
        return child_pair(keyword, self.mode, a=a, b=b, ts_a=ts_a, ts_b=ts_b, encap=self.encap)


def _cases() -> Iterator[Case]:
    for number, suite in enumerate(suites()):
        for mode in Mode:
            for family in (4, 6):
                turn = number + (mode is Mode.TUNNEL) + (family == 6)
                yield Case(XFRM, suite, mode, family, encap=bool(turn % 2), esn=bool(turn // 2 % 2))
    for number, suite in enumerate(suites()):
        for mode in Mode:
            family = 4 if (number + (mode is Mode.TUNNEL)) % 2 else 6
            encap = family == 4 and bool(number // 2 % 2)
            yield Case(USERSPACE, suite, mode, family, encap=encap, esn=bool(number // 2 % 2))


CROSSING = [
    Case(peer, suite, mode, 4, encap=False, esn=True)
    for peer, suite, mode in (
        (XFRM, "aes128gcm16", Mode.TUNNEL),
        (USERSPACE, "aes128gcm16", Mode.TUNNEL),
        (USERSPACE, "aes128-sha256", Mode.TRANSPORT),
        (USERSPACE, "chacha20poly1305", Mode.TRANSPORT),
        (USERSPACE, "aes128gmac", Mode.TUNNEL),
    )
]
CASES = {case.name: case for case in _cases()}
CASES |= {f"crossing-{case.name}": case for case in CROSSING}


def carried(lab: Lab, case: Case) -> None:
    """Datagrams both ways, only as ESP, and the same numbers on both ends."""
    pair = lab.install(case.pair())
    lab.drain()
    a, b = case.ends
    assert lab.exchange(a, b, count=ROUNDS) == ROUNDS, "packets lost"
    seen = set(protocols(lab.drain()))
    assert seen == {"esp-in-udp" if case.encap else "esp"}, f"on the wire: {seen}"
    counted = [lab.backends[host].query(child) for host, child in zip("ab", pair, strict=True)]
    for one, other in (counted, counted[::-1]):
        assert one.errors == {}, one
        assert one.packets_out == other.packets_in >= ROUNDS, counted
        if case.family == 4:  # with IPv6 neighbour discovery may be inside, too
            assert one.packets_out == ROUNDS, counted
    take_out(lab, pair)


def take_out(lab: Lab, pair: tuple[ChildSaParameters, ChildSaParameters]) -> None:
    for host, child in zip("ab", pair, strict=True):
        lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))


def near_the_boundary(lab: Lab, host: str, child: ChildSaParameters) -> None:
    """As after many packets: the next ones cross 2**32."""
    backend = lab.backends[host]
    if isinstance(backend, UserspaceBackend):
        found = backend._engine.pair(child)
        assert found is not None
        found.outbound.sequence = found.inbound.window.top = NEAR
        return
    with lab.call(host, XfrmSocket) as kernel:
        sas = {sa.info.spi: sa for sa in kernel.dump_sas()}
        for spi, name in ((child.spi_in, "input"), (child.spi_out, "output")):
            sa = sas[spi]
            assert sa.replay_esn is not None
            kernel.delete_sa(sa.info.id)
            kernel.new_sa(replace(sa, replay_esn=replace(sa.replay_esn, **{name: NEAR})))


def crossing(lab: Lab, case: Case) -> None:
    """ESN: the upper half is not sent, and both ends know it. Then replays, from both sides of the boundary."""
    rounds = 20
    pair = lab.install(case.pair())
    for host, child in zip("ab", pair, strict=True):
        near_the_boundary(lab, host, child)
    lab.drain()
    assert lab.exchange(count=rounds) == rounds, "packets lost on the way across"
    frames = {host: lab.frames(host) for host in "ab"}
    wanted = [(NEAR + 1 + n) & 0xFFFFFFFF for n in range(rounds)]
    for host in "ab":
        sent = [int.from_bytes(frame[38:42]) for frame in frames[host]]
        assert sent == wanted, (host, sent)
    with lab.call("a", XfrmSocket) as kernel:
        for local, spi in ((A, pair[0].spi_in), (B, pair[0].spi_out)):
            esn = kernel.get_sa(SaId(ipaddress.ip_address(local), spi)).replay_esn
            assert esn is not None
            high = esn.input_high if local == A else esn.output_high
            assert high == 1, esn
    for sender in "ab":
        for frame in (frames[sender][0], frames[sender][-1]):
            lab.taps[sender].send(frame)
    lab.exchange(count=1)  # goes on, and is behind what was sent again
    for host, child in zip("ab", pair, strict=True):
        counted = lab.backends[host].query(child)
        assert counted.errors == {"replay": 2}, (host, counted)
        assert counted.packets_in == rounds + 1, (host, counted)
    take_out(lab, pair)


@contextlib.contextmanager
def backends(lab: Lab, peer: str, state: Path) -> Iterator[None]:
    """Open on both hosts, with the sockets that take ESP in UDP."""
    with contextlib.ExitStack() as stack:
        kinds = {"a": XfrmBackend(state), "b": XfrmBackend(state) if peer == XFRM else UserspaceBackend()}
        for host, backend in kinds.items():
            lab.backends[host] = backend  # type: ignore[assignment]
            lab.call(host, backend.open)
            stack.callback(lab.call, host, backend.close)
        for host, addresses in (("a", (A, A6)), ("b", (B, B6))):
            for address in addresses:
                sock = lab.udp(host, address, 4500)
                stack.callback(sock.close)
                backend = kinds[host]
                if isinstance(backend, UserspaceBackend):
                    if ":" not in address:
                        sock.setblocking(False)
                        lab.call(host, lambda b=backend, s=sock: b.attach_encap_socket(s, lambda *ike: None))
                else:
                    lab.call(host, lambda b=backend, s=sock: b.prepare_ike_socket(s, encap=True))
        # The data plane of ours ends before its socket goes.
        stack.callback(lambda: [lab.call(host, backend.close) for host, backend in kinds.items()])
        yield


def main(names: list[str]) -> int:
    failed = 0
    chosen = {name: CASES[name] for name in names or CASES}
    with (
        tempfile.TemporaryDirectory() as state,
        TwoHosts((f"{A}/24", f"{A6}/64"), (f"{B}/24", f"{B6}/64")) as hosts,
    ):
        lab = Lab(hosts, Path(state))
        for peer in (XFRM, USERSPACE):
            some = {name: case for name, case in chosen.items() if case.peer == peer}
            with backends(lab, peer, Path(state)):
                for name, case in some.items():
                    began, error = time.monotonic(), ""
                    try:
                        (crossing if name.startswith("crossing") else carried)(lab, case)
                    except Exception:
                        error = traceback.format_exc()
                        failed += 1
                    seconds = round(time.monotonic() - began, 2)
                    print(
                        json.dumps({"case": name, "ok": not error, "error": error, "seconds": seconds}), flush=True
                    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
