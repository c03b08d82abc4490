"""What swanctl prints and charon logs, as values: SAs with their counters, and the keys in a log of level 4."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


def parse_raw(text: str) -> dict[str, Any]:
    """What `swanctl --raw` prints, `name {key=value list=[a b] section {...}}`, as nested dictionaries."""
    # A selector may end with its protocol and port in brackets of their own: `192.0.2.1/32[udp/862]`.
    word = r"[^\s{}\[\]]+(?:\[[^\s\[\]]*\])?"
    tokens = re.findall(rf"[{{}}\[\]]|[^\s{{}}\[\]=]+=(?=\[)|[^\s{{}}\[\]=]+=(?:{word})?|{word}", text)
    position = 0

    def section() -> dict[str, Any]:
        nonlocal position
        found: dict[str, Any] = {}
        while position < len(tokens) and tokens[position] != "}":
            key, _, value = tokens[position].partition("=")
            position += 1
            following = tokens[position] if position < len(tokens) else ""
            if following == "{" and not value:
                position += 1
                found[key] = section()
                position += 1
            elif following == "[" and not value:
                end = tokens.index("]", position)
                found[key] = tokens[position + 1 : end]
                position = end + 1
            else:
                found[key] = value
        return found

    return section()


@dataclass(frozen=True, slots=True)
class ChildSaState:
    """A Child SA as strongSwan lists it; its counters are of inner octets and packets."""

    name: str
    state: str
    mode: str
    encap: bool
    spi_in: int
    spi_out: int
    local_ts: tuple[str, ...]
    remote_ts: tuple[str, ...]
    packets_in: int
    octets_in: int
    packets_out: int
    octets_out: int


@dataclass(frozen=True, slots=True)
class IkeSaState:
    """An IKE SA as strongSwan lists it. `unique_id` is the number in its log.

    `children` is without those that were deleted after rekeying: strongSwan takes late packets on them for 5 s more.
    """

    name: str
    unique_id: int
    state: str
    initiator: bool
    spi_i: bytes
    spi_r: bytes
    local_id: str
    remote_id: str
    remote_host: str
    remote_port: int
    nat_remote: bool
    suite: tuple[str, ...]
    children: tuple[ChildSaState, ...]
    local_vips: tuple[str, ...] = ()
    remote_vips: tuple[str, ...] = ()

    @property
    def remote(self) -> str:
        """Where it sends to, as HOST:PORT."""
        host = f"[{self.remote_host}]" if ":" in self.remote_host else self.remote_host
        return f"{host}:{self.remote_port}"


@dataclass(slots=True)
class LoggedKeys:
    """The keys of one IKE SA as strongSwan logged them.

    `sk` has SK_d, SK_ai ... by name, the last value of each; `children` the four keys of each Child SA by the names
    encr_i, integ_i, encr_r, integ_r, with the salt at the end of encr_* for AEAD.
    """

    sk: dict[str, bytes] = field(default_factory=dict)
    children: list[dict[str, bytes]] = field(default_factory=list)

    def keymat(self, child: int = -1) -> bytes:
        """The keying octets of a Child SA in the order in which they were taken. RFC 7296 section 2.17."""
        keys = self.children[child]
        return b"".join(keys.get(name, b"") for name in _KEYMAT_ORDER)

    def __repr__(self) -> str:
        return f"<LoggedKeys {', '.join(self.sk)}; {len(self.children)} Child SAs>"


_KEYMAT_ORDER = ("encr_i", "integ_i", "encr_r", "integ_r")
_CHILD_KEYS = {
    "encryption initiator key": "encr_i",
    "integrity initiator key": "integ_i",
    "encryption responder key": "encr_r",
    "integrity responder key": "integ_r",
}
_DUMP = re.compile(
    r"^\d+\[\w+\] <(?:[^|>]*\|)?(?P<sa>\d+)> (?P<what>(?:Sk_|SK_)\w+ (?:secret|key)|(?:encryption|integrity) "
    r"(?:initiator|responder) key) => (?P<octets>\d+) bytes @ "
)
_DUMP_LINE = re.compile(r"^\d+\[\w+\] <[^>]*> +\d+: (?P<hex>(?:[0-9A-F]{2} )+)")


def parse_keys(log: str) -> dict[int, LoggedKeys]:
    """The keys in a log of level 4, by the IKE SA's unique id."""
    found: dict[int, LoggedKeys] = {}
    for sa, what, octets in _dumps(log.splitlines()):
        keys = found.setdefault(sa, LoggedKeys())
        if what not in _CHILD_KEYS:
            keys.sk[what.split()[0].replace("Sk_", "SK_")] = octets
            continue
        name = _CHILD_KEYS[what]
        if not keys.children or name in keys.children[-1]:
            keys.children.append({})
        keys.children[-1][name] = octets
    return found


