"""Key exchange groups: agreement, replay from entropy, and the checks of public values of RFC 6989 and RFC 8031."""

from __future__ import annotations

import pytest
from crypto_support import CountingEntropy
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.crypto import modp
from ikev2.crypto.ecp import EcpGroup
from ikev2.crypto.ke import KE_GROUPS, KeGroup, ke_group
from ikev2.crypto.modp import ModpGroup, prime
from ikev2.crypto.montgomery import MontgomeryGroup
from ikev2.crypto.plain_ecp import BRAINPOOL_P224R1, Curve, PlainEcpGroup
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import InvalidSyntax
from ikev2.iana import KeId, NotifyType, PayloadType

# The library has announced the end of these groups; ikev2.crypto.modp works without it too.
pytestmark = pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")

EVERY = pytest.mark.parametrize("group", KE_GROUPS.values(), ids=lambda group: group.name)
MODP = [group for group in KE_GROUPS.values() if isinstance(group, ModpGroup)]
ECP = [group for group in KE_GROUPS.values() if isinstance(group, EcpGroup | PlainEcpGroup)]
EVERY_MODP = pytest.mark.parametrize("group", MODP, ids=lambda group: group.name)
EVERY_ECP = pytest.mark.parametrize("group", ECP, ids=lambda group: group.name)

