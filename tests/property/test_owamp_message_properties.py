"""Every OWAMP-Control message: what is made is read as it was, and broken octets raise ProtocolError alone."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address

from hypothesis import example, given, settings
from hypothesis import strategies as st
from owamp_control_peers import TO_SERVER, OwampPair

from ippm.core.fetched_session import FetchedSession
from ippm.errors import ProtocolError
from ippm.iana import Accept, Mode
from ippm.wire.fetch_session import FetchAck, FetchSession
from ippm.wire.packet_record import PacketRecord
from ippm.wire.request_session import RequestSession
from ippm.wire.schedule_slot import Slot, SlotType
from ippm.wire.skip_ranges import SkipRange
from ippm.wire.stop_descriptions import SessionDescription, StopSessionsWithDescriptions

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
SIDS = st.binary(min_size=16, max_size=16)
SLOTS = st.lists(st.builds(Slot, st.sampled_from(SlotType), U64), min_size=1, max_size=6).map(tuple)


@st.composite
def skip_ranges(draw: st.DrawFn) -> tuple[SkipRange, ...]:
    edges = sorted(draw(st.sets(st.integers(0, 5000), max_size=8)))
    return tuple(SkipRange(first, last) for first, last in zip(edges[::2], edges[1::2], strict=False))


@st.composite
def requests(draw: st.DrawFn) -> RequestSession:
    version = draw(st.sampled_from((4, 6)))
    kind = IPv4Address if version == 4 else IPv6Address
    address = st.none() | st.integers(1, (1 << (32 if version == 4 else 128)) - 1).map(kind)
    conf_sender = draw(st.booleans())
    return RequestSession(
        conf_sender,
        not conf_sender or draw(st.booleans()),
        draw(U32),
        draw(SLOTS),
        draw(U16),
        draw(U16),
        draw(address),
        draw(address),
        draw(SIDS),
        draw(U32),
        draw(U64),
        draw(U64),
        draw(U32),
        version,
    )


DESCRIPTIONS = st.builds(SessionDescription, SIDS, st.integers(6000, (1 << 32) - 1), skip_ranges())
STOPS = st.builds(
    StopSessionsWithDescriptions, st.lists(DESCRIPTIONS, max_size=4).map(tuple), st.integers(0, 255).map(Accept)
)


@given(requests())
def test_request_session(request_: RequestSession) -> None:
    head, slots = request_.encode()
    assert len(head) == 96
    assert RequestSession.parse(head, slots) == request_


@given(STOPS)
def test_stop_sessions(stop: StopSessionsWithDescriptions) -> None:
    octets = stop.encode()
    assert len(octets) % 16 == 0
    assert StopSessionsWithDescriptions.parse(octets) == stop
    body = octets[:16]
    while (wanted := StopSessionsWithDescriptions.octets(body, 4, 16)) > len(body):
        body = octets[:wanted]
    assert body == octets


@given(st.builds(FetchSession, SIDS, U32, U32))
def test_fetch_session(fetch: FetchSession) -> None:
    assert FetchSession.parse(fetch.encode()) == fetch


@given(st.builds(FetchAck, st.just(Accept.OK), st.integers(1, 255), U32, U32, U32))
def test_fetch_ack(ack: FetchAck) -> None:
    assert FetchAck.parse(ack.encode()) == ack


@given(st.builds(PacketRecord, U32, U16, U16, U64, U64, st.integers(0, 255)))
def test_packet_record(record: PacketRecord) -> None:
    assert PacketRecord.parse(record.encode()) == record


@given(requests(), skip_ranges(), st.lists(st.binary(min_size=25, max_size=25), max_size=5))
def test_saved_session(request_: RequestSession, skips: tuple[SkipRange, ...], records: list[bytes]) -> None:
    session = FetchedSession(request_, 1, 6000, skips, b"".join(records))
    assert FetchedSession.decode(session.encode()) == session


@given(requests(), st.integers(0, 10_000), st.binary(max_size=3))
def test_a_broken_saved_session_raises_nothing_else(request_: RequestSession, at: int, change: bytes) -> None:
    octets = bytearray(FetchedSession(request_, 1, 6000, (SkipRange(1, 2),), bytes(50)).encode())
    at %= len(octets)
    octets[at : at + len(change)] = change
    with contextlib.suppress(ProtocolError):
        FetchedSession.decode(bytes(octets))


@given(st.binary(max_size=400))
@example(b"\x03\x00\x00\x00\x00\x00\x00\x01" + bytes(40))
def test_any_octets_raise_protocol_errors_alone(data: bytes) -> None:
    for parse in (StopSessionsWithDescriptions.parse, FetchSession.parse, FetchAck.parse, PacketRecord.parse):
        with contextlib.suppress(ProtocolError):
            parse(data)
    with contextlib.suppress(ProtocolError):
        RequestSession.parse(data[:96], data[96:])


@settings(max_examples=60)
@given(st.sampled_from((Mode.OPEN, Mode.ENCRYPTED)), st.booleans(), st.lists(st.binary(max_size=300), max_size=5))
def test_whatever_a_client_sends_the_server_raises_nothing(mode: Mode, active: bool, pieces: list[bytes]) -> None:
    pair = OwampPair(mode).set_up()
    if active:
        pair.client.request_session(TO_SERVER, pair.now)
        pair.run()
        pair.client.start_sessions(pair.now)
        pair.run()
    for piece in pieces:
        pair.server.receive_data(piece, pair.now)
        pair.server_events()
        pair.server.data_to_send()


@settings(max_examples=60)
@given(st.sampled_from((Mode.OPEN, Mode.ENCRYPTED)), st.sampled_from("rfas"), st.binary(max_size=600))
def test_whatever_a_server_sends_the_client_raises_nothing(mode: Mode, what: str, data: bytes) -> None:
    pair = OwampPair(mode).set_up()
    if what == "f":
        pair.client.fetch_session(bytes(16), pair.now)
    elif what != "s":
        pair.client.request_session(TO_SERVER, pair.now)
    if what == "a":
        pair.run()
        pair.client.start_sessions(pair.now)
        pair.run()
    pair.client.receive_data(data, pair.now)
    pair.client_events()
