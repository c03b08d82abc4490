"""SecretOctets: a key that does not show itself."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict, dataclass

import pytest
from crypto_support import CountingEntropy

from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.secret import SecretOctets, octets_of
from ikev2.crypto.suites import IkeSuite, parse_ike_proposal

# The library has announced the end of these groups; ikev2.crypto.modp works without it too.
pytestmark = pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")

SECRET = SecretOctets("SK_d", b"\xabtop secret\xcd")


@dataclass(frozen=True)
class Holder:
    key: SecretOctets


def test_no_text_form_shows_the_octets() -> None:
    forms = [
        repr(SECRET),
        str(SECRET),
        f"{SECRET}",
        f"{SECRET!s:>40}",
        f"{SECRET:}",
        repr(Holder(SECRET)),
        repr(asdict(Holder(SECRET))),
        repr({"key": SECRET}),
    ]
    for form in forms:
        assert "secret" not in form.lower()
        assert "746f7020" not in form
        assert "SK_d" in form
        assert "12 octets" in form


def test_it_cannot_be_written_as_json_by_accident() -> None:
    with pytest.raises(TypeError):
        json.dumps(asdict(Holder(SECRET)))


def test_length_truth_and_value() -> None:
    assert len(SECRET) == 12
    assert SECRET
    assert not SecretOctets("SK_ai", b"")
    assert octets_of(SECRET) == octets_of(SECRET.octets) == SECRET.octets


def test_equality_is_of_the_octets_and_hashing_is_consistent_with_it() -> None:
    same = SecretOctets("other name", SECRET.octets)
    assert same == SECRET
    assert hash(same) == hash(SECRET)
    assert SecretOctets("SK_d", b"\x00" * 12) != SECRET
    assert SECRET.octets != SECRET
    assert {Holder(SECRET): 1}[Holder(same)] == 1


def test_it_cannot_change() -> None:
    with pytest.raises(AttributeError):
        SECRET.octets = b""  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del SECRET.octets
    mutable = bytearray(b"abc")
    taken = SecretOctets("copy", bytes(mutable))
    mutable[0] = 0
    assert taken.octets == b"abc"


def test_copies_and_pickles_are_equal() -> None:
    assert copy.copy(SECRET) is SECRET
    assert copy.deepcopy(Holder(SECRET)).key is SECRET
    again = pickle.loads(pickle.dumps(SECRET))
    assert again == SECRET
    assert again.name == "SK_d"


def test_objects_that_hold_keys_do_not_show_them() -> None:
    suite = IkeSuite.from_proposal(parse_ike_proposal("aes128-sha256-modp2048"))
    cipher = SkCipher(suite.encr, suite.integ, SecretOctets("e", b"K" * 16), SecretOctets("a", b"A" * 32))
    assert repr(cipher) == "<SkCipher aes128-sha256>"
    for group in KE_GROUPS.values():
        pair = group.generate(CountingEntropy())
        # No dataclass, no __dict__: the default repr of an object with slots.
        assert not hasattr(pair, "__dict__")
        assert repr(pair).startswith("<ikev2.crypto.")
