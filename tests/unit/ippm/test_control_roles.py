"""Both roles of TWAMP-Control over a memory pipe, in every mode. RFC 5357 section 3, RFC 4656 section 3, RFC 7717."""

from __future__ import annotations

import pytest
from ippm_control_peers import (
    CLIENT,
    NTP_NOW,
    SPI_I,
    SPI_R,
    WISH,
    Connected,
    ConnectionClosed,
    Pair,
    SessionAccepted,
    SessionRejected,
    Started,
    derived_provider,
    pair_in_mode,
    passphrases,
)

from ippm.core.control_client import ClientState, ControlClientConfig
from ippm.core.control_events import (
    ClientRefused,
    ClientSetUp,
    SessionDenied,
    SessionOpened,
    SessionsStarted,
    SessionsStopped,
)
from ippm.core.server import ServerState
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import NoProvider, PassphraseProvider, SessionKeys, test_session_keys
from ippm.errors import ConfigurationError, ConnectionFailed, LocalProtocolError, RefuseSession, ServerRefused
from ippm.iana import Accept, Mode

DERIVED = Mode.IKEV2_DERIVED
MODES = [
    Mode.OPEN,
    Mode.AUTHENTICATED,
    Mode.ENCRYPTED,
    Mode.MIXED,
    Mode.AUTHENTICATED | DERIVED,
    Mode.ENCRYPTED | DERIVED,
    Mode.MIXED | DERIVED,
]


@pytest.mark.parametrize("piece", [1, 7, 16, 1 << 20])
@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_two_sessions_from_greeting_to_stop(mode: Mode, piece: int) -> None:
    pair = pair_in_mode(mode)
    pair.run(piece)
    (connected,) = pair.client_events()
    assert isinstance(connected, Connected)
    assert connected.mode == mode
    assert connected.ikev2_derived == bool(mode & DERIVED)
    (set_up,) = pair.server_events()
    assert isinstance(set_up, ClientSetUp)
    assert set_up.mode == mode
    assert set_up.peer_identity == ("peer.example" if mode & DERIVED else None)

    pair.client.request_session(WISH, pair.now)
    pair.client.request_session(WISH, pair.now)
    pair.run(piece)
    accepted = [event.session for event in pair.client_events() if isinstance(event, SessionAccepted)]
    opened = [event.session for event in pair.server_events() if isinstance(event, SessionOpened)]
    assert accepted == opened
    assert len({session.sid for session in accepted}) == 2
    assert [session.reflector.port for session in accepted] == [18761, 18762]
    assert (accepted[0].keys is None) == (not mode & (Mode.AUTHENTICATED | Mode.ENCRYPTED))
    assert accepted[0].timeout_ns == 2_000_000_000
    assert accepted[0].dscp == 46

    sids = tuple(session.sid for session in accepted)
    pair.client.start_sessions(pair.now)
    pair.run(piece)
    assert pair.client_events() == [Started(sids)]
    assert pair.server_events() == [SessionsStarted(sids)]
    assert pair.server.next_timer() is None

    pair.client.stop_sessions(pair.now)
    pair.run(piece)
    assert pair.server_events() == [SessionsStopped(sids)]
    assert pair.server.state is ServerState.READY

    pair.server.receive_eof(pair.now)
    (closed,) = pair.server_events()
    assert isinstance(closed, ConnectionClosed)
    assert closed.error is None
    assert closed.sids == ()


def test_a_connection_serves_one_batch_of_sessions_after_the_other() -> None:
    pair = pair_in_mode(Mode.ENCRYPTED)
    pair.run()
    for _ in range(3):
        pair.client.request_session(WISH, pair.now)
        pair.run()
        pair.client.start_sessions(pair.now)
        pair.run()
        pair.client.stop_sessions(pair.now)
        pair.run()
    assert sum(isinstance(event, SessionsStopped) for event in pair.server_events()) == 3


@pytest.mark.req("rfc4656-s3.5-12", "rfc4656-s3.5-13")
def test_a_sid_is_our_ipv4_address_a_timestamp_and_a_random_value() -> None:
    pair = pair_in_mode(Mode.OPEN)
    pair.run()
    pair.client.request_session(WISH, pair.now)
    pair.run()
    sid = pair.hooks.opened[0].sid
    assert sid[:4] == bytes([192, 0, 2, 2])
    assert sid[4:12] == NTP_NOW.to_bytes(8, "big")


