"""How an end proves who it is: one Authenticator per method, the seam for certificates and EAP.

RFC 7296 section 2.15.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from ikev2.core.config import ConnectionConfig
from ikev2.core.identity import Identity
from ikev2.crypto.keymat import psk_auth
from ikev2.crypto.prf import Prf
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import AuthenticationFailed
from ikev2.iana import AuthMethod
from ikev2.wire.payloads import Auth


class Authenticator(Protocol):
    """Makes our AUTH payload and verifies the peer's over the octets of RFC 7296 section 2.15."""

    @property
    def keyword(self) -> str:
        """The configuration's word for it: "psk"."""
        ...

    def prove(self, signed_octets: bytes) -> Auth:
        """Our AUTH payload."""
        ...

    def verify(self, auth: Auth, signed_octets: bytes) -> None:
        """Return when the peer's AUTH payload is right, else raise AuthenticationFailed."""
        ...


class PskAuthenticator:
    """AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>). RFC 7296 section 2.15."""

    keyword = "psk"

    def __init__(self, prf: Prf, psk: SecretOctets) -> None:
        self._prf = prf
        self._psk = psk

    def prove(self, signed_octets: bytes) -> Auth:
        """Our AUTH payload."""
        return Auth(AuthMethod.SHARED_KEY_MIC, psk_auth(self._prf, self._psk.octets, signed_octets))

    def verify(self, auth: Auth, signed_octets: bytes) -> None:
        """Raise AuthenticationFailed unless the MAC is the one that our shared secret gives."""
        if auth.method != AuthMethod.SHARED_KEY_MIC:
            raise AuthenticationFailed(f"the peer authenticates by {auth.method}, we want a shared key")
        wanted = psk_auth(self._prf, self._psk.octets, signed_octets)
        if not hmac.compare_digest(auth.data, wanted):  # rfc7296-s1.2-02
            raise AuthenticationFailed("the MAC in the AUTH payload is wrong: the pre-shared keys differ")


def authenticator_for(connection: ConnectionConfig, prf: Prf, local: Identity, peer: Identity) -> Authenticator:
    """The method that this connection is configured for; AuthenticationFailed without a secret for the two."""
    psk = connection.psk_for(local, peer)
    if psk is None:
        raise AuthenticationFailed(f"there is no shared key for {local} and {peer}")
    return PskAuthenticator(prf, psk)
