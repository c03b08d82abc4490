"""Secrets for other protocols, by handle: only prf outputs leave, never SK_d or KEYMAT.

    K = SK_d                      rfc7717: prf(SK_d, "IPPM"); skd-sid: prf(SK_d, 16 octets)
    K = KEYMAT of a Child SA      keymat-sid: prf(KEYMAT, 16 octets)

prf is the one negotiated for the IKE SA. A context is the configured label (at most 16 octets) or exactly 16 octets;
anything longer could be the seed of prf+ for a Child SA, whose nonces have 32 octets and more together, and is refused.
The two draft forms are an unverified reading of the 2012 proposal.

RFC 7717 section 5.1.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from ikev2.core.child_negotiation import ChildSa
from ikev2.core.ike_sa import IkeSa
from ikev2.core.manager import SaManager
from ikev2.crypto.prf import Prf
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import IkeError, LocalProtocolError

DERIVATIONS = ("rfc7717", "keymat-sid", "skd-sid")
SID_OCTETS = 16
LABEL = b"IPPM"
SA_GRACE_S = 60.0


class NoSuchSa(IkeError):
    """No established IKE SA (or no Child SA of it) has these SPIs or leads to this peer. RFC 7717 section 5.3."""


class KeyHandle(Protocol):
    """One IKE SA's key for one use, held until `close`, also after the SA is rekeyed or deleted.

    `spi_i` and `spi_r` are those of the IKE header; `child_spi` is the ESP SPI on which the server receives
    (keymat-sid only).
    """

    derivation: str
    prf_name: str
    spi_i: bytes
    spi_r: bytes
    local_identity: str
    peer_identity: str
    peer_address: str
    child_spi: int | None
    label: bytes

    def secret(self, context: bytes) -> bytes:
        """prf(K, context), whole; LocalProtocolError for a context that is not allowed, or after `close`."""
        ...

    def close(self) -> None:
        """Forget the key."""
        ...


@dataclass(frozen=True, slots=True)
class _Origin:
    """Whose key it is: what a handle may say."""

    spi_i: bytes
    spi_r: bytes
    prf_name: str
    local_identity: str
    peer_identity: str
    peer_address: str

    @classmethod
    def of(cls, sa: IkeSa) -> _Origin:
        """Of an established IKE SA."""
        suite, _ = sa.need_keys()
        return cls(
            sa.spi_i, sa.spi_r, suite.prf.name, str(sa.local_id or ""), str(sa.peer_id or ""), sa.remote.host
        )


class LocalKeyHandle:
    """A KeyHandle in the process that has the key. `repr()` shows no key."""

    __slots__ = (
        "_key",
        "_prf",
        "child_spi",
        "derivation",
        "label",
        "local_identity",
        "peer_address",
        "peer_identity",
        "prf_name",
        "spi_i",
        "spi_r",
    )

    def __init__(
        self,
        origin: _Origin,
        derivation: str,
        label: bytes,
        key: SecretOctets,
        prf: Prf | None,
        child_spi: int | None = None,
    ) -> None:
        self.derivation = derivation
        self.prf_name = origin.prf_name
        self.spi_i, self.spi_r = origin.spi_i, origin.spi_r
        self.local_identity, self.peer_identity = origin.local_identity, origin.peer_identity
        self.peer_address = origin.peer_address
        self.child_spi = child_spi
        self.label = label
        # rfc7717: the output itself, and no prf, so that no other context can be asked for.
        self._key: SecretOctets | None = key
        self._prf = prf

    def secret(self, context: bytes) -> bytes:
        """prf(K, context), whole; LocalProtocolError for a context that is not allowed, or after `close`."""
        if self._key is None:
            raise LocalProtocolError("this handle is closed")
        if self._prf is None:
            if context != self.label:
                raise LocalProtocolError(f"{self.derivation} has the one context {self.label!r}")
            return self._key.octets
        if len(context) != SID_OCTETS:
            raise LocalProtocolError(f"{self.derivation} takes contexts of {SID_OCTETS} octets, not {len(context)}")
        return self._prf(self._key, context)

    def close(self) -> None:
        """Forget the key."""
        self._key = self._prf = None

    def __repr__(self) -> str:
        state = "closed" if self._key is None else "open"
        return f"<KeyHandle {self.derivation} {self.prf_name} {self.spi_i.hex()}:{self.spi_r.hex()} {state}>"


class KeyExporter:
    """Opens handles on the IKE SAs of a manager, and on those that are gone for less than `sa_grace_s` seconds.

    After an SA is gone only its prf output for the label is kept, never SK_d, and only for that time.
    RFC 7717 section 5.1.
    """

    def __init__(self, manager: SaManager, *, label: bytes = LABEL, sa_grace_s: float = SA_GRACE_S) -> None:
        if not 1 <= len(label) <= SID_OCTETS:
            raise LocalProtocolError(f"a label has 1 to {SID_OCTETS} octets, not {len(label)}")
        self.label = label
        self._manager = manager
        self._grace_s = sa_grace_s
        self._gone: OrderedDict[tuple[bytes, bytes], tuple[float, _Origin, SecretOctets]] = OrderedDict()
        manager.listeners.append(self)

    def open(
        self,
        sa: tuple[bytes, bytes] | str,
        derivation: str = "rfc7717",
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> LocalKeyHandle:
        """A handle on the IKE SA with these SPIs (initiator's, responder's), or the newest with this peer address.

        For keymat-sid `child_spi` picks the Child SA by the ESP SPI on which the server receives, None the newest;
        `server_is_local` tells whose that is. NoSuchSa, LocalProtocolError for a derivation that is unknown.
        """
        if derivation not in DERIVATIONS:
            raise LocalProtocolError(f"unknown derivation {derivation!r}; there are {', '.join(DERIVATIONS)}")
        found = self._find(sa)
        if found is None:
            return self._open_gone(sa, derivation)
        suite, keys = found.need_keys()
        origin = _Origin.of(found)
        if derivation == "rfc7717":
            return LocalKeyHandle(origin, derivation, self.label, self._output(found), None)
        if derivation == "skd-sid":
            return LocalKeyHandle(origin, derivation, self.label, keys.sk_d, suite.prf)
        spi, child = _pick_child(found, child_spi, server_is_local=server_is_local)
        return LocalKeyHandle(origin, derivation, self.label, child.keymat, suite.prf, spi)

    def _find(self, sa: tuple[bytes, bytes] | str) -> IkeSa | None:
        if not isinstance(sa, str):
            return self._manager.find(*sa)
        found = self._manager.find_by_peer(sa)
        return found[0] if found else None

    def _open_gone(self, sa: tuple[bytes, bytes] | str, derivation: str) -> LocalKeyHandle:
        """From the cache, by SPIs only: a client that names a peer wants an SA that is there."""
        self.handle_timer(self._manager.now)
        entry = None if isinstance(sa, str) or derivation != "rfc7717" else self._gone.get(sa)
        if entry is None:
            name = sa if isinstance(sa, str) else f"{sa[0].hex()}:{sa[1].hex()}"
            raise NoSuchSa(f"no established IKE SA {'with the peer ' if isinstance(sa, str) else ''}{name}")
        _, origin, output = entry
        return LocalKeyHandle(origin, derivation, self.label, output, None)

    def _output(self, sa: IkeSa) -> SecretOctets:
        suite, keys = sa.need_keys()
        return SecretOctets(f"prf(SK_d, {self.label!r})", suite.prf(keys.sk_d, self.label))

    # --- what the manager tells ----------------------------------------------------------------------------------

    def sa_established(self, sa: IkeSa, now: float) -> None:
        """Nothing to do: the manager knows its SAs."""

    def sa_closing(self, sa: IkeSa, now: float) -> None:
        """Keep the prf output for a while."""
        self._gone[sa.spi_i, sa.spi_r] = (now + self._grace_s, _Origin.of(sa), self._output(sa))

    def next_timer(self) -> float | None:
        """When the next prf output is to be forgotten."""
        return next(iter(self._gone.values()))[0] if self._gone else None

    def handle_timer(self, now: float) -> None:
        """Forget the prf outputs whose time has come."""
        while self._gone and next(iter(self._gone.values()))[0] <= now:
            self._gone.popitem(last=False)


def _pick_child(sa: IkeSa, child_spi: int | None, *, server_is_local: bool) -> tuple[int, ChildSa]:
    """The Child SA and the SPI on which the server receives for it."""
    for child in reversed(sa.children.values()):
        spi = child.params.spi_in if server_is_local else child.params.spi_out
        if child_spi in (None, spi):
            return spi, child
    wanted = "" if child_spi is None else f" on whose SPI {child_spi:08x} the server receives"
    raise NoSuchSa(f"IKE SA {sa.name} has no Child SA{wanted}")
