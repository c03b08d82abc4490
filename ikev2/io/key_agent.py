"""The key agent: prf outputs of established IKE SAs for another process, over a private unix socket.

Another process (a measurement tool) names an IKE SA by its SPIs or its peer, gets a handle, and asks the handle for
`secret(context)`. Only those outputs cross the socket: never SK_d, never KEYMAT. A handle ends with its connection.
RFC 7717 section 5.1 asks for such a local interface and defines none.

Requests and replies are JSON objects on lines:

    {"op": "open", "spi_i": HEX, "spi_r": HEX, "derivation": "rfc7717"}    or "peer": ADDRESS, not the SPIs
    {"ok": true, "handle": 1, "prf": "hmac-sha2-256", "spi_i": HEX, "spi_r": HEX, "local_identity": ..., ...}
    {"op": "secret", "handle": 1, "context": HEX}    ->    {"ok": true, "secret": HEX}
    {"op": "close", "handle": 1}                     ->    {"ok": true}
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ikev2.errors import IkeError, LocalProtocolError
from ikev2.io.unix_socket import (
    JsonObject,
    LineReader,
    PrivateServer,
    connect,
    decode,
    encode,
    read_request,
    refusal,
    runtime_directory,
)

if TYPE_CHECKING:
    from ikev2.core.exporter import KeyHandle

MAX_CONNECTIONS = 1024
MAX_HANDLES = 256
"""Handles of one connection."""
IDLE_S = 60.0
"""A connection without an open handle is closed after this time; one that holds a key may wait for ever."""
CLIENT_TIMEOUT_S = 10.0
_MAX_REPLY_OCTETS = 64 * 1024


def default_path() -> Path:
    """The key agent's socket of an endpoint whose configuration names none."""
    return runtime_directory() / "keys"


