"""The registries as open enumerations, and the errors that carry their numbers."""

from __future__ import annotations

import inspect
import pickle

import pytest

from ikev2 import errors, iana
from ikev2.iana import EncrId, KeId, NotifyType, OpenIntEnum, PayloadType

REGISTRIES = [
    item for _, item in inspect.getmembers(iana, inspect.isclass) if issubclass(item, OpenIntEnum) and len(item)
]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.__name__)
def test_an_unknown_number_is_a_value_that_equals_its_number(registry: type[OpenIntEnum]) -> None:
    value = registry(4321)
    assert value == 4321
    assert hash(value) == hash(4321)
    assert isinstance(value, registry)
    assert not value.known
    assert str(value) == value.name == "UNKNOWN_4321"
    assert value == registry(4321)
    assert value not in list(registry)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.__name__)
def test_a_known_number_is_its_member(registry: type[OpenIntEnum]) -> None:
    for member in registry:
        assert registry(int(member)) is member
        assert member.known
        assert str(member) == member.name


@pytest.mark.parametrize("value", [-1, 65536, "SA", None, 1.5])
def test_what_no_field_can_hold_is_no_member(value: object) -> None:
    with pytest.raises(ValueError):
        PayloadType(value)  # type: ignore[arg-type]


def test_unknown_numbers_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(EncrId(999))) == 999
    assert pickle.loads(pickle.dumps(EncrId.AES_CBC)) is EncrId.AES_CBC


def test_errors_carry_the_notify_of_the_rfc() -> None:
    assert errors.UnsupportedCriticalPayload(200).notify_data == b"\xc8"
    assert errors.InvalidKePayload(KeId.CURVE25519).notify_data == b"\x00\x1f"
    assert errors.InvalidSyntax("x").notify_type is NotifyType.INVALID_SYNTAX
    assert errors.IntegrityError("x").notify_type is None
    assert not issubclass(errors.LocalProtocolError, errors.ProtocolError)


def test_invalid_syntax_says_where() -> None:
    error = errors.InvalidSyntax("a length of 3", offset=30, payload=PayloadType.KE)
    assert str(error) == "a length of 3 in KE at octet 30"
    assert str(errors.InvalidSyntax("plain")) == "plain"
