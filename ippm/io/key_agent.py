"""IKEv2-derived keys from the key agent of an endpoint on this machine: a KeyProvider over its private socket.

The agent (`ikev2 run`, `ippm-ipsec host`) gives handles on IKE SAs and, by a handle, prf(SK_d, "IPPM"), which takes
the place of the passphrase; SK_d and KEYMAT never leave it. JSON objects on lines:

    {"op": "open", "spi_i": HEX, "spi_r": HEX, "derivation": "rfc7717"}    or "peer": ADDRESS, not the SPIs
    {"ok": true, "handle": 1, "prf": ..., "spi_i": HEX, "spi_r": HEX, "peer_identity": ..., "label": HEX, ...}
    {"op": "secret", "handle": 1, "context": HEX}    ->    {"ok": true, "secret": HEX}
    {"ok": false, "error": SENTENCE, "kind": "NoSuchSa"}

The secret is asked for once, when a Control connection is set up, and held until it and its last Test session have
ended, whatever becomes of the IKE SA or of the agent meanwhile. RFC 7717 sections 5.1 and 5.3.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ippm.crypto import ControlSecret, SessionKeys, pad_key_id, pbkdf2_token_key
from ippm.errors import ConfigurationError, IppmError, NoSecret
from ippm.iana import Accept
from ippm.io.keylog import canonical

log = logging.getLogger("ippm")

DERIVATION = "rfc7717"
ANSWER_WAIT_S = 5.0
"""How long the agent, a process on this machine, may take: a server that waits for it serves nobody else meanwhile."""

_MAXIMUM_REPLY_OCTETS = 64 * 1024
_MAXIMUM_LABEL_OCTETS = 16
_UCRED = struct.Struct("@iII")
_SPI_OCTETS = 8


class AgentError(IppmError):
    """The key agent is not there, does not answer, or answers what makes no sense."""


class NotForUs(AgentError):
    """The socket is another user's, or only for another user."""


class NoSuchIkeSa(AgentError):
    """The key agent has no established IKE SA with these SPIs, or with this peer. RFC 7717 section 5.3."""


@dataclass(frozen=True, slots=True)
class DerivedSecret:
    """What the agent gives for one Control connection. The secret does not show in `repr`."""

    spi_i: bytes
    spi_r: bytes
    prf: str
    peer_identity: str
    peer_address: str
    secret: bytes = field(repr=False)


class AgentSecret:
    """A ControlSecret made of prf(SK_d, "IPPM"). RFC 7717 section 5.1."""

    ikev2_derived = True
    derivation: str | None = DERIVATION

    def __init__(self, derived: DerivedSecret, key_id: bytes) -> None:
        self.key_id = key_id
        self.peer_identity: str | None = derived.peer_identity
        self._secret: bytes | None = derived.secret

    def __repr__(self) -> str:
        return f"AgentSecret(SPIi {self.key_id[:8].hex()}, SPIr {self.key_id[8:16].hex()})"

    def token_keys(self, salt: bytes, count: int) -> Sequence[bytes]:
        """The one token key: the secret's octets take the passphrase's place. RFC 7717 section 5.1."""
        if self._secret is None:
            raise AgentError("this secret is closed")
        return (pbkdf2_token_key(self._secret, salt, count),)

    def test_keys(self, protocol: str, sid: bytes, control_keys: SessionKeys) -> SessionKeys | None:
        """None: the Test keys come of the Control keys, as with a passphrase. RFC 4656 section 4.1.2."""
        return None

    def close(self) -> None:
        """Forget the secret."""
        self._secret = None


