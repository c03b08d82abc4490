"""Message ids, retransmission and the cache of the last response, with a window of one.

RFC 7296 sections 2.1, 2.2 and 2.3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ikev2.core.config import Retransmission
from ikev2.crypto.entropy import Entropy
from ikev2.iana import ExchangeType

MESSAGE_ID_LIMIT = 0xFFFF_FFF0
"""From here on the IKE SA is closed: message ids do not wrap (rfc7296-s2.2-02)."""


@dataclass(slots=True)
class RequestInFlight:
    """Our one outstanding request, kept until its response comes (rfc7296-s2.1-03)."""

    exchange: ExchangeType
    message_id: int
    data: bytes
    purpose: object
    sent: int
    again_at: float


@dataclass(slots=True)
class Requests:
    """Our side of the window: at most one request in flight. RFC 7296 section 2.3."""

    policy: Retransmission
    entropy: Entropy
    next_id: int = 0
    in_flight: RequestInFlight | None = None

    def start(self, exchange: ExchangeType, data: bytes, purpose: object, now: float) -> None:
        """Note a request that goes out now under `next_id`."""
        self.in_flight = RequestInFlight(exchange, self.next_id, data, purpose, 1, now + self._delay(1))

    def answered(self) -> object:
        """The response has come: what the request was for."""
        assert self.in_flight is not None  # noqa: S101  # our own order of calls
        purpose = self.in_flight.purpose
        self.in_flight = None
        self.next_id += 1
        return purpose

    def due(self, now: float, tries: int) -> bytes | None:
        """The octets to send again, the very same (rfc7296-s2.1-07); None when the tries are used up."""
        request = self.in_flight
        assert request is not None  # noqa: S101  # our own order of calls
        if request.sent > tries:
            return None
        request.sent += 1
        request.again_at = now + self._delay(request.sent)
        return request.data

    def _delay(self, sent: int) -> float:
        delay = self.policy.delay_s(sent)
        if self.policy.jitter:
            share = int.from_bytes(self.entropy.octets(4), "big") / 2**32
            delay *= 1 - self.policy.jitter * share
        return delay


@dataclass(slots=True)
class Responses:
    """The peer's side of the window: the id we expect, and the last request with its response."""

    expected_id: int = 0
    response: bytes = b""
    _digest: bytes = field(default=b"", repr=False)

    def repeats(self, message_id: int, data: bytes) -> bool:
        """True when this is the last request again, octet for octet. RFC 7296 section 2.1."""
        return message_id + 1 == self.expected_id and bool(self._digest) and request_digest(data) == self._digest

    def remember(self, request: bytes, response: bytes) -> None:
        """The request under `expected_id` is answered (rfc7296-s2.1-04, rfc7296-s2.3-07)."""
        self._digest = request_digest(request)
        self.response = response
        self.expected_id += 1


def request_digest(data: bytes) -> bytes:
    """By which a request is known again: a hash of the whole of it. RFC 7296 section 2.1."""
    return hashlib.blake2s(data, digest_size=16).digest()
