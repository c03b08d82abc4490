"""The figures of owping and twping against what the path is known to have done: real sessions through the router.

    alice 10.0.0.2, the client --- router with impairments --- server 203.0.113.2, `ippm serve`

Two judges. Where decisions go by packet number, the figures are worked out by hand below. Where chance or time decides,
the router's record says which packets came and left, in which order and when, by the clock that all hosts share here;
what RFC 4737 and the others make of that order is computed here from their definitions, with nothing of ippm.

A stamp of the report lies outside of the packet's time in the router, so a delay is never below what the router's
record has, and above it by what the packet's own stamps say that the rest of the path took: no figure of time is
assumed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_lab_impairments import two_networks

from interop.lab.knobs import change
from interop.lab.netns import why_no_namespaces
from interop.lab.relay import Impairments, Sighting

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]

ROOT = Path(__file__).resolve().parents[2]
SERVER, SERVER6 = "203.0.113.2", "2001:db8:b::2"
COUNT = 100
BY_NUMBER = [
    "only=udp",
    "delay=10ms",
    "loss-every=10",
    "duplication-every=7",
    "reordering-every=15",
    "reorder-by=3",
]
"""Of packets 1 to 100: 10, 20 ... 100 are lost. Of 7, 14 ... 98 all but 70 arrive twice. 15, 45 and 75 (30, 60 and 90
are lost) arrive behind the three that follow them: 16, 17, 18 and so on, none of which is lost."""
LOST, COPIES, OVERTAKEN, EXTENT = 10, 13, 3, 3


@dataclass(frozen=True)
class Passage:
    """A test packet in the router: its Sequence Number, that of the sender's packet when it is a reply, and when."""

    number: int
    answered: int
    at_ns: int


@dataclass(frozen=True)
class Measured:
    """Reports, packets as in `measure_once`, and the router's record: of (forward, left)."""

    reports: list[dict[str, Any]]
    packets: list[list[list[int]]]
    record: dict[tuple[bool, bool], list[Passage]]