class KeyAgentProvider:
    """A KeyProvider over the key agent at `path`. `ike_sa` are the SPIs of the IKE SA that a client is to use.

    By default a client's is the newest one whose peer is the server. RFC 7717 sections 5.1 to 5.3.
    """

    offers_ikev2 = True
    count: int | None = None

    def __init__(self, path: Path, ike_sa: tuple[bytes, bytes] | None = None) -> None:
        self.path = path
        self._ike_sa = ike_sa

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> ControlSecret:
        """The secret for this server. Raises NoSecret, with the agent's reason."""
        try:
            derived = self._derive(self._ike_sa or canonical(server_address))
        except AgentError as error:
            raise NoSecret(Accept.NO_IKEV2_SA, str(error)) from None
        return AgentSecret(derived, pad_key_id(derived.spi_i + derived.spi_r))

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> ControlSecret:
        """The secret of the IKE SA that a KeyID names by its first 16 octets.

        NoSecret: Accept 6 when there is no such SA, 1 for a passphrase, 2 when the agent fails. RFC 7717 section 5.3.
        """
        if not ikev2_derived:
            raise NoSecret(Accept.FAILURE, "this server has no passphrases, only IKEv2-derived keys")
        spi_i, spi_r = key_id[:_SPI_OCTETS], key_id[_SPI_OCTETS : 2 * _SPI_OCTETS]  # rfc7717-s5.3-06
        try:
            derived = self._derive((spi_i, spi_r))
        except NoSuchIkeSa as error:
            raise NoSecret(Accept.NO_IKEV2_SA, str(error)) from None  # rfc7717-s5.3-08
        except AgentError as error:
            raise NoSecret(Accept.INTERNAL_ERROR, str(error)) from None
        if derived.peer_address and canonical(client_address) != derived.peer_address:
            # The client has proved that it has the key; that its address is another is worth a line.
            log.warning("the client %s is not the peer %s of its IKE SA", client_address, derived.peer_address)
        return AgentSecret(derived, bytes(key_id))

    def check(self) -> None:
        """Connect once. Raises ConfigurationError when it is not for us, AgentError when there is no agent."""
        try:
            with self._connection():
                pass
        except NotForUs as error:
            raise ConfigurationError(str(error)) from None

    def _derive(self, sa: tuple[bytes, bytes] | str) -> DerivedSecret:
        wanted = {"peer": sa} if isinstance(sa, str) else {"spi_i": sa[0].hex(), "spi_r": sa[1].hex()}
        with self._connection() as connection:
            opened = connection.call({"op": "open", "derivation": DERIVATION, **wanted})
            label = opened.octets("label")
            if not 1 <= len(label) <= _MAXIMUM_LABEL_OCTETS:
                raise AgentError(f"{self.path}: the key agent's reply makes no sense: label")
            given = connection.call({"op": "secret", "handle": opened.integer("handle"), "context": label.hex()})
            address = opened.text("peer_address")
            with contextlib.suppress(ValueError):
                address = canonical(address)
            derived = DerivedSecret(
                opened.octets("spi_i", _SPI_OCTETS),
                opened.octets("spi_r", _SPI_OCTETS),
                opened.text("prf"),
                opened.text("peer_identity"),
                address,
                given.octets("secret"),
            )
            if len(derived.secret) < 16:
                raise AgentError(f"{self.path}: the key agent's reply makes no sense: secret")
            return derived

    @contextlib.contextmanager
    def _connection(self) -> Iterator[_Connection]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(ANSWER_WAIT_S)
            try:
                sock.connect(os.fspath(self.path))
                self._check_server(sock)
                yield _Connection(self.path, sock)
            except (FileNotFoundError, ConnectionRefusedError):
                raise AgentError(
                    f"no key agent is running at {self.path} (start one with `ikev2 run -c FILE`)"
                ) from None
            except PermissionError:
                raise NotForUs(f"{self.path}: this key agent is not for this user: permission denied") from None
            except TimeoutError:
                raise AgentError(f"{self.path}: the key agent does not answer") from None
            except OSError as error:
                raise AgentError(f"{self.path}: {error.strerror or error}") from None

    def _check_server(self, sock: socket.socket) -> None:
        """A socket that somebody else put there would give keys that he knows."""
        _, user, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if user not in (0, os.geteuid()):
            raise NotForUs(f"{self.path}: the key agent there is run by another user (uid {user})")


class _Reply:
    """A reply whose fields are asked for by their type; AgentError for one that is not there."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self._path, self._values = path, values

    def octets(self, name: str, length: int | None = None) -> bytes:
        try:
            value = bytes.fromhex(self.text(name))
        except ValueError:
            raise self._nonsense(name) from None
        if length is not None and len(value) != length:
            raise self._nonsense(name)
        return value

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if not isinstance(value, str):
            raise self._nonsense(name)
        return value

    def integer(self, name: str) -> int:
        value = self._values.get(name)
        if not isinstance(value, int):
            raise self._nonsense(name)
        return value

    def _nonsense(self, name: str) -> AgentError:
        return AgentError(f"{self._path}: the key agent's reply makes no sense: {name}")


class _Connection:
    """Requests and their replies, one after the other."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self._path, self._sock = path, sock
        self._buffer = bytearray()

    def call(self, request: dict[str, object]) -> _Reply:
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        try:
            reply = json.loads(self._line())
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise AgentError(f"{self._path}: this is no key agent: its reply is not a JSON object")
        if reply.get("ok") is not True:
            error = str(reply.get("error", "the key agent refused"))
            if reply.get("kind") == "NoSuchSa":
                raise NoSuchIkeSa(error)
            raise AgentError(f"{self._path}, which should be a key_agent_socket, answers: {error}")
        return _Reply(self._path, reply)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            octets = self._sock.recv(4096)
            if not octets or len(self._buffer) > _MAXIMUM_REPLY_OCTETS:
                raise AgentError(f"{self._path}: the key agent closed the connection, or says too much")
            self._buffer += octets
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def parse_ike_sa(text: str) -> tuple[bytes, bytes]:
    """`SPIi:SPIr`, 16 hexadecimal digits each. Raises ConfigurationError."""
    words = text.split(":")
    try:
        spis = tuple(bytes.fromhex(word) for word in words)
    except ValueError:
        spis = ()
    if len(spis) != 2 or {len(spi) for spi in spis} != {_SPI_OCTETS}:
        raise ConfigurationError(f"--ike-sa {text}: SPIi:SPIr are wanted, 16 hexadecimal digits each")
    return spis[0], spis[1]


__all__ = ["AgentError", "KeyAgentProvider", "NoSuchIkeSa", "parse_ike_sa"]
