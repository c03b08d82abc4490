"""Peers that break the rules of TWAMP-Control: the right Accept value or a closed connection, never an exception.

The fake client and server below write octets by hand; they share only the streams with the roles under test.
"""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from ippm_control_peers import (
    CLIENT,
    NTP_NOW,
    SERVER,
    SPI_I,
    SPI_R,
    WISH,
    ConnectionClosed,
    CountedEntropy,
    DerivedProvider,
    Hooks,
    SessionAccepted,
    SessionRejected,
    derived_provider,
    drain,
    passphrases,
)

from ippm.core.control_client import ControlClient, ControlClientConfig
from ippm.core.control_events import ClientRefused, ClientSetUp, SessionDenied, SessionsStopped
from ippm.core.server import TRANSITIONS, ControlServer, ServerState
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import (
    CbcReceiver,
    CbcSender,
    KeyProvider,
    NoProvider,
    OpenReceiver,
    OpenSender,
    SessionKeys,
    pad_key_id,
    pbkdf2_token_key,
    seal_token,
)
from ippm.errors import (
    ConfigurationError,
    IntegrityError,
    InvalidMessage,
    ServerRefused,
    UnacceptableCount,
    UnexpectedMessage,
)
from ippm.iana import SECURITY_BITS, Accept, Command, Mode
from ippm.wire.accept_session import AcceptSession
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.start_ack import StartAck

KEYS = SessionKeys(b"a" * 16, b"h" * 32)
CLIENT_IV = b"i" * 16
REQUEST = RequestTwSession(sender_port=18700, receiver_port=0)
START = b"\x02" + bytes(15)


def stop(sessions: int, accept: int = 0) -> bytes:
    return bytes([3, accept, 0, 0]) + sessions.to_bytes(4, "big") + bytes(8)


class FakeClient:
    """A server under test, and what a client of any manners can do to it."""

    def __init__(
        self,
        provider: KeyProvider | None = None,
        config: ControlServerConfig | None = None,
        *,
        local: str = SERVER.host,
        remote: str = CLIENT.host,
    ) -> None:
        self.hooks = Hooks()
        self.server = ControlServer(
            config or ControlServerConfig(count=1024),
            provider or NoProvider(),
            self.hooks,
            CountedEntropy(),
            local=SERVER._replace(host=local),
            remote=CLIENT._replace(host=remote),
            now=0.0,
        )
        self.greeting = ServerGreeting.parse(self.server.data_to_send())
        self.sender: OpenSender | CbcSender = OpenSender()
        self.receiver: OpenReceiver | CbcReceiver = OpenReceiver()

    def send(self, octets: bytes) -> bytes:
        self.server.receive_data(octets, 0.0)
        return self.server.data_to_send()

    def set_up(self, mode: int, *, key_id: bytes = b"alice", secret: bytes = b"correct horse") -> ServerStart:
        """A Set-Up-Response with a right Token for `secret`; the Server-Start that came, decrypted."""
        token = seal_token(
            pbkdf2_token_key(secret, self.greeting.salt, self.greeting.count), self.greeting.challenge, KEYS
        )
        answer = self.send(SetUpResponse(mode, pad_key_id(key_id), token, CLIENT_IV).encode())
        if not answer:
            raise EOFError
        accepted = answer[15] == 0
        if accepted and mode & 0xE:
            self.sender = CbcSender(KEYS, CLIENT_IV)
            self.receiver = CbcReceiver(KEYS, answer[16:32])
        rest = self.receiver.decrypt(answer[32:])
        self.receiver.cover(rest)
        return ServerStart.parse(answer[:32] + rest)

    def command(self, body: bytes) -> bytes:
        """Send a command with its HMAC; the answer, verified, without its HMAC."""
        return self.answer(self.send(self.sender.seal(body, with_hmac=True)))

    def answer(self, octets: bytes) -> bytes:
        plain = self.receiver.decrypt(octets)
        if plain:
            self.receiver.verify(plain[:-16], plain[-16:])
        return plain[:-16]

    def events(self) -> list[object]:
        return drain(self.server)


def ready(mode: int = 1, config: ControlServerConfig | None = None) -> FakeClient:
    client = FakeClient(passphrases(), config)
    assert client.set_up(mode).accept == Accept.OK
    client.events()
    return client