def measure(protocol: str, forward: Sequence[str], backward: Sequence[str], **options: Any) -> Measured:
    """A measurement in open mode through the router."""
    knobs = {"forward": change(Impairments(), forward), "backward": change(Impairments(), backward)}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with two_networks(**knobs) as (lab, router):
        serve = [sys.executable, "-m", "ippm", "serve"]
        server = lab.popen("server", serve, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        said = [server.stdout.readline(), server.stdout.readline()]
        assert "OWAMP" in said[0] + said[1]
        asked = {
            "host": SERVER,
            "count": COUNT,
            "interval_s": 0.004,
            "exponential": False,
            "timeout_s": 3.0,
        } | options
        argv = [sys.executable, "tests/netns/measure_once.py", protocol, json.dumps(asked)]
        done = lab.run("alice", argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        server.stdout.close()
        record = {
            (way, left): passages(router.schedule.record, way, left)
            for way in (True, False)
            for left in (True, False)
        }
    document = json.loads(done.stdout)
    return Measured(document["reports"], document["packets"], record)


def passages(record: Iterable[Sighting], forward: bool, left: bool) -> list[Passage]:
    """The test packets of one way, in order: all UDP that there is. RFC 4656 section 4.1.2, RFC 5357 section 4.2.1."""
    found = []
    for one in record:
        if (one.forward, one.left) != (forward, left) or one.octets[0] != 0x45 or one.octets[9] != 17:
            continue
        payload = one.octets[28:]
        found.append(Passage(int.from_bytes(payload[:4], "big"), int.from_bytes(payload[24:28], "big"), one.at_ns))
    return found


# the definitions, word by word


def first_copies(arrivals: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(arrivals))


def extents(arrivals: Iterable[int]) -> list[int]:
    """RFC 4737 section 4.2.2: of each reordered packet i, i less the smallest j with s[j] > s[i], in arrivals."""
    s = first_copies(arrivals)
    return [
        i - next(j for j in range(i) if s[j] > s[i]) for i in range(len(s)) if any(s[j] > s[i] for j in range(i))
    ]


def n_reordered(arrivals: Iterable[int]) -> list[int]:
    """RFC 4737 section 5.2: how many packets had all of the n before them with greater numbers, for n from 1 up."""
    s = first_copies(arrivals)
    counts = [
        sum(i >= n and all(s[j] > s[i] for j in range(i - n, i)) for i in range(len(s))) for n in range(1, len(s))
    ]
    return [count for count in counts if count]


def periods(lost: Sequence[int]) -> dict[str, int]:
    """RFC 3357 section 6: how many runs of packets lost one after the other have which length."""
    lengths: list[int] = []
    for number in lost:
        if number - 1 in lost:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return {str(length): lengths.count(length) for length in sorted(set(lengths))}


def quantile(values: Sequence[int], percent: int) -> int:
    """RFC 2330 section 11.3: the smallest value that so many of all do not exceed."""
    ordered = sorted(values)
    return next(x for place, x in enumerate(ordered, 1) if 100 * place >= percent * len(ordered))


def statistics(values: Sequence[int]) -> dict[str, int]:
    ordered, middle = sorted(values), len(values) // 2
    return {
        "minimum_ns": ordered[0],
        "median_ns": ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2,
        "p95_ns": quantile(values, 95),
        "p99_ns": quantile(values, 99),
        "maximum_ns": ordered[-1],
        "mean_ns": sum(values) // len(values),
    }


# by number


@pytest.mark.parametrize("host", [SERVER, SERVER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("direction", ["to", "from"])
def test_one_way_figures_are_exact(direction: str, host: str) -> None:
    knobs = (BY_NUMBER, []) if direction == "to" else ([], BY_NUMBER)
    run = measure("owamp", *knobs, host=host)
    impaired, other = run.reports if direction == "to" else run.reports[::-1]
    assert [report["direction"] for report in run.reports] == ["to", "from"]
    assert (impaired["sent"], impaired["received"], impaired["lost"]) == (COUNT, COUNT - LOST, LOST)
    assert impaired["duplicates"] == COPIES
    assert impaired["reordered"] == impaired["reordering"]["reordered"] == OVERTAKEN
    assert impaired["reordering"]["extent_counts"] == {str(EXTENT): OVERTAKEN}
    assert impaired["reordering"]["n_reordered"] == [OVERTAKEN] * EXTENT
    assert impaired["loss_pattern"] == {
        "periods": LOST, "longest_period": 1, "period_lengths": {"1": LOST}, "shortest_between": 10
    }  # fmt: skip
    assert (other["sent"], other["lost"], other["duplicates"], other["reordered"]) == (COUNT, 0, 0, 0)


@pytest.mark.parametrize("host", [SERVER, SERVER6], ids=["ipv4", "ipv6"])
def test_two_way_figures_are_exact_of_the_way_there(host: str) -> None:
    (report,) = measure("twamp", BY_NUMBER, [], host=host).reports
    assert (report["sent"], report["lost"], report["lost_backward_at_least"]) == (COUNT, LOST, 0)
    assert (report["duplicates"], report["send_duplicates"], report["reflect_duplicates"]) == (COPIES, COPIES, 0)
    assert (report["reordered"], report["reordered_forward"], report["reordered_backward"]) == (
        OVERTAKEN,
        OVERTAKEN,
        0,
    )
    assert report["reordering"]["extent_counts"] == {str(EXTENT): OVERTAKEN}
    assert report["loss_pattern"]["period_lengths"] == {"1": LOST}


@pytest.mark.parametrize("host", [SERVER, SERVER6], ids=["ipv4", "ipv6"])
def test_two_way_figures_are_exact_of_the_way_back(host: str) -> None:
    """Of the last reply, which is lost, no number tells that it was sent: `lost_backward_at_least` is one less."""
    (report,) = measure("twamp", [], BY_NUMBER, host=host).reports
    assert (report["sent"], report["lost"], report["lost_backward_at_least"]) == (COUNT, LOST, LOST - 1)
    assert (report["duplicates"], report["send_duplicates"], report["reflect_duplicates"]) == (COPIES, 0, COPIES)
    assert (report["reordered"], report["reordered_forward"], report["reordered_backward"]) == (
        OVERTAKEN,
        0,
        OVERTAKEN,
    )
    assert report["reordering"]["extent_counts"] == {str(EXTENT): OVERTAKEN}
    assert report["loss_pattern"]["period_lengths"] == {"1": LOST}


# by chance, both ways at once


FORWARD = ["only=udp", "delay=5ms", "jitter=25ms", "loss=8%", "duplication=10%"]
BACKWARD = ["only=udp", "delay=2ms", "jitter=12ms", "loss=5%", "duplication=7%", "reordering=5%", "reorder-by=4"]


def test_two_way_figures_are_those_of_the_record() -> None:
    run = measure("twamp", FORWARD, BACKWARD)
    (report,) = run.reports
    there, back = run.record[True, True], run.record[False, True]
    answered = [passage.answered for passage in back]
    lost = sorted(set(range(COUNT)) - set(answered))
    assert (report["sent"], report["received"], report["lost"]) == (COUNT, COUNT - len(lost), len(lost))
    # A copy of a reply has the number of a reply that came; a reply to a copy has one of its own.
    pairs = [(passage.answered, passage.number) for passage in back]
    reflect_duplicates = len(pairs) - len(set(pairs))
    assert report["duplicates"] == len(answered) - len(set(answered))
    assert report["reflect_duplicates"] == reflect_duplicates
    assert report["send_duplicates"] == report["duplicates"] - reflect_duplicates
    numbers = [passage.number for passage in back]
    assert report["lost_backward_at_least"] == min(len(lost), max(numbers) + 1 - len(set(numbers)))
    assert report["reordered"] == len(extents(answered))
    assert report["reordered_backward"] == len(extents(numbers))
    in_order_of_the_reflector = [answer for _, answer in sorted({(number, answer) for answer, number in pairs})]
    assert report["reordered_forward"] == len(extents(in_order_of_the_reflector))
    # The reflector numbers its replies in the order in which the router let the packets go.
    assert all(there[number].number == answer for answer, number in pairs)
    found = extents(answered)
    assert report["reordering"]["extent_counts"] == {str(one): found.count(one) for one in sorted(set(found))}
    assert report["reordering"]["n_reordered"] == n_reordered(answered)
    assert report["loss_pattern"]["period_lengths"] == periods(lost)
    assert lost
    assert found
    assert report["send_duplicates"]
    assert report["reflect_duplicates"]


def test_one_way_figures_are_those_of_the_record() -> None:
    run = measure("owamp", FORWARD, BACKWARD)
    for report, forward in zip(run.reports, (True, False), strict=True):
        arrivals = [passage.number for passage in run.record[forward, True]]
        lost = sorted(set(range(COUNT)) - set(arrivals))
        found = extents(arrivals)
        assert (report["sent"], report["lost"]) == (COUNT, len(lost))
        assert report["duplicates"] == len(arrivals) - len(set(arrivals))
        assert report["reordered"] == len(found)
        assert report["reordering"]["extent_counts"] == {str(one): found.count(one) for one in sorted(set(found))}
        assert report["reordering"]["n_reordered"] == n_reordered(arrivals)
        assert report["loss_pattern"]["period_lengths"] == periods(lost)
        assert lost
        assert found
        assert report["duplicates"]


# time


def held_ns(run: Measured, forward: bool) -> dict[int, tuple[int, int]]:
    """When each packet came to the router and when its first copy left, by its number on this way."""
    came = {passage.number: passage.at_ns for passage in run.record[forward, False]}
    left: dict[int, int] = {}
    for passage in run.record[forward, True]:
        left.setdefault(passage.number, passage.at_ns)
    return {number: (came[number], when) for number, when in left.items()}


def judge(
    report: dict[str, int], stamps: dict[int, tuple[int, int]], held: dict[int, tuple[int, int]], claimed_ns: int
) -> None:
    """The statistics of a one-way delay against the router's record of the same packets.

    Each packet's stamps lie around its time in the router, within what the report claims for its stamps. So each
    delay is the router's and an excess, and so is each statistic of them; the excess is at most the largest. And the
    statistics are those of the stamps, to the rounding of each.
    """
    assert set(stamps) <= set(held)
    for number, (sent, received) in stamps.items():
        assert sent <= held[number][0] + claimed_ns
        assert received >= held[number][1] - claimed_ns
    truth = {number: left - came for number, (came, left) in held.items() if number in stamps}
    excess = max(received - sent - truth[number] for number, (sent, received) in stamps.items())
    for name, value in statistics(list(truth.values())).items():
        assert value - 2 * claimed_ns <= report[name] <= value + excess + 1, name
    of_stamps([received - sent for sent, received in stamps.values()], report)


def of_stamps(delays: Sequence[int], report: dict[str, int]) -> None:
    """The report has the statistics of these delays; the two stamps of each were rounded to nanoseconds."""
    for name, value in statistics(delays).items():
        assert abs(report[name] - value) <= 4, name


def judge_variation(
    report: dict[str, Any], stamps: dict[int, tuple[int, int]], held: dict[int, tuple[int, int]], prefix: str = ""
) -> None:
    """IPDV and PDV of the report (RFC 5481) against those of the record: off by no more than the excess varies."""
    truth = {number: held[number][1] - held[number][0] for number in stamps}
    excess = [received - sent - truth[number] for number, (sent, received) in stamps.items()]
    spread = max(excess) - min(excess) + 2
    ipdv = [truth[number] - truth[number - 1] for number in truth if number - 1 in truth]
    assert report[f"{prefix}ipdv"]["count"] == len(ipdv)
    pdv = [value - min(truth.values()) for value in truth.values()]
    for name, values in (("ipdv", ipdv), ("pdv", pdv)):
        for statistic, value in statistics(values).items():
            assert abs(report[prefix + name][statistic] - value) <= spread, (name, statistic)


SLOW = ["only=udp", "delay=15ms", "jitter=30ms", "loss=10%"]
QUICK = ["only=udp", "delay=4ms", "jitter=8ms", "loss=5%"]


def test_two_way_delays_are_those_of_the_record() -> None:
    run = measure("twamp", SLOW, QUICK)
    (report,) = run.reports
    there = held_ns(run, True)
    # A reply is known by its own number; the packet that it answers stands in it.
    answer_of = {passage.number: passage.answered for passage in run.record[False, False]}
    back = {answer_of[number]: times for number, times in held_ns(run, False).items()}
    (packets,) = run.packets
    forward = {number: (t1, t2) for number, t1, t2, _, _ in packets}
    backward = {number: (t3, t4) for number, _, _, t3, t4 in packets}
    assert len(packets) == report["received"] > COUNT // 2
    assert all(t2 <= t3 for _, _, t2, t3, _ in packets)
    claimed_ns = report["stamps"]["error_ns"]
    judge(report["forward"], forward, there, claimed_ns)
    judge(report["backward"], backward, back, claimed_ns)
    judge_variation(report, forward, there, "forward_")
    judge_variation(report, backward, back, "backward_")
    round_trips = {n: there[n][1] - there[n][0] + back[n][1] - back[n][0] for n in forward}
    excess = max(t4 - t1 - (t3 - t2) - round_trips[n] for n, t1, t2, t3, t4 in packets)
    for name, value in statistics(list(round_trips.values())).items():
        assert value - 4 * claimed_ns <= report["delay"][name] <= value + excess + 1, name
    of_stamps([t4 - t1 - (t3 - t2) for _, t1, t2, t3, t4 in packets], report["delay"])
    # Both hosts have one clock: what is off is within the error that their clocks claim.
    assert excess <= report["clock"]["error_ns"]
    # The two ways were told apart.
    assert report["forward"]["minimum_ns"] >= 15_000_000 - claimed_ns
    assert report["backward"]["minimum_ns"] >= 4_000_000 - claimed_ns


def test_one_way_delays_are_those_of_the_record() -> None:
    run = measure("owamp", SLOW, QUICK)
    for report, packets, forward in zip(run.reports, run.packets, (True, False), strict=True):
        stamps = {number: (sent, received) for number, sent, received in packets}
        assert len(stamps) == len(packets) == report["received"] > COUNT // 2
        # Of the server's own stamps no error is claimed here beside its clock's.
        claimed_ns = report["stamps"].get("error_ns") or 0
        held = held_ns(run, forward)
        judge(report["delay"], stamps, held, claimed_ns)
        judge_variation(report, stamps, held)
        assert max(received - sent for sent, received in stamps.values()) <= report["delay"]["maximum_ns"] + 1
        assert report["clock"]["error_ns"] > 0


# runs beside one another


def kept(directory: Path, knobs: Sequence[str]) -> str:
    """A session to the server through these impairments, kept in a file: its name."""
    directory.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with two_networks(forward=change(Impairments(), knobs), backward=Impairments()) as (lab, _):
        serve = [sys.executable, "-m", "ippm", "serve"]
        server = lab.popen("server", serve, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline()
        owping = ["owping", "-t", "-c", str(COUNT), "-i", "0.004f", "-L", "2", "-d", str(directory), SERVER]
        done = lab.run("alice", [sys.executable, "-m", "ippm", *owping], cwd=ROOT, env=environment, timeout=120)
        assert done.returncode == 0
        server.stdout.close()
    (file,) = directory.iterdir()
    return str(file)


def test_a_path_that_is_longer_or_less_steady_is_found_by_comparing_runs(tmp_path: Path) -> None:
    """By so much that no busy machine hides it. That runs over one path agree is shown with values of known origin."""
    one = kept(tmp_path / "1", ["only=udp", "delay=5ms", "jitter=200ms"])
    longer = kept(tmp_path / "2", ["only=udp", "delay=255ms", "jitter=200ms"])
    less_steady = kept(tmp_path / "3", ["only=udp", "delay=5ms", "jitter=1s"])

    def compare(*arguments: str) -> int:
        argv = [sys.executable, "-m", "ippm", "compare", "--significance", "1", *arguments]
        return subprocess.run(argv, cwd=ROOT, check=False, capture_output=True).returncode

    assert compare(one, one, "--expect", "same") == 0
    assert compare(one, longer, "--expect", "different") == 0
    assert compare(one, less_steady, "--expect", "different", "--centre", "median") == 0
    assert compare(one, longer, "--expect", "same") == 3
