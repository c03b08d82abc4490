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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"
