"""Runs inside the guest: `ikev2 run` with the xfrm backend on host A; on host B strongSwan over the same kernel's ESP,
then our own endpoint, with its userspace ESP and with the kernel's.

Each case has addresses, a connection and a Child SA of its own, all loaded at once: one process of ours on A, one
charon, two processes of ours on B. Prints one JSON object a line: {"case", "ok", "error", "seconds"}. Not a test
module: `test_uml_strongswan.py` boots the guest once, runs this, and looks at the lines.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit/ikev2")]

from guest_xfrm import protocols  # noqa: E402

from ikev2.io.netns import Namespace, TwoHosts  # noqa: E402
from ikev2.ipsec.xfrm.kernel import XfrmSocket  # noqa: E402
from interop.peers.ours import Ours  # noqa: E402
from interop.peers.strongswan import StrongSwan, wait_until  # noqa: E402

STRONGSWAN, USERSPACE, XFRM = "strongswan", "userspace", "xfrm"
IKE = "aes128gcm16-prfsha256-curve25519"
GCM, CBC, GMAC = "aes128gcm16", "aes128-sha256", "aes128gmac"
PACKETS = 5
VOLUME = 60
WAIT_S = 30.0
ETH_P_ALL = 3
CHARON: dict[str, Any] = {
    "load": "random nonce openssl kdf hmac sha1 sha2 aes gcm curve25519 kernel-netlink socket-default vici",
}
ALGORITHMS = {
    GCM: r"aead rfc4106\(gcm\(aes\)\) .* 128\n",
    CBC: r"auth-trunc hmac\(sha256\) .* 128\n\s+enc cbc\(aes\) ",
    GMAC: r"aead rfc4543\(gcm\(aes\)\) .* 128\n",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One pair of addresses with one Child SA. `we` (host A) initiate or answer; who initiates also rekeys.

    In the role "traffic" we initiate when a packet wants it; in the role "volume" we rekey after so many packets.
    """

    number: int
    peer: str
    mode: str
    esp: str
    family: int
    encap: bool
    role: str

    @property
    def ours(self) -> bool:
        """Whether we are the initiator."""
        return self.role != "responder"

    @property
    def name(self) -> str:
        encap = ("encap",) if self.encap else ()
        return "-".join((self.peer, self.mode, self.esp, f"ipv{self.family}", *encap, self.role))

    @property
    def connection(self) -> str:
        return f"lab{self.number}"

    @property
    def child(self) -> str:
        return f"net{self.number}"

    @property
    def here(self) -> str:
        return f"192.0.2.{10 + self.number}" if self.family == 4 else f"2001:db8::a:{self.number}"

    @property
    def there(self) -> str:
        return f"192.0.2.{110 + self.number}" if self.family == 4 else f"2001:db8::b:{self.number}"

    @property
    def kind(self) -> str:
        """What ESP is on the wire."""
        return "esp-in-udp" if self.encap else "esp"


def _cases() -> Iterator[Case]:
    number = 0
    for peer in (STRONGSWAN, USERSPACE, XFRM):
        for mode in ("tunnel", "transport"):
            for esp in (GCM, CBC, GMAC):
                for family, encap in ((4, False), (4, True), (6, False), (6, True)):
                    for role in ("initiator", "responder", "traffic", "volume"):
                        if _wanted(peer, mode, esp, family, encap, role):
                            number += 1
                            yield Case(number, peer, mode, esp, family, encap, role)


def _wanted(peer: str, mode: str, esp: str, family: int, encap: bool, role: str) -> bool:
    """All for strongSwan over IPv4, half of that over IPv6; our own planes with each other where they differ."""
    if role == "volume":
        return (peer, mode, esp, family) == (STRONGSWAN, "tunnel", CBC, 4) and not encap
    if role == "traffic":
        # Once for each mode and family with each end over the kernel.
        return peer != USERSPACE and esp == GCM and not encap and (family == 4 or mode == "transport")
    if esp == GMAC:
        return mode == "tunnel" and family == 4 and not encap and (role == "initiator" or peer == STRONGSWAN)
    crossed = (mode == "tunnel") == (esp == GCM)
    if peer == STRONGSWAN:
        return family == 4 or crossed != encap
    if family == 6:
        return False
    if peer == USERSPACE:
        return mode == "tunnel" and (role == "initiator" or not encap)
    return role == "initiator" and crossed == encap


