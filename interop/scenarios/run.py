"""What a scenario has in hand: both ends, steps that make things happen, checks that are noted for the report."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ikev2.errors import IkeError
from ikev2.io.decode import decode_capture
from ikev2.io.netns import TwoHosts
from interop.lab.nat import Nat44, Router
from interop.peers.ours import Ours
from interop.peers.strongswan import PeerError, StrongSwan, end, start_and_wait, wait_until
from interop.peers.strongswan_text import ChildSaState, IkeSaState, LoggedKeys
from interop.scenarios.cases import CHILD, CONNECTION, PEER_ID, Case

MARKER = b"datagram in the clear "
"""Begins every datagram: it must not be seen in a capture."""
RECEIVE_S = 5.0
PRF_HASHES = {
    "hmac-sha1": "sha1",
    "hmac-sha2-256": "sha256",
    "hmac-sha2-384": "sha384",
    "hmac-sha2-512": "sha512",
}


class Mismatch(AssertionError):
    """Something was not as the scenario says."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An IKE SA with one Child SA as both ends list it."""

    ours: Mapping[str, Any]
    theirs: IkeSaState

    @property
    def our_child(self) -> Mapping[str, Any]:
        """Our view of the Child SA."""
        child: Mapping[str, Any] = self.ours["children"][0]
        return child

    @property
    def their_child(self) -> ChildSaState:
        """strongSwan's view of it."""
        return self.theirs.children[0]

    @property
    def spis(self) -> tuple[bytes, bytes]:
        """SPIi and SPIr, from strongSwan."""
        return self.theirs.spi_i, self.theirs.spi_r


