"""Control clients whose server is the fuzzer: what it says arrives in pieces, and the user asks for all there is.

Nothing but an event comes of it: a connection is closed with its reason, or what the user asked for is there. RFC 4656
section 3, RFC 5357 section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from ippm_control_peers import WISH, CountedEntropy
from owamp_control_peers import FROM_SERVER, TO_SERVER

from ippm.core.client_connection import ControlClientConfig
from ippm.core.control_client import ControlClient
from ippm.core.control_events import (
    Connected,
    Endpoint,
    SessionAccepted,
    SessionRejected,
    Started,
)
from ippm.core.owamp_client import OwampClient
from ippm.core.owamp_events import AllStopped, Fetched, FetchRefused, OwampSessionAccepted
from ippm.crypto import NoProvider
from ippm.errors import LocalProtocolError
from ippm.iana import FEATURE_BITS, Mode
from ippm.wire.stop_descriptions import SessionDescription

FEATURES = tuple(bit for bit in Mode if bit & FEATURE_BITS)
SESSIONS = 2


def pieces(data: bytes) -> Iterator[bytes]:
    """Each piece of an input, whose length stands before it."""
    at = 0
    while at < len(data):
        octets = 1 + data[at] % 64
        yield data[at + 1 : at + 1 + octets]
        at += 1 + octets


def twamp_client(data: bytes) -> None:
    """The first octet chooses the features that the client wants."""
    wanted = Mode(0)
    for number, bit in enumerate(FEATURES):
        if data[:1] and data[0] >> number & 1:
            wanted |= bit
    client = ControlClient(
        ControlClientConfig(features=wanted), NoProvider(), CountedEntropy("client"),
        local=Endpoint("192.0.2.1", 40000), remote=Endpoint("192.0.2.2", 862), now=0.0,
    )  # fmt: skip
    answered = 0
    for piece in pieces(data[1:]):
        client.receive_data(piece, 0.0)
        while (event := client.next_event()) is not None:
            try:
                match event:
                    case Connected():
                        for _ in range(SESSIONS):
                            client.request_session(WISH, 0.0)
                    case SessionAccepted() | SessionRejected():
                        answered += 1
                        if answered == SESSIONS:
                            client.start_sessions(0.0)
                    case Started():
                        client.stop_sessions(0.0)
            except LocalProtocolError:
                pass
        client.data_to_send()
    client.receive_eof(0.0)
    assert client.closed


def owamp_client(data: bytes) -> None:
    """A session each way; when both sides have stopped, the first is fetched."""
    client = OwampClient(
        ControlClientConfig(), NoProvider(), CountedEntropy("client"),
        local=Endpoint("192.0.2.1", 40000), remote=Endpoint("192.0.2.2", 861), now=0.0,
    )  # fmt: skip
    ours: list[bytes] = []
    answered = 0
    for piece in pieces(data):
        client.receive_data(piece, 0.0)
        while (event := client.next_event()) is not None:
            try:
                match event:
                    case Connected():
                        client.request_session(TO_SERVER, 0.0)
                        client.request_session(FROM_SERVER, 0.0)
                    case OwampSessionAccepted() | SessionRejected():
                        answered += 1
                        if isinstance(event, OwampSessionAccepted) and not event.session.server_sends:
                            ours.append(event.session.sid)
                        if answered == SESSIONS:
                            client.start_sessions(0.0)
                    case Started():
                        client.stop_sessions([SessionDescription(sid, 20, ()) for sid in ours], 0.0)
                    case AllStopped(sids):
                        client.fetch_session(ours[0] if ours else sids[0], 0.0)
                    case Fetched(session):
                        assert session.decode(session.encode()) == session
                    case FetchRefused():
                        client.fetch_session(bytes(16), 0.0, 3, 5)
            except LocalProtocolError:
                pass
        client.data_to_send()
    client.receive_eof(0.0)
    assert client.closed
