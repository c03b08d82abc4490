"""A decoded message as text for a person: the line of the log, then each payload with what it says.

Octets that nobody reads are cut to the first sixteen; `to_dict` of the message has them all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ikev2.core.config import Identity
from ikev2.crypto.suites import proposal_keyword
from ikev2.wire.describe import describe_payload
from ikev2.wire.payloads import (
    Auth,
    Cert,
    CertReq,
    Cp,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    Id,
    Ke,
    Nonce,
    Notify,
    Payload,
    Proposal,
    Sa,
    Ts,
    Unknown,
)

if TYPE_CHECKING:
    from ikev2.io.decode import DecodedMessage

SHOWN_OCTETS = 16
NAME_COLUMNS = 8


def message_lines(message: DecodedMessage) -> Iterator[str]:
    """The message: who to whom, the line of the log, and a line or more for each payload."""
    seconds, rest = divmod(message.time_ns, 10**9)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    header = message.header
    yield f"{clock}.{rest // 1000:06d} {message.source} -> {message.destination}, {header.length} octets"
    yield f"  {message.summary}"
    yield f"    IKE SA {header.initiator_spi.hex()}_i {header.responder_spi.hex()}_r"
    if message.problem is not None:
        yield f"    {message.problem}"
    for payload in message.payloads:
        name = f"({int(payload.payload_type)})" if isinstance(payload, Unknown) else payload.payload_type.name
        for number, line in enumerate(payload_lines(payload)):
            yield f"    {name if not number else '':{NAME_COLUMNS}}{line}"


def payload_lines(payload: Payload) -> Iterator[str]:
    """What a payload says; an empty line when it is only there."""
    match payload:
        case Sa(proposals):
            yield from (_proposal(proposal) for proposal in proposals)
        case Ke(group, data):
            yield f"{group}, {_octets(data)}"
        case Nonce(data):
            yield _octets(data)
        case Id(id_type, data):
            yield f"{id_type} {Identity(id_type, data)}"
        case Auth(method, data):
            yield f"{method}, {_octets(data)}"
        case Notify():
            yield _notify(payload)
        case Delete():
            spis = " ".join(spi.hex() for spi in payload.spis)
            yield f"{payload.protocol} {spis}".rstrip()
        case Ts(selectors):
            yield " ".join(map(str, selectors))
        case Cert(encoding, data) | CertReq(encoding, data):
            yield f"{encoding}, {_octets(data)}"
        case Cp(attributes=attributes):
            yield describe_payload(payload)
            yield from (f"{attribute.type} {_octets(attribute.value)}" for attribute in attributes)
        case Eap():
            yield f"{describe_payload(payload)}, identifier {payload.identifier}, {_octets(payload.data)}"
        case Encrypted(body=body):
            yield f"{len(body)} octets, encrypted"
        case EncryptedFragment():
            yield (
                f"fragment {payload.fragment_number} of {payload.total_fragments}, "
                f"{len(payload.body)} octets, encrypted"
            )
        case Unknown():
            yield ("critical, " if payload.critical else "") + _octets(payload.data)
        case _:
            yield _octets(payload.encode_body())


def _proposal(proposal: Proposal) -> str:
    spi = f", SPI {proposal.spi.hex()}" if proposal.spi else ""
    return f"{proposal.number} {proposal.protocol} {proposal_keyword(proposal)}{spi}"


def _notify(notify: Notify) -> str:
    about = f" for {notify.protocol} {notify.spi.hex()}" if notify.spi else ""
    return f"{notify.notify_type}{about}" + (f", {_octets(notify.data)}" if notify.data else "")


def _octets(data: bytes) -> str:
    if not data:
        return "no octets"
    more = "..." if len(data) > SHOWN_OCTETS else ""
    count = "1 octet" if len(data) == 1 else f"{len(data)} octets"
    return f"{count} {data[:SHOWN_OCTETS].hex()}{more}"
