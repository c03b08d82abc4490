"""Every algorithm that both ends have, with every other: a pairwise covering set against strongSwan, in both roles.

    python -m interop.pairwise [--list] [PATTERN ...]

The factors are our role, and encryption, integrity algorithm, PRF and key exchange of the IKE SA, and encryption and
integrity algorithm of the Child SA. Each two values of two factors meet in one case at least. Each case is an IKE SA
and a Child SA of its own, with traffic selectors of its own, up at the same time as all others of its role: the end
that begins offers one suite, the other one is configured for all of them. Then a datagram goes each way in every Child
SA, and both ends' counters of each are looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import json
import random
import secrets
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ikev2.crypto.encr import ENCRS, Encr, EncrKind
from ikev2.crypto.integ import INTEGS
from ikev2.crypto.ke import KE_GROUPS
from ikev2.errors import IkeError
from ikev2.io.netns import TwoHosts
from interop.lab.netns import interrupted_by_signals
from interop.peers.ours import Ours
from interop.peers.strongswan import PLUGINS, StrongSwan, wait_until, why_not
from interop.peers.vici import Vici, ViciError
from interop.scenarios.cases import OUR_ID, PEER_ID

ROLES = ("initiator", "responder")
PRFS = ("prfsha1", "prfaesxcbc", "prfsha256", "prfsha384", "prfsha512", "prfaescmac")
OUTER = ("192.0.2.1", "192.0.2.2")
PORT = 9999
IP_PKTINFO = 8
"""Of linux/in.h; not every Python's socket module has a name for it."""
NONE = ""
CHARON: dict[str, Any] = {
    "load": f"{PLUGINS} ctr ccm cmac xcbc",
    "cookie_threshold": 0,
    "dos_protection": False,
    "init_limit_half_open": 0,
}
RECEIVE_S = 5.0


# --- the covering set ------------------------------------------------------------------------------------------------


def covering_set(
    factors: Mapping[str, Sequence[str]], allowed: Callable[[Mapping[str, str]], bool], seed: int = 1
) -> list[dict[str, str]]:
    """Rows with one value of each factor so that any two values of two factors, if `allowed` together, are in one.

    `allowed` is asked with some of the factors only: it says whether they can be in one row. The same for the same
    seed; greedy, and so not the smallest one.
    """
    names = list(factors)
    chance = random.Random(seed)
    missing = {
        frozenset(pair)
        for one, other in itertools.combinations(names, 2)
        for pair in itertools.product(
            [(one, value) for value in factors[one]], [(other, value) for value in factors[other]]
        )
        if allowed(dict(pair))
    }
    rows = []
    while missing:
        row = dict(min(missing, key=sorted))
        rest = [name for name in names if name not in row]
        chance.shuffle(rest)
        # Integrity algorithms depend on the cipher, which comes first.
        for name in sorted(rest, key=lambda name: "integ" in name):
            values = [value for value in factors[name] if allowed(row | {name: value})]
            chance.shuffle(values)
            row[name] = max(values, key=lambda value: _gain(row, name, value, missing))
        missing -= {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}
        rows.append({name: row[name] for name in names})
    return rows


def _gain(row: Mapping[str, str], name: str, value: str, missing: set[frozenset[tuple[str, str]]]) -> int:
    return sum(frozenset((item, (name, value))) in missing for item in row.items())


def _carried_by_both(row: Encr) -> bool:
    """strongSwan 5.9 has no cipher with an implicit IV (RFC 8750), and its userspace ESP no AES-GMAC (RFC 4543)."""
    return row.kind is not EncrKind.GMAC and (row.iv_octets > 0 or row.kind is EncrKind.NULL)


FACTORS: dict[str, Sequence[str]] = {
    "role": ROLES,
    "encr": [row.keyword for row in ENCRS.values() if row.for_ike],
    "integ": [NONE, *(row.keyword for row in INTEGS.values())],
    "prf": PRFS,
    "ke": [group.name for group in KE_GROUPS.values()],
    "esp_encr": [row.keyword for row in ENCRS.values() if _carried_by_both(row)],
    "esp_integ": [NONE, *(row.keyword for row in INTEGS.values())],
}
_AEADS = {row.keyword for row in ENCRS.values() if row.is_aead}


def fits(row: Mapping[str, str]) -> bool:
    """Combined modes go without an integrity algorithm, the others with one."""
    return all(
        (row[encr] in _AEADS) == (row[integ] == NONE)
        for encr, integ in (("encr", "integ"), ("esp_encr", "esp_integ"))
        if encr in row and integ in row
    )