class TestGreeting:
    """What the server says first."""

    @pytest.mark.req("rfc4656-s3.1-01", "rfc4656-s3.1-03", "rfc4656-s3.1-04", "rfc4656-s3.1-05")
    def test_modes_challenge_salt_and_count(self) -> None:
        one, other = FakeClient(), FakeClient(config=ControlServerConfig(Mode.OPEN, 2048))
        assert one.greeting.modes == 15
        assert other.greeting.modes == 1
        assert (one.greeting.count, other.greeting.count) == (1024, 2048)
        assert one.greeting.salt != one.greeting.challenge
        for wrong in (0, 512, 1023, 1025, 3000, 1 << 32):
            with pytest.raises(ConfigurationError, match="power of two"):
                ControlServerConfig(count=wrong)
        with pytest.raises(ConfigurationError):
            ControlServerConfig(modes=Mode.IKEV2_DERIVED)

    @pytest.mark.req("rfc4656-s3.1-06")
    def test_the_count_is_above_the_minimum_by_default_and_below_what_clients_take(self) -> None:
        assert 1024 < FakeClient(config=ControlServerConfig()).greeting.count <= 32768

    def test_salt_and_challenge_are_fresh_in_each_connection(self) -> None:
        entropy = CountedEntropy()
        greetings = set()
        for _ in range(3):
            server = ControlServer(
                ControlServerConfig(), NoProvider(), Hooks(), entropy, local=SERVER, remote=CLIENT, now=0.0
            )
            greetings.add(server.data_to_send())
        assert len(greetings) == 3

    @pytest.mark.req("rfc7717-s5.2-01", "rfc7717-s5.2-m1")
    def test_bit_7_is_offered_when_the_provider_has_ikev2_and_a_keyed_mode_is_offered(self) -> None:
        assert FakeClient(derived_provider()).greeting.modes == 15 | 128
        assert FakeClient(derived_provider(), ControlServerConfig(Mode.ENCRYPTED)).greeting.modes == 4 | 128
        assert FakeClient(derived_provider(), ControlServerConfig(Mode.OPEN)).greeting.modes == 1
        assert FakeClient(passphrases()).greeting.modes == 15

    def test_the_provider_chooses_the_count_when_it_has_a_wish(self) -> None:
        assert FakeClient(derived_provider(count=2048)).greeting.count == 2048
        assert FakeClient(derived_provider(count=None)).greeting.count == 1024