# p, a, b of y^2 = x^3 + ax + b: RFC 5903 section 3 (a = -3), RFC 5639 section 3.
CURVES = {
    KeId.ECP_256: (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        -3,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    KeId.ECP_384: (
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        -3,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    KeId.ECP_521: (
        2**521 - 1,
        -3,
        0x051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
    KeId.BRAINPOOL_P224R1: (
        0xD7C134AA264366862A18302575D1D787B09F075797DA89F57EC8C0FF,
        0x68A5E62CA9CE6C1C299803A6C1530B514E182AD8B0042A59CAD29F43,
        0x2580F63CCFE44138870713B1A92369E33E2135D266DBB372386C400B,
    ),
    KeId.BRAINPOOL_P256R1: (
        0xA9FB57DBA1EEA9BC3E660A909D838D726E3BF623D52620282013481D1F6E5377,
        0x7D5A0975FC2C3057EEF67530417AFFE7FB8055C126DC5C6CE94A4B44F330B5D9,
        0x26DC5C6CE94A4B44F330B5D9BBD77CBF958416295CF7E1CE6BCCDC18FF8C07B6,
    ),
    KeId.BRAINPOOL_P384R1: (
        0x8CB91E82A3386D280F5D6F7E50E641DF152F7109ED5456B412B1DA197FB71123ACD3A729901D1A71874700133107EC53,
        0x7BC382C63D8C150C3C72080ACE05AFA0C2BEA28E4FB22787139165EFBA91F90F8AA5814A503AD4EB04A8C7DD22CE2826,
        0x04A8C7DD22CE28268B39B55416F0447C2FB77DE107DCD2A62E880EA53EEB62D57CB4390295DBC9943AB78696FA504C11,
    ),
    KeId.BRAINPOOL_P512R1: (
        0xAADD9DB8DBE9C48B3FD4E6AE33C9FC07CB308DB3B3C9D20ED6639CCA703308717D4D9B009BC66842AECDA12AE6A380E62881FF2F2D82C68528AA6056583A48F3,
        0x7830A3318B603B89E2327145AC234CC594CBDD8D3DF91610A83441CAEA9863BC2DED5D5AA8253AA10A2EF1C98B9AC8B57F1117A72BF2C7B9E7C1AC4D77FC94CA,
        0x3DF91610A83441CAEA9863BC2DED5D5AA8253AA10A2EF1C98B9AC8B57F1117A72BF2C7B9E7C1AC4D77FC94CADC083E67984050B75EBAE5DD2809BD638016F723,
    ),
}


def refused(group: KeGroup, public: bytes) -> None:
    pair = group.generate(CountingEntropy())
    with pytest.raises(InvalidSyntax) as caught:
        pair.shared_secret(public)
    assert caught.value.notify_type == NotifyType.INVALID_SYNTAX
    assert caught.value.payload == PayloadType.KE
    if not isinstance(group, MontgomeryGroup) or len(public) != group.public_octets:
        with pytest.raises(InvalidSyntax):
            group.check(public)


@EVERY
def test_both_ends_agree(group: KeGroup) -> None:
    one, other = group.generate(CountingEntropy("one")), group.generate(CountingEntropy("other"))
    assert one.public != other.public
    assert len(one.public) == len(other.public) == group.public_octets
    group.check(one.public)
    assert one.shared_secret(other.public).octets == other.shared_secret(one.public).octets


@EVERY
def test_the_same_entropy_gives_the_same_pair(group: KeGroup) -> None:
    first, again = group.generate(CountingEntropy("a")), group.generate(CountingEntropy("a"))
    assert first.public == again.public
    entropy = CountingEntropy("a")
    assert group.generate(entropy).public != group.generate(entropy).public


@pytest.mark.req("rfc7296-s3.4-01")
@EVERY
def test_a_public_value_of_another_length_is_refused(group: KeGroup) -> None:
    public = group.generate(CountingEntropy("peer")).public
    refused(group, b"")
    refused(group, public[:-1])
    refused(group, public[1:])
    refused(group, public + b"\x00")
    refused(group, b"\x00" + public)


@pytest.mark.req("rfc6989-s2.1-01")
@EVERY_MODP
def test_modp_refuses_what_is_not_between_one_and_p_less_one(group: ModpGroup) -> None:
    """RFC 6989 section 2.1: 1 < r < p-1."""
    p = group.prime
    for value in (0, 1, p - 1, p, p + 1, 2 ** (8 * group.public_octets) - 1):
        refused(group, value.to_bytes(group.public_octets, "big"))
    pair = group.generate(CountingEntropy())
    for value in (2, p - 2):
        assert len(pair.shared_secret(value.to_bytes(group.public_octets, "big"))) == group.public_octets


@pytest.mark.req("rfc7296-s3.4-01")
@EVERY_MODP
@pytest.mark.parametrize("library", [True, False], ids=["library", "pow"])
def test_modp_values_are_as_long_as_the_prime_with_zeros_in_front(
    group: ModpGroup, library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not library:
        monkeypatch.setattr(modp, "_dh", None)
    small = group.pair(5)
    assert small.public == (32).to_bytes(group.public_octets, "big")
    # 2^(5 * 7): the shared secret is padded too, RFC 7296 section 2.14.
    shared = small.shared_secret(group.pair(7).public)
    assert shared.octets == (2**35).to_bytes(group.public_octets, "big")


@EVERY_MODP
def test_modp_without_the_library_gives_the_same(group: ModpGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    with_library = group.generate(CountingEntropy("a"))
    peer = group.generate(CountingEntropy("b"))
    monkeypatch.setattr(modp, "_dh", None)
    without = group.generate(CountingEntropy("a"))
    assert without.public == with_library.public
    assert without.shared_secret(peer.public).octets == with_library.shared_secret(peer.public).octets
    refused(group, (prime(group.id) - 1).to_bytes(group.public_octets, "big"))


def test_modp_exponents_are_of_the_length_that_rfc_3526_estimates() -> None:
    estimates = {14: 320, 15: 420, 16: 480, 17: 540, 18: 620}
    for group in MODP:
        octets = -(-estimates[group.id] // 8)
        drawn: list[int] = []

        class Zeros:
            def octets(self, count: int, drawn: list[int] = drawn) -> bytes:
                drawn.append(count)
                return bytes(count)

        pair = group.generate(Zeros())
        assert drawn == [octets]
        # Even of zeros the exponent is a long one: its highest bit is set.
        exponent = 1 << (8 * octets - 1)
        assert pair.public == pow(2, exponent, group.prime).to_bytes(group.public_octets, "big")


@pytest.mark.req("rfc6989-s2.3-01", "rfc6954-s3-01")
@EVERY_ECP
def test_ecp_refuses_points_that_are_not_on_the_curve(group: EcpGroup | PlainEcpGroup) -> None:
    """RFC 6989 section 2.3: x and y have to satisfy the equation of the curve, each below p."""
    p, a, b = CURVES[group.id]
    half = group.public_octets // 2
    public = group.generate(CountingEntropy("peer")).public
    x, y = int.from_bytes(public[:half], "big"), int.from_bytes(public[half:], "big")
    assert (y * y - (x**3 + a * x + b)) % p == 0  # our own value is on it

    def point(x: int, y: int) -> bytes:
        return x.to_bytes(half, "big") + y.to_bytes(half, "big")

    refused(group, point(x, y ^ 1))
    refused(group, point(x ^ 1, y))
    refused(group, point(y, x))
    refused(group, point(0, 0))  # how some encode the point at infinity
    refused(group, b"\xff" * group.public_octets)
    refused(group, point(x, p))
    refused(group, point(x, y + p) if y + p < 2 ** (8 * half) else point(p, y))
    # The negative of a point is one, and has the same x coordinate times anything.
    pair = group.generate(CountingEntropy())
    assert pair.shared_secret(point(x, p - y)).octets == pair.shared_secret(public).octets


@pytest.mark.req("rfc6989-s2.3-01", "rfc6954-s3-01")
@EVERY_ECP
def test_ecp_refuses_a_point_of_a_weaker_curve(group: EcpGroup | PlainEcpGroup) -> None:
    """The invalid curve attack: a point of y^2 = x^3 + ax + b' with another b'."""
    p, a, b = CURVES[group.id]
    half = group.public_octets // 2
    other = b + 1
    x = 1
    while pow(square := (x**3 + a * x + other) % p, (p - 1) // 2, p) != 1:
        x += 1
    y = pow(square, (p + 1) // 4, p)
    assert y * y % p == square
    refused(group, x.to_bytes(half, "big") + y.to_bytes(half, "big"))


@EVERY_ECP
def test_ecp_private_keys_are_between_zero_and_the_order(group: EcpGroup | PlainEcpGroup) -> None:
    class Ones:
        def octets(self, count: int) -> bytes:
            return b"\xff" * count

    class Zeros:
        def octets(self, count: int) -> bytes:
            return bytes(count)

    assert group.generate(Zeros()).public == group.pair(1).public  # the generator itself, never the identity
    assert len(group.generate(Ones()).public) == group.public_octets


P256 = Curve(
    *CURVES[KeId.ECP_256],
    x=0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    y=0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    order=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
)
"""RFC 5903 section 3.1."""


@settings(max_examples=25, deadline=None)
@given(st.one_of(st.integers(1, 20), st.integers(1, P256.order - 1), st.integers(P256.order - 20, P256.order - 1)))
def test_arithmetic_in_plain_integers_gives_what_the_library_gives(private: int) -> None:
    """The curve is the parameter, so a curve that the library has shows what group 27 does."""
    plain, library = PlainEcpGroup(KeId.ECP_256, "ecp256", P256), KE_GROUPS[KeId.ECP_256]
    assert isinstance(library, EcpGroup)
    pair = plain.pair(private)
    assert pair.public == library.pair(private).public
    other = library.generate(CountingEntropy("other"))
    assert pair.shared_secret(other.public).octets == other.shared_secret(pair.public).octets


def test_plain_addition_has_no_exceptions() -> None:
    curve = BRAINPOOL_P224R1
    generator, infinity = (curve.x, curve.y, 1), (0, 1, 0)
    negative = (curve.x, curve.p - curve.y, 1)
    assert curve.add(generator, negative)[2] == 0
    assert curve.add(infinity, infinity)[2] == 0
    for one, other in ((generator, infinity), (infinity, generator)):
        x, y, z = curve.add(one, other)
        assert (x - curve.x * z) % curve.p == (y - curve.y * z) % curve.p == 0
    # The order of the generator is the one of RFC 5639: order - 1 times it is its negative.
    assert curve.multiply(curve.order - 1, curve.x, curve.y) == (curve.x, curve.p - curve.y)


@pytest.mark.req("rfc6954-s2.3-01", "rfc6954-s2.3-02", "rfc6954-s2.3-04")
@EVERY_ECP
def test_coordinates_have_the_length_of_the_field_with_zeros_in_front(group: EcpGroup | PlainEcpGroup) -> None:
    """RFC 6954 section 2.3, RFC 5903 section 7: small coordinates are not cut."""
    octets = (CURVES[group.id][0].bit_length() + 7) // 8
    assert group.public_octets == 2 * octets
    ours, short = group.pair(3), 0
    for private in range(1, 1000 if isinstance(group, EcpGroup) else 300):
        public = group.pair(private).public
        assert len(public) == 2 * octets
        if public[0] == 0 or public[octets] == 0:
            shared = group.pair(private).shared_secret(ours.public).octets
            assert shared == ours.shared_secret(public).octets
            assert len(shared) == octets
            short += 1
    assert short


# Points of small order of curve25519: RFC 7748 section 6.1, the list of cr.yp.to/ecdh.html.
SMALL_ORDER_25519 = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("public", SMALL_ORDER_25519)
def test_curve25519_refuses_an_all_zero_shared_secret(public: str) -> None:
    refused(KE_GROUPS[KeId.CURVE25519], bytes.fromhex(public))


@pytest.mark.parametrize("value", [0, 1, 2**448 - 2**224 - 2, 2**448 - 2**224 - 1, 2**448 - 2**224])
def test_curve448_refuses_an_all_zero_shared_secret(value: int) -> None:
    refused(KE_GROUPS[KeId.CURVE448], value.to_bytes(56, "little"))


def test_numbers_and_names() -> None:
    assert {group.id: group.name for group in KE_GROUPS.values()} == {
        14: "modp2048",
        15: "modp3072",
        16: "modp4096",
        17: "modp6144",
        18: "modp8192",
        19: "ecp256",
        20: "ecp384",
        21: "ecp521",
        27: "ecp224bp",
        28: "ecp256bp",
        29: "ecp384bp",
        30: "ecp512bp",
        31: "curve25519",
        32: "curve448",
    }
    assert ke_group(31) is KE_GROUPS[KeId.CURVE25519]
    # Weak groups, groups of small order and unknown ones are not there.
    for number in (0, 1, 2, 5, 22, 23, 24, 25, 26, 35, 1000):
        with pytest.raises(UnknownAlgorithm):
            ke_group(number)
