"""What is on the wire over a whole life: flags, the order of payloads, nonces; and what is passed over in silence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from sim.craft import give, last_sent, opened, parse, sealed, unknown
from sim.network import PSK, Host, Network, Sent, assert_joined, assert_nothing_left, connected, pair, proposals, up
from sim.test_ike_auth import AUTH_EXCHANGE, half_open, net, tampered

from ikev2.core.config import Identity
from ikev2.core.transitions import State
from ikev2.crypto.secret import SecretOctets
from ikev2.iana import (
    CertEncoding,
    CpAttributeType,
    CpType,
    ExchangeType,
    IdType,
    NotifyType,
    PayloadType,
    ProtocolId,
)
from ikev2.wire.payloads import (
    Auth,
    Cert,
    CertReq,
    Cp,
    CpAttribute,
    IdI,
    IdR,
    Nonce,
    Notify,
    Payload,
    Sa,
    TsI,
    TsR,
    VendorId,
)

__all__ = ["net"]

RESPONSE_FLAG, INITIATOR_FLAG = 0x20, 0x08


def life() -> tuple[list[Sent], Host, Host]:
    """Every message from the first to the last, with requests of both ends."""
    network, a, b = connected()
    for host in (a, b, a):
        host.manager.check_liveness(host.sa, network.now)
        network.run()
    b.manager.delete(b.sa, network.now)
    network.run()
    assert_nothing_left(a, b)
    return network.sent, a, b


@pytest.mark.req("rfc7296-s3.1-12", "rfc7296-s3.1-13", "rfc7296-s3.1-17", "rfc7296-s3.1-18")
def test_flags_of_a_whole_life() -> None:
    """Each request is followed by its response here; the original initiator says so in both."""
    sent, a, _ = life()
    assert len(sent) == 12
    for request, response in zip(sent[::2], sent[1::2], strict=True):
        assert request.sender is not response.sender
        assert not request.datagram.data[19] & RESPONSE_FLAG
        assert response.datagram.data[19] & RESPONSE_FLAG
        assert request.datagram.data[20:24] == response.datagram.data[20:24]
    for one in sent:
        assert bool(one.datagram.data[19] & INITIATOR_FLAG) is (one.sender is a)
        assert one.datagram.data[19] & ~(RESPONSE_FLAG | INITIATOR_FLAG) == 0


@pytest.mark.req("rfc7296-s2.5-14", "rfc7296-s2.19-05")
def test_payloads_come_in_the_order_of_the_figures() -> None:
    network, a, b = connected()
    insides = [parse(sent.datagram).payloads for sent in network.sent[:2]]
    insides += [opened(b, network.sent[2].datagram), opened(a, network.sent[3].datagram)]
    order = [[str(item.payload_type) for item in inside if not isinstance(item, Notify)] for inside in insides]
    first = [str(kind) for kind in (PayloadType.SA, PayloadType.KE, PayloadType.NONCE)]
    child = [Auth.payload_type, Sa.payload_type, TsI.payload_type, TsR.payload_type]
    assert order[:2] == [first, first]
    assert order[2] == [str(kind) for kind in (IdI.payload_type, IdR.payload_type, *child)]
    assert order[3] == [str(kind) for kind in (IdR.payload_type, *child)]


@pytest.mark.req("rfc7296-s2.10-01", "rfc7296-s3.9-02")
def test_nonces_are_large_enough_for_the_largest_prf_and_never_come_again() -> None:
    changes: dict[str, object] = {"proposals": proposals("aes256gcm16-prfsha512-curve25519")}
    network, a, _b = pair(a=changes, b=changes)
    for _ in range(4):
        up(network, a, until=network.now + 5)
    nonces = [
        payload.data
        for sent in network.sent
        for payload in parse(sent.datagram).payloads
        if isinstance(payload, Nonce)
    ]
    assert len(nonces) == len(set(nonces)) == 8
    assert all(len(nonce) >= 64 // 2 for nonce in nonces)
    for one, two in pairwise(nonces):  # not a counter either
        assert sum(x == y for x, y in zip(one, two, strict=True)) < 8


@pytest.mark.req("rfc7296-s2.7-02")
def test_the_answer_to_an_offer_is_of_the_protocol_that_was_offered() -> None:
    network, a, _b = connected()
    init, auth = parse(network.sent[1].datagram).payloads, opened(a, network.sent[3].datagram)
    chosen = [item.proposals[0].protocol for inside in (init, auth) for item in inside if isinstance(item, Sa)]
    assert chosen == [ProtocolId.IKE, ProtocolId.ESP]


@pytest.mark.req("rfc7296-s3.3.6-02")
def test_of_several_proposals_one_is_in_the_answer() -> None:
    several = {"proposals": proposals("aes256gcm16-prfsha384-curve25519", "aes128-sha256-curve25519")}
    network, a, b = pair(a=several, b=several)
    up(network, a)
    assert_joined(a, b)
    (offer,), (answer,) = (
        [item.proposals for item in parse(sent.datagram).payloads if isinstance(item, Sa)]
        for sent in network.sent[:2]
    )
    assert (len(offer), len(answer)) == (2, 1)


IDENTITIES = {
    "192.0.2.77": IdType.ID_IPV4_ADDR,
    "2001:db8::77": IdType.ID_IPV6_ADDR,
    "a.example": IdType.ID_FQDN,
    "carol@a.example": IdType.ID_RFC822_ADDR,
    "keyid:00ff2a": IdType.ID_KEY_ID,
    "keyid:#00ff2a": IdType.ID_KEY_ID,
    "C=CH, O=Example, CN=a.example": IdType.ID_DER_ASN1_DN,
    "asn1gn:#810f6361726f6c40612e6578616d706c65": IdType.ID_DER_ASN1_GN,
}


@pytest.mark.req(
    "rfc7296-s3.5-05", "rfc7296-s3.5-06", "rfc7296-s3.5-07", "rfc7296-s3.5-08", "rfc7296-s4-10b"
)  # fmt: skip
@pytest.mark.parametrize("text", IDENTITIES)
def test_every_type_of_identity_is_sent_and_accepted_with_a_shared_key(text: str) -> None:
    identity = Identity.parse(text)
    network, a, b = pair(a={"local_id": identity}, b={"remote_id": identity})
    up(network, a)
    assert_joined(a, b)
    (id_i,) = (item for item in opened(b, network.sent[2].datagram) if isinstance(item, IdI))
    assert id_i.id_type == IDENTITIES[text]
    assert str(b.sa.peer_id) == text
    other, c, _ = pair(a={"local_id": Identity.parse("somebody.else")}, b={"remote_id": identity})
    up(other, c)
    assert c.manager.sas == []


@pytest.mark.req("rfc7296-s2.15-02")
def test_shared_secret_of_many_octets_is_used_to_its_last_one_and_without_a_terminator() -> None:
    long = bytes(range(33, 127)) * 2
    for theirs, joined in ((long, True), (long[:-1], False), (long + b"\0", False)):
        network, a, _b = pair(a={"psk": SecretOctets("PSK", long)}, b={"psk": SecretOctets("PSK", theirs)})
        up(network, a)
        # HMAC pads its key with zeros up to a block; beyond a block it hashes it: then a terminator shows.
        assert bool(a.manager.sas) is joined
    assert long != PSK


CFG = Cp(
    CpType.CFG_REQUEST,
    (
        CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS),
        CpAttribute(CpAttributeType.APPLICATION_VERSION),
        CpAttribute(CpAttributeType(30000), b"who knows"),
    ),
)


@pytest.mark.req("rfc7296-s3.15.1-06", "rfc7296-s2.20-01")
def test_configuration_request_is_passed_over_with_all_its_attributes() -> None:
    network, a, b, genuine = half_open()
    give(network, b, sealed(a, AUTH_EXCHANGE, (*genuine, CFG), message_id=1), a.address)
    assert b.sa.state is State.ESTABLISHED
    assert len(b.installed) == 1
    answer = opened(a, last_sent(network))
    assert PayloadType.CP not in [item.payload_type for item in answer]
    assert any(isinstance(item, TsI) for item in answer)


@pytest.mark.req("rfc7296-s4-02")
def test_every_type_of_payload_is_read_and_what_is_not_for_us_is_skipped() -> None:
    network, a, b, genuine = half_open()
    certificate = Cert(CertEncoding.X509_SIGNATURE, b"no certificate at all")
    request = CertReq(CertEncoding.X509_SIGNATURE, bytes(20))
    more = (certificate, request, CFG, VendorId(b"somebody"), Notify(NotifyType.MOBIKE_SUPPORTED), unknown(99))
    give(network, b, sealed(a, AUTH_EXCHANGE, (*more, *genuine), message_id=1), a.address)
    assert b.sa.state is State.ESTABLISHED
    assert len(b.installed) == 1


@pytest.mark.req("rfc7296-s3.15.1-06", "rfc7296-s3.15.1-09", "rfc7296-s3.15.1-10", "rfc7296-s2.20-01")
@pytest.mark.parametrize("kind", [CpType.CFG_REQUEST, CpType.CFG_SET])
def test_configuration_in_informational_is_answered_without_one(kind: CpType) -> None:
    network, a, b = connected()
    give(network, b, sealed(a, ExchangeType.INFORMATIONAL, (Cp(kind, CFG.attributes),)), a.address)
    assert opened(a, last_sent(network)) == ()
    assert b.sa.state is State.ESTABLISHED


@pytest.mark.req("rfc7296-s3.12-01", "rfc7296-s3.12-02")
def test_vendor_ids_change_nothing(net: Callable[..., tuple[Network, Host, Host]]) -> None:
    network, a, b = net()
    vendors = (VendorId(b"somebody"), VendorId(b""), VendorId(bytes(255)))

    def with_vendors(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        return (*vendors, *payloads, *vendors)

    tampered(network, a, AUTH_EXCHANGE, with_vendors)
    up(network, a, until=5.0)
    assert_joined(a, b)
    assert len(a.installed) == 1
    give(network, b, sealed(a, ExchangeType.INFORMATIONAL, vendors), a.address)
    assert opened(a, last_sent(network)) == ()
    for sent in network.sent:
        message = parse(sent.datagram)
        assert all(not payload.critical for payload in message.payloads)


@pytest.mark.req("rfc7296-s2.21.4-10")
@pytest.mark.parametrize(
    "notify_type", [NotifyType.INVALID_SPI, NotifyType.INVALID_IKE_SPI, NotifyType.INVALID_MESSAGE_ID]
)
def test_report_of_a_suspicious_message_changes_the_state_of_no_sa(notify_type: NotifyType) -> None:
    network, a, b = connected()
    (child,) = b.installed.values()
    give(
        network,
        b,
        sealed(a, ExchangeType.INFORMATIONAL, (Notify(notify_type, child.spi_out.to_bytes(4, "big")),)),
        a.address,
    )
    assert opened(a, last_sent(network)) == ()
    assert b.sa.state is State.ESTABLISHED
    assert b.installed == {child.spi_in: child}
    network.run(network.now + 60)
    assert b.sa.state is State.ESTABLISHED


@pytest.mark.req("rfc7296-s3.10.1-04")
def test_authentic_request_of_an_exchange_that_nobody_knows_gets_invalid_syntax() -> None:
    network, a, b = connected()
    give(network, b, sealed(a, ExchangeType(240), ()), a.address)
    (notify,) = opened(a, last_sent(network))
    assert isinstance(notify, Notify)
    assert notify.notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.req("rfc7296-s2.21.3-02")
def test_malformed_response_is_no_reason_to_send_an_error() -> None:
    """The states of both ends differ: the IKE SA is deleted, with a Delete payload and without any notify."""
    network, a, b = connected()
    network.link = lambda sent: ()
    a.manager.check_liveness(a.sa, network.now)
    network.flush(a)
    number = a.sa.requests.next_id - 1
    bad = sealed(b, ExchangeType.INFORMATIONAL, (Nonce(bytes(16)),), message_id=number, is_response=True)
    give(network, a, bad, b.address)
    (delete,) = opened(b, last_sent(network))
    assert delete.payload_type == PayloadType.D
