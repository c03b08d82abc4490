"""`make lab` and `python -m interop.lab --run`: what a person finds in it, and that nothing stays of it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from demo.test_demo import NOBODY, readable_python

from ikev2.errors import IkeError
from ikev2.ipsec.xfrm.state import namespace_name
from interop.lab import screen
from interop.lab.leftovers import PREFIX, VARIABLE, LabDirectory, processes_of, remove_stale
from interop.lab.netns import why_no_namespaces
from interop.lab.playground import Playground, PlaygroundOptions

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]
ROOT = Path(__file__).resolve().parents[2]
LAB = (sys.executable, "-m", "interop.lab")


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files that is this test's own, with a short name: sockets lie below it."""
    directory = Path(tempfile.mkdtemp(prefix="t"))
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield directory
    monkeypatch.setattr(tempfile, "tempdir", None)
    shutil.rmtree(directory)


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAB, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False, **options
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_in(namespace: int) -> list[str]:
    """The processes whose network namespace has this number."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.stat(entry / "ns/net").st_ino == namespace:
                found.append(entry.name)
        except OSError:
            continue
    return found


# what is in it


def test_a_command_runs_on_a_host_and_its_status_is_the_labs() -> None:
    done = run("--run", "ikev2 list --json; lab on B ip -br addr; pwd; exit 3")
    assert done.returncode == 3, done.stderr
    document, end = json.JSONDecoder().raw_decode(done.stdout)
    (sa,) = document["ike_sas"]
    assert (sa["state"], sa["local_id"], sa["remote_id"]) == ("ESTABLISHED", "a.example", "b.example")
    assert [child["mode"] for child in sa["children"]] == ["tunnel"]
    rest = done.stdout[end:]
    assert "198.51.100.2/24" in rest
    assert rest.splitlines()[-1].endswith("/a")
    other = run("--on", "B", "--mode", "transport", "--run", "ikev2 list; echo $A $B; lab help")
    assert other.returncode == 0, other.stderr
    assert "TRANSPORT" in other.stdout
    assert "192.0.2.1 198.51.100.2" in other.stdout
    assert "lab impair" in other.stdout


def test_an_impairment_changed_while_it_runs_is_in_the_next_measurement() -> None:
    """Each fifth UDP datagram towards B: four of twenty test packets, and the report says on which way."""
    measure = "ippm-ipsec twping -c a.toml $B -n 20 -i 0.02 -L 1 --path bypass --json"
    done = run(
        "loss=0%",
        "--run",
        f"{measure} > before; lab impair to-b loss-every=5 only=udp; {measure} > after; cat before after; lab show",
    )
    assert done.returncode == 0, done.stderr
    told, _, rest = done.stdout.partition("{")
    assert told == "to-b: loss-every=5 only=udp\nto-a: a good path\n"
    decoder = json.JSONDecoder()
    before, end = decoder.raw_decode("{" + rest)
    after, _ = decoder.raw_decode(("{" + rest)[end:].lstrip())
    lost = [document["runs"][0]["result"]["lost"] for document in (before, after)]
    assert lost == [0, 4]
    assert after["runs"][0]["result"]["lost_backward_at_least"] == 0
    assert "4 lost" in done.stdout[-300:]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lab impair los=1%", "lab: there is no knob 'los'; the knobs are delay,"),
        ("lab impair", "lab impair [to-b|to-a|both] KNOB=VALUE..., such as"),
        ("lab clear up", "no direction 'up': to-b, to-a or both"),
        ("lab rebind", "lab: there is no NAT: start the lab with --nat"),
        ("lab frobnicate", "lab on A|B COMMAND..."),
    ],
)
def test_a_wrong_word_gets_one_line_that_says_what_would_be_right(words: str, said: str, lab: Playground) -> None:
    environment = os.environ | json.loads((lab.path / "a" / "host.json").read_text())["environment"]
    argv = [str(lab.path / "bin" / "lab"), *words.split()[1:]]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.fixture(scope="module")
def lab() -> Iterator[Playground]:
    with Playground(PlaygroundOptions(), lambda sentence: None) as playground:
        yield playground


def test_behind_a_nat_that_forgets(temporary: Path) -> None:
    done = run(
        "--nat",
        "--run",
        "lab show; lab rebind; ikev2 rekey lab >&2 && lab show; lab on B ikev2 list; "
        "ippm-ipsec twping -c a.toml $B -n 5 -i 0.02 -L 1 --json",
    )
    assert done.returncode == 0, done.stderr
    ports = [line.rpartition("4500 is ")[2] for line in done.stdout.splitlines() if line.startswith("NAT ")]
    assert len(ports) == 2
    assert ports[0] != ports[1]
    assert f"198.51.100.99:{ports[1]} (behind NAT)" in done.stdout
    document = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert [one["path"] for one in document["runs"]] == ["tunnel"]
    assert document["runs"][0]["result"]["lost"] == 0


# a person's terminal


class Terminal:
    """A lab on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(LAB[0], [*LAB, *arguments], os.environ | {"TERM": "xterm-256color"})
        self.seen = b""

    def wait(self, text: bytes) -> None:
        """Until it has been shown."""
        deadline = time.monotonic() + 120
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen[-2000:].decode(errors="replace")
            self._read()

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode() + b"\n")

    def end(self) -> int:
        """The exit status, once it has ended; everything that it says is read."""
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self.fd], [], [], 1)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)