def test_test_keys_are_those_of_the_sid_at_both_ends() -> None:
    pair = pair_in_mode(Mode.AUTHENTICATED)
    pair.run()
    pair.client.request_session(WISH, pair.now)
    pair.run()
    (session,) = pair.hooks.opened
    accepted = next(event for event in pair.client_events() if isinstance(event, SessionAccepted))
    keys = accepted.session.keys
    assert keys is not None
    assert keys == session.keys
    assert keys == test_session_keys(pair.client._keys or SessionKeys(bytes(16), bytes(32)), session.sid)
    assert keys.aes.hex() not in repr(accepted)


class TestClientChoosesTheMode:
    """Greeting in hand, the client takes what its user wants, or leaves."""

    @pytest.mark.req("rfc4656-s3.1-10")
    def test_a_mode_that_is_not_offered_is_not_chosen(self) -> None:
        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), ControlServerConfig(Mode.OPEN), passphrases())
        pair.run()
        (closed,) = pair.client_events()
        assert str(closed.error) == "the server does not offer encrypted mode, but open"
        assert pair.to_server == b""

    @pytest.mark.req("rfc4656-s3.1-09", "rfc4656-s3.1-12")
    @pytest.mark.parametrize(("offered", "chosen"), [("OAE", 4), ("OAM", 2), ("OM", 8), ("O", 1)])
    def test_of_several_modes_the_strictest_that_is_offered_is_chosen(self, offered: str, chosen: int) -> None:
        config = ControlClientConfig(Mode.of_words("OAEM"))
        pair = Pair(config, ControlServerConfig(Mode.of_words(offered), 1024), passphrases(), passphrases())
        pair.run()
        assert int.from_bytes(pair.to_server[:4], "big") == chosen

    def test_a_server_without_ikev2_is_refused_when_ikev2_is_required(self) -> None:
        config = ControlClientConfig(Mode.ENCRYPTED, require_ikev2=True)
        pair = Pair(config, None, derived_provider(), passphrases())
        pair.run()
        (closed,) = pair.client_events()
        assert str(closed.error) == "the server does not offer IKEv2-derived keys, and they are required"

    def test_a_passphrase_is_not_used_when_ikev2_is_required(self) -> None:
        config = ControlClientConfig(Mode.ENCRYPTED, require_ikev2=True)
        pair = Pair(config, None, passphrases(), derived_provider())
        pair.run()
        (closed,) = pair.client_events()
        assert "required" in str(closed.error)
        assert pair.to_server == b""

    def test_a_derived_secret_is_not_used_as_a_passphrase_when_the_bit_is_not_offered(self) -> None:
        provider = derived_provider()
        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, provider, passphrases())
        pair.run()
        (closed,) = pair.client_events()
        assert "does not offer" in str(closed.error)
        assert provider.given[0].closed == 1

    @pytest.mark.req("rfc7717-s5.3-01", "rfc7717-s5.3-m1")
    def test_a_derived_secret_sets_bit_7_and_names_the_sa_in_the_key_id(self) -> None:
        pair = pair_in_mode(Mode.AUTHENTICATED | DERIVED)
        pair.run()
        assert int.from_bytes(pair.to_server[:4], "big") == 128 | 2
        assert pair.to_server[4:12] == SPI_I
        assert pair.to_server[12:20] == SPI_R
        assert pair.to_server[20:84] == bytes(64)

    def test_a_passphrase_works_with_a_server_that_offers_ikev2_too(self) -> None:
        class Both(PassphraseProvider):
            offers_ikev2 = True

        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, passphrases(), Both({"alice": "correct horse"}))
        pair.run()
        (connected,) = pair.client_events()
        assert isinstance(connected, Connected)
        assert not connected.ikev2_derived

    @pytest.mark.req("rfc4656-s3.1-07")
    def test_modes_zero_closes(self) -> None:
        pair = Pair(None, ControlServerConfig(Mode(0)))
        pair.run()
        (closed,) = pair.client_events()
        assert isinstance(closed.error, ServerRefused)
        assert "no mode" in str(closed.error)
        assert pair.server.closed

    def test_configuration_is_checked(self) -> None:
        with pytest.raises(ConfigurationError, match="a security mode is wanted"):
            ControlClientConfig(Mode.IKEV2_DERIVED)
        with pytest.raises(ConfigurationError, match="open mode has no keys"):
            ControlClientConfig(Mode.OPEN, require_ikev2=True)
        with pytest.raises(ConfigurationError):
            ControlClientConfig(maximum_count=1023)


