"""What a test author gets: connections of keywords, peers, crafted requests and their answers, recordings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ikev2 import Peer, Recorder, connection, events, roundtrip
from ikev2.cli.config import ConfigurationFaults
from ikev2.core.config import ConnectionConfig
from ikev2.core.state import State
from ikev2.core.tracer import ListTracer
from ikev2.core.types import Datagram
from ikev2.errors import LocalProtocolError
from ikev2.iana import ExchangeType, NotifyType, PayloadType
from ikev2.wire.payloads import Auth, Delete, Nonce, Notify, Unknown

A, B = "192.0.2.1", "192.0.2.2"


def end(local: str, remote: str, **words: Any) -> ConnectionConfig:
    return connection(local_addrs=local, remote_addrs=remote, psk="of both", **words)


def joined(**words: Any) -> tuple[Peer, Peer]:
    a, b = Peer(end(A, B, **words)), Peer(end(B, A, **words))
    a.initiate()
    roundtrip(a, b)
    return a, b


def test_a_connection_takes_the_words_of_the_file() -> None:
    made = connection(
        "lab",
        psk=b"\x01\x02",
        local_id="a.example",
        local_addrs=A,
        remote_addrs=[B],
        proposals="aes128gcm16-prfsha256-curve25519",
        children={"one": {"mode": "transport"}, "two": {}},
        dpd_delay="30s",
    )
    assert (made.name, made.local_addrs, made.remote_addrs, made.dpd_delay_s) == ("lab", (A,), (B,), 30.0)
    assert made.psk.octets == b"\x01\x02"
    assert str(made.local_id) == "a.example"
    assert made.remote_id is None
    assert [child.name for child in made.children] == ["one", "two"]
    assert [child.name for child in end(A, B).children] == ["net"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"psk": ""}, "psk: is empty"),
        ({"remote_adrs": B}, "connections.test.remote_adrs: unknown key; did you mean remote_addrs?"),
        (
            {"nat_port": 500},
            "connections.test.nat_port: is the same as ike_port: IKE and ESP in UDP need a port each",
        ),
        (
            {"children": {"net": {"mode": "tunel"}}},
            "connections.test.children.net.mode: 'tunel' is not one of tunnel, transport; did you mean tunnel?",
        ),
        ({"local_id": ""}, "connections.test.local.id: an identity is empty"),
    ],
)
def test_a_wrong_word_is_named_with_its_path(words: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationFaults) as caught:
        connection(**{"psk": "x", **words})
    (line,) = caught.value.faults
    assert line.startswith(fault)


def test_a_peer_needs_an_address() -> None:
    with pytest.raises(LocalProtocolError, match="local_addrs"):
        Peer(connection(psk="x"))
    with pytest.raises(LocalProtocolError, match="no IKE SA"):
        Peer(end(A, B)).ask(ExchangeType.INFORMATIONAL)


def test_an_event_that_did_not_happen_is_told_with_those_that_did() -> None:
    a = Peer(end(A, B))
    with pytest.raises(LookupError, match="no ChildSaReady; happened: nothing"):
        a.event(events.ChildSaReady)
    a, _ = joined()
    with pytest.raises(LookupError, match="no IkeSaFailed; happened: IkeSaEstablished, ChildSaReady"):
        a.event(events.IkeSaFailed)


def test_time_passes_in_the_order_of_the_timers() -> None:
    a = Peer(end(A, B, retransmit_timeout=1, retransmit_base=1, retransmit_tries=3))
    a.initiate()
    assert len(a.send()) == 1
    a.advance(2.5)
    assert len(a.send()) == 2
    a.advance(10)
    assert a.event(events.IkeSaFailed).reason == "the peer does not answer"
    assert a.now == 12.5


def test_what_is_sent_again_is_in_the_log_in_strongswans_words() -> None:
    ours, theirs = ListTracer(), ListTracer()
    a, b = Peer(end(A, B), tracer=ours), Peer(end(B, A), tracer=theirs)
    a.initiate()
    (request,) = a.send()
    b.receive(request)
    b.send()
    for wait_s in (2, 3.6):
        a.advance(wait_s)
        b.receive(*a.send())
    name = f"test[{request.data[:8].hex()}:{'0' * 16}]"
    assert [line for line in ours.lines if "retransmit" in line] == [
        f"{name}: retransmit 1 of request with message ID 0",
        f"{name}: retransmit 2 of request with message ID 0",
    ]
    again = [line for line in theirs.lines if "retransmit" in line]
    assert len(again) == 2
    assert again[0].endswith(": received retransmit of request with ID 0, retransmitting response")


def test_a_tracer_that_nobody_hears_is_told_of_no_message() -> None:
    """The core does not describe a message for it, which is most of what a line costs."""

    class Deaf(ListTracer):
        heard = False

    ours, theirs = Deaf(), ListTracer()
    a, b = Peer(end(A, B), tracer=ours), Peer(end(B, A), tracer=theirs)
    a.initiate()
    b.receive(*a.send())
    assert not [line for line in ours.lines if "IKE_SA_INIT" in line]
    assert [line for line in theirs.lines if line.startswith("in IKE_SA_INIT request 0")]


def test_an_answer_changes_nothing_whatever_is_in_it() -> None:
    """The peer answers a request of ours that deletes a Child SA which it does not have, and one that is malformed."""
    a, b = joined()
    asked = a.ask(
        ExchangeType.INFORMATIONAL, Delete.esp(a.event(events.ChildSaReady).child.spi_in.to_bytes(4, "big"))
    )
    roundtrip(a, b)
    answer = a.event(events.Answered)
    assert answer.ask is asked
    assert [type(payload) for payload in answer.payloads] == [Delete]
    assert len(a.sa.children) == 1
    assert b.sa.children == {}
    a.ask(ExchangeType.INFORMATIONAL, Nonce(bytes(32)))
    roundtrip(a, b)
    refused = a.event(events.Answered)
    assert refused.notify(NotifyType.INVALID_SYNTAX) is not None
    assert refused.notify(NotifyType.INVALID_SPI) is None
    assert a.sa.state is State.ESTABLISHED
    assert b.manager.sas == []


def test_questions_wait_for_their_turn_and_get_the_next_message_id() -> None:
    a, b = joined()
    asked = [a.ask(ExchangeType.INFORMATIONAL, Notify(NotifyType(40960 + number))) for number in range(3)]
    roundtrip(a, b)
    answers = [event for event in a.events if isinstance(event, events.Answered)]
    assert [answer.ask for answer in answers] == asked
    assert [answer.message_id for answer in answers] == [2, 3, 4]


def test_what_cannot_be_encoded_is_said_at_once() -> None:
    a, b = joined()
    with pytest.raises(LocalProtocolError, match="COOKIE with 0 octets"):
        a.ask(ExchangeType.INFORMATIONAL, Notify(NotifyType.COOKIE))
    a.ask(ExchangeType.INFORMATIONAL, Unknown(PayloadType(200), b"octets"))
    roundtrip(a, b)
    assert a.event(events.Answered).payloads == ()


def test_a_question_is_fragmented_when_it_is_large() -> None:
    a, b = joined(fragment_size=600)
    a.ask(ExchangeType.INFORMATIONAL, Unknown(PayloadType(200), bytes(3000)))
    carried = roundtrip(a, b)
    assert len(carried) > 5
    assert a.event(events.Answered).payloads == ()


def test_a_recorder_has_both_directions_with_fragments_put_together() -> None:
    recorder = Recorder()
    a, b = Peer(end(A, B, fragmentation="force"), recorder=recorder), Peer(end(B, A, fragmentation="force"))
    a.initiate()
    roundtrip(a, b)
    assert [message.summary.partition(" [")[0] for message in recorder.messages] == [
        "IKE_SA_INIT request 0",
        "IKE_SA_INIT response 0",
        "IKE_AUTH request 1",
        "IKE_AUTH response 1",
    ]
    last = recorder.messages[-1]
    assert (last.source.host, last.destination.host) == (B, A)
    assert any(isinstance(payload, Auth) for payload in last.payloads)
    assert "datagrams" in repr(recorder)


def test_a_recorder_has_what_is_no_good_with_the_reason() -> None:
    recorder = Recorder()
    a, b = Peer(end(A, B), recorder=recorder), Peer(end(B, A))
    a.initiate()
    roundtrip(a, b)
    b.ask(ExchangeType.INFORMATIONAL)
    (datagram,) = b.send()
    a.receive(replace(datagram, data=datagram.data[:-1] + bytes([datagram.data[-1] ^ 1])))
    assert (recorder.messages[-1].problem or "").startswith("cannot be decrypted: ")
    a.receive(Datagram(datagram.data[:-1], datagram.local, datagram.remote))
    assert len(recorder.messages) == 5  # the Length does not fit: not an IKE message
    assert a.sa.dropped == 2


def test_peers_that_never_rest_are_stopped() -> None:
    a, b = joined()

    class Chatter(Peer):
        def receive(self, datagram: Datagram) -> None:
            super().receive(datagram)
            self.ask(ExchangeType.INFORMATIONAL)

    chatter = Chatter(end(A, B))
    chatter.manager = a.manager
    chatter.ask(ExchangeType.INFORMATIONAL)
    with pytest.raises(LocalProtocolError, match="do not come to rest"):
        roundtrip(chatter, b)
