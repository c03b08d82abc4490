"""IKEv2 (RFC 7296) for those who test an implementation of it: this one or another.

    connection(...)     who talks to whom, in the words of the configuration file
    pool(...)           the internal addresses that a connection gives to its peers
    Peer, roundtrip     one end without I/O, and what carries datagrams between two of them
    Endpoint            the same core on UDP sockets, under asyncio
    events              what either of them reports
    iana, payloads, Message     code points, payloads and whole messages, to make and to read
    Knob                one named way to misbehave
    Recorder            every message of one end, decrypted, in memory
    PcapWriter, KeyLogWriter, decode_capture    the same as files that Wireshark reads, and the way back
    IkeError            the base of all errors

docs/testing.md is the tutorial, docs/extending.md how to add to the protocol. A program that runs an endpoint for its
users, as `binding` does, finds what it needs in `ikev2.embedding`. These two modules are public; all else may change.

Names are imported when they are first used: `import ikev2` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2._lazy import lazy

if TYPE_CHECKING:
    from ikev2 import iana
    from ikev2.cli.config import connection, pool
    from ikev2.core import events
    from ikev2.core.impair import Knob
    from ikev2.errors import IkeError
    from ikev2.io.decode import decode_capture
    from ikev2.io.endpoint import Endpoint
    from ikev2.io.keylog import KeyLogWriter
    from ikev2.io.pcap import PcapWriter
    from ikev2.io.recorder import Recorder
    from ikev2.testing import Peer, roundtrip
    from ikev2.wire import payloads
    from ikev2.wire.message import Message

__all__ = [
    "Endpoint",
    "IkeError",
    "KeyLogWriter",
    "Knob",
    "Message",
    "PcapWriter",
    "Peer",
    "Recorder",
    "connection",
    "decode_capture",
    "events",
    "iana",
    "payloads",
    "pool",
    "roundtrip",
]

_WHERE = {
    "Endpoint": "ikev2.io.endpoint:Endpoint",
    "IkeError": "ikev2.errors:IkeError",
    "KeyLogWriter": "ikev2.io.keylog:KeyLogWriter",
    "Knob": "ikev2.core.impair:Knob",
    "Message": "ikev2.wire.message:Message",
    "PcapWriter": "ikev2.io.pcap:PcapWriter",
    "Peer": "ikev2.testing:Peer",
    "Recorder": "ikev2.io.recorder:Recorder",
    "connection": "ikev2.cli.config:connection",
    "decode_capture": "ikev2.io.decode:decode_capture",
    "events": "ikev2.core.events",
    "iana": "ikev2.iana",
    "payloads": "ikev2.wire.payloads",
    "pool": "ikev2.cli.config:pool",
    "roundtrip": "ikev2.testing:roundtrip",
}

__getattr__ = lazy(__name__, globals(), _WHERE)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
