"""Private unix sockets that speak JSON, one object on each line: the shared half of control socket and key agent.

A socket is made with mode 0600 in a directory that nobody else can write; a request line is bounded; a reply is
`{"ok": true, ...}` or `{"ok": false, "error": SENTENCE, "kind": WORD}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ikev2.errors import ConfigurationError, IkeError, LocalProtocolError

MAX_REQUEST_OCTETS = 64 * 1024
MAX_REPLY_OCTETS = 64 * 1024 * 1024
_SUN_PATH_OCTETS = 107

JsonObject: TypeAlias = dict[str, Any]


def runtime_directory() -> Path:
    """Where sockets live unless the configuration says otherwise: /run/ikev2 for root, else the user's own."""
    if os.geteuid() == 0:
        return Path("/run/ikev2")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/ikev2-{os.geteuid()}") / "ikev2"  # noqa: S108


def bind_private(path: Path) -> socket.socket:
    """A listening stream socket at `path`, mode 0600, taking the place of one that a dead process left.

    Raises ConfigurationError with a sentence when the place is taken or cannot be used.
    """
    if len(os.fsencode(path)) > _SUN_PATH_OCTETS:
        raise ConfigurationError(f"{path}: a socket's path has at most {_SUN_PATH_OCTETS} octets")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_shared_directory(path.parent)
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot make a socket there: {error.strerror}") from None
    old_mask = os.umask(0o177)
    try:
        sock.bind(os.fspath(path))
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise ConfigurationError(f"{path}: cannot make a socket there: {error.strerror}") from None
    finally:
        os.umask(old_mask)
    sock.setblocking(False)
    return sock


def _refuse_shared_directory(directory: Path) -> None:
    """Others who can write the directory could put their own socket in the place of ours."""
    status = directory.stat()
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"{directory}: others can write this directory; a socket of keys does not belong there"
        )


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(f"{path}: exists and is not a socket")
    except FileNotFoundError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigurationError(
        f"{path}: another endpoint is running there; give this one a control_socket and a key_agent_socket of its own "
        "in [endpoint]"
    )


def connect(path: Path, timeout_s: float | None) -> socket.socket:
    """A blocking connection to a private socket. Raises IkeError with a sentence when nobody serves it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(timeout_s)
    try:
        sock.connect(os.fspath(path))
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise IkeError(f"no endpoint is running at {path} (start one with `ikev2 run -c FILE`)") from None
        raise IkeError(f"{path}: {error.strerror or error}") from None
    return sock


def encode(value: Mapping[str, object]) -> bytes:
    """One JSON object as a line."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> JsonObject:
    """The JSON object of a line. Raises LocalProtocolError for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise LocalProtocolError("the line is not JSON") from None
    if not isinstance(value, dict):
        raise LocalProtocolError("the line is not a JSON object")
    return value


def refusal(error: IkeError) -> JsonObject:
    """The reply that carries an error."""
    return {"ok": False, "error": str(error), "kind": type(error).__name__}


class LineReader:
    """Bounded lines from a blocking socket."""

    def __init__(self, sock: socket.socket, limit: int = MAX_REPLY_OCTETS) -> None:
        self._sock = sock
        self._limit = limit
        self._buffer = bytearray()

    def line(self) -> bytes | None:
        """The next line without its end; None at the end of the stream. Raises IkeError when it is too long."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > self._limit:
                raise IkeError("the reply is too long")
            try:
                octets = self._sock.recv(65536)
            except TimeoutError:
                raise IkeError("the endpoint did not answer in time") from None
            except OSError as error:
                raise IkeError(f"the endpoint closed the connection: {error.strerror}") from None
            if not octets:
                return None
            self._buffer += octets
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class PrivateServer:
    """Serves a private unix socket on the running loop with at most `max_connections` at a time."""

    def __init__(self, path: Path, max_connections: int) -> None:
        self.path = path
        self.max_connections = max_connections
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises ConfigurationError when the path cannot be used."""
        sock = bind_private(self.path)
        self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=MAX_REQUEST_OCTETS)

    async def stop(self) -> None:
        """Close the socket and every connection, and remove the path."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        raise NotImplementedError

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        try:
            if len(self._tasks) >= self.max_connections:
                await self._refuse(reader, writer)
                return
            self._tasks.add(task)
            await self.serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection too many. Its request is read first: closing over unread octets would lose the answer."""
        with contextlib.suppress(TimeoutError, ValueError):
            async with asyncio.timeout(1):
                await reader.readline()
        writer.write(encode(refusal(IkeError("too many connections to this socket"))))
        await writer.drain()


async def read_request(reader: asyncio.StreamReader) -> JsonObject | None:
    """The next request; None at the end. Raises LocalProtocolError for one that is too long or not JSON."""
    try:
        line = await reader.readline()
    except ValueError:  # the stream's limit
        raise LocalProtocolError(f"a request has at most {MAX_REQUEST_OCTETS} octets") from None
    return decode(line) if line.endswith(b"\n") else None
