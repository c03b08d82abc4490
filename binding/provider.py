"""ippm's KeyProvider over ikev2's key exporter: the keys of O/TWAMP come from the IKE SA instead of a passphrase.

The exporter gives handles; a handle computes `prf(K, context)` inside `ikev2`, so neither SK_d nor KEYMAT comes
here. One handle serves one Control connection: it is opened when the Set-Up-Response is written or read, and closed
when the connection and its last Test session have ended, also after rekey or deletion of the SA (rfc7717-s5.1-03).

RFC 7717 sections 5.1 to 5.3; readings A2 to A18 in docs/rfc7717.md.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from binding.derivation import (
    Derivation,
    SecretEncoding,
    TokenKeyRule,
    control_context,
    fingerprint,
    key_id,
    session_test_keys,
    split_key_id,
    token_key,
)
from binding.secret_log import SecretLog
from ikev2.embedding import IkeError, KeyHandle, NoSuchSa, prf_by_name
from ippm import ControlSecret, NoSecret, SessionKeys, test_session_keys

log = logging.getLogger("ippm-ipsec")

ACCEPT_FAILURE = 1
"""RFC 4656 section 3.3: failure, reason unspecified. What a passphrase choice gets from an IKE-only server (A35)."""

ACCEPT_INTERNAL_ERROR = 2
"""RFC 4656 section 3.3: what a client gets when the IKE side fails for another reason than a missing SA."""

ACCEPT_NO_SA = 6
"""RFC 7717 section 5.3: the server cannot find the IKEv2 SA."""

MAX_RECORDS = 1024
MAX_FINGERPRINTS = 64
"""A server that runs for years remembers the newest only."""


class Exporter(Protocol):
    """What is asked of the IKE side: ikev2's KeyExporter in this process, or its key agent's client in another."""

    def open(
        self,
        sa: tuple[bytes, bytes] | str,
        derivation: str,
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> KeyHandle: ...


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """The switches of docs/rfc7717.md that shape the keys and their signalling."""

    derivation: Derivation = Derivation.RFC7717
    token_key: Literal["pbkdf2", "truncate16", "auto"] = "pbkdf2"
    secret_encoding: SecretEncoding = "raw"
    key_count: int = 4
    accept_no_sa: int = ACCEPT_NO_SA
    peer_binding: Literal["off", "warn", "enforce"] = "warn"
    count: int = 1024


@dataclass(slots=True)
class KeyChainRecord:
    """One link of what was derived, as fingerprints: for the report, and to compare both ends without a key."""

    role: str
    derivation: str
    prf: str
    spi_i: str
    spi_r: str
    fingerprints: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, octets: bytes, which: str = "") -> None:
        """Add the fingerprint of a key; `which` tells the sessions of a connection apart."""
        if len(self.fingerprints) >= MAX_FINGERPRINTS:
            del self.fingerprints[next(iter(self.fingerprints))]
        self.fingerprints[f"{name} {which}".rstrip()] = fingerprint(name, octets)


class IkeControlSecret:
    """The secret of one Control connection, behind a key handle. Implements ippm's ControlSecret.

    `key_id` is the 80 octets to send; `token_keys` gives one candidate, or two for a server with
    `token_key = "auto"`, whose right one the Challenge tells (reading A2).
    """

    ikev2_derived = True

    def __init__(
        self,
        handle: KeyHandle,
        options: KeyOptions,
        key_id_octets: bytes,
        record: KeyChainRecord,
        secret_log: SecretLog | None = None,
    ) -> None:
        self._handle = handle
        self._options = options
        self._record = record
        self._log = secret_log
        self.key_id = key_id_octets
        self.derivation: str | None = options.derivation.value
        self.peer_identity: str | None = handle.peer_identity
        self.spi_i = handle.spi_i
        self.spi_r = handle.spi_r

    def __repr__(self) -> str:
        return f"IkeControlSecret({self.derivation}, SPIi {self.spi_i.hex()}, SPIr {self.spi_r.hex()})"

    @property
    def record(self) -> KeyChainRecord:
        """The fingerprints of what this secret has given so far."""
        return self._record

    def token_keys(self, salt: bytes, count: int) -> Sequence[bytes]:
        """The candidates for the Token's key, 16 octets each. RFC 4656 section 3.1, RFC 7717 section 5.1."""
        context = control_context(self._options.derivation, self.key_id, self._handle.label)
        # rfc7717-s5.1-02: the shared secret key is prf(SK_d, "IPPM"), computed inside ikev2.
        secret = self._handle.secret(context)
        if self._log is not None:
            self._log.control(self.key_id, self._options.derivation.value, self._handle.prf_name, secret)
        rules: tuple[TokenKeyRule, ...]
        rules = ("pbkdf2", "truncate16") if self._options.token_key == "auto" else (self._options.token_key,)
        keys = [token_key(secret, salt, count, rule=rule, encoding=self._options.secret_encoding) for rule in rules]
        self._record.note("control_secret", secret)
        self._record.note("token_key", keys[0])
        return keys

    def test_keys(self, protocol: str, sid: bytes, control_keys: SessionKeys) -> SessionKeys | None:
        """The Test session's keys; None for the derivation of RFC 4656 section 4.1.2."""
        keys: SessionKeys | None = None
        if self._options.key_count == 2:
            keys = control_keys
        elif self._options.derivation.per_session:
            prf = prf_by_name(self._handle.prf_name)
            secret = self._handle.secret(sid)
            if self._log is not None:
                self._log.test(sid, self._options.derivation.value, self._handle.prf_name, secret)
            self._record.note("test_secret", secret, sid.hex())
            keys = session_test_keys(prf, secret, sid, protocol)
        used = keys or test_session_keys(control_keys, sid)
        self._record.note("test_keys", used.aes + used.hmac, sid.hex())
        return keys

    def close(self) -> None:
        """End the use of the keys: the Control connection and its last Test session are over (A15)."""
        # Until here the handle gives the same secret, whatever becomes of the SA: RFC 7717 section 5.1.
        self._handle.close()


