"""The impairments by name, as a person writes them: `delay=20ms loss=1% reorder-by=3`.

change(Impairments(), ["delay=20ms", "loss=1%"])      # another Impairments, or KnobError with one sentence
words(impairments)                                    # what differs from a good path, in the same words
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from interop.lab.relay import Impairments

NONE = "none"


class KnobError(ValueError):
    """What is wrong with a knob, and what would be right."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A name, the field of `Impairments` that it sets, how its value is read and written, and what it does."""

    name: str
    attribute: str
    read: Callable[[str], Any]
    write: Callable[[Any], str]
    example: str
    purpose: str


_TIMES = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_RATES = {"": 1.0, "octets": 1.0, "bit": 1 / 8, "kbit": 125.0, "Mbit": 125_000.0, "Gbit": 125_000_000.0}


def _scaled(units: dict[str, float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
        if found is None or found[2] not in units:
            raise ValueError
        return float(found[1]) * units[found[2]]

    return read


def _probability(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _yes(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _number(value: float) -> str:
    return f"{value:.12g}"


_duration, _rate = _scaled(_TIMES), _scaled(_RATES)


def _ms(value: float) -> str:
    return f"{_number(value * 1e3)}ms"


def _percent(value: float) -> str:
    return f"{_number(value * 100)}%"


def _octets_rate(value: float) -> str:
    return f"{_number(value * 8)}bit"


KNOBS = (
    Knob("delay", "delay_s", _duration, _ms, "20ms", "each datagram takes so much longer"),
    Knob("jitter", "jitter_s", _duration, _ms, "5ms", "and up to so much more, evenly"),
    Knob("loss", "loss", _probability, _percent, "1%", "this share is lost"),
    Knob("loss-every", "loss_every", int, str, "10", "each tenth is lost, without chance"),
    Knob("duplication", "duplication", _probability, _percent, "1%", "this share arrives twice"),
    Knob("duplication-every", "duplication_every", int, str, "7", "each seventh does"),
    Knob("reordering", "reordering", _probability, _percent, "1%", "this share is overtaken by others"),
    Knob("reordering-every", "reordering_every", int, str, "20", "each twentieth is"),
    Knob("reorder-by", "reorder_by", int, str, "3", "by so many; none: by what comes within reorder-time"),
    Knob("reorder-time", "reorder_by_s", _duration, _ms, "50ms", "see reorder-by"),
    Knob("reorder-hold", "hold_s", _duration, _ms, "1s", "it goes on after so long, whoever overtook it"),
    Knob("corruption", "corruption", _probability, _percent, "1%", "this share has one bit turned"),
    Knob("corruption-every", "corruption_every", int, str, "50", "each fiftieth has"),
    Knob("repair", "repair", _yes, lambda value: "yes" if value else "no", "yes",
         "the checksum of TCP or UDP is made to fit a turned bit"),
    Knob("rate", "rate", _rate, _octets_rate, "10Mbit", "the link's speed; bit, kbit, Mbit, Gbit, or octets"),
    Knob("queue", "queue_octets", int, str, "64000", "octets that wait for the link; more are lost"),
    Knob("mtu", "mtu", int, str, "1400", "larger IP datagrams are lost in silence"),
    Knob("only", "only", str, str, "udp:4500", "all this is for these packets: udp, tcp, esp, icmp, udp:PORT"),
)  # fmt: skip
BY_NAME = {knob.name: knob for knob in KNOBS}
_DEFAULTS = {one.name: one.default for one in fields(Impairments) if one.default is not MISSING}


def change(impairments: Impairments, words: Sequence[str]) -> Impairments:
    """The impairments with these knobs set; `none` undoes a knob. Raises KnobError."""
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        knob = BY_NAME.get(name)
        if knob is None:
            raise KnobError(f"there is no knob {name!r}; the knobs are {', '.join(BY_NAME)}")
        if not equals:
            raise KnobError(f"{name} needs a value, such as {name}={knob.example}")
        try:
            values[knob.attribute] = _DEFAULTS[knob.attribute] if text == NONE else knob.read(text)
        except (ValueError, KeyError):
            raise KnobError(f"{word}: {text!r} is no value of {name}, such as {name}={knob.example}") from None
    try:
        return replace(impairments, **values)
    except ValueError as error:
        raise KnobError(f"{' '.join(words)}: {error}") from None


def words(impairments: Impairments) -> list[str]:
    """What differs from a good path, as `change` takes it."""
    return [
        f"{knob.name}={knob.write(value)}"
        for knob in KNOBS
        if (value := getattr(impairments, knob.attribute)) != _DEFAULTS[knob.attribute]
    ]


def help_text() -> str:
    """All knobs, a line each."""
    examples = [f"{knob.name}={knob.example}" for knob in KNOBS]
    width = max(map(len, examples))
    lines = [f"  {example:<{width}}  {knob.purpose}" for example, knob in zip(examples, KNOBS, strict=True)]
    return "\n".join(["knobs (KNOB=none undoes one):", *lines])
