"""The key log: what lets Wireshark and tshark decrypt a capture, written only when somebody asked for it.

The directory is a Wireshark configuration directory: `WIRESHARK_CONFIG_DIR=DIR tshark -r FILE` reads from it
`ikev2_decryption_table` (IKE SAs), `esp_sa` (Child SAs) and `preferences` (decrypt ESP, check its ICV). Lines that
begin with `#+` are in the same columns, for algorithms that Wireshark's tables do not name: `ikev2 decode` reads
them, Wireshark takes them for comments.

Whoever reads these files reads the traffic. The directory has mode 0700, the files 0600.
"""

from __future__ import annotations

import contextlib
import csv
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ikev2.crypto.encr import ENCRS, Encr
from ikev2.crypto.integ import INTEGS, Integ
from ikev2.errors import ConfigurationError
from ikev2.iana import EncrId, IntegId

if TYPE_CHECKING:
    from ikev2.core.child_sa import ChildSaParameters
    from ikev2.core.info import IkeSaInfo
    from ikev2.crypto.keymat import IkeKeys
    from ikev2.crypto.secret import SecretOctets
    from ikev2.crypto.suites import EspSuite, IkeSuite

IKE_TABLE = "ikev2_decryption_table"
ESP_TABLE = "esp_sa"
PREFERENCES = "preferences"
OURS_ONLY = "#+"

_PREFERENCES = """\
# So that Wireshark decrypts ESP with the keys of the file esp_sa beside this one, and checks each ICV.
esp.enable_encryption_decode: TRUE
esp.enable_authentication_check: TRUE
"""

_IKE_NONE = "NONE [RFC4306]"
_IKE_ANY = "ANY {}-bits of Authentication [No Checking]"
_ESP_NONE = "NULL"
_IKE_INTEG = {
    IntegId.HMAC_MD5_96: "HMAC_MD5_96 [RFC2403]",
    IntegId.HMAC_SHA1_96: "HMAC_SHA1_96 [RFC2404]",
    IntegId.HMAC_SHA2_256_128: "HMAC_SHA2_256_128 [RFC4868]",
    IntegId.HMAC_SHA2_384_192: "HMAC_SHA2_384_192 [RFC4868]",
    IntegId.HMAC_SHA2_512_256: "HMAC_SHA2_512_256 [RFC4868]",
}
_ESP_INTEG = {
    IntegId.HMAC_MD5_96: "HMAC-MD5-96 [RFC2403]",
    IntegId.HMAC_SHA1_96: "HMAC-SHA-1-96 [RFC2404]",
    IntegId.HMAC_SHA2_256_128: "HMAC-SHA-256-128 [RFC4868]",
    IntegId.HMAC_SHA2_384_192: "HMAC-SHA-384-192 [RFC4868]",
    IntegId.HMAC_SHA2_512_256: "HMAC-SHA-512-256 [RFC4868]",
}
_ESP_ENCR = {
    EncrId.NULL: "NULL",
    EncrId.AES_CBC: "AES-CBC [RFC3602]",
    EncrId.AES_CTR: "AES-CTR [RFC3686]",
    EncrId.AES_GCM_8: "AES-GCM with 8 octet ICV [RFC4106]",
    EncrId.AES_GCM_12: "AES-GCM with 12 octet ICV [RFC4106]",
    EncrId.AES_GCM_16: "AES-GCM with 16 octet ICV [RFC4106]",
}
_ICV_OCTETS = {
    EncrId.AES_GCM_8: ("AES-GCM", 8),
    EncrId.AES_GCM_12: ("AES-GCM", 12),
    EncrId.AES_GCM_16: ("AES-GCM", 16),
    EncrId.AES_CCM_8: ("AES-CCM", 8),
    EncrId.AES_CCM_12: ("AES-CCM", 12),
    EncrId.AES_CCM_16: ("AES-CCM", 16),
}


def _ike_encr_name(encr: Encr) -> str | None:
    """The name of the IKE table's column, None when Wireshark 4.0 has none."""
    if encr.id in _ICV_OCTETS:
        cipher, icv_octets = _ICV_OCTETS[encr.id]
        return f"{cipher}-{encr.key_bits} with {icv_octets} octet ICV [RFC5282]"
    if encr.id == EncrId.AES_CBC:
        return f"AES-CBC-{encr.key_bits} [RFC3602]"
    if encr.id == EncrId.AES_CTR:
        return f"AES-CTR-{encr.key_bits} [RFC5930]"
    return None


def _hex(secret: SecretOctets | None) -> str:
    return secret.octets.hex() if secret is not None else ""


