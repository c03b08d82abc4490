"""What strangers get for an answer: cookies, refusals, hints; unprotected, within a rate, and without any state kept.

RFC 7296 sections 1.5, 2.4, 2.5, 2.6 and 2.21.4.
"""

from __future__ import annotations

from ikev2.core.config import Limits
from ikev2.core.cookie import COOKIE_OCTETS, CookieJar
from ikev2.core.exchanges.ike_sa_init import ZERO_SPI, clear_reply
from ikev2.core.halfopen import HalfOpenTable, TokenBucket
from ikev2.core.shapes import KnownShapes
from ikev2.core.types import Address, Datagram
from ikev2.crypto.entropy import Entropy
from ikev2.iana import ExchangeType, NotifyType, PayloadType
from ikev2.wire.header import SPI_OCTETS, Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Nonce, Notify

_FIRST_REQUEST = Header.to_send(
    ZERO_SPI, ZERO_SPI, ExchangeType.IKE_SA_INIT, 0, is_initiator=True, is_response=False
)
_COOKIE_REQUEST = clear_reply(_FIRST_REQUEST, (Notify(NotifyType.COOKIE, bytes(COOKIE_OCTETS)),))[
    SPI_OCTETS:-COOKIE_OCTETS
]
"""The answer that asks for a cookie, between the initiator's SPI and the cookie: always the same octets."""


REFUSALS_PER_S = 10.0
"""When more first requests than these are refused, a cookie is asked for as well: a refusal costs more than that."""

COOKIES_FOR_S = 10.0
"""And for so long, as who gets now this answer and now that one to the same request is confused."""


class Strangers:
    """Those who have proved nothing: how many half-open IKE SAs they have, and what they are told."""

    def __init__(self, entropy: Entropy, limits: Limits) -> None:
        self.half_open = HalfOpenTable(limits)
        self.cookies = CookieJar(entropy, limits.cookie_secret_s)
        self.shapes = KnownShapes()
        self._replies = TokenBucket(limits.unprotected_replies_per_s)
        self._refusals = TokenBucket(REFUSALS_PER_S)
        self._cookies_until = 0.0

    def want_cookies(self, now: float) -> bool:
        """True when there are many half-open IKE SAs, or many requests that are refused and leave none.

        RFC 7296 section 2.6.
        """
        if self._refusals.is_empty(now):
            self._cookies_until = now + COOKIES_FOR_S
        return self.half_open.wants_cookies or now < self._cookies_until

    def reply(self, header: Header, notify: Notify, local: Address, remote: Address, now: float) -> Datagram | None:
        """The answer to a message outside of an IKE SA; None when there were too many already."""
        # rfc7296-s2.4-05, rfc7296-s2.21.4-03
        if not self.may_reply(now):
            return None
        return Datagram(clear_reply(header, (notify,)), local, remote)

    def may_reply(self, now: float) -> bool:
        """Whether one more unprotected message goes out; it counts (rfc7296-s2.4-05)."""
        return self._replies.take(now)

    def may_be_told(self, refusal: Datagram, now: float) -> bool:
        """Whether a refusal goes out: INVALID_KE_PAYLOAD, which helps, always; all others within the rate."""
        notify = Message.parse(refusal.data).payloads[0]
        self._refusals.take(now)
        helps = isinstance(notify, Notify) and notify.notify_type == NotifyType.INVALID_KE_PAYLOAD
        return helps or self._replies.take(now)

    def has_cookie(self, message: Message, remote: Address, now: float) -> bool:
        """True when the request brings a cookie of ours, baked for it."""
        nonce = nonce_of(message)
        return any(  # rfc7296-s2.6-05
            self.cookies.holds(payload.data, nonce, remote.host, message.header.initiator_spi, now)
            for payload in message.payloads
            if isinstance(payload, Notify) and payload.notify_type == NotifyType.COOKIE
        )

    def cookie_request(self, spi_i: bytes, nonce: bytes, local: Address, remote: Address, now: float) -> Datagram:
        """The answer with a cookie; nothing is kept (rfc7296-s2.6-02, rfc7296-s2.6-05)."""
        cookie = self.cookies.bake(nonce, remote.host, spi_i, now)
        return Datagram(spi_i + _COOKIE_REQUEST + cookie, local, remote)


def begins(header: Header) -> bool:
    """True for the header of a request that begins an IKE SA."""
    return (
        header.exchange_type == ExchangeType.IKE_SA_INIT
        and not header.is_response
        and header.is_initiator
        and header.responder_spi == ZERO_SPI
        and header.initiator_spi != ZERO_SPI
        and header.message_id == 0
    )


def deserves_hint(header: Header, data: bytes) -> bool:
    """True for an encrypted request of an IKE SA that is not here: INVALID_IKE_SPI may tell the peer.

    RFC 7296 sections 1.5 and 2.21.4.
    """
    encrypted = header.next_payload in (PayloadType.SK, PayloadType.SKF)
    return encrypted and header.exchange_type != ExchangeType.IKE_SA_INIT and header.length == len(data)


def nonce_of(message: Message) -> bytes:
    """The nonce of a request, no octets when there is none."""
    return next((payload.data for payload in message.payloads if isinstance(payload, Nonce)), b"")