CASES = {case.name: case for case in _cases()}


# --- configurations --------------------------------------------------------------------------------------------------


def our_document(cases: Sequence[Case], backend: str, *, mirrored: bool = False) -> dict[str, Any]:
    """Our configuration for these cases; `mirrored` is host B's."""
    connections = {}
    for case in cases:
        ends = [("a.example", case.here), ("b.example", case.there)]
        (local_id, local), (remote_id, remote) = reversed(ends) if mirrored else ends
        connections[case.connection] = {
            "local_addrs": [local],
            "remote_addrs": [remote],
            "proposals": [IKE],
            "encap": case.encap and not mirrored,
            "local": {"auth": "psk", "id": local_id},
            "remote": {"auth": "psk", "id": remote_id},
            "children": {
                case.child: {
                    "mode": case.mode,
                    "esp_proposals": [case.esp],
                    "start_action": "trap" if case.role == "traffic" and not mirrored else "none",
                    **({"rekey_packets": VOLUME} if case.role == "volume" else {}),
                }
            },
        }
    return {"connections": connections, "endpoint": {"backend": backend}}


def peer_connections(cases: Sequence[Case]) -> dict[str, Any]:
    """The `connections` of swanctl.conf for these cases."""
    return {
        case.connection: {
            "version": 2,
            "local_addrs": case.there,
            "remote_addrs": case.here,
            "proposals": IKE,
            "local": {"auth": "psk", "id": "b.example"},
            "remote": {"auth": "psk", "id": "a.example"},
            "children": {
                case.child: {
                    "esp_proposals": case.esp,
                    "local_ts": "dynamic",
                    "remote_ts": "dynamic",
                    "mode": case.mode,
                }
            },
        }
        for case in cases
    }


# --- what the kernel says --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelSa:
    """An SA as `ip -s xfrm state` has it."""

    source: str
    destination: str
    spi: int
    octets: int
    packets: int
    text: str


def kernel_sas(host: Namespace) -> list[KernelSa]:
    """Every SA of a host, by `ip -s xfrm state`."""
    text = host.run(
        ["ip", "-s", "xfrm", "state", "list", "nokeys"], capture_output=True, text=True, check=True
    ).stdout
    found = []
    for block in re.split(r"^(?=src )", text, flags=re.MULTILINE)[1:]:
        head = re.match(r"src (\S+) dst (\S+)\s+proto esp spi (0x\w+)", block)
        current = re.search(r"lifetime current:\s+(\d+)\(bytes\), (\d+)\(packets\)", block)
        assert head is not None, block
        assert current is not None, block
        found.append(KernelSa(head[1], head[2], int(head[3], 16), int(current[1]), int(current[2]), block))
    return found


def spis(host: Namespace) -> set[int]:
    """The SPIs of a host's SAs, without a process; what only waits for an SA has none."""

    def dump() -> set[int]:
        with XfrmSocket() as kernel:
            return {sa.info.spi for sa in kernel.dump_sas()} - {0}

    return host.call(dump)


# --- host B ----------------------------------------------------------------------------------------------------------


class Peer(Protocol):
    """What a case asks of host B: all by the name of the connection and its child."""

    def up(self, case: Case) -> None: ...
    def rekey(self, case: Case) -> None: ...
    def down(self, case: Case) -> None: ...
    def counters(self, case: Case) -> dict[str, int] | None: ...
    def log(self) -> str: ...


@dataclass(slots=True)
class Charon:
    """strongSwan: its counters are the kernel's."""

    charon: StrongSwan

    def up(self, case: Case) -> None:
        self.charon.initiate(case.child)

    def rekey(self, case: Case) -> None:
        self.charon.rekey(child=case.child)

    def down(self, case: Case) -> None:
        self.charon.terminate(ike=case.connection)

    def counters(self, case: Case) -> None:
        return None

    def log(self) -> str:
        return self.charon.story()[-4000:]


