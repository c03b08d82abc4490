"""A peer that holds the keys and chooses its SPIs so that two IKE SAs would have the same two.

RFC 7296 section 2.6.
"""

from __future__ import annotations

from sim.craft import clear, give, last_sent, opened, sealed
from sim.network import IKE_PROPOSAL, SeededEntropy, connected

from ikev2.core.events import IkeSaRekeyFailed
from ikev2.core.state import State
from ikev2.core.types import Role
from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.suites import numbered, parse_ike_proposal
from ikev2.iana import ExchangeType, KeId
from ikev2.wire.message import Message
from ikev2.wire.payloads import Ke, Nonce, Payload, Sa


def wish(spi: bytes) -> tuple[Payload, ...]:
    """SA, N and KE for a new IKE SA with this SPI of the sender."""
    pair = KE_GROUPS[KeId.CURVE25519].generate(SeededEntropy(3))
    return (
        Sa(numbered([parse_ike_proposal(IKE_PROPOSAL)], spi)),
        Nonce(bytes(32)),
        Ke(KeId.CURVE25519, pair.public),
    )


def test_two_rekeyings_with_the_spis_of_each_other_do_not_make_two_ike_sas_of_one_name() -> None:
    """HDR, SK {SA(Y), ..} --> <-- HDR, SK {SA(Y), ..}; HDR, SK {SA(Z), ..} --> <-- HDR, SK {SA(Z), ..}"""
    network, a, b = connected()
    old = b.sa
    b.manager.rekey(old, network.now)
    network.flush(b)
    offered = next(payload for payload in opened(a, last_sent(network)) if isinstance(payload, Sa))
    give(network, b, sealed(a, ExchangeType.CREATE_CHILD_SA, wish(offered.proposals[0].spi)), a.address)
    answer = a.sa.channel.open(last_sent(network).data, Message.parse(last_sent(network).data))
    given = next(payload for payload in answer if isinstance(payload, Sa))
    number = old.requests.next_id - 1
    response = wish(given.proposals[0].spi)
    give(
        network,
        b,
        sealed(a, ExchangeType.CREATE_CHILD_SA, response, message_id=number, is_response=True),
        a.address,
    )
    assert len(b.of(IkeSaRekeyFailed)) == 1
    names = [(sa.spi_i, sa.spi_r) for sa in b.manager.sas]
    assert len(set(names)) == len(names)
    assert all(b.manager.find(*name) is sa for name, sa in zip(names, b.manager.sas, strict=True))
    assert b.manager.internal_errors == 0


def test_a_responder_does_not_get_a_new_ike_sa_the_name_of_an_old_one() -> None:
    """The initiator's SPI is that of an SA which the peer has begun by rekeying another, and so is the responder's."""
    network, a, b = connected()
    begun = b.manager.initiate("lab", a.address, b.address, network.now)
    give(network, b, sealed(a, ExchangeType.CREATE_CHILD_SA, wish(begun.spi_i)), a.address)
    (other,) = (sa for sa in b.manager.sas if sa.role is Role.RESPONDER and sa.spi_i == begun.spi_i)
    payloads = wish(b"")
    spis = {"spi_i": begun.spi_i, "is_initiator": False, "is_response": True}
    give(network, b, clear(ExchangeType.IKE_SA_INIT, payloads, spi_r=other.spi_r, **spis), a.address)  # type: ignore[arg-type]
    assert begun.state is State.INIT_SENT
    assert b.manager.find(other.spi_i, other.spi_r) is other
    give(network, b, clear(ExchangeType.IKE_SA_INIT, payloads, spi_r=bytes(7) + b"\1", **spis), a.address)  # type: ignore[arg-type]
    assert begun.state is State.AUTH_SENT
