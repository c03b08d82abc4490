"""How an end proves who it is: one Authenticator per method, chosen by the connection for each end by itself.

    METHODS["psk"](connection, prf, local, peer)    the authenticator of these two identities

The methods of the two ends need not be the same (RFC 7296 section 2.15): `local_auth` says how we prove who we are,
`remote_auth` how the peer has to. A further one, such as signatures, is a row of the table.

RFC 7296 section 2.15.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Protocol

from ikev2.core.config import ConnectionConfig
from ikev2.core.exchange import Inbound
from ikev2.core.identity import Identity
from ikev2.crypto.keymat import psk_auth
from ikev2.crypto.prf import Prf
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import AuthenticationFailed, LocalProtocolError
from ikev2.iana import AuthMethod
from ikev2.registration import Registration, register_row
from ikev2.wire.payloads import Auth, Payload


class Authenticator(Protocol):
    """Proves who we are, and verifies the peer, over the octets of RFC 7296 section 2.15."""

    def prove(self, signed_octets: bytes) -> tuple[Payload, ...]:
        """The payloads of our proof: CERT ones, if the method has them, and AUTH."""
        ...

    def verify(self, inbound: Inbound, signed_octets: bytes) -> None:
        """Return when the message, which has an AUTH payload, proves who the peer is, else AuthenticationFailed."""
        ...


class PskAuthenticator:
    """AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>). RFC 7296 section 2.15."""

    def __init__(self, prf: Prf, psk: SecretOctets) -> None:
        self._prf = prf
        self._psk = psk

    @classmethod
    def of(cls, connection: ConnectionConfig, prf: Prf, local: Identity, peer: Identity) -> PskAuthenticator:
        """The one with the secret of these two; AuthenticationFailed when there is none."""
        psk = connection.psk_for(local, peer)
        if psk is None:
            raise AuthenticationFailed(f"there is no shared key for {local} and {peer}")
        return cls(prf, psk)

    def prove(self, signed_octets: bytes) -> tuple[Payload, ...]:
        """Our AUTH payload."""
        return (Auth(AuthMethod.SHARED_KEY_MIC, psk_auth(self._prf, self._psk.octets, signed_octets)),)

    def verify(self, inbound: Inbound, signed_octets: bytes) -> None:
        """Raise AuthenticationFailed unless the MAC is the one that our shared secret gives."""
        auth = inbound.required(Auth)
        if auth.method != AuthMethod.SHARED_KEY_MIC:
            raise AuthenticationFailed(f"the peer authenticates by {auth.method}, we want a shared key")
        wanted = psk_auth(self._prf, self._psk.octets, signed_octets)
        if not hmac.compare_digest(auth.data, wanted):  # rfc7296-s1.2-02
            raise AuthenticationFailed("the MAC in the AUTH payload is wrong: the pre-shared keys differ")


Method = Callable[[ConnectionConfig, Prf, Identity, Identity], Authenticator]
"""Makes the authenticator of a connection, the SA's prf, our identity and the peer's. Raises AuthenticationFailed."""

METHODS: dict[str, Method] = {"psk": PskAuthenticator.of}
"""The methods by the configuration's word."""


def register(keyword: str, method: Method) -> Registration:
    """Take a further method: the word is for `local_auth` and `remote_auth` of connections. Clash when it is taken."""
    return register_row(METHODS, keyword, method, f"the authentication method {keyword}")


def prover_for(connection: ConnectionConfig, prf: Prf, local: Identity, peer: Identity) -> Authenticator:
    """By what we prove who we are; AuthenticationFailed when we have nothing to do it with."""
    return _method(connection.local_auth)(connection, prf, local, peer)


def verifier_for(connection: ConnectionConfig, prf: Prf, local: Identity, peer: Identity) -> Authenticator:
    """By what the peer has to prove who it is; AuthenticationFailed when we have nothing to tell it by."""
    return _method(connection.remote_auth)(connection, prf, local, peer)


def _method(keyword: str) -> Method:
    try:
        return METHODS[keyword]
    except KeyError:
        raise LocalProtocolError(f"there is no authentication method {keyword!r}") from None