class TestServerRefusesSetUp:
    """Server-Start with an Accept that is not zero, and what both ends make of it."""

    @pytest.mark.parametrize(
        "provider",
        [PassphraseProvider({"alice": "wrong"}), PassphraseProvider({"bob": "correct horse"}), NoProvider()],
        ids=["wrong passphrase", "unknown KeyID", "no passphrases"],
    )
    @pytest.mark.req("rfc4656-s3.1-19", "rfc4656-s3.1-24", "rfc4656-s3.1-25")
    def test_accept_1_for_a_secret_that_is_not_shared(self, provider: PassphraseProvider) -> None:
        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, passphrases(), provider)
        pair.run()
        (closed,) = pair.client_events()
        assert isinstance(closed.error, ServerRefused)
        assert closed.error.accept == 1
        refused, ended = pair.server_events()
        assert isinstance(refused, ClientRefused)
        assert refused.accept == 1
        assert isinstance(ended, ConnectionClosed)
        assert pair.to_client[64:] == bytes(15) + b"\x01" + bytes(32)

    @pytest.mark.req("rfc7717-s5.3-08")
    def test_accept_6_when_the_server_has_no_such_ike_sa(self) -> None:
        server = derived_provider()
        server.secrets = {bytes(16): b"another"}
        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, derived_provider(), server)
        pair.run()
        (closed,) = pair.client_events()
        assert str(closed.error) == (
            "server refused: Accept 6 (no IKEv2 SA with SPIi 0123456789abcdef SPIr fedcba9876543210 at the server)"
        )
        refused = pair.server_events()[0]
        assert isinstance(refused, ClientRefused)
        assert refused.accept == 6
        assert pair.server.closed

    def test_the_secret_is_let_go_when_its_challenge_is_wrong(self) -> None:
        client, server = derived_provider(), derived_provider()
        server.secrets = {SPI_I + SPI_R: b"another"}
        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, client, server)
        pair.run()
        assert [secret.closed for secret in client.given + server.given] == [1, 1]

    def test_a_secret_of_several_token_keys_says_which_one_fitted(self) -> None:
        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, derived_provider(), derived_provider(decoys=2))
        pair.run()
        (set_up,) = pair.server_events()
        assert isinstance(set_up, ClientSetUp)
        assert set_up.token_key_index == 2


class TestServerRefusesSessions:
    """Accept-Session with an Accept that is not zero; the connection stays."""

    @pytest.mark.parametrize("accept", [1, 2, 3, 4, 5])
    @pytest.mark.req("rfc5357-s3.5-14", "rfc5357-s3.5-15", "rfc4656-s3.5-11")
    def test_a_refusal_of_the_opener_reaches_the_client(self, accept: int) -> None:
        pair = pair_in_mode(Mode.ENCRYPTED)
        pair.run()
        pair.hooks.refusal = RefuseSession(accept, "because")
        pair.client_events()
        pair.client.request_session(WISH, pair.now)
        pair.run()
        (rejected,) = pair.client_events()
        assert isinstance(rejected, SessionRejected)
        assert isinstance(rejected.error, ServerRefused)
        assert rejected.error.accept == accept
        assert pair.server_events()[-1] == SessionDenied(accept, "because")
        assert not pair.server.closed
        pair.hooks.refusal = None
        pair.client.request_session(WISH, pair.now)
        pair.run()
        assert isinstance(pair.client_events()[0], SessionAccepted)

    @pytest.mark.req("rfc4656-s6.5-01", "rfc4656-s6.5-02", "rfc4656-s6.5-03", "rfc4656-s3.3-01")
    def test_a_connection_has_a_limit_of_sessions_its_own_in_open_mode(self) -> None:
        for mode, limit in ((Mode.OPEN, 1), (Mode.ENCRYPTED, 2)):
            pair = pair_in_mode(mode, open_sessions_per_connection=1, sessions_per_connection=2)
            pair.run()
            for _ in range(3):
                pair.client.request_session(WISH, pair.now)
            pair.run()
            answers = pair.client_events()[1:]
            assert [isinstance(event, SessionAccepted) for event in answers].count(True) == limit
            rejected = answers[-1]
            assert isinstance(rejected, SessionRejected)
            assert isinstance(rejected.error, ServerRefused)
            assert rejected.error.accept == Accept.TEMPORARY_LIMITATION
            # A session that has ended makes room.
            pair.server.session_ended(pair.hooks.opened[0].sid)
            pair.client.request_session(WISH, pair.now)
            pair.run()
            assert isinstance(pair.client_events()[0], SessionAccepted)
        assert ControlServerConfig().sessions_per_connection <= 16


