"""The control socket: `ikev2 up`, `down`, `list`, `stats`, `log`, `reload` to a running endpoint.

One request is a JSON object on a line, `{"command": "up", "name": "lab"}`; lines `{"log": {...}}` may come before
the reply, which is `{"ok": true, "result": ...}` or `{"ok": false, "error": ..., "kind": ...}`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ikev2.errors import IkeError, LocalProtocolError
from ikev2.io.log import LogRecord, LogRing
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

MAX_CONNECTIONS = 32
FOLLOWER_BACKLOG = 1000
"""Lines kept for a reader of the log that is slower than the log; what is more is dropped and counted."""


def default_path() -> Path:
    """The control socket of an endpoint whose configuration names none."""
    return runtime_directory() / "control"


class ControlTarget(Protocol):
    """What the control socket acts on: the daemon."""

    log: LogRing

    async def up(self, name: str) -> JsonObject:
        """Bring a connection or a child up; the description of the IKE SA."""

    async def down(self, name: str) -> JsonObject:
        """Take it down."""

    async def rekey(self, name: str) -> JsonObject:
        """Rekey it."""

    def list_sas(self) -> JsonObject:
        """Connections and SAs."""

    def stats(self) -> JsonObject:
        """Counters."""

    async def reload(self) -> JsonObject:
        """Read the configuration again."""


Command: TypeAlias = Callable[[JsonObject], Awaitable[object]]


class ControlServer(PrivateServer):
    """Serves the control socket of a daemon."""

    def __init__(self, path: Path, target: ControlTarget) -> None:
        super().__init__(path, MAX_CONNECTIONS)
        self._target = target
        self._commands: Mapping[str, Command] = {
            "up": lambda request: target.up(_name(request)),
            "down": lambda request: target.down(_name(request)),
            "rekey": lambda request: target.rekey(_name(request)),
            "list": self._list,
            "stats": self._stats,
            "reload": lambda request: target.reload(),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the client goes."""
        while True:
            try:
                request = await read_request(reader)
            except LocalProtocolError as error:
                writer.write(encode(refusal(error)))
                await writer.drain()
                return  # where the next request starts is unknown
            if request is None:
                return
            if request.get("command") == "log":
                await self._log(request, reader, writer)
                continue
            await self._answer(request, writer)

    async def _answer(self, request: JsonObject, writer: asyncio.StreamWriter) -> None:
        with self._following(writer) if request.get("log") is True else contextlib.nullcontext():
            try:
                command = self._commands.get(str(request.get("command")))
                if command is None:
                    known = ", ".join(sorted((*self._commands, "log")))
                    what = f"unknown command {request.get('command')!r}"
                    raise LocalProtocolError(f"{what}; this control_socket has {known}")
                reply: JsonObject = {"ok": True, "result": await command(request)}
            except IkeError as error:
                reply = refusal(error)
        writer.write(encode(reply))
        await writer.drain()

    @contextlib.contextmanager
    def _following(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """While a command runs its client sees the log."""

        def line(record: LogRecord) -> None:
            if writer.transport.get_write_buffer_size() < FOLLOWER_BACKLOG * 100:
                writer.write(encode({"log": record.to_dict()}))

        unsubscribe = self._target.log.subscribe(line)
        try:
            yield
        finally:
            unsubscribe()

    async def _list(self, request: JsonObject) -> JsonObject:
        return self._target.list_sas()

    async def _stats(self, request: JsonObject) -> JsonObject:
        return self._target.stats()

    async def _log(self, request: JsonObject, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        last = request.get("last")
        if last is not None and (not isinstance(last, int) or last < 0):
            writer.write(encode(refusal(LocalProtocolError("`last` is a number of lines"))))
            return
        queue: asyncio.Queue[LogRecord] = asyncio.Queue(FOLLOWER_BACKLOG)

        def line(record: LogRecord) -> None:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(record)

        unsubscribe = self._target.log.subscribe(line)
        try:
            for record in self._target.log.records(last):
                writer.write(encode({"log": record.to_dict()}))
            await writer.drain()
            if request.get("follow") is True:
                await _follow(queue, reader, writer)
                return
        finally:
            unsubscribe()
        writer.write(encode({"ok": True, "result": None}))
        await writer.drain()


async def _follow(
    queue: asyncio.Queue[LogRecord], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Pass lines on until the client closes its end."""
    gone = asyncio.ensure_future(reader.read(1))
    try:
        while not gone.done():
            line = asyncio.ensure_future(queue.get())
            await asyncio.wait((line, gone), return_when=asyncio.FIRST_COMPLETED)
            if line.done():
                writer.write(encode({"log": line.result().to_dict()}))
                await writer.drain()
            else:
                line.cancel()
    finally:
        gone.cancel()


def _name(request: JsonObject) -> str:
    name = request.get("name")
    if not isinstance(name, str) or not name:
        raise LocalProtocolError("`name` is the name of a connection or of a child")
    return name


def call(
    path: Path,
    command: str,
    *,
    on_log: Callable[[JsonObject], None] | None = None,
    timeout_s: float | None = None,
    **arguments: object,
) -> Any:
    """Ask the endpoint behind `path`; its result.

    `on_log` gets the log lines that come meanwhile. Raises IkeError with the endpoint's own sentence when it
    refuses, and with one of ours when there is no endpoint.
    """
    request = {"command": command, "log": on_log is not None, **arguments}
    with contextlib.closing(connect(path, timeout_s)) as sock:
        sock.sendall(encode(request))
        lines = LineReader(sock)
        while (line := lines.line()) is not None:
            reply = decode(line)
            if "log" in reply:
                if on_log is not None:
                    on_log(reply["log"])
            elif reply.get("ok") is True:
                return reply.get("result")
            else:
                raise IkeError(str(reply.get("error", "the endpoint refused")))
    raise IkeError("the endpoint went away before it answered")
