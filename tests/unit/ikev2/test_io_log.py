"""The log in memory: what is kept, what a line may hold, who hears of it."""

from __future__ import annotations

from ikev2.core.types import Address
from ikev2.io.log import LogRecord, LogRing


def test_control_characters_of_a_peer_are_shown_and_not_obeyed() -> None:
    ring = LogRing()
    ring.log("IKE", "peer is \x1b[2Jno\none \u202eelse")
    assert [record.text for record in ring.records()] == ["peer is \\x1b[2Jno\\none \\u202eelse"]


def test_only_the_last_lines_are_kept_and_numbers_go_on() -> None:
    ring = LogRing(lines=3)
    for number in range(5):
        ring.log("LIB", str(number))
    assert [(record.number, record.text) for record in ring.records()] == [(3, "2"), (4, "3"), (5, "4")]
    assert [record.number for record in ring.records(2)] == [4, 5]
    assert ring.records(0) == []
    assert [record.number for record in ring.records(9)] == [3, 4, 5]


def test_listener_hears_the_record_that_is_kept_until_it_has_enough() -> None:
    ring = LogRing()
    heard: list[LogRecord] = []
    enough = ring.subscribe(heard.append)
    ring.datagram(outbound=False, octets=28, local=Address("192.0.2.1", 500), remote=Address("192.0.2.2", 4500))
    assert heard == ring.records()
    assert heard[0].text == "received packet: from 192.0.2.2[4500] to 192.0.2.1[500] (28 bytes)"
    assert heard[0].to_dict()["subsystem"] == "NET"
    enough()
    ring.note("more")
    assert len(heard) == 1


def test_with_no_lines_kept_a_line_is_made_only_while_somebody_listens() -> None:
    ring = LogRing(lines=0)
    assert not ring.heard
    ring.log("LIB", "nobody is here")
    heard: list[LogRecord] = []
    enough = ring.subscribe(heard.append)
    assert ring.heard
    ring.log("LIB", "hello")
    enough()
    assert not ring.heard
    ring.log("LIB", "gone")
    assert [(record.number, record.text) for record in heard] == [(1, "hello")]
    assert ring.records() == []
