"""Published figures of the key exchange groups: RFC 3526, RFC 5903, RFC 6954, RFC 7748, RFC 8031."""

from __future__ import annotations

import pytest
from crypto_support import vectors

from ikev2.crypto.ecp import EcpGroup
from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.modp import prime
from ikev2.crypto.montgomery import MontgomeryGroup
from ikev2.crypto.plain_ecp import PlainEcpGroup
from ikev2.iana import KeId

PRIMES: dict[str, str] = vectors("rfc3526-primes.json")["primes"]
ECP = vectors("rfc5903-ecp.json")
BRAINPOOL = vectors("rfc6954-brainpool.json")


@pytest.mark.parametrize("number", PRIMES)
def test_primes_are_those_printed_in_rfc_3526(number: str) -> None:
    assert prime(int(number)) == int(PRIMES[number], 16)


@pytest.mark.parametrize(
    ("number", "name"), [(KeId.ECP_256, "ecp256"), (KeId.ECP_384, "ecp384"), (KeId.ECP_521, "ecp521")]
)
def test_ecp_exchange_of_rfc_5903(number: KeId, name: str) -> None:
    group, v = KE_GROUPS[number], ECP[name]
    assert isinstance(group, EcpGroup)
    assert group.name == name
    initiator, responder = group.pair(int(v["i"], 16)), group.pair(int(v["r"], 16))
    assert initiator.public.hex() == v["gix"] + v["giy"]
    assert responder.public.hex() == v["grx"] + v["gry"]
    assert len(initiator.public) == group.public_octets
    # The shared secret is the x coordinate only: RFC 5903 section 9.
    assert initiator.shared_secret(responder.public).octets.hex() == v["girx"]
    assert responder.shared_secret(initiator.public).octets.hex() == v["girx"]


@pytest.mark.req("rfc6954-s2.3-01", "rfc6954-s2.3-02", "rfc6954-s2.3-03", "rfc6954-s2.3-04")
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (27, "brainpoolP224r1"),
        (28, "brainpoolP256r1"),
        (29, "brainpoolP384r1"),
        (30, "brainpoolP512r1"),
    ],
)
def test_brainpool_exchange_of_rfc_6954(number: int, name: str) -> None:
    group, v = KE_GROUPS[KeId(number)], BRAINPOOL[name]
    assert isinstance(group, EcpGroup | PlainEcpGroup)
    a, b = group.pair(int(v["dA"], 16)), group.pair(int(v["dB"], 16))
    assert a.public.hex() == v["x_qA"] + v["y_qA"]
    assert b.public.hex() == v["x_qB"] + v["y_qB"]
    assert len(a.public) == group.public_octets
    assert a.shared_secret(b.public).octets.hex() == v["x_Z"]
    assert b.shared_secret(a.public).octets.hex() == v["x_Z"]


@pytest.mark.parametrize(
    ("number", "file"),
    [(KeId.CURVE25519, "rfc8031-curve25519.json"), (KeId.CURVE448, "rfc7748-x448.json")],
)
def test_montgomery_exchange(number: KeId, file: str) -> None:
    group, v = KE_GROUPS[number], vectors(file)
    assert isinstance(group, MontgomeryGroup)
    initiator, responder = (group.pair(bytes.fromhex(v[name])) for name in ("private_i", "private_r"))
    assert initiator.public.hex() == v["public_i"]
    assert responder.public.hex() == v["public_r"]
    assert initiator.shared_secret(responder.public).octets.hex() == v["shared"]
    assert responder.shared_secret(initiator.public).octets.hex() == v["shared"]


def test_x25519_masks_the_top_bit_and_accepts_a_non_canonical_value() -> None:
    """RFC 8031 section 3.2: receivers MUST mask the most significant bit, MUST accept non-canonical values."""
    group, v = KE_GROUPS[KeId.CURVE25519], vectors("rfc8031-curve25519.json")
    assert isinstance(group, MontgomeryGroup)
    pair = group.pair(bytes.fromhex(v["private_i"]))
    public = bytearray.fromhex(v["public_r"])
    public[31] |= 0x80
    assert pair.shared_secret(bytes(public)).octets.hex() == v["shared"]
    # p + 9 is the base point in a non-canonical form.
    base = (2**255 - 19 + 9).to_bytes(32, "little")
    assert pair.shared_secret(base).octets == pair.public
