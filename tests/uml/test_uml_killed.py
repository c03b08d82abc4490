"""An endpoint over the kernel's ESP that is killed: its next start cleans up and works, and its end leaves nothing.

One guest runs every case of `guest_killed.py`, one test here for each. RFC 7296 section 2.4.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import guest_killed
import pytest

from interop.lab.uml import GuestOptions, run_in_guest, why_not

pytestmark = [
    pytest.mark.uml,
    pytest.mark.timeout(700),
    pytest.mark.skipif(why_not() is not None, reason=f"no guest kernel: {why_not()}"),
]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, object]]:
    options = GuestOptions(prewarm=True, timeout_s=600, working_directory=guest_killed.ROOT)
    result = run_in_guest([sys.executable, str(Path(guest_killed.__file__))], options)
    lines = [line for line in result.text.splitlines() if line.startswith("{")]
    found = {document["case"]: document for document in map(json.loads, lines)}
    assert found, f"status {result.status}: {result.text}\n{result.console[-2000:]}"
    return found


@pytest.mark.parametrize("case", list(guest_killed.CASES))
def test_a_killed_endpoint_over_the_kernels_esp(case: str, verdicts: dict[str, dict[str, object]]) -> None:
    verdict = verdicts.get(case)
    assert verdict is not None, "the guest ended before this case"
    assert verdict["ok"], verdict["error"]
