"""Our IKEv2 over the kernel's ESP against OpenIKED over the kernel's ESP by PF_KEY.

One guest runs every case of `guest_openiked.py`, one test here for each. RFC 7296, RFC 4303.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import guest_openiked
import pytest

from interop.lab.packages import skip_reason
from interop.lab.uml import GuestOptions, run_in_guest, why_not
from interop.peers.openiked import transforms
from interop.peers.openiked import why_not as why_no_iked

REASON = why_not() or why_no_iked() or skip_reason("ip")
in_a_guest = [
    pytest.mark.uml,
    pytest.mark.openiked,
    pytest.mark.timeout(600),
    pytest.mark.skipif(REASON is not None, reason=f"no OpenIKED in a guest: {REASON}"),
]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, object]]:
    script = Path(guest_openiked.__file__)
    options = GuestOptions(prewarm=True, timeout_s=480, working_directory=guest_openiked.ROOT)
    result = run_in_guest([sys.executable, str(script)], options)
    lines = [line for line in result.text.splitlines() if line.startswith("{")]
    found = {document["case"]: document for document in map(json.loads, lines)}
    assert found, f"status {result.status}: {result.text}\n{result.console[-2000:]}"
    return found


@pytest.mark.parametrize("case", [pytest.param(name, marks=in_a_guest) for name in guest_openiked.CASES])
def test_interworks_with_openiked_over_the_kernels_esp(case: str, verdicts: dict[str, dict[str, object]]) -> None:
    verdict = verdicts.get(case)
    assert verdict is not None, "the guest ended before this case"
    assert verdict["ok"], verdict["error"]


@pytest.mark.parametrize(
    ("proposal", "words"),
    [
        ("aes256-sha256-curve25519", "enc aes-256 auth hmac-sha2-256 group curve25519"),
        ("aes128gcm16-prfsha384-ecp224bp", "enc aes-128-gcm prf hmac-sha2-384 group brainpool224"),
        ("aes192-sha512-esn", "enc aes-192 auth hmac-sha2-512 esn"),
    ],
)
def test_proposals_in_ikeds_words(proposal: str, words: str) -> None:
    assert transforms(proposal) == words


def test_what_iked_does_not_have_is_said() -> None:
    with pytest.raises(ValueError, match="iked has no aes128ccm8"):
        transforms("aes128ccm8-prfsha256-ecp256")
