"""Internal addresses of both families between our endpoint and strongSwan, over the kernel's ESP at both ends.

One guest runs every case of `guest_virtual_ip.py`, one test here for each. RFC 7296 sections 2.19 and 3.15.3.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import guest_virtual_ip
import pytest

from interop.lab.packages import skip_reason
from interop.lab.uml import GuestOptions, run_in_guest, why_not

REASON = why_not() or skip_reason("charon-systemd", "swanctl", "ip")
pytestmark = [
    pytest.mark.uml,
    pytest.mark.strongswan,
    pytest.mark.timeout(600),
    pytest.mark.skipif(REASON is not None, reason=f"no strongSwan in a guest: {REASON}"),
]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, object]]:
    script = Path(guest_virtual_ip.__file__)
    options = GuestOptions(prewarm=True, timeout_s=480, working_directory=guest_virtual_ip.ROOT)
    result = run_in_guest([sys.executable, str(script)], options)
    lines = [line for line in result.text.splitlines() if line.startswith("{")]
    found = {document["case"]: document for document in map(json.loads, lines)}
    assert found, f"status {result.status}: {result.text}\n{result.console[-2000:]}"
    return found


@pytest.mark.parametrize("case", list(guest_virtual_ip.CASES))
@pytest.mark.req("rfc7296-s4-07", "rfc7296-s4-08", "rfc7296-s4-09")
def test_addresses_of_both_families_over_the_kernels_esp(case: str, verdicts: dict[str, dict[str, object]]) -> None:
    verdict = verdicts.get(case)
    assert verdict is not None, "the guest ended before this case"
    assert verdict["ok"], verdict["error"]
