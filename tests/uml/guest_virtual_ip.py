"""Runs inside the guest: `ikev2 run` with the xfrm backend on host A, strongSwan over the same kernel's ESP on host B,
and internal addresses of both families from one to the other.

    A 192.0.2.1, behind it 10.1.0.1 and 2001:db8:1::1        B 192.0.2.2, behind it 10.2.0.1 and 2001:db8:2::1

Prints one JSON object a line: {"case", "ok", "error", "seconds"}. Not a test module: `test_uml_virtual_ip.py` boots the
guest once, runs this, and looks at the lines. RFC 7296 sections 2.19 and 3.15.3.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/uml"), str(ROOT / "tests/unit/ikev2")]

from guest_strongswan import CHARON, ETH_P_ALL, GCM, IKE, WAIT_S, kernel_sas, spis  # noqa: E402
from guest_xfrm import protocols  # noqa: E402

from ikev2.io.netns import TwoHosts  # noqa: E402
from interop.peers.ours import Ours  # noqa: E402
from interop.peers.strongswan import PeerError, StrongSwan, wait_until  # noqa: E402

A, B = "192.0.2.1", "192.0.2.2"
BEHIND = {"a": ("10.1.0.1", "2001:db8:1::1"), "b": ("10.2.0.1", "2001:db8:2::1")}
NETWORKS = {"a": ["10.1.0.0/24", "2001:db8:1::/64"], "b": ["10.2.0.0/24", "2001:db8:2::/64"]}
LEASED = ("10.9.0.1", "2001:db8:9::1")
PACKETS = 5
WILDCARDS = ["0.0.0.0", "::"]

# strongSwan's pools have one family each.
PEER_POOLS = {"four": {"addrs": "10.9.0.0/24", "dns": "10.2.0.53"}, "six": {"addrs": "2001:db8:9::/120"}}
OUR_POOLS = {"road": {"addrs": ["10.9.0.0/24", "2001:db8:9::/120"], "dns": ["10.1.0.53", "2001:db8:1::53"]}}


def our_document() -> dict[str, Any]:
    common = {"local_addrs": [A], "remote_addrs": [B], "proposals": [IKE], "local": {"id": "a.example"}}

    def child(**selectors: Any) -> dict[str, Any]:
        return {"esp_proposals": [GCM]} | selectors

    connections = {
        "asks": common
        | {
            "remote": {"id": "gateway.example"},
            "vips": WILDCARDS,
            "children": {"asks": child(remote_ts=NETWORKS["b"])},
        },
        "gives": common
        | {
            "remote": {"id": "client.example"},
            "pools": ["road"],
            "children": {"gives": child(local_ts=NETWORKS["a"])},
        },
    }
    return {"connections": connections, "pools": OUR_POOLS, "endpoint": {"backend": "xfrm"}}


def peer_connections() -> dict[str, Any]:
    common = {"version": 2, "local_addrs": B, "remote_addrs": A, "proposals": IKE}
    ours = {"auth": "psk", "id": "a.example"}

    def child(**selectors: Any) -> dict[str, Any]:
        return {"esp_proposals": GCM, "mode": "tunnel"} | selectors

    return {
        "asks": common
        | {
            "local": {"auth": "psk", "id": "gateway.example"},
            "remote": ours,
            "pools": "four,six",
            "children": {"asks": child(local_ts=",".join(NETWORKS["b"]))},
        },
        "gives": common
        | {
            "local": {"auth": "psk", "id": "client.example"},
            "remote": ours,
            "vips": ",".join(WILDCARDS),
            "children": {"gives": child(remote_ts=",".join(NETWORKS["a"]))},
        },
    }


@dataclass(slots=True)
class Lab:
    hosts: TwoHosts
    ours: Ours
    charon: StrongSwan

    def shown(self, host: str, *command: str) -> str:
        return str(self.hosts.run(host, ["ip", *command], capture_output=True, text=True, check=True).stdout)

    @contextlib.contextmanager
    def socket(self, host: str, address: str, family: int) -> Iterator[socket.socket]:
        sock = self.hosts.call(host, lambda: socket.socket(family, socket.SOCK_DGRAM))
        with sock:
            sock.bind((address, 0))
            sock.settimeout(WAIT_S)
            yield sock


def exchange(lab: Lab, client: str, leased: tuple[str, ...]) -> None:
    """Datagrams from an unbound socket of the client to what is behind the other host, and back, in both families.

    On the wire is ESP alone, and both kernels count the same packets and octets.
    """
    server = "b" if client == "a" else "a"
    before = counted(lab)
    with contextlib.closing(lab.hosts.call("a", tap)) as wire:
        for family, address, inside in zip((socket.AF_INET, socket.AF_INET6), leased, BEHIND[server], strict=True):
            with lab.socket(client, "", family) as one, lab.socket(server, inside, family) as other:
                for number in range(PACKETS):
                    payload = b"datagram %d to " % number + inside.encode()
                    one.sendto(payload, other.getsockname())
                    got, source = other.recvfrom(2048)
                    assert (got, source[0]) == (payload, address), (got, source)
                    other.sendto(payload[::-1], source)
                    assert one.recvfrom(2048)[0] == payload[::-1]
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = wire.recvfrom(4096)
                if kind == socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x00":
                    frames.append(frame[14:])
    assert set(protocols(frames)) == {"esp"}, protocols(frames)
    after = counted(lab)
    for way in (A, B):
        ours, theirs = (
            {name: after[host, way][name] - before[host, way][name] for name in ("packets", "octets")}
            for host in "ab"
        )
        assert ours == theirs, (way, ours, theirs)
        assert ours["packets"] == 2 * PACKETS, (way, ours)


def tap() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((TwoHosts.interface("a"), ETH_P_ALL))
    sock.setblocking(False)
    return sock


def counted(lab: Lab) -> dict[tuple[str, str], dict[str, int]]:
    """Packets and octets of the SA of each source, on each host, by `ip -s xfrm state`."""
    found = {}
    for host in "ab":
        for sa in kernel_sas(lab.hosts.host(host)):
            found[host, sa.source] = {"packets": sa.packets, "octets": sa.octets}
    assert set(found) == {("a", A), ("a", B), ("b", A), ("b", B)}, found
    return found


def only_one(lab: Lab) -> dict[str, Any]:
    """Our one IKE SA with its one Child SA, once the one that it replaces is gone."""
    (sa,) = wait_until(lab.ours.sas, lambda sas: [len(sa["children"]) for sa in sas] == [1], WAIT_S)
    return dict(sa)


def none_left(lab: Lab) -> None:
    for host in "ab":
        wait_until(lambda h=host: spis(lab.hosts.host(h)), lambda now: not now, WAIT_S, f"no SA left on {host}")  # type: ignore[misc]


def left_of_ours(lab: Lab) -> list[str]:
    text = lab.shown("a", "-o", "addr") + lab.shown("a", "rule") + lab.shown("a", "-6", "rule")
    text += lab.shown("a", "route", "show", "table", "all") + lab.shown("a", "-6", "route", "show", "table", "all")
    return [line for line in text.splitlines() if "ikevip" in line or "proto 73" in line or "18740" in line]


def we_ask(lab: Lab) -> None:
    """Both addresses from strongSwan's two pools; traffic, rekeying, traffic, and nothing is left afterwards."""
    sa = lab.ours.up("asks")
    assert (tuple(sa["local_vips"]), sa["dns"]) == (LEASED, ["10.2.0.53"]), sa
    (theirs,) = lab.charon.list_sas()
    assert theirs.remote_vips == LEASED, theirs
    assert theirs.children[0].remote_ts == (f"{LEASED[0]}/32", f"{LEASED[1]}/128"), theirs
    assert {address for address, lease in lab.charon.list_leases().items() if lease.online} == set(LEASED)
    shown = lab.shown("a", "-o", "addr", "show", "dev", "ikevip0")
    assert all(f"{address}/" in shown for address in LEASED), shown
    exchange(lab, "a", LEASED)
    lab.ours.rekey("asks")
    assert tuple(only_one(lab)["local_vips"]) == LEASED
    exchange(lab, "a", LEASED)
    lab.ours.down("asks")
    none_left(lab)
    assert left_of_ours(lab) == [], left_of_ours(lab)
    assert not any(lease.online for lease in lab.charon.list_leases().values())


