"""Texts of the command line and of a configuration file, as options of a server or client.

The file is TOML: tables `[twamp]` with the names of ServerOptions and `[owamp]` with those of OwampServerOptions
(`address`, `port`, `test_ports`, `modes`, `count`, `servwait_s` ...) and `key_file`, the path of a key file beside it;
`[limit.NAME]` and `[assign]` are limit classes, which both servers share (`ippm.io.limit_tables`).
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from ippm.cli.words import parse_ports
from ippm.core.limits import LimitUsage
from ippm.errors import ConfigurationError
from ippm.iana import FEATURE_WORDS, Mode
from ippm.io.limit_tables import parse_limits
from ippm.io.options import ServerOptions
from ippm.io.owamp_options import OwampServerOptions

_KEPT_OUT = {"mark_callback", "usage", "key_log", "impairments"}


@dataclasses.dataclass(frozen=True, slots=True)
class ServerTables:
    """What a server's file says: the options of both servers, None for one whose table is not there, and the keys."""

    twamp: ServerOptions | None
    owamp: OwampServerOptions | None
    key_file: Path | None


def read_server_file(path: str | Path) -> ServerTables:
    """A server's file; without any table both serve. Raises ConfigurationError with the full path of what is wrong."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
    for name in document:
        if name not in ("twamp", "owamp", "limit", "assign"):
            raise ConfigurationError(f"{path}: {name}: not known; [twamp], [owamp], [limit.NAME] and [assign] are")
    usage = _usage(path, document.pop("limit", None), document.pop("assign", None))
    twamp, twamp_keys = _table(path, document, "twamp", ServerOptions, usage)
    owamp, owamp_keys = _table(path, document, "owamp", OwampServerOptions, usage)
    if twamp_keys and owamp_keys and twamp_keys != owamp_keys:
        raise ConfigurationError(f"{path}: owamp.key_file: not that of [twamp]")
    return ServerTables(
        twamp if isinstance(twamp, ServerOptions) else None,
        owamp if isinstance(owamp, OwampServerOptions) else None,
        twamp_keys or owamp_keys,
    )


def _usage(path: Path, limit: object, assign: object) -> LimitUsage | None:
    """The limit classes of the file; None when it has none. Raises ConfigurationError: a line for each fault."""
    if limit is None and assign is None:
        return None
    try:
        return LimitUsage(parse_limits({} if limit is None else limit, {} if assign is None else assign))
    except ConfigurationError as error:
        raise ConfigurationError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def _table(
    path: Path,
    document: dict[str, Any],
    name: str,
    kind: type[ServerOptions | OwampServerOptions],
    usage: LimitUsage | None,
) -> tuple[ServerOptions | OwampServerOptions | None, Path | None]:
    """The options in one table; None when only the other table is there."""
    if name not in document and document:
        return None, None
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: {name}: a table is wanted")
    values: dict[str, Any] = {}
    key_file: Path | None = None
    defaults = {f.name: f.default for f in dataclasses.fields(kind) if f.name not in _KEPT_OUT}
    for key, value in table.items():
        where = f"{path}: {name}.{key}"
        if key == "key_file":
            if not isinstance(value, str):
                raise ConfigurationError(f"{where}: a path is wanted")
            key_file = path.parent / value
        elif key not in defaults:
            raise ConfigurationError(f"{where}: not known")
        else:
            values[key] = _value(where, key, value, defaults[key])
    if isinstance(values.get("directory"), str):
        values["directory"] = str(path.parent / values["directory"])
    try:
        return kind(**values, usage=usage), key_file
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {name}.{error}") from None


def _value(where: str, name: str, value: object, default: object) -> object:
    if name == "modes":
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: letters of OAEM are wanted")
        try:
            return Mode.of_words(value)
        except ValueError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    if name == "features":
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ConfigurationError(f"{where}: a list of words is wanted: {', '.join(FEATURE_WORDS)}")
        return tuple(value)
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
