"""The limit of open files is raised as far as it may be, and what does not fit is said."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys

import pytest

from ippm.io.descriptors import SPARE, check_descriptors, raise_descriptor_limit


def test_the_soft_limit_becomes_the_hard_one_and_is_told() -> None:
    """In a process of its own, whose limit is lowered first."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    script = (
        "import logging, resource, sys\n"
        "from ippm.io.descriptors import raise_descriptor_limit\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s')\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}))\n"
        "limit = raise_descriptor_limit()\n"
        "print(limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "raise_descriptor_limit()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [f"open files: at most {hard} (it was 200)", "True"], done.stderr


def test_a_system_that_refuses_keeps_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 100


def test_limits_that_ask_for_more_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    check_descriptors(1000, 1000 - SPARE)
    check_descriptors(-1, 5000)  # unlimited
    assert caplog.text == ""
    check_descriptors(1000, 1001 - SPARE)
    assert (
        "open files: at most 1000, but as many connections and sessions as are configured take 1001" in caplog.text
    )