def we_give(lab: Lab) -> None:
    """strongSwan asks for both and gets them from our pool; it releases them when it takes its IKE SA down."""
    lab.charon.initiate("gives")
    (theirs,) = lab.charon.list_sas()
    assert theirs.local_vips == LEASED, theirs
    ours = only_one(lab)
    assert tuple(ours["remote_vips"]) == LEASED, ours
    assert ours["children"][0]["ts_remote"] == [f"{LEASED[0]}/32", f"{LEASED[1]}/128"], ours
    wait_until(lambda: spis(lab.hosts.host("a")), lambda now: len(now) == 2, WAIT_S)
    exchange(lab, "b", LEASED)
    lab.charon.rekey(ike="gives")
    wait_until(lab.charon.list_sas, lambda sas: len(sas) == 1 and sas[0].spi_i != theirs.spi_i, WAIT_S)
    ours = only_one(lab)
    assert tuple(ours["remote_vips"]) == LEASED, ours
    exchange(lab, "b", LEASED)
    lab.charon.terminate(ike="gives")
    none_left(lab)
    wait_until(lab.ours.sas, lambda sas: not sas, WAIT_S)


def we_crash(lab: Lab) -> None:
    """The addresses go with the process, rules and routes with the next start, and the gateway gives the same again."""
    lab.ours.up("asks")
    lab.ours.kill()
    assert "ikevip" not in lab.shown("a", "-o", "addr")
    assert left_of_ours(lab) != []  # the rules are still there
    lab.ours.start()
    assert left_of_ours(lab) == [], left_of_ours(lab)
    assert tuple(lab.ours.up("asks")["local_vips"]) == LEASED
    wait_until(lab.charon.list_sas, lambda sas: len(sas) == 1, WAIT_S)  # INITIAL_CONTACT
    wait_until(lambda: spis(lab.hosts.host("b")), lambda now: len(now) == 2, WAIT_S)
    exchange(lab, "a", LEASED)
    lab.ours.down("asks")
    none_left(lab)


