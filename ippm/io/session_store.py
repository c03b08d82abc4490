"""Where an OWAMP server keeps the records of sessions: two files a session, with limits for all of them together.

`SID.records` has the records as they arrived, 25 octets each, written without a buffer; `SID.json` what else is known,
replaced as a whole. A session is given to nobody but the user who made it, in the security mode in which it was made.
RFC 4656 sections 3.9 and 6.5.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ippm.core.limits import LimitUsage, Terms
from ippm.core.owamp_events import OwampSession, Owner
from ippm.core.session_receiver import ReceiverResult, SessionEnd, maximum_records
from ippm.errors import InvalidMessage, LocalProtocolError, RefuseSession
from ippm.iana import Accept, Mode
from ippm.io.own_directory import OwnDirectory
from ippm.wire.packet_record import RECORD_OCTETS
from ippm.wire.request_session import RequestSession
from ippm.wire.skip_ranges import SkipRange

_CHUNK = RECORD_OCTETS * 4096
_BLOCK = 4096
_NUMBER = struct.Struct(">I21x")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """What is kept in memory of a session, however long its schedule and its Skip Ranges are."""

    owner: Owner
    end: SessionEnd = SessionEnd.RUNNING
    ended_unix_s: float = 0.0
    reserved: int = 0
    limit_class: str | None = None
    counted: int = 0


@dataclass(slots=True)
class _Meta:
    """What `SID.json` says."""

    request: RequestSession
    owner: Owner
    end: SessionEnd = SessionEnd.RUNNING
    next_seqno: int = 0
    skip_ranges: tuple[SkipRange, ...] = ()
    ended_unix_s: float = 0.0
    limit_class: str | None = None

    def to_json(self) -> str:
        head, slots = self.request.encode()
        return json.dumps(
            {
                "request": head.hex(),
                "slots": slots.hex(),
                "user": self.owner.user,
                "mode": int(self.owner.mode),
                "end": int(self.end),
                "next_seqno": self.next_seqno,
                "skip_ranges": [list(item) for item in self.skip_ranges],
                "ended_unix_s": self.ended_unix_s,
                "limit_class": self.limit_class,
            }
        )

    @classmethod
    def of_json(cls, text: str) -> _Meta:
        found = json.loads(text)
        request = RequestSession.parse(bytes.fromhex(found["request"]), bytes.fromhex(found["slots"]))
        owner = Owner(found["user"], Mode(found["mode"]))
        skips = tuple(SkipRange(first, last) for first, last in found["skip_ranges"])
        ended, limit_class = found["ended_unix_s"], found.get("limit_class")
        return cls(request, owner, SessionEnd(found["end"]), found["next_seqno"], skips, ended, limit_class)


class SessionStore:
    """The sessions of one server. `directory` None is a temporary one that goes when the store is closed.

    `octets` bounds what all keyed sessions take on the disk, `open_octets` what those of open mode do: whole blocks of
    both files, so that many small sessions, long schedules and many Skip Ranges count, too. A session that
    was in progress when the program ended is a broken one when it is found again. `usage` counts the `disk` of limit
    classes: a session's room until it is removed. Files are finished in any thread; all else is for one.
    RFC 4656 section 6.5.
    """

    def __init__(
        self, directory: Path | None, *, octets: int, open_octets: int, usage: LimitUsage | None = None
    ) -> None:
        self._usage = usage
        self._own: OwnDirectory | None = None
        if directory is None:
            self._own = OwnDirectory("owamp-")
            directory = self._own.path
        self.directory = directory
        self.made = self._own is not None or not self.directory.exists()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._limits = {True: octets, False: open_octets}
        self._lock = threading.Lock()
        self._sessions: dict[bytes, _Entry] = {}
        if self._own is None:
            self._load()

    def create(self, session: OwampSession, owner: Owner) -> SessionFile:
        """A new session, empty. RefuseSession when there is no room for its records."""
        # With more copies than the receiver takes the session fails, and the disk does not.
        records = RECORD_OCTETS * maximum_records(session.request.number_of_packets)
        meta = _Meta(session.request, owner, limit_class=session.limit_class)
        description = meta.to_json()
        reserved = _on_disk(records, len(description))
        keyed = owner.mode.keyed != 0
        with self._lock:
            if session.sid in self._sessions:
                raise RefuseSession(Accept.INTERNAL_ERROR, "there is a session with this SID")
            used = sum(one.reserved for one in self._sessions.values() if (one.owner.mode.keyed != 0) == keyed)
            if reserved > self._limits[keyed]:  # rfc4656-s6.5-01
                raise RefuseSession(
                    Accept.PERMANENT_LIMITATION, "the records of the session would take too much room"
                )
            if used + reserved > self._limits[keyed]:  # rfc4656-s6.5-01, rfc4656-s6.5-02
                raise RefuseSession(Accept.TEMPORARY_LIMITATION, "there is no room for the records now")
            entry = _Entry(owner, reserved=reserved, limit_class=session.limit_class)
            if self._usage is not None:
                self._usage.take(self._terms(entry), disk=reserved)  # rfc4656-s6.5-01
                entry.counted = reserved
            self._sessions[session.sid] = entry
        try:
            return SessionFile(self, session.sid, meta, description, records)
        except OSError as error:
            self.remove(session.sid)
            raise RefuseSession(Accept.INTERNAL_ERROR, f"no file for the records: {error.strerror}") from None

    def open(self, sid: bytes, owner: Owner) -> StoredFile:
        """The data of a session for the user who made it. RefuseSession for anything else, in the same words."""
        with self._lock:
            entry = self._sessions.get(sid)
        if entry is None or entry.owner != owner or entry.end is SessionEnd.INVALID:
            raise RefuseSession(Accept.FAILURE, f"there is no session {sid.hex()} for this user in this mode")
        return StoredFile(_Meta.of_json(self.meta_path(sid).read_text()), self.records_path(sid))

    def remove(self, sid: bytes) -> None:
        """Forget a session. RFC 4656 section 6.5."""
        with self._lock:
            entry = self._sessions.pop(sid, None)
            if entry is not None:
                self._recount(entry, 0)
        self.records_path(sid).unlink(missing_ok=True)
        self.meta_path(sid).unlink(missing_ok=True)

    def expire(self, keep_s: float, keep_open_s: float) -> list[bytes]:
        """Forget sessions that ended longer ago than this; gives their SIDs."""
        now = time.time()
        with self._lock:
            old = [
                sid
                for sid, entry in self._sessions.items()
                if entry.ended_unix_s
                and now - entry.ended_unix_s > (keep_s if entry.owner.mode.keyed else keep_open_s)
            ]
        for sid in old:
            self.remove(sid)
        return old

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, sid: bytes) -> bool:
        return sid in self._sessions

    def close(self) -> None:
        """Remove what is temporary."""
        if self._own is not None:
            self._own.remove()

    def records_path(self, sid: bytes) -> Path:
        """The file of the records."""
        return self.directory / f"{sid.hex()}.records"

    def meta_path(self, sid: bytes) -> Path:
        """The file of what else is known."""
        return self.directory / f"{sid.hex()}.json"

    def save(self, sid: bytes, description: str) -> None:
        """Replace the description of a session as a whole."""
        path = self.meta_path(sid)
        new = path.with_suffix(".new")
        new.write_text(description)
        new.replace(path)

    def _load(self) -> None:
        for path in self.directory.glob("*.json"):
            try:
                sid = bytes.fromhex(path.stem)
                text = path.read_text()
                meta = _Meta.of_json(text)
                reserved = _on_disk(self.records_path(sid).stat().st_size, len(text))
            except (ValueError, KeyError, TypeError, OSError, InvalidMessage) as error:
                _log.warning("%s: not read: %s", path, error)
                continue
            if meta.end is SessionEnd.RUNNING:
                meta.end, meta.ended_unix_s = SessionEnd.BROKEN, path.stat().st_mtime
                self.save(sid, meta.to_json())
            entry = _Entry(meta.owner, meta.end, meta.ended_unix_s, reserved, meta.limit_class)
            self._sessions[sid] = entry
            if self._usage is not None:
                self._usage.add(self._terms(entry), disk=reserved)
                entry.counted = reserved

    def finished(self, sid: bytes, end: SessionEnd, ended_unix_s: float, octets: int) -> None:
        """The files of a session are what they will be: so many octets on the disk."""
        with self._lock:
            entry = self._sessions.get(sid)
            if entry is not None:
                entry.end, entry.ended_unix_s, entry.reserved = end, ended_unix_s, octets

    def settle(self, sid: bytes) -> None:
        """A session has ended: from now on it counts what it takes."""
        with self._lock:
            entry = self._sessions.get(sid)
            if entry is not None:
                self._recount(entry, entry.reserved)

    def _recount(self, entry: _Entry, octets: int) -> None:
        if self._usage is not None:
            self._usage.give_back(self._terms(entry), disk=entry.counted - octets)
            entry.counted = octets

    def _terms(self, entry: _Entry) -> Terms:
        if self._usage is None:
            raise LocalProtocolError("there are no limit classes")
        return self._usage.limits.terms(entry.limit_class)


def _on_disk(*files: int) -> int:
    """What files of so many octets take, in whole blocks; an empty one has its entry in the directory."""
    return sum(max(1, -(-octets // _BLOCK)) * _BLOCK for octets in files)


class SessionFile:
    """The sink of one session's records. RFC 4656 section 3.9."""

    def __init__(self, store: SessionStore, sid: bytes, meta: _Meta, description: str, room: int) -> None:
        self._store = store
        self._sid = sid
        self._meta = meta
        self._room = room
        self._octets = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(store.records_path(sid), flags, 0o600)
        store.save(sid, description)

    def write(self, records: bytes) -> None:
        """Append records. OSError when there are more than there is room for."""
        self._octets += len(records)
        if self._octets > self._room:
            raise OSError(0, "more records than there is room for", str(self._sid.hex()))
        view = memoryview(records)
        while view:
            view = view[os.write(self._fd, view) :]

    def discard(self, keep_below: int) -> None:
        """Take back the records of packets from `keep_below` on."""
        path = self._store.records_path(self._sid)
        new = path.with_suffix(".kept")
        kept = 0
        with path.open("rb") as source, new.open("wb") as target:
            while chunk := source.read(_CHUNK):
                some = of_range(chunk, 0, keep_below - 1)
                kept += target.write(some)
        new.replace(path)
        os.close(self._fd)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._octets = kept

    def finish(self, result: ReceiverResult) -> None:
        """No more records come."""
        os.close(self._fd)
        self._fd = -1
        meta = self._meta
        meta.next_seqno, meta.skip_ranges = result.next_seqno, result.skip_ranges
        meta.ended_unix_s = time.time()
        meta.end = result.end
        description = meta.to_json()
        self._store.save(self._sid, description)
        self._store.finished(self._sid, meta.end, meta.ended_unix_s, _on_disk(self._octets, len(description)))


