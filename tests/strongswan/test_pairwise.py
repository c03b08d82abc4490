"""Every algorithm that strongSwan and we have with every other, in both roles; and how the cases are chosen.

One charon and one endpoint of ours for each role run all cases; one test here for each. RFC 8247, RFC 8221.
"""

from __future__ import annotations

import itertools

import pytest

from interop.pairwise import FACTORS, Case, PairwiseLab, Verdict, covering_set, fits, load_cases
from interop.peers.vici import decode, encode
from interop.runner import why_not_here

REASON = why_not_here()
CASES = load_cases()
needs_strongswan = [
    pytest.mark.strongswan,
    pytest.mark.netns,
    pytest.mark.timeout(240),
    pytest.mark.skipif(REASON is not None, reason=f"strongSwan cannot run here: {REASON}"),
]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    return PairwiseLab(tmp_path_factory.mktemp("pairwise")).run(CASES)


PROVES = {
    "ctr": ["rfc5930-s2-01"],
    "ccm": ["rfc5282-s4-02", "rfc5282-s5.1-01", "rfc5282-s7.1-01", "rfc5282-s7.1-02"],
    "gcm": ["rfc5282-s4-01", "rfc5282-s5.1-01", "rfc5282-s7.1-01", "rfc5282-s7.1-02"],
    "prfaesxcbc": ["rfc4434-s1.1-01", "rfc4434-s1.1-02", "rfc4434-s2-03"],
    "prfaescmac": ["rfc4615-s3-01", "rfc4615-s3-02", "rfc4615-s3-04"],
    "bp": ["rfc6954-s2.3-01", "rfc6954-s2.3-02", "rfc6954-s2.3-03", "rfc6954-s2.3-04"],
}


def _parameter(case: Case) -> object:
    ids = [each for word, proved in PROVES.items() if word in case.ike for each in proved]
    return pytest.param(case, id=case.name, marks=[*needs_strongswan, *([pytest.mark.req(*ids)] if ids else [])])


@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_interworks_with_strongswan(case: Case, verdicts: dict[str, Verdict]) -> None:
    assert verdicts[case.name].failure == ""


def test_each_two_values_that_go_together_meet_in_a_case() -> None:
    rows = covering_set(FACTORS, fits)
    assert all(fits(row) for row in rows)
    met = {frozenset(pair) for row in rows for pair in itertools.combinations(row.items(), 2)}
    wanted = {
        frozenset(((one, a), (other, b)))
        for one, other in itertools.combinations(FACTORS, 2)
        for a in FACTORS[one]
        for b in FACTORS[other]
        if fits({one: a, other: b})
    }
    assert met == wanted
    # Encryption of the IKE SA by that of the Child SA cannot be had in fewer.
    least = len(FACTORS["encr"]) * len(FACTORS["esp_encr"])
    assert least <= len(rows) <= 1.1 * least


def test_the_cases_are_the_same_in_every_run_and_no_two_are_the_same() -> None:
    assert [case.name for case in CASES] == [case.name for case in load_cases()]
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.inner for case in CASES}) == len(CASES)


def test_vici_messages_are_those_of_its_own_description() -> None:
    """The example of strongSwan's src/libcharon/plugins/vici/README.md."""
    message = {
        "key1": "value1",
        "section1": {"sub-section": {"key2": "value2"}, "list1": ["item1", "item2"]},
    }
    octets = (
        b"\x03\x04key1\x00\x06value1"
        b"\x01\x08section1"
        b"\x01\x0bsub-section"
        b"\x03\x04key2\x00\x06value2"
        b"\x02"
        b"\x04\x05list1"
        b"\x05\x00\x05item1"
        b"\x05\x00\x05item2"
        b"\x06"
        b"\x02"
    )
    assert encode(message) == octets
    assert decode(octets) == message