def _dumps(lines: list[str]) -> Iterator[tuple[int, str, bytes]]:
    """The hex dumps of keys in a log: whose, what, octets."""
    for number, line in enumerate(lines):
        head = _DUMP.match(line)
        if head is None:
            continue
        wanted = int(head["octets"])
        octets = b""
        prefix = line.partition(" ")[0]
        for following in lines[number + 1 :]:
            if len(octets) >= wanted:
                break
            # Other threads may log in between.
            row = _DUMP_LINE.match(following) if following.startswith(prefix) else None
            if row is not None:
                octets += bytes.fromhex(row["hex"])
        yield int(head["sa"]), head["what"], octets[:wanted]


def parse_sas(text: str) -> list[IkeSaState]:
    """The SAs in the output of `swanctl --list-sas --raw`."""
    # A line is `list-sa event {NAME {...}}`.
    events = (parse_raw(line.partition("{")[2]) for line in text.splitlines() if line.startswith("list-sa event"))
    return [_ike_sa(name, content) for event in events for name, content in event.items()]


@dataclass(frozen=True, slots=True)
class LeaseState:
    """An address of a pool as strongSwan lists it."""

    identity: str
    online: bool


def parse_leases(text: str) -> dict[str, LeaseState]:
    """The leases in the output of `swanctl --list-pools --leases --raw`, by address."""
    found: dict[str, LeaseState] = {}
    for line in text.splitlines():
        for pool in parse_raw(line.partition("{")[2]).values() if "reply {" in line else ():
            for lease in pool.get("leases", {}).values() if isinstance(pool, Mapping) else ():
                found[lease["address"]] = LeaseState(lease["identity"], lease["status"] == "online")
    return found


def tellable(line: str) -> bool:
    """True for a log line that is no dump and announces none."""
    return "=> " not in line and not re.search(r"\] (<[^>]*> )?\s*\d+: [0-9A-F]{2} ", line)


def _ike_sa(name: str, content: Mapping[str, Any]) -> IkeSaState:
    suite = tuple(
        str(content[key])
        for key in ("encr-alg", "encr-keysize", "integ-alg", "prf-alg", "dh-group")
        if content.get(key)
    )
    children = [_child_sa(child) for child in content.get("child-sas", {}).values()]
    return IkeSaState(
        name=name,
        unique_id=int(content["uniqueid"]),
        state=content["state"],
        initiator=content.get("initiator") == "yes",
        spi_i=bytes.fromhex(content["initiator-spi"]),
        spi_r=bytes.fromhex(content["responder-spi"]),
        local_id=content.get("local-id", ""),
        remote_id=content.get("remote-id", ""),
        remote_host=content["remote-host"],
        remote_port=int(content["remote-port"]),
        nat_remote=content.get("nat-remote") == "yes",
        suite=suite,
        children=tuple(child for child in children if child.state != "DELETED"),
        local_vips=tuple(content.get("local-vips", ())),
        remote_vips=tuple(content.get("remote-vips", ())),
    )


def _child_sa(content: Mapping[str, Any]) -> ChildSaState:
    return ChildSaState(
        name=content["name"],
        state=content["state"],
        mode=content["mode"],
        encap=content.get("encap") == "yes",
        spi_in=int(content.get("spi-in", "0"), 16),
        spi_out=int(content.get("spi-out", "0"), 16),
        local_ts=tuple(content.get("local-ts", ())),
        remote_ts=tuple(content.get("remote-ts", ())),
        packets_in=int(content.get("packets-in", 0)),
        octets_in=int(content.get("bytes-in", 0)),
        packets_out=int(content.get("packets-out", 0)),
        octets_out=int(content.get("bytes-out", 0)),
    )
