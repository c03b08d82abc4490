"""The tables `limit` and `assign` of a server's TOML, as Limits. RFC 4656 section 6.5.

The words are those of perfSONAR's limits files (`limit NAME with parent=..., bandwidth=...`, `assign net ...`); a
quantity is a number, or a text such as "20M" with k, M, G or T for powers of 1000; a switch is true, false, "on" or
"off".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from ippm.core.limits import UNITS, LimitClass, Limits
from ippm.errors import ConfigurationError
from ippm.iana import Mode

_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SWITCHES = ("delete_on_fetch", "allow_open_mode")
_WORDS = ("parent", *UNITS, *_SWITCHES, "modes")


def parse_limits(
    limit: object, assign: object, id_map: object | None = None, *, prefix: str = "", id_map_at: str = "id_map"
) -> Limits:
    """Raises ConfigurationError: every fault in one line of its own with its full path, which `prefix` begins."""
    faults: list[str] = []
    classes = _classes(limit, f"{prefix}limit", faults)
    networks: dict[IPv4Network | IPv6Network, str] = {}
    default = ""
    where = f"{prefix}assign"
    if not isinstance(assign, Mapping):
        faults.append(f"{where}: a table is wanted")
        assign = {"default": next(iter(classes), "")}
    faults += [f"{where}.{word}: not known; default, net and user are" for word in assign if word not in _ASSIGN]
    if "default" not in assign:
        faults.append(f"{where}.default: the class of every client that nothing else names is wanted")
    else:
        default = _class_name(assign["default"], f"{where}.default", classes, faults)
    for text, name in _names(assign.get("net", {}), f"{where}.net", classes, faults).items():
        try:
            network = ip_network(text)
        except ValueError as error:
            faults.append(f'{where}.net."{text}": {error}')
            continue
        if network in networks:
            faults.append(f'{where}.net."{text}": this network is there twice')
        networks[network] = name
    users = _names(assign.get("user", {}), f"{where}.user", classes, faults)
    identities = _names({} if id_map is None else id_map, id_map_at, classes, faults)
    if faults:
        raise ConfigurationError("\n".join(faults))
    return Limits(classes, default, networks, users, identities)


_ASSIGN = ("default", "net", "user")


def _classes(tables: object, where: str, faults: list[str]) -> dict[str, LimitClass]:
    if not isinstance(tables, Mapping) or not tables:
        faults.append(f"{where}: tables are wanted, such as [{where}.regular]")
        return {}
    classes = {name: _class(name, table, f"{where}.{name}", faults) for name, table in tables.items()}
    for name, one in classes.items():
        above, seen = one.parent, {name}
        if above is not None and above not in classes:
            faults.append(f"{where}.{name}.parent: there is no class {above}")
        while above is not None and above in classes and above not in seen:
            seen.add(above)
            above = classes[above].parent
        if above == name:
            faults.append(f"{where}.{name}.parent: the class would be above itself")
    return classes


def _class(name: str, table: object, where: str, faults: list[str]) -> LimitClass:
    if not isinstance(table, Mapping):
        faults.append(f"{where}: a table is wanted")
        return LimitClass(name)
    values: dict[str, Any] = {}
    for word, value in table.items():
        try:
            values[word] = _value(word, value)
        except ValueError as error:
            faults.append(f"{where}.{word}: {error}")
            values.pop(word, None)
    return LimitClass(name, **values)


def _value(word: str, value: object) -> object:
    """Raises ValueError."""
    if word in UNITS:
        return quantity(value)
    if word in _SWITCHES:
        known = {"on": True, "off": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value in known:
            return known[value]
        raise ValueError("true or false is wanted")
    if word == "parent" or word == "modes":
        if not isinstance(value, str):
            raise ValueError("a name is wanted" if word == "parent" else "letters of OAEM are wanted")
        return value if word == "parent" else Mode.of_words(value)
    raise ValueError(f"not known; {', '.join(_WORDS)} are")


def quantity(value: object) -> int:
    """A whole number, or a text such as `20M`; powers of 1000. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)([kKmMgGtT]?)", value.strip())):
        return int(match[1]) * _SCALE[match[2].lower()]
    raise ValueError('a number, not negative, or a text like "20M" is wanted')


def _names(table: object, where: str, classes: Mapping[str, LimitClass], faults: list[str]) -> dict[str, str]:
    if not isinstance(table, Mapping):
        faults.append(f"{where}: a table is wanted")
        return {}
    return {key: _class_name(name, f'{where}."{key}"', classes, faults) for key, name in table.items()}


def _class_name(name: object, where: str, classes: Mapping[str, LimitClass], faults: list[str]) -> str:
    if not isinstance(name, str) or name not in classes:
        faults.append(f"{where}: there is no class {name}")
        return ""
    return name
