"""Temporary directories: gone with the program, and after a kill with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ippm.io import own_directory
from ippm.io.own_directory import OwnDirectory

MAKES_ONE = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from ippm.io.own_directory import OwnDirectory
made = OwnDirectory("test-")
(made.path / "records").write_bytes(bytes(100))
print(made.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(own_directory, "YOUNG_S", -1.0)
    return tmp_path


def test_it_is_for_its_user_alone_and_goes_with_all_in_it(temporary: Path) -> None:
    own = OwnDirectory("test-")
    assert own.path.parent == temporary
    assert own.path.stat().st_mode & 0o777 == 0o700
    (own.path / "records").write_bytes(bytes(100))
    own.remove()
    own.remove()
    assert list(temporary.iterdir()) == []


def test_that_of_a_killed_program_goes_with_the_next_start_that_of_a_living_one_stays(temporary: Path) -> None:
    command = [sys.executable, "-c", MAKES_ONE, str(temporary)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        ours = OwnDirectory("test-")
        assert (theirs / "records").exists()
        other.send_signal(signal.SIGKILL)
        other.wait(60)
        assert theirs.exists()
        again = OwnDirectory("test-")
        assert not theirs.exists()
        assert ours.path.exists()
    ours.remove()
    again.remove()


def test_what_is_young_or_no_directory_of_such_a_program_is_left_alone(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "test-file").write_bytes(b"")
    (temporary / "test-shared").mkdir(mode=0o755)
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    os.symlink(elsewhere, temporary / "test-link")
    monkeypatch.setattr(own_directory, "YOUNG_S", 3600.0)
    (temporary / "test-young").mkdir(mode=0o700)
    OwnDirectory("test-").remove()
    assert (temporary / "test-young").exists()
    monkeypatch.setattr(own_directory, "YOUNG_S", -1.0)
    OwnDirectory("test-").remove()
    left = {path.name for path in temporary.iterdir()}
    assert left == {"test-file", "test-shared", "test-link", "elsewhere"}
