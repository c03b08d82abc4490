"""What comes for no SA of ours, and from whom: the peer is told over an IKE SA with it, or asked whether it lives.

    ESP under an SPI that is not ours   INVALID_SPI, over an IKE SA with that address, else unprotected
    a request beyond our window         INVALID_MESSAGE_ID, over its IKE SA
    a request of an unknown IKE SA      INVALID_IKE_SPI, over an IKE SA with that address, and unprotected
    ESP against its SA's selectors      INVALID_SELECTORS, over the IKE SA of the Child SA, where that is wanted
    an unprotected INVALID_SPI          a hint: the IKE SAs with that address are asked whether their peers live

Nothing here changes the state of an SA, and all of it is limited in rate: each of these messages may be forged.

RFC 7296 sections 1.5, 2.3, 2.21.4 and 3.10.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core.exchange import Report
from ikev2.core.exchanges.ike_sa_init import ZERO_SPI
from ikev2.core.state import State
from ikev2.core.types import Address
from ikev2.errors import ProtocolError
from ikev2.iana import ExchangeType, NotifyType, ProtocolId
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Notify

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa
    from ikev2.core.sa_table import SaTable

REPORT_INTERVAL_S = 10.0
"""How often a peer is told of a suspicious message over its IKE SA."""
HINT_INTERVAL_S = 10.0
"""How long an authentic message proves that the peer lives, and how often an unprotected hint is acted on."""
IN_FLIGHT_S = 60.0
"""How long packets may still come for a Child SA that is gone: no reason to tell anybody."""
QUOTED_OCTETS = 68
"""Of an offending packet: the longest header of IPv4 and eight octets, as ICMP quotes it. RFC 792."""
_MOST_RETIRED = 1024


class RetiredSpis:
    """The SPIs of Child SAs that were ours a moment ago."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def add(self, spi: int, now: float) -> None:
        """A Child SA is gone; of too many the oldest are forgotten."""
        self._until[spi] = now + IN_FLIGHT_S
        while len(self._until) > _MOST_RETIRED:
            del self._until[next(iter(self._until))]

    def holds(self, spi: int, now: float) -> bool:
        """True while packets for it may be on their way."""
        return self._until.get(spi, now) > now


def partner(table: SaTable, remote: Address, *, in_udp: bool) -> IkeSa | None:
    """The newest established IKE SA with this address, and with this port where NAT traversal is used.

    Whoever forges what comes for no SA makes us look for one: that must not take longer the more SAs there are.
    """
    for sa in table.at_host(remote.host):
        if not sa.nat.between or (in_udp and sa.remote.port == remote.port):
            return sa
    return None


def may_report(sa: IkeSa, now: float) -> bool:
    """True when the peer has been told nothing for a while."""
    return sa.state is State.ESTABLISHED and now - sa.last_report_at >= REPORT_INTERVAL_S


def report(sa: IkeSa, notify: Notify, now: float) -> bool:
    """Tell the peer in an INFORMATIONAL exchange, not too often; False when it is told nothing now."""
    if not may_report(sa, now):
        return False
    sa.last_report_at = now
    sa.queue(Report(notify))
    sa.resume(now)
    return True


def hint(sa: IkeSa, now: float) -> None:
    """Somebody says that the peer has forgotten us: ask it, when it has been silent for a while."""
    # rfc7296-s2.4-05, rfc7296-s2.21.4-07
    if sa.state is State.ESTABLISHED and now - max(sa.last_inbound_at, sa.last_hint_at) >= HINT_INTERVAL_S:
        sa.last_hint_at = now
        sa.check_liveness(now)


def invalid_spi(spi: int) -> Notify:
    """INVALID_SPI: the data is the SPI of the wayward packet. RFC 7296 section 1.5."""
    return Notify(NotifyType.INVALID_SPI, spi.to_bytes(4, "big"))


def invalid_selectors(spi: int, packet: bytes) -> Notify:
    """INVALID_SELECTORS: the SPI of the SA on which a packet came, and the packet's start. RFC 7296 section 3.10.1."""
    return Notify(NotifyType.INVALID_SELECTORS, packet[:QUOTED_OCTETS], ProtocolId.ESP, spi.to_bytes(4, "big"))


def unprotected(notify: Notify) -> bytes:
    """A message outside of any IKE SA, of no exchange: zero SPIs, Initiator flag, a request. RFC 7296 section 1.5."""
    header = Header.to_send(ZERO_SPI, ZERO_SPI, ExchangeType.INFORMATIONAL, 0, is_initiator=True, is_response=False)
    return Message(header, (notify,)).encode()


def is_hint(header: Header, data: bytes) -> bool:
    """True for an unprotected INVALID_SPI, which is never answered (rfc7296-s1.5-01)."""
    if header.exchange_type != ExchangeType.INFORMATIONAL or header.is_response:
        return False
    try:
        payloads = Message.parse(data, header).payloads
    except ProtocolError:
        return False
    return any(isinstance(one, Notify) and one.notify_type == NotifyType.INVALID_SPI for one in payloads)