def test_two_shells_on_a_terminal_until_both_have_ended(temporary: Path) -> None:
    terminal = Terminal("delay=1ms")
    terminal.wait(b"A$ ")
    terminal.wait(b"B$ ")
    (directory,) = temporary.glob(f"{PREFIX}*")
    terminal.type("ikev2 list >list; lab show >show; echo $A-$B; exit")
    wait_for(
        lambda: (directory / "a" / "show").exists() and (directory / "a" / "show").read_text().count("\n") == 2
    )
    assert "ESTABLISHED" in (directory / "a" / "list").read_text()
    assert (directory / "a" / "show").read_text().startswith("to-b: delay=1ms; ")
    terminal.wait(b"192.0.2.1-198.51.100.2")
    panes = ["tmux", "-S", str(directory / "tmux"), "list-panes", "-a", "-F", "#{pane_index}"]
    wait_for(lambda: len(subprocess.run(panes, capture_output=True, check=True).stdout.split()) == 1)
    terminal.type("ip -br addr >addresses; exit")
    assert terminal.end() == 0
    assert terminal.seen.endswith(b"lab: all of the lab is removed\r\n")
    assert list(temporary.iterdir()) == []
    assert processes_of(directory) == []


def test_leaving_ends_it(temporary: Path) -> None:
    terminal = Terminal()
    terminal.wait(b"A$ ")
    (directory,) = temporary.glob(f"{PREFIX}*")
    os.write(terminal.fd, b"\x02d")
    assert terminal.end() == 0
    assert list(temporary.iterdir()) == []
    assert processes_of(directory) == []


def test_a_terminal_that_goes_away_ends_it(temporary: Path) -> None:
    terminal = Terminal()
    terminal.wait(b"A$ ")
    (directory,) = temporary.glob(f"{PREFIX}*")
    os.close(terminal.fd)
    os.waitpid(terminal.pid, 0)
    assert list(temporary.iterdir()) == []
    assert processes_of(directory) == []