class TestTimers:
    """SERVWAIT, and the client's patience."""

    def test_a_client_that_says_nothing_is_dropped(self) -> None:
        pair = pair_in_mode(Mode.OPEN, setup_wait_s=60.0)
        deadline = pair.server.next_timer()
        assert deadline == pair.now + 60
        pair.server.handle_timer(deadline - 1)
        assert not pair.server.closed
        pair.server.handle_timer(deadline)
        assert pair.server.closed

    @pytest.mark.req("rfc5357-s3.1-06", "rfc4656-s3-01", "rfc4656-s3-02")
    def test_servwait_is_900_seconds_and_half_a_message_does_not_lengthen_it(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        pair.run()
        assert pair.server.next_timer() == pair.now + 900
        pair.server.receive_data(b"\x05\x04", pair.now + 800)
        assert pair.server.next_timer() == pair.now + 900
        pair.server.handle_timer(pair.now + 900)
        assert pair.server.closed
        assert pair.server.next_timer() is None

    @pytest.mark.req("rfc5357-s3.1-02", "rfc5357-s3.1-03")
    def test_servwait_rests_between_start_and_stop(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        pair.run()
        pair.client.request_session(WISH, pair.now)
        pair.run()
        pair.client.start_sessions(pair.now)
        pair.run()
        assert pair.server.next_timer() is None
        pair.now += 5000
        pair.server.handle_timer(pair.now)
        assert not pair.server.closed
        pair.client.stop_sessions(pair.now)
        pair.run()
        assert pair.server.next_timer() == pair.now + 900

    @pytest.mark.req("rfc5357-s3.1-04")
    def test_servwait_is_watched_again_when_refwait_has_run_out_for_all_sessions(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        pair.run()
        for _ in range(2):
            pair.client.request_session(WISH, pair.now)
        pair.run()
        pair.client.start_sessions(pair.now)
        pair.run()
        first, second = (session.sid for session in pair.hooks.opened)
        pair.server.session_expired(first, pair.now + 900)
        assert pair.server.next_timer() is None
        pair.server.session_expired(second, pair.now + 901)
        assert pair.server.next_timer() == pair.now + 901 + 900
        pair.client.stop_sessions(pair.now)
        pair.run()
        assert pair.server.state is ServerState.READY

    def test_a_client_gives_up_on_a_silent_server(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        pair.client.handle_timer(pair.now + 30)
        (closed,) = pair.client_events()
        assert isinstance(closed.error, ConnectionFailed)
        assert str(closed.error) == "no answer in 30 s, while waiting for the Server Greeting"


class TestEndings:
    """How a connection ends, and what becomes of secrets and sessions."""

    @pytest.mark.req("rfc7717-s5.1-03")
    def test_a_derived_secret_is_held_until_the_last_session_of_a_closed_connection_has_ended(self) -> None:
        provider = derived_provider()
        pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, derived_provider(), provider)
        pair.run()
        pair.client.request_session(WISH, pair.now)
        pair.run()
        pair.client.start_sessions(pair.now)
        pair.run()
        pair.client.stop_sessions(pair.now)
        pair.run()
        pair.server.receive_eof(pair.now)
        assert provider.given[0].closed == 0
        pair.server.session_ended(pair.hooks.opened[0].sid)
        assert provider.given[0].closed == 1

    @pytest.mark.req("rfc4656-s6.5-04")
    def test_sessions_of_a_broken_connection_are_named_in_its_end(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        pair.run()
        pair.client.request_session(WISH, pair.now)
        pair.run()
        pair.client.start_sessions(pair.now)
        pair.run()
        pair.server_events()
        pair.server.receive_eof(pair.now)
        (closed,) = pair.server_events()
        assert closed.sids == (pair.hooks.opened[0].sid,)

    def test_the_client_says_what_it_was_waiting_for(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        pair.run()
        pair.client.request_session(WISH, pair.now)
        pair.client.receive_eof(pair.now)
        closed = pair.client_events()[-1]
        assert str(closed.error) == "the server closed the connection while we were waiting for Accept-Session"

    def test_our_own_callers_mistakes_are_raised(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        with pytest.raises(LocalProtocolError, match="waiting for the Server Greeting"):
            pair.client.request_session(WISH, pair.now)
        pair.run()
        with pytest.raises(LocalProtocolError, match="no session was accepted"):
            pair.client.start_sessions(pair.now)
        with pytest.raises(LocalProtocolError):
            pair.client.stop_sessions(pair.now)
        assert pair.client.state is ClientState.READY

    @pytest.mark.req("rfc5357-s3.5-03", "rfc5357-s3.5-06", "rfc5357-s3.5-08")
    def test_what_must_be_zero_in_a_request_is(self) -> None:
        pair = pair_in_mode(Mode.OPEN)
        pair.run()
        pair.to_server = b""
        pair.client.request_session(WISH, pair.now)
        pair.run()
        assert pair.to_server[:4] == b"\x05\x04\x00\x00"
        assert pair.to_server[4:12] == bytes(8)
        assert pair.to_server[48:64] == bytes(16)
        assert pair.to_server[16:20] == bytes([192, 0, 2, 1])
        assert CLIENT.host == "192.0.2.1"
