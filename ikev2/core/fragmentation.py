"""IKE fragmentation: large protected messages go as several small ones, each protected by itself.

    HDR(MID=n), SKF(NextPld=PLD1, Frag#=1, TotalFrags=m) {...}
    HDR(MID=n), SKF(NextPld=0, Frag#=2, TotalFrags=m) {...}
    ...
    HDR(MID=n), SKF(NextPld=0, Frag#=m, TotalFrags=m) {...}

The rules, before the code:

- Only when both ends have said IKEV2_FRAGMENTATION_SUPPORTED in IKE_SA_INIT. Section 2.4.
- A request that does not fit into the current size of an IP datagram is fragmented: the one that is configured, or
  that of the path where ICMP has told it, or the recommended one. One that gets no answer after a few retransmissions,
  or of which ICMP says that it is too large, is fragmented again, smaller, and the timers start over. What got through
  stays the size for the exchanges that follow. Sections 2.5.1 and 2.5.2.
- A response goes in the form of its request, in fragments no larger than the request's. Section 2.5.1.
- Nothing of a fragment is kept before its ICV has verified; there is a queue for each request within our window and
  for each response that we wait for, bounded in octets, count and time. Sections 2.6 and 5.

RFC 7383.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ikev2.core.channel import Plain, SecureChannel
from ikev2.core.config import ConnectionConfig, Limits
from ikev2.core.exchange import Ignored, Inbound
from ikev2.core.types import Address
from ikev2.core.window import RequestInFlight, Response
from ikev2.errors import InvalidSyntax
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.message import Message
from ikev2.wire.payloads import Encrypted, EncryptedFragment, Notify, Payload

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa

IPV4_UDP_OCTETS = 20 + 8
IPV6_UDP_OCTETS = 40 + 8
NON_ESP_MARKER_OCTETS = 4

PROBE_SIZES = (1280, 576)
"""IP datagrams to try when larger ones get no answer, coarse as section 2.5.2 wants it."""

SMALLEST_SIZE = PROBE_SIZES[-1]
IPV6_SIZE, IPV4_SIZE = 1280, 576  # rfc7383-s2.5.1-04
"""The IP datagrams to use where nothing is known of the path and nothing is configured (rfc7383-s2.5.1-03,
rfc7383-s2.5.1-04)."""
PROBE_RETRANSMISSIONS = 2
"""How often a request is sent again before it is cut smaller; how often one comes again before its response is."""


class ReassemblyOverflow(Ignored):
    """A peer, authentic, sent more fragments than a message may have."""


@dataclass(slots=True)
class Reassembly:
    """The fragments of one message that have come so far. RFC 7383 section 2.6."""

    message_id: int
    exchange: ExchangeType
    total: int
    expires_at: float
    contents: dict[int, bytes] = field(default_factory=dict)
    octets: int = 0
    largest: int = 0
    first_message: Message | None = None
    first_data: bytes = b""


@dataclass(slots=True)
class Fragmentation:
    """What one IKE SA knows of it: whether both ends do it, the size that got through (IP datagram, octets; 0: as
    configured), the path's MTU (0: not known), and the messages that are being put together, by message id.

    RFC 7383 sections 2.3, 2.5.2 and 2.6.
    """

    negotiated: bool = False
    size: int = 0
    path_mtu: int = 0
    requests: dict[int, Reassembly] = field(default_factory=dict)
    responses: dict[int, Reassembly] = field(default_factory=dict)

    @property
    def request(self) -> Reassembly | None:
        """The incomplete request that began first, None when there is none."""
        return next(iter(self.requests.values()), None)

    @property
    def response(self) -> Reassembly | None:
        """The incomplete response that began first, None when there is none."""
        return next(iter(self.responses.values()), None)

    def next_timer(self) -> float | None:
        """When the next incomplete message is to be forgotten."""
        if not self.requests and not self.responses:
            return None
        return min(queue.expires_at for queue in (*self.requests.values(), *self.responses.values()))

    def expire(self, now: float) -> None:
        """Forget what did not become complete in time (rfc7383-s2.6-05)."""
        for queues in (self.requests, self.responses):
            # rfc7383-s2.6-05
            for number in [number for number, queue in queues.items() if queue.expires_at <= now]:
                del queues[number]

    def inherit(self, old: Fragmentation) -> None:
        """Take over what was negotiated and found out on the IKE SA that this one replaces."""
        self.negotiated, self.size, self.path_mtu = old.negotiated, old.size, old.path_mtu


# --- negotiation -------------------------------------------------------------------------------------------------


def offer(connection: ConnectionConfig) -> tuple[Payload, ...]:
    """What an IKE_SA_INIT request says of it. RFC 7383 section 2.3."""
    # rfc7383-s2.3-03
    return () if connection.fragmentation == "no" else (Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),)


def negotiate(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Note whether both ends do it, from the peer's IKE_SA_INIT message; what our response says of it."""
    theirs = inbound.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    said = offer(sa.connection) if theirs else ()
    sa.fragmentation.negotiated = bool(said)  # rfc7383-s2.4-01
    return said


# --- sending -----------------------------------------------------------------------------------------------------


