"""The catalogue: scenario folders, and the cases into which they unfold.

A scenario is a folder here with two files. `scenario.toml` says what both ends are configured for; `expect.py` has
`expect(run)`, which makes it happen and checks it. It unfolds into cases, one for each variant and for each role of
ours: `psk-tunnel/aes128gcm-curve25519/initiator`.

    summary = "..."                       one sentence
    roles = ["initiator", "responder"]    ours
    requirements = ["rfc7717-s5.1-02"]    what the cases prove; requirements.initiator, when they do in that role
    ike, esp                              proposals of both ends
    ours.connection, ours.child, ours.endpoint, ours.pools, ours.impair     words of our configuration file
    peer.connection, peer.child, peer.pools, peer.other_psk     words of swanctl.conf
    peer.charon                           words of strongswan.conf
    nat                                   "ours" or "peer": this end is behind a NAT; both have other addresses then
    variants.NAME                         any of these again, merged over the others
"""

from __future__ import annotations

import fnmatch
import importlib.util
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interop.peers.strongswan import Section

if TYPE_CHECKING:
    from interop.scenarios.run import Run

SCENARIOS = Path(__file__).parent
ROLES = ("initiator", "responder")
CONNECTION, CHILD = "lab", "net"
OUR_ID, PEER_ID = "a.example", "b.example"
OUR_ADDRESS, PEER_ADDRESS = "192.0.2.1", "192.0.2.2"
BY_NAT = {
    # The end behind the NAT calls the other one's address, and is seen under the NAT's own.
    "ours": {"ours": "198.51.100.1", "seen": "203.0.113.5", "peer": "203.0.113.2"},
    "peer": {"peer": "203.0.113.2", "seen": "198.51.100.5", "ours": "198.51.100.1"},
}
_KEYS = {"summary", "roles", "requirements", "ike", "esp", "ours", "peer", "nat", "variants"}


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a scenario: a variant in a role of ours."""

    scenario: str
    variant: str
    role: str
    summary: str
    requirements: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As `psk-tunnel/aes128gcm-curve25519/initiator`."""
        return "/".join(part for part in (self.scenario, self.variant, self.role) if part)

    @property
    def nat(self) -> str:
        """Which end is behind a NAT: "ours", "peer", or neither."""
        found: str = self.settings.get("nat", "")
        return found

    def addresses(self, side: str) -> tuple[str, str]:
        """The own address of `side`, and the one under which it sees the other."""
        other = {"ours": "peer", "peer": "ours"}[side]
        if not self.nat:
            plain = {"ours": OUR_ADDRESS, "peer": PEER_ADDRESS}
            return plain[side], plain[other]
        places = BY_NAT[self.nat]
        return places[side], places["seen" if other == self.nat else other]

    @property
    def we_initiate(self) -> bool:
        """True when the first IKE_SA_INIT request is ours."""
        return self.role == "initiator"

    def part(self, side: str, name: str) -> dict[str, Any]:
        """A table of `ours` or `peer`, empty when the scenario has none."""
        found: dict[str, Any] = self.settings.get(side, {}).get(name, {})
        return found


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return merged


def _requirements(settings: Mapping[str, Any], role: str) -> tuple[str, ...]:
    found = settings.get("requirements", ())
    return tuple(found.get(role, ()) if isinstance(found, Mapping) else found)


def load_scenario(path: Path) -> list[Case]:
    """The cases of a scenario folder. ValueError when its scenario.toml has words that nobody knows."""
    document = tomllib.loads((path / "scenario.toml").read_text("utf-8"))
    variants = document.pop("variants", {"": {}})
    cases = []
    for variant, over in variants.items():
        settings = _merge(document, over)
        if unknown := set(settings) - _KEYS:
            raise ValueError(f"{path / 'scenario.toml'}: unknown: {', '.join(sorted(unknown))}")
        cases += [
            Case(path.name, variant, role, settings["summary"], _requirements(settings, role), settings)
            for role in settings.get("roles", ROLES)
        ]
    return cases


def load_cases(patterns: Sequence[str] = ()) -> list[Case]:
    """All cases, or those whose name or scenario matches one of the patterns."""
    paths = sorted(path.parent for path in SCENARIOS.glob("*/scenario.toml"))
    cases = [case for path in paths for case in load_scenario(path)]
    if not patterns:
        return cases
    return [
        case
        for case in cases
        if any(fnmatch.fnmatch(name, p) for p in patterns for name in (case.name, case.scenario))
    ]


@cache
def expectation(scenario: str) -> Callable[[Run], None]:
    """`expect` of a scenario's expect.py."""
    path = SCENARIOS / scenario / "expect.py"
    spec = importlib.util.spec_from_file_location(f"scenario_{scenario.replace('-', '_')}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[Run], None] = module.expect
    return function


def our_document(case: Case) -> dict[str, Any]:
    """Our configuration for a case, without secrets."""
    child = {"esp_proposals": [case.settings["esp"]]} | case.part("ours", "child")
    local, remote = case.addresses("ours")
    connection = {
        "local_addrs": [local],
        "remote_addrs": [remote],
        "proposals": [case.settings["ike"]],
        "local": {"auth": "psk", "id": OUR_ID},
        "remote": {"auth": "psk", "id": PEER_ID},
        "retransmit_timeout": "500ms",
        "retransmit_base": 1.4,
        "retransmit_tries": 4,
    }
    connection = _merge(connection, case.part("ours", "connection")) | {"children": {CHILD: child}}
    endpoint = {"backend": "userspace"} | case.part("ours", "endpoint")
    return {"connections": {CONNECTION: connection}, "pools": case.part("ours", "pools"), "endpoint": endpoint}


def peer_connections(case: Case) -> Section:
    """The `connections` of swanctl.conf for a case."""
    child = {
        "esp_proposals": case.settings["esp"],
        "local_ts": "dynamic",
        "remote_ts": "dynamic",
        "mode": "tunnel",
    } | case.part("peer", "child")
    local, remote = case.addresses("peer")
    connection: dict[str, Any] = {
        "version": 2,
        "local_addrs": local,
        "remote_addrs": remote,
        "proposals": case.settings["ike"],
        "local": {"auth": "psk", "id": PEER_ID},
        "remote": {"auth": "psk", "id": OUR_ID},
    }
    connection = _merge(connection, case.part("peer", "connection"))
    return {CONNECTION: connection | {"children": {CHILD: child}}}