class KeyLogWriter:
    """Writes the key log of one endpoint; it is the core's `KeyLog`.

    Raises ConfigurationError when the directory cannot be used or others can look into it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = directory.stat()
            if status.st_uid != os.geteuid():
                raise ConfigurationError(f"{directory}: the key log's directory belongs to another user")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigurationError(f"{directory}: others can look into the key log's directory: chmod 700 it")
            self._ike = _private_append(directory / IKE_TABLE)
            self._esp = _private_append(directory / ESP_TABLE)
            preferences = directory / PREFERENCES
            if not preferences.exists():
                with _private_append(preferences) as file:
                    file.write(_PREFERENCES)
        except OSError as error:
            raise ConfigurationError(f"{directory}: cannot keep a key log there: {error.strerror}") from None
        self._written: set[tuple[str, ...]] = set()

    @property
    def warning(self) -> str:
        """What a person must read before the first key is written."""
        return (
            f"WARNING: the keys of every IKE and ESP SA are being written to {self.directory}: "
            "whoever reads them reads, and can forge, the traffic"
        )

    def ike_sa(self, info: IkeSaInfo, suite: IkeSuite, keys: IkeKeys) -> None:
        """Add the keys of an IKE SA."""
        sa = (info.spi_i.hex(), info.spi_r.hex())
        encr_name, integ = _ike_encr_name(suite.encr), suite.integ
        head = f'{",".join(sa)},{_hex(keys.sk_ei)},{_hex(keys.sk_er)},"{encr_name or suite.encr.keyword}"'
        if integ is None:
            line, known = f'{head},,,"{_IKE_NONE}"', True
        else:
            name = _IKE_INTEG.get(integ.id)
            line, known = (
                f'{head},{_hex(keys.sk_ai)},{_hex(keys.sk_ar)},"{name or integ.keyword}"',
                name is not None,
            )
        if encr_name is not None and known:
            self._write(self._ike, sa, line)
            return
        self._write(self._ike, (OURS_ONLY, *sa), OURS_ONLY + line)
        if encr_name is not None and integ is not None:
            # Wireshark can decrypt what it cannot verify.
            self._write(self._ike, sa, f'{head},,,"{_IKE_ANY.format(integ.icv_octets * 8)}"')

    def child_sa(self, child: ChildSaParameters) -> None:
        """Add the keys of both directions of a Child SA."""
        self._esp_sa(child.suite, child.remote, child.local, child.spi_in, child.encr_key_in, child.integ_key_in)
        self._esp_sa(child.suite, child.local, child.remote, child.spi_out, child.encr_key_out, child.integ_key_out)

    def close(self) -> None:
        """Close the files; they stay."""
        self._ike.close()
        self._esp.close()

    def _esp_sa(
        self,
        suite: EspSuite,
        source: str,
        destination: str,
        spi: int,
        encr_key: SecretOctets,
        integ_key: SecretOctets | None,
    ) -> None:
        encr_name = _ESP_ENCR.get(suite.encr.id)
        integ_name = _ESP_NONE if suite.integ is None else _ESP_INTEG.get(suite.integ.id)
        integ_hex = _hex(integ_key) if suite.integ is not None else ""
        fields = (
            "IPv6" if ":" in source else "IPv4",
            source,
            destination,
            f"0x{spi:08x}",
            encr_name or suite.encr.keyword,
            f"0x{encr_key.octets.hex()}" if encr_key else "",
            integ_name or (suite.integ.keyword if suite.integ is not None else _ESP_NONE),
            f"0x{integ_hex}" if integ_hex else "",
        )
        line = ",".join(f'"{field}"' for field in fields)
        self._write(self._esp, fields[:4], line if encr_name and integ_name else OURS_ONLY + line)

    def _write(self, file: TextIO, sa: tuple[str, ...], line: str) -> None:
        """Once for each SA, at once on disk: a capture is often read while the endpoint runs."""
        if sa in self._written or file.closed:
            return
        self._written.add(sa)
        # A full disk must not end an exchange: the core does not expect a key log to fail.
        with contextlib.suppress(OSError):
            file.write(line + "\n")
            file.flush()


def _private_append(path: Path) -> TextIO:
    """`path`, mode 0600, opened to append. Raises ConfigurationError when others can read what is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
        os.close(descriptor)
        raise ConfigurationError(f"{path}: others can read this key log: chmod 600 it")
    return os.fdopen(descriptor, "a", encoding="ascii")


@dataclass(frozen=True, slots=True)
class LoggedIkeSa:
    """One line of the IKE table, read back; keys are not shown by repr."""

    spi_i: bytes
    spi_r: bytes
    encr: Encr
    integ: Integ | None
    keys: LoggedKeys


@dataclass(frozen=True, slots=True, repr=False)
class LoggedKeys:
    """The keys that protect an IKE SA's messages; the encryption keys have their salt at the end."""

    ei: bytes
    er: bytes
    ai: bytes
    ar: bytes


def read_ike_table(directory: Path) -> list[LoggedIkeSa]:
    """The IKE SAs of a key log. Raises ConfigurationError with file and line for what it does not understand."""
    encrs = {name: encr for encr in ENCRS.values() for name in (_ike_encr_name(encr), encr.keyword) if name}
    integs = {
        name: integ for integ in INTEGS.values() for name in (_IKE_INTEG.get(integ.id), integ.keyword) if name
    }
    sas = []
    for where, row in _rows(directory / IKE_TABLE):
        try:
            spi_i, spi_r, ei, er, encr_name, ai, ar, integ_name = row
            if integ_name.startswith("ANY "):
                continue  # a line for Wireshark alone: one of ours stands before it
            keys = LoggedKeys(*(bytes.fromhex(text) for text in (ei, er, ai, ar)))
            integ = None if integ_name == _IKE_NONE else integs[integ_name]
            sas.append(LoggedIkeSa(bytes.fromhex(spi_i), bytes.fromhex(spi_r), encrs[encr_name], integ, keys))
        except KeyError as error:
            raise ConfigurationError(f"{where}: the algorithm {error.args[0]!r} is not implemented") from None
        except ValueError:
            raise ConfigurationError(f"{where}: not a line of an {IKE_TABLE}") from None
    return sas


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        lines = path.read_text("ascii").splitlines()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no key log there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot read the key log: {error}") from None
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(OURS_ONLY)
        if text and not text.startswith("#"):
            yield f"{path}:{number}", next(csv.reader([text]))
