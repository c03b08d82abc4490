"""Messages made by hand, in the name of a peer or of nobody."""

from __future__ import annotations

from sim.network import Host, Network

from ikev2.core.types import Address, Datagram
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Notify, Payload, Unknown


def clear(
    exchange: ExchangeType,
    payloads: tuple[Payload, ...] = (),
    *,
    spi_i: bytes = b"\x11" * 8,
    spi_r: bytes = bytes(8),
    message_id: int = 0,
    is_initiator: bool = True,
    is_response: bool = False,
) -> bytes:
    """An unprotected message."""
    header = Header.to_send(spi_i, spi_r, exchange, message_id, is_initiator=is_initiator, is_response=False)
    data = bytearray(Message(header, payloads).encode())
    data[19] |= 0x20 if is_response else 0  # also for what a response may not hold
    return bytes(data)


def clear_of(host: Host, exchange: ExchangeType, payloads: tuple[Payload, ...], **options: object) -> bytes:
    """An unprotected message with the SPIs of the host's one SA."""
    sa = host.sa
    return clear(exchange, payloads, spi_i=sa.spi_i, spi_r=sa.spi_r, **options)  # type: ignore[arg-type]


def sealed(
    sender: Host,
    exchange: ExchangeType,
    payloads: tuple[Payload, ...],
    *,
    message_id: int | None = None,
    is_response: bool = False,
) -> bytes:
    """An authentic message of this host's one SA, with the id that its next request has."""
    sa = sender.sa
    assert sa.channel is not None
    number = sa.requests.next_id if message_id is None else message_id
    return sa.channel.seal(exchange, number, payloads, is_response=is_response)


def give(network: Network, receiver: Host, data: bytes, sender: Address) -> None:
    """Hand a datagram to a host now and let it react; the network does not run on."""
    receiver.manager.receive_datagram(data, receiver.address, sender, network.now)
    network.flush(receiver)


def last_sent(network: Network) -> Datagram:
    return network.sent[-1].datagram


def parse(datagram: Datagram | bytes) -> Message:
    return Message.parse(datagram if isinstance(datagram, bytes) else datagram.data)


def opened(reader: Host, datagram: Datagram) -> tuple[Payload, ...]:
    """What is inside a protected message to this host."""
    channel = reader.sa.channel
    assert channel is not None
    return channel.open(datagram.data, parse(datagram))


def notify_types(payloads: tuple[Payload, ...]) -> list[NotifyType]:
    return [payload.notify_type for payload in payloads if isinstance(payload, Notify)]


def unknown(payload_type: int = 200, *, critical: bool = False) -> Unknown:
    """A payload of a type that nobody has defined."""
    from ikev2.iana import PayloadType

    return Unknown(PayloadType(payload_type), b"octets", critical=critical)
