"""The demo's summary for a person: the SAs, the key chain as fingerprints, the measurements, the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from binding.derivation import Derivation

if TYPE_CHECKING:
    from binding.demo import DemoResult


MINIMUM_WIDTH = 120


def milliseconds(nanoseconds: int | None) -> str:
    """Nanoseconds as milliseconds with three decimals; a dash for none."""
    return "-" if nanoseconds is None else f"{nanoseconds // 1_000_000}.{nanoseconds % 1_000_000 // 1000:03d}"


def print_summary(result: DemoResult, report: Path) -> None:
    """Print it to stdout."""
    console = Console(highlight=False, soft_wrap=True)
    if console.width < MINIMUM_WIDTH:
        console.width = MINIMUM_WIDTH
    console.print()
    console.print(f"[bold]Hosts[/bold]    {result.place}")
    reason = result.reason.removeprefix(f"{result.backend}: ")
    console.print(f"[bold]Backend[/bold]  {result.backend}: {reason}")
    if result.ike_sa is not None:
        _sas(console, result.ike_sa)
    _chain(console, result.records_a)
    _runs(console, result.runs)
    for refusal in result.refusals:
        console.print(f"[bold]Refusal[/bold]  {refusal['what']}")
        console.print(f"         {refusal['message']}")
    for failure in result.failures:
        console.print(f"[bold red]Failed[/bold red]   {failure}")
    console.print(f"[bold]Report[/bold]   {report}/demo.json; captures {report}/{{a,b}}/host.pcapng")
    console.print(
        f"         WIRESHARK_CONFIG_DIR={report}/a/keys tshark -r {report}/a/host.pcapng   decrypts IKE and ESP"
    )
    console.print(
        "[bold green]Done: all as it should be[/bold green]"
        if result.ok
        else "[bold red]Not as it should be[/bold red]"
    )


def _sas(console: Console, sa: dict[str, Any]) -> None:
    console.print(
        f"[bold]IKE SA[/bold]   SPIi {sa['spi_i']} SPIr {sa['spi_r']}  {sa['suite']}  {sa['auth']}\n"
        f"         {sa['local_id']} {sa['local']} <-> {sa['remote_id']} {sa['remote']}"
    )
    for child in sa["children"]:
        selectors = f"{', '.join(child['ts_local'])} <-> {', '.join(child['ts_remote'])}"
        console.print(
            f"[bold]Child SA[/bold] SPIs in {child['spi_in']} out {child['spi_out']}  {child['suite']}  "
            f"{child['mode']}  {selectors}"
        )


def _chain(console: Console, records: list[dict[str, Any] | None]) -> None:
    console.print("[bold]Keys[/bold]     as fingerprints (SHA-256, 16 hex digits), never the keys")
    for record in records:
        if record is None:
            continue
        names = [f"{name.split()[0]} {value}" for name, value in record["fingerprints"].items()]
        console.print(
            f"         {Derivation(record['derivation']).described}, {record['prf']}: " + " -> ".join(names)
        )


def _counted(child: dict[str, Any]) -> str:
    """The Child SA's packet counters before and after a run, each way."""
    before, after = child["before"], child["after"]
    return ", ".join(f"{before[name]} -> {after[name]}" for name in ("packets_out", "packets_in"))


def _runs(console: Console, runs: list[dict[str, Any]]) -> None:
    table = Table(title="TWAMP, round trip in ms", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in (
        "mode",
        "derivation",
        "path",
        "sent",
        "lost",
        "min",
        "median",
        "p95",
        "max",
        "keys",
        "Child SA out, in",
    ):
        table.add_column(
            column, justify="right" if column in {"sent", "lost", "min", "median", "p95", "max"} else "left"
        )
    for run in runs:
        result, delay, child = run["result"], run["result"]["delay"] or {}, run["child_sa"]
        table.add_row(
            run["mode"],
            run["derivation"] or "none",
            run["path"],
            str(result["sent"]),
            str(result["lost"]),
            *(milliseconds(delay.get(name)) for name in ("minimum_ns", "median_ns", "p95_ns", "maximum_ns")),
            {True: "equal", False: "DIFFER", None: "-"}[run["keys_equal"]],
            "-" if child is None else _counted(child),
        )
    console.print(table)
