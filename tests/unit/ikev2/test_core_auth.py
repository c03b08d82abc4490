"""How an end proves who it is is the connection's choice for each end, and a method is a row of a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ikev2 import Peer, Recorder, connection, events, roundtrip
from ikev2.core import auth
from ikev2.core.config import ConnectionConfig
from ikev2.core.exchange import Inbound
from ikev2.crypto.prf import Prf
from ikev2.errors import AuthenticationFailed, LocalProtocolError
from ikev2.iana import AuthMethod, CertEncoding
from ikev2.registration import Clash
from ikev2.wire.payloads import Auth, Cert, Payload

A, B = "192.0.2.1", "192.0.2.2"


class Token:
    """A made-up method with a payload beside AUTH, as certificates have: prf(token, octets), the token in CERT."""

    def __init__(self, prf: Prf, name: bytes) -> None:
        self._prf, self._name = prf, name

    @classmethod
    def of(cls, config: ConnectionConfig, prf: Prf, local: Any, peer: Any) -> Token:
        return cls(prf, b"a token")

    def prove(self, signed_octets: bytes) -> tuple[Payload, ...]:
        tag = self._prf(self._name, signed_octets)
        return Cert(CertEncoding(201), self._name), Auth(AuthMethod(201), tag)

    def verify(self, inbound: Inbound, signed_octets: bytes) -> None:
        proof, shown = inbound.required(Auth), inbound.required(Cert)
        if proof.method != 201 or proof.data != self._prf(shown.data, signed_octets):
            raise AuthenticationFailed("the token is wrong")


def ends(ours: tuple[str, str], theirs: tuple[str, str]) -> tuple[Peer, Peer, Recorder]:
    recorder = Recorder()
    a, b = (connection(psk="of both", local_addrs=local, remote_addrs=remote) for local, remote in ((A, B), (B, A)))
    a = replace(a, local_auth=ours[0], remote_auth=ours[1])
    b = replace(b, local_auth=theirs[0], remote_auth=theirs[1])
    return Peer(a, recorder=recorder), Peer(b), recorder


@pytest.mark.parametrize(("initiator", "responder"), [("token", "psk"), ("psk", "token"), ("token", "token")])
def test_each_end_has_a_method_of_its_own(initiator: str, responder: str) -> None:
    with auth.register("token", Token.of):
        a, b, recorder = ends((initiator, responder), (responder, initiator))
        a.initiate()
        roundtrip(a, b)
        shown = a.event(events.IkeSaEstablished).ike_sa.auth
        assert shown == (initiator if initiator == responder else f"{initiator}/{responder}")
        assert b.event(events.IkeSaEstablished)
        for message, how in zip(recorder.messages[2:], (initiator, responder), strict=True):
            assert any(isinstance(payload, Cert) for payload in message.payloads) is (how == "token")


def test_a_peer_that_uses_another_method_than_it_should_is_refused() -> None:
    with auth.register("token", Token.of):
        a, b, recorder = ends(("token", "psk"), ("psk", "psk"))
        a.initiate()
        roundtrip(a, b)
    assert recorder.summaries[-1] == "IKE_AUTH response 1 [ N(AUTH_FAILED) ]"
    assert a.event(events.IkeSaFailed)


def test_a_method_that_is_not_there_is_said_and_one_that_is_stays() -> None:
    a, b, _ = ends(("token", "psk"), ("psk", "token"))
    a.initiate()
    roundtrip(a, b)
    assert "there is no authentication method 'token'" in a.event(events.IkeSaFailed).reason
    with pytest.raises(LocalProtocolError, match="no authentication method 'x'"):
        auth._method("x")
    with pytest.raises(Clash):
        auth.register("psk", Token.of)
