"""The experiment of `key_count`: what somebody on the path can play where it does not belong, with 4 keys and with 2.

Nothing is assumed: each case records real octets of a TWAMP run between two hosts with an IKE SA, plays them to the
real receiver, and counts what that took. `python tests/unit/binding/key_count_experiment.py` writes docs/key-count.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1]), str(HERE)]

from binding_peers import Ends, ends  # noqa: E402
from ippm_control_peers import WISH, Pair, SessionAccepted, drain  # noqa: E402

from binding.derivation import Derivation  # noqa: E402
from binding.provider import KeyOptions  # noqa: E402
from ippm.core.control_events import ConnectionClosed, SessionsStopped, TestSession  # noqa: E402
from ippm.core.session_reflector import ReflectorPlan, SessionReflector  # noqa: E402
from ippm.core.session_sender import SenderPlan, SessionSender  # noqa: E402
from ippm.iana import Mode  # noqa: E402

DOCUMENT = HERE.parents[2] / "docs" / "key-count.md"
NOW_NTP = 0xE0000000_00000000
ERROR_ESTIMATE = 0x8001
PACKETS = 10
MODES = (Mode.AUTHENTICATED, Mode.ENCRYPTED)


@dataclass(frozen=True)
class Tried:
    """How many octet strings were played, and how many the receiver took for its own."""

    taken: int
    played: int

    def __str__(self) -> str:
        if not self.taken:
            return f"refused ({self.played} played)"
        return f"**taken** ({self.taken} of {self.played})"


class Run:
    """A Control connection with two Test sessions, and all that somebody on the path has recorded of it."""

    def __init__(self, both: Ends, derivation: Derivation, key_count: int, mode: Mode, seed: str = "") -> None:
        options = KeyOptions(derivation=derivation, key_count=key_count)
        self.made: Pair = both.control(options, mode=mode, seed=seed)
        drain(self.made.client)
        drain(self.made.server)
        self.sessions = [self._open(), self._open()]
        self.made.client.start_sessions(self.made.now)
        self.made.run()
        drain(self.made.server)

    def _open(self) -> TestSession:
        self.made.client.request_session(WISH, self.made.now)
        self.made.run()
        (session,) = [event.session for event in drain(self.made.client) if isinstance(event, SessionAccepted)]
        return session

    def packets(self, number: int) -> list[bytes]:
        """What the Session-Sender of a session sends."""
        plan = self.sessions[number]
        sender = SessionSender(
            SenderPlan(plan.sid, int(plan.mode), plan.keys, plan.sender, plan.reflector, PACKETS)
        )
        return [bytes(sender.pack(n, NOW_NTP + n, ERROR_ESTIMATE)) for n in range(PACKETS)]

    def control_octets(self) -> bytes:
        """The protected part of what the client sent on the Control connection, with a Stop-Sessions at its end."""
        already = len(self.made.to_server)
        self.made.client.stop_sessions(self.made.now)
        stop = self.made.client.data_to_send()
        assert already > 164
        return self.made.to_server[164:] + stop

    def reflected(self, number: int, played: Iterable[bytes]) -> Tried:
        """Play datagrams to a session's reflector, from the sender's own address and port, which can be forged."""
        plan = self.made.hooks.opened[number]
        reflector = SessionReflector(
            ReflectorPlan(plan.sid, int(plan.mode), plan.keys, plan.reflector, plan.sender), lambda: NOW_NTP, 0x8001
        )
        reflector.start(0)
        answers = [reflector.handle(datagram, 255, NOW_NTP, plan.sender) for datagram in played]
        return Tried(sum(answer is not None for answer in answers), len(answers))


def own_packets(run: Run, _: Run) -> Tried:
    return run.reflected(0, run.packets(0))


def other_session(run: Run, _: Run) -> Tried:
    return run.reflected(1, run.packets(0))


def other_connection(run: Run, other: Run) -> Tried:
    return other.reflected(1, run.packets(0))


def control_as_test(run: Run, _: Run) -> Tried:
    """Every stretch of 48 octets, at every offset: aligned to blocks or not."""
    octets = run.control_octets()
    return run.reflected(0, [octets[at : at + 48] for at in range(len(octets) - 47)])


def control_block_with_its_own_hmac(run: Run, _: Run) -> Tried:
    """A command of one block and its HMAC, laid out as an authenticated packet: block | 16 octets | HMAC."""
    octets = run.control_octets()
    pairs = [(octets[at : at + 16], octets[at + 16 : at + 32]) for at in range(0, len(octets) - 31, 16)]
    filler = (NOW_NTP.to_bytes(8, "big") + ERROR_ESTIMATE.to_bytes(2, "big")).ljust(16, b"\0")
    return run.reflected(0, [block + filler + tag for block, tag in pairs])


def test_as_control(derivation: Derivation, key_count: int, mode: Mode) -> Tried:
    """Each packet in place of the client's next command, while the server awaits Stop-Sessions. A fresh run each."""
    taken = 0
    for number in range(PACKETS):
        run = Run(ends(), derivation, key_count, mode)
        run.made.server.receive_data(run.packets(0)[number] * 2, run.made.now)
        events = drain(run.made.server)
        closed = any(isinstance(event, ConnectionClosed) for event in events)
        taken += not closed or any(isinstance(event, SessionsStopped) for event in events)
    return Tried(taken, PACKETS)


