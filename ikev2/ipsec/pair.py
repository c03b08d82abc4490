"""An installed Child SA with both of its halves: what the packet path wants at hand of it.

RFC 4301 sections 4.1 and 4.4.2, RFC 4303.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ikev2.core.child_sa import NO_LIMITS, ChildCounters, ChildSaParameters, DfBit
from ikev2.core.types import Mode
from ikev2.crypto.esp import EspCipher, esp_cipher
from ikev2.iana import IntegId
from ikev2.ipsec import ip, ipv6
from ikev2.ipsec.esp import (
    InboundEspSa,
    MeteredInboundEspSa,
    MeteredOutboundEspSa,
    OutboundEspSa,
    inner_octets_that_fit,
)
from ikev2.ipsec.ipv4 import HEADER_OCTETS
from ikev2.ipsec.spd import Policy

UDP_HEADER_OCTETS = 8
ECN_MASK = 0x03
_ETHERNET_MTU = 1500


@dataclass(slots=True, eq=False)
class Pair:
    """An installed Child SA with both of its halves, and what the packet path wants at hand."""

    child: ChildSaParameters
    policy: Policy
    outbound: OutboundEspSa
    inbound: InboundEspSa
    tunnel: bool
    local: bytes
    remote: bytes
    # Addresses that the transport checksum of an arriving packet was made over, and those it has here.
    checksum_old: bytes
    checksum_new: bytes
    accepted: set[bytes] = field(default_factory=set)
    heads: dict[int, bytes] = field(default_factory=dict)
    """For who sends the packets: the headers that stood before some, by their shape."""
    most: int = 0
    """The longest payload of ESP that the path takes in one piece, as far as is known."""
    longest: int = 0
    """The longest packet that the host sends in one piece: what is longer has been put together of fragments."""
    told: set[tuple[bool, bool]] = field(default_factory=set)
    """Which limits of its SAs were told: whether the hard one, whether of the one on which we receive."""
    half_closed: bool = False
    standby: bool = False

    @classmethod
    def of(cls, child: ChildSaParameters) -> Pair:
        """Both SAs of a child, with fresh sequence numbers. Raises IkeError for algorithms that ESP lacks."""
        esn, window = child.suite.esn, child.replay_window
        ciphers = _cipher(child, outbound=True), _cipher(child, outbound=False)
        outbound: OutboundEspSa
        inbound: InboundEspSa
        if child.limits == NO_LIMITS:
            outbound = OutboundEspSa(child.spi_out, ciphers[0], esn=esn)
            inbound = InboundEspSa(child.spi_in, ciphers[1], esn=esn, replay_window=window)
        else:
            outbound = MeteredOutboundEspSa(child.spi_out, ciphers[0], child.limits, esn=esn)
            inbound = MeteredInboundEspSa(child.spi_in, ciphers[1], child.limits, esn=esn, replay_window=window)
        nothing = Policy((), ())
        pair = cls(child, nothing, outbound, inbound, child.mode is Mode.TUNNEL, b"", b"", b"", b"")
        pair.move(child)
        return pair

    def move(self, child: ChildSaParameters) -> None:
        """Take other outer addresses and ports; SAs and counters stay."""
        local, remote = ip.packed(child.local), ip.packed(child.remote)
        self.checksum_old = _original(child.nat_original_remote, remote) + _original(
            child.nat_original_local, local
        )
        self.checksum_new = remote + local
        self.local, self.remote = local, remote
        self.child = child
        self.policy = Policy.of(child)
        self.accepted = set()
        self.heads = {}
        self.limit(self.room(_ETHERNET_MTU))

    def room(self, outer_mtu: int) -> int:
        """The largest payload of ESP whose packet, headers outside included, has at most `outer_mtu` octets."""
        outside = ipv6.HEADER_OCTETS if len(self.remote) == 16 else HEADER_OCTETS
        if self.child.encap is not None:
            outside += UDP_HEADER_OCTETS
        return inner_octets_that_fit(outer_mtu - outside, self.outbound.cipher)

    def limit(self, most: int) -> None:
        """The link takes a payload of so many octets, and the host sends nothing longer."""
        self.longest = most
        self.limit_padding(most)

    def keeps_whole(self, packet: bytes) -> bool:
        """Whether a packet inside is to go whole or not at all: not what is of IPv6 and came in fragments."""
        return ip.must_not_be_cut(packet) and (packet[0] >> 4 == 4 or len(packet) <= self.longest)

    def limit_padding(self, most: int) -> None:
        """TFC padding as the child wants it, but never so much that the payload passes `most` octets.

        In tunnel mode only, where the packet inside says how long it is. RFC 4303 section 2.7.
        """
        self.most = most
        self.outbound.pad_to = max(0, min(self.child.tfc_padding, most)) if self.tunnel else 0

    def outer_tos(self, inner: int) -> int:
        """DS and ECN outside a tunnel, by those inside. RFC 4301 section 5.1.2, RFC 6040 section 4.1."""
        dscp = self.child.header.dscp
        return inner if dscp is None else dscp << 2 | inner & ECN_MASK

    def outer_df(self, *, inner: bool) -> bool:
        """Don't Fragment outside a tunnel over IPv4, by that inside, which every packet of IPv6 has.

        RFC 4301 sections 8.1 and 8.2.1.
        """
        df = self.child.header.df
        return inner if df is DfBit.COPY else df is DfBit.SET

    def sends_about(self, packet: bytes) -> bool:
        """Whether an ICMP error of ours, that no policy means, is about a packet that this pair may have brought.

        Transport mode carries what is between its own addresses only. RFC 4301 section 6.2.
        """
        about = ip.flow_in_error(packet)
        if about is None or not self.policy.accepts(about):
            return False
        return self.tunnel or ip.ends(packet) == self.local + self.remote

    def takes_about(self, packet: bytes) -> bool:
        """Whether an ICMP error that came on this pair, against its selectors, is about a packet that it may have sent.

        RFC 4301 section 6.2.
        """
        about = ip.flow_in_error(packet)
        return about is not None and self.policy.protects(about)

    def counters(self) -> ChildCounters:
        """A snapshot."""
        # Each counter is copied in one step, because the packet path may be adding a name to it on its thread.
        errors: dict[str, int] = {}
        if self.inbound.errors or self.outbound.errors:
            errors = Counter(dict(self.inbound.errors)) + Counter(dict(self.outbound.errors))
        return ChildCounters(
            self.inbound.packets,
            self.inbound.octets,
            self.outbound.packets,
            self.outbound.octets,
            dict(errors),
        )


def _original(address: str | None, otherwise: bytes) -> bytes:
    return ip.packed(address) if address else otherwise


def _cipher(child: ChildSaParameters, *, outbound: bool) -> EspCipher:
    suite = child.suite
    key = child.encr_key_out if outbound else child.encr_key_in
    integ_key = child.integ_key_out if outbound else child.integ_key_in
    return esp_cipher(
        suite.encr.id,
        key.octets,
        suite.integ.id if suite.integ is not None else IntegId.NONE,
        integ_key.octets if integ_key is not None else b"",
        esn=suite.esn,
    )
