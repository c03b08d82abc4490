"""The cryptography of O/TWAMP-Control: shared secrets, the Token, the encrypted stream, Test session keys.

The rules, before the code. A shared secret (a passphrase, or RFC 7717's IKEv2-derived one) becomes a token key by
PBKDF2-HMAC-SHA1 with the Salt and Count of the greeting. The Token carries the Challenge and two session keys
that the client made up, under AES-CBC with a zero IV. From the block after the IV on, each direction is one
AES-CBC stream with its own IV; each HMAC (HMAC-SHA1, 16 octets) covers the plaintext of its direction since the
HMAC before it, and is encrypted like all the rest. Test keys come from the Control keys and the SID.
RFC 4656 sections 3.1, 3.2, 3.4 and 4.1.2; RFC 5357 sections 3.1 and 3.2; RFC 7717 section 5.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ippm.errors import ConfigurationError, IntegrityError, NoSecret

__all__ = [
    "BLOCK_OCTETS",
    "HMAC_OCTETS",
    "KEY_ID_OCTETS",
    "TOKEN_OCTETS",
    "CbcReceiver",
    "CbcSender",
    "ControlSecret",
    "Entropy",
    "KeyProvider",
    "NoProvider",
    "NoSecret",
    "OpenReceiver",
    "OpenSender",
    "PassphraseProvider",
    "ReceiveStream",
    "SendStream",
    "SessionKeys",
    "open_token",
    "pad_key_id",
    "pbkdf2_token_key",
    "seal_token",
    "test_session_keys",
]

BLOCK_OCTETS = 16
HMAC_OCTETS = 16
KEY_ID_OCTETS = 80
TOKEN_OCTETS = 64
_ZERO_BLOCK = bytes(BLOCK_OCTETS)


class Entropy(Protocol):
    """Where random octets come from; injected, so that a handshake can be replayed."""

    def octets(self, n: int) -> bytes:
        """`n` octets, unpredictable in production."""
        ...


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """An AES Session-key (16 octets) and an HMAC Session-key (32 octets). Neither shows in `repr`.

    RFC 4656 sections 3.1 and 4.1.2.
    """

    aes: bytes = field(repr=False)
    hmac: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.aes) != 16 or len(self.hmac) != 32:
            raise ValueError(f"session keys are 16 and 32 octets, not {len(self.aes)} and {len(self.hmac)}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SessionKeys):
            return NotImplemented
        return hmac.compare_digest(self.aes + self.hmac, other.aes + other.hmac)

    def __hash__(self) -> int:
        return hash((self.aes, self.hmac))


class ControlSecret(Protocol):
    """What one Control connection needs of a shared secret; held until `close`.

    RFC 4656 section 3.1, RFC 7717 section 5.1.
    """

    @property
    def key_id(self) -> bytes:
        """The KeyID field, all 80 octets, as the client sends it."""
        ...

    @property
    def ikev2_derived(self) -> bool:
        """True when the secret comes from an IKEv2 SA."""
        ...

    @property
    def derivation(self) -> str | None:
        """The derivation's name (`rfc7717`, ...), or None for a passphrase."""
        ...

    @property
    def peer_identity(self) -> str | None:
        """The peer's authenticated IKE identity, or None for a passphrase."""
        ...

    def token_keys(self, salt: bytes, count: int) -> Sequence[bytes]:
        """Token keys, 16 octets each; a client uses the first, a server tries each against the Challenge."""
        ...

    def test_keys(self, protocol: str, sid: bytes, control_keys: SessionKeys) -> SessionKeys | None:
        """The Test session keys of a SID; None means the derivation of RFC 4656 section 4.1.2."""
        ...

    def close(self) -> None:
        """The Control connection and its last Test session have ended."""
        ...


class KeyProvider(Protocol):
    """Finds the shared secret for a connection. `protocol` is `owamp` or `twamp`.

    RFC 4656 section 3.1, RFC 7717 section 5.
    """

    @property
    def offers_ikev2(self) -> bool:
        """True when IKEv2-derived secrets can be had here: a server offers the bit, a client looks for it."""
        ...

    @property
    def count(self) -> int | None:
        """The PBKDF2 Count that a server should send, or None for its own."""
        ...

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> ControlSecret:
        """The secret to use with this server, which offers IKEv2-derived ones or does not. Raises NoSecret."""
        ...

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> ControlSecret:
        """The secret that a Set-Up-Response names by its 80-octet KeyID. Raises NoSecret."""
        ...


def pad_key_id(key_id: bytes) -> bytes:
    """A KeyID padded with zero octets to its 80. Raises ConfigurationError. RFC 4656 section 3.1."""
    if not 0 < len(key_id) <= KEY_ID_OCTETS:
        raise ConfigurationError(f"a KeyID has 1 to {KEY_ID_OCTETS} octets, not {len(key_id)}")
    return key_id.ljust(KEY_ID_OCTETS, b"\0")


def pbkdf2_token_key(secret: bytes, salt: bytes, count: int) -> bytes:
    """PBKDF2-HMAC-SHA1 of a shared secret: the 16-octet key of the Token. RFC 4656 section 3.1."""
    return hashlib.pbkdf2_hmac("sha1", secret, salt, count, 16)


