"""The inputs that fuzzing kept, through the same functions: nothing but a value or a protocol error comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import TARGETS

CORPUS = Path(__file__).resolve().parent.parent.parent / "fuzz" / "corpus"


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_kept_corpus(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert 5 < len(inputs) <= 150
    for path in inputs:
        TARGETS[target](path.read_bytes())
