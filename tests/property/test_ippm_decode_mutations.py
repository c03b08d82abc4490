"""`ippm decode` says what is wrong, and never fails, whatever the octets of a file, packet, stream or key log are."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippm_captures import Capture, control_capture, tapped
from ippm_control_peers import CLIENT, SERVER, WISH, pair_in_mode
from owamp_control_peers import CLIENT as OWAMP_CLIENT
from owamp_control_peers import FROM_SERVER, TO_SERVER, OwampPair
from owamp_control_peers import SERVER as OWAMP_SERVER

from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import Endpoint
from ippm.decode.capture import Frame, read_capture
from ippm.decode.decoder import Decoder
from ippm.decode.messages import Decoded
from ippm.decode.text import lines_of
from ippm.errors import IppmError
from ippm.iana import FEATURE_BITS, Mode
from ippm.io.keylog import FILE_NAME, KeyLogWriter, LoggedKeys, read_key_log

Conversation = tuple[Endpoint, Endpoint, list[tuple[bool, bytes]], LoggedKeys]
MODES = [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED]


@cache
def twamp(mode: Mode, features: Mode) -> Conversation:
    """A whole connection, and its keys."""
    with TemporaryDirectory() as folder:
        writer = KeyLogWriter(Path(folder) / "keys")
        pair = pair_in_mode(mode, key_log=writer, features=features)
        pair.client.config = ControlClientConfig(mode, features=features)
        tap = tapped(pair)
        tap.run()
        for number in range(2):
            wish = WISH.__class__(Endpoint(CLIENT.host, 18700 + number), padding_octets=120)
            pair.client.request_session(wish, pair.now)
        tap.run()
        pair.client.start_sessions(pair.now)
        tap.run()
        pair.client.stop_sessions(pair.now)
        tap.run()
        return CLIENT, SERVER, tap.said, read_key_log(Path(folder) / "keys")


@cache
def owamp(mode: Mode) -> Conversation:
    """Requests both ways, a start, and a fetch that is refused."""
    with TemporaryDirectory() as folder:
        writer = KeyLogWriter(Path(folder) / "keys")
        pair = OwampPair(mode, key_log=writer)
        tap = tapped(pair)
        tap.run()
        pair.client_events()
        pair.client.fetch_session(bytes(16), pair.now)
        tap.run()
        for wish in (TO_SERVER, FROM_SERVER):
            pair.client.request_session(wish, pair.now)
        tap.run()
        pair.client.start_sessions(pair.now)
        tap.run()
        return OWAMP_CLIENT, OWAMP_SERVER, tap.said, read_key_log(Path(folder) / "keys")


CONVERSATIONS = st.one_of(
    st.builds(twamp, st.sampled_from(MODES), st.sampled_from([Mode(0), FEATURE_BITS])),
    st.builds(owamp, st.sampled_from(MODES[:3])),
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(["flip", "cut", "add", "drop", "twice"]),
        st.integers(0, 400),
        st.binary(min_size=1, max_size=40),
    ),
    max_size=4,
)


def changed(said: list[tuple[bool, bytes]], changes: list[tuple[int, str, int, bytes]]) -> list[tuple[bool, bytes]]:
    made = list(said)
    for number, what, at, octets in changes:
        if not made:
            break
        index = number % len(made)
        from_client, data = made[index]
        at %= len(data) + 1
        if what == "flip":
            made[index] = from_client, data[:at] + octets + data[at + len(octets) :]
        elif what == "cut":
            made[index] = from_client, data[:at]
        elif what == "add":
            made[index] = from_client, data[:at] + octets + data[at:]
        elif what == "drop":
            del made[index]
        else:
            made.insert(index, made[index])
    return made


def shown(found: list[Decoded]) -> None:
    """Each can be printed in both forms."""
    for one in found:
        assert "\n".join(lines_of(one))
        json.dumps(one.to_dict())


@contextmanager
def one_line() -> Iterator[None]:
    """An error is one for a person, in one line, that repeats no key."""
    said = ""
    try:
        yield
    except IppmError as error:
        said = str(error)
    assert "\n" not in said
    assert "22" * 32 not in said


def frames_of(capture: Capture) -> list[Frame]:
    return [Frame(n, 1, bytes(packet)) for n, packet in enumerate(capture.packets)]


@settings(max_examples=40, deadline=None)
@given(CONVERSATIONS, CHANGES, st.integers(1, 200), st.booleans())
def test_a_connection_with_changed_octets(
    conversation: Conversation, changes: list[tuple[int, str, int, bytes]], octets: int, keyed: bool
) -> None:
    client, server, said, keys = conversation
    capture = control_capture(client, server, changed(said, changes), octets)
    found = list(Decoder(keys if keyed else None).decode(frames_of(capture)))
    shown(found)
    if not changes and (keyed or said[0][1][15] == 1):
        assert not any(one.problems for one in found)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=600), st.binary(max_size=600), st.sampled_from([861, 862, 9999]), st.booleans())
def test_any_octets_as_a_connection(up: bytes, down: bytes, port: int, greets: bool) -> None:
    greeting = bytes(12) + struct.pack(">I", 1) + bytes(32) + struct.pack(">I12x", 4096) if greets else b""
    capture = Capture(CLIENT, Endpoint(SERVER.host, port))
    capture.open_connection()
    for from_client, data in ((False, greeting), (True, up), (False, down)):
        if data:
            capture.tcp(from_client, data)
    shown(list(Decoder().decode(frames_of(capture))))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODES),
    st.sampled_from([Mode(0), FEATURE_BITS]),
    st.binary(max_size=300),
    st.booleans(),
    st.booleans(),
)
def test_any_octets_as_a_test_packet(mode: Mode, features: Mode, octets: bytes, reply: bool, keyed: bool) -> None:
    client, server, said, keys = twamp(mode, features)
    capture = control_capture(client, server, said)
    ends = Endpoint(CLIENT.host, 18700), Endpoint(SERVER.host, 18761)
    capture.udp(*(ends[::-1] if reply else ends), octets)
    found = list(Decoder(keys if keyed else None).decode(frames_of(capture)))
    shown(found)
    if keyed or mode == Mode.OPEN:
        assert found[-1].channel == "test"
        assert found[-1].octets == len(octets)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=6), st.sampled_from([0, 1, 101, 108, 113, 228, 229, 276, 147]))
def test_any_octets_as_frames(frames: list[bytes], link_type: int) -> None:
    decoder = Decoder()
    shown(list(decoder.decode(Frame(0, link_type, data) for data in frames)))
    for version in (b"\x45", b"\x60"):
        shown(list(Decoder().decode(Frame(0, 101, version + data[1:]) for data in frames)))


MAGICS = [b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a", b""]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=300))
def test_any_octets_as_a_file(magic: bytes, octets: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(magic + octets)
        with one_line():
            shown(list(Decoder().decode(read_capture(path))))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_capture_with_flipped_octets_or_cut_off(data: st.DataObject) -> None:
    client, server, said, keys = twamp(Mode.ENCRYPTED, Mode(0))
    with TemporaryDirectory() as folder:
        path = control_capture(client, server, said).save(Path(folder) / "capture")
        octets = bytearray(path.read_bytes())
        for at in data.draw(st.lists(st.integers(24, len(octets) - 1), max_size=5)):
            octets[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(octets[: data.draw(st.integers(0, len(octets)))])
        with one_line():
            shown(list(Decoder(keys).decode(read_capture(path))))


WORDS = st.sampled_from(
    ["control", "test", "twamp", "owamp", "00000004", "11" * 16, "22" * 32, "1.2.3.4:5", "[::1]:6"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WORDS | st.text(max_size=6), max_size=9), max_size=4))
def test_any_words_as_a_key_log(lines: list[list[str]]) -> None:
    with TemporaryDirectory() as folder:
        text = "\n".join(" ".join(line) for line in lines)
        (Path(folder) / FILE_NAME).write_text(text, encoding="utf-8")
        with one_line():
            read_key_log(Path(folder))


def test_a_session_of_a_key_log_with_any_mode_is_read() -> None:
    client, server, said, keys = twamp(Mode.ENCRYPTED, FEATURE_BITS)
    assert len(keys.sessions) == 2
    capture = Capture(client, server)
    capture.udp(Endpoint(CLIENT.host, 18700), Endpoint(SERVER.host, 18761), bytes(200))
    (found,) = Decoder(keys).decode(frames_of(capture))
    assert found.hmac == "wrong"
    assert said


@pytest.mark.parametrize("mode", MODES[:3])
def test_the_conversations_are_what_they_are_taken_for(mode: Mode) -> None:
    client, server, said, keys = owamp(mode)
    found = list(Decoder(keys).decode(frames_of(control_capture(client, server, said))))
    assert [one.name for one in found][-2:] == ["Start-Sessions", "Start-Ack"]
    assert not any(one.problems for one in found)
