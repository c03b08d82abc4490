"""A public value that is none of its group: in IKE_SA_INIT it is dropped, later it ends the IKE SA.

HDR(A,0), SAi1, KEi(bad), Ni  -->                                 HDR, SK {SA, Ni, KEi(bad), ...}  -->
         <--  HDR(A,0), N(INVALID_SYNTAX)                                  <--  HDR, SK {N(INVALID_SYNTAX)}

RFC 6989 section 2.5, RFC 7296 section 2.21.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from sim.craft import give, last_sent, notify_types, opened, parse, sealed
from sim.network import (
    Host,
    Network,
    assert_joined,
    assert_nothing_left,
    child_config,
    connected,
    pair,
    proposals,
)

from ikev2.core.events import IkeSaDeleted, IkeSaEstablished
from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.suites import parse_esp_proposal
from ikev2.iana import ExchangeType, NotifyType, ProtocolId
from ikev2.wire.message import Message
from ikev2.wire.payloads import Delete, Ke, Payload

INIT, CREATE, INFO = ExchangeType.IKE_SA_INIT, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
GROUPS = ("modp2048", "ecp256", "ecp384", "ecp521", "ecp224bp", "ecp256bp", "ecp384bp", "ecp512bp", "curve25519")
EVERY = pytest.mark.parametrize("group", GROUPS)


def spoiled(payloads: Iterable[Payload]) -> tuple[Payload, ...]:
    """The payloads with a public value of zeros: below 1 < r, not on any of the curves, of small order."""
    return tuple(Ke(each.group, bytes(len(each.data))) if isinstance(each, Ke) else each for each in payloads)


def lab(group: str) -> dict[str, dict[str, object]]:
    """Both ends use this group for the IKE SA, and for Child SAs that are not made by IKE_AUTH."""
    child = child_config(esp_proposals=(parse_esp_proposal(f"aes256gcm16-{group}"),))
    ike = proposals(f"aes256gcm16-prfsha256-{group}")
    return {end: {"proposals": ike, "children": (child,)} for end in "ab"}


@pytest.mark.req("rfc6989-s2.5-01", "rfc6989-s2.5-02")
# That a point of curve25519 is of small order only the exchange shows, which waits for IKE_AUTH.
@pytest.mark.parametrize("group", GROUPS[:-1])
def test_request_with_a_bad_public_value_leaves_nothing_and_the_next_one_is_served(group: str) -> None:
    network, a, b = pair(**lab(group))
    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    message = parse(datagram)
    give(network, b, Message(message.header, spoiled(message.payloads)).encode(), a.address)
    assert notify_types(parse(last_sent(network)).payloads) == [NotifyType.INVALID_SYNTAX]
    assert b.manager.remembered == 0
    give(network, b, datagram.data, a.address)
    network.run()
    assert_joined(a, b)


@pytest.mark.req("rfc6989-s2.5-01", "rfc6989-s2.5-02")
@EVERY
def test_response_with_a_bad_public_value_is_dropped_and_the_genuine_one_taken(group: str) -> None:
    network, a, b = pair(**lab(group))
    a.manager.initiate("lab", None, a.address, 0.0)
    (request,) = a.manager.datagrams_to_send()
    b.manager.receive_datagram(request.data, b.address, a.address, 0.0)
    (response,) = b.manager.datagrams_to_send()
    message = parse(response)
    a.manager.receive_datagram(
        Message(message.header, spoiled(message.payloads)).encode(), a.address, b.address, 0.0
    )
    assert a.manager.datagrams_to_send() == []
    give(network, a, response.data, b.address)
    network.run()
    assert len(a.of(IkeSaEstablished)) == 1
    assert_joined(a, b)


def ready(group: str) -> tuple[Network, Host, Host]:
    network, a, b = connected(**lab(group))
    assert KE_GROUPS[a.sa.need_keys()[0].ke.id].name == group
    return network, a, b


@pytest.mark.req("rfc6989-s2.5-03", "rfc6989-s2.5-04")
@EVERY
@pytest.mark.parametrize("what", ["ike", "child"])
def test_create_child_sa_request_with_a_bad_public_value_ends_the_ike_sa(group: str, what: str) -> None:
    network, a, b = ready(group)
    begin(network, a, what)
    (datagram,) = a.manager.datagrams_to_send()
    assert parse(datagram).header.exchange_type == CREATE
    number = parse(datagram).header.message_id
    request = spoiled(opened(b, datagram))
    assert any(isinstance(each, Ke) for each in request)
    give(network, b, sealed(a, CREATE, request, message_id=number), a.address)
    assert notify_types(opened(a, last_sent(network))) == [NotifyType.INVALID_SYNTAX]
    assert len(b.of(IkeSaDeleted)) == 1
    assert b.manager.sas == []
    network.run()
    assert_nothing_left(a, b)


@pytest.mark.req("rfc6989-s2.5-05")
@EVERY
@pytest.mark.parametrize("what", ["ike", "child"])
def test_create_child_sa_response_with_a_bad_public_value_ends_the_ike_sa(group: str, what: str) -> None:
    """HDR, SK {SA, Ni, KEi, ...} -->; <-- HDR, SK {SA, Nr, KEr(bad), ...}; HDR, SK {D} -->"""
    network, a, b = ready(group)
    old = b.sa
    begin(network, a, what)
    (request,) = a.manager.datagrams_to_send()
    b.manager.receive_datagram(request.data, b.address, a.address, network.now)
    (response,) = b.manager.datagrams_to_send()
    number = parse(response).header.message_id
    answer = spoiled(opened(a, response))
    assert any(isinstance(each, Ke) for each in answer)
    assert old.channel is not None
    give(network, a, old.channel.seal(CREATE, number, answer, is_response=True), b.address)
    delete = last_sent(network)
    assert parse(delete).header.exchange_type == INFO
    (payload,) = old.channel.open(delete.data, parse(delete))
    assert isinstance(payload, Delete)
    assert payload.protocol == ProtocolId.IKE
    network.run()
    assert a.manager.sas == []
    assert b.manager.find(old.spi_i, old.spi_r) is None


def begin(network: Network, host: Host, what: str) -> None:
    if what == "ike":
        host.manager.rekey(host.sa, network.now)
    else:
        (child,) = host.installed.values()
        host.manager.rekey_child(child, network.now)