class TestSetUpResponse:
    """The mode that a client chooses, and the proof of its secret."""

    @pytest.mark.req("rfc4656-s3.1-11")
    @pytest.mark.parametrize("mode", [2, 4, 8])
    def test_a_mode_that_was_not_offered_gets_accept_3(self, mode: int) -> None:
        client = FakeClient(passphrases(), ControlServerConfig(Mode.OPEN, 1024))
        assert client.set_up(mode).accept == Accept.NOT_SUPPORTED
        assert client.server.closed

    @pytest.mark.parametrize("mode", [3, 6, 12, 15, 2 | 4 | 128, 15 | 128])
    def test_more_than_one_security_mode_gets_accept_3(self, mode: int) -> None:
        client = FakeClient(derived_provider())
        assert client.set_up(mode).accept == Accept.NOT_SUPPORTED
        assert client.server.closed

    @pytest.mark.parametrize("mode", [128 | 1, 128 | 2, 128 | 4, 128 | 8, 128])
    def test_bit_7_without_having_been_offered_gets_accept_3(self, mode: int) -> None:
        client = FakeClient(passphrases())
        assert client.set_up(mode).accept == Accept.NOT_SUPPORTED
        assert client.server.closed

    @pytest.mark.parametrize("mode", [128, 128 | 1])
    def test_bit_7_without_a_keyed_mode_gets_accept_3(self, mode: int) -> None:
        client = FakeClient(derived_provider())
        assert client.set_up(mode).accept == Accept.NOT_SUPPORTED

    def test_bit_7_with_open_mode_is_open_mode_when_modes_are_not_strict(self) -> None:
        client = FakeClient(derived_provider(), ControlServerConfig(count=1024, strict_modes=False))
        assert client.set_up(128 | 1).accept == Accept.OK
        assert client.server.mode == Mode.OPEN
        client = FakeClient(derived_provider(), ControlServerConfig(count=1024, strict_modes=False))
        assert client.set_up(128).accept == Accept.NOT_SUPPORTED

    @pytest.mark.req("rfc4656-s3.1-13")
    @pytest.mark.parametrize("bits", [0x10, 0x60, 0x300, 0x8000_0000, 0xFFFF_FF70])
    def test_bits_without_a_meaning_here_are_ignored(self, bits: int) -> None:
        client = FakeClient(passphrases())
        assert client.set_up(bits | 4).accept == Accept.OK
        assert client.server.mode == Mode.ENCRYPTED

    @pytest.mark.req("rfc4656-s3.1-14")
    @pytest.mark.parametrize("mode", [0, 0x10, 0xFFFF_FF70])
    def test_no_mode_at_all_ends_the_connection_without_an_answer(self, mode: int) -> None:
        client = FakeClient(passphrases())
        with pytest.raises(EOFError):
            client.set_up(mode)
        assert client.server.closed
        assert [type(event) for event in client.events()] == [ConnectionClosed]

    @pytest.mark.parametrize(("key_id", "secret"), [(b"mallory", b"correct horse"), (b"alice", b"a guess")])
    def test_an_unknown_key_id_and_a_wrong_challenge_look_the_same(self, key_id: bytes, secret: bytes) -> None:
        client = FakeClient(passphrases())
        start = client.set_up(4, key_id=key_id, secret=secret)
        assert start == ServerStart(Accept.FAILURE)
        assert client.server.closed

    def test_the_octets_of_the_key_id_after_the_spis_are_ignored(self) -> None:
        provider = derived_provider()
        client = FakeClient(provider)
        secret = next(iter(provider.secrets.values()))
        assert client.set_up(128 | 4, key_id=SPI_I + SPI_R + b"\xff" * 64, secret=secret).accept == Accept.OK
        assert provider.asked == [(SPI_I + SPI_R + b"\xff" * 64, True, CLIENT.host, "twamp")]

    @pytest.mark.req("rfc7717-s5.3-08")
    def test_an_unknown_ike_sa_gets_accept_6_and_an_event_that_names_it(self) -> None:
        client = FakeClient(derived_provider())
        start = client.set_up(128 | 2, key_id=SPI_R + SPI_I)
        assert start == ServerStart(Accept.NO_IKEV2_SA)
        refused, closed = client.events()
        assert isinstance(refused, ClientRefused)
        assert refused.reason == f"no IKE SA with SPIi {SPI_R.hex()} SPIr {SPI_I.hex()}"
        assert isinstance(closed, ConnectionClosed)

    def test_a_passphrase_at_a_server_that_has_only_ikev2_gets_accept_1(self) -> None:
        client = FakeClient(derived_provider())
        assert client.set_up(2).accept == Accept.FAILURE

    def test_a_provider_that_fails_gets_accept_2(self) -> None:
        class Broken(DerivedProvider):
            def for_server(self, *_: object) -> None:  # type: ignore[override]
                raise RuntimeError("the agent is gone")

        client = FakeClient(Broken({}))
        assert client.set_up(128 | 2).accept == Accept.INTERNAL_ERROR
        assert "the agent is gone" in str(client.events()[0])

    @pytest.mark.req("rfc4656-s3.1-26")
    def test_start_time_is_the_servers_own(self) -> None:
        for mode in (1, 4):
            client = FakeClient(passphrases(), ControlServerConfig(count=1024, start_time=NTP_NOW))
            assert client.set_up(mode).start_time == NTP_NOW

    def test_the_key_id_is_not_looked_at_in_open_mode(self) -> None:
        client = FakeClient(derived_provider())
        assert client.set_up(1, key_id=b"\xff" * 80).accept == Accept.OK
        (set_up,) = client.events()
        assert isinstance(set_up, ClientSetUp)
        assert set_up.key_id == b""

    def test_figure_3_of_rfc_7717_never_makes_a_whole_message(self) -> None:
        client = FakeClient(derived_provider())
        assert client.send((128 | 2).to_bytes(4, "big") + SPI_I + SPI_R + bytes(64 + 16 + 12)) == b""
        client.server.handle_timer(60.0)
        assert client.server.closed


