"""What `list` and `stats` print: the layout of `swanctl --list-sas`, as far as the facts are the same."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = 100
"""How wide text for people may be; a narrower terminal gets less."""


def columns() -> int:
    """The width to fold text to."""
    return max(40, min(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns))


def folded(line: str, width: int, hanging: int | None = None) -> list[str]:
    """A line cut at spaces; what follows is indented by `hanging`, or by four more than the line. Words stay whole."""
    indent = len(line) - len(line.lstrip()) + 4 if hanging is None else hanging
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * min(indent, width // 2),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    ) or [""]


def duration(seconds: int) -> str:
    """`45s`, `3m 20s`, `2h 5m`, `4d 3h`."""
    for unit, length, smaller, less in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= length:
            rest = seconds % length // less
            return f"{seconds // length}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{seconds}s"


def sa_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The reply of `list` as text."""
    if not result["ike_sas"]:
        yield f"no IKE SA; connections: {', '.join(result['connections']) or 'none'}"
    for sa in result["ike_sas"]:
        mark = {True: "*", False: ""}
        ours = sa["role"] == "initiator"
        yield (
            f"{sa['name']}: {sa['state']}, {sa['role']}, "
            f"{sa['spi_i']}_i{mark[ours]} {sa['spi_r']}_r{mark[not ours]}"
        )
        yield f"  local  {_identity(sa['local_id'])} @ {sa['local']}" + (" (behind NAT)" if sa["nat_local"] else "")
        yield f"  remote {_identity(sa['remote_id'])} @ {sa['remote']}" + (
            " (behind NAT)" if sa["nat_remote"] else ""
        )
        if sa["suite"]:
            yield f"  {sa['suite']}, authentication by {sa['auth']}"
        if sa["local_vips"]:
            dns = f", DNS {' '.join(sa['dns'])}" if sa["dns"] else ""
            yield f"  our virtual addresses {' '.join(sa['local_vips'])}{dns}"
        if sa["remote_vips"]:
            yield f"  the peer's virtual addresses {' '.join(sa['remote_vips'])}"
        begun = "begun" if sa["state"] in BEFORE_AUTHENTICATION else "established"
        yield f"  {begun} {duration(sa['age_s'])} ago" + _to_come(
            sa, rekey_in_s="rekeying", reauth_in_s="reauthentication", expires_in_s="expires",
            auth_expires_in_s="authentication expires",
        )  # fmt: skip
        if sa["fragmentation"]:
            yield f"  fragmentation of datagrams above {sa['fragment_octets']} octets"
        for what in ("active", "queued"):
            if sa[f"{what}_tasks"]:
                yield f"  {what}: {'; '.join(sa[f'{what}_tasks'])}"
        for child in sa["children"]:
            encap = "-in-UDP" if child["encap"] else ""
            yield f"  {child['name']}: {_child_state(child)}, {child['mode'].upper()}, ESP{encap}:{child['suite']}"
            yield f"    installed {duration(child['age_s'])} ago" + _to_come(
                child, rekey_in_s="rekeying", expires_in_s="expires"
            )
            yield f"    in  {child['spi_in']}" + _counted(child, "in")
            yield f"    out {child['spi_out']}" + _counted(child, "out")
            yield f"    local  {' '.join(child['ts_local'])}"
            yield f"    remote {' '.join(child['ts_remote'])}"
    for trap in result["traps"]:
        ends = f"{trap['local']} to {trap['remote']}"
        yield f"{trap['name']} of {trap['connection']}: TRAP, {trap['mode'].upper()}, {ends}"
        yield f"    local  {' '.join(trap['ts_local'])}"
        yield f"    remote {' '.join(trap['ts_remote'])}"
    for name, pool in result["pools"].items():
        yield f"pool {name}: {pool['size']} addresses, {pool['online']} in use"
        for lease in pool["leases"]:
            state = "online" if lease["online"] else "offline"
            yield f"  {lease['address']} {state} '{lease['identity']}'"


BEFORE_AUTHENTICATION = ("IDLE", "INIT_SENT", "HALF_OPEN", "AUTH_SENT")


def _identity(text: str) -> str:
    """An identity in quotes; a half-open IKE SA does not have them yet."""
    return f"'{text}'" if text else "(not known yet)"


def _to_come(sa: Mapping[str, Any], **names: str) -> str:
    """`, rekeying in 3h 50m, expires in 4h 24m`: the times that are set."""
    return "".join(f", {name} in {duration(sa[key])}" for key, name in names.items() if sa[key] is not None)


def _child_state(child: Mapping[str, Any]) -> str:
    if child["closing"]:
        return "DELETING"
    if child["replaces"] is not None:
        return f"STANDBY for {child['replaces']}"
    return "REKEYING" if child["rekeying"] else "INSTALLED"


def _counted(child: Mapping[str, Any], way: str) -> str:
    if f"packets_{way}" not in child:
        return ""
    return f", {child[f'octets_{way}']:6} octets, {child[f'packets_{way}']:5} packets"


def stats_lines(result: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested counters as text, one on a line."""
    for key, value in result.items():
        if isinstance(value, Mapping):
            if value:
                yield f"{indent}{key}:"
                yield from stats_lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value}"
