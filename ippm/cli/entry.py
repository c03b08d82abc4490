"""The console script `ippm`: the group of `ippm.cli.main` whose commands are imported when they are run.

Click asks every command for its line of the help, which would import them all: the lines are kept here, and a test
holds them, names and lines, to the commands.
"""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "compare": ("ippm.cli.compare", "Compare kept runs: can their delays come from one distribution?"),
    "decode": ("ippm.cli.decode", "The Control messages and Test packets of a capture, decrypted with a key log."),
    "fetch": ("ippm.cli.owamp", "The data of a session, from the OWAMP server that received it."),
    "impairments": ("ippm.cli.impairments", "The knobs of --impair, and what each one does."),
    "light": ("ippm.cli.light", "TWAMP Light (RFC 5357 appendix I): no Control connection; both ends are given..."),
    "owping": ("ippm.cli.owamp", "One-way measurement to an OWAMP server, and from it."),
    "serve": ("ippm.cli.serve", "OWAMP server on port 861, TWAMP server on port 862, in the foreground."),
    "stats": ("ippm.cli.owamp", "The statistics of a saved session."),
    "twping": ("ippm.cli.main", "Two-way measurement to a TWAMP server."),
}
"""Where each command is, and its line in `ippm --help`."""


class _Commands(click.Group):
    """Commands by name, imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None for a name that is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The lines of the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ippm-ipsec")
def cli() -> None:
    """Measure network paths with OWAMP (RFC 4656) and TWAMP (RFC 5357)."""


def main() -> None:
    """The console script."""
    cli(prog_name="ippm")
