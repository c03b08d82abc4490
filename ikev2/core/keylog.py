"""The key log: the one explicit place where keys go to a person. The core only calls it."""

from __future__ import annotations

from typing import Protocol

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.info import IkeSaInfo
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.suites import IkeSuite


class KeyLog(Protocol):
    """Takes the keys of every SA as soon as they exist; must not raise."""

    def ike_sa(self, info: IkeSaInfo, suite: IkeSuite, keys: IkeKeys) -> None:
        """The keys of an IKE SA, before the peer is authenticated (so that IKE_AUTH can be read)."""
        ...

    def child_sa(self, params: ChildSaParameters) -> None:
        """The keys of a Child SA."""
        ...
