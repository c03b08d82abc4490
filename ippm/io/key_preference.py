"""Which of two kinds of secret is used where both can be had: IKEv2-derived ones, or passphrases.

"IKEv2-derived keys SHOULD be used instead of shared secrets when O/TWAMP is employed in a deployment using IKEv2": so
they come first by default. RFC 7717 section 1; reading A34 in docs/rfc7717.md.
"""

from __future__ import annotations

import logging
from typing import Literal

from ippm.crypto import ControlSecret, KeyProvider
from ippm.errors import NoSecret

log = logging.getLogger("ippm")

Preference = Literal["ikev2", "passphrase"]


class PreferringProvider:
    """A KeyProvider over two: one of IKEv2-derived secrets and one of passphrases.

    A client takes the preferred kind when it can be had, else the other; an IKEv2-derived one can be had when the
    server offers it and there is an IKE SA. A server answers to what the client chose. RFC 7717 sections 1 and 5.
    """

    def __init__(self, derived: KeyProvider, passphrases: KeyProvider, prefer: Preference = "ikev2") -> None:
        self._derived, self._passphrases = derived, passphrases
        self._prefer = prefer

    @property
    def offers_ikev2(self) -> bool:
        """As the provider of IKEv2-derived secrets says."""
        return self._derived.offers_ikev2

    @property
    def count(self) -> int | None:
        """Of the provider of passphrases, for which the Count matters."""
        return self._passphrases.count

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> ControlSecret:
        """The preferred secret that can be had. Raises NoSecret of the preferred kind when there is none of either."""
        order = [self._passphrases]
        if ikev2_offered:
            order.insert(0 if self._prefer == "ikev2" else 1, self._derived)  # rfc7717-s1-01
        else:
            log.warning("%s does not offer IKEv2-derived keys: a passphrase is taken", server_address)
        try:
            return order[0].for_client(server_address, protocol, ikev2_offered=ikev2_offered)
        except NoSecret as error:
            if len(order) == 1:
                raise
            try:
                secret = order[1].for_client(server_address, protocol, ikev2_offered=ikev2_offered)
            except NoSecret:
                raise error from None
            log.warning("%s: taking %s", error, "a passphrase" if self._prefer == "ikev2" else "keys of the IKE SA")
            return secret

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> ControlSecret:
        """The secret of the kind that the client chose. Raises NoSecret."""
        chosen = self._derived if ikev2_derived else self._passphrases
        return chosen.for_server(key_id, ikev2_derived, client_address, protocol)