class TestRequest:
    """Request-TW-Session with something in it that must not be."""

    @pytest.mark.req("rfc5357-s3.5-04", "rfc5357-s3.5-05")
    @pytest.mark.parametrize(("sender", "receiver"), [(1, 0), (0, 1), (1, 1), (0, 255)])
    def test_a_conf_field_gets_accept_3(self, sender: int, receiver: int) -> None:
        self.refused(RequestTwSession(18700, 0, conf_sender=sender, conf_receiver=receiver), Accept.NOT_SUPPORTED)

    @pytest.mark.parametrize("ipvn", [0, 5, 6, 15])
    def test_another_ip_version_gets_accept_3(self, ipvn: int) -> None:
        self.refused(RequestTwSession(18700, 0, ipvn=ipvn), Accept.NOT_SUPPORTED)

    @pytest.mark.parametrize("type_p", [0x4000_0000, 0x8000_0000, 0xFFFF_FFFF])
    def test_a_type_p_that_is_no_dscp_gets_accept_3(self, type_p: int) -> None:
        self.refused(RequestTwSession(18700, 0, type_p=type_p), Accept.NOT_SUPPORTED)

    def test_sender_port_zero_gets_accept_3(self) -> None:
        self.refused(RequestTwSession(0, 0), Accept.NOT_SUPPORTED)

    def test_schedule_slots_get_accept_3(self) -> None:
        self.refused(RequestTwSession(18700, 0, number_of_schedule_slots=1), Accept.NOT_SUPPORTED)

    def test_padding_that_fits_no_datagram_gets_accept_3(self) -> None:
        self.refused(RequestTwSession(18700, 0, padding_length=0xFFFFFFFF), Accept.NOT_SUPPORTED)

    def test_a_timeout_of_years_gets_accept_4(self) -> None:
        self.refused(RequestTwSession(18700, 0, timeout=(1 << 64) - 1), Accept.PERMANENT_LIMITATION)

    @pytest.mark.req("rfc4656-s6.2-01", "rfc4656-s6.2-02")
    def test_test_packets_for_somebody_else_get_accept_3(self) -> None:
        other = ip_address("198.51.100.7")
        self.refused(RequestTwSession(18700, 0, sender_address=other), Accept.NOT_SUPPORTED)
        allowed = ready(config=ControlServerConfig(count=1024, any_sender=True))
        request = RequestTwSession(18700, 0, sender_address=other)
        assert AcceptSession.parse(allowed.command(request.encode())).accept == Accept.OK
        assert allowed.hooks.opened[0].sender.host == "198.51.100.7"

    @pytest.mark.req("rfc5357-s3.5-07")
    def test_zero_addresses_are_those_of_the_connection(self) -> None:
        client = ready()
        assert AcceptSession.parse(client.command(REQUEST.encode())).accept == Accept.OK
        (session,) = client.hooks.opened
        assert (session.sender.host, session.reflector.host) == (CLIENT.host, SERVER.host)

    def test_an_ipv6_connection_takes_ipv6_requests_and_its_zone_stays(self) -> None:
        client = FakeClient(local="fe80::2%eth0", remote="fe80::1%eth0")
        client.set_up(1)
        answer = AcceptSession.parse(client.command(RequestTwSession(18700, 0, ipvn=6).encode()))
        assert answer.accept == Accept.OK
        named = RequestTwSession(
            18700, 0, ip_address("fe80::1"), ip_address("fe80::2"), ipvn=6
        )  # no zone fits the field
        assert AcceptSession.parse(client.command(named.encode())).accept == Accept.OK
        for session in client.hooks.opened:
            assert session.reflector.host == "fe80::2%eth0"
            assert session.sender.host == "fe80::1%eth0"

    @pytest.mark.req("rfc4656-s3.5-01", "rfc4656-s3.5-10", "rfc5357-s3.5-13", "rfc5357-s3.5-01")
    def test_every_request_gets_its_answer_in_order(self) -> None:
        client = ready(4)
        bad = RequestTwSession(18700, 0, conf_sender=1)
        octets = b"".join(
            client.sender.seal(request.encode(), with_hmac=True) for request in (REQUEST, bad, REQUEST, bad)
        )
        answers = client.send(octets)
        assert [client.answer(answers[at : at + 48])[0] for at in range(0, len(answers), 48)] == [0, 3, 0, 3]

    def test_the_sid_of_a_request_is_ignored(self) -> None:
        client = ready()
        request = RequestTwSession(18700, 0, sid=b"s" * 16)
        assert AcceptSession.parse(client.command(request.encode())).sid != b"s" * 16

    @staticmethod
    def refused(request: RequestTwSession, accept: Accept) -> None:
        """Port and SID are zero, the connection stays, and a right request is taken then."""
        for mode in (1, 4):
            client = ready(mode)
            assert client.command(request.encode()) == AcceptSession(accept).encode()
            (denied,) = client.events()
            assert isinstance(denied, SessionDenied)
            assert denied.accept == accept
            assert AcceptSession.parse(client.command(REQUEST.encode())).accept == Accept.OK


