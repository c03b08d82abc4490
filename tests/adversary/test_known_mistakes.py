"""Mistakes that servers and clients of OWAMP and TWAMP have been found with: each has a test here that says its name.

The other tests with the fake peer go further into most of them; these are the ones to show.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adversary_peers import (
    LOCAL,
    NAMES,
    OTHER_SECRET,
    OWAMP_MODES,
    SECRET,
    TWAMP_MODES,
    OwampSession,
    ServerThread,
    TwampSession,
    connected,
    owamp_server,
    serving,
    set_up,
    twamp_server,
)
from decoder.fake_peer import (
    SECOND,
    FakeClient,
    FakeServer,
    description,
    fetch_session,
    n_sessions,
    request_session,
    request_tw_session,
    slot,
    stop_sessions,
)
from decoder.twamp_decoder import SESSION_CONTROL, decode_error_estimate
from ippm_control_peers import CLIENT, SERVER, CountedEntropy

from ippm.core.control_client import ControlClient, ControlClientConfig
from ippm.core.control_events import ConnectionClosed
from ippm.crypto import PassphraseProvider
from ippm.errors import UnacceptableCount
from ippm.iana import Mode
from ippm.io.clock import TIME_ERROR, UNKNOWN_ERROR_NS, now_ntp, state_of_timex

COMMAND = [sys.executable, "-m", "ippm"]


@pytest.fixture(scope="module")
def twamp() -> Iterator[ServerThread]:
    with serving(twamp_server()) as thread:
        yield thread


@pytest.fixture(scope="module")
def owamp() -> Iterator[ServerThread]:
    with serving(owamp_server()) as thread:
        yield thread


@pytest.mark.parametrize("make", [twamp_server, owamp_server], ids=["twamp", "owamp"])
def test_a_mode_that_was_not_offered_is_not_accepted(make: object) -> None:
    with serving(make(modes=Mode.ENCRYPTED)) as thread:  # type: ignore[operator]
        for mode in (1, 2):
            client = connected(thread, mode)
            assert client.greeting["modes"] & 7 == 4
            assert client.set_up() == 3
            assert client.ended()
        assert set_up(thread, 4).greeting["modes"] & 7 == 4


def test_a_session_that_another_user_or_a_weaker_mode_created_is_not_fetched(owamp: ServerThread) -> None:
    who = {b"alice": SECRET, b"bob": OTHER_SECRET}
    made = {}
    for mode in OWAMP_MODES:
        for key_id, secret in who.items():
            session = OwampSession(set_up(owamp, mode, key_id=key_id, secret=secret)).start()
            session.send(*range(10))
            session.stop()
            made[mode, key_id] = session
    for (mode, key_id), mine in made.items():
        for (other_mode, other_key_id), theirs in made.items():
            allowed = mode == other_mode and (mode == 1 or key_id == other_key_id)
            mine.client.command(fetch_session(theirs.sid))
            assert isinstance(mine.client.fetched(), dict) is allowed, (mode, other_mode, key_id, other_key_id)


def test_one_request_does_not_make_the_server_allocate_a_gigabyte(owamp: ServerThread, twamp: ServerThread) -> None:
    """Every number in a request that says how much is to come, at its most, one after the other."""
    most = 0xFFFFFFFF
    now = now_ntp()
    of_owamp = [
        request_session(port=9, slots=most, packets=most, padding=most, start_time=now) + bytes(16),
        request_session(port=9, slots=1, packets=most, start_time=now) + bytes(16) + slot(SECOND) + bytes(16),
        request_session(port=9, slots=1, padding=most, start_time=now) + bytes(16) + slot(SECOND) + bytes(16),
        request_session(port=9, slots=1, packets=most, server_sends=True, start_time=now)
        + bytes(16)
        + slot(1)
        + bytes(16),
        stop_sessions(most) + bytes(4096),
        stop_sessions(1) + description(bytes(16), most, count=most) + bytes(4096),
        fetch_session(bytes(16), 0, most) + bytes(16),
    ]
    of_twamp = [
        request_tw_session(sender_port=9, slots=most, packets=most, padding=most, timeout=2**64 - 1) + bytes(16),
        request_session(port=9, slots=most, packets=most) + bytes(16),
        stop_sessions(most) + bytes(16),
        n_sessions(7, [], most) + bytes(4096),
        n_sessions(9, [], most) + bytes(4096),
    ]
    for thread, requests in ((owamp, of_owamp), (twamp, of_twamp)):
        for octets in requests:
            client = set_up(thread, 1 if thread is owamp else 1 | SESSION_CONTROL)
            tracemalloc.start()
            try:
                client.send(octets)
                client.half_close()
                client.rest()
                assert tracemalloc.get_traced_memory()[1] < 2_000_000
            finally:
                tracemalloc.stop()


@pytest.mark.parametrize("mode", OWAMP_MODES, ids=NAMES.get)
@pytest.mark.parametrize("spoof", ["beyond", "multiplier zero"])
def test_one_spoofed_packet_does_not_end_a_one_way_session(owamp: ServerThread, mode: int, spoof: str) -> None:
    session = OwampSession(set_up(owamp, mode)).start()
    session.send(0, 1, 2)
    packet = session.packet(0xFFFFFFFF) if spoof == "beyond" else session.packet(5, error=0)
    session.sock.sendto(packet, session.remote)
    session.send(*range(3, 10))
    session.stop()
    assert session.numbers() == list(range(10))


@pytest.mark.parametrize("mode", TWAMP_MODES, ids=NAMES.get)
def test_one_spoofed_packet_does_not_end_a_two_way_session(twamp: ServerThread, mode: int) -> None:
    session = TwampSession(set_up(twamp, mode)).start()
    session.ping(3)
    session.sock.sendto(session.packet(1, error=0), session.remote)
    assert session.silent()
    session.ping(3)


@pytest.mark.parametrize("mode", TWAMP_MODES, ids=NAMES.get)
def test_empty_and_short_datagrams_are_not_reflected_with_octets_of_others(twamp: ServerThread, mode: int) -> None:
    session = TwampSession(set_up(twamp, mode)).start()
    session.sock.sendto(session.packet(1, padding=b"octets of another" * 60), session.remote)
    assert b"another" in session.sock.recv(4096)
    for octets in (0, 1, 13):
        session.sock.sendto(session.packet(1)[:octets], session.remote)
    assert session.silent()
    session.sock.sendto(session.packet(2), session.remote)
    assert b"another" not in session.sock.recv(4096)


@pytest.mark.parametrize("mode", OWAMP_MODES, ids=NAMES.get)
def test_a_request_that_cannot_be_decoded_is_answered(owamp: ServerThread, twamp: ServerThread, mode: int) -> None:
    for command in (0, 6, 77, 255):
        for thread in (owamp, twamp):
            client = set_up(thread, mode)
            client.command(request_tw_session(command=command, sender_port=9))
            assert client.accept_session()["accept"] == 3
            assert client.ended()
    client = set_up(owamp, mode)
    for kind in (2, 255):
        client.request(request_session(port=9, start_time=now_ntp()), slot(SECOND, kind=kind))
        assert client.accept_session()["accept"] == 3
    client = set_up(twamp, mode)
    client.command(request_tw_session(sender_port=9, ipvn=15, conf=(255, 255), type_p=0xFFFFFFFF))
    assert client.accept_session()["accept"] == 3


@pytest.mark.parametrize("count", [0, 1, 1023, 1025, 1 << 16, 1 << 31, 0xFFFFFFFF])
def test_a_client_does_not_take_any_count(count: int) -> None:
    client = ControlClient(
        ControlClientConfig(Mode.ENCRYPTED),
        PassphraseProvider({"alice": SECRET}),
        CountedEntropy(),
        local=CLIENT,
        remote=SERVER,
        now=0.0,
    )
    client.receive_data(FakeServer(15, SECRET, count=count).greeting(), 0.0)
    event = client.next_event()
    assert isinstance(event, ConnectionClosed)
    assert isinstance(event.error, UnacceptableCount)
    assert client.data_to_send() == b""


@pytest.mark.req("rfc4656-s4.1.2-02", "rfc4656-s4.1.2-03")
@pytest.mark.parametrize("maxerror_us", [0, 1, 500, 15_999_999, 16_000_000, 20_000_000])
@pytest.mark.parametrize(("result", "status"), [(TIME_ERROR, 0x40), (0, 0x40), (TIME_ERROR, 0)])
def test_without_synchronization_no_small_error_is_claimed(maxerror_us: int, result: int, status: int) -> None:
    state = state_of_timex(result, status, maxerror_us)
    estimate = decode_error_estimate(state.error_estimate().to_int())
    error_ns = estimate["multiplier"] * 2.0 ** (estimate["scale"] - 32) * 1e9
    assert estimate["s"] == 0
    assert error_ns >= UNKNOWN_ERROR_NS == 16_000_000_000


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`ippm serve` for OWAMP, and its port."""
    command = [*COMMAND, "serve", "--listen", f"{LOCAL}:0", "--owamp-port", "0", "-P", "31000-31099", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            match = re.search(r"OWAMP server on .* port (\d+)", server.stdout.readline())
            assert match
            yield server, int(match[1])
        finally:
            server.kill()


def recorded(directory: Path, sid: bytes, count: int) -> bool:
    """Whether so many records come to be in the file of another process, which tells nobody: it is looked at."""
    path = directory / f"{sid.hex()}.records"
    for _ in range(2000):
        if path.exists() and path.stat().st_size == 25 * count:
            return True
        select.select([], [], [], 0.005)
    return False


@pytest.mark.parametrize("mode", [2, 4], ids=NAMES.get)
def test_no_record_is_lost_when_the_server_is_killed(tmp_path: Path, mode: int) -> None:
    """What has arrived is in the file, not in a buffer: another server gives it away."""
    keys = tmp_path / "keys.pfs"
    keys.write_text(f"alice {SECRET.hex()}\n")
    keys.chmod(0o600)
    options = ("-k", str(keys), "--data", str(tmp_path / "data"))
    with process(*options) as (server, port):
        client = FakeClient((LOCAL, port), mode, SECRET, b"alice")
        assert client.set_up() == 0
        session = OwampSession(client).start()
        session.send(0, 1, 2, 3, 4, 5, 6)
        assert recorded(tmp_path / "data", session.sid, 7)
        server.kill()
        server.wait(60)
    with process(*options) as (server, port):
        client = FakeClient((LOCAL, port), mode, SECRET, b"alice")
        assert client.set_up() == 0
        client.command(fetch_session(session.sid, 0, 9))
        fetched = client.fetched()
        assert isinstance(fetched, dict)
        assert (fetched["finished"], fetched["numbers"]) == (2, [0, 1, 2, 3, 4, 5, 6])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("form", [(), ("--json",), ("-R",)], ids=str)
@pytest.mark.parametrize("command", ["owping", "twping"])
def test_results_that_cannot_be_written_are_told(
    owamp: ServerThread, twamp: ServerThread, command: str, form: tuple[str, ...]
) -> None:
    port = (owamp if command == "owping" else twamp).address[1]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, command, "-c", "3", "-i", "0.001f", "-L", "0.1", *form, f"{LOCAL}:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