class StoredFile:
    """A StoredSession over the files of a store."""

    def __init__(self, meta: _Meta, path: Path) -> None:
        self.request = meta.request
        self.finished = int(meta.end)
        self.next_seqno = meta.next_seqno
        self.skip_ranges = meta.skip_ranges
        self._file = path.open("rb")
        octets = os.fstat(self._file.fileno()).st_size
        self._octets = octets - octets % RECORD_OCTETS

    def count(self, begin: int, end: int) -> int:
        """How many records there are of packets from `begin` to `end`."""
        if begin == 0 and end >= self.request.number_of_packets - 1:
            return self._octets // RECORD_OCTETS
        return sum(len(some) for some in self.records(begin, end)) // RECORD_OCTETS

    def records(self, begin: int, end: int) -> Iterator[bytes]:
        """These records, some at a time, as far as the file went when it was opened."""
        at = 0
        while at < self._octets:
            chunk = os.pread(self._file.fileno(), min(_CHUNK, self._octets - at), at)
            if not chunk:
                return
            at += len(chunk)
            yield of_range(chunk, begin, end)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def of_range(records: bytes, begin: int, end: int) -> bytes:
    """Of whole records, those of packets from `begin` to `end`."""
    if end < begin or not records:
        return b""
    numbers = [number for (number,) in _NUMBER.iter_unpack(records)]
    least, most = min(numbers), max(numbers)
    if begin <= least and most <= end:
        return records
    if most < begin or end < least:
        return b""
    places = (at * RECORD_OCTETS for at, number in enumerate(numbers) if begin <= number <= end)
    return b"".join(records[at : at + RECORD_OCTETS] for at in places)


@dataclass(slots=True)
class MemorySink:
    """The sink of a session whose records a client keeps itself."""

    request: RequestSession
    records: bytearray = field(default_factory=bytearray)
    result: ReceiverResult | None = None

    def write(self, records: bytes) -> None:
        """Append records."""
        self.records += records

    def discard(self, keep_below: int) -> None:
        """Take back the records of packets from `keep_below` on."""
        self.records = bytearray(of_range(bytes(self.records), 0, keep_below - 1))

    def finish(self, result: ReceiverResult) -> None:
        """No more records come."""
        self.result = result
