"""What is wrong with a configuration, in lines that a person can act on: where, what, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel

from ikev2.errors import ConfigurationError

_SECRET_WORDS = frozenset(("secret", "psk", "password", "passphrase", "key", "shared_secret"))


class ConfigurationFaults(ConfigurationError):
    """All that is wrong with a configuration: one line each, with its full path."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(_printable(fault) for fault in faults)
        super().__init__("\n".join(self.faults))


def _printable(text: str) -> str:
    """One line that cannot steer a terminal, whatever a key or a value of the file holds."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def fault(error: Any, model: type[BaseModel]) -> str:
    """One fault that pydantic found in `model` as a line: its path, what is wrong, what would be right.

    Never the value of a secret.
    """
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"{where}: {_unknown_key(location, model)}"
    if error["type"] == "missing":
        return f"{where}: is missing"
    if location[0] == "secrets" and location[-1] != "id":
        return f"{where}: must be the name of a file"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    if error["type"] == "literal_error":
        given = error["input"]
        words = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        if len(words) == 1:
            return f"{where}: must be {words[0]}, not {given!r}"
        return f"{where}: {given!r} is not one of {', '.join(words)}{suggestion(str(given), words)}"
    message = error["msg"]
    plain = _PLAIN.get(error["type"])
    return f"{where}: {plain or message.replace('Input should be', 'must be')}"


_PLAIN = {
    "string_type": "must be a text in quotes",
    "list_type": "must be a list of texts",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "dict_type": "must be a section",
    "model_type": "must be a section",
    "too_short": "must not be empty",
}


def _unknown_key(location: list[str], model: type[BaseModel]) -> str:
    word = location[-1]
    if location[0] == "secrets" and word in _SECRET_WORDS:
        return (
            "a secret does not belong into this file: write it to a file of mode 0600 and name that, "
            'as file = "lab.psk"'
        )
    there = _home(location, model)
    if there:
        return f"unknown key; it belongs to {there}"
    return "unknown key" + suggestion(word, _keys_at(location[:-1], model))


def _home(location: list[str], model: type[BaseModel]) -> str:
    """The section above, or the sections just below, that have the key; nothing when there are none."""
    word, here = location[-1], location[:-1]
    for length in range(len(here) - 1, 0, -1):
        if word in _keys_at(here[:length], model):
            return ".".join(here[:length])
    below = [[*here, part, *name] for part in _keys_at(here, model) for name in ([], ["NAME"])]
    return " or ".join(".".join(one) for one in below if word in _keys_at(one, model))


def suggestion(word: str, known: Iterable[str]) -> str:
    """The known word that was meant, perhaps, to be put after a fault."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _keys_at(location: list[str], model: type[BaseModel]) -> list[str]:
    """The keys that a section knows, found by walking the models along the path."""
    kind: Any = model
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = None if field is None else field.annotation
        else:
            kind = next((one for one in reversed(get_args(kind)) if isinstance(one, type)), None)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
