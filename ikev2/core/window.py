"""Message ids, retransmission and the cache of the last response, with a window of one.

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
    """Our one outstanding request, kept until its response comes (rfc7296-s2.1-03).

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
    """Our side of the window: at most one request in flight. RFC 7296 section 2.3."""

    policy: Retransmission
    entropy: Entropy
    next_id: int = 0
    in_flight: RequestInFlight | None = None

    def start(
        self,
        exchange: ExchangeType,
        data: tuple[bytes, ...],
        purpose: object,
        now: float,
        plain: Plain | None = None,
    ) -> None:
        """Note a request that goes out now under `next_id`."""
        self.in_flight = RequestInFlight(exchange, self.next_id, data, purpose, 1, now + self._delay(1), plain)

    def restart(self, data: tuple[bytes, ...], probe_size: int, now: float) -> None:
        """The same request goes out now in smaller fragments: the timers start over (rfc7383-s2.5.2-03)."""
        request = self.in_flight
        assert request is not None  # noqa: S101  # our own order of calls
        request.data, request.probe_size = data, probe_size
        request.sent, request.again_at = 1, now + self._delay(1)

    def answered(self) -> object:
        """The response has come: what the request was for."""
        assert self.in_flight is not None  # noqa: S101  # our own order of calls
        purpose = self.in_flight.purpose
        self.in_flight = None
        self.next_id += 1
        return purpose

    def due(self, now: float, tries: int) -> tuple[bytes, ...] | None:
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
    """The peer's side of the window: the id we expect, and the last request with its response.

    `response` are its messages: one, or its fragments. With `plain` they can be cut smaller; `repeated` counts how
    often the request came again since it went out in this form.
    """

    expected_id: int = 0
    response: tuple[bytes, ...] = ()
    plain: Plain | None = None
    repeated: int = 0
    _digest: bytes = field(default=b"", repr=False)

    def repeats(self, message_id: int, data: bytes) -> bool:
        """True when this is the last request again, octet for octet. RFC 7296 section 2.1."""
        return message_id + 1 == self.expected_id and bool(self._digest) and request_digest(data) == self._digest

    def remember(self, request: bytes, response: tuple[bytes, ...], plain: Plain | None = None) -> None:
        """The request under `expected_id` is answered (rfc7296-s2.1-04, rfc7296-s2.3-07)."""
        self._digest = request_digest(request)
        self.response, self.plain, self.repeated = response, plain, 0
        self.expected_id += 1


def request_digest(data: bytes) -> bytes:
    """By which a request is known again: a hash of the whole of it. RFC 7296 section 2.1."""
    return hashlib.blake2s(data, digest_size=16).digest()
