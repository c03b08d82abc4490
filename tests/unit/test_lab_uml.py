"""The guest runner: what it writes for the guest, how it ends, and (with the guest itself) what comes back."""

from __future__ import annotations

import io
import os
import select
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from interop.lab import uml
from interop.lab.uml import GuestOptions, run_in_guest


@pytest.fixture
def fake_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the kernel's place, that plays the guest's part in the job folder."""
    program = tmp_path / "kernel"
    monkeypatch.setattr(uml, "KERNEL", str(program))
    monkeypatch.setattr(uml, "why_not", lambda: None)
    return program


def play(program: Path, script: str) -> None:
    find_job = 'for word in "$@"; do case $word in init=*) job=${word#init=}; job=${job%/init};; esac; done\n'
    program.write_text(f"#!/bin/sh\n{find_job}{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_output_streams_and_the_status_is_the_commands(fake_kernel: Path) -> None:
    play(fake_kernel, 'sh "$job/main" >> "$job/out" 2>&1; echo $? > "$job/rc"; echo 3.5 > "$job/up"; echo console')
    stream = io.BytesIO()
    result = run_in_guest(["sh", "-c", "echo 'two  words' >&2; exit 7"], stream=stream)
    assert (result.status, result.text, result.boot_s) == (7, "two  words\n", 3.5)
    assert stream.getvalue() == result.output
    assert result.console == "console\n"


def test_a_guest_that_dies_is_125_and_its_console_is_kept(fake_kernel: Path) -> None:
    play(fake_kernel, "echo Kernel panic; exit 1")
    result = run_in_guest(["true"])
    assert (result.status, result.boot_s) == (uml.DIED, None)
    assert "panic" in result.console


def test_a_guest_that_hangs_is_killed_with_its_children_and_is_124(fake_kernel: Path, tmp_path: Path) -> None:
    play(fake_kernel, f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    result = run_in_guest(["true"], GuestOptions(timeout_s=0.5))
    assert result.status == uml.TIMED_OUT
    child = int((tmp_path / "child").read_text())
    status = Path("/proc", str(child), "status")
    assert not status.exists() or "Z (zombie)" in status.read_text()


def test_the_command_has_its_folder_its_environment_and_its_quotes(
    fake_kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IKE_OF_THE_TEST", "it's $HOME")
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    play(fake_kernel, 'sh "$job/main" >> "$job/out"; cat "$job/writable" >> "$job/out"; echo 0 > "$job/rc"')
    options = GuestOptions(working_directory=tmp_path, environment={"ADDED": "y"}, writable=(tmp_path,))
    script = "import os; e = os.environ; print(os.getcwd(), e['IKE_OF_THE_TEST'], e['ADDED'])"
    result = run_in_guest([sys.executable, "-c", script], options)
    assert result.text == f"{tmp_path} it's $HOME y\n{tmp_path}\n"


def test_no_job_folder_is_left(fake_kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(jobs))
    play(fake_kernel, "exit 1")
    run_in_guest(["true"])
    assert not list(jobs.iterdir())


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_the_guest_of_a_killed_process_dies_and_its_folder_goes_with_the_next_start(
    fake_kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, said = tmp_path / "jobs", tmp_path / "said"
    jobs.mkdir()
    os.mkfifo(said)
    play(fake_kernel, f"echo $$ > {said}; exec sleep 1000")
    script = (
        f"import tempfile; tempfile.tempdir = {str(jobs)!r}; from interop.lab import uml; "
        f"uml.KERNEL = {str(fake_kernel)!r}; uml.why_not = lambda: None; uml.run_in_guest(['true'])"
    )
    runner = subprocess.Popen([sys.executable, "-c", script], cwd=Path(uml.__file__).parents[2])
    guest = os.pidfd_open(int(said.read_text()))
    runner.kill()
    runner.wait()
    try:
        assert select.select([guest], [], [], 20)[0], "the guest lives on"
    finally:
        os.close(guest)
    (left,) = jobs.iterdir()
    monkeypatch.setattr("tempfile.tempdir", str(jobs))
    play(fake_kernel, "exit 1")
    run_in_guest(["true"])
    assert not left.exists()
    assert not list(jobs.iterdir())


def test_a_missing_kernel_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uml, "KERNEL", "no-such-kernel")
    with pytest.raises(RuntimeError, match="install the package user-mode-linux"):
        run_in_guest(["true"])
    assert uml.main(["--", "true"]) == uml.DIED
    assert "there is no no-such-kernel" in capsys.readouterr().err


@pytest.mark.uml
@pytest.mark.skipif(uml.why_not() is not None, reason=f"no guest kernel: {uml.why_not()}")
def test_the_guest_writes_where_it_may_and_nowhere_else(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    script = (
        f"echo written > {mine}/file; echo lost > {other}/file; cat {other}/file; "
        "modprobe -n dummy && ls /lib/modules/$(uname -r)/modules.dep; id -u; uname -r; exit 3"
    )
    result = run_in_guest(["sh", "-c", script], GuestOptions(writable=(mine,)))
    assert result.status == 3, result.text
    assert (mine / "file").read_text() == "written\n"
    assert not list(other.iterdir())
    lines = result.text.splitlines()
    assert (lines[0], lines[-2]) == ("lost", "0")
    assert result.boot_s is not None
