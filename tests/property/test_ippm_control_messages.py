"""Each codec of TWAMP-Control: round trip; truncation and bit flips raise nothing but errors of ippm."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippm_control_peers import CountedEntropy, Pair, drain, passphrases

from ippm.core.control_client import ControlClientConfig
from ippm.core.server_policy import ControlServerConfig
from ippm.errors import InvalidMessage, ProtocolError
from ippm.iana import Accept, Mode
from ippm.wire.accept_session import AcceptSession
from ippm.wire.layout import command_parts
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_sessions import StopSessions

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
ACCEPTS = U8.map(Accept)


def octets(n: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=n, max_size=n)


def requests(version: int) -> st.SearchStrategy[RequestTwSession]:
    kind: Any = IPv4Address if version == 4 else IPv6Address
    addresses = st.none() | st.integers(1, (1 << (32 if version == 4 else 128)) - 1).map(kind)
    return st.builds(
        RequestTwSession,
        sender_port=U16,
        receiver_port=U16,
        sender_address=addresses,
        receiver_address=addresses,
        padding_length=U32,
        start_time=U64,
        timeout=U64,
        type_p=U32,
        ipvn=st.just(version),
        conf_sender=U8,
        conf_receiver=U8,
        number_of_schedule_slots=U32,
        number_of_packets=U32,
        sid=octets(16),
    )


MESSAGES = {
    ServerGreeting: st.builds(ServerGreeting, U32, octets(16), octets(16), U32),
    SetUpResponse: st.builds(SetUpResponse, U32, octets(80), octets(64), octets(16)),
    ServerStart: st.builds(ServerStart, ACCEPTS, octets(16), U64),
    RequestTwSession: st.one_of(requests(4), requests(6)),
    AcceptSession: st.builds(AcceptSession, ACCEPTS, U16, octets(16)),
    StartSessions: st.just(StartSessions()),
    StartAck: st.builds(StartAck, ACCEPTS),
    StopSessions: st.builds(StopSessions, U32, ACCEPTS),
}
KINDS: list[Any] = list(MESSAGES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=100)
@given(data=st.data())
def test_round_trip_truncation_and_bit_flips(kind: Any, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    encoded = message.encode()
    assert len(encoded) == kind.OCTETS
    assert kind.parse(encoded) == message

    cut = data.draw(st.integers(0, kind.OCTETS - 1))
    with pytest.raises(InvalidMessage):
        kind.parse(encoded[:cut])

    flipped = bytearray(encoded)
    for bit in data.draw(st.lists(st.integers(0, 8 * kind.OCTETS - 1), min_size=1, max_size=8)):
        flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(ProtocolError):
        kind.parse(bytes(flipped))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=100)
@given(noise=st.binary(max_size=200))
def test_noise_is_a_message_or_a_protocol_error(kind: Any, noise: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        kind.parse(noise)


@settings(max_examples=200)
@given(octets(16))
def test_the_length_of_a_command_is_bounded(first_block: bytes) -> None:
    try:
        parts = command_parts(first_block)
    except ProtocolError:
        return
    assert all(part % 16 == 0 for part in parts)
    assert 16 <= sum(parts) <= 96 + 16 * 1024


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from([Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED]),
    noise=st.lists(st.binary(max_size=300), max_size=6),
    after_set_up=st.booleans(),
    to_client=st.booleans(),
)
def test_noise_at_either_role_raises_nothing(
    mode: Mode, noise: list[bytes], after_set_up: bool, to_client: bool
) -> None:
    pair = Pair(ControlClientConfig(mode), ControlServerConfig(count=1024), passphrases(), passphrases())
    if after_set_up:
        pair.run()
    role = pair.client if to_client else pair.server
    for piece in noise:
        role.receive_data(piece, pair.now)
        role.data_to_send()
        timer = role.next_timer()
        assert timer is None or timer >= pair.now
    role.receive_eof(pair.now)
    assert role.closed
    assert role.next_timer() is None
    assert drain(role)
    assert CountedEntropy().octets(3) == CountedEntropy().octets(3)