@dataclass(frozen=True)
class Case:
    """One row: an IKE SA and a Child SA of exactly these algorithms."""

    number: int
    role: str
    ike: str
    esp: str

    @property
    def name(self) -> str:
        """As `aes128-sha256-prfsha256-modp2048+aes128gcm16/initiator`."""
        return f"{self.ike}+{self.esp}/{self.role}"

    @property
    def connection(self) -> str:
        return f"lab{self.number}"

    @property
    def child(self) -> str:
        return f"net{self.number}"

    @cached_property
    def inner(self) -> tuple[str, str]:
        """The address in the tunnel at our end, and that at strongSwan's."""
        high, low = divmod(self.number, 250)
        return f"10.1.{high}.{low + 1}", f"10.2.{high}.{low + 1}"


def _join(*words: str) -> str:
    return "-".join(word for word in words if word)


def load_cases(patterns: Sequence[str] = ()) -> list[Case]:
    """All rows, or those whose names match one of the patterns."""
    cases = [
        Case(
            number,
            row["role"],
            _join(row["encr"], row["integ"], row["prf"], row["ke"]),
            _join(row["esp_encr"], row["esp_integ"]),
        )
        for number, row in enumerate(covering_set(FACTORS, fits))
    ]
    return [case for case in cases if not patterns or any(fnmatch.fnmatch(case.name, p) for p in patterns)]


# --- configurations --------------------------------------------------------------------------------------------------


def _all_of(kind: str) -> list[str]:
    """Two proposals with every algorithm: the combined modes, and the others."""
    encr, integ = ("encr", "integ") if kind == "ike" else ("esp_encr", "esp_integ")
    rest = [*FACTORS["prf"], *FACTORS["ke"]] if kind == "ike" else []
    aead = [word for word in FACTORS[encr] if word in _AEADS]
    other = [word for word in FACTORS[encr] if word not in _AEADS]
    return ["-".join([*aead, *rest]), "-".join([*other, *FACTORS[integ][1:], *rest])]


def our_document(cases: Sequence[Case], role: str) -> dict[str, Any]:
    """A connection for each case that we begin, or one for all that strongSwan begins."""

    def connection(proposals: list[str], child: str, values: dict[str, Any]) -> dict[str, Any]:
        return {
            "local_addrs": [OUTER[0]],
            "remote_addrs": [OUTER[1]],
            "proposals": proposals,
            "local": {"auth": "psk", "id": OUR_ID},
            "remote": {"auth": "psk", "id": PEER_ID},
            "children": {child: values},
        }

    if role == "responder":
        child = {"esp_proposals": _all_of("esp"), "local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"]}
        connections = {"any": connection(_all_of("ike"), "any", child)}
    else:
        connections = {
            case.connection: connection(
                [case.ike],
                case.child,
                {
                    "esp_proposals": [case.esp],
                    "local_ts": [f"{case.inner[0]}/32"],
                    "remote_ts": [f"{case.inner[1]}/32"],
                },
            )
            for case in cases
        }
    return {"connections": connections, "endpoint": {"backend": "userspace"}}


def peer_connections(cases: Sequence[Case], role: str) -> dict[str, Any]:
    """The `connections` of swanctl.conf; `role` is ours."""

    def connection(proposals: str, child: str, values: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": 2,
            "local_addrs": OUTER[1],
            "remote_addrs": OUTER[0],
            "proposals": proposals,
            "unique": "never",
            "local": {"auth": "psk", "id": PEER_ID},
            "remote": {"auth": "psk", "id": OUR_ID},
            "children": {child: {"mode": "tunnel"} | values},
        }

    if role == "initiator":
        child = {"esp_proposals": ",".join(_all_of("esp")), "local_ts": "10.2.0.0/16", "remote_ts": "10.1.0.0/16"}
        return {"any": connection(",".join(_all_of("ike")), "any", child)}
    return {
        case.connection: connection(
            case.ike,
            case.child,
            {
                "esp_proposals": case.esp,
                "local_ts": f"{case.inner[1]}/32",
                "remote_ts": f"{case.inner[0]}/32",
            },
        )
        for case in cases
    }


# --- running ---------------------------------------------------------------------------------------------------------