def datagram_octets(message_octets: int, local: Address, connection: ConnectionConfig) -> int:
    """The length of the IP datagram that carries a message of this length from `local`."""
    ip_udp = IPV6_UDP_OCTETS if ":" in local.host else IPV4_UDP_OCTETS  # rfc7383-s2.5.1-03
    marker = NON_ESP_MARKER_OCTETS if local.port != connection.ike_port else 0
    return message_octets + ip_udp + marker


def seal_request(sa: IkeSa, channel: SecureChannel, plain: Plain) -> tuple[bytes, ...]:
    """The messages in which a request goes out."""
    return _seal(sa, channel, plain, sa.local, current_size(sa), always=sa.connection.fragmentation == "force")


def seal_response(sa: IkeSa, channel: SecureChannel, plain: Plain, request: Inbound) -> tuple[bytes, ...]:
    """The messages in which a response goes out: in the form of the request, and no larger than it."""
    size = current_size(sa)
    if request.fragment_octets:
        # Section 2.5.1; tiny fragments of a peer do not make us send a great many. rfc7383-s2.4-05
        size = min(size, max(request.fragment_octets, SMALLEST_SIZE))
    always = bool(request.fragment_octets) or sa.connection.fragmentation == "force"
    return _seal(sa, channel, plain, request.local, size, always=always)


def may_shrink(sa: IkeSa, channel: SecureChannel, plain: Plain) -> bool:
    """True when the message could be sent in smaller datagrams one day: then `plain` is worth keeping."""
    whole = datagram_octets(channel.whole_octets(plain), sa.local, sa.connection)
    return sa.fragmentation.negotiated and whole > min(SMALLEST_SIZE, current_size(sa))


def smaller(
    sa: IkeSa, plain: Plain | None, sent: tuple[bytes, ...], local: Address
) -> tuple[int, tuple[bytes, ...]] | None:
    """The message cut smaller than it was sent the last time, and the size; None when that is not possible.

    The count of fragments always grows (rfc7383-s2.5.2-07).
    """
    for size in PROBE_SIZES:  # rfc7383-s2.5.2-02
        cut = fitting(sa, plain, sent, local, size)
        if cut is not None:
            return cut
    return None


def fitting(
    sa: IkeSa, plain: Plain | None, sent: tuple[bytes, ...], local: Address, size: int
) -> tuple[int, tuple[bytes, ...]] | None:
    """The message cut to IP datagrams of `size` octets, and the size; None when it fits, or makes no more fragments."""
    channel = sa.channel
    if plain is None or channel is None:
        return None
    largest = max(datagram_octets(len(data), local, sa.connection) for data in sent)
    room = _message_octets(size, local, sa.connection)
    if size >= largest or channel.fragment_count(plain, room) <= len(sent):  # rfc7383-s2.5.2-07
        return None
    sa.tracer.note(f"{sa.name}: datagrams of {largest} octets do not get through, trying {size}")
    return size, channel.seal_fragments(plain, room)


def _seal(
    sa: IkeSa, channel: SecureChannel, plain: Plain, local: Address, size: int, *, always: bool
) -> tuple[bytes, ...]:
    room = _message_octets(size, local, sa.connection)
    octets = channel.whole_octets(plain)
    if not sa.fragmentation.negotiated or (octets <= room and not always):
        return (channel.seal_whole(plain),)  # rfc7383-s2.4-01, rfc7383-s2.4-04
    fragments = channel.seal_fragments(plain, room)  # rfc7383-s2.5.1-01
    if len(fragments) > 1:
        sa.tracer.note(f"{sa.name}: splitting IKE message ({octets} octets) into {len(fragments)} fragments")
    return fragments


def current_size(sa: IkeSa) -> int:
    """The largest IP datagram to send to the peer, in octets. RFC 7383 section 2.5.1."""
    known = sa.fragmentation.path_mtu
    wanted = sa.fragmentation.size or sa.connection.fragment_size
    if wanted:
        return min(wanted, known) if known else wanted
    return known or (IPV6_SIZE if ":" in sa.local.host else IPV4_SIZE)  # rfc7383-s2.5.1-02


def _message_octets(size: int, local: Address, connection: ConnectionConfig) -> int:
    return size - datagram_octets(0, local, connection)


def shrink_response(sa: IkeSa, kept: Response, repeated: Inbound) -> None:
    """A request came again: its response may be too large for the path, too (rfc7383-s2.4-02).

    It is cut smaller when it is larger than the request, which got through, or when the request keeps coming.
    """
    kept.repeated += 1
    if kept.plain is None:
        return
    largest = max(len(data) for data in kept.data)
    fragmented = isinstance(repeated.message.encrypted, EncryptedFragment)
    known = sa.fragmentation.path_mtu
    if known and datagram_octets(largest, repeated.local, sa.connection) > known:
        cut = fitting(sa, kept.plain, kept.data, repeated.local, known)  # rfc7383-s2.5.1-02
    elif kept.repeated < PROBE_RETRANSMISSIONS and not (fragmented and len(repeated.data) < largest):
        return
    else:
        cut = smaller(sa, kept.plain, kept.data, repeated.local)  # rfc7383-s2.4-02
    if cut is not None:
        kept.data, kept.repeated = cut[1], 0


