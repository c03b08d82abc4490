"""The cost of `key_count = 2` is shown, not assumed: docs/key-count.md is what the code does."""

from __future__ import annotations

import pytest
from key_count_experiment import CASES, DOCUMENT, REVERSE, document, results

from binding.derivation import Derivation


def test_the_page_says_what_happens() -> None:
    assert DOCUMENT.read_text() == document(), "run python tests/unit/binding/key_count_experiment.py"


@pytest.mark.parametrize("derivation", list(Derivation))
def test_only_the_other_session_is_lost_with_two_keys(derivation: Derivation) -> None:
    again, other_session, *_ = CASES
    found = results(derivation)
    assert len(found) == 2 * (len(CASES) + 1)
    for (name, mode), by_count in found.items():
        for key_count, tried in by_count.items():
            assert tried.played > 0, (name, mode)
            expected = name == again or (name == other_session and key_count == 2)
            assert tried.taken == (tried.played if expected else 0), (name, mode, key_count)
    assert any(name == REVERSE for name, _ in found)
