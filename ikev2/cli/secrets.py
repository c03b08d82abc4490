"""Secrets are files, never text in the configuration that people pass around.

The format is that of strongSwan's secrets: the first line is the secret, as it stands, or `0x` and hex, or `0s` and
base64. A file that others can read is refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from ikev2.crypto.secret import SecretOctets
from ikev2.errors import ConfigurationError

MAX_SECRET_OCTETS = 4096


def read_secret(path: Path, name: str) -> SecretOctets:
    """The secret in a file. Raises ConfigurationError, which never shows what is in the file."""
    try:
        # Without O_NONBLOCK a FIFO would wait for somebody to write to it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} is not a file")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigurationError(f"{path} can be read by others: chmod 600 {path}")
            octets = file.read(MAX_SECRET_OCTETS + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except ValueError:  # a NUL octet
        raise ConfigurationError(f"{str(path)!r} is not the name of a file") from None
    line = octets.split(b"\n", 1)[0].removesuffix(b"\r")  # rfc7296-s2.15-01
    if len(octets) > MAX_SECRET_OCTETS:
        raise ConfigurationError(f"{path} is longer than {MAX_SECRET_OCTETS} octets")
    secret = _decoded(path, line)
    if not secret:
        raise ConfigurationError(f"{path}: the first line is empty: a secret is expected there")
    return SecretOctets(name, secret)


def _decoded(path: Path, line: bytes) -> bytes:
    if line.startswith(b"0x"):
        try:
            return bytes.fromhex(line[2:].decode("ascii").strip())  # rfc7296-s2.15-03
        except (ValueError, UnicodeDecodeError):
            raise ConfigurationError(f"{path}: what follows 0x is not hex octets") from None
    if line.startswith(b"0s"):
        try:
            return base64.b64decode(line[2:].strip(), validate=True)
        except binascii.Error:
            raise ConfigurationError(f"{path}: what follows 0s is not base64") from None
    return line