class IkeKeyProvider:
    """A KeyProvider that finds keys in IKE SAs; for passphrases beside them there is ippm's PreferringProvider.

    `select` names the SA for a server's address (policy, see binding.policy); by default the exporter chooses the
    newest SA with that peer. `records` collects the key chain of each connection as fingerprints.
    """

    offers_ikev2 = True

    def __init__(
        self,
        exporter: Exporter,
        options: KeyOptions | None = None,
        *,
        select: Callable[[str], tuple[bytes, bytes] | str] | None = None,
        secret_log: SecretLog | None = None,
    ) -> None:
        self._exporter = exporter
        self._options = options or KeyOptions()
        self._select = select
        self._secret_log = secret_log
        self.records: deque[KeyChainRecord] = deque(maxlen=MAX_RECORDS)

    @property
    def count(self) -> int:
        """PBKDF2's Count in the Server Greeting (reading A29)."""
        return self._options.count

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> ControlSecret:
        """The secret for a Control connection to this server. Raises NoSecret when there is no IKE SA with it."""
        try:
            wanted = self._select(server_address) if self._select else server_address
            handle = self._exporter.open(wanted, self._options.derivation.value, server_is_local=False)
        except IkeError as error:
            raise NoSecret(self._options.accept_no_sa, str(error)) from error
        octets = key_id(handle.spi_i, handle.spi_r, handle.child_spi)
        return self._secret(handle, octets, "client")

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> ControlSecret:
        """The secret that a Set-Up-Response's KeyID names.

        Raises NoSecret with Accept 6 (`accept_no_sa`) when no IKE SA has these SPIs (keymat-sid: or no Child SA of it
        the ESP SPI), with Accept 1 for a passphrase choice where there are no passphrases, and with Accept 2 when
        the IKE side fails otherwise. RFC 7717 section 5.3.
        """
        if not ikev2_derived:
            raise NoSecret(ACCEPT_FAILURE, "this server has no passphrases, only IKEv2-derived keys")
        # rfc7717-s5.3-06: SPIi and SPIr are the first 16 octets, the remaining ones are ignored.
        spi_i, spi_r, esp_spi = split_key_id(key_id)
        child_spi = esp_spi if self._options.derivation is Derivation.KEYMAT_SID else None
        try:
            handle = self._exporter.open(
                (spi_i, spi_r), self._options.derivation.value, child_spi=child_spi, server_is_local=True
            )
        except NoSuchSa as error:
            reason = f"no IKEv2 SA with SPIi {spi_i.hex()} SPIr {spi_r.hex()}: {error}"
            # rfc7717-s5.3-07: the event is logged for operational management.
            log.warning("Set-Up-Response from %s refused: %s", client_address, reason)
            # rfc7717-s5.3-08: Accept 6.
            raise NoSecret(self._options.accept_no_sa, reason) from error
        except IkeError as error:
            log.error("Set-Up-Response from %s refused: %s", client_address, error)
            raise NoSecret(ACCEPT_INTERNAL_ERROR, str(error)) from error
        self._check_peer(handle, client_address)
        return self._secret(handle, key_id, "server")

    def _check_peer(self, handle: KeyHandle, client_address: str) -> None:
        """Reading A12: the client's address need not be the SA's peer; say so, or refuse when told to."""
        if self._options.peer_binding == "off" or _same_host(client_address, handle.peer_address):
            return
        text = f"the client {client_address} is not the peer {handle.peer_address} of IKE SA {handle.spi_i.hex()}"
        if self._options.peer_binding == "warn":
            log.warning("%s", text)
        else:
            log.warning("Set-Up-Response refused: %s", text)
            handle.close()
            raise NoSecret(self._options.accept_no_sa, text)

    def _secret(self, handle: KeyHandle, key_id_octets: bytes, role: str) -> IkeControlSecret:
        record = KeyChainRecord(
            role, self._options.derivation.value, handle.prf_name, handle.spi_i.hex(), handle.spi_r.hex()
        )
        self.records.append(record)
        return IkeControlSecret(handle, self._options, key_id_octets, record, self._secret_log)


def _same_host(one: str, other: str) -> bool:
    """Whether two addresses are one, whatever their spelling, and without an IPv6 zone."""
    try:
        return ipaddress.ip_address(one.partition("%")[0]) == ipaddress.ip_address(other.partition("%")[0])
    except ValueError:
        return one == other