class TestCommands:
    """Commands that are not expected, in states where they are not."""

    @pytest.mark.req("rfc5357-s3.5-02")
    @pytest.mark.parametrize("command", [0, 6, 8, 10, 11, 255])
    @pytest.mark.parametrize("mode", [1, 4])
    def test_an_unknown_command_gets_accept_3_and_the_connection_ends(self, command: int, mode: int) -> None:
        """Its length is not known, so nothing after it could be read."""
        client = ready(mode)
        answer = client.answer(client.send(client.sender.seal(bytes([command]) + bytes(15), with_hmac=False)))
        assert answer == AcceptSession(Accept.NOT_SUPPORTED).encode()
        assert client.server.closed

    @pytest.mark.req("rfc5357-s3.5-02")
    def test_owamps_commands_get_accept_3_and_the_connection_stays(self) -> None:
        client = ready(4)
        fetch = b"\x04" + bytes(31)
        assert client.command(fetch)[0] == Accept.NOT_SUPPORTED
        request = bytes([1, 4, 0, 1, 0, 0, 0, 2]) + bytes(88)
        octets = client.sender.seal(request, with_hmac=True) + client.sender.seal(bytes(32), with_hmac=True)
        assert client.answer(client.send(octets))[0] == Accept.NOT_SUPPORTED
        assert AcceptSession.parse(client.command(REQUEST.encode())).accept == Accept.OK

    def test_start_with_nothing_to_start_is_refused(self) -> None:
        client = ready()
        assert client.command(START) == StartAck(Accept.FAILURE).encode()
        assert client.server.state is ServerState.READY

    @pytest.mark.req("rfc4656-s3.7-01", "rfc4656-s3.7-02")
    def test_while_active_only_stop_sessions_is_taken(self) -> None:
        client = ready(4)
        client.command(REQUEST.encode())
        assert client.command(START) == StartAck(Accept.OK).encode()
        assert client.command(REQUEST.encode()) == AcceptSession(Accept.NOT_SUPPORTED).encode()
        assert client.command(START) == StartAck(Accept.NOT_SUPPORTED).encode()
        assert client.server.state is ServerState.ACTIVE
        assert client.command(stop(1)) == b""
        assert client.server.state is ServerState.READY

    @pytest.mark.req("rfc5357-s3.8-05")
    @pytest.mark.parametrize("sessions", [0, 1, 3, 0xFFFFFFFF])
    def test_a_stop_for_another_number_of_sessions_ends_the_connection(self, sessions: int) -> None:
        client = ready()
        client.command(REQUEST.encode())
        client.command(REQUEST.encode())
        client.command(START)
        client.events()
        assert client.command(stop(sessions)) == b""
        (closed,) = client.events()
        assert isinstance(closed, ConnectionClosed)
        assert len(closed.sids) == 2
        assert closed.error is not None

    @pytest.mark.req("rfc5357-s3.8-02")
    def test_a_stop_with_an_accept_says_that_results_are_invalid(self) -> None:
        client = ready()
        client.command(REQUEST.encode())
        client.command(START)
        client.command(stop(1, accept=2))
        stopped = client.events()[-1]
        assert isinstance(stopped, SessionsStopped)
        assert not stopped.valid
        assert stopped.accept == 2

    def test_a_stop_with_nothing_to_stop(self) -> None:
        client = ready()
        client.command(stop(0))
        assert client.server.state is ServerState.READY
        client.command(stop(1))
        assert client.server.closed

    def test_the_transition_table_tells_the_truth(self) -> None:
        """Every state x command: the next state is one that the table names, or the command is answered Accept 3."""
        commands = {Command.REQUEST_TW_SESSION: REQUEST.encode(), Command.START_SESSIONS: START}
        for state in (ServerState.READY, ServerState.ACTIVE):
            for command in (Command.REQUEST_TW_SESSION, Command.START_SESSIONS, Command.STOP_SESSIONS):
                for sessions in (0, 1):
                    client = ready()
                    if state is ServerState.ACTIVE:
                        client.command(REQUEST.encode())
                        client.command(START)
                    answer = client.command(commands.get(command, stop(sessions)))
                    transition = TRANSITIONS.get((state, command))
                    if transition is None:
                        assert answer[0] == Accept.NOT_SUPPORTED
                        assert client.server.state is state
                    else:
                        assert client.server.state in transition.next_states


