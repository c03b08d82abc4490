"""docs/cli.md names no command that is not there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

CLI = Path(__file__).resolve().parent.parent.parent / "docs" / "cli.md"
GROUPS = {
    "ikev2": ("ikev2.cli.main", "main"),
    "ippm": ("ippm.cli.main", "cli"),
    "ippm-ipsec": ("binding.cli", "main"),
}


def documented() -> list[tuple[str, str]]:
    """(program, command) of the first block of docs/cli.md; `up | down | list` on one line are three commands."""
    block = CLI.read_text(encoding="utf-8").split("```")[1]
    found = []
    for line in block.splitlines():
        match = re.match(r"(ikev2|ippm-ipsec|ippm) (.*?)(?:   |$)", line)
        if match:
            words = re.sub(r"\[[^]]*\]\.*", "", match[2]).split("|")
            found += [(match[1], word.split()[0]) for word in words if word.split() and word.split()[0].islower()]
    return found


def test_the_block_is_read() -> None:
    assert {("ikev2", "rekey"), ("ippm", "stats"), ("ippm-ipsec", "owping")} <= set(documented())


@pytest.mark.parametrize(("program", "command"), documented())
def test_a_documented_command_is_there(program: str, command: str) -> None:
    module, name = GROUPS[program]
    group = getattr(import_module(module), name)
    assert isinstance(group, click.Group)
    assert group.get_command(click.Context(group), command) is not None
