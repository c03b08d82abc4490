"""What fuzzing calls: one function per target, from octets to None; any exception that comes out is a finding.

The property of a parser is "a ProtocolError or a valid value, nothing else". What is valid encodes, or is refused with
a LocalProtocolError since a sender may not say it; these octets are read to the same payloads and encode to the same
octets again. The functions need no fuzzer, so that tests run the kept corpus through them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ippm_control_peers import CountedEntropy
from owamp_control_peers import CLIENT as OWAMP_CLIENT
from owamp_control_peers import SERVER as OWAMP_SERVER
from owamp_control_peers import Hooks as OwampHooks

from fuzz.endpoint import ikev2_endpoint
from ikev2.errors import InvalidSyntax, LocalProtocolError, ProtocolError
from ikev2.iana import PayloadType
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
    rest = data
    while rest and not server.closed:
        octets = 1 + rest[0] % 64
        server.receive_data(rest[1 : 1 + octets], 0.0)
        server.data_to_send()
        while server.next_event() is not None:
            pass
        rest = rest[1 + octets :]
    server.receive_eof(0.0)


def owamp_server(data: bytes) -> None:
    """The same for OWAMP in open mode; sessions that have started end when the client says nothing for a while."""
    hooks = OwampHooks()
    server = OwampServer(
        OwampServerConfig(count=1024), NoProvider(), hooks, CountedEntropy("server"),
        local=OWAMP_SERVER, remote=OWAMP_CLIENT, now=0.0,
    )  # fmt: skip
    rest, now = data, 0.0
    while rest and not server.closed:
        octets = 1 + rest[0] % 64
        server.receive_data(rest[1 : 1 + octets], now)
        while server.data_to_send():
            pass
        while (event := server.next_event()) is not None:
            if isinstance(event, SessionsStarted):
                for session in hooks.opened:
                    description = SessionDescription(session.sid, 1, ()) if session.server_sends else None
                    server.session_complete(session.sid, description, now)
        assert len(hooks.opened) <= 16, "more sessions than a connection may have"
        rest = rest[1 + octets :]
        now += 0.1
    server.receive_eof(now)


TARGETS: dict[str, Target] = {
    "ikev2_endpoint": ikev2_endpoint,
    "ikev2_message": ikev2_message,
    "ikev2_payloads": ikev2_payloads,
    "owamp_server": owamp_server,
    "twamp_server": twamp_server,
}