@dataclass(slots=True)
class Endpoint:
    """Our endpoint on host B."""

    ours: Ours
    in_kernel: bool

    def up(self, case: Case) -> None:
        self.ours.up(case.connection)

    def rekey(self, case: Case) -> None:
        self.ours.rekey(case.child)

    def down(self, case: Case) -> None:
        self.ours.down(case.connection)

    def counters(self, case: Case) -> dict[str, int] | None:
        return None if self.in_kernel else child_of(self.ours, case)

    def log(self) -> str:
        return self.ours.log()[-4000:]


def child_of(ours: Ours, case: Case) -> dict[str, Any]:
    """The one Child SA of a case as our endpoint lists it."""
    # An IKE SA that was rekeyed, and is not deleted yet, has none.
    (sa,) = (sa for sa in ours.sas() if sa["name"] == case.connection and sa["children"])
    (child,) = sa["children"]
    return dict(child)


# --- a case ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Lab:
    """Both hosts, our endpoint on A, and a tap on A's interface."""

    hosts: TwoHosts
    ours: Ours
    peer: Peer | None = None
    tap: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.tap = self.hosts.call("a", self._open_tap)

    @staticmethod
    def _open_tap() -> socket.socket:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        tap.bind((TwoHosts.interface("a"), ETH_P_ALL))
        tap.setblocking(False)
        return tap

    def sent(self, case: Case) -> list[str]:
        """What A has sent on this case's addresses since the last call."""
        packets = []
        address = socket.inet_pton(socket.AF_INET if case.family == 4 else socket.AF_INET6, case.here)
        at = 12 if case.family == 4 else 8
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self.tap.recvfrom(4096)
                if kind == socket.PACKET_OUTGOING and frame[14 + at : 14 + at + len(address)] == address:
                    packets.append(frame[14:])
        return protocols(packets)

    @contextlib.contextmanager
    def sockets(self, case: Case) -> Iterator[tuple[socket.socket, socket.socket]]:
        def make(address: str) -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((address, 0))
            sock.settimeout(WAIT_S)
            return sock

        with (
            self.hosts.call("a", lambda: make(case.here)) as here,
            self.hosts.call("b", lambda: make(case.there)) as there,
        ):
            yield here, there


def both_ways(here: socket.socket, there: socket.socket, number: int) -> None:
    """One datagram from A to B, and another back."""
    for sender, receiver in ((here, there), (there, here)):
        payload = b"datagram %d from " % number + str(sender.getsockname()[0]).encode()
        sender.sendto(payload, receiver.getsockname())
        got, source = receiver.recvfrom(2048)
        assert (got, source[:2]) == (payload, sender.getsockname()[:2]), (got, source)


def exchange(lab: Lab, case: Case, *, fresh: bool) -> None:
    """Datagrams both ways: only ESP on the wire, and the same numbers on both ends; `fresh`: on an unused pair."""
    assert lab.peer is not None
    lab.sent(case)
    with lab.sockets(case) as (here, there):
        for number in range(PACKETS):
            both_ways(here, there, number)
    on_the_wire = lab.sent(case)
    assert set(on_the_wire) == {case.kind}, f"on the wire: {on_the_wire}"
    assert len(on_the_wire) >= PACKETS, f"on the wire: {on_the_wire}"
    found = counted(lab, case)
    for one, other in (("out a", "in b"), ("out b", "in a")):
        packets = found[f"packets {one}"]
        assert packets == found[f"packets {other}"], found
        # With IPv6 the peer's neighbour discovery may be inside, too.
        exactly = fresh and case.family == 4
        assert packets == PACKETS if exactly else packets >= PACKETS, found
        # Each plane counts other octets of a packet; two kernels count the same.
        if case.peer != USERSPACE:
            assert found[f"octets {one}"] == found[f"octets {other}"] > 0, found