class TestIntegrity:
    """HMACs that do not verify. RFC 4656 section 6.10."""

    @pytest.mark.req("rfc4656-s3.2-02", "rfc4656-s6.10-01", "rfc4656-s6.10-02", "rfc4656-s6.10-03")
    @pytest.mark.parametrize("body", [REQUEST.encode(), START, stop(0)], ids=["request", "start", "stop"])
    @pytest.mark.parametrize("at", [-16, -1])
    def test_a_changed_command_is_discarded_and_the_connection_dropped(self, body: bytes, at: int) -> None:
        client = ready(2)
        octets = bytearray(client.sender.seal(body, with_hmac=True))
        octets[at] ^= 0x80
        assert client.send(bytes(octets)) == b""
        (closed,) = client.events()
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, IntegrityError)
        assert not client.hooks.opened

    @pytest.mark.parametrize("at", [0, 15, 16, 40, 79, 80, 95])
    def test_a_change_anywhere_in_a_request_opens_nothing(self, at: int) -> None:
        """In the first block it may make a Command Number that is not known, which is answered; then it ends, too."""
        client = ready(4)
        octets = bytearray(client.sender.seal(REQUEST.encode(), with_hmac=True))
        octets[at] ^= 1
        client.send(bytes(octets))
        client.server.receive_eof(0.0)
        assert client.server.closed
        assert not client.hooks.opened

    def test_a_command_that_is_played_again_is_dropped(self) -> None:
        client = ready(4)
        octets = client.sender.seal(REQUEST.encode(), with_hmac=True)
        assert client.send(octets)
        assert client.send(octets)[:1] != b"\x00"
        assert client.server.closed
        assert len(client.hooks.opened) == 1

    def test_a_whole_session_of_another_connection_gets_nothing(self) -> None:
        """The Challenge, and with it the Token, is another in each connection."""
        old = FakeClient(passphrases())
        token = seal_token(
            pbkdf2_token_key(b"correct horse", old.greeting.salt, old.greeting.count), old.greeting.challenge, KEYS
        )
        replay = SetUpResponse(4, pad_key_id(b"alice"), token, CLIENT_IV).encode()
        server = ControlServer(
            ControlServerConfig(count=1024),
            passphrases(),
            Hooks(),
            CountedEntropy("another"),
            local=SERVER,
            remote=CLIENT,
            now=0.0,
        )
        server.data_to_send()
        server.receive_data(replay, 0.0)
        assert server.data_to_send()[15] == Accept.FAILURE
        assert server.closed

    def test_after_the_end_nothing_is_answered(self) -> None:
        client = ready(4)
        client.server.close()
        assert client.send(client.sender.seal(REQUEST.encode(), with_hmac=True)) == b""
        client.server.receive_eof(0.0)
        client.server.handle_timer(1e9)
        assert len(client.events()) == 1


class FakeServer:
    """A client under test, and what a server of any manners can do to it."""

    def __init__(self, mode: Mode = Mode.OPEN, provider: KeyProvider | None = None) -> None:
        self.provider = provider
        self.client = ControlClient(
            ControlClientConfig(mode),
            provider or NoProvider(),
            CountedEntropy(),
            local=CLIENT,
            remote=SERVER,
            now=0.0,
        )

    def send(self, octets: bytes) -> bytes:
        self.client.receive_data(octets, 0.0)
        return self.client.data_to_send()

    def greet(self, modes: int = 15, count: int = 1024) -> bytes:
        return self.send(ServerGreeting(modes, b"c" * 16, b"s" * 16, count).encode())

    def error(self) -> Exception | None:
        closed = drain(self.client)[-1]
        assert isinstance(closed, ConnectionClosed)
        return closed.error


