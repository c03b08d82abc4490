"""Texts of the command line and of a configuration file, as options of a server or client.

The file is TOML: a table `[twamp]` with the names of ServerOptions (`address`, `port`, `test_ports`, `modes`,
`count`, `servwait_s` ...) and `key_file`, the path of a key file beside it.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

from ippm.errors import ConfigurationError
from ippm.iana import Mode
from ippm.io.options import ServerOptions, check_port_range

_KEPT_OUT = {"mark_callback"}


def parse_ports(text: str, name: str = "ports") -> tuple[int, int]:
    """`8760-8960`, or one port. Raises ConfigurationError."""
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text.strip())
    if match is None:
        raise ConfigurationError(f"{name}: {text!r} is no port and no range like 8760-8960")
    first = int(match[1])
    ports = first, int(match[2] or first)
    check_port_range(name, ports)
    return ports


def parse_host(text: str, default_port: int) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[ADDRESS]:PORT`, or an IPv6 address. Raises ConfigurationError."""
    host, port = text, ""
    if match := re.fullmatch(r"\[([^\]]+)\](?::(\d+))?", text):
        host, port = match[1], match[2] or ""
    elif text.count(":") == 1:
        host, port = text.split(":")
    if "[" in host or "]" in host:
        host = ""
    number = int(port) if port.isdigit() else -1 if port or text.endswith(":") else default_port
    if not host or not 0 < number <= 65535:
        raise ConfigurationError(f"{text!r} is not HOST, HOST:PORT or [ADDRESS]:PORT")
    return host, number


def parse_interval(text: str) -> tuple[float, bool]:
    """Seconds, and whether their distribution is exponential: `0.1` and `0.1e` are, `0.1f` is fixed.

    Raises ConfigurationError.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([ef]?)", text.strip())
    if match is None:
        raise ConfigurationError(f"interval {text!r}: seconds, then e (exponential, the default) or f (fixed)")
    return float(match[1]), match[2] != "f"


def read_server_file(path: str | Path) -> tuple[ServerOptions, Path | None]:
    """A server's options and its key file. Raises ConfigurationError with the full path of what is wrong."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
    for name in document:
        if name != "twamp":
            raise ConfigurationError(f"{path}: {name}: not known; [twamp] is")
    table = document.get("twamp", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: twamp: a table is wanted")
    values: dict[str, Any] = {}
    key_file: Path | None = None
    defaults = {f.name: f.default for f in dataclasses.fields(ServerOptions) if f.name not in _KEPT_OUT}
    for name, value in table.items():
        where = f"{path}: twamp.{name}"
        if name == "key_file":
            if not isinstance(value, str):
                raise ConfigurationError(f"{where}: a path is wanted")
            key_file = path.parent / value
        elif name not in defaults:
            raise ConfigurationError(f"{where}: not known")
        else:
            values[name] = _value(where, name, value, defaults[name])
    try:
        return ServerOptions(**values), key_file
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: twamp.{error}") from None


def _value(where: str, name: str, value: object, default: object) -> object:
    if name == "modes":
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: letters of OAEM are wanted")
        try:
            return Mode.of_words(value)
        except ValueError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    if name == "test_ports":
        if not isinstance(value, str):
            raise ConfigurationError(f'{where}: a range like "18760-18960" is wanted')
        return parse_ports(value, where)
    wanted: type = str if default is None else type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise ConfigurationError(f"{where}: a value of type {wanted.__name__} is wanted")
    return value
