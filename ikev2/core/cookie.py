"""Cookies without state: a responder knows its own again from a secret that it changes often.

Cookie = VersionIDofSecret (1 octet) | HMAC-SHA2-256(secret, Ni | IPi | SPIi). The secret before the current one is
still good until the next change. RFC 7296 section 2.6.
"""

from __future__ import annotations

import hmac

from ikev2.crypto.entropy import Entropy

COOKIE_OCTETS = 33
_SECRET_OCTETS = 32


class CookieJar:
    """Makes and checks cookies; changes its secret every `secret_s` seconds of use."""

    def __init__(self, entropy: Entropy, secret_s: float) -> None:
        self._entropy = entropy
        self._secret_s = secret_s
        self._version = 0
        self._secrets: dict[int, bytes] = {}
        self._changed_at = 0.0

    def bake(self, nonce: bytes, host: str, spi_i: bytes, now: float) -> bytes:
        """The cookie (COOKIE_OCTETS) for an initiator at this address."""
        self._rotate(now)
        # rfc7296-s2.6-03: between 1 and 64 octets.
        return bytes([self._version]) + _digest(self._secrets[self._version], nonce, host, spi_i)

    def holds(self, cookie: bytes, nonce: bytes, host: str, spi_i: bytes, now: float) -> bool:
        """True when this cookie is ours, for this initiator, under the current secret or the one before."""
        self._rotate(now)
        secret = self._secrets.get(cookie[0]) if cookie else None
        return secret is not None and hmac.compare_digest(cookie[1:], _digest(secret, nonce, host, spi_i))

    def _rotate(self, now: float) -> None:
        age = now - self._changed_at
        if self._secrets and age < self._secret_s:
            return
        if age >= 2 * self._secret_s:
            self._secrets.clear()
        previous = self._secrets.get(self._version)
        kept = {} if previous is None else {self._version: previous}
        self._version = (self._version + 1) % 256
        self._secrets = kept | {self._version: self._entropy.octets(_SECRET_OCTETS)}
        self._changed_at = now


def _digest(secret: bytes, nonce: bytes, host: str, spi_i: bytes) -> bytes:
    address = host.encode()
    framed = len(nonce).to_bytes(2, "big") + nonce + len(address).to_bytes(2, "big") + address + spi_i
    return hmac.digest(secret, framed, "sha256")