class TestClient:
    """Servers that break the rules, seen from the client."""

    @pytest.mark.parametrize("count", [0, 1, 1000, 1023, 1025, 3000, 32767])
    def test_a_count_that_must_not_be_is_refused(self, count: int) -> None:
        server = FakeServer(Mode.ENCRYPTED, passphrases())
        assert server.greet(count=count) == b""
        assert isinstance(server.error(), UnacceptableCount)

    @pytest.mark.req("rfc5357-s6-02", "rfc5357-s6-03")
    @pytest.mark.parametrize("count", [65536, 1 << 31, (1 << 32) - 1])
    def test_a_count_above_32768_is_refused_unless_configured(self, count: int) -> None:
        server = FakeServer(Mode.ENCRYPTED, passphrases())
        assert server.greet(count=count) == b""
        assert str(server.error()) == f"the server's Count {count} is above our maximum 32768"

    @pytest.mark.req("rfc5357-s6-01")
    def test_the_maximum_count_is_an_option(self) -> None:
        server = FakeServer(Mode.ENCRYPTED, passphrases())
        assert len(server.greet(count=32768)) == 164
        server = FakeServer(Mode.ENCRYPTED, passphrases())
        server.client.config = ControlClientConfig(Mode.ENCRYPTED, maximum_count=65536)
        assert len(server.greet(count=65536)) == 164

    def test_the_count_does_not_matter_in_open_mode(self) -> None:
        assert len(FakeServer().greet(count=0)) == 164

    @pytest.mark.req("rfc4656-s3.1-02", "rfc7717-s5.2-m2")
    @pytest.mark.parametrize("bits", [0, 0x80, 0xFFFF_FF00, 0x170])
    def test_bits_that_are_not_wanted_are_ignored(self, bits: int) -> None:
        response = FakeServer(Mode.ENCRYPTED, passphrases()).greet(modes=bits | 4)
        assert SetUpResponse.parse(response).mode == Mode.ENCRYPTED

    @pytest.mark.req("rfc4656-s3.1-08", "rfc4656-s3.1-12")
    def test_in_open_mode_the_rest_of_the_response_is_zeros(self) -> None:
        assert FakeServer().greet() == b"\x00\x00\x00\x01" + bytes(160)

    @pytest.mark.req("rfc4656-s3.1-17", "rfc4656-s3.1-18", "rfc4656-s3.2-01")
    def test_keys_and_iv_are_drawn_from_the_entropy_for_each_connection(self) -> None:
        entropy = CountedEntropy()
        responses = []
        for _ in range(2):
            client = ControlClient(
                ControlClientConfig(Mode.ENCRYPTED), passphrases(), entropy, local=CLIENT, remote=SERVER, now=0.0
            )
            client.receive_data(ServerGreeting(4, b"c" * 16, b"s" * 16, 1024).encode(), 0.0)
            responses.append(SetUpResponse.parse(client.data_to_send()))
            keys = client._keys
            assert keys is not None
            assert keys.aes not in keys.hmac
            assert keys.aes == CountedEntropy.at(entropy.calls - 2, 16)
            assert keys.hmac == CountedEntropy.at(entropy.calls - 1, 32)
        assert responses[0].token != responses[1].token
        assert responses[0].client_iv != responses[1].client_iv
        assert responses[0].key_id == responses[1].key_id

    @pytest.mark.parametrize("accept", [1, 2, 3, 4, 5, 6, 77, 255])
    def test_a_refusal_is_acted_on_at_once(self, accept: int) -> None:
        server = FakeServer(Mode.ENCRYPTED, passphrases())
        server.greet()
        server.send(bytes(15) + bytes([accept]) + bytes(16))
        error = server.error()
        assert isinstance(error, ServerRefused)
        assert error.accept == accept
        assert str(error).startswith(f"server refused: Accept {accept} (")
        assert "\n" not in str(error)

    @pytest.mark.req("rfc4656-s3.2-02", "rfc4656-s6.10-03")
    def test_a_wrong_hmac_in_the_first_answer_ends_the_connection(self) -> None:
        """It covers Server-Start's last block, too."""
        for change in ("start time", "answer", "hmac"):
            server = FakeServer(Mode.ENCRYPTED, passphrases())
            response = SetUpResponse.parse(server.greet())
            keys = server.client._keys
            assert keys is not None
            assert response.mode == 4
            stream = CbcSender(keys, b"v" * 16)
            start = ServerStart(Accept.OK, b"v" * 16, NTP_NOW).encode()
            last = bytearray(stream.seal(start[32:], with_hmac=False))
            # A changed bit in CBC garbles its block and flips the bit in the next one.
            last[3] ^= change == "start time"
            server.send(start[:32] + bytes(last))
            drain(server.client)
            server.client.request_session(WISH, 0.0)
            answer = bytearray(stream.seal(AcceptSession(Accept.OK, 18760, b"s" * 16).encode(), with_hmac=True))
            answer[20 if change == "answer" else -1] ^= change != "start time"
            server.send(bytes(answer))
            assert isinstance(server.error(), IntegrityError)

    def test_a_session_on_port_0_is_an_error(self) -> None:
        server = self.connected()
        server.client.request_session(WISH, 0.0)
        server.send(AcceptSession(Accept.OK, 0, b"s" * 16).encode() + bytes(16))
        assert isinstance(server.error(), InvalidMessage)

    def test_another_port_than_the_wished_one_is_taken(self) -> None:
        server = self.connected()
        server.client.request_session(WISH, 0.0)
        server.send(AcceptSession(Accept.OK, 4711, b"s" * 16).encode() + bytes(16))
        accepted = drain(server.client)[-1]
        assert isinstance(accepted, SessionAccepted)
        assert accepted.session.reflector.port == 4711

    @pytest.mark.req("rfc4656-s3.3-02")
    def test_an_accept_that_is_not_registered_is_a_refusal(self) -> None:
        server = self.connected()
        server.client.request_session(WISH, 0.0)
        server.send(AcceptSession(Accept(99), 4711, b"s" * 16).encode() + bytes(16))
        rejected = drain(server.client)[-1]
        assert isinstance(rejected, SessionRejected)
        assert str(rejected.error) == "server refused: Accept 99 (failure, reason unspecified)"
        assert not server.client.closed

    @pytest.mark.req("rfc4656-s3.7-03")
    def test_a_refused_start_ends_the_connection(self) -> None:
        server = self.connected()
        server.client.request_session(WISH, 0.0)
        server.send(AcceptSession(Accept.OK, 4711, b"s" * 16).encode() + bytes(16))
        server.client.start_sessions(0.0)
        server.send(StartAck(Accept.INTERNAL_ERROR).encode() + bytes(16))
        error = server.error()
        assert isinstance(error, ServerRefused)
        assert error.accept == 2

    @pytest.mark.req("rfc5357-s3.8-01", "rfc5357-s3.8-03", "rfc5357-s3.8-04")
    def test_stop_sessions_counts_the_sessions_that_were_started(self) -> None:
        server = self.connected()
        for _ in range(3):
            server.client.request_session(WISH, 0.0)
        answers = ((Accept.OK, b"s"), (Accept.TEMPORARY_LIMITATION, b"s"), (Accept.OK, b"t"))
        server.send(b"".join(AcceptSession(n, 4711, sid * 16).encode() + bytes(16) for n, sid in answers))
        server.client.start_sessions(0.0)
        server.client.data_to_send()
        server.send(StartAck(Accept.OK).encode() + bytes(16))
        server.client.stop_sessions(0.0)
        assert server.client.data_to_send() == stop(2) + bytes(16)

    def test_octets_that_nobody_asked_for_end_the_connection(self) -> None:
        server = self.connected()
        server.send(b"hello")
        assert isinstance(server.error(), UnexpectedMessage)

    def test_a_half_greeting_and_the_end(self) -> None:
        server = FakeServer()
        server.send(bytes(30))
        server.client.receive_eof(0.0)
        assert "closed the connection while we were waiting for the Server Greeting" in str(server.error())
        server.client.receive_eof(0.0)
        assert server.send(bytes(500)) == b""
        assert drain(server.client) == []

    @staticmethod
    def connected() -> FakeServer:
        server = FakeServer()
        server.greet()
        server.send(ServerStart(Accept.OK).encode())
        drain(server.client)
        return server


