"""What the commands share: errors in one line, exit status, keys, modes.

Exit status: 0 done, 1 the operation failed or the peer refused, 2 usage or configuration, 3 a threshold was exceeded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from ippm.crypto import KeyProvider
    from ippm.io.keylog import KeyLogWriter

P = ParamSpec("P")
T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_THRESHOLD = 3


def end(message: str, status: int) -> NoReturn:
    for line in message.splitlines() or [""]:
        click.echo(f"ippm: {line}", err=True)
    sys.exit(status)


def one_line_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Turn the errors that are a person's or the peer's into a line and the right exit status."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from ippm.errors import ConfigurationError, IppmError

        try:
            return command(*args, **kwargs)
        except ConfigurationError as error:
            end(str(error), EXIT_USAGE)
        except IppmError as error:
            end(str(error), EXIT_FAILED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(EXIT_FAILED)
        except OSError as error:
            end((f"{error.filename}: " if error.filename else "") + (error.strerror or str(error)), EXIT_FAILED)
        except KeyboardInterrupt:
            end("interrupted", EXIT_FAILED)

    return run


keylog_option = click.option(
    "--keylog", metavar="DIR", help="Write the keys of Control and Test there, for `ippm decode --keys`."
)
"""Of whoever has keys; the command opens it with `open_key_log`."""


def open_key_log(directory: str | None) -> KeyLogWriter | None:
    """The key log in a directory, until the command ends; says on stderr that there is one. ConfigurationError."""
    if directory is None:
        return None
    from pathlib import Path

    from ippm.io.keylog import KeyLogWriter

    writer = KeyLogWriter(Path(directory))
    click.get_current_context().call_on_close(writer.close)
    click.echo(f"ippm: {writer.warning}", err=True)
    return writer


def modes_of(words: str) -> Any:
    from ippm.errors import ConfigurationError
    from ippm.iana import Mode

    try:
        return Mode.of_words(words)
    except ValueError as error:
        raise ConfigurationError(f"-A {words}: {error}") from None


def bind_to_device(interface: str) -> Callable[[Any], None]:
    import socket

    def bind(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")

    return bind


def provider_of(key_file: Any, user: str | None) -> KeyProvider | None:
    """A provider of the file's passphrases, or of one that is asked for at the terminal. Raises ConfigurationError."""
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
    from ippm.cli.keyfile import read_key_file

    passphrases = read_key_file(key_file)
    if user is not None and user not in passphrases:
        raise ConfigurationError(f"{key_file}: no passphrase for {user}")
    return PassphraseProvider(passphrases, user)
