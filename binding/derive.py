"""`ippm-ipsec derive`: the key chain, step by step, from given inputs, so that anyone can check a trace by hand.

This is the one place that takes an SK_d, from its command line. docs/rfc7717.md has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

from binding.derivation import (
    Derivation,
    SecretEncoding,
    TokenKeyRule,
    control_context,
    key_id,
    session_test_keys,
    token_key,
)
from ikev2.embedding import ConfigurationError, prf_by_name
from ippm import SessionKeys, seal_token, test_session_keys


@dataclass(frozen=True, slots=True, repr=False)
class DeriveInputs:
    """What the command line gave; None where it gave nothing. All octets."""

    derivation: Derivation = Derivation.RFC7717
    prf: str = "hmac-sha2-256"
    protocol: str = "twamp"
    key_count: int = 4
    token_key_rule: TokenKeyRule = "pbkdf2"
    secret_encoding: SecretEncoding = "raw"
    sk_d: bytes | None = None
    keymat: bytes | None = None
    spi_i: bytes | None = None
    spi_r: bytes | None = None
    esp_spi: bytes | None = None
    label: str = "IPPM"
    salt: bytes | None = None
    count: int | None = None
    challenge: bytes | None = None
    aes_session_key: bytes | None = None
    hmac_session_key: bytes | None = None
    sid: bytes | None = None


LENGTHS = {
    "spi_i": 8, "spi_r": 8, "esp_spi": 4, "salt": 16, "challenge": 16,
    "aes_session_key": 16, "hmac_session_key": 32, "sid": 16,
}  # fmt: skip


def _check(inputs: DeriveInputs) -> None:
    for name, length in LENGTHS.items():
        value: bytes | None = getattr(inputs, name)
        if value is not None and len(value) != length:
            option = "--" + name.replace("_", "-")
            raise ConfigurationError(f"{option} has {len(value)} octets, {length} are right")
    if (inputs.spi_i is None) != (inputs.spi_r is None):
        raise ConfigurationError("--spi-i and --spi-r go together")
    if inputs.count is not None and not 1 <= inputs.count < 1 << 32:
        raise ConfigurationError("--count is at least 1, and fits in 4 octets")
    if not inputs.label.isascii() or not 1 <= len(inputs.label) <= 16:
        raise ConfigurationError("--label is ASCII, 1 to 16 octets")
    if inputs.esp_spi is not None and inputs.derivation is not Derivation.KEYMAT_SID:
        raise ConfigurationError(f"--esp-spi does not go with {inputs.derivation}, whose KeyID has none")
    if inputs.derivation is Derivation.KEYMAT_SID and inputs.sk_d is not None:
        raise ConfigurationError("--sk-d does not go with keymat-sid, whose key is --keymat")
    if inputs.derivation is not Derivation.KEYMAT_SID and inputs.keymat is not None:
        raise ConfigurationError(f"--keymat does not go with {inputs.derivation}, whose key is --sk-d")


def derive(inputs: DeriveInputs) -> dict[str, str]:
    """The chain as far as the inputs allow: name -> lower-case hex (`derivation` and `prf` are words).

    Raises ConfigurationError for inputs that do not fit together.
    """
    _check(inputs)
    try:
        prf = prf_by_name(inputs.prf)
    except LookupError as error:
        raise ConfigurationError(f"--prf: {error}") from None
    out = {"derivation": inputs.derivation.value, "prf": inputs.prf}
    root = inputs.keymat if inputs.derivation is Derivation.KEYMAT_SID else inputs.sk_d
    identifier: bytes | None = None
    if inputs.spi_i is not None and inputs.spi_r is not None:
        esp_spi = int.from_bytes(inputs.esp_spi, "big") if inputs.esp_spi is not None else None
        identifier = key_id(inputs.spi_i, inputs.spi_r, esp_spi)
        if inputs.derivation is not Derivation.KEYMAT_SID or esp_spi is not None:
            out["key_id"] = identifier.hex()
    secret: bytes | None = None
    if root is not None and inputs.derivation is Derivation.RFC7717:
        secret = prf(root, control_context(inputs.derivation, b"", inputs.label.encode("ascii")))
        out["shared_secret"] = secret.hex()
    elif root is not None and identifier is not None:
        secret = prf(root, control_context(inputs.derivation, identifier))
        out["control_secret"] = secret.hex()
    if secret is not None:
        _token(inputs, secret, out)
    _test_keys(inputs, root, out)
    return out


def _token(inputs: DeriveInputs, secret: bytes, out: dict[str, str]) -> None:
    """The token key, and the Token when its three parts are given. RFC 4656 section 3.1."""
    key: bytes | None = None
    if inputs.token_key_rule == "truncate16":
        key = token_key(secret, b"", 0, rule="truncate16")
    elif inputs.salt is not None and inputs.count is not None:
        key = token_key(secret, inputs.salt, inputs.count, encoding=inputs.secret_encoding)
    if key is None:
        return
    out["token_key"] = key.hex()
    parts = (inputs.challenge, inputs.aes_session_key, inputs.hmac_session_key)
    if parts[0] is not None and parts[1] is not None and parts[2] is not None:
        keys = SessionKeys(aes=parts[1], hmac=parts[2])
        out["token"] = seal_token(key, parts[0], keys).hex()


def _test_keys(inputs: DeriveInputs, root: bytes | None, out: dict[str, str]) -> None:
    """The Test session's keys, by RFC 4656 section 4.1.2, the draft forms, or the two-key experiment."""
    per_session = inputs.derivation.per_session and inputs.key_count == 4
    if per_session and root is not None and inputs.sid is not None:
        prf = prf_by_name(inputs.prf)
        secret = prf(root, inputs.sid)
        out["test_secret"] = secret.hex()
        keys = session_test_keys(prf, secret, inputs.sid, inputs.protocol)
        out["test_aes_key"], out["test_hmac_key"] = keys.aes.hex(), keys.hmac.hex()
        return
    if inputs.aes_session_key is None or inputs.hmac_session_key is None:
        return
    control = SessionKeys(aes=inputs.aes_session_key, hmac=inputs.hmac_session_key)
    if inputs.key_count == 2:
        out["test_aes_key"], out["test_hmac_key"] = control.aes.hex(), control.hmac.hex()
    elif not inputs.derivation.per_session and inputs.sid is not None:
        keys = test_session_keys(control, inputs.sid)
        out["test_aes_key"], out["test_hmac_key"] = keys.aes.hex(), keys.hmac.hex()
