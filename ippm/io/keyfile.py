"""Files of KeyIDs and passphrases, in perfSONAR's `.pfs` format.

A line is an identity, white space, and the passphrase in hexadecimal: `alice 636f727265637420686f727365`. A line that
begins with `#`, and an empty one, is a comment. The file must not be readable by group or others.
RFC 4656 section 3.1, RFC 5357 section 3.1.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ippm.errors import ConfigurationError

_MAXIMUM_OCTETS = 1 << 20


def read_key_file(path: str | Path) -> dict[str, bytes]:
    """Identity -> passphrase. Raises ConfigurationError, with the file and line, for anything that is not right."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                raise ConfigurationError(f"{path}: readable by others (mode {mode & 0o777:04o}); chmod 600 it")
            octets = file.read(_MAXIMUM_OCTETS + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    if len(octets) > _MAXIMUM_OCTETS:
        raise ConfigurationError(f"{path}: longer than {_MAXIMUM_OCTETS} octets")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not UTF-8") from None
    passphrases: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        # The text of the line may be a secret: it is not repeated in an error.
        if len(words) != 2:
            raise ConfigurationError(f"{path}:{number}: an identity and a hexadecimal passphrase are wanted")
        identity = words[0]
        if len(identity.encode()) > 80:
            raise ConfigurationError(f"{path}:{number}: an identity has at most 80 octets")
        if identity in passphrases:
            raise ConfigurationError(f"{path}:{number}: {identity} is there twice")
        try:
            passphrases[identity] = bytes.fromhex(words[1])
        except ValueError:
            raise ConfigurationError(f"{path}:{number}: the passphrase of {identity} is not hexadecimal") from None
    if not passphrases:
        raise ConfigurationError(f"{path}: no identity in it")
    return passphrases
