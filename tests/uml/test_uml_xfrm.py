"""The xfrm backend against a real kernel: one guest runs every case of `guest_xfrm.py`, one test here for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import guest_xfrm
import pytest
from as_nobody import AS_NOBODY, readable, readable_python

from interop.lab.uml import GuestOptions, run_in_guest, why_not

pytestmark = [
    pytest.mark.uml,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=f"no guest kernel: {why_not()}"),
]

PROVES = {
    "ecn": ["rfc7296-s2.24-01", "rfc7296-s2.24-02"],
    "mapping": ["rfc7296-s2.23-16", "rfc7296-s2.23-17"],
}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, object]]:
    script = Path(guest_xfrm.__file__)
    options = GuestOptions(prewarm=True, timeout_s=480, working_directory=guest_xfrm.ROOT)
    result = run_in_guest([sys.executable, str(script)], options)
    lines = [line for line in result.text.splitlines() if line.startswith("{")]
    found = {document["case"]: document for document in map(json.loads, lines)}
    assert found, f"status {result.status}: {result.text}\n{result.console[-2000:]}"
    return found


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=[pytest.mark.req(*ids)] if (ids := PROVES.get(name)) else [])
        for name in guest_xfrm.CASES
    ],
)
def test_in_a_guest_with_kernel_esp(case: str, verdicts: dict[str, dict[str, object]]) -> None:
    verdict = verdicts.get(case)
    assert verdict is not None, "the guest ended before this case"
    assert verdict["ok"], verdict["error"]


AS_NOBODY_TOO = (
    "tunnel-gcm128",
    "transport-cbc192-sha384",
    "transport-ipv6",
    "rekey",
    "replay-and-forgery",
    "acquire",
)


def test_without_privileges_the_guest_does_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The whole guest is run by nobody; inside, the kernel's ESP is as good as root's."""
    if os.geteuid() != 0:
        pytest.skip("becoming nobody takes root; as another user the others have run without privileges already")
    directory = readable(tmp_path_factory.mktemp("guest"))
    python, environment = readable_python(directory, "interop", "tests/uml", "tests/unit/ikev2")
    temporary = directory / "tmp"
    temporary.mkdir(mode=0o777)
    temporary.chmod(0o777)
    script = str(directory / "tests/uml" / Path(guest_xfrm.__file__).name)
    guest = [python, "-m", "interop.lab.uml", "-p", "-t", "250", "--", python, script, *AS_NOBODY_TOO]
    done = subprocess.run(
        [*AS_NOBODY, *guest],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(temporary), "TMPDIR": str(temporary), **environment},
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(one["case"], one["ok"]) for one in found] == [(case, True) for case in AS_NOBODY_TOO], done