def mutated(octets: bytes, chance: random.Random) -> bytes:
    """Octets with some bits turned, cut, doubled, or with others between them."""
    data = bytearray(octets)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(1, 40))
            case 3:
                del data[at : at + chance.randrange(1, 40)]
            case _:
                data[at:at] = data[:at]
    return bytes(data)


@pytest.mark.parametrize("mode", [Mode.OPEN, Mode.ENCRYPTED], ids=repr)
def test_thirty_thousand_mutated_streams_raise_nothing(mode: Mode) -> None:
    """15,000 a mode: what a client says in a whole connection, changed; the server answers or closes."""
    chance = random.Random(4656 + mode)
    config = ControlServerConfig(SECURITY_BITS, 1024)
    entropy = CountedEntropy()

    class Fixed:
        offers_ikev2 = False
        count = None

        def __init__(self) -> None:
            self.secret = passphrases().for_client("", "")

        def for_server(self, *_: object) -> object:
            return self

        key_id, ikev2_derived, derivation, peer_identity = bytes(80), False, None, None

        def token_keys(self, salt: bytes, count: int) -> list[bytes]:
            return [b"k" * 16]

        def test_keys(self, *_: object) -> None:
            return None

        def close(self) -> None:
            pass

    provider = Fixed()
    ended = 0
    for _ in range(15_000):
        server = ControlServer(config, provider, Hooks(), entropy, local=SERVER, remote=CLIENT, now=0.0)  # type: ignore[arg-type]
        greeting = ServerGreeting.parse(server.data_to_send())
        response = SetUpResponse(
            mode, bytes(80), seal_token(b"k" * 16, greeting.challenge, KEYS), CLIENT_IV
        ).encode()
        sender = CbcSender(KEYS, CLIENT_IV) if mode.keyed else OpenSender()
        commands = [REQUEST.encode(), REQUEST.encode(), START, stop(2), REQUEST.encode(), START, stop(1)]
        if chance.random() < 0.5:
            # The commands are changed before they are protected: they verify.
            commands = [mutated(body, chance)[:96].ljust(len(body), b"\0") for body in commands]
            octets = response + b"".join(sender.seal(body, with_hmac=True) for body in commands)
        else:
            octets = mutated(response + b"".join(sender.seal(body, with_hmac=True) for body in commands), chance)
        at = 0
        while at < len(octets):
            step = chance.choice((1, 16, 50, 400, 2000))
            server.receive_data(octets[at : at + step], 0.0)
            at += step
        assert len(server._inbox) <= 96 + 16 * 1024 + 32
        server.receive_eof(0.0)
        assert server.closed
        events = drain(server)
        assert sum(isinstance(event, ConnectionClosed) for event in events) == 1
        ended += server.data_to_send() == b""
    assert ended < 15_000


def test_mutated_servers_raise_nothing_at_a_client() -> None:
    chance = random.Random(5357)
    for _ in range(5_000):
        server = FakeServer()
        octets = ServerGreeting(15, b"c" * 16, b"s" * 16, 1024).encode() + ServerStart(Accept.OK).encode()
        octets = mutated(octets, chance)
        server.send(octets[:70])
        server.send(octets[70:])
        server.client.receive_eof(0.0)
        assert server.client.closed
