"""The console script's group is that of the commands, without importing them for its help."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from ippm.cli.entry import COMMANDS
from ippm.cli.entry import cli as entry
from ippm.cli.main import cli


def test_it_has_each_command_and_its_line_of_the_help() -> None:
    assert set(COMMANDS) == set(cli.commands)
    context = click.Context(entry)
    for name, (_, line) in COMMANDS.items():
        command = entry.get_command(context, name)
        assert command is cli.commands[name]
        assert line == command.get_short_help_str(limit=80)
    assert entry.help == cli.help


def test_the_help_names_every_command() -> None:
    shown = CliRunner().invoke(entry, ["--help"])
    assert shown.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert f"  {name:<{max(map(len, COMMANDS))}}  {line.split()[0]}" in shown.output


def test_a_name_that_is_none_is_a_usage_error() -> None:
    shown = CliRunner().invoke(entry, ["twpong"])
    assert shown.exit_code == 2
    assert "No such command 'twpong'" in shown.output


@pytest.mark.parametrize(
    ("arguments", "never"),
    [
        (["--help"], ["ippm.cli.main", "ippm.cli.light", "asyncio", "cryptography", "pydantic"]),
        (["light", "send", "-c", "1", "-L", "0.01", "-Q", "127.0.0.1:9"], ["ippm.cli.main", "asyncio", "pydantic"]),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(arguments: list[str], never: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([name for name in {never!r} if name in sys.modules], file=sys.stderr))\n"
        "from ippm.cli.entry import cli\n"
        f"cli({arguments!r}, prog_name='ippm')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["stats", "/none"], ["compare", "/none", "/none"], ["decode", "/none"]])
def test_a_file_that_is_not_there_is_exit_status_2(words: list[str]) -> None:
    shown = CliRunner().invoke(cli, words)
    assert (shown.exit_code, shown.output) == (2, "ippm: /none: No such file or directory\n")


@pytest.mark.parametrize("command", ["twping", "owping"])
def test_a_period_without_continuous_is_refused(command: str) -> None:
    shown = CliRunner().invoke(cli, [command, "--period", "5", "127.0.0.1:1"])
    assert (shown.exit_code, shown.output) == (2, "ippm: --period is that of --continuous\n")


@pytest.mark.parametrize(
    "words", [["twping", "h:²"], ["owping", "[::1]:²"], ["light", "reflect", "--listen", "127.0.0.1:²"],
              ["serve", "--listen", ":²"], ["serve", "-P", "²"]],
)  # fmt: skip
def test_what_looks_like_a_digit_is_none(words: list[str]) -> None:
    """str.isdigit is true of a superscript, which int() does not take."""
    shown = CliRunner().invoke(cli, words)
    assert (shown.exit_code, shown.output.count("\n")) == (2, 1)
    assert "²" in shown.output


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "words",
    [["twping", "-L"], ["twping", "-b"], ["twping", "--max-delay"], ["twping", "--max-loss"], ["owping", "-z"],
     ["owping", "--period"], ["light", "send", "-L"], ["compare", "--resolution"]],
)  # fmt: skip
def test_what_is_no_number_is_a_usage_error(words: list[str], value: str) -> None:
    shown = CliRunner().invoke(cli, [*words, value, "127.0.0.1:1", "127.0.0.1:1"])
    assert shown.exit_code == 2
    assert f"Invalid value for '{words[-1]}'" in shown.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["twping", "-i", "2000000000e", "-c", "10"], "interval_s = 2e+09: 0 to 158112000 seconds"),
        (
            ["twping", "-i", "100000000e", "-c", "10"],
            "interval_s = 1e+08: 10 packets take longer than 158112000 seconds",
        ),
        (["owping", "-i", "0.1,99999999999f"], "interval_s = 1e+11: 0 to"),
        (["light", "send", "-i", "2000000000e"], "interval_s = 2e+09: 0 to"),
        (["light", "send", "-L", "1e300"], "timeout_s = 1e+300: 0 to"),
        (["twping", "-z", "1e12"], "start_delay_s = 1e+12: 0 to"),
    ],
)
def test_what_no_schedule_can_hold_is_one_line(words: list[str], told: str) -> None:
    shown = CliRunner().invoke(cli, [*words, "127.0.0.1:1"])
    assert shown.exit_code == 2
    assert shown.output.startswith(f"ippm: {told}")
    assert shown.output.count("\n") == 1