class _Plane:
    """A UDP socket on each host that sends from any of its addresses."""

    def __init__(self, hosts: TwoHosts) -> None:
        self._sockets = [hosts.call(host, self._open) for host in "ab"]

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0", PORT))
        sock.settimeout(RECEIVE_S)
        return sock

    def both_ways(self, ours: str, theirs: str) -> int:
        """A datagram from us to the peer, and another back; octets of the IP packet. OSError, ValueError."""
        payload = b"pairwise " + secrets.token_bytes(40)
        for sender, receiver, source, destination in ((0, 1, ours, theirs), (1, 0, theirs, ours)):
            # struct in_pktinfo: interface, the source address, unused.
            info = struct.pack("=i4s4s", 0, socket.inet_aton(source), bytes(4))
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, info)]
            self._sockets[sender].sendmsg([payload], ancillary, 0, (destination, PORT))
            got, address = self._sockets[receiver].recvfrom(2048)
            if got != payload or address[0] != source:
                raise ValueError(f"a datagram from {address[0]} that {source} did not send")
        return 20 + 8 + len(payload)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def _by_selectors(sas: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Our IKE SAs and their Child SAs by the inner addresses."""
    return {
        (child["ts_local"][0].removesuffix("/32"), child["ts_remote"][0].removesuffix("/32")): (sa, child)
        for sa in sas
        for child in sa["children"]
    }


def _theirs_by_selectors(vici: Vici) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {
        (child["remote-ts"][0].removesuffix("/32"), child["local-ts"][0].removesuffix("/32")): (sa, child)
        for event in vici.events("list-sas", "list-sa")
        for sa in event.values()
        for child in sa["child-sas"].values()
    }


_WORDS = {
    "AES_CBC": "aes{bits}",
    "AES_CTR": "aes{bits}ctr",
    **{f"AES_GCM_{icv}": f"aes{{bits}}gcm{icv}" for icv in (8, 12, 16)},
    **{f"AES_CCM_{icv}": f"aes{{bits}}ccm{icv}" for icv in (8, 12, 16)},
    "CHACHA20_POLY1305": "chacha20poly1305",
    "NULL": "null",
    "HMAC_SHA1_96": "sha1",
    "AES_XCBC_96": "aesxcbc",
    "AES_CMAC_96": "aescmac",
    "HMAC_SHA2_256_128": "sha256",
    "HMAC_SHA2_384_192": "sha384",
    "HMAC_SHA2_512_256": "sha512",
    "PRF_HMAC_SHA1": "prfsha1",
    "PRF_AES128_XCBC": "prfaesxcbc",
    "PRF_AES128_CMAC": "prfaescmac",
    "PRF_HMAC_SHA2_256": "prfsha256",
    "PRF_HMAC_SHA2_384": "prfsha384",
    "PRF_HMAC_SHA2_512": "prfsha512",
    **{f"MODP_{bits}": f"modp{bits}" for bits in (2048, 3072, 4096, 6144, 8192)},
    **{f"ECP_{bits}": f"ecp{bits}" for bits in (256, 384, 521)},
    **{f"ECP_{bits}_BP": f"ecp{bits}bp" for bits in (224, 256, 384, 512)},
    "CURVE_25519": "curve25519",
    "CURVE_448": "curve448",
}
"""strongSwan's own names of what it has negotiated, and its keywords for them."""


def _peers_words(sa: Mapping[str, Any], *keys: str) -> str:
    """The keywords of what strongSwan lists as negotiated."""
    bits = sa.get("encr-keysize", "")
    return _join(*(_WORDS.get(sa[key], sa[key]).format(bits=bits) for key in keys if sa.get(key)))


@dataclass(slots=True)
class Verdict:
    """What became of a case; `failure` is empty when all was as expected."""

    name: str
    failure: str

    def to_dict(self) -> dict[str, str]:
        return {"name": self.name, "failure": self.failure}


class PairwiseLab:
    """Two hosts with an inner address for each case, one charon, and one endpoint of ours for each role."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.seconds: dict[str, float] = {}

    def run(self, cases: Sequence[Case]) -> dict[str, Verdict]:
        """All cases of both roles; a verdict for each."""
        verdicts = {}
        ends = [[f"{OUTER[end]}/24", *(f"{case.inner[end]}/32" for case in cases)] for end in (0, 1)]
        settings = CHARON
        with contextlib.ExitStack() as stack:
            hosts = stack.enter_context(TwoHosts(*ends))
            peer = stack.enter_context(StrongSwan(hosts.host("b"), self._directory / "peer", settings, log_level=1))
            for role in ROLES:
                some = [case for case in cases if case.role == role]
                if some:
                    started = time.monotonic()
                    for case in some:
                        verdicts[case.name] = Verdict(case.name, "the matrix ended before this case")
                    self._role(hosts, peer, some, role, verdicts)
                    self.seconds[role] = time.monotonic() - started
        return verdicts

    def _role(
        self, hosts: TwoHosts, peer: StrongSwan, cases: Sequence[Case], role: str, verdicts: dict[str, Verdict]
    ) -> None:
        psk = f"0x{secrets.token_hex(32)}"
        peer.load(peer_connections(cases, role), {"ike-lab": {"id-a": OUR_ID, "id-b": PEER_ID, "secret": psk}})
        ours = Ours(hosts.host("a"), self._directory / role, our_document(cases, role), psk)
        with ours, Vici(peer.vici_path) as vici, contextlib.closing(_Plane(hosts)) as plane:
            up = []
            for case in cases:
                try:
                    if role == "initiator":
                        ours.up(case.connection)
                    else:
                        vici.command("initiate", {"child": case.child, "timeout": "10000", "loglevel": "-1"})
                except (IkeError, ViciError) as error:
                    verdicts[case.name] = Verdict(case.name, f"{type(error).__name__}: {error}")
                else:
                    up.append(case)
            self._traffic(ours, vici, plane, up, verdicts)

    def _traffic(
        self, ours: Ours, vici: Vici, plane: _Plane, cases: Sequence[Case], verdicts: dict[str, Verdict]
    ) -> None:
        wait_until(lambda: len(_by_selectors(ours.sas())), lambda count: count >= len(cases), RECEIVE_S)
        octets: dict[str, int] = {}
        for case in cases:
            try:
                octets[case.name] = plane.both_ways(*case.inner)
            except (OSError, ValueError) as error:
                verdicts[case.name] = Verdict(case.name, f"no datagram both ways: {error}")
        here, there = _by_selectors(ours.sas()), _theirs_by_selectors(vici)
        for case in cases:
            if case.name in octets:
                failure = _judge(case, here.get(case.inner), there.get(case.inner), octets[case.name])
                verdicts[case.name] = Verdict(case.name, failure)


def _judge(case: Case, ours: tuple[Any, Any] | None, theirs: tuple[Any, Any] | None, octets: int) -> str:
    """What is wrong with a case whose datagrams arrived; empty when nothing is."""
    if ours is None or theirs is None:
        return f"there is no Child SA with its selectors at {'our' if ours is None else 'the peers'} end"
    (our_sa, our_child), (their_sa, their_child) = ours, theirs
    seen = {
        "IKE suite at our end": (_with_prf(our_sa["suite"]), case.ike),
        "IKE suite at the peer's": (_peers_words(their_sa, "encr-alg", "integ-alg", "prf-alg", "dh-group"), case.ike),
        "ESP suite at our end": (our_child["suite"], case.esp),
        "ESP suite at the peer's": (_peers_words(their_child, "encr-alg", "integ-alg"), case.esp),
        "SPIs": (
            (our_sa["spi_i"], our_sa["spi_r"], our_child["spi_in"], our_child["spi_out"]),
            (
                their_sa["initiator-spi"], their_sa["responder-spi"], their_child["spi-out"], their_child["spi-in"]
            ),
        ),
        "our role": (our_sa["role"], case.role),
    }  # fmt: skip
    for way in ("in", "out"):
        seen[f"our packets and octets {way}"] = (
            (our_child[f"packets_{way}"], our_child[f"octets_{way}"]),
            (1, octets),
        )
        seen[f"the peer's packets and octets {way}"] = (
            (int(their_child[f"packets-{way}"]), int(their_child[f"bytes-{way}"])),
            (1, octets),
        )
    return "; ".join(f"{what}: {got}, not {wanted}" for what, (got, wanted) in seen.items() if got != wanted)


def _with_prf(keyword: str) -> str:
    """Our keyword of a suite leaves the PRF out where the integrity algorithm names it."""
    words = keyword.split("-")
    if any(word.startswith("prf") for word in words):
        return keyword
    return _join(*words[:2], f"prf{words[1]}", *words[2:])


def main(arguments: Sequence[str] | None = None) -> int:
    """0 all as expected, 1 a case failed or none can run here, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m interop.pairwise", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names of cases, as '*ecp224bp*'")
    parser.add_argument("--list", action="store_true", help="the cases, and nothing else")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and configurations here")
    options = parser.parse_args(arguments)
    cases = load_cases(options.patterns)
    if options.list:
        for case in cases:
            print(case.name)
        return 0
    if (reason := why_not()) is not None:
        print(f"nothing can run here: {reason}", file=sys.stderr)
        return 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupted_by_signals())
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = PairwiseLab(directory)
        verdicts = lab.run(cases)
    failed = [verdict for verdict in verdicts.values() if verdict.failure]
    for verdict in failed:
        print(json.dumps(verdict.to_dict()))
    seconds = ", ".join(f"{role} {time_s:.1f} s" for role, time_s in lab.seconds.items())
    print(f"{len(verdicts)} cases, {len(failed)} failed; {seconds}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