CASES: dict[str, Callable[[Lab], None]] = {"we-ask": we_ask, "we-give": we_give, "we-crash": we_crash}


def main() -> int:
    psk = f"0x{secrets.token_hex(32)}"
    failed = 0
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = [
            [f"{outer}/24", f"{BEHIND[host][0]}/24", f"{BEHIND[host][1]}/64"]
            for host, outer in (("a", A), ("b", B))
        ]
        hosts = stack.enter_context(TwoHosts(*addresses))
        ours = stack.enter_context(Ours(hosts.host("a"), directory / "ours", our_document(), psk))
        settings = CHARON | {"plugins": {"vici": {"socket": f"unix://{directory / 'b' / 'vici'}"}}}
        charon = stack.enter_context(StrongSwan(hosts.host("b"), directory / "b", settings))
        charon.load(peer_connections(), {"ike-lab": {"secret": psk}}, PEER_POOLS)
        lab = Lab(hosts, ours, charon)
        # As a gateway has one: what goes to a peer's virtual address goes somewhere, and the policies see it.
        lab.shown("a", "route", "add", "default", "via", B)
        lab.shown("a", "-6", "route", "add", "default", "dev", TwoHosts.interface("a"))
        for name, case in CASES.items():
            began, error = time.monotonic(), ""
            try:
                case(lab)
            except Exception:
                error = (
                    f"{traceback.format_exc()}\nhost A:\n{ours.log()[-4000:]}\nhost B:\n{charon.story()[-4000:]}"
                )
                failed += 1
                with contextlib.suppress(PeerError):  # the next case begins with nothing
                    for sa in charon.list_sas():
                        charon.terminate_id(sa.unique_id)
                    wait_until(ours.sas, lambda sas: not sas, WAIT_S)
            seconds = round(time.monotonic() - began, 2)
            print(json.dumps({"case": name, "ok": not error, "error": error, "seconds": seconds}), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