def counted(lab: Lab, case: Case) -> dict[str, int]:
    """Packets and octets of the Child SA: A's and B's by `ip -s xfrm state`, B's by our endpoint in userspace."""
    child = child_of(lab.ours, case)
    spi_in, spi_out = int(child["spi_in"], 16), int(child["spi_out"], 16)
    found: dict[str, int] = {}
    sas = {sa.spi: sa for sa in kernel_sas(lab.hosts.host("a")) if case.here in (sa.source, sa.destination)}
    assert set(sas) == {spi_in, spi_out}, f"A's kernel has {sorted(sas)}, not {spi_in} and {spi_out}"
    for way, spi in (("in", spi_in), ("out", spi_out)):
        check_sa(case, sas[spi])
        found |= {f"packets {way} a": sas[spi].packets, f"octets {way} a": sas[spi].octets}
        # Our own listing says what the kernel says.
        listed = (child[f"packets_{way}"], child[f"octets_{way}"])
        assert listed == (sas[spi].packets, sas[spi].octets), (listed, sas[spi].text)
    assert lab.peer is not None
    theirs = lab.peer.counters(case)
    if theirs is not None:
        assert (theirs["spi_in"], theirs["spi_out"]) == (child["spi_out"], child["spi_in"])
        return found | {
            f"{what} {way} b": theirs[f"{what}_{way}"] for what in ("packets", "octets") for way in WAYS
        }
    sas = {sa.spi: sa for sa in kernel_sas(lab.hosts.host("b")) if case.here in (sa.source, sa.destination)}
    outbound = {sa.spi for sa in sas.values() if sa.source == case.there}
    # strongSwan takes late packets on what was rekeyed for 5 s more.
    assert outbound == {spi_in}, f"B's kernel has {sorted(outbound)} towards A, not {spi_in}"
    assert spi_out in sas, f"B's kernel has {sorted(sas)}, not {spi_out}"
    for way, spi in (("out", spi_in), ("in", spi_out)):
        check_sa(case, sas[spi])
        found |= {f"packets {way} b": sas[spi].packets, f"octets {way} b": sas[spi].octets}
    return found


WAYS = ("in", "out")


def check_sa(case: Case, sa: KernelSa) -> None:
    """The SA is what was negotiated, and the kernel has refused nothing on it."""
    assert f"mode {case.mode}" in sa.text, sa.text
    assert re.search(ALGORITHMS[case.esp], sa.text), sa.text
    assert ("encap type espinudp" in sa.text) == case.encap, sa.text
    assert re.search(r"replay-window 0 replay 0 failed 0", sa.text), sa.text


