"""Our IKEv2 and userspace ESP against strongSwan, in both roles: the scenarios of interop/scenarios.

Each case is a whole one: two hosts in namespaces, `ikev2 run` on one, charon on the other. One charon serves all.
RFC 7296, RFC 7717.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.runner import StrongSwanLab, why_not_here
from interop.scenarios.cases import Case, load_cases

REASON = why_not_here()
pytestmark = [
    pytest.mark.strongswan,
    pytest.mark.netns,
    pytest.mark.skipif(REASON is not None, reason=f"strongSwan cannot run here: {REASON}"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrongSwanLab]:
    with StrongSwanLab(tmp_path_factory.mktemp("strongswan")) as lab:
        yield lab


def _parameter(case: Case) -> object:
    marks = [pytest.mark.req(*case.requirements)] if case.requirements else []
    return pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", [_parameter(case) for case in load_cases()])
def test_interworks_with_strongswan(case: Case, lab: StrongSwanLab, tmp_path: Path) -> None:
    result = lab.run(case, tmp_path / "case")
    assert result.failure is None, result.failure
    assert result.checks
