"""What `@value` makes is a frozen dataclass in all but the guard."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest

from ikev2.value import value


@value(frozen=True, slots=True)
class Base:
    number: int
    critical: bool = field(default=False, kw_only=True)


@value(frozen=True, slots=True)
class Leaf(Base):
    names: list[str] = field(default_factory=list, compare=False)
    length: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.names))


@dataclass(frozen=True, slots=True)
class Guarded(Base):
    """One of somebody else's, who writes what the documentation of dataclasses says."""

    more: int = 0


def test_fields_defaults_and_the_hook_are_those_of_a_dataclass() -> None:
    one = Leaf(3, ["a", "b"], critical=True)
    assert (one.number, one.critical, one.names, one.length) == (3, True, ["a", "b"], 2)
    assert Leaf(3).names == []
    assert Leaf(3).names is not Leaf(3).names
    with pytest.raises(TypeError):
        Leaf(3, [], True)  # type: ignore[misc] # keyword only
    assert repr(Base(1)) == "Base(number=1, critical=False)"


def test_equality_hash_replace_and_slots_are_those_of_a_dataclass() -> None:
    assert Leaf(3, ["a"]) == Leaf(3, ["b"]) != Leaf(3, [])
    assert Base(1) == Base(1) != Base(2)
    assert hash(Base(1)) == hash(Base(1))
    assert dataclasses.replace(Base(1), number=2) == Base(2)
    assert not hasattr(Base(1), "__dict__")
    assert {Base(1): "x"}[Base(1)] == "x"


def test_a_frozen_dataclass_can_come_of_one() -> None:
    made = Guarded(1, more=2)
    assert (made.number, made.more) == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.more = 3  # type: ignore[misc]
