"""What fuzzing calls: one function per target, from octets to None; any exception that comes out is a finding.

The property of a parser is "a ProtocolError or a valid value, nothing else". What is valid encodes, or is refused with
a LocalProtocolError since a sender may not say it; these octets are read to the same payloads and encode to the same
octets again. The functions need no fuzzer, so that tests run the kept corpus through them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ippm_control_peers import CountedEntropy
from owamp_control_peers import CLIENT as OWAMP_CLIENT
from owamp_control_peers import SERVER as OWAMP_SERVER
from owamp_control_peers import Hooks as OwampHooks

from fuzz.clients import owamp_client, pieces, twamp_client
from fuzz.endpoint import ikev2_endpoint
from fuzz.esp import esp_engine
from fuzz.testpackets import test_packets
from ikev2.errors import ConfigurationError, InvalidSyntax, LocalProtocolError, ProtocolError
from ikev2.iana import PayloadType
from ikev2.io.decode import decode_packets
from ikev2.wire.message import Message, describe, encode_payloads, parse_payloads
from ikev2.wire.rules import check_message
from ippm.core.control_events import Endpoint, SessionsStarted
from ippm.core.owamp_policy import OwampServerConfig
from ippm.core.owamp_server import OwampServer
from ippm.core.server import ControlServer
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import NoProvider
from ippm.wire.stop_descriptions import SessionDescription

Target = Callable[[bytes], None]


def ikev2_message(data: bytes) -> None:
    """A whole IKE message: parsed, described, checked by its rules, encoded, and parsed again."""
    try:
        message = Message.parse(data)
    except InvalidSyntax:
        return
    describe(message)
    with contextlib.suppress(ProtocolError):
        check_message(message)
    try:
        octets = message.encode()
    except LocalProtocolError:
        return
    again = Message.parse(octets)
    assert [payload.payload_type for payload in again.payloads] == [
        payload.payload_type for payload in message.payloads
    ]
    assert again.encode() == octets


def ikev2_payloads(data: bytes) -> None:
    """What is inside an Encrypted payload: the first octet is the type of the first payload."""
    if not data:
        return
    try:
        payloads = parse_payloads(PayloadType(data[0]), data[1:])
    except InvalidSyntax:
        return
    try:
        first, octets = encode_payloads(payloads)
    except LocalProtocolError:
        return
    assert encode_payloads(parse_payloads(first, octets)) == (first, octets)


class _Hooks:
    """A server's surroundings: a clock that stands still and ports for everybody."""

    def ntp_time(self) -> int:
        return 0xE000_0000_0000_0000

    def open_session(self, session: object) -> int:
        return 18760


class _Octets:
    def octets(self, n: int) -> bytes:
        return b"\x5a" * n


def twamp_server(data: bytes) -> None:
    """Everything that a client sends on one Control connection, in pieces of the lengths that it names itself."""
    server = ControlServer(
        ControlServerConfig(), NoProvider(), _Hooks(), _Octets(),
        local=Endpoint("192.0.2.2", 862), remote=Endpoint("192.0.2.1", 40000), now=0.0,
    )  # fmt: skip
    for piece in pieces(data):
        if server.closed:
            break
        server.receive_data(piece, 0.0)
        server.data_to_send()
        while server.next_event() is not None:
            pass
    server.receive_eof(0.0)


def owamp_server(data: bytes) -> None:
    """The same for OWAMP in open mode; sessions that have started end when the client says nothing for a while."""
    hooks = OwampHooks()
    server = OwampServer(
        OwampServerConfig(count=1024), NoProvider(), hooks, CountedEntropy("server"),
        local=OWAMP_SERVER, remote=OWAMP_CLIENT, now=0.0,
    )  # fmt: skip
    now = 0.0
    for piece in pieces(data):
        if server.closed:
            break
        server.receive_data(piece, now)
        while server.data_to_send():
            pass
        while (event := server.next_event()) is not None:
            if isinstance(event, SessionsStarted):
                for session in hooks.opened:
                    description = SessionDescription(session.sid, 1, ()) if session.server_sends else None
                    server.session_complete(session.sid, description, now)
        assert len(hooks.opened) <= 16, "more sessions than a connection may have"
        now += 0.1
    server.receive_eof(now)


def ikev2_capture(data: bytes) -> None:
    """A pcap or pcapng file, as `ikev2 decode` reads it."""
    with tempfile.NamedTemporaryFile(dir=_SHARED_MEMORY if os.path.isdir(_SHARED_MEMORY) else None) as file:
        file.write(data)
        file.flush()
        try:
            for message in decode_packets(Path(file.name)):
                message.to_dict()
                list(message.lines())
        except ConfigurationError:
            return


_SHARED_MEMORY = "/dev/shm"

TARGETS: dict[str, Target] = {
    "esp_engine": esp_engine,
    "ikev2_capture": ikev2_capture,
    "ikev2_endpoint": ikev2_endpoint,
    "ikev2_message": ikev2_message,
    "ikev2_payloads": ikev2_payloads,
    "owamp_client": owamp_client,
    "owamp_server": owamp_server,
    "test_packets": test_packets,
    "twamp_client": twamp_client,
    "twamp_server": twamp_server,
}