def test_without_a_terminal_it_says_what_would_be_right(temporary: Path) -> None:
    done = run(stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lab: two shells need a terminal; without one: python -m interop.lab --run COMMAND\n"
    assert list(temporary.iterdir()) == []


def test_without_tmux_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", type("Tty", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(sys, "stdout", sys.stdin)
    monkeypatch.setenv("TERM", "xterm")
    assert screen.why_no_screen() is None or shutil.which("tmux") is None
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "as root, apt-get install tmux" in (screen.why_no_screen() or "")
    monkeypatch.undo()


# nothing stays


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def heed_interrupts() -> None:
    """A shell has what it starts in the background ignore SIGINT, and so would a lab whose tests run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(temporary: Path, command: str, stack: ExitStack) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A lab whose command says "started"; its process, directory, and the numbers of its namespaces."""
    process = subprocess.Popen(
        [*LAB, "--run", command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=heed_interrupts,
    )  # fmt: skip
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "started\n":
        pytest.fail(f"{line} {process.communicate()}")
    (directory,) = temporary.glob(f"{PREFIX}*")
    assert len((directory / "namespaces").read_text().split()) == 2
    # Held open, so that the kernel does not give their numbers away.
    held = [
        os.open(json.loads((directory / host / "host.json").read_text())["namespace"], os.O_RDONLY) for host in "ab"
    ]
    stack.callback(lambda: [os.close(fd) for fd in held])
    namespaces = [os.fstat(fd).st_ino for fd in held]
    assert all(processes_in(number) for number in namespaces)
    return process, directory, namespaces


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_lab_leaves_nothing(number: signal.Signals, temporary: Path, stack: ExitStack) -> None:
    command = "trap '' INT HUP TERM; nohup sleep 1000 >/dev/null 2>&1 & echo started; sleep 1000; sleep 1000"
    process, directory, namespaces = started(temporary, command, stack)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "lab: interrupted; all of the lab is removed"
    assert list(temporary.iterdir()) == []
    assert processes_of(directory) == []
    assert [processes_in(one) for one in namespaces] == [[], []]


def test_the_next_lab_removes_what_a_killed_one_left(temporary: Path, stack: ExitStack) -> None:
    command = "trap '' INT HUP TERM; setsid sleep 1000 >/dev/null 2>&1 & sleep 1000 & echo started; wait"
    process, directory, namespaces = started(temporary, command, stack)
    process.kill()
    process.wait()
    assert directory.exists()
    # The hosts and the shell went with the lab; what the shell had started did not.
    wait_for(lambda: len(processes_of(directory)) == 2)
    cleaned = run("--clean")
    assert cleaned.returncode == 0
    assert cleaned.stderr == f"lab: removed {directory}, which a lab had left, and ended 2 processes of it\n"
    assert list(temporary.iterdir()) == []
    assert processes_of(directory) == []
    assert [processes_in(one) for one in namespaces] == [[], []]
    again = run("--run", "ikev2 list")
    assert again.returncode == 0, again.stderr
    assert "ESTABLISHED" in again.stdout


def test_a_lab_whose_terminal_was_killed_takes_its_shells_along(temporary: Path) -> None:
    terminal = Terminal()
    terminal.wait(b"A$ ")
    (directory,) = temporary.glob(f"{PREFIX}*")
    assert len(processes_of(directory)) >= 4
    os.kill(terminal.pid, signal.SIGKILL)
    os.waitpid(terminal.pid, 0)
    wait_for(lambda: processes_of(directory) == [])
    assert len(remove_stale()) == 1
    assert list(temporary.iterdir()) == []


def test_a_lab_that_cannot_start_leaves_nothing(temporary: Path) -> None:
    with (
        pytest.raises(IkeError, match=r"host B did not start: .*nonsense"),
        Playground(PlaygroundOptions(backend="nonsense"), lambda sentence: None),
    ):
        pass
    assert list(temporary.iterdir()) == []


def test_running_labs_are_left_alone(temporary: Path) -> None:
    with LabDirectory() as one:
        assert remove_stale() == []
        assert one.path.exists()
        inside = subprocess.Popen(["sleep", "1000"], env=os.environ | {VARIABLE: str(one.path)})
        other = subprocess.Popen(["sleep", "1000"], env=os.environ | {VARIABLE: str(one.path) + "x"})
        wait_for(lambda: processes_of(one.path) == [inside.pid])
    try:
        assert inside.wait(60) != 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    assert list(temporary.iterdir()) == []


def test_state_files_of_its_namespaces_go_unless_somebody_lives_in_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(temporary / "run"))
    (temporary / "run" / "ikev2").mkdir(parents=True)
    gone, here = (temporary / "run" / "ikev2" / f"xfrm-{name}-0.state" for name in ("boot-1", namespace_name()))
    other = temporary / "run" / "ikev2" / "xfrm-boot-12-0.state"
    for file in (gone, here, other):
        file.touch()
    with LabDirectory() as lab:
        lab.note_namespace("boot-1")
        lab.note_namespace(namespace_name())
    assert [file.exists() for file in (gone, here, other)] == [False, True, True]


def test_one_that_is_being_made_is_left_alone(temporary: Path) -> None:
    young = temporary / f"{PREFIX}young"
    young.mkdir()
    assert remove_stale() == []
    os.utime(young, (1, 1))
    assert remove_stale() == [f"removed {young}, which a lab had left"]


# without root


def as_nobody(argv: Sequence[str]) -> list[str]:
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *argv]


def test_as_nobody_in_an_unprivileged_user_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming nobody takes root; as another user the other tests have run unprivileged already")
    if subprocess.run(as_nobody(["unshare", "-Urnm", "true"]), capture_output=True, check=False).returncode != 0:
        pytest.skip("this kernel does not let nobody make a user namespace")
    directory = Path(tempfile.mkdtemp(prefix="nobody"))
    try:
        directory.chmod(0o755)
        directory.parent.chmod(0o755)
        python, environment = readable_python(directory)
        shutil.copytree(ROOT / "interop", directory / "interop", ignore=shutil.ignore_patterns("__pycache__"))
        home = directory / "home"
        home.mkdir()
        os.chown(home, int(NOBODY), int(NOBODY))
        command = "id -u; ikev2 list; ping -c1 -W5 $B; lab show; lab on B ip -br addr"
        argv = as_nobody([python, "-m", "interop.lab", "loss=0%", "delay=3ms", "--run", command])
        done = subprocess.run(
            argv, cwd=directory, env=os.environ | environment | {"HOME": str(home), "TMPDIR": str(home)},
            capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "going on inside an unprivileged user namespace" in done.stderr
        assert "ESTABLISHED" in done.stdout
        assert "1 received" in done.stdout
        assert "to-b: delay=3ms; " in done.stdout
        assert "198.51.100.2/24" in done.stdout
        assert list(home.glob(f"{PREFIX}*")) == []
    finally:
        shutil.rmtree(directory)
