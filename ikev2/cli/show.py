"""What `list` and `stats` print: the layout of `swanctl --list-sas`, as far as the facts are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def sa_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The reply of `list` as text."""
    if not result["ike_sas"]:
        yield "no IKE SA"
    for sa in result["ike_sas"]:
        mark = {True: "*", False: ""}
        ours = sa["role"] == "initiator"
        yield (
            f"{sa['name']}: {sa['state']}, {sa['role']}, "
            f"{sa['spi_i']}_i{mark[ours]} {sa['spi_r']}_r{mark[not ours]}"
        )
        yield f"  local  '{sa['local_id']}' @ {sa['local']}" + (" (behind NAT)" if sa["nat_local"] else "")
        yield f"  remote '{sa['remote_id']}' @ {sa['remote']}" + (" (behind NAT)" if sa["nat_remote"] else "")
        yield f"  {sa['suite']}"
        if sa["local_vips"]:
            dns = f", DNS {' '.join(sa['dns'])}" if sa["dns"] else ""
            yield f"  our virtual addresses {' '.join(sa['local_vips'])}{dns}"
        if sa["remote_vips"]:
            yield f"  the peer's virtual addresses {' '.join(sa['remote_vips'])}"
        yield f"  established {sa['age_s']}s ago"
        for child in sa["children"]:
            encap = "-in-UDP" if child["encap"] else ""
            yield f"  {child['name']}: {child['mode'].upper()}, ESP{encap}:{child['suite']}"
            yield f"    installed {child['age_s']}s ago"
            yield f"    in  {child['spi_in']}" + _counted(child, "in")
            yield f"    out {child['spi_out']}" + _counted(child, "out")
            yield f"    local  {' '.join(child['ts_local'])}"
            yield f"    remote {' '.join(child['ts_remote'])}"
    for name, pool in result["pools"].items():
        yield f"pool {name}: {pool['size']} addresses, {pool['online']} in use"
        for lease in pool["leases"]:
            state = "online" if lease["online"] else "offline"
            yield f"  {lease['address']} {state} '{lease['identity']}'"


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
