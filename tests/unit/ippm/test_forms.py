"""The forms of a result of known delays; other readers of these forms judge them where there are any."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ippm.core.fetched_session import FetchedSession
from ippm.core.rolling_sender import RollingSender
from ippm.core.schedule import poisson_schedule
from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.errors import ConfigurationError
from ippm.report import RunResult
from ippm.report.forms import parse_percentiles
from ippm.report.one_way import OneWayResult, format_one_way
from ippm.report.owping_forms import (
    bucket,
    lines_one_way,
    lines_two_way,
    machine_one_way,
    machine_two_way,
    raw_one_way,
    raw_two_way,
)
from ippm.report.pscheduler import hundredths, latency_result
from ippm.report.rolling import RollingReport, SessionWords
from ippm.report.stream import StreamWords
from ippm.report.tables import csv_table, openmetrics, seconds
from ippm.report.text import format_result, percentile_lines
from ippm.timestamps import ClockState, ntp_add_ns
from ippm.wire.packet_record import PacketRecord
from ippm.wire.request_session import RequestSession
from ippm.wire.schedule_slot import Slot, SlotType

T0 = 0xE0000000_00000000
MS = 1_000_000
SYNCHRONIZED, FREE = 0x9F01, 0x1F01  # Scale 31, Multiplier 1: half a second
SID = bytes(range(16))
SCHEMA = Path(__file__).resolve().parents[3] / "share" / "ippm.schema.json"


def one_way(error: int = SYNCHRONIZED, *, empty: bool = False, sid: bytes = SID) -> OneWayResult:
    """Packets 0 to 4, 10 ms apart: 2.5, 1.2, lost, 1.2 (twice), 4 ms; 3 came after 4."""
    request = RequestSession(
        conf_sender=False,
        conf_receiver=True,
        number_of_packets=5,
        slots=(Slot(SlotType.FIXED, 1 << 30),),
        sender_port=18700,
        receiver_port=18760,
        sender_address=ip_address("192.0.2.1"),
        receiver_address=ip_address("192.0.2.2"),
        sid=sid,
        padding_length=20,
        start_time=T0,
        timeout=2 << 32,
        type_p=10 << 24,
    )

    def record(number: int, delay_ns: int, ttl: int = 250) -> bytes:
        sent = ntp_add_ns(T0, number * 10 * MS)
        return PacketRecord(number, error, error, sent, ntp_add_ns(sent, delay_ns), ttl).encode()

    lost = PacketRecord.of_lost(2, ntp_add_ns(T0, 20 * MS), error).encode()
    records = [record(0, 2_500_000), record(1, 1_200_000), record(4, 4 * MS, 251), record(3, 1_200_000)]
    octets = b"" if empty else b"".join([*records, record(3, 1_300_000), lost])
    return OneWayResult.of(FetchedSession(request, 1, 5, (), octets), "to", "open")


def two_way(error: int = SYNCHRONIZED) -> tuple[RunResult, SenderPlan, SenderRecords]:
    """Packets 0 to 3: there 2 ms, back 3 ms, 1 ms in the reflector; 1 was not answered, 2 not sent."""
    plan = SenderPlan(SID, 1, None, ("192.0.2.1", 18700), ("2001:db8::2", 18760), 4, padding_octets=7)
    records = SenderRecords(4)
    for number in (0, 1, 3):
        records.t1[number] = ntp_add_ns(T0, number * 10 * MS)
        records.sender_error[number] = error
    for own, number in enumerate((0, 3)):
        t1 = records.t1[number]
        records.t2[number], records.t3[number] = ntp_add_ns(t1, 2 * MS), ntp_add_ns(t1, 3 * MS)
        records.t4[number] = ntp_add_ns(t1, 6 * MS)
        records.reflector_error[number] = error
        records.reflector_sequence[number] = own
        records.reflector_ttl[number], records.reply_ttl[number] = 254, 253
        records.arrivals.append(number)
        records.arrival_reflector_sequence.append(own)
    return RunResult.of(plan, records, ClockState(True, 1_000, "adjtimex")), plan, records


class TestRaw:
    def test_one_way_has_the_documented_fields(self) -> None:
        lines = list(raw_one_way(one_way()))
        assert len(lines) == 6
        assert lines[0].split(" ") == [
            "0", f"{T0:020d}", "1", "0.5", f"{ntp_add_ns(T0, 2_500_000):020d}", "1", "0.5", "250",
        ]  # fmt: skip
        assert [line.split(" ")[0] for line in lines] == ["0", "1", "4", "3", "3", "2"]

    def test_a_lost_packet_has_no_receive_time(self) -> None:
        fields = list(raw_one_way(one_way()))[-1].split(" ")
        assert fields[0] == "2"
        assert fields[4] == "0" * 20
        assert fields[7] == "255"

    def test_two_way_is_both_ways_of_each_packet(self) -> None:
        _, _, records = two_way(FREE)
        first, lost, last = (line.split(" ") for line in raw_two_way(records))
        assert (len(first), len(lost), len(last)) == (16, 8, 16)
        assert (first[0], first[8], last[0], last[8]) == ("0", "0", "3", "1")
        assert first[2] == first[5] == "0"
        assert first[9] == f"{ntp_add_ns(T0, 3 * MS):020d}"
        assert (first[7], first[15]) == ("254", "253")
        assert (lost[0], lost[4]) == ("1", "0" * 20)


class TestVerbose:
    def test_one_way(self) -> None:
        lines = list(lines_one_way(one_way()))
        assert lines[0] == "seq_no=0          delay=2.5 ms\t(sync, err=1e+03 ms)"
        assert lines[-1] == "seq_no=2          *LOST*"
        assert next(lines_one_way(one_way(FREE), "u")) == "seq_no=0          delay=2.5e+03 us\t(unsync)"

    def test_two_way(self) -> None:
        first, lost, _ = lines_two_way(two_way()[2])
        assert first == (
            "seq_no=0          fwd_delay=2 ms bck_delay=3 ms delay=5 ms proc_delay=1 ms\t(err=2e+03 ms)"
        )
        assert lost == "seq_no=1          *LOST*"


def summary(text: str) -> tuple[dict[str, str], dict[str, list[list[str]]]]:
    """The values and the tables of a machine-readable summary."""
    values: dict[str, str] = {}
    tables: dict[str, list[list[str]]] = {}
    inside = None
    for line in text.splitlines():
        if line.startswith("</"):
            inside = None
        elif line.startswith("<"):
            inside = tables.setdefault(line.strip("<>"), [])
        elif inside is not None:
            inside.append(line.split("\t")[1:])
        elif line:
            name, _, value = line.partition("\t")
            values[name] = value
    return values, tables


class TestMachine:
    def test_one_way(self) -> None:
        values, tables = summary(machine_one_way(one_way(), MS))
        assert list(values)[:10] == [
            "SUMMARY", "SID", "FROM_HOST", "FROM_ADDR", "FROM_PORT", "TO_HOST", "TO_ADDR", "TO_PORT", "START_TIME",
            "END_TIME",
        ]  # fmt: skip
        assert (values["SUMMARY"], values["SID"], values["DSCP"]) == ("3.00", SID.hex(), "0x0a")
        assert (values["FROM_ADDR"], values["FROM_PORT"], values["TO_PORT"]) == ("192.0.2.1", "18700", "18760")
        assert (values["START_TIME"], values["END_TIME"]) == (f"{T0:020d}", f"{ntp_add_ns(T0, 40 * MS):020d}")
        assert (values["LOSS_TIMEOUT"], values["PACKET_PADDING"]) == (str(2 << 32), "20")
        assert (values["SENT"], values["LOST"], values["DUPS"], values["SYNC"]) == ("5", "1", "1", "1")
        assert (values["MAXERR"], values["BUCKET_WIDTH"], values["SESSION_FINISHED"]) == ("1", "0.001", "1")
        assert (values["MIN"], values["MEDIAN"], values["MAX"]) == ("0.0012", "0.003", "0.004")
        assert "PDV" not in values  # the 95th percentile lies among what was lost
        assert tables["BUCKETS"] == [["2", "2"], ["3", "1"], ["4", "1"]]
        assert tables["TTLBUCKETS"] == [["250", "3"], ["251", "1"]]
        assert (values["MINTTL"], values["MAXTTL"]) == ("250", "251")
        assert tables["NREORDERING"] == [["1", "1"]]

    def test_the_times_of_a_session_across_the_change_of_era_are_in_order(self) -> None:
        before, after = 0xFFFFFFFF_F0000000, 0x00000000_10000000
        session = one_way().session
        octets = b"".join(
            PacketRecord(number, FREE, FREE, sent, ntp_add_ns(sent, MS), 250).encode()
            for number, sent in enumerate((before, after))
        )
        result = OneWayResult.of(replace(session, records=octets), "to", "open")
        values, _ = summary(machine_one_way(result, MS))
        assert (values["START_TIME"], values["END_TIME"]) == (f"{before:020d}", f"{after:020d}")

    def test_of_nothing(self) -> None:
        values, tables = summary(machine_one_way(one_way(empty=True), MS))
        assert values["SENT"] == "0"
        assert not {"MIN", "MEDIAN", "MAX", "PDV", "MINTTL"} & values.keys()
        assert tables == {"NREORDERING": [["1", "0"]]}

    def test_two_way(self) -> None:
        result, plan, records = two_way(FREE)
        values, tables = summary(machine_two_way(result, plan, records, MS))
        assert (values["SENT"], values["LOST"], values["SYNC"], values["PACKET_PADDING"]) == ("3", "1", "0", "7")
        assert (values["MAXERR"], values["MAXERR_FWD"], values["MAXERR_BCK"]) == ("2", "1", "1")
        names = ("MIN", "MIN_FWD", "MIN_BCK", "MIN_PROC", "MEDIAN", "MEDIAN_FWD", "MAX_PROC")
        assert [values[name] for name in names] == ["0.005", "0.002", "0.003", "0.001", "0.005", "0.002", "0.001"]
        assert tables["BUCKETS"] == [["2", "0", "2", "0"], ["3", "0", "0", "2"], ["5", "2", "0", "0"]]
        assert tables["TTLBUCKETS"] == [["254", "2"]]
        assert "NREORDERING" not in tables

    def test_buckets_are_rounded_away_from_zero(self) -> None:
        assert [bucket(value, 100) for value in (0, 1, 100, 101, -1, -100, -101)] == [0, 1, 1, 2, -1, -1, -2]


class TestPscheduler:
    # The types and required members of the schema of pScheduler's latency result, as they are published.
    def test_members_and_units(self) -> None:
        made = latency_result(one_way(), MS)
        assert made == {
            "schema": 1,
            "succeeded": True,
            "packets-sent": 5,
            "packets-received": 4,
            "packets-lost": 1,
            "packets-duplicated": 1,
            "packets-reordered": 1,
            "max-clock-error": 1000.0,
            "histogram-latency": {"1.20": 2, "2.50": 1, "4.00": 1},
            "histogram-ttl": {"250": 3, "251": 1},
        }

    def test_raw_packets(self) -> None:
        packets = latency_result(one_way(FREE), MS, raw=True)["raw-packets"]
        assert [packet["seq-num"] for packet in packets] == [0, 1, 4, 3, 3]
        assert packets[0] == {
            "seq-num": 0,
            "src-ts": T0,
            "src-clock-sync": False,
            "src-clock-err": 0.5,
            "dst-ts": ntp_add_ns(T0, 2_500_000),
            "dst-clock-sync": False,
            "dst-clock-err": 0.5,
            "ip-ttl": 250,
        }

    def test_keys_are_rounded_to_two_decimals(self) -> None:
        assert [hundredths(value, 1000) for value in (0, 4, 5, 1234, -1234)] == [0, 0, 1, 123, -123]
        assert list(latency_result(one_way(), 7 * MS)["histogram-latency"]) == ["0.17", "0.36", "0.57"]


class TestTables:
    def test_csv_is_read_back(self) -> None:
        rows = list(csv.DictReader(io.StringIO(csv_table([one_way(), one_way(empty=True)]))))
        assert [row["sent"] for row in rows] == ["5", "0"]
        assert (rows[0]["delay_minimum_ns"], rows[1]["delay_minimum_ns"]) == ("1200000", "")
        assert rows[0]["source_address"] == "192.0.2.1"
        assert all(None not in row for row in rows)
        (row,) = csv.DictReader(io.StringIO(csv_table([two_way()[0]])))
        assert (row["direction"], row["delay_maximum_ns"], row["lost"]) == ("both", "5000000", "1")

    def test_openmetrics_for_its_own_parser(self) -> None:
        parser = pytest.importorskip(
            "prometheus_client.openmetrics.parser", reason="prometheus-client is in the dependency group test"
        )
        text = openmetrics([one_way(), replace(one_way(FREE, sid=bytes(16)), path='a"b\\c\nd')])
        families = {family.name: family for family in parser.text_string_to_metric_families(text)}
        assert families["ippm_one_way_delay_seconds"].unit == "seconds"
        assert families["ippm_lost_packets"].samples[0].value == 1
        assert families["ippm_session"].samples[1].labels["path"] == 'a"b\\c\nd'
        minimum = families["ippm_one_way_delay_seconds"].samples[0]
        assert (minimum.labels["statistic"], minimum.value) == ("minimum", 0.0012)
        assert [one.value for one in families["ippm_clock_synchronized"].samples] == [1, 1, 0, 0]
        assert all(family.documentation for family in families.values())
        for result in (two_way()[0], one_way(empty=True)):
            assert list(parser.text_string_to_metric_families(openmetrics([result])))

    def test_openmetrics_ends_as_it_must(self) -> None:
        assert openmetrics([two_way()[0]]).endswith("\n# EOF\n")
        assert "# UNIT ippm_round_trip_delay_seconds seconds\n" in openmetrics([two_way()[0]])

    def test_seconds(self) -> None:
        assert [seconds(value) for value in (0, 1, -1_500_000_000, 1_795_627_731_729_432_749)] == [
            "0", "0.000000001", "-1.5", "1795627731.729432749",
        ]  # fmt: skip


# RFC 7679 section 3.8, RFC 7680 section 2.8, RFC 2681 section 2.8: Type-P and the loss threshold stand beside results.
class TestWhatWasSent:
    def test_in_text(self) -> None:
        line = "sent:  UDP with 34 octets, DSCP 10; intervals 250.000 ms fixed; lost after 2000.000 ms\n"
        assert line in format_one_way(one_way())
        assert "; lost after 2.000 s\n" in format_one_way(one_way(), "s")
        assert (
            "sent:  UDP with 21 octets, DSCP 0; intervals 10.000 ms fixed; lost after 2000.000 ms\n"
            in format_result(two_way()[0])
        )

    def test_of_a_poisson_stream_the_mean(self) -> None:
        """Two ways, too, where the server is not told the schedule."""
        _, plan, records = two_way()
        stream = replace(plan, schedule=poisson_schedule(30 * MS, SID, 4), timeout_ns=3000 * MS)
        result = RunResult.of(stream, records, ClockState(True, 0, "test"))
        assert "intervals mean 30.000 ms exponential; lost after 3000.000 ms" in format_result(result)
        document = result.to_dict()
        assert document["schedule"] == [{"type": "exponential", "parameter_ns": 30 * MS}]
        assert document["interval_ns"] is None
        (row,) = csv.DictReader(io.StringIO(csv_table([result])))
        assert (row["schedule"], row["timeout_ns"]) == ("exponential 30000000", "3000000000")
        assert (row["payload_octets"], row["dscp"]) == ("21", "0")
        assert 'payload_octets="21",dscp="0",schedule="exponential 30000000",timeout_seconds="3"' in openmetrics(
            [result]
        )

    def test_many_slots_and_what_is_not_known(self) -> None:
        slots = tuple(Slot(SlotType(number % 2), 1 << 32) for number in range(9))
        words = StreamWords(None, None, slots, 5 * MS)
        assert words.line() == (
            "sent:  UDP with a payload of unknown length, no DSCP; intervals mean 1000.000 ms exponential, "
            "1000.000 ms fixed, mean 1000.000 ms exponential, 1000.000 ms fixed, and 5 more; lost after 5.000 ms"
        )
        assert words.schedule_text().endswith("; exponential 1000000000; fixed 1000000000; ...")
        assert len(words.schedule_dicts()) == 9


class TestText:
    def test_units(self) -> None:
        result, _, _ = two_way()
        assert "send time min/median/p95/p99/max = 2.000/2.000/2.000/2.000/2.000 ms" in format_result(result)
        assert "send time min/median/p95/p99/max = 2000000/2000000/2000000/2000000/2000000 ns" in format_result(
            result, "n"
        )
        assert " s (err=" in format_one_way(one_way(), "s")
        assert " ms" not in format_one_way(one_way(), "u")

    def test_percentiles(self) -> None:
        values = [4 * MS, MS, 2 * MS, 3 * MS]
        assert percentile_lines(values, parse_percentiles("0,25,50.0,99.9,100")) == [
            "Percentiles:", "\t0.0: 1.000 ms", "\t25.0: 1.000 ms", "\t50.0: 2.000 ms", "\t99.9: 4.000 ms",
            "\t100.0: 4.000 ms",
        ]  # fmt: skip
        assert percentile_lines([], (500_000,)) == ["Percentiles:", "\t50.0: nan"]
        assert percentile_lines(values, ()) == []

    @pytest.mark.parametrize("words", ["", "a", "101", "50,,60", "-1", "99.99999", "nan"])
    def test_what_is_no_percentile(self, words: str) -> None:
        with pytest.raises(ConfigurationError, match="-a"):
            parse_percentiles(words)


class TestSchema:
    def valid(self, document: dict[str, Any], name: str) -> None:
        jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(document)
        jsonschema.Draft202012Validator({**schema, "anyOf": [{"$ref": f"#/$defs/{name}"}]}).validate(document)

    @pytest.mark.parametrize("empty", [False, True])
    def test_one_way(self, empty: bool) -> None:
        result = one_way(empty=empty)
        self.valid({"ok": True, "mode": "open", "results": [json.loads(json.dumps(result.to_dict()))]}, "saved")

    def test_two_way(self) -> None:
        head = {"host": "h", "port": 862, "mode": "open", "ikev2_derived": False}
        head |= {"derivation": None, "peer_identity": None, "count": 1024}
        result = two_way()[0]
        self.valid({"ok": True, **head, "result": json.loads(json.dumps(result.to_dict()))}, "twping")

    def test_lines_of_a_measurement_without_an_end(self) -> None:
        session = RollingSender(
            SenderPlan(SID, 1, None, ("192.0.2.1", 1), ("192.0.2.2", 2), 4), period_ns=1000 * MS
        )
        session.pack(0, T0, SYNCHRONIZED)
        report = RollingReport("host")
        for period in session.finish(MS):
            words = SessionWords.of(session.plan, "open", 0)
            self.valid(json.loads(json.dumps(report.line((words, period)))), "period")
        self.valid(report.end(), "end")
        self.valid(report.end("broken"), "end")

    def test_a_name_without_its_unit_is_not_valid(self) -> None:
        jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
        result = one_way().to_dict()
        result["timeout"] = result.pop("timeout_ns")
        with pytest.raises(jsonschema.ValidationError):
            self.valid({"ok": True, "mode": "open", "results": [result]}, "saved")
