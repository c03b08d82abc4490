"""What the commands share: errors in one line, exit status, modes.

Exit status: 0 done, 1 the operation failed or the peer refused, 2 usage or configuration, 3 a threshold was exceeded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click

P = ParamSpec("P")
T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_THRESHOLD = 3


class FiniteRange(click.FloatRange):
    """A range of numbers without `nan`, which click takes for one in every range, and without `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or click's error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


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


def modes_of(words: str) -> Any:
    from ippm.errors import ConfigurationError
    from ippm.iana import Mode

    try:
        return Mode.of_words(words)
    except ValueError as error:
        raise ConfigurationError(f"-A {words}: {error}") from None


def octets_of(file: Path) -> bytes:
    """What is in a file. Raises ConfigurationError."""
    from ippm.errors import ConfigurationError

    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None


def check_directory(option: str, directory: Path, *, make: bool = False) -> None:
    """Whether files can be made in a directory, before anything is measured; `make` it. Raises ConfigurationError."""
    import tempfile

    from ippm.errors import ConfigurationError

    try:
        if make:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot make the directory: {error.strerror}") from None
    if not directory.is_dir():
        raise ConfigurationError(f"{option}: there is no such directory")
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigurationError(f"{option}: no file can be made in the directory: {error.strerror}") from None


def bind_to_device(interface: str) -> Callable[[Any], None]:
    import socket

    from ippm.errors import ConfigurationError

    def bind(sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        except OSError as error:
            raise ConfigurationError(f"-B {interface}: {error.strerror or error}") from None

    return bind
