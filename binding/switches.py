"""The switches of docs/rfc7717.md as long options: the words of [measurement], with hyphens.

A command has those that do something in it; one that this version does not have is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

NOT_YET = frozenset({"end_on_ike_delete", "allow_null_auth", "offer", "stamp_ikev2"})
"""Switches of docs/rfc7717.md that later versions will have."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One word of [measurement]; `values` None is free text, () is on or off."""

    word: str
    values: tuple[str, ...] | None
    help: str
    number: bool = False

    @property
    def option(self) -> str:
        """The long option."""
        return "--" + self.word.replace("_", "-")


DERIVATIONS = ("rfc7717", "keymat-sid", "skd-sid")

BOTH = (
    Switch("derivation", DERIVATIONS, "keymat-sid and skd-sid are unverified readings of a draft."),
    Switch("path", ("tunnel", "bypass", "both"), "Through the ESP tunnel, outside of it, or one after the other."),
    Switch("secret_encoding", ("raw", "hex"), "The secret as PBKDF2 takes it."),
    Switch("prf", None, "`negotiated`: that of the IKE SA."),
    Switch("key_count", ("4", "2"), "2: Test uses the Control keys (an experiment; both ends alike).", number=True),
    Switch("label", None, "In place of IPPM (experiments; both ends alike)."),
)
OWAMP_BIT = Switch("owamp_ikev2_bit", ("4", "7"), "The bit of OWAMP-Modes for IKEv2-derived keys.", number=True)
CLIENT_BOTH = (
    *BOTH,
    Switch("token_key", ("pbkdf2", "truncate16"), "How the token key comes from the secret."),
    Switch("no_sa", ("initiate", "fail", "fallback"), "When there is no IKE SA with the server."),
    Switch("require_ikev2", (), "No server without IKEv2-derived keys."),
    Switch("prefer", ("ikev2", "passphrase"), "Which key to take where both can be had."),
)
CLIENT = (
    *CLIENT_BOTH,
    Switch("tw_auth_pad", ("64", "56"), "What --equal-size adds in a keyed mode.", number=True),
)
ONE_WAY_CLIENT = (*CLIENT_BOTH, OWAMP_BIT)
SERVER = (
    *BOTH,
    Switch("token_key", ("pbkdf2", "truncate16", "auto"), "auto: the Challenge tells what the client uses."),
    Switch("strict_modes", (), "IKEv2Derived goes with exactly one keyed mode."),
    Switch("peer_binding", ("off", "warn", "enforce"), "When the client is not the peer of its IKE SA."),
    Switch("accept_no_sa", ("6", "1"), "What a client gets whose IKE SA is not known.", number=True),
    Switch("sa_grace", None, "How long the SPIs of an SA that has gone still serve, such as 60s."),
    Switch("count", None, "PBKDF2's Count, a power of two from 1024 up.", number=True),
    OWAMP_BIT,
)


def switch_options(switches: tuple[Switch, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: these options, and hidden ones that refuse what later versions will have."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        options = [_option(switch) for switch in switches] + [_refused(word) for word in sorted(NOT_YET)]
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def given_switches(switches: tuple[Switch, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """The words of [measurement] that the command line changes, as TOML would have them."""
    numbers = {switch.word for switch in switches if switch.number}
    given = {switch.word: options[switch.word] for switch in switches if options.get(switch.word) is not None}
    return {
        word: int(value) if word in numbers and str(value).isdecimal() else value for word, value in given.items()
    }


def _option(switch: Switch) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if switch.values == ():
        return click.option(f"{switch.option}/--no-{switch.option[2:]}", default=None, help=switch.help)
    kind = click.Choice(switch.values) if switch.values else None
    return click.option(switch.option, switch.word, type=kind, metavar=None if kind else "TEXT", help=switch.help)


def _refused(word: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def refuse(context: click.Context, parameter: click.Parameter, value: object) -> None:
        if value is not None:
            raise click.UsageError(f"{parameter.opts[0]}: this version does not have that switch yet")

    option = "--" + word.replace("_", "-")
    return click.option(option, hidden=True, expose_value=False, callback=refuse, is_flag=False, flag_value="")
