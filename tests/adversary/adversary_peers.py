"""What the tests with the fake peer share: our servers in a thread, a healthy session that runs beside an attack."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from decoder.fake_peer import (
    SECOND,
    FakeClient,
    description,
    fetch_session,
    request_session,
    request_tw_session,
    sender_packet,
    slot,
    start_sessions,
    stop_sessions,
)
from decoder.twamp_decoder import decode_test

from ippm.crypto import PassphraseProvider
from ippm.io.clock import now_ntp
from ippm.io.options import ServerOptions
from ippm.io.owamp_options import OwampServerOptions
from ippm.io.owamp_server import OwampServer
from ippm.io.twamp_server import TwampServer

SECRET = b"correct horse"
OTHER_SECRET = b"battery staple"
TWAMP_MODES = [1, 2, 4, 8]
OWAMP_MODES = [1, 2, 4]
NAMES = {1: "open", 2: "authenticated", 4: "encrypted", 8: "mixed"}
LOCAL = "127.0.0.1"


def provider() -> PassphraseProvider:
    return PassphraseProvider({"alice": SECRET, "bob": OTHER_SECRET}, "alice")


def short_buffers(sock: socket.socket) -> None:
    """Little room in the kernel, so that a reader or writer that is slow is felt soon."""
    if sock.type == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


TWAMP_OPTIONS = ServerOptions(
    address=LOCAL, port=0, test_ports=(30000, 30499), count=1024, connections_per_address=128
)
OWAMP_OPTIONS = OwampServerOptions(
    address=LOCAL, port=0, test_ports=(30500, 30999), count=1024, connections_per_address=128
)


class ServerThread:
    """One of our servers with an event loop and a thread of its own; `server` is for looking at."""

    def __init__(self, server: TwampServer | OwampServer) -> None:
        self.server = server
        self.clients: list[FakeClient] = []
        self.sockets: list[socket.socket] = []
        self.loop = asyncio.new_event_loop()
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.do(server.start)
        self.address = (LOCAL, server.port)

    def do(self, what: Callable[[], Awaitable[Any]]) -> Any:
        async def doing() -> Any:
            return await what()

        return asyncio.run_coroutine_threadsafe(doing(), self.loop).result(60)

    def until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition, looked at in the server's own thread, holds."""

        async def waiting() -> None:
            async with asyncio.timeout(60):
                while not condition():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)

        self.do(waiting)

    def counters(self, sid: bytes) -> dict[str, int]:
        """What the reflector has counted for a session."""
        assert isinstance(self.server, TwampServer)
        assert self.server._reflector is not None
        return self.server._reflector.counters(sid)

    def nothing_is_left(self) -> None:
        """Ends what the test has not ended, and waits until the server is as it was."""
        for client in self.clients:
            client.close()
        for sock in self.sockets:
            sock.close()
        self.clients.clear()
        self.sockets.clear()
        self.until(lambda: self.server.connections == 0 and self.server.sessions == 0)

    def close(self) -> None:
        self.do(self.server.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()


@contextmanager
def serving(server: TwampServer | OwampServer) -> Iterator[ServerThread]:
    thread = ServerThread(server)
    try:
        yield thread
        thread.nothing_is_left()
    finally:
        thread.close()
    assert not thread.faults, "something was raised in the server"


def twamp_server(**options: Any) -> TwampServer:
    return TwampServer(replace(TWAMP_OPTIONS, **options), provider())


def owamp_server(**options: Any) -> OwampServer:
    return OwampServer(replace(OWAMP_OPTIONS, **options), provider())


def connected(thread: ServerThread, mode: int, *, key_id: bytes = b"alice", secret: bytes = SECRET) -> FakeClient:
    """A client that has read the Greeting and not answered yet."""
    thread.clients.append(FakeClient(thread.address, mode, secret, key_id))
    return thread.clients[-1]


def set_up(thread: ServerThread, mode: int, **who: bytes) -> FakeClient:
    """A client that may send commands."""
    client = connected(thread, mode, **who)
    assert client.set_up() == 0
    return client


def udp(buffer: int = 1 << 20) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.bind((LOCAL, 0))
    sock.settimeout(20)
    return sock


class TwampSession:
    """A session of a fake client at our server: requested; `start` it, `ping` it."""

    def __init__(self, client: FakeClient, **request: Any) -> None:
        self.client = client
        self.sock = udp()
        self.local = self.sock.getsockname()
        client.command(request_tw_session(**({"sender_port": self.local[1], "timeout": SECOND >> 8} | request)))
        answer = client.accept_session()
        assert answer["accept"] == 0
        self.sid, self.remote = answer["sid"], (LOCAL, answer["port"])
        self.keys = client.test_keys(self.sid)
        self.sent = 0

    def start(self) -> TwampSession:
        self.client.command(start_sessions())
        assert self.client.start_ack() == 0
        return self

    def packet(self, sequence: int, **fields: Any) -> bytes:
        return sender_packet(self.client.mode, self.keys, sequence, now_ntp(), **fields)

    def ping(self, count: int = 1) -> None:
        """So many packets, each answered with its own fields."""
        for _ in range(count):
            packet = self.packet(self.sent)
            self.sock.sendto(packet, self.remote)
            reply = self.read(self.sock.recv(2048))
            assert reply["sender_sequence_number"] == self.sent
            self.sent += 1

    def read(self, reply: bytes) -> dict[str, Any]:
        return decode_test(reply, self.keys, "reflector", self.client.mode)

    def silent(self) -> bool:
        """True when what was sent so far got no answer: the next packet's reply is the first thing to come."""
        self.sock.sendto(self.packet(0xABCDEF), self.remote)
        return bool(self.read(self.sock.recv(65536))["sender_sequence_number"] == 0xABCDEF)

    def close(self) -> None:
        self.sock.close()


class HealthyTwamp:
    """A session of somebody else, in a mode of its own, that must be whole whatever happens beside it."""

    def __init__(self, thread: ServerThread, mode: int = 4) -> None:
        self.thread = thread
        self.client = set_up(thread, mode, key_id=b"bob", secret=OTHER_SECRET)
        self.session = TwampSession(self.client).start()
        self.session.ping(5)

    def whole(self) -> None:
        """Still answered, packet by packet, and ended in order; another one can follow on the connection."""
        self.session.ping(5)
        self.client.command(stop_sessions(1))
        self.session.close()
        again = TwampSession(self.client).start()
        again.ping(1)
        again.close()
        self.client.command(stop_sessions(1))
        self.client.half_close()
        assert self.client.ended()
        self.client.close()


class OwampSession:
    """A session of a fake client that sends to our server.

    No test has to wait for its end: it began 33 s ago, packets 0 to `packets` - 1 were due at once, all are stamped
    29.9 s after the start, and Timeout is 30 s. So for 26.9 s they are neither too old nor off the schedule, and all of
    them were due more than Timeout ago. One more packet, which is skipped, is due after 4 s: the session is not over.
    RFC 4656 sections 3.8 and 4.2.
    """

    TIMEOUT = 30 * SECOND

    def __init__(
        self, client: FakeClient, packets: int = 10, *, slots: list[bytes] | None = None, **request: Any
    ) -> None:
        self.client = client
        self.packets = packets
        self.sock = udp()
        self.local = self.sock.getsockname()
        self.start_time = now_ntp() - self.TIMEOUT - 3 * SECOND
        made = [slot(SECOND // 1000)] * packets + [slot(4 * SECOND)] if slots is None else slots
        fields = {
            "slots": len(made), "port": self.local[1], "packets": packets + 1, "start_time": self.start_time,
            "timeout": self.TIMEOUT,
        }  # fmt: skip
        client.request(request_session(**(fields | request)), b"".join(made))
        answer = client.accept_session()
        assert answer["accept"] == 0
        self.sid, self.remote = answer["sid"], (LOCAL, answer["port"])
        self.keys = client.test_keys(self.sid)

    def start(self) -> OwampSession:
        self.client.command(start_sessions())
        assert self.client.start_ack() == 0
        return self

    def packet(self, sequence: int, *, stamp: int | None = None, **fields: Any) -> bytes:
        sent = self.start_time + self.TIMEOUT - SECOND // 10 if stamp is None else stamp
        return sender_packet(self.client.mode, self.keys, sequence, sent, **fields)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.sock.sendto(self.packet(number), self.remote)

    @property
    def description(self) -> bytes:
        """What its sender says at the end: all but the last were sent."""
        return description(self.sid, self.packets + 1, [(self.packets, self.packets)])

    def stop(self) -> None:
        """Both Stop-Sessions."""
        self.client.command(stop_sessions(1) + self.description)
        assert self.client.stop_of_server() == []

    def numbers(self) -> list[int]:
        """The sequence numbers of the records, by a Fetch-Session."""
        self.client.command(fetch_session(self.sid))
        fetched = self.client.fetched()
        assert isinstance(fetched, dict)
        assert (fetched["finished"], fetched["next_seqno"], fetched["skips"]) == (1, self.packets + 1, 1)
        return list(fetched["numbers"])

    def close(self) -> None:
        self.sock.close()


class HealthyOwamp:
    """A session of somebody else that must be whole whatever happens beside it."""

    def __init__(self, thread: ServerThread, mode: int = 4) -> None:
        self.client = set_up(thread, mode, key_id=b"bob", secret=OTHER_SECRET)
        self.session = OwampSession(self.client).start()
        self.session.send(0, 1, 2, 3, 4)

    def whole(self) -> None:
        self.session.send(5, 6, 7, 8, 9)
        self.session.stop()
        assert self.session.numbers() == list(range(10))
        self.session.close()
        self.client.half_close()
        assert self.client.ended()
        self.client.close()
