"""Where the keys of a command come from, and where they are logged: `-u -k --key-agent --ike-sa --prefer --keylog`;
and what spoils the connection: `--impair`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ippm.cli.impairments import impair_option, impairments_of

if TYPE_CHECKING:
    from ippm.core.impair import Impairments
    from ippm.crypto import KeyProvider
    from ippm.iana import Mode
    from ippm.io.key_agent import KeyAgentProvider
    from ippm.io.keylog import KeyLogWriter

keylog_option = click.option(
    "--keylog", metavar="DIR", help="Write the keys of Control and Test there, for `ippm decode --keys`."
)
key_file_option = click.option(
    "-k", "key_file", metavar="FILE", help="KeyIDs and passphrases: lines of `identity hex`, mode 0600."
)
key_agent_option = click.option(
    "--key-agent",
    "agent_path",
    metavar="SOCKET",
    help="Take IKEv2-derived keys from the endpoint that serves this socket (its key_agent_socket).",
)


@dataclass(frozen=True, slots=True)
class Keys:
    """What the options say. `key_log` is open until the command ends; `impairments` spoil what is sent."""

    key_file: str | None
    user: str | None
    agent: KeyAgentProvider | None
    prefer: Literal["ikev2", "passphrase"]
    key_log: KeyLogWriter | None
    impairments: Impairments | None = None

    @property
    def given(self) -> bool:
        """True when there are keys at all: a keyed mode is wanted then, unless -A says otherwise."""
        return bool(self.user or self.key_file or self.agent)

    @property
    def require_ikev2(self) -> bool:
        """True when there is no passphrase: a server that does not offer IKEv2-derived keys is left."""
        return self.agent is not None and not (self.user or self.key_file)

    def provider(self, security: Mode) -> KeyProvider | None:
        """The provider, None when no mode with keys is wanted. ConfigurationError when there are no keys for one."""
        from ippm.errors import ConfigurationError
        from ippm.iana import Mode, mode_words

        if not security.keyed:
            return None
        if not self.given and not security & Mode.OPEN:
            raise ConfigurationError(
                f"-A: {mode_words(security)} needs keys: a passphrase (-u NAME, -k FILE) or --key-agent SOCKET"
            )
        return provider_of(self.key_file, self.user, self.agent, self.prefer, one=self.agent is None)


def client_keys(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a client; the command gets them as `keys`. ConfigurationError when they do not go together."""

    @wraps(command)
    def run(
        *args: Any,
        user: str | None,
        key_file: str | None,
        agent_path: str | None,
        ike_sa: str | None,
        prefer: Literal["ikev2", "passphrase"] | None,
        keylog: str | None,
        knobs: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        from ippm.errors import ConfigurationError

        if ike_sa is not None and agent_path is None:
            raise ConfigurationError("--ike-sa names an IKE SA of a key agent: --key-agent SOCKET")
        if prefer is not None and (agent_path is None or not (user or key_file)):
            raise ConfigurationError("--prefer chooses between a key agent (--key-agent) and a passphrase (-u, -k)")
        spoilt = impairments_of(knobs)
        agent = agent_of(agent_path, ike_sa)
        keys = Keys(key_file, user, agent, prefer or "ikev2", open_key_log(keylog), spoilt)
        return command(*args, keys=keys, **rest)

    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option("-u", "user", metavar="NAME", help="KeyID to use."),
        key_file_option,
        key_agent_option,
        click.option(
            "--ike-sa",
            metavar="SPIi:SPIr",
            help="The IKE SA whose key is wanted; the newest one with the server by default.",
        ),
        click.option(
            "--prefer",
            type=click.Choice(["ikev2", "passphrase"]),
            help="Which key to take where both can be had: ikev2 by default.",
        ),
        keylog_option,
        impair_option,
    ]
    decorated: Callable[..., Any] = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def agent_of(path: str | None, ike_sa: str | None = None) -> KeyAgentProvider | None:
    """The key agent at a path, None without one. Raises ConfigurationError."""
    if path is None:
        return None
    from ippm.io.key_agent import KeyAgentProvider, parse_ike_sa

    return KeyAgentProvider(Path(path), None if ike_sa is None else parse_ike_sa(ike_sa))


def open_key_log(directory: str | None) -> KeyLogWriter | None:
    """The key log in a directory, until the command ends; says on stderr that there is one. ConfigurationError."""
    if directory is None:
        return None
    from ippm.io.keylog import KeyLogWriter

    writer = KeyLogWriter(Path(directory))
    click.get_current_context().call_on_close(writer.close)
    click.echo(f"ippm: {writer.warning}", err=True)
    return writer


def provider_of(
    key_file: Any,
    user: str | None,
    agent: KeyAgentProvider | None = None,
    prefer: Literal["ikev2", "passphrase"] = "ikev2",
    *,
    one: bool = False,
) -> KeyProvider | None:
    """A provider of what is there: a key agent, passphrases, or both; `one`: of one KeyID. ConfigurationError."""
    passphrases = _passphrases(key_file, user, one)
    if agent is None or passphrases is None:
        return agent or passphrases
    from ippm.io.key_preference import PreferringProvider

    return PreferringProvider(agent, passphrases, prefer)


def _passphrases(key_file: Any, user: str | None, one: bool) -> KeyProvider | None:
    """The passphrases of a file, or of one user, who is asked at the terminal."""
    from ippm.errors import ConfigurationError

    if key_file is None and user is None:
        return None
    from ippm.crypto import PassphraseProvider

    if key_file is None and user is not None:
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"the passphrase of {user} is in no file (-k), and there is no terminal to ask at"
            )
        return PassphraseProvider({user: click.prompt("Passphrase", hide_input=True, err=True)}, user)
    from ippm.io.keyfile import read_key_file

    passphrases = read_key_file(key_file)
    if user is not None and user not in passphrases:
        raise ConfigurationError(f"{key_file}: no passphrase for {user}")
    if one and user is None and len(passphrases) > 1:
        raise ConfigurationError(f"{key_file}: {len(passphrases)} KeyIDs are in it: say which one, -u NAME")
    try:
        return PassphraseProvider(passphrases, user)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key_file}: {error}") from None
