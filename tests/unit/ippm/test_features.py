"""The features of TWAMP beyond RFC 5357, rule by rule: what is refused, ignored, kept apart.

RFC 5938, 6038, 7750, 8186.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from ippm_control_peers import (
    CLIENT,
    WISH,
    ConnectionClosed,
    Pair,
    SessionAccepted,
    SessionRejected,
    Started,
    passphrases,
)
from test_control_rules import FakeClient, ready, stop
from test_reflector import PEER, T1, T2, reflector
from test_reflector import request as sender_packet
from test_sender import T0, plan

from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import ControlRefused, SessionDenied, SessionsStarted, SessionsStopped, Stopped
from ippm.core.server import INDIVIDUAL_TRANSITIONS, ServerState
from ippm.core.server_policy import ControlServerConfig
from ippm.core.session_reflector import PaddingRule
from ippm.core.session_sender import SessionSender
from ippm.crypto_packet import seal_reflector
from ippm.errors import ConfigurationError, ConnectionFailed, InvalidMessage, LocalProtocolError, UnexpectedMessage
from ippm.iana import FEATURE_BITS, FEATURE_WORDS, NO_FEATURES, Accept, Command, Mode, feature_words, features_of
from ippm.io.options import ServerOptions, TwpingOptions
from ippm.io.twamp_client import session_wish
from ippm.timestamps import PTP_FLAG, ptp_from_ntp
from ippm.wire.accept_session import AcceptSession
from ippm.wire.n_sessions import MAXIMUM_SIDS, NSessions
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.test_packet import PacketLayout, ReflectorPacket

ISC = Mode.INDIVIDUAL_SESSION_CONTROL
REFLECT, SYMMETRICAL, MONITORED, PTP = (
    Mode.REFLECT_OCTETS,
    Mode.SYMMETRICAL_SIZE,
    Mode.DSCP_ECN_MONITORING,
    Mode.PTP_TIMESTAMPS,
)
ALL = ControlServerConfig(count=1024, features=FEATURE_BITS)
SERVWAIT_S = ALL.servwait_s


def n_sessions(command: Command, *sids: bytes, accept: int = 0) -> bytes:
    """Octets by the figures of RFC 5938."""
    head = bytes([command, accept]) + bytes(10) + len(sids).to_bytes(4, "big")
    return head + b"".join(sids)


class TestModes:
    """The Modes field."""

    def test_the_greeting_offers_what_is_configured(self) -> None:
        for features in (NO_FEATURES, FEATURE_BITS, ISC | PTP):
            client = FakeClient(passphrases(), ControlServerConfig(count=1024, features=features))
            assert client.greeting.modes == 15 | features

    def test_a_server_without_any_mode_offers_no_feature(self) -> None:
        client = FakeClient(None, ControlServerConfig(count=1024, modes=Mode(0), features=FEATURE_BITS))
        assert client.greeting.modes == 0

    @pytest.mark.parametrize("bit", [bit for bit in Mode if bit & FEATURE_BITS], ids=feature_words)
    def test_a_feature_that_was_not_offered_is_refused(self, bit: Mode) -> None:
        config = ControlServerConfig(count=1024, features=FEATURE_BITS & ~bit)
        assert (
            FakeClient(passphrases(), config).set_up(int(Mode.AUTHENTICATED | bit)).accept == Accept.NOT_SUPPORTED
        )

    @pytest.mark.req("rfc5938-s3.1-05")
    def test_a_feature_without_a_security_mode_is_refused(self) -> None:
        assert FakeClient(passphrases(), ALL).set_up(int(ISC)).accept == Accept.NOT_SUPPORTED

    def test_a_client_leaves_a_server_that_does_not_offer_its_features(self) -> None:
        pair = Pair(ControlClientConfig(features=REFLECT | ISC), ControlServerConfig(features=ISC))
        pair.run()
        (closed,) = pair.client_events()
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, ConnectionFailed)
        assert "does not offer reflect-octets" in str(closed.error)
        assert pair.to_server == b""

    def test_words_of_features(self) -> None:
        assert features_of(FEATURE_WORDS) == FEATURE_BITS
        assert features_of(feature_words(ISC | PTP).split(", ")) == ISC | PTP
        for options in (
            lambda: ServerOptions(features=("reflect",)),
            lambda: TwpingOptions("h", features=("reflect",)),
        ):
            with pytest.raises(
                ConfigurationError, match="no feature is called 'reflect': session-control, reflect"
            ):
                options()
        with pytest.raises(ConfigurationError, match="needs the feature reflect-octets"):
            TwpingOptions("h", reflected_octets=4)
        with pytest.raises(ConfigurationError):
            ControlServerConfig(features=Mode.OPEN)
        with pytest.raises(ConfigurationError):
            ControlClientConfig(features=Mode.MIXED)
        with pytest.raises(ConfigurationError):
            ServerOptions(server_octets=65536)


def ask(client: FakeClient, **fields: int) -> AcceptSession:
    request = RequestTwSession(sender_port=18700, receiver_port=0, **fields)  # type: ignore[arg-type]
    return AcceptSession.parse(client.command(request.encode()))


class TestRequests:
    """Reflect Octets and Symmetrical Size in Request-TW-Session. RFC 6038 sections 4.2 and 4.3."""

    @pytest.mark.req("rfc6038-s4.2-07", "rfc6038-s4.3-09")
    @pytest.mark.parametrize(
        ("mode", "least"),
        [
            (Mode.OPEN | REFLECT, 27 + 10),
            (Mode.OPEN | REFLECT | MONITORED, 30 + 10),
            (Mode.AUTHENTICATED | REFLECT, 64 + 10),
            (Mode.ENCRYPTED | REFLECT | MONITORED, 64 + 10),
            (Mode.MIXED | REFLECT, 27 + 10),
            (Mode.OPEN | REFLECT | SYMMETRICAL, 11),
            (Mode.OPEN | REFLECT | SYMMETRICAL | MONITORED, 12),
            (Mode.ENCRYPTED | REFLECT | SYMMETRICAL, 11),
        ],
    )
    def test_padding_that_is_too_short_is_refused(self, mode: Mode, least: int) -> None:
        client = ready(int(mode), ALL)
        for padding, accept in ((least - 1, Accept.NOT_SUPPORTED), (least, Accept.OK)):
            fields = {
                "padding_length": padding,
                "length_of_padding_to_reflect": 10,
                "octets_to_be_reflected": 0xBEEF,
            }
            answer = ask(client, **fields)
            assert answer.accept == accept
            assert answer.reflected_octets == 0xBEEF
        denied = [event for event in client.events() if isinstance(event, SessionDenied)]
        assert [event.accept for event in denied] == [Accept.NOT_SUPPORTED]

    @pytest.mark.req("rfc6038-s4.3-09")
    def test_symmetrical_size_with_monitoring_takes_two_octets_of_padding(self) -> None:
        """The figures of RFC 7750: 42 octets before the sender's padding, 44 before the reflector's."""
        client = ready(int(Mode.OPEN | SYMMETRICAL | MONITORED), ALL)
        assert ask(client, padding_length=1).accept == Accept.NOT_SUPPORTED
        assert ask(client, padding_length=2).accept == Accept.OK

    @pytest.mark.req("rfc6038-s4.3-09")
    def test_by_the_text_56_octets_are_enough(self) -> None:
        config = ControlServerConfig(count=1024, features=FEATURE_BITS, tw_auth_pad=56)
        client = ready(int(Mode.ENCRYPTED | REFLECT), config)
        assert ask(client, padding_length=65, length_of_padding_to_reflect=10).accept == Accept.NOT_SUPPORTED
        assert ask(client, padding_length=66, length_of_padding_to_reflect=10).accept == Accept.OK

    @pytest.mark.req("rfc6038-s4.3-05", "rfc6038-s4.3-06")
    def test_server_octets_are_sent_when_there_is_room_for_them(self) -> None:
        config = ControlServerConfig(count=1024, features=FEATURE_BITS, server_octets=0x0102)
        client = ready(int(Mode.OPEN | REFLECT), config)
        assert ask(client, padding_length=60, length_of_padding_to_reflect=2).server_octets == 0x0102
        assert ask(client, padding_length=60, length_of_padding_to_reflect=1).server_octets == 0
        assert ask(ready(int(Mode.OPEN | REFLECT), ALL), padding_length=60).server_octets == 0

    @pytest.mark.req("rfc6038-s1-02")
    def test_without_the_mode_the_fields_are_mbz_and_ignored(self) -> None:
        config = ControlServerConfig(count=1024, features=FEATURE_BITS, server_octets=0x0102)
        client = ready(int(Mode.OPEN), config)
        answer = ask(client, length_of_padding_to_reflect=9000, octets_to_be_reflected=0xBEEF)
        assert answer == AcceptSession(Accept.OK, answer.port, answer.sid)
        assert client.hooks.opened[0].reflected_octets == 0

    @pytest.mark.req("rfc6038-s1-02")
    def test_without_the_mode_a_client_ignores_what_an_accept_session_has_there(self) -> None:
        pair = Pair()
        pair.run()
        pair.client.request_session(WISH, pair.now)
        pair.client.data_to_send()
        pair.client.receive_data(AcceptSession(Accept.OK, 18760, bytes(16), 1, 2).encode() + bytes(16), pair.now)
        accepted = pair.client_events()[-1]
        assert isinstance(accepted, SessionAccepted)
        assert accepted.session.server_octets == 0

    def test_a_server_that_does_not_reflect_the_octets_of_the_request(self) -> None:
        pair = Pair(ControlClientConfig(features=REFLECT), ALL)
        pair.run()
        pair.client.request_session(replace(WISH, octets_to_be_reflected=5), pair.now)
        pair.client.data_to_send()
        pair.client.receive_data(AcceptSession(Accept.OK, 18760, bytes(16), 6).encode() + bytes(16), pair.now)
        closed = pair.client_events()[-1]
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, InvalidMessage)

    @pytest.mark.req(
        "rfc6038-s4.2-07", "rfc6038-s4.2-08", "rfc6038-s4.2-09", "rfc6038-s5.1.3-04", "rfc6038-s5.1.3-05"
    )
    @pytest.mark.parametrize(("mode", "least"), [(Mode.OPEN, 27 + 9), (Mode.AUTHENTICATED, 64 + 9)])
    def test_a_client_asks_for_nothing_that_cannot_be(self, mode: Mode, least: int) -> None:
        provider = passphrases()
        pair = Pair(ControlClientConfig(mode, features=REFLECT), ALL, provider, provider)
        pair.run()
        for wrong in (
            replace(WISH, padding_octets=least - 1, reflected_octets=9),
            replace(WISH, padding_octets=100, reflected_octets=65536),
            replace(WISH, padding_octets=100, octets_to_be_reflected=65536),
        ):
            with pytest.raises(LocalProtocolError):
                pair.client.request_session(wrong, pair.now)
        pair.client.request_session(replace(WISH, padding_octets=least, reflected_octets=9), pair.now)
        plain = Pair()
        plain.run()
        with pytest.raises(LocalProtocolError, match="reflect-octets"):
            plain.client.request_session(replace(WISH, reflected_octets=9), plain.now)


@pytest.mark.req(
    "rfc6038-s4.2-05",
    "rfc6038-s4.2-06",
    "rfc6038-s5.1.3-01",
    "rfc6038-s5.1.3-02",
    "rfc6038-s5.1.3-03",
    "rfc6038-s5.1.3-04",
    "rfc6038-s5.1.3-05",
)
@pytest.mark.parametrize(
    ("mode", "features", "least"),
    [
        (Mode.OPEN, (), 27),
        (Mode.AUTHENTICATED, (), 64),
        (Mode.ENCRYPTED, (), 64),
        (Mode.OPEN, ("reflect-octets",), 27 + 9),
        (Mode.ENCRYPTED, ("reflect-octets",), 64 + 9),
        (Mode.OPEN, ("dscp-ecn",), 30),
        (Mode.OPEN, ("symmetrical-size",), 0),
        (Mode.OPEN, ("reflect-octets", "symmetrical-size"), 10),
    ],
)
def test_a_sender_has_the_padding_that_equal_packets_take(
    mode: Mode, features: tuple[str, ...], least: int
) -> None:
    """With Reflect Octets also where nobody asks for equal packets; more padding stays as it was asked for."""
    reflected = 9 if "reflect-octets" in features else 0
    options = TwpingOptions("h", features=features, reflected_octets=reflected, equal_size=not reflected)
    connected = mode | options.feature_bits
    assert session_wish(options, CLIENT, connected).padding_octets == least
    assert session_wish(replace(options, padding=200), CLIENT, connected).padding_octets == 200


class TestPackets:
    """Test packets that are not as the mode has them."""

    @pytest.mark.req("rfc6038-s5.2.1-07", "rfc5357-s4.2.1-10")
    @pytest.mark.parametrize(
        ("mode", "cut", "tw_auth_pad", "longer"),
        [
            (Mode.OPEN, 27, 64, 0),
            (Mode.OPEN | MONITORED, 30, 64, 0),
            (Mode.AUTHENTICATED, 64, 64, 0),
            (Mode.ENCRYPTED, 56, 56, 8),
        ],
    )
    def test_exactly_so_much_padding_is_cut_off(self, mode: Mode, cut: int, tw_auth_pad: int, longer: int) -> None:
        """By the text of RFC 6038 (56) replies of the keyed modes are 8 octets longer, as its 104 are 112."""
        features = int(mode | REFLECT)
        session = reflector(features, reflected_octets=12, tw_auth_pad=tw_auth_pad)
        packet = sender_packet(int(mode), 0, bytes(range(100, 100 + cut + 12)))
        reply = session.handle(packet, 64, T2, PEER)
        assert reply is not None
        assert len(reply) == len(packet) + longer
        assert bytes(reply[-12:]) == bytes(range(100, 112))

    @pytest.mark.parametrize("mode", [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED])
    def test_a_packet_without_what_is_to_be_reflected_is_dropped(self, mode: Mode) -> None:
        layout = PacketLayout.of(mode | REFLECT, 12)
        session = reflector(int(mode | REFLECT), reflected_octets=12)
        short = sender_packet(int(mode), 0, bytes(layout.least_padding_octets - 1))
        assert session.handle(short, 64, T2, PEER) is None
        assert session.handle(sender_packet(int(mode), 0, bytes(layout.least_padding_octets)), 64, T2, PEER)
        assert (session.counters["too_short"], session.counters["reflected"]) == (1, 1)

    @pytest.mark.parametrize("mode", [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED])
    def test_a_packet_without_the_mbz_octets_of_symmetrical_size_is_dropped(self, mode: Mode) -> None:
        session = reflector(int(mode | SYMMETRICAL))
        mbz = 27 if mode is Mode.OPEN else 64
        assert session.handle(sender_packet(int(mode), 0, bytes(mbz - 1)), 64, T2, PEER) is None
        reply = session.handle(sender_packet(int(mode), 0, b"\xff" * mbz), 64, T2, PEER)
        assert reply is not None  # and what the MBZ octets hold is not looked at
        assert session.counters["too_short"] == 1

    @pytest.mark.req("rfc6038-s5.2-01")
    def test_with_zero_padding_only_what_is_to_be_reflected_comes_back(self) -> None:
        session = reflector(int(Mode.OPEN | REFLECT), reflected_octets=4, padding=PaddingRule.ZERO)
        for fill in (b"\xff", b"\xee"):
            reply = session.handle(sender_packet(1, 0, fill * 40), 64, T2, PEER)
            assert reply is not None
            assert bytes(reply[41:]) == fill * 4 + bytes(9)

    def test_the_octet_beside_sender_ttl_is_zero_where_it_is_not_monitored(self) -> None:
        for mode in (Mode.AUTHENTICATED, Mode.ENCRYPTED):
            session = reflector(int(mode))
            with_marking = session.handle(sender_packet(int(mode), 0), 64, T2, PEER, 0xFF)
            assert with_marking is not None
            without = reflector(int(mode)).handle(sender_packet(int(mode), 0), 64, T2, PEER)
            assert bytes(with_marking) == bytes(without or b"")

    def test_a_reply_with_other_octets_than_those_to_be_reflected_is_rejected(self) -> None:
        session = SessionSender(
            plan(int(Mode.OPEN | REFLECT), 1, padding_octets=40, reflected_octets=8), bytes(range(256)) * 17
        )
        session.prepare(0)
        session.pack(0, T0, 0x8A01)
        right = bytes(range(8)) + bytes(20)
        for padding in (right[:7] + b"\xff" + right[8:], right[:7]):
            reply = ReflectorPacket(0, T0 + 3, 0x8A01, T0 + 2, 0, T0, 0x8A01, 63, padding)
            assert not session.handle_reply(seal_reflector(reply, 1, None), 64, T0 + 9)
        assert session.records.rejected == {"reflected_octets_differ": 2}
        reply = ReflectorPacket(0, T0 + 3, 0x8A01, T0 + 2, 0, T0, 0x8A01, 63, right)
        assert session.handle_reply(seal_reflector(reply, 1, None), 64, T0 + 9)

    def test_more_to_reflect_than_there_is_padding_is_our_mistake(self) -> None:
        with pytest.raises(LocalProtocolError):
            SessionSender(plan(int(Mode.OPEN | REFLECT), 1, padding_octets=7, reflected_octets=8))

    def test_ntp_and_ptp_stamps_of_a_reflector_are_told_apart_by_its_error_estimate(self) -> None:
        """RFC 8186 section 2.3: the Z bit says the format of the stamps beside it."""
        for flag in (0, PTP_FLAG):
            session = SessionSender(plan(int(Mode.OPEN | PTP), 1, utc_offset_s=37))
            session.prepare(0)
            session.pack(0, T0, 0x8A01)
            t2, t3 = T0 + (1 << 22), T0 + (2 << 22)
            sent = [ptp_from_ntp(stamp, 37) if flag else stamp for stamp in (t3, t2)]
            reply = ReflectorPacket(
                0, sent[0], 0x8A01 | flag, sent[1], 0, ptp_from_ntp(T0, 37), 0x8A01 | PTP_FLAG, 63
            )
            assert session.handle_reply(seal_reflector(reply, 1, None), 64, T0 + (3 << 22))
            records = session.records
            assert abs(records.t2[0] - t2) <= 4
            assert abs(records.t3[0] - t3) <= 4

    def test_the_z_bit_means_nothing_where_ptp_was_not_agreed(self) -> None:
        session = SessionSender(plan(1, 1))
        session.prepare(0)
        session.pack(0, T0, 0x8A01)
        reply = ReflectorPacket(0, T0 + 3, 0x8A01 | PTP_FLAG, T0 + 2, 0, T0, 0x8A01, 63)
        assert session.handle_reply(seal_reflector(reply, 1, None), 64, T0 + 9)
        assert (session.records.t2[0], session.records.t3[0]) == (T0 + 2, T0 + 3)

    def test_a_reflector_stamps_in_ptp_when_that_was_agreed_whatever_the_sender_does(self) -> None:
        session = reflector(int(Mode.OPEN | PTP), utc_offset_s=37)
        reply = bytes(session.handle(sender_packet(1), 64, T2, PEER) or b"")
        assert int.from_bytes(reply[16:24], "big") == ptp_from_ntp(T2, 37)
        assert int.from_bytes(reply[28:36], "big") == T1
        assert int.from_bytes(reply[12:14], "big") & PTP_FLAG
        assert not int.from_bytes(reply[36:38], "big") & PTP_FLAG


class Individual:
    """A server with Individual Session Control, and sessions that it has accepted."""

    def __init__(self, sessions: int, mode: Mode = Mode.OPEN) -> None:
        self.client = ready(int(mode | ISC), ALL)
        self.sids = [ask(self.client).sid for _ in range(sessions)]
        self.client.events()
        self.now = 0.0

    def acks(self, command: Command, *sids: bytes) -> list[NSessions]:
        octets = self.client.send(self.client.sender.seal(n_sessions(command, *sids), with_hmac=True))
        plain = self.client.receiver.decrypt(octets)
        found = []
        while plain:
            length = NSessions.octets(plain)
            self.client.receiver.verify(plain[:length], plain[length : length + 16])
            found.append(NSessions.parse(plain[:length]))
            plain = plain[length + 16 :]
        return found

    def start(self, *sids: bytes) -> list[NSessions]:
        return self.acks(Command.START_N_SESSIONS, *sids)

    def stop(self, *sids: bytes) -> list[NSessions]:
        return self.acks(Command.STOP_N_SESSIONS, *sids)


UNKNOWN = b"\xee" * 16


class TestIndividualSessionControl:
    """RFC 5938 section 3."""

    @pytest.mark.req("rfc5938-s3.2-02", "rfc5938-s3.2-06", "rfc5938-s3.2-08", "rfc5938-s3.3-01", "rfc5938-s4.2-01")
    @pytest.mark.parametrize("mode", [Mode.OPEN, Mode.ENCRYPTED])
    def test_what_can_start_starts_and_the_rest_is_refused_by_sid(self, mode: Mode) -> None:
        server = Individual(3, mode)
        one, two, three = server.sids
        assert server.start(one, UNKNOWN, three, one) == [
            NSessions(Command.START_N_ACK, (one, three)),
            NSessions(Command.START_N_ACK, (UNKNOWN, one), Accept.FAILURE),
        ]
        assert server.client.events() == [SessionsStarted((one, three))]
        assert server.client.server.state is ServerState.ACTIVE
        assert server.start(three, two) == [
            NSessions(Command.START_N_ACK, (two,)),
            NSessions(Command.START_N_ACK, (three,), Accept.FAILURE),
        ]

    @pytest.mark.req("rfc5938-s3.4-03", "rfc5938-s3.4-06", "rfc5938-s3.4-08", "rfc5938-s3.5-01", "rfc5938-s3.5-02")
    def test_one_session_stops_and_the_others_go_on(self) -> None:
        server = Individual(3)
        one, two, three = server.sids
        server.start(one, two)
        server.client.events()
        assert server.stop(two, three, UNKNOWN) == [
            NSessions(Command.STOP_N_ACK, (two,)),
            NSessions(Command.STOP_N_ACK, (three, UNKNOWN), Accept.FAILURE),
        ]
        assert server.client.events() == [SessionsStopped((two,))]
        assert server.client.server.state is ServerState.ACTIVE
        assert server.stop(one) == [NSessions(Command.STOP_N_ACK, (one,))]
        assert server.client.server.state is ServerState.READY
        assert server.start(three)[0].accept == Accept.OK

    @pytest.mark.req("rfc5938-s3.1-04", "rfc5938-s2-02")
    @pytest.mark.parametrize("command", [b"\x02" + bytes(15), stop(1), stop(0)])
    def test_start_sessions_and_stop_sessions_are_refused(self, command: bytes) -> None:
        server = Individual(1)
        assert server.client.command(command) == AcceptSession(Accept.NOT_SUPPORTED).encode()
        server.start(server.sids[0])
        assert server.client.command(command) == AcceptSession(Accept.NOT_SUPPORTED).encode()
        assert server.stop(server.sids[0])[0].accept == Accept.OK

    @pytest.mark.parametrize("command", [Command.START_N_SESSIONS, Command.STOP_N_SESSIONS])
    def test_without_the_mode_its_commands_are_refused_and_the_connection_goes_on(self, command: Command) -> None:
        client = ready(1, ALL)
        sid = ask(client).sid
        assert client.command(n_sessions(command, sid)) == AcceptSession(Accept.NOT_SUPPORTED).encode()
        assert client.command(b"\x02" + bytes(15)) == bytes(16)

    @pytest.mark.req("rfc5938-s3.2-03", "rfc5938-s3.3-03", "rfc5938-s3.4-01", "rfc5938-s3.4-04", "rfc5938-s3.5-04")
    @pytest.mark.parametrize("command", [Command.START_N_SESSIONS, Command.STOP_N_SESSIONS])
    def test_a_command_about_no_session_is_refused(self, command: Command) -> None:
        server = Individual(1)
        assert server.client.command(n_sessions(command)) == AcceptSession(Accept.NOT_SUPPORTED).encode()
        assert not server.client.server.closed
        for written in (*NSessions.COMMANDS, *NSessions.ACKS):
            with pytest.raises(LocalProtocolError):
                NSessions(written, ()).encode()

    @pytest.mark.req("rfc5938-s1-02")
    @pytest.mark.parametrize("command", [*NSessions.COMMANDS, *NSessions.ACKS])
    def test_mbz_octets_are_ignored(self, command: Command) -> None:
        body = bytearray(n_sessions(command, UNKNOWN))
        mbz = slice(2 if command in NSessions.ACKS else 1, 12)
        body[mbz] = b"\xff" * len(body[mbz])
        assert NSessions.parse(bytes(body)) == NSessions(command, (UNKNOWN,))

    @pytest.mark.req("rfc5938-s3.2-05")
    def test_an_absurd_number_of_sessions_is_refused_before_it_is_read(self) -> None:
        server = Individual(1)
        head = bytes([7]) + bytes(11) + (MAXIMUM_SIDS + 1).to_bytes(4, "big")
        answer = server.client.answer(server.client.send(server.client.sender.seal(head, with_hmac=False)))
        assert answer == AcceptSession(Accept.PERMANENT_LIMITATION).encode()
        assert server.client.server.closed

    @pytest.mark.req("rfc5938-s3.2-04", "rfc5938-s3.2-05")
    @pytest.mark.parametrize("claimed", [1, 3])
    def test_a_number_that_is_not_that_of_the_sids_starts_nothing(self, claimed: int) -> None:
        """Where it is more the command is never whole; where it is less its HMAC is not where it should be."""
        server = Individual(2, Mode.ENCRYPTED)
        body = bytearray(n_sessions(Command.START_N_SESSIONS, *server.sids))
        body[12:16] = claimed.to_bytes(4, "big")
        server.client.send(server.client.sender.seal(bytes(body), with_hmac=True))
        assert not [event for event in server.client.events() if isinstance(event, SessionsStarted)]

    @pytest.mark.req("rfc5938-s3.6-01", "rfc5938-s3.6-02")
    def test_servwait_sleeps_while_any_session_is_in_progress(self) -> None:
        server = Individual(3)
        role = server.client.server
        one, two, three = server.sids
        assert role.next_timer() == SERVWAIT_S
        server.start(one, two)
        assert role.next_timer() is None
        server.stop(one)
        assert role.next_timer() is None
        server.stop(two)
        assert role.next_timer() == SERVWAIT_S
        server.start(three)
        assert role.next_timer() is None
        role.session_expired(three, 50.0)  # REFWAIT, of all that are in progress
        assert role.next_timer() == 50.0 + SERVWAIT_S

    def test_a_request_is_served_while_sessions_run(self) -> None:
        server = Individual(1)
        server.start(server.sids[0])
        late = ask(server.client)
        assert late.accept == Accept.OK
        assert server.start(late.sid)[0].accept == Accept.OK

    def test_a_broken_connection_names_all_its_sessions(self) -> None:
        server = Individual(2)
        server.start(server.sids[0])
        server.client.events()
        server.client.server.receive_eof(1.0)
        (closed,) = server.client.events()
        assert isinstance(closed, ConnectionClosed)
        assert set(closed.sids) == set(server.sids)

    def test_every_row_of_the_table_leads_where_it_says(self) -> None:
        for (state, command), transition in INDIVIDUAL_TRANSITIONS.items():
            server = Individual(1)
            if state is ServerState.ACTIVE:
                server.start(*server.sids)
            assert server.client.server.state is state
            body = {
                Command.REQUEST_TW_SESSION: RequestTwSession(sender_port=9, receiver_port=0).encode(),
                Command.START_N_SESSIONS: n_sessions(command, *server.sids),
                Command.STOP_N_SESSIONS: n_sessions(command, *server.sids),
            }[command]
            server.client.command(body)
            assert server.client.server.state in transition.next_states


def started_pair() -> tuple[Pair, list[bytes]]:
    pair = Pair(ControlClientConfig(features=ISC), ALL)
    pair.run()
    for _ in range(2):
        pair.client.request_session(WISH, pair.now)
    pair.run()
    sids = [event.session.sid for event in pair.client_events() if isinstance(event, SessionAccepted)]
    return pair, sids


class TestIndividualClient:
    """The client's side, against acknowledgements of any manners."""

    @pytest.mark.req("rfc5938-s3.3-02", "rfc5938-s3.5-03", "rfc5938-s4.1-01")
    def test_acknowledgements_become_events_by_sid(self) -> None:
        pair, (one, two) = started_pair()
        pair.client.start_sessions(pair.now)
        pair.client.data_to_send()
        refusal = NSessions(Command.START_N_ACK, (two,), Accept.TEMPORARY_LIMITATION).encode() + bytes(16)
        good = NSessions(Command.START_N_ACK, (one,)).encode() + bytes(16)
        for octet in refusal + good:
            pair.client.receive_data(bytes([octet]), pair.now)
        refused, begun = pair.client_events()
        assert isinstance(refused, ControlRefused)
        assert refused.sids == (two,)
        assert "temporary resource limitations" in str(refused.error)
        assert begun == Started((one,))
        pair.client.stop_sessions(pair.now)
        assert pair.client.data_to_send()[:16] == bytes([9]) + bytes(11) + b"\0\0\0\1"
        pair.client.receive_data(NSessions(Command.STOP_N_ACK, (one,)).encode() + bytes(16), pair.now)
        assert pair.client_events() == [Stopped((one,))]

    @pytest.mark.req("rfc5938-s3.3-04", "rfc5938-s3.3-02")
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (n_sessions(Command.START_N_ACK, UNKNOWN), InvalidMessage),
            (n_sessions(Command.START_N_ACK), InvalidMessage),
            (n_sessions(Command.STOP_N_ACK, bytes(16)), UnexpectedMessage),
            (n_sessions(Command.START_SESSIONS, bytes(16)), InvalidMessage),
            (bytes([8]) + bytes(11) + b"\xff\xff\xff\xff", InvalidMessage),
        ],
    )
    def test_an_acknowledgement_that_cannot_be_ends_the_connection(
        self, answer: bytes, error: type[Exception]
    ) -> None:
        pair, _ = started_pair()
        pair.client.start_sessions(pair.now)
        pair.client.receive_data(answer + bytes(16), pair.now)
        closed = pair.client_events()[-1]
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, error)

    def test_an_acknowledgement_names_a_session_once(self) -> None:
        pair, (one, _) = started_pair()
        pair.client.start_sessions(pair.now, [one])
        pair.client.receive_data(n_sessions(Command.START_N_ACK, one, one) + bytes(16), pair.now)
        assert isinstance(pair.client_events()[-1], ConnectionClosed)

    def test_what_a_person_may_not_ask_for(self) -> None:
        pair, (one, two) = started_pair()
        with pytest.raises(LocalProtocolError):
            pair.client.start_sessions(pair.now, [UNKNOWN])
        with pytest.raises(LocalProtocolError):
            pair.client.start_sessions(pair.now, [])
        pair.client.start_sessions(pair.now, [one])
        with pytest.raises(LocalProtocolError):
            pair.client.start_sessions(pair.now, [one])
        with pytest.raises(LocalProtocolError):
            pair.client.stop_sessions(pair.now)
        pair.client.start_sessions(pair.now)  # what is left
        assert pair.client.awaited_sids == {one, two}
        plain = Pair()
        plain.run()
        plain.client.request_session(WISH, plain.now)
        plain.run()
        with pytest.raises(LocalProtocolError, match="session-control"):
            plain.client.start_sessions(plain.now, [UNKNOWN])

    def test_a_refused_request_leaves_the_order_of_answers_as_it_is(self) -> None:
        pair = Pair(ControlClientConfig(features=ISC), replace(ALL, open_sessions_per_connection=1))
        pair.run()
        pair.client.request_session(WISH, pair.now)
        pair.run()
        (sid,) = [event.session.sid for event in pair.client_events() if isinstance(event, SessionAccepted)]
        pair.client.request_session(WISH, pair.now)
        pair.client.start_sessions(pair.now, [sid])
        pair.run()
        rejected, begun = pair.client_events()
        assert isinstance(rejected, SessionRejected)
        assert begun == Started((sid,))
