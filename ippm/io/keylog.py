"""The key log of O/TWAMP: what decrypts a capture of Control and Test, written only when somebody asked for it.

A line of the file `o_twamp_keys` is one connection or one session, words apart by one space, octets in hexadecimal:

    control PROTOCOL MODES CLIENT-IV SERVER-IV AES-SESSION-KEY HMAC-SESSION-KEY
    test PROTOCOL MODES SID SENDER RECEIVER AES-SESSION-KEY HMAC-SESSION-KEY

PROTOCOL is `owamp` or `twamp`; MODES are the four octets of the Mode field in the Set-Up-Response, as they were sent;
SENDER and RECEIVER (in TWAMP the reflector) are ADDRESS:PORT, an IPv6 address in brackets. A connection is found by
its two IVs, which its capture has in clear. The keys of `test` are those in use: derived from the Control keys by
RFC 4656 section 4.1.2, or from an IKE SA. A line that begins with `#` is a comment, and one whose first word is not
known is for a later version.

Whoever reads this file reads the traffic, and can forge it. The directory has mode 0700, the file 0600. The checks of
both are those of `ikev2`'s key log, which may lie in the same directory; they stand here again because neither
package imports the other.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TextIO

from ippm.core.control_events import Endpoint
from ippm.core.key_log import ControlKeys, TestKeys
from ippm.crypto import SessionKeys
from ippm.errors import ConfigurationError

FILE_NAME = "o_twamp_keys"
_HEAD = "# keys of OWAMP and TWAMP: whoever has them reads, and can forge, the traffic\n"
_PROTOCOLS = ("owamp", "twamp")
_MAXIMUM_OCTETS = 1 << 28


class KeyLogWriter:
    """Writes the key log of this process; it is the roles' `KeyLog`.

    Raises ConfigurationError when the directory cannot be used, or others can look into it.
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
            self._file = _private_append(directory / FILE_NAME)
        except OSError as error:
            raise ConfigurationError(f"{directory}: cannot keep a key log there: {error.strerror}") from None

    def __repr__(self) -> str:
        return f"KeyLogWriter({str(self.directory)!r})"

    @property
    def warning(self) -> str:
        """What a person must read before the first key is written."""
        return (
            f"WARNING: the keys of every Control connection and Test session are being written to {self.directory}: "
            "whoever reads them reads, and can forge, the traffic"
        )

    def control(self, entry: ControlKeys) -> None:
        """The keys of a Control connection."""
        ivs = f"{entry.client_iv.hex()} {entry.server_iv.hex()}"
        self._write(f"control {entry.protocol} {entry.modes:08x} {ivs} {_hex(entry.keys)}")

    def test(self, entry: TestKeys) -> None:
        """The keys of a Test session."""
        places = f"{_place_text(entry.sender)} {_place_text(entry.receiver)}"
        self._write(f"test {entry.protocol} {entry.modes:08x} {entry.sid.hex()} {places} {_hex(entry.keys)}")

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()

    def _write(self, line: str) -> None:
        """At once on disk: a capture is often read while the session runs."""
        if self._file.closed:
            return
        # A full disk must not end a session: the roles do not expect a key log to fail.
        with contextlib.suppress(OSError):
            self._file.write(line + "\n")
            self._file.flush()


def _hex(keys: SessionKeys) -> str:
    return f"{keys.aes.hex()} {keys.hmac.hex()}"


def _place_text(place: Endpoint) -> str:
    host = canonical(place.host)
    return f"[{host}]:{place.port}" if ":" in host else f"{host}:{place.port}"


def canonical(host: str) -> str:
    """An address as its shortest text, without an IPv6 zone, and an IPv4 one without the IPv6 around it."""
    address = ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def _private_append(path: Path) -> TextIO:
    """`path`, mode 0600, opened to append. Raises ConfigurationError when others can read what is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    status = os.fstat(descriptor)
    if stat.S_IMODE(status.st_mode) & 0o077:
        os.close(descriptor)
        raise ConfigurationError(f"{path}: others can read this key log: chmod 600 it")
    file = os.fdopen(descriptor, "a", encoding="ascii")
    if not status.st_size:
        file.write(_HEAD)
        file.flush()
    return file


@dataclass(frozen=True, slots=True)
class LoggedKeys:
    """A key log, read back: connections by their two IVs, sessions by protocol and SID."""

    connections: dict[tuple[bytes, bytes], ControlKeys] = field(default_factory=dict)
    sessions: dict[tuple[str, bytes], TestKeys] = field(default_factory=dict)


def read_key_log(directory: Path) -> LoggedKeys:
    """The key log in a directory. Raises ConfigurationError with file and line for what it does not understand."""
    path = directory / FILE_NAME
    logged = LoggedKeys()
    for number, words in _lines(path):
        try:
            if words[0] == "control":
                connection = _control(words)
                logged.connections[connection.client_iv, connection.server_iv] = connection
            elif words[0] == "test":
                session = _test(words)
                logged.sessions[session.protocol, session.sid] = session
        except ValueError as error:
            # The words of the line are secrets: they are not repeated.
            raise ConfigurationError(f"{path}:{number}: not a line of a key log: {error}") from None
    return logged


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAXIMUM_OCTETS).decode("ascii")
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no key log there") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the key log: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not a key log: it is not ASCII") from None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _control(words: list[str]) -> ControlKeys:
    if len(words) != 7:
        raise ValueError(f"`control` has 7 words, not {len(words)}")
    client_iv, server_iv = _octets(words[3], 16, "the Client-IV"), _octets(words[4], 16, "the Server-IV")
    return ControlKeys(_protocol(words[1]), _modes(words[2]), client_iv, server_iv, _keys(words[5], words[6]))


def _test(words: list[str]) -> TestKeys:
    if len(words) != 8:
        raise ValueError(f"`test` has 8 words, not {len(words)}")
    sid = _octets(words[3], 16, "the SID")
    places = _place(words[4]), _place(words[5])
    return TestKeys(_protocol(words[1]), _modes(words[2]), sid, *places, _keys(words[6], words[7]))


def _protocol(word: str) -> str:
    if word not in _PROTOCOLS:
        raise ValueError("the protocol is owamp or twamp")
    return word


def _modes(word: str) -> int:
    return int.from_bytes(_octets(word, 4, "the Mode field"))


def _octets(word: str, octets: int, name: str) -> bytes:
    try:
        value = bytes.fromhex(word)
    except ValueError:
        value = b""
    if len(value) != octets:
        raise ValueError(f"{name} has {octets} octets in hexadecimal")
    return value


def _keys(aes: str, hmac: str) -> SessionKeys:
    return SessionKeys(_octets(aes, 16, "the AES Session-key"), _octets(hmac, 32, "the HMAC Session-key"))


def _place(word: str) -> Endpoint:
    host, _, port = word.rpartition(":")
    try:
        return Endpoint(canonical(host.strip("[]")), int(port))
    except ValueError:
        raise ValueError("a place is ADDRESS:PORT, or [ADDRESS]:PORT") from None
