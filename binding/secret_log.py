"""The key log of what the IKE SA gives to O/TWAMP, only when asked for, beside the keys that come of it.

`o_twamp_keys` is `ippm`'s own key log, which `ippm decode` reads: session keys. `o_twamp_secrets` has what a second
decoder starts from to check the derivation. One line per secret, words apart by one space, octets in hex:

    control KEYID(80) DERIVATION PRF SECRET       what took the passphrase's place on a Control connection
    test SID(16) DERIVATION PRF SECRET            S_t of a Test session, for the derivations that have one

Both files have mode 0600. Whoever reads one reads the traffic.
"""

from __future__ import annotations

import os
from pathlib import Path

from ippm import KeyLogWriter

FILE_NAME = "o_twamp_secrets"


class SecretLog:
    """Appends to DIRECTORY/o_twamp_secrets. `key_log` is for the O/TWAMP roles.

    Raises ConfigurationError when others can look into the directory, or into what is there; OSError when it cannot
    be written.
    """

    def __init__(self, directory: Path) -> None:
        self.key_log = KeyLogWriter(directory)
        descriptor = os.open(directory / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        self._file = os.fdopen(descriptor, "w", encoding="ascii")

    def control(self, key_id: bytes, derivation: str, prf: str, secret: bytes) -> None:
        """The secret of a Control connection."""
        self._write("control", key_id, derivation, prf, secret)

    def test(self, sid: bytes, derivation: str, prf: str, secret: bytes) -> None:
        """The secret of a Test session."""
        self._write("test", sid, derivation, prf, secret)

    def close(self) -> None:
        """Close the files."""
        self.key_log.close()
        self._file.close()

    def _write(self, kind: str, identifier: bytes, derivation: str, prf: str, secret: bytes) -> None:
        if not self._file.closed:
            self._file.write(f"{kind} {identifier.hex()} {derivation} {prf} {secret.hex()}\n")
            self._file.flush()
