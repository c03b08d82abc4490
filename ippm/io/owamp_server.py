"""An OWAMP server on asyncio: the Server role on TCP, a thread that receives, a thread that sends, files of records.

RFC 4656 sections 3 and 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

from ippm.core.control_events import (
    ClientRefused,
    ClientSetUp,
    ConnectionClosed,
    Endpoint,
    SessionDenied,
    SessionsStarted,
)
from ippm.core.one_way_sender import OneWayPlan, OneWaySender
from ippm.core.owamp_events import (
    OwampServerEvent,
    OwampSession,
    OwampSessionOpened,
    Owner,
    SessionDelivered,
    SessionFetched,
    StopReceived,
    StoredSession,
)
from ippm.core.owamp_policy import OwampServerConfig, mean_bits_per_second
from ippm.core.owamp_server import OwampServer as ServerRole
from ippm.core.owamp_server import with_port
from ippm.core.server_policy import check_count
from ippm.core.session_receiver import ReceiverPlan, ReceiverResult, SessionEnd
from ippm.core.session_schedule import SessionSchedule
from ippm.crypto import Entropy, KeyProvider, NoProvider
from ippm.errors import LocalProtocolError, RefuseSession
from ippm.iana import Accept, Mode
from ippm.io.clock import now_ntp
from ippm.io.control_server import ControlConnection, ControlTcpServer, log_denied, log_set_up, session_socket
from ippm.io.control_tcp import own_ipv4
from ippm.io.entropy import SystemEntropy
from ippm.io.one_way_loop import OneWayLoop, SenderEnding
from ippm.io.owamp_options import OwampServerOptions
from ippm.io.receiver_loop import Ending, ReceiverLoop
from ippm.io.session_store import SessionStore
from ippm.io.test_socket import impaired, resolved
from ippm.io.transmit_stamps import StampOptions

log = logging.getLogger("ippm.server")

_EXPIRE_S = 60.0
_FEW_SLOTS = 16
_INVALID = ReceiverResult(SessionEnd.INVALID, 0, (), 0, "stopped as a failure")


class OwampServer(ControlTcpServer):
    """An OWAMP server: `await start()`, then `port` says where; `await stop()` ends everything.

    `provider` finds the shared secrets; without one only open mode is offered. Raises ConfigurationError.
    RFC 4656 section 3.
    """

    NAME = "OWAMP"

    def __init__(
        self,
        options: OwampServerOptions | None = None,
        provider: KeyProvider | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.options = options or OwampServerOptions()
        super().__init__(self.options)
        self.provider: KeyProvider = provider or NoProvider()
        self.entropy = entropy or SystemEntropy()
        self._config = _config(self.options, self.provider, offers_keys=provider is not None)
        self._refusing = OwampServerConfig(modes=Mode(0))
        self._owners: dict[bytes, tuple[_Connection, OwampSession]] = {}
        self._rates: dict[bytes, tuple[bool, float]] = {}
        self._store: SessionStore | None = None
        self._receivers: ReceiverLoop | None = None
        self._senders: OneWayLoop | None = None
        self._expiring: asyncio.Task[None] | None = None

    @property
    def sessions(self) -> int:
        """How many test sessions there are."""
        return len(self._owners)

    @property
    def stored(self) -> int:
        """How many sessions have records here."""
        return 0 if self._store is None else len(self._store)

    @property
    def directory(self) -> Path | None:
        """Where the records are, once the server has started."""
        return None if self._store is None else self._store.directory

    @property
    def made_directory(self) -> bool:
        """True when this server has made the directory of the records."""
        return self._store is not None and self._store.made

    async def start(self) -> None:
        """Listen. Raises IppmError when the address or port cannot be had."""
        options = self.options
        await self._open()
        self._store = SessionStore(
            options.store,
            octets=options.disk_octets,
            open_octets=options.open_disk_octets,
            usage=options.usage,
        )
        self._receivers = ReceiverLoop(
            on_complete=self._later(self._receiver_complete),
            on_finished=self._later(self._receiver_finished),
            io=self.options.io,
        )
        self._senders = OneWayLoop(
            self._later(self._sender_ended),
            stamps=StampOptions(transmit=False, correct=self.options.correct_stamps),
        )
        self._expiring = asyncio.create_task(self._expire())
        self._log_listening(self._config.modes)

    async def stop(self) -> None:
        """Close every connection, end every session, stop listening."""
        await self._shut()
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)
        if self._receivers is not None and self._senders is not None:
            await asyncio.to_thread(self._senders.close)
            await asyncio.to_thread(self._receivers.close)
        self._receivers = self._senders = None
        for sid, (owner, _) in list(self._owners.items()):
            owner.role.session_ended(sid)
        self._owners.clear()
        if self._store is not None:
            self._store.close()

    def _make_connection(
        self, sock: socket.socket, local: Endpoint, remote: Endpoint, *, refuse: bool
    ) -> ControlConnection:
        return _Connection(self, sock, local, remote, self._refusing if refuse else self._config)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_S)
            if self._store is not None:
                gone = self._store.expire(self.options.keep_s, max(self.options.keep_open_s, _EXPIRE_S))
                for connection in self._connections.values():
                    if isinstance(connection, _Connection):
                        connection.made_open.difference_update(gone)

    # Sessions.

    def open_session(self, connection: _Connection, session: OwampSession, owner: Owner) -> int:
        """Open a test socket, and for what we receive a file; the port. Raises RefuseSession."""
        if self._receivers is None or self._senders is None or self._store is None:
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, "the server is stopping")
        if len(self._owners) >= self.options.maximum_sessions:
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, "the server has no room for another session")
        if session.sid in self._owners or (session.server_sends and session.sid in self._store):
            raise RefuseSession(Accept.NOT_SUPPORTED, "the SID is that of another session")
        keyed = owner.mode.keyed != 0
        rate = self._check_rate(session, owner)
        self._check_slots(session)
        host = session.sender.host if session.server_sends else session.receiver.host
        sock = session_socket(self.options, host, 0, (session.request.dscp or 0) if session.server_sends else 0)
        port = int(sock.getsockname()[1])
        try:
            self._add(with_port(session, port), sock, owner)
        except (LocalProtocolError, OSError) as error:
            sock.close()
            raise RefuseSession(Accept.INTERNAL_ERROR, str(error)) from None
        except RefuseSession:
            sock.close()
            raise
        self._owners[session.sid] = connection, session
        self._rates[session.sid] = keyed, rate
        return port

    def _add(self, session: OwampSession, sock: socket.socket, owner: Owner) -> None:
        if self._receivers is None or self._senders is None or self._store is None:
            return
        request = session.request
        schedule = SessionSchedule(request.slots, session.sid, request.number_of_packets)
        mode = int(session.mode)
        if session.server_sends:
            remote = (session.receiver.host, session.receiver.port)
            plan = OneWayPlan(
                sid=session.sid,
                mode=mode,
                keys=session.keys,
                remote=remote,
                schedule=schedule,
                start_time=request.start_time,
                timeout_ns=session.timeout_ns,
                padding_octets=request.padding_length,
            )
            self._senders.add_session(plan, impaired(sock, self.options.impairments, mode, session.keys))
            return
        if not self.options.any_receiver:
            # Only packets of the client's sender come through.
            connect_to(sock, session.sender)
        receiver = ReceiverPlan(
            sid=session.sid,
            mode=mode,
            keys=session.keys,
            schedule=schedule,
            start_time=request.start_time,
            timeout=request.timeout,
        )
        self._receivers.add_session(receiver, sock, self._store.create(session, owner))

    def _check_rate(self, session: OwampSession, owner: Owner) -> float:
        """The average bits per second of a session. RefuseSession when all together would be too many."""
        keyed = owner.mode.keyed != 0
        rate = mean_bits_per_second(session.request, owner.mode)
        limit = self.options.bits_per_second if keyed else self.options.open_bits_per_second
        used = sum(other for its, other in self._rates.values() if its == keyed)
        if used + rate > limit:  # rfc4656-s6.5-01, rfc4656-s6.5-02
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, f"all sessions together would exceed {limit} bits/s")
        return rate

    def _check_slots(self, session: OwampSession) -> None:
        """RefuseSession when the schedules of all sessions together would take too much memory."""
        slots, keyed = len(session.request.slots), bool(session.mode.keyed)
        if slots <= _FEW_SLOTS:
            return
        limit = self.options.schedule_slots if keyed else self.options.open_schedule_slots
        others = (len(one.request.slots) for _, one in self._owners.values() if bool(one.mode.keyed) == keyed)
        used = sum(its for its in others if its > _FEW_SLOTS)
        if used + slots > limit:  # rfc4656-s6.5-01, rfc4656-s6.5-02
            words = f"the schedules of all sessions may have {limit} slots, {used} are taken"
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, words)

    def fetch(self, sid: bytes, owner: Owner) -> StoredSession:
        """The data of a session. Raises RefuseSession."""
        if self._store is None:
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, "the server is stopping")
        return self._store.open(sid, owner)

    def start_session(self, sid: bytes) -> None:
        """Start-Sessions has come."""
        if sid not in self._owners or self._receivers is None or self._senders is None:
            return
        _, session = self._owners[sid]
        with contextlib.suppress(LocalProtocolError):
            if session.server_sends:
                self._senders.start(sid)
            else:
                self._receivers.start(sid)

    def stop_session(self, sid: bytes, stop: StopReceived) -> None:
        """Stop-Sessions has come: end what we send, finish what we receive. RFC 4656 section 3.8."""
        if sid not in self._owners or self._receivers is None or self._senders is None:
            return
        _, session = self._owners[sid]
        if session.server_sends:
            self._senders.stop(sid)
        else:
            # rfc4656-s3.8-03
            self._receivers.finish(sid, stop.descriptions.get(sid) if stop.accept == Accept.OK else _INVALID)

    def break_session(self, sid: bytes, *, invalid: bool) -> None:
        """The connection ended without Stop-Sessions. RFC 4656 section 3.8."""
        if sid not in self._owners or self._receivers is None or self._senders is None:
            return
        _, session = self._owners[sid]
        if session.server_sends:
            self._senders.stop(sid)
        else:
            self._receivers.finish(sid, _INVALID if invalid else None)

    # From the threads, by way of the event loop.

    def _receiver_complete(self, sid: bytes) -> None:
        if sid in self._owners:
            connection, _ = self._owners[sid]
            connection.complete(sid, None)

    def _receiver_finished(self, sid: bytes, ending: Ending) -> None:
        counters = "".join(f", {name} {n}" for name, n in ending.counters.items())
        log.info("session %s: %d received, %s%s", sid.hex(), ending.received, ending.result.end.name, counters)
        if self._store is not None:
            self._store.settle(sid)
        if ending.result.end is SessionEnd.INVALID:
            log.warning("session %s is invalid: %s", sid.hex(), ending.result.reason)
        if sid in self._owners:
            connection, _ = self._owners[sid]
            connection.complete(sid, None)
            self._gone_session(sid)

    def _sender_ended(self, sid: bytes, ending: SenderEnding) -> None:
        log.info(
            "session %s: %d sent%s", sid.hex(), ending.session.sent, f"; {ending.error}" if ending.error else ""
        )
        if sid in self._owners:
            connection, _ = self._owners[sid]
            connection.complete(sid, ending.session)
            self._gone_session(sid)

    def _gone_session(self, sid: bytes) -> None:
        connection, session = self._owners.pop(sid)
        self._rates.pop(sid, None)
        connection.role.session_ended(sid)
        connection.wake()
        if connection.role.closed and self.goes_with_connection(session):
            self.reclaim(sid)

    def delete(self, sid: bytes) -> None:
        """Forget the records of a session that has ended."""
        if self._store is not None and sid not in self._owners:
            self._store.remove(sid)

    def goes_with_connection(self, session: OwampSession) -> bool:
        """Whether the records of a session are removed when its connection is closed. RFC 4656 section 6.5."""
        return not (session.server_sends or session.mode.keyed or self.options.keep_open_s)

    def reclaim(self, sid: bytes) -> None:
        """Of a closed connection: the records of an open session go. RFC 4656 section 6.5."""
        if self._store is not None and sid not in self._owners:
            self._store.remove(sid)  # rfc4656-s6.5-04


def connect_to(sock: socket.socket, remote: Endpoint) -> None:
    """Take datagrams of this peer only. Raises OSError."""
    sock.connect(resolved(sock.family, *remote))


def _config(options: OwampServerOptions, provider: KeyProvider, *, offers_keys: bool) -> OwampServerConfig:
    return OwampServerConfig(
        modes=options.modes if offers_keys else options.modes & Mode.OPEN,
        count=check_count(provider.count or options.count),
        servwait_s=options.servwait_s,
        setup_wait_s=options.setup_wait_s,
        start_time=now_ntp(),
        strict_modes=options.strict_modes,
        any_receiver=options.any_receiver,
        sessions_per_connection=options.sessions_per_connection,
        open_sessions_per_connection=options.open_sessions_per_connection,
        maximum_packets=options.maximum_packets,
        open_maximum_packets=options.open_maximum_packets,
        bits_per_second=options.bits_per_second,
        open_bits_per_second=options.open_bits_per_second,
        sid_address=own_ipv4(),
        ikev2_bit=options.ikev2_bit,
        usage=options.usage,
        key_log=options.key_log,
        impairments=options.impairments,
    )


class _Connection(ControlConnection):
    """One Control connection of an OWAMP server."""

    _server: OwampServer

    def __init__(
        self, server: OwampServer, sock: socket.socket, local: Endpoint, remote: Endpoint, config: OwampServerConfig
    ) -> None:
        super().__init__(server, sock, server.options.servwait_s)
        self.made_open: set[bytes] = set()
        self.role: ServerRole = ServerRole(
            config, server.provider, self, server.entropy, local=local, remote=remote, now=self._loop.time()
        )

    # OwampServerHooks.

    def open_owamp_session(self, session: OwampSession, owner: Owner) -> int:
        """A test socket, and a file. Raises RefuseSession."""
        return self._server.open_session(self, session, owner)

    def fetch(self, sid: bytes, owner: Owner) -> StoredSession:
        """The data of a session. Raises RefuseSession."""
        return self._server.fetch(sid, owner)

    def complete(self, sid: bytes, sender: OneWaySender | None) -> None:
        """A session is complete here; when all are, Stop-Sessions goes out."""
        description = None if sender is None else sender.description()
        self.role.session_complete(sid, description, self._loop.time())
        self.wake()

    def _handle(self, event: OwampServerEvent) -> None:
        host = self.role.remote.host
        match event:
            case ClientSetUp() | ClientRefused():
                log_set_up(host, event)
            case OwampSessionOpened():
                if self._server.goes_with_connection(event.session):
                    self.made_open.add(event.session.sid)
                sender, receiver = event.session.sender, event.session.receiver
                log.info("%s: session %s, %s:%d to %s:%d", host, event.session.sid.hex(), *sender, *receiver)
            case SessionDenied():
                log_denied(host, event)
            case SessionsStarted():
                for sid in event.sids:
                    self._server.start_session(sid)
            case StopReceived():
                for sid in event.sids:
                    self._server.stop_session(sid, event)
            case SessionFetched():
                log.info("%s: %d records of session %s", host, event.records, event.sid.hex())
            case SessionDelivered():
                if self.role.terms is not None and self.role.terms.delete_on_fetch:
                    self._server.delete(event.sid)
                    self.made_open.discard(event.sid)
                    log.info("%s: session %s deleted: it has been fetched", host, event.sid.hex())
            case ConnectionClosed():
                log.info("%s: closed: %s", host, event.reason)
                for sid in event.sids:
                    self._server.break_session(sid, invalid=event.error is not None)
                for sid in self.made_open:
                    self._server.reclaim(sid)