class PassphraseSecret:
    """A ControlSecret made of a passphrase. RFC 4656 section 3.1."""

    ikev2_derived = False
    derivation: str | None = None
    peer_identity: str | None = None

    def __init__(self, key_id: bytes, passphrase: bytes) -> None:
        self.key_id = pad_key_id(key_id)
        self._passphrase = passphrase

    def __repr__(self) -> str:
        return f"PassphraseSecret(key_id={self.key_id.rstrip(bytes(1))!r})"

    def token_keys(self, salt: bytes, count: int) -> Sequence[bytes]:
        """The one token key. RFC 4656 section 3.1."""
        return (pbkdf2_token_key(self._passphrase, salt, count),)

    def test_keys(self, protocol: str, sid: bytes, control_keys: SessionKeys) -> SessionKeys | None:
        """None: a passphrase has the derivation of RFC 4656 section 4.1.2."""
        return None

    def close(self) -> None:
        """Nothing is held."""


class PassphraseProvider:
    """A KeyProvider over a table of KeyID -> passphrase. Raises ConfigurationError for a forbidden passphrase.

    `client_key_id` names the entry that a client uses; by default the only one.
    RFC 4656 section 3.1, RFC 5357 section 3.1.
    """

    offers_ikev2 = False
    count: int | None = None

    def __init__(
        self,
        passphrases: Mapping[str, bytes | str] | Mapping[bytes, bytes | str],
        client_key_id: bytes | str | None = None,
    ) -> None:
        self._secrets: dict[bytes, PassphraseSecret] = {}
        for key_id, passphrase in passphrases.items():
            octets = _octets(passphrase)
            # rfc4656-s3.1-16, rfc5357-s3.1-08
            if b"\n" in octets or b"\r" in octets:
                raise ConfigurationError(f"the passphrase of KeyID {_text(key_id)} has a newline in it")
            if not octets.isascii():  # rfc5357-s3.1-07
                raise ConfigurationError(f"the passphrase of KeyID {_text(key_id)} is not ASCII")
            secret = PassphraseSecret(_octets(key_id), octets)
            self._secrets[secret.key_id] = secret
        self._client = None if client_key_id is None else pad_key_id(_octets(client_key_id))

    def __repr__(self) -> str:
        return f"PassphraseProvider({len(self._secrets)} KeyIDs)"

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> ControlSecret:
        """The secret of the client's KeyID. Raises NoSecret."""
        if self._client is not None:
            secret = self._secrets.get(self._client)
        elif len(self._secrets) == 1:
            secret = next(iter(self._secrets.values()))
        else:
            raise NoSecret(1, f"which of {len(self._secrets)} KeyIDs to use was not said")
        if secret is None:
            raise NoSecret(1, f"no passphrase for KeyID {_text(self._client or b'')}")
        return secret

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> ControlSecret:
        """The secret of a KeyID, compared over all 80 octets. Raises NoSecret."""
        if ikev2_derived:
            raise NoSecret(6, "this server has no IKEv2-derived secrets")
        secret = self._secrets.get(bytes(key_id))
        if secret is None:
            raise NoSecret(1, f"unknown KeyID {_text(key_id)}")
        return secret


class NoProvider:
    """A KeyProvider that has no secret at all: for open mode."""

    offers_ikev2 = False
    count: int | None = None

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> ControlSecret:
        """Raises NoSecret, always."""
        raise NoSecret(1, f"no secret is configured for {server_address}")

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> ControlSecret:
        """Raises NoSecret, always."""
        raise NoSecret(6 if ikev2_derived else 1, "this server has no secrets")