@dataclass(slots=True)
class Run:
    """One case while it runs: both ends, and what was checked."""

    case: Case
    hosts: TwoHosts
    ours: Ours
    peer: StrongSwan
    log_start: int
    checks: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    in_udp: list[int] = field(default_factory=list)
    id_types: dict[str, str] = field(default_factory=dict)
    router: Router | None = None

    # --- checks --------------------------------------------------------------------------------------------------

    def check(self, what: str, condition: object) -> None:
        """Notes a fact; Mismatch when it is none."""
        if not condition:
            raise Mismatch(f"not so: {what}")
        self.checks.append(what)

    def same(self, what: str, ours: object, theirs: object) -> None:
        """Notes that two things are the same; Mismatch with both when not. Octets are compared and never shown."""
        if ours != theirs:
            secret = isinstance(ours, bytes)
            raise Mismatch(f"{what}: differ" if secret else f"{what}: ours {ours!r}, theirs {theirs!r}")
        self.checks.append(f"{what}: equal" + ("" if isinstance(ours, bytes) else f" ({ours})"))

    def our_log_has(self, pattern: str) -> None:
        """Waits for a line of our log."""
        self.ours.wait_log(pattern)
        self.checks.append(f"our log has `{pattern}`")

    def peer_log_has(self, pattern: str) -> None:
        """Waits for a line of strongSwan's log."""
        self.peer.wait_log(pattern, self.log_start)
        self.checks.append(f"strongSwan's log has `{pattern}`")

    # --- the NAT -------------------------------------------------------------------------------------------------

    @property
    def nat(self) -> Nat44:
        """The NAT between the ends. Mismatch when the scenario has none."""
        if self.router is None or self.router.nat is None:
            raise Mismatch("this scenario has no NAT")
        return self.router.nat

    def rebind(self) -> None:
        """The NAT forgets its mappings: what comes from behind it next has another port."""
        if self.router is not None:
            self.router.call(self.nat.rebind)

    # --- steps ---------------------------------------------------------------------------------------------------

    def initiate(self) -> None:
        """Whose turn it is initiates; IkeError or PeerError when it is refused."""
        started = time.monotonic()
        if self.case.we_initiate:
            self.ours.up(CONNECTION)
        else:
            self.peer.initiate(CHILD)
        self.figures["initiate_ms"] = round(1000 * (time.monotonic() - started), 1)

    def refused(self) -> str:
        """Initiates and is refused; the initiator's words. Mismatch when it comes up."""
        try:
            self.initiate()
        except (IkeError, PeerError) as error:
            self.checks.append("the initiator is told that it failed")
            return str(error)
        raise Mismatch("it came up, and should have been refused")

    def established(self, role: str | None = None) -> Tunnel:
        """Both ends' view of the IKE SA and its one Child SA, once both have it; `role` of ours if not the case's."""
        role = role or self.case.role
        theirs = self.peer.wait_sas(
            lambda sas: (
                [sa.state for sa in sas] == ["ESTABLISHED"]
                and [child.state for child in sas[0].children] == ["INSTALLED"]
            )
        )
        ours = wait_until(
            self.ours.sas,
            lambda sas: [sa["state"] for sa in sas] == ["ESTABLISHED"] and len(sas[0]["children"]) == 1,
            RECEIVE_S,
        )
        tunnel = Tunnel(ours[0], theirs[0])
        self.same("SPIi", tunnel.ours["spi_i"], tunnel.theirs.spi_i.hex())
        self.same("SPIr", tunnel.ours["spi_r"], tunnel.theirs.spi_r.hex())
        self.same("ESP SPI towards us", tunnel.our_child["spi_in"], f"{tunnel.their_child.spi_out:08x}")
        self.same("ESP SPI towards strongSwan", tunnel.our_child["spi_out"], f"{tunnel.their_child.spi_in:08x}")
        self.same("selectors of ours", tuple(tunnel.our_child["ts_local"]), tunnel.their_child.remote_ts)
        self.same("selectors of strongSwan", tuple(tunnel.our_child["ts_remote"]), tunnel.their_child.local_ts)
        self.check(f"our role is {role}", tunnel.ours["role"] == role)
        return tunnel

    def bring_up(self) -> Tunnel:
        """Initiate, and look at both ends."""
        self.initiate()
        return self.established()

    def gone(self) -> None:
        """Waits until neither end has an SA."""
        self.peer.wait_sas(lambda sas: not sas)
        wait_until(self.ours.sas, lambda sas: not sas, RECEIVE_S)
        self.checks.append("neither end has an SA")

    def datagrams(
        self,
        our_address: str = "192.0.2.1",
        peer_address: str = "192.0.2.2",
        count: int = 20,
        octets: int = 200,
        *,
        our_port: int = 0,
        peer_port: int = 0,
    ) -> None:
        """UDP datagrams in both directions, and their inner octets in the counters of both ends; port 0 is any."""
        family = socket.AF_INET6 if ":" in our_address else socket.AF_INET
        header = 48 if family == socket.AF_INET6 else 28
        before = self.counters()
        payloads = [MARKER + bytes([number]) + secrets.token_bytes(octets) for number in range(count)]
        with (
            self._socket("a", family, our_address, our_port) as ours,
            self._socket("b", family, peer_address, peer_port) as theirs,
        ):
            for sender, receiver in ((ours, theirs), (theirs, ours)):
                for payload in payloads:
                    sender.sendto(payload, receiver.getsockname())
                    got, source = receiver.recvfrom(65535)
                    if got != payload or source[:2] != sender.getsockname()[:2]:
                        raise Mismatch(f"a datagram from {source[0]} is not the one that was sent")
        child = self.ours.sas()[0]["children"][0]
        self.in_udp += [int(child[name], 16) for name in ("spi_in", "spi_out")]
        self.checks.append(f"{count} UDP datagrams each way arrived")
        expected = count * (header + len(payloads[0]))
        after = self.counters()
        for name, more in (("packets", count), ("octets", expected)):
            for ours_way, theirs_way in (("out", "in"), ("in", "out")):
                ours_key, theirs_key = f"{name}_{ours_way}", f"{name}_{theirs_way}"
                self.same(f"our {ours_key}", after[0][ours_key] - before[0][ours_key], more)
                self.same(f"strongSwan's {theirs_key}", after[1][theirs_key] - before[1][theirs_key], more)
        self.figures["counters"] = after[0]

    def datagram_of_peer(self, our_address: str, peer_address: str) -> None:
        """One UDP datagram from strongSwan's host to ours."""
        with (
            self._socket("a", socket.AF_INET, our_address) as ours,
            self._socket("b", socket.AF_INET, peer_address) as theirs,
        ):
            theirs.sendto(MARKER, ours.getsockname())
            self.same("a datagram of strongSwan's host", ours.recv(65535) == MARKER, True)

    def counters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Packets and octets, in and out, of our Child SA and of strongSwan's."""
        names = [f"{what}_{way}" for what in ("packets", "octets") for way in ("in", "out")]
        mine, child = self.ours.sas()[0]["children"][0], self.peer.list_sas()[0].children[0]
        return {name: mine[name] for name in names}, {name: getattr(child, name) for name in names}

    def has_logged_keys(self, tunnel: Tunnel) -> bool:
        """Whether strongSwan's log shows SK_d under this IKE SA's own number."""
        found = self.peer.log_secrets(self.log_start).get(tunnel.theirs.unique_id)
        return found is not None and "SK_d" in found.sk

    def logged_keys(self, tunnel: Tunnel) -> LoggedKeys:
        """The keys of this IKE SA in strongSwan's log."""
        found = self.peer.log_secrets(self.log_start).get(tunnel.theirs.unique_id)
        if found is None or "SK_d" not in found.sk:
            raise Mismatch("strongSwan's log does not show SK_d of this IKE SA")
        return found

    def same_secret(
        self, tunnel: Tunnel, derivation: str, key: bytes, context: bytes, *, server_is_local: bool = False
    ) -> None:
        """Our key agent's output equals HMAC of `context` under strongSwan's `key`, computed here."""
        handle = self.ours.key(*tunnel.spis, derivation, server_is_local=server_is_local)
        with contextlib.closing(handle):
            expected = hmac.digest(key, context, PRF_HASHES[handle.prf_name])
            name = "server here" if server_is_local else "server there"
            what = f"{derivation} ({handle.prf_name}{', ' + name if derivation == 'keymat-sid' else ''})"
            self.same(
                f"secret of {what} from our agent and from strongSwan's keys", handle.secret(context), expected
            )
            self.same(f"peer identity of the {derivation} handle", handle.peer_identity, PEER_ID)
            if derivation == "keymat-sid":
                spi = tunnel.their_child.spi_out if server_is_local else tunnel.their_child.spi_in
                self.same("SPI on which the server receives", handle.child_spi, spi)

    @contextlib.contextmanager
    def oracle_server(self) -> Iterator[None]:
        """The TWAMP server on host b that has its keys from strongSwan's log."""
        path = self.ours.directory / "oracle_server.log"
        argv = [sys.executable, "-m", "interop.peers.oracle_server", str(self.peer.directory)]
        with path.open("wb") as log:
            process = start_and_wait(
                self.peer.namespace, argv, self.ours.directory, path.read_text, os.environ, log
            )
        try:
            yield
        finally:
            end(process)

    def sent_identities(self, initiators: str, responders: str) -> None:
        """What the capture is to have as types of IDi and IDr, at the end of the case."""
        self.id_types = {"IDi": initiators, "IDr": responders}

    def look_at_capture(self, path: Path) -> None:
        """All that `datagrams` sent went as ESP in UDP, and nothing of it in clear. For the end of a case."""
        captured = path.read_bytes()
        if self.id_types:
            messages = [one.to_dict() for one in decode_capture(path, self.ours.keys_path)]
            payloads: list[Any] = [payload for one in messages for payload in one["payloads"]]  # type: ignore[attr-defined]
            for kind, id_type in self.id_types.items():
                found = {one["id_type"] for one in payloads if one["type"] == kind}
                self.same(f"type of {kind} on the wire", found, {id_type})
        # Ports 4500 and 4500 (or what a NAT makes of one), length, checksum, SPI. RFC 3948 section 2.1.
        ports = b"(?:\x11\x94..|..\x11\x94)" if self.router is not None else b"\x11\x94\x11\x94"
        for spi in self.in_udp:
            pattern = ports + b".{4}" + re.escape(spi.to_bytes(4, "big"))
            self.check(f"the capture has ESP in UDP with SPI {spi:08x}", re.search(pattern, captured, re.DOTALL))
        if self.in_udp:
            self.check("no datagram is in the capture in clear", MARKER not in captured)

    @contextlib.contextmanager
    def _socket(self, host: str, family: int, address: str, port: int = 0) -> Iterator[socket.socket]:
        sock = self.hosts.call(host, lambda: socket.socket(family, socket.SOCK_DGRAM))
        with sock:
            sock.bind((address, port))
            sock.settimeout(RECEIVE_S)
            yield sock