def rekeyed_under_traffic(lab: Lab, case: Case, rekey: Callable[[], None]) -> None:
    """Another pair takes over while datagrams go both ways, and none of them is lost."""
    old = child_of(lab.ours, case)
    done, begun = threading.Event(), threading.Event()
    failures: list[Exception] = []
    rounds = [0]

    def traffic() -> None:
        try:
            with lab.sockets(case) as (here, there):
                while not done.wait(0.01):
                    both_ways(here, there, rounds[0])
                    rounds[0] += 1
                    begun.set()
        except (OSError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        assert begun.wait(WAIT_S), failures
        rekey()
        old_spis = {int(old[f"spi_{way}"], 16) for way in WAYS}
        wait_until(lambda: spis(lab.hosts.host("a")), lambda now: not now & old_spis and len(now) == 2, WAIT_S)
        # B sends on the new SA: what it had towards A is gone.
        wait_until(lambda: spis(lab.hosts.host("b")), lambda now: int(old["spi_in"], 16) not in now, WAIT_S)
        over = rounds[0]
        wait_until(lambda: rounds[0], lambda now: now > over or bool(failures), WAIT_S, "traffic after rekeying")
    finally:
        done.set()
        thread.join()
    assert not failures, f"after {rounds[0]} datagrams both ways: {failures[0]!r}"


def check(lab: Lab, case: Case) -> None:
    """Up, datagrams, rekeyed under traffic, datagrams, down; nothing is left on either host."""
    assert lab.peer is not None
    if case.role in ("initiator", "volume"):
        lab.ours.up(case.connection)
    elif case.role == "responder":
        lab.peer.up(case)
        wait_until(lambda: spis(lab.hosts.host("a")), lambda now: len(now) == 2, WAIT_S)
    else:
        begun_by_traffic(lab, case)
        take_down(lab, case)
        begun_by_traffic(lab, case)  # the trap is there again when the IKE SA has gone
        lab.peer.down(case)
        nothing_installed(lab)
        begun_by_traffic(lab, case)
    exchange(lab, case, fresh=True)
    if case.role == "volume":
        rekeyed_under_traffic(lab, case, lambda: None)  # the traffic does it
        assert "reached its soft limit" in lab.ours.log()
    elif case.ours:
        rekeyed_under_traffic(lab, case, lambda: lab.ours.rekey(case.child))
    else:
        rekeyed_under_traffic(lab, case, lambda: lab.peer.rekey(case))  # type: ignore[union-attr]
    exchange(lab, case, fresh=False)


def begun_by_traffic(lab: Lab, case: Case) -> None:
    """A datagram that no Child SA carries does not go in clear, and the Child SA comes."""
    lab.sent(case)
    with lab.sockets(case) as (here, there):
        here.sendto(b"knock", there.getsockname())
        wait_until(lab.ours.sas, lambda sas: any(up(sa, case) for sa in sas), WAIT_S, "a Child SA by traffic")
        there.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            raise AssertionError(f"the datagram that begins it has arrived: {there.recvfrom(2048)}")
    assert not [kind for kind in lab.sent(case) if kind not in {case.kind, "udp/500", "esp-in-udp"}]
    assert f"traffic from {case.here} to {case.there} wants {case.child}" in lab.ours.log()
    # The peer has installed its half, too, before it answered.


def up(sa: dict[str, Any], case: Case) -> bool:
    return bool(sa["name"] == case.connection and sa["state"] == "ESTABLISHED" and sa["children"])


def nothing_installed(lab: Lab) -> None:
    for host in "ab":
        wait_until(lambda h=host: spis(lab.hosts.host(h)), lambda now: not now, WAIT_S, f"no SA left on {host}")  # type: ignore[misc]


def take_down(lab: Lab, case: Case) -> None:
    """The end that initiated deletes the IKE SA; neither kernel has an SA of it then."""
    assert lab.peer is not None
    if case.ours:
        lab.ours.down(case.connection)
    else:
        lab.peer.down(case)
    nothing_installed(lab)


def run_case(lab: Lab, case: Case) -> bool:
    began, error = time.monotonic(), ""
    log_start = len(lab.ours.log())
    try:
        check(lab, case)
    except Exception:
        error = traceback.format_exc()
    try:
        take_down(lab, case)
    except Exception:
        error += "\n" + traceback.format_exc()
    if error and lab.peer is not None:
        error += f"\nhost A:\n{lab.ours.log()[log_start:][-4000:]}\nhost B:\n{lab.peer.log()}"
    seconds = round(time.monotonic() - began, 2)
    print(json.dumps({"case": case.name, "ok": not error, "error": error, "seconds": seconds}), flush=True)
    return not error


@contextlib.contextmanager
def host_b(peer: str, cases: Sequence[Case], hosts: TwoHosts, directory: Path, psk: str) -> Iterator[Peer]:
    """What runs on host B for these cases."""
    if peer == STRONGSWAN:
        settings = CHARON | {"plugins": {"vici": {"socket": f"unix://{directory / 'vici'}"}}}
        with StrongSwan(hosts.host("b"), directory, settings) as charon:
            charon.load(peer_connections(cases), {"ike-lab": {"id-a": "a.example", "secret": psk}})
            yield Charon(charon)
        return
    document = our_document(cases, peer, mirrored=True)
    with Ours(hosts.host("b"), directory, document, psk) as ours:
        yield Endpoint(ours, in_kernel=peer == XFRM)


def main(names: list[str]) -> int:
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
        ours = stack.enter_context(Ours(hosts.host("a"), directory / "ours", our_document(cases, XFRM), psk))
        lab = Lab(hosts, ours)
        for peer in dict.fromkeys(case.peer for case in cases):
            some = [case for case in cases if case.peer == peer]
            with host_b(peer, some, hosts, directory / peer, psk) as lab.peer:
                failed += sum(not run_case(lab, case) for case in some)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