test_as_control.__test__ = False  # type: ignore[attr-defined]

CASES: dict[str, Callable[[Run, Run], Tried]] = {
    "a Test packet of session 1 played into session 1 again (for comparison)": own_packets,
    "a Test packet of session 1 played into session 2 of the same Control connection": other_session,
    "a Test packet of session 1 played into session 2 of another Control connection": other_connection,
    "Control octets as a Test packet: every 48 in a row": control_as_test,
    "a Control block and the one after it as block and HMAC of a Test packet": control_block_with_its_own_hmac,
}
REVERSE = "a Test packet as the client's next Control command"


def results(derivation: Derivation) -> dict[tuple[str, str], dict[int, Tried]]:
    """(case, mode) -> key_count -> what came of it."""
    found: dict[tuple[str, str], dict[int, Tried]] = {}
    for mode in MODES:
        for key_count in (4, 2):
            for name, case in CASES.items():
                both = ends()
                run = Run(both, derivation, key_count, mode)
                other = Run(both, derivation, key_count, mode, "other")
                found.setdefault((name, mode.word), {})[key_count] = case(run, other)
            found.setdefault((REVERSE, mode.word), {})[key_count] = test_as_control(derivation, key_count, mode)
    return found


HEAD = """\
# What the two-key experiment costs

`key_count = 2` uses the Control connection's AES and HMAC Session-keys for Test, too: the reduction that the slides of
2012 mention. It is off by default. This page shows what somebody on the path, who knows no key but can record, replay
and forge addresses, gets out of it. Every cell is the outcome of playing real octets to the real receiver;
`python tests/unit/binding/key_count_experiment.py` writes this page, and a test compares it with what the code does.

Derivation `rfc7717`; the two draft forms have the same outcome in every row (tested).

| played | mode | 4 keys | 2 keys |
| --- | --- | --- | --- |
"""

TAIL = """
How to read it:

- A Test packet has neither a Session ID nor an address in it. What ties it to its session is its keys alone. With
  four keys those come from the SID; with two, all sessions of a Control connection share them, and a packet of one is
  answered in the other as if it were its own. That is the cost.
- Sessions of another Control connection are out of reach in both settings: its Session-keys are other random octets.
- A replay within a session is answered in both settings: the reflector is to answer whatever verifies
  (RFC 5357 section 4.2), and the sender counts the copies.
- Control octets and Test packets were not taken for each other in either setting: in Control the HMAC is encrypted
  with its command and under a chained IV, in Test the HMAC is in the clear and the IV is zero. Different keys are not
  what refuses them here. That is an observation on these messages, not a proof about all that might be made of them.
"""


def document() -> str:
    """The page."""
    rows = [
        f"| {name} | {mode} | {by_count[4]} | {by_count[2]} |"
        for (name, mode), by_count in sorted(results(Derivation.RFC7717).items(), key=_order)
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL


def _order(item: tuple[tuple[str, str], object]) -> tuple[int, str]:
    return [*CASES, REVERSE].index(item[0][0]), item[0][1]


if __name__ == "__main__":
    DOCUMENT.write_text(document())
