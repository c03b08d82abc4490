"""`ippm compare`: runs from files, what is said of them, and what is refused."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from ippm.cli.main import cli
from ippm.core.fetched_session import FetchedSession
from ippm.iana import Mode
from ippm.metrics.anderson_darling import anderson_darling
from ippm.report.one_way import OneWayResult
from ippm.report.owping_forms import raw_one_way
from ippm.report.saved_runs import read_run
from ippm.timestamps import ErrorEstimate, fixed_point_from_ns, ntp_add_ns, ntp_difference_ns, ntp_from_unix_ns
from ippm.wire.packet_record import PacketRecord
from ippm.wire.request_session import RequestSession
from ippm.wire.schedule_slot import Slot, SlotType

SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "share" / "ippm.schema.json").read_text())
START = ntp_from_unix_ns(1_800_000_000_000_000_000)
SYNCHRONIZED = ErrorEstimate.from_ns(1_000, synchronized=True).to_int()
UNSYNCHRONIZED = ErrorEstimate.from_ns(16_000_000_000, synchronized=False).to_int()


def delays(seed: int, count: int = 80, shift: int = 0, sigma: float = 0.3) -> list[int]:
    draw = random.Random(seed)
    return [round(draw.lognormvariate(13, sigma)) + shift for _ in range(count)]


def session(values: Sequence[int | None], *, clock: int = SYNCHRONIZED, padding: int = 0) -> FetchedSession:
    """A saved session whose packets, 10 ms apart, took so long; None: lost."""
    request = RequestSession(
        sender_address=ipaddress.ip_address("192.0.2.1"),
        receiver_address=ipaddress.ip_address("192.0.2.2"),
        sender_port=18760,
        receiver_port=18761,
        conf_sender=False,
        conf_receiver=True,
        number_of_packets=len(values),
        slots=(Slot(SlotType.FIXED, fixed_point_from_ns(10_000_000)),),
        sid=bytes(range(16)),
        padding_length=padding,
        start_time=START,
        timeout=fixed_point_from_ns(2_000_000_000),
    )
    records = b"".join(
        (
            PacketRecord.of_lost(number, ntp_add_ns(START, number * 10_000_000), clock)
            if value is None
            else PacketRecord(
                number, clock, clock, ntp_add_ns(START, number * 10_000_000),
                ntp_add_ns(START, number * 10_000_000 + value), 255,
            )
        ).encode()
        for number, value in enumerate(values)
    )  # fmt: skip
    return FetchedSession(request, 1, len(values), (), records)


def saved(directory: Path, name: str, values: Sequence[int | None], **options: Any) -> str:
    path = directory / name
    path.write_bytes(session(values, **options).encode(Mode.OPEN))
    return str(path)


def line(number: int, sent: int, received: int, sync: str = "1") -> str:
    return f"{number} {sent:020d} {sync} 1e-06 {received:020d} {sync} 1e-06 255"


def two_way(directory: Path, name: str, ways: Sequence[tuple[int, int] | None], sync: str = "1") -> str:
    """The lines of twping -R: packets that took so long there and back, with 1 ms in the reflector."""
    lines = []
    for number, both in enumerate(ways):
        t1 = ntp_add_ns(START, number * 10_000_000)
        if both is None:
            lines.append(line(number, t1, 0, sync))
            continue
        t2 = ntp_add_ns(t1, both[0])
        t3 = ntp_add_ns(t2, 1_000_000)
        lines.append(line(number, t1, t2, sync) + " " + line(number, t3, ntp_add_ns(t3, both[1]), sync))
    path = directory / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *arguments])


def document(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    jsonschema.validate(json.loads(done.output), SCHEMA)
    found: dict[str, Any] = json.loads(done.output)["comparison"]
    return found


def test_the_delays_of_saved_sessions_are_what_is_tested(tmp_path: Path) -> None:
    one, other = delays(1), delays(2)
    lossy: list[int | None] = [*other]
    lossy[3] = lossy[40] = None
    found = document(saved(tmp_path, "a", one), saved(tmp_path, "b", lossy))
    # Stamps have a resolution of 2**-32 s: the values are what they can say.
    seen = [[_through_stamps(n, value) for n, value in enumerate(run) if value is not None] for run in (one, lossy)]
    expected = anderson_darling(seen)
    assert found["statistic"] == pytest.approx(expected.statistic, abs=1e-6)
    assert found["critical_value"] == pytest.approx(1.961)
    assert [(entry["sent"], entry["lost"]) for entry in found["runs"]] == [(80, 0), (80, 2)]
    assert found["runs"][0]["statistics"]["minimum_ns"] == min(seen[0])
    assert found["metric"] == "one-way delay"
    assert not found["differ"]


def _through_stamps(number: int, value: int) -> int:
    sent, received = (ntp_add_ns(START, number * 10_000_000 + more) for more in (0, value))
    return ntp_difference_ns(received, sent)


def test_a_shift_and_another_spread_are_found(tmp_path: Path) -> None:
    base = saved(tmp_path, "base", delays(1))
    for name, options in (("later", {"shift": 150_000}), ("wider", {"sigma": 0.8})):
        found = document(base, saved(tmp_path, name, delays(2, **options)))
        assert found["differ"]
        assert found["p_value"] < 0.05


def test_without_their_medians_only_the_spread_is_left(tmp_path: Path) -> None:
    base, later = saved(tmp_path, "base", delays(1)), saved(tmp_path, "later", delays(2, shift=5_000_000_000))
    wider = saved(tmp_path, "wider", delays(2, sigma=0.8))
    assert document(base, later)["differ"]
    centred = document(base, later, "--centre", "median")
    assert not centred["differ"]
    assert centred["runs"][1]["subtracted_ns"] > 5_000_000_000
    assert document(base, wider, "--centre", "median")["differ"]


def test_more_than_two_runs(tmp_path: Path) -> None:
    files = [saved(tmp_path, str(seed), delays(seed)) for seed in range(4)]
    assert not document(*files)["differ"]
    found = document(*files, saved(tmp_path, "other", delays(9, shift=200_000)))
    assert (len(found["runs"]), found["differ"]) == (5, True)


def test_a_resolution_takes_differences_away_that_stamps_cannot_tell(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", [1_000_000 + n for n in range(0, 100, 2)])
    other = saved(tmp_path, "other", [1_000_500 + n for n in range(0, 100, 2)])
    assert document(one, other)["differ"]
    done = run(one, other, "--resolution", "1e-5")
    assert done.exit_code == 2
    assert (
        done.output
        == "ippm: nothing to test: all values of all samples are the same: there is nothing to compare\n"
    )


def test_lines_of_owping_r_are_the_same_run(tmp_path: Path) -> None:
    values: list[int | None] = [*delays(3)]
    values[7] = None
    kept = session(values)
    lines = "\n".join(raw_one_way(OneWayResult.of(kept, "to", "open")))
    of_lines = read_run("lines", lines.encode())
    of_file = read_run("file", kept.encode(Mode.OPEN))
    assert of_lines.delays == of_file.delays
    assert (of_lines.sent, of_lines.lost, of_lines.synchronized) == (80, 1, True)


@pytest.mark.parametrize(
    ("way", "expected"),
    [("round-trip", (300_000, None)), ("forward", (100_000, None)), ("backward", (200_000, None))],
)
def test_each_way_of_two_way_lines(way: str, expected: tuple[int | None, ...], tmp_path: Path) -> None:
    path = two_way(tmp_path, "raw", [(100_000, 200_000), None])
    found = read_run("raw", Path(path).read_bytes(), way)
    assert found.metric == f"{way} delay"
    assert found.delays[1] is None
    assert found.delays[0] == pytest.approx(expected[0], abs=1)


def test_one_way_of_two_may_differ_and_the_other_not(tmp_path: Path) -> None:
    one = two_way(tmp_path, "one", list(zip(delays(1), delays(2), strict=True)))
    other = two_way(tmp_path, "other", list(zip(delays(5), delays(6, shift=300_000), strict=True)))
    assert not document(one, other, "--way", "forward")["differ"]
    assert document(one, other, "--way", "backward")["differ"]
    assert document(one, other)["metric"] == "round-trip delay"


def test_ipdv_has_no_offset(tmp_path: Path) -> None:
    one, later = saved(tmp_path, "one", delays(1)), saved(tmp_path, "later", delays(2, shift=900_000_000))
    found = document(one, later, "--of", "ipdv")
    assert (found["metric"], found["differ"]) == ("IPDV of one-way delay", False)
    assert found["runs"][0]["statistics"]["count"] == 79


def test_what_limits_the_comparison_is_said(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", delays(1), clock=UNSYNCHRONIZED)
    other = saved(tmp_path, "other", sorted(delays(2)), padding=100)
    notes = document(one, other)["notes"]
    assert "the runs were not measured alike: padding octets 0 and 100" in notes
    assert any("offset between clocks" in note for note in notes)
    assert any("other: delays go with those just before them (lag-1 correlation 0.9" in note for note in notes)
    quiet = [saved(tmp_path, "x", delays(1)), saved(tmp_path, "y", delays(2))]
    assert document(*quiet)["notes"] == []
    assert not any("offset" in note for note in document(one, other, "--centre", "minimum")["notes"])
    unsynchronized = [
        two_way(tmp_path, str(seed), list(zip(delays(seed), delays(seed + 9), strict=True)), "0") for seed in (1, 2)
    ]
    assert document(*unsynchronized)["notes"] == []
    assert any("offset" in note for note in document(*unsynchronized, "--way", "forward")["notes"])


def test_the_text_has_statistic_critical_value_and_verdict(tmp_path: Path) -> None:
    one, other = saved(tmp_path, "one", delays(1)), saved(tmp_path, "other", delays(2, shift=150_000))
    text = run(one, other).output
    assert text.startswith("--- comparison of 2 runs: one-way delay ---\n")
    assert "80 sent, 0 lost (0.000%)" in text
    assert "critical value 1.961 at 5%" in text
    assert ", p < 0.01\n" in text
    assert text.endswith("the distributions differ, at 5% significance\n")
    same = run(one, one, "--significance", "1").output
    assert same.endswith("no difference between the distributions is found, at 1% significance\n")
    assert "critical value 3.752 at 1%, p > 0.25\n" in same


def test_an_expectation_decides_the_exit_status(tmp_path: Path) -> None:
    one, other = saved(tmp_path, "one", delays(1)), saved(tmp_path, "other", delays(2, shift=150_000))
    assert run(one, other, "--expect", "different").exit_code == 0
    assert run(one, one, "--expect", "same").exit_code == 0
    differs = run(one, other, "--expect", "same")
    assert differs.exit_code == 3
    assert differs.output.endswith("ippm: the runs differ, at 5% significance\n")
    assert run(one, one, "--expect", "different").exit_code == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no packet in it"),
        (b"\xff\xfe", "neither a saved session (owping -d, fetch -o) nor the lines of owping -R or twping -R"),
        (
            b"1 2 3\n",
            "line 1: 3 fields; a saved session (-d), or the lines of owping -R (8 fields) or twping -R (16)",
        ),
        (b"x 2 1 0 3 1 0 255\n", "line 1: 'x' is not a sequence number"),
        (b"1 2 1 0 -3 1 0 255\n", "line 1: '-3' is not a stamp"),
        (b"1 2 1 0 99999999999999999999 1 0 255\n", "line 1: '99999999999999999999' is not a stamp"),
        (
            b"0 5 1 0 9 1 0 255\n0 6 1 0 9 1 0 255\n",
            "line 2: another packet 0 than before: keep each",
        ),
        (b"OWAMPfs2", "the saved session ends before its time"),
    ],
)
def test_a_file_that_is_no_run_gets_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(content)
    done = run(saved(tmp_path, "one", delays(1)), str(tmp_path / "wrong"))
    assert done.exit_code == 2
    assert said in done.output
    assert str(tmp_path / "wrong") in done.output
    assert done.output.count("\n") == 1


def test_what_cannot_be_compared_gets_one_line(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", delays(1))
    for arguments, said in (
        ([one], "two files, or more, are compared"),
        (
            [one, two_way(tmp_path, "two", [(1000, 1000)] * 9)],
            "one-way delay and round-trip delay cannot be compared",
        ),
        ([one, saved(tmp_path, "lost", [None] * 9)], "no value to compare: 9 of 9 packets were lost"),
        ([one, saved(tmp_path, "few", [1, 2, 3])], "a sample of 3: at least 5 values are needed"),
        ([one, str(tmp_path / "nowhere")], "nowhere"),
    ):
        done = run(*arguments)
        assert done.exit_code in (1, 2)
        assert said in done.output
        assert done.output.count("\n") == 1


def test_copies_count_once(tmp_path: Path) -> None:
    path = tmp_path / "copies"
    path.write_text("\n".join([line(0, START, START + 5000), line(0, START, START + 9000)]))
    assert read_run("copies", path.read_bytes()).delays == (ntp_difference_ns(START + 5000, START),)
