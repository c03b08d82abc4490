"""A decoded message as text for a person. Octets that nobody reads are cut; `to_dict` of the message has them all."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ippm.decode.messages import Decoded, Fields, place
from ippm.iana import Accept

SHOWN_DIGITS = 64
SHOWN_ITEMS = 5


def lines_of(message: Decoded) -> Iterator[str]:
    """Who to whom and when, what it is, what is wrong with it, and its fields."""
    seconds, rest = divmod(message.time_ns, 10**9)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    words = {"owamp": "OWAMP", "twamp": "TWAMP"}.get(message.origin.protocol or "", "OWAMP or TWAMP")
    what = f"{words}-{message.channel.capitalize()}, {message.octets} octets"
    yield f"{clock}.{rest // 1000:06d} {place(message.source)} -> {place(message.destination)}, {what}"
    state = [message.name]
    if message.decrypted is False:
        state.append("not decrypted")
    if message.hmac is not None:
        state.append(f"HMAC {message.hmac}")
    yield "  " + ", ".join(state)
    for problem in message.problems:
        yield f"    MALFORMED  {problem}" if message.decrypted is not False else f"    {problem}"
    yield from _field_lines(message.fields)


def _field_lines(fields: Fields) -> Iterator[str]:
    hidden = {name.removesuffix("_unix_ns") for name in fields if name.endswith("_unix_ns")}
    for name, value in fields.items():
        if name in hidden:
            continue  # the time says it
        label = name.removesuffix("_unix_ns").removesuffix("_ns")
        if isinstance(value, list):
            yield from _list_lines(label, value)
        else:
            yield f"    {label:<30}{_value(name, value)}"


def _list_lines(label: str, values: list[object]) -> Iterator[str]:
    if all(isinstance(value, str) for value in values):
        more = [f"and {len(values) - SHOWN_ITEMS} more"] if len(values) > SHOWN_ITEMS + 5 else []
        shown = values[: SHOWN_ITEMS + 5] if more else values
        yield f"    {label:<30}{', '.join([*map(str, shown), *more]) or 'none'}"
        return
    yield f"    {label:<30}{len(values)}"
    for value in values[:SHOWN_ITEMS]:
        if isinstance(value, dict):
            yield "      " + ", ".join(
                f"{name.removesuffix('_unix_ns').removesuffix('_ns')} {_value(name, one)}"
                for name, one in value.items()
                if f"{name}_unix_ns" not in value
            )
    if len(values) > SHOWN_ITEMS:
        yield f"      and {len(values) - SHOWN_ITEMS} more"


def _value(name: str, value: object) -> str:
    if name.endswith("_unix_ns"):
        return "zero" if not isinstance(value, int) else _time(value)
    if name.endswith("_ns") and isinstance(value, int):
        return f"{value / 1e9:g} s"
    if name == "accept" and isinstance(value, int):
        return f"{value} ({Accept(value).words})"
    if isinstance(value, dict):
        synchronized = "synchronized" if value.get("synchronized") else "not synchronized"
        return f"{value.get('error_ns')} ns, {synchronized}, {str(value.get('format')).upper()}"
    if isinstance(value, str) and len(value) > SHOWN_DIGITS:
        return f"{value[:SHOWN_DIGITS]}... ({len(value) // 2} octets)"
    return "yes" if value is True else "no" if value is False else "-" if value is None else str(value)


def _time(unix_ns: int) -> str:
    seconds, rest = divmod(unix_ns, 10**9)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{rest:09d} UTC"
