"""MODP groups of one's own: ffdhe2048 of RFC 7919, which has no number here, under one of the private range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dh
from sim.network import SeededEntropy, assert_joined, pair, proposals, up

from ikev2.cli.config import ConfigurationFaults, load
from ikev2.crypto import ke, keywords
from ikev2.crypto.declared import declare_modp_group, is_safe_prime
from ikev2.crypto.modp import prime as rfc3526_prime
from ikev2.crypto.suites import parse_ike_proposal, proposal_keyword
from ikev2.errors import ConfigurationError, InvalidSyntax
from ikev2.iana import KeId, TransformType


def _ffdhe2048() -> int:
    """2^2048 - 2^1984 + {[2^1918 * e] + 560316} * 2^64 - 1. RFC 7919 appendix A.1."""
    one = 1 << (1918 + 64)
    e, term, count = 0, one, 1
    while term:
        e += term
        term //= count
        count += 1
    return (1 << 2048) - (1 << 1984) + (((e >> 64) + 560316) << 64) - 1


PRIME = _ffdhe2048()
NUMBER = 65001


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test declares is forgotten after it."""
    groups, words, rendered = dict(ke.KE_GROUPS), dict(keywords.KEYWORDS), dict(keywords._RENDERED)
    yield
    for table, before in ((ke.KE_GROUPS, groups), (keywords.KEYWORDS, words), (keywords._RENDERED, rendered)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


@pytest.mark.req("rfc7296-s3.3.4-03", "rfc7296-s3.4-01")
def test_a_declared_group_agrees_with_another_implementation_of_diffie_hellman() -> None:
    group = declare_modp_group("ffdhe2048", NUMBER, PRIME, 2, 225 + 31)
    ours = group.generate(SeededEntropy("declared"))
    parameters = dh.DHParameterNumbers(PRIME, 2).parameters()
    theirs = parameters.generate_private_key()
    public = theirs.public_key().public_numbers().y.to_bytes(256, "big")
    number = dh.DHPublicNumbers(int.from_bytes(ours.public, "big"), dh.DHParameterNumbers(PRIME, 2))
    assert ours.shared_secret(public).octets == theirs.exchange(number.public_key()).rjust(256, b"\0")
    for bad in (bytes(256), (1).to_bytes(256, "big"), (PRIME - 1).to_bytes(256, "big"), public[1:]):
        with pytest.raises(InvalidSyntax):
            ours.shared_secret(bad)


@pytest.mark.req("rfc7296-s3.3.4-04")
def test_a_declared_group_is_negotiated_under_its_number() -> None:
    declare_modp_group("ffdhe2048", NUMBER, PRIME)
    text = "aes256gcm16-prfsha256-ffdhe2048"
    assert parse_ike_proposal(text).of_type(TransformType.KE)[0].id == NUMBER
    assert proposal_keyword(parse_ike_proposal(text)) == text
    network, a, b = pair(a={"proposals": proposals(text)}, b={"proposals": proposals(text)})
    up(network, a)
    assert_joined(a, b)
    assert a.sa.suite is not None
    assert a.sa.suite.ke.id == KeId(NUMBER)
    # The KE payload: 4 octets of header, the number, RESERVED, and 256 octets.
    assert NUMBER.to_bytes(2, "big") + bytes(2) in network.sent[0].datagram.data


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "modp2048"}, "another group"),
        ({"name": "9lives"}, "no keyword"),
        ({"transform_id": 14}, "private use"),
        ({"transform_id": 65536}, "private use"),
        ({"prime": PRIME - 2}, "safe prime"),
        ({"prime": PRIME >> 1024}, "1024 bits"),
        ({"generator": 1}, "generator"),
        ({"generator": PRIME - 1}, "generator"),
        ({"exponent_bits": 100}, "exponent_bits"),
        ({"exponent_bits": 2048}, "exponent_bits"),
    ],
)
def test_what_is_no_group_is_refused_and_leaves_nothing(options: dict[str, object], complaint: str) -> None:
    before = dict(ke.KE_GROUPS), dict(keywords.KEYWORDS)
    with pytest.raises(ConfigurationError, match=complaint):
        declare_modp_group(**{"name": "ours", "transform_id": NUMBER, "prime": PRIME, **options})  # type: ignore[arg-type]
    assert before == (ke.KE_GROUPS, keywords.KEYWORDS)


def test_the_same_again_is_no_fault_and_another_under_its_number_is() -> None:
    first = declare_modp_group("ours", NUMBER, PRIME)
    assert declare_modp_group("ours", NUMBER, PRIME) is first
    for name, number, generator in (("ours", NUMBER, 5), ("theirs", NUMBER, 2), ("ours", NUMBER + 1, 2)):
        with pytest.raises(ConfigurationError, match="another group"):
            declare_modp_group(name, number, PRIME, generator)


def test_safe_primes_are_told_from_others() -> None:
    assert [number for number in range(5, 200) if is_safe_prime(number)] == [7, 11, 23, 47, 59, 83, 107, 167, 179]
    assert is_safe_prime(PRIME)
    assert is_safe_prime(rfc3526_prime(14))
    assert not is_safe_prime(3 * rfc3526_prime(14))


FILE = """
[dh_groups.ours]
transform_id = 65001
prime = \"\"\"
{prime}
\"\"\"
generator = 2
exponent_bits = 320
[connections.lab]
proposals = ["aes256gcm16-prfsha256-ours"]
[secrets.lab]
file = "lab.psk"
"""


def _hex_lines(prime: int) -> str:
    digits = f"{prime:X}"
    return "\n".join(
        " ".join(digits[at : at + 64][i : i + 8] for i in range(0, 64, 8)) for at in range(0, len(digits), 64)
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    secret = tmp_path / "lab.psk"
    secret.touch(mode=0o600)
    secret.write_text("a secret")
    return tmp_path


@pytest.mark.req("rfc7296-s3.3.4-03", "rfc7296-s3.3.4-04")
def test_the_configuration_declares_a_group_and_its_proposals_name_it(directory: Path) -> None:
    path = directory / "host.toml"
    path.write_text(FILE.format(prime=_hex_lines(PRIME)))
    (connection,) = load(path).endpoint.connections
    assert connection.proposals[0].of_type(TransformType.KE)[0].id == NUMBER


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("65001", "14"), "dh_groups.ours: transform_id 14 is not for private use"),
        (("generator", "generater"), "dh_groups.ours.generater: unknown key; did you mean generator?"),
        (('"""\n', '"""\nXY'), "dh_groups.ours.prime: the modulus is written in hexadecimal digits"),
        (("transform_id = 65001\n", ""), "dh_groups.ours.transform_id: is missing"),
    ],
)
def test_faults_of_a_declared_group_are_told_with_their_path(
    directory: Path, change: tuple[str, str], fault: str
) -> None:
    path = directory / "host.toml"
    path.write_text(FILE.format(prime=_hex_lines(PRIME)).replace(*change, 1))
    with pytest.raises(ConfigurationFaults) as caught:
        load(path)
    assert any(line.startswith(fault) for line in caught.value.faults), caught.value.faults