def _octets(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _text(key_id: bytes | str) -> str:
    octets = _octets(key_id).rstrip(b"\0")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return octets.hex()
    return repr(text) if text.isprintable() else octets.hex()


# The Token.


def seal_token(token_key: bytes, challenge: bytes, keys: SessionKeys) -> bytes:
    """The 64-octet Token: AES-CBC, zero IV, of Challenge | AES Session-key | HMAC Session-key.

    RFC 4656 section 3.1.
    """
    encryptor = Cipher(algorithms.AES(token_key), modes.CBC(_ZERO_BLOCK)).encryptor()  # rfc4656-s3.1-15
    return encryptor.update(challenge + keys.aes + keys.hmac) + encryptor.finalize()


def open_token(token_keys: Sequence[bytes], token: bytes, challenge: bytes) -> tuple[int, SessionKeys]:
    """The index of the token key that fits the Challenge, and the session keys inside.

    Every key is tried, and the comparison takes the same time whether it fits or not. Raises IntegrityError.
    RFC 4656 section 3.1.
    """
    found: tuple[int, SessionKeys] | None = None
    for index, token_key in enumerate(token_keys):
        decryptor = Cipher(algorithms.AES(token_key), modes.CBC(_ZERO_BLOCK)).decryptor()
        plain = decryptor.update(token) + decryptor.finalize()
        if hmac.compare_digest(plain[:16], challenge) and found is None:
            found = index, SessionKeys(plain[16:32], plain[32:64])
    if found is None:
        raise IntegrityError("the Token does not hold the Challenge")
    return found


# The streams of a Control connection, one a direction.


class SendStream(Protocol):
    """Protects what one side sends, in whole blocks of 16 octets."""

    def seal(self, octets: bytes, *, with_hmac: bool, wrong_hmac: bool = False) -> bytes:
        """The octets as they go out, followed by the HMAC when `with_hmac`; a wrong one is for who asked for it."""
        ...


class ReceiveStream(Protocol):
    """Opens what the other side sent, in whole blocks of 16 octets."""

    def decrypt(self, octets: bytes) -> bytes:
        """The plaintext of the next octets of the stream; nothing is verified yet."""
        ...

    def cover(self, plain: bytes) -> None:
        """Plaintext that the next HMAC covers."""
        ...

    def verify(self, plain: bytes, tag: bytes) -> None:
        """Cover `plain`, then check the HMAC that follows it. Raises IntegrityError."""
        ...


class OpenSender:
    """Open mode: no encryption; the HMAC field is an MBZ field. RFC 4656 section 3.2."""

    def seal(self, octets: bytes, *, with_hmac: bool, wrong_hmac: bool = False) -> bytes:
        """The octets as they are, and zeros for the HMAC."""
        tag = b"\xff" * HMAC_OCTETS if wrong_hmac else bytes(HMAC_OCTETS)
        return octets + tag if with_hmac else octets


class OpenReceiver:
    """Open mode: no decryption; the HMAC field is ignored. RFC 4656 section 3.2."""

    def decrypt(self, octets: bytes) -> bytes:
        """The octets as they are."""
        return octets

    def cover(self, plain: bytes) -> None:
        """Nothing is covered."""

    def verify(self, plain: bytes, tag: bytes) -> None:
        """Nothing is verified: the field has the semantics of MBZ."""


class _RunningHmac:
    """HMAC-SHA1-128 over everything since the HMAC before. RFC 4656 section 3.2."""

    def __init__(self, key: bytes) -> None:
        self._fresh = hmac.new(key, digestmod=hashlib.sha1)
        self._running = self._fresh.copy()

    def add(self, octets: bytes) -> None:
        self._running.update(octets)

    def take(self) -> bytes:
        tag = self._running.digest()[:HMAC_OCTETS]
        self._running = self._fresh.copy()
        return tag


class CbcSender:
    """Authenticated, encrypted and mixed modes: AES-CBC from `iv` on, HMAC before encryption.

    RFC 4656 section 3.4.
    """

    def __init__(self, keys: SessionKeys, iv: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(keys.aes), modes.CBC(iv)).encryptor()
        self._hmac = _RunningHmac(keys.hmac)

    def seal(self, octets: bytes, *, with_hmac: bool, wrong_hmac: bool = False) -> bytes:
        """The octets, and their HMAC when `with_hmac`, encrypted. The length must be a multiple of 16."""
        self._hmac.add(octets)
        if not with_hmac:
            return self._encryptor.update(octets)
        tag = self._hmac.take()
        return self._encryptor.update(octets + (bytes(octet ^ 0xFF for octet in tag) if wrong_hmac else tag))


class CbcReceiver:
    """The other end of a CbcSender. RFC 4656 sections 3.2 and 3.4."""

    def __init__(self, keys: SessionKeys, iv: bytes) -> None:
        self._decryptor = Cipher(algorithms.AES(keys.aes), modes.CBC(iv)).decryptor()
        self._hmac = _RunningHmac(keys.hmac)

    def decrypt(self, octets: bytes) -> bytes:
        """The plaintext of the next whole blocks; not verified yet."""
        return self._decryptor.update(octets)

    def cover(self, plain: bytes) -> None:
        """Plaintext that the next HMAC covers."""
        self._hmac.add(plain)

    def verify(self, plain: bytes, tag: bytes) -> None:
        """Cover `plain`, then check the HMAC, in constant time. Raises IntegrityError. RFC 4656 section 6.10."""
        self._hmac.add(plain)
        if not hmac.compare_digest(self._hmac.take(), tag):  # rfc4656-s3.2-02, rfc4656-s6.10-01
            raise IntegrityError("the HMAC of a Control message does not verify")


def test_session_keys(control_keys: SessionKeys, sid: bytes) -> SessionKeys:
    """The keys of a Test session: the Control keys encrypted under the SID, ECB and zero-IV CBC.

    RFC 4656 section 4.1.2, RFC 5357 section 4.1.2.
    """
    # A single block: CBC with a zero IV is the ECB that the RFC asks for.
    aes = Cipher(algorithms.AES(sid), modes.CBC(_ZERO_BLOCK)).encryptor()
    mac = Cipher(algorithms.AES(sid), modes.CBC(_ZERO_BLOCK)).encryptor()
    return SessionKeys(aes.update(control_keys.aes), mac.update(control_keys.hmac))


test_session_keys.__test__ = False  # type: ignore[attr-defined]  # its name is no test's
