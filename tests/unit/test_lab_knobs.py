"""The impairments' names and units."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop.lab.__main__ import main
from interop.lab.knobs import BY_NAME, KNOBS, KnobError, change, help_text, words
from interop.lab.relay import Impairments


def test_every_impairment_has_a_knob_and_every_example_sets_it() -> None:
    assert {knob.attribute for knob in KNOBS} == set(Impairments.__slots__)
    for knob in KNOBS:
        changed = change(Impairments(), [f"{knob.name}={knob.example}"])
        default = getattr(Impairments(), knob.attribute)
        assert getattr(changed, knob.attribute) == knob.read(knob.example)
        assert change(changed, [f"{knob.name}=none"]) == Impairments()
        if knob.read(knob.example) != default:
            assert change(Impairments(), words(changed)) == changed
        assert f"{knob.name}={knob.example}" in help_text()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("delay=20ms", 0.02), ("delay=0.02", 0.02), ("delay=2s", 2.0), ("jitter=500us", 0.0005),
        ("loss=1%", 0.01), ("loss=0.5", 0.5), ("rate=10Mbit", 1_250_000.0), ("rate=800bit", 100.0),
        ("rate=100octets", 100.0), ("reorder-by=3", 3), ("repair=yes", True), ("only=udp:4500", "udp:4500"),
    ],
)  # fmt: skip
def test_values_have_units(word: str, value: object) -> None:
    attribute = BY_NAME[word.partition("=")[0]].attribute
    assert getattr(change(Impairments(), [word]), attribute) == pytest.approx(value)


def test_a_change_leaves_the_other_knobs_alone() -> None:
    first = change(Impairments(), ["delay=20ms", "loss=1%"])
    assert words(change(first, ["loss=2%"])) == ["delay=20ms", "loss=2%"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("los=1%", "there is no knob 'los'; the knobs are delay,"),
        ("loss", "loss needs a value, such as loss=1%"),
        ("loss=150%", "loss is a probability"),
        ("delay=20min", "'20min' is no value of delay, such as delay=20ms"),
        ("delay=-1", "'-1' is no value of delay"),
        ("loss-every=x", "'x' is no value of loss-every, such as loss-every=10"),
        ("loss-every=0", "loss_every is a number from 1 up"),
        ("repair=maybe", "such as repair=yes"),
        ("only=xyz", "no protocol, such as icmp, tcp, udp"),
    ],
)
def test_a_wrong_knob_is_one_sentence_that_says_what_would_be_right(word: str, said: str) -> None:
    with pytest.raises(KnobError) as caught:
        change(Impairments(), [word])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_documentation_has_every_knob_with_its_example() -> None:
    text = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()
    for knob in KNOBS:
        assert f"`{knob.name}={knob.example}`" in text or f"`{knob.name}=udp:862`" in text


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "long"])
def test_mappings_of_the_nat_that_could_not_live_are_refused(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--mapping={seconds}", "--run", "true"])
    assert ended.value.code == 2
    assert f"argument --mapping: '{seconds}' is not seconds above zero, such as 30" in capsys.readouterr().err