class Exporter(Protocol):
    """What the agent serves: core's KeyExporter, or a client of another agent."""

    def open(
        self,
        sa: tuple[bytes, bytes] | str,
        derivation: str = "rfc7717",
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> KeyHandle:
        """A handle for the IKE SA with these SPIs, or with this peer address."""
        ...


class KeyAgentServer(PrivateServer):
    """Serves the handles of one exporter."""

    def __init__(self, path: Path, exporter: Exporter, note: Callable[[str], None] | None = None) -> None:
        super().__init__(path, MAX_CONNECTIONS)
        self._exporter = exporter
        self._note = note

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client; its handles are closed when it goes."""
        session = _Session(self._exporter, self._note)
        try:
            while True:
                timeout_s = None if session.handles else IDLE_S
                try:
                    async with asyncio.timeout(timeout_s):
                        request = await read_request(reader)
                except TimeoutError:
                    return
                except LocalProtocolError as error:
                    writer.write(encode(refusal(error)))
                    await writer.drain()
                    return
                if request is None:
                    return
                writer.write(encode(session.answer(request)))
                await writer.drain()
        finally:
            session.close()


class _Session:
    """The handles of one connection."""

    def __init__(self, exporter: Exporter, note: Callable[[str], None] | None) -> None:
        self.handles: dict[int, KeyHandle] = {}
        self._exporter = exporter
        self._note = note
        self._number = 0

    def answer(self, request: JsonObject) -> JsonObject:
        try:
            match request.get("op"):
                case "open":
                    return self._open(request)
                case "secret":
                    context = _octets(request, "context")
                    return {"ok": True, "secret": self._handle(request).secret(context).hex()}
                case "close":
                    self._handle(request).close()
                    del self.handles[request["handle"]]
                    return {"ok": True}
            raise LocalProtocolError(
                f"unknown op {request.get('op')!r}; this key_agent_socket has open, secret, close"
            )
        except IkeError as error:
            return refusal(error)

    def close(self) -> None:
        for handle in self.handles.values():
            handle.close()
        self.handles.clear()

    def _open(self, request: JsonObject) -> JsonObject:
        if len(self.handles) >= MAX_HANDLES:
            raise LocalProtocolError(f"one connection holds at most {MAX_HANDLES} handles")
        derivation = request.get("derivation", "rfc7717")
        child_spi = request.get("child_spi")
        if not isinstance(derivation, str) or not (child_spi is None or isinstance(child_spi, int)):
            raise LocalProtocolError("`derivation` is a word, `child_spi` a number")
        peer = request.get("peer")
        if not isinstance(peer, str | None):
            raise LocalProtocolError("`peer` is an address")
        sa = peer if peer is not None else (_octets(request, "spi_i", 8), _octets(request, "spi_r", 8))
        handle = self._exporter.open(
            sa, derivation, child_spi=child_spi, server_is_local=request.get("server_is_local") is True
        )
        self._number += 1
        self.handles[self._number] = handle
        if self._note is not None:
            self._note(f"key agent: opened a {derivation} handle on {handle.spi_i.hex()}_i {handle.spi_r.hex()}_r")
        return {"ok": True, "handle": self._number, **describe(handle)}

    def _handle(self, request: JsonObject) -> KeyHandle:
        number = request.get("handle")
        handle = self.handles.get(number) if isinstance(number, int) else None
        if handle is None:
            raise LocalProtocolError("no such handle on this connection")
        return handle


def describe(handle: KeyHandle) -> JsonObject:
    """What a handle says about itself: nothing secret."""
    return {
        "derivation": handle.derivation,
        "prf": handle.prf_name,
        "spi_i": handle.spi_i.hex(),
        "spi_r": handle.spi_r.hex(),
        "local_identity": handle.local_identity,
        "peer_identity": handle.peer_identity,
        "peer_address": handle.peer_address,
        "child_spi": handle.child_spi,
        "label": handle.label.hex(),
    }


def _octets(request: JsonObject, key: str, length: int | None = None) -> bytes:
    try:
        octets = bytes.fromhex(request[key])
    except (KeyError, TypeError, ValueError):
        raise LocalProtocolError(f"`{key}` is missing or not hex") from None
    if length is not None and len(octets) != length:
        raise LocalProtocolError(f"`{key}` has {len(octets)} octets, not {length}")
    return octets


class KeyAgentClient:
    """Opens handles at the key agent of another process; each handle has a connection of its own.

    It has the `open` of core's KeyExporter, so that either serves.
    """

    def __init__(self, path: Path, timeout_s: float = CLIENT_TIMEOUT_S) -> None:
        self.path = path
        self._timeout_s = timeout_s

    def open(
        self,
        sa: tuple[bytes, bytes] | str,
        derivation: str = "rfc7717",
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> RemoteKeyHandle:
        """A handle for the IKE SA with these SPIs, or with this peer address.

        Raises NoSuchSa when there is none, LocalProtocolError when the request makes no sense, IkeError when there
        is no agent.
        """
        request: JsonObject = {"op": "open", "derivation": derivation, "server_is_local": server_is_local}
        if child_spi is not None:
            request["child_spi"] = child_spi
        if isinstance(sa, str):
            request["peer"] = sa
        else:
            request["spi_i"], request["spi_r"] = sa[0].hex(), sa[1].hex()
        connection = _Connection(self.path, self._timeout_s)
        try:
            return RemoteKeyHandle(connection, connection.call(request))
        except IkeError:
            connection.close()
            raise


class _Connection:
    """One connection to the agent: requests of several threads take turns."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._errors = _error_classes()
        self._lock = threading.Lock()
        self._sock = connect(path, timeout_s)
        self._lines = LineReader(self._sock, _MAX_REPLY_OCTETS)

    def call(self, request: JsonObject) -> JsonObject:
        """One request and its reply; a refusal is raised as the error that the agent had."""
        with self._lock:
            try:
                self._sock.sendall(encode(request))
            except OSError as error:
                raise IkeError(f"the key agent does not answer: {error.strerror or error}") from None
            line = self._lines.line()
        if line is None:
            raise IkeError("the key agent closed the connection")
        reply = decode(line)
        if reply.get("ok") is not True:
            kind = self._errors.get(str(reply.get("kind")), IkeError)
            raise kind(str(reply.get("error", "the key agent refused")))
        return reply

    def close(self) -> None:
        self._sock.close()


class RemoteKeyHandle:
    """A KeyHandle whose key stays in the endpoint's process."""

    def __init__(self, connection: _Connection, reply: JsonObject) -> None:
        self._connection = connection
        try:
            self._number = int(reply["handle"])
            self.derivation = str(reply["derivation"])
            self.prf_name = str(reply["prf"])
            self.spi_i = bytes.fromhex(reply["spi_i"])
            self.spi_r = bytes.fromhex(reply["spi_r"])
            self.local_identity = str(reply["local_identity"])
            self.peer_identity = str(reply["peer_identity"])
            self.peer_address = str(reply["peer_address"])
            self.child_spi: int | None = None if reply["child_spi"] is None else int(reply["child_spi"])
            self.label = bytes.fromhex(reply["label"])
        except (KeyError, TypeError, ValueError):
            raise IkeError("the key agent's reply makes no sense") from None

    def secret(self, context: bytes) -> bytes:
        """prf(K, context), whole; LocalProtocolError for a context that is not allowed."""
        reply = self._connection.call({"op": "secret", "handle": self._number, "context": context.hex()})
        try:
            return bytes.fromhex(reply["secret"])
        except (KeyError, TypeError, ValueError):
            raise IkeError("the key agent's reply makes no sense") from None

    def close(self) -> None:
        """Close the connection, upon which the agent forgets the key. A second time is no error."""
        self._connection.close()

    def __repr__(self) -> str:
        return f"<{self.derivation} key of {self.spi_i.hex()}_i {self.spi_r.hex()}_r, {self.prf_name}>"


def _error_classes() -> dict[str, type[IkeError]]:
    """The errors that keep their class across the socket."""
    from ikev2.core.exporter import NoSuchSa

    return {"LocalProtocolError": LocalProtocolError, "NoSuchSa": NoSuchSa}
