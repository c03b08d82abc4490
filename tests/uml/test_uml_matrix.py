"""All transforms of the guest's kernel over the xfrm backend; the other end is the kernel, then our own ESP.

One guest runs every case of `guest_matrix.py`, one test here for each. RFC 4303 sections 2.2.1 and 3.4.3, RFC 8221.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import guest_matrix
import pytest

from interop.lab.uml import GuestOptions, run_in_guest, why_not

pytestmark = [
    pytest.mark.uml,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=f"no guest kernel: {why_not()}"),
]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, object]]:
    options = GuestOptions(prewarm=True, timeout_s=480, working_directory=guest_matrix.ROOT)
    result = run_in_guest([sys.executable, str(Path(guest_matrix.__file__))], options)
    lines = [line for line in result.text.splitlines() if line.startswith("{")]
    found = {document["case"]: document for document in map(json.loads, lines)}
    assert found, f"status {result.status}: {result.text}\n{result.console[-2000:]}"
    return found


@pytest.mark.parametrize("case", list(guest_matrix.CASES))
def test_carries_traffic_over_the_kernels_esp(case: str, verdicts: dict[str, dict[str, object]]) -> None:
    verdict = verdicts.get(case)
    assert verdict is not None, "the guest ended before this case"
    assert verdict["ok"], verdict["error"]