def answered(sa: IkeSa, request: RequestInFlight) -> None:
    """The response to our request is here: the size that got through is the size from now on. Section 2.5.2."""
    sa.fragmentation.responses.pop(request.message_id, None)
    if request.probe_size:
        sa.fragmentation.size = request.probe_size  # rfc7383-s2.4-03


# --- receiving ---------------------------------------------------------------------------------------------------


def collect(sa: IkeSa, inbound: Inbound) -> Inbound | None:
    """Take a fragment of the message that we expect; the whole of it when this was the last one missing.

    Ignored when the fragment changes nothing, IntegrityError when it is not authentic, ReassemblyOverflow when it is
    one too many. RFC 7383 section 2.6.
    """
    sealed, channel, state = inbound.message.encrypted, sa.channel, sa.fragmentation
    if not isinstance(sealed, EncryptedFragment) or channel is None or not state.negotiated:
        raise Ignored("a fragment, which was not negotiated")
    header = inbound.message.header
    queues = state.responses if header.is_response else state.requests
    queue = queues.get(header.message_id)
    _check_fragment(sealed, inbound, queue, sa.limits)
    try:
        content = channel.open_fragment(inbound.data, sealed)  # rfc7383-s2.6-03
    except InvalidSyntax as error:
        raise Ignored(f"fragment {sealed.fragment_number}: {error}") from error
    # rfc7383-s2.6-04, rfc7383-s2.6-06
    if queue is None or sealed.total_fragments > queue.total:
        expires_at = inbound.now + sa.connection.retransmission.total_s
        queue = Reassembly(header.message_id, header.exchange_type, sealed.total_fragments, expires_at)
    _store(queue, sealed, content, inbound, sa.connection)
    overflow = queue.octets > sa.limits.reassembly_octets
    complete = len(queue.contents) == queue.total
    if complete or overflow:
        queues.pop(header.message_id, None)
    else:
        queues[header.message_id] = queue
    if overflow:  # rfc7383-s5-01
        raise ReassemblyOverflow(f"the fragments of a message exceed {sa.limits.reassembly_octets} octets")
    return _whole(queue, inbound) if complete else None


def _check_fragment(sealed: EncryptedFragment, inbound: Inbound, queue: Reassembly | None, limits: Limits) -> None:
    """What is discarded in silence, before the ICV is looked at. RFC 7383 sections 2.6 and 5."""
    number, total = sealed.fragment_number, sealed.total_fragments
    if total > limits.reassembly_fragments:
        raise Ignored(f"fragment {number} of {total}, which are too many")
    if number > 1 and inbound.message.clear_payloads:
        raise Ignored(f"fragment {number} has unprotected payloads")  # section 2.5.3
    if queue is None:
        return
    if inbound.message.header.exchange_type != queue.exchange:
        raise Ignored(f"a fragment of {inbound.message.header.exchange_type} among those of {queue.exchange}")
    # rfc7383-s2.6-01
    if total < queue.total:
        raise Ignored(f"fragment {number} of {total} when there are fragments of {queue.total}")
    if total == queue.total and number in queue.contents:
        # rfc7383-s2.6-02, rfc7383-s2.6.1-01
        raise Ignored(f"fragment {number} of {total} is here already")


def _store(
    queue: Reassembly, sealed: EncryptedFragment, content: bytes, inbound: Inbound, connection: ConnectionConfig
) -> None:
    queue.contents[sealed.fragment_number] = content
    queue.octets += len(content)
    queue.largest = max(queue.largest, datagram_octets(len(inbound.data), inbound.local, connection))
    if sealed.fragment_number == 1:
        queue.first_message, queue.first_data = inbound.message, inbound.data


def _whole(queue: Reassembly, last: Inbound) -> Inbound:
    """The message as if it had come in one piece with its last fragment: `data` is that of fragment 1."""
    first = queue.first_message
    sealed = first.encrypted if first is not None else None
    if first is None or sealed is None:
        raise Ignored("there is no first fragment")
    message = Message(first.header, (*first.clear_payloads, Encrypted(sealed.first_payload, b"")))
    content = b"".join(queue.contents[number] for number in range(1, queue.total + 1))
    return replace(last, message=message, data=queue.first_data, content=content, fragment_octets=queue.largest)


def repeated(sa: IkeSa, inbound: Inbound) -> Response | None:
    """The response when this is an authentic first fragment of a request that was answered, cut anew.

    Any other fragment of it is ignored. RFC 7383 section 2.6.1.
    """
    sealed, kept = inbound.message.encrypted, sa.responses.kept.get(inbound.message.header.message_id)
    if (
        not isinstance(sealed, EncryptedFragment)
        or kept is None
        or sealed.fragment_number != 1  # rfc7383-s2.6.1-02, rfc7383-s2.6.1-03
        or sa.channel is None
        or not sa.fragmentation.negotiated
    ):
        return None
    sa.channel.open_fragment(inbound.data, sealed)
    return kept
