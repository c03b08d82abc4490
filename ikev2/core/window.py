"""Message ids, retransmission and the cache of responses: the two windows of an IKE SA, ours and the peer's.

The rules, before the code:

- Each end says how many requests of the other it keeps state for (SET_WINDOW_SIZE); until it does, that is one. What
  it has said is never taken back, and counts for this IKE SA only: one that comes of rekeying begins with one again.
- We send request X only when all requests up to X - N are answered, where N is what the peer has said.
- We take each request within our window once, in whatever order they come, and keep its response until a later
  request shows that the peer has got it. What lies outside of the window is ignored.

RFC 7296 sections 2.1, 2.2 and 2.3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ikev2.core.channel import Plain
from ikev2.core.config import Retransmission
from ikev2.crypto.entropy import Entropy
from ikev2.iana import ExchangeType

MESSAGE_ID_LIMIT = 0xFFFF_FFF0
"""From here on the IKE SA is closed: message ids do not wrap (rfc7296-s2.2-02)."""


@dataclass(slots=True)
class RequestInFlight:
    """An outstanding request of ours, kept until its response comes (rfc7296-s2.1-03, rfc7296-s2.3-06).

    `data` are its messages: one, or its fragments. With `plain` they can be cut smaller; `probe_size` is the size of
    IP datagram to which that was done, 0 before.
    """

    exchange: ExchangeType
    message_id: int
    data: tuple[bytes, ...]
    purpose: object
    sent: int
    again_at: float
    plain: Plain | None = None
    probe_size: int = 0


@dataclass(slots=True)
class Requests:
    """Our requests. `window` is what the peer has said, `outstanding` are those without a response, the oldest first.

    RFC 7296 section 2.3.
    """

    policy: Retransmission
    entropy: Entropy
    next_id: int = 0
    window: int = 1
    outstanding: dict[int, RequestInFlight] = field(default_factory=dict)

    @property
    def in_flight(self) -> RequestInFlight | None:
        """The oldest request without a response, None when all are answered."""
        return next(iter(self.outstanding.values()), None)

    @property
    def has_room(self) -> bool:
        """True when the window lets one more request go."""
        oldest = self.in_flight
        # rfc7296-s2.3-02, rfc7296-s2.3-04, rfc7296-s2.3-05: all up to next_id - window have their responses.
        return oldest is None or self.next_id - oldest.message_id < self.window

    def widen(self, window: int) -> None:
        """The peer has said SET_WINDOW_SIZE; there is no way to make a window smaller."""
        self.window = max(self.window, window)

    def start(
        self,
        exchange: ExchangeType,
        data: tuple[bytes, ...],
        purpose: object,
        now: float,
        plain: Plain | None = None,
    ) -> None:
        """Note a request that goes out now under `next_id`."""
        first = now + self._delay(1)
        self.outstanding[self.next_id] = RequestInFlight(exchange, self.next_id, data, purpose, 1, first, plain)
        self.next_id += 1

    def start_over(self, exchange: ExchangeType, data: tuple[bytes, ...], purpose: object, now: float) -> None:
        """The very first request goes out, or goes out anew with what the responder wants: its id is 0. Section 2.2."""
        self.outstanding.clear()
        self.next_id = 0
        self.start(exchange, data, purpose, now)

    def restart(self, request: RequestInFlight, data: tuple[bytes, ...], probe_size: int, now: float) -> None:
        """The same request goes out now in smaller fragments: its timer starts over (rfc7383-s2.5.2-03)."""
        request.data, request.probe_size = data, probe_size
        request.sent, request.again_at = 1, now + self._delay(1)  # rfc7383-s2.5.2-03

    def answered(self, message_id: int) -> object:
        """The response has come: what the request was for."""
        return self.outstanding.pop(message_id).purpose

    def due(self, request: RequestInFlight, tries: int, now: float) -> tuple[bytes, ...] | None:
        """The octets to send again, the very same (rfc7296-s2.1-07); None when the tries are used up."""
        if request.sent > tries:
            return None
        request.sent += 1
        request.again_at = now + self._delay(request.sent)
        return request.data  # rfc7296-s2.1-03, rfc7296-s2.3-06

    def next_timer(self) -> float | None:
        """When the next request is to be sent again."""
        if not self.outstanding:
            return None
        return min(request.again_at for request in self.outstanding.values())

    def late(self, now: float) -> list[RequestInFlight]:
        """The requests that are to be sent again by now, the oldest first."""
        return [request for request in self.outstanding.values() if request.again_at <= now]

    def _delay(self, sent: int) -> float:
        delay = self.policy.delay_s(sent)
        if self.policy.jitter:
            share = int.from_bytes(self.entropy.octets(4), "big") / 2**32
            delay *= 1 - self.policy.jitter * share
        return delay


@dataclass(slots=True)
class Response:
    """The response to a request of the peer, to be sent again when that comes again.

    `data` are its messages: one, or its fragments. With `plain` they can be cut smaller; `repeated` counts how
    often the request came again since it went out in this form.
    """

    digest: bytes = field(repr=False)
    data: tuple[bytes, ...]
    plain: Plain | None = None
    repeated: int = 0


@dataclass(slots=True)
class Responses:
    """The peer's requests. `window` is what we have said, `expected_id` the lowest id that has not come yet.

    `kept` are the responses by message id, never more than the window. RFC 7296 sections 2.1 and 2.3.
    """

    expected_id: int = 0
    window: int = 1
    kept: dict[int, Response] = field(default_factory=dict)
    _ahead: set[int] = field(default_factory=set)

    @property
    def response(self) -> tuple[bytes, ...]:
        """The messages of the response to the latest request."""
        return self.kept[max(self.kept)].data if self.kept else ()

    def is_new(self, message_id: int) -> bool:
        """True for a request within the window that has not been answered."""
        return self.expected_id <= message_id < self.expected_id + self.window and message_id not in self._ahead

    def is_beyond(self, message_id: int) -> bool:
        """True for a request that the peer may not send yet."""
        return message_id >= self.expected_id + self.window

    def is_latest(self, message_id: int) -> bool:
        """True unless a request that was sent after this one has come already."""
        return not self._ahead or message_id > max(self._ahead)

    def repeated(self, message_id: int, data: bytes) -> Response | None:
        """The response when this is a request again, octet for octet. RFC 7296 section 2.1."""
        found = self.kept.get(message_id)
        # rfc7296-s2.1-04, rfc7296-s2.3-07
        return found if found is not None and request_digest(data) == found.digest else None

    def remember(
        self, message_id: int, request: bytes, response: tuple[bytes, ...], plain: Plain | None = None
    ) -> None:
        """A new request is answered: keep that, and forget what the peer must have got.

        It has the response to request n when it sends n + window, or one after that.
        """
        self.kept[message_id] = Response(request_digest(request), response, plain)
        self._ahead.add(message_id)
        while self.expected_id in self._ahead:
            self._ahead.remove(self.expected_id)
            self.expected_id += 1
        gone = max(self.kept) - self.window
        for old in [old for old in self.kept if old <= gone]:
            del self.kept[old]  # rfc7296-s2.1-04, rfc7296-s2.3-07

    def declare(self, window: int) -> None:
        """From now on the peer may know that we keep state for so many. What came before goes by the window of one."""
        self.kept.clear()
        self.window = window


def request_digest(data: bytes) -> bytes:
    """By which a request is known again: a hash of the whole of it. RFC 7296 section 2.1."""
    return hashlib.blake2s(data, digest_size=16).digest()
