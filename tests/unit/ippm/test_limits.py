"""Limit classes: which client is of which, what counts where, and what a client gets that is beyond a limit.

RFC 4656 sections 3.1, 3.3 and 6.5.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ippm_control_peers import CLIENT, Pair, derived_provider, passphrases
from owamp_control_peers import FROM_SERVER, TO_SERVER, OwampPair

from ippm.cli.settings import read_server_file
from ippm.core.control_client import ControlClientConfig, SessionWish
from ippm.core.control_events import (
    ClientRefused,
    ClientSetUp,
    ConnectionClosed,
    Endpoint,
    SessionAccepted,
    SessionDenied,
    SessionRejected,
)
from ippm.core.limits import LimitUsage
from ippm.core.owamp_events import OwampSessionAccepted
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import KeyProvider
from ippm.errors import ConfigurationError, RefuseSession, ServerRefused
from ippm.iana import Accept, Mode
from ippm.io.limit_tables import parse_limits, quantity
from ippm.wire.server_greeting import ServerGreeting

LIMIT = {
    "root": {"bandwidth": "1M", "test_sessions": 3},
    "regular": {"parent": "root", "test_sessions": 2},
    "big": {"parent": "root", "delete_on_fetch": "on"},
    "jail": {"parent": "root", "allow_open_mode": False, "bandwidth": 1},
    "sealed": {"parent": "jail", "modes": "E"},
}
ASSIGN = {
    "default": "regular",
    "net": {"192.0.2.0/24": "big", "192.0.2.128/25": "jail", "2001:db8::/32": "jail"},
    "user": {"alice": "sealed"},
}


def usage(
    assign: dict[str, object] | None = None, id_map: dict[str, str] | None = None, **change: object
) -> LimitUsage:
    return LimitUsage(parse_limits({**LIMIT, **change}, assign or ASSIGN, id_map))


class TestAssignment:
    @pytest.mark.parametrize(
        ("host", "name"),
        [
            ("198.51.100.1", "regular"),
            ("192.0.2.1", "big"),
            ("192.0.2.129", "jail"),
            ("::ffff:192.0.2.1", "big"),
            ("2001:db8::1", "jail"),
            ("fe80::1%eth0", "regular"),
        ],
    )
    def test_the_most_specific_network_counts(self, host: str, name: str) -> None:
        assert usage().limits.of_address(host).name == name

    def test_a_user_comes_before_its_network(self) -> None:
        limits = usage().limits
        assert limits.of_user("alice", "192.0.2.1").name == "sealed"
        assert limits.of_user("bob", "192.0.2.1").name == "big"

    def test_an_identity_that_is_not_known_is_of_the_default_class_wherever_it_is(self) -> None:
        limits = usage(id_map={"b.example": "big"}).limits
        assert limits.of_identity("b.example").name == "big"
        assert limits.of_identity("c.example").name == limits.of_identity(None).name == "regular"

    def test_switches_and_modes_come_from_above(self) -> None:
        limits = usage().limits
        assert limits.terms("big").delete_on_fetch
        assert not limits.terms("regular").delete_on_fetch
        assert limits.terms("regular").modes & Mode.OPEN
        assert limits.terms("sealed").modes == Mode.ENCRYPTED
        assert not limits.terms("jail").modes & Mode.OPEN
        assert [one.name for one in limits.terms("sealed").path] == ["sealed", "jail", "root"]


@pytest.mark.req("rfc4656-s6.5-01", "rfc4656-s3.3-01")
class TestCounting:
    def test_what_is_taken_counts_in_every_class_above(self) -> None:
        counted = usage()
        regular, big = counted.limits.terms("regular"), counted.limits.terms("big")
        counted.take(regular, test_sessions=1, bandwidth=600_000)
        counted.take(big, test_sessions=1)
        assert (counted.used("root", "test_sessions"), counted.used("regular", "test_sessions")) == (2, 1)
        with pytest.raises(RefuseSession, match="class big: bandwidth of class root is limited to 1000000") as now:
            counted.take(big, test_sessions=1, bandwidth=600_000)
        assert now.value.accept == Accept.TEMPORARY_LIMITATION
        assert counted.used("root", "test_sessions") == 2  # all or nothing
        counted.give_back(regular, test_sessions=1, bandwidth=600_000)
        counted.take(big, test_sessions=1, bandwidth=600_000)

    def test_what_is_beyond_the_limit_alone_is_refused_for_good(self) -> None:
        counted = usage()
        with pytest.raises(RefuseSession, match="1000001 are asked for") as never:
            counted.take(counted.limits.terms("regular"), bandwidth=1_000_001)
        assert never.value.accept == Accept.PERMANENT_LIMITATION

    def test_zero_is_no_limit(self) -> None:
        counted = usage(root={"bandwidth": 0})
        counted.take(counted.limits.terms("big"), bandwidth=1 << 60)


def twamp(mode: Mode, counted: LimitUsage, provider: KeyProvider | None = None) -> tuple[Pair, list[object]]:
    """A Control connection from 192.0.2.1, and what the server says of its set-up."""
    provider = provider or passphrases()
    pair = Pair(ControlClientConfig(mode), ControlServerConfig(count=1024, usage=counted), provider, provider)
    pair.run()
    said = events(pair.server)
    if isinstance(said[0], ClientSetUp):
        events(pair.client)
    return pair, said


def events(role: object) -> list[object]:
    found: list[object] = []
    while (event := role.next_event()) is not None:  # type: ignore[attr-defined]
        found.append(event)
    return found


class TestSetUp:
    def test_the_class_is_that_of_the_user(self) -> None:
        _, (event,) = twamp(Mode.ENCRYPTED, usage())
        assert isinstance(event, ClientSetUp)
        assert event.limit_class == "sealed"

    def test_a_mode_that_the_users_class_excludes_is_refused_in_server_start(self) -> None:
        pair, said = twamp(Mode.AUTHENTICATED, usage())
        assert said[0] == ClientRefused(Accept.NOT_SUPPORTED, "class sealed: authenticated mode is not allowed")
        assert isinstance(said[1], ConnectionClosed)
        (closed,) = events(pair.client)
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, ServerRefused)
        assert closed.error.accept == Accept.NOT_SUPPORTED

    def test_open_mode_is_not_offered_to_a_network_whose_class_excludes_it(self) -> None:
        strict = usage({"default": "jail"})
        pair, _ = twamp(Mode.ENCRYPTED, strict)
        greeting = ServerGreeting.parse(pair.to_client[: ServerGreeting.OCTETS])
        assert greeting.modes == Mode.AUTHENTICATED | Mode.ENCRYPTED | Mode.MIXED
        pair, _ = twamp(Mode.ENCRYPTED, usage({"default": "regular"}))
        assert ServerGreeting.parse(pair.to_client[: ServerGreeting.OCTETS]).modes & Mode.OPEN

    def test_a_client_that_takes_open_mode_all_the_same_is_refused_in_server_start(self) -> None:
        """The answer is Accept 3, and the reason names the class."""
        pair = Pair(
            ControlClientConfig(Mode.OPEN),
            ControlServerConfig(count=1024, usage=usage({"default": "jail"})),
            passphrases(),
            passphrases(),
        )
        pair.server.data_to_send()
        pair.server.receive_data((1).to_bytes(4, "big") + bytes(160), 0.0)
        answer = pair.server.data_to_send()
        assert answer[15] == Accept.NOT_SUPPORTED
        assert events(pair.server)[0] == ClientRefused(Accept.NOT_SUPPORTED, "class jail: open mode is not allowed")

    def test_an_identity_of_ike_has_a_class(self) -> None:
        counted = usage(id_map={"peer.example": "big"})
        _, (event,) = twamp(Mode.ENCRYPTED, counted, derived_provider())
        assert isinstance(event, ClientSetUp)
        assert (event.peer_identity, event.limit_class) == ("peer.example", "big")
        _, (event,) = twamp(Mode.ENCRYPTED, usage(), derived_provider())
        assert isinstance(event, ClientSetUp)
        assert event.limit_class == "regular"


@pytest.mark.req("rfc4656-s6.5-01", "rfc4656-s6.5-02", "rfc4656-s3.3-01")
class TestSessions:
    def test_sessions_of_a_class_are_counted_over_its_connections_and_freed(self) -> None:
        counted = usage({"default": "regular"})
        first, _ = twamp(Mode.OPEN, counted)
        second, _ = twamp(Mode.OPEN, counted)
        answers = []
        for pair in (first, second, second):
            pair.client.request_session(SessionWish(Endpoint(CLIENT.host, 18700)), pair.now)
            pair.run()
            answers += events(pair.client)
        assert [type(answer) for answer in answers] == [SessionAccepted, SessionAccepted, SessionRejected]
        denied = [event for event in events(second.server) if isinstance(event, SessionDenied)]
        words = "class regular: test_sessions is limited to 2 sessions, 2 are taken and 1 are asked for"
        assert denied == [SessionDenied(Accept.TEMPORARY_LIMITATION, words)]
        (opened,) = first.hooks.opened
        first.server.session_ended(opened.sid)
        first.server.session_ended(opened.sid)  # once is enough
        assert counted.used("regular", "test_sessions") == 1

    def test_a_session_that_did_not_come_about_takes_nothing(self) -> None:
        counted = usage({"default": "regular"})
        pair, _ = twamp(Mode.OPEN, counted)
        pair.hooks.refusal = RefuseSession(Accept.TEMPORARY_LIMITATION, "no port")
        pair.client.request_session(SessionWish(Endpoint(CLIENT.host, 18700)), pair.now)
        pair.run()
        assert counted.used("root", "test_sessions") == 0

    def test_the_rate_that_a_one_way_session_asks_for_is_its_bandwidth(self) -> None:
        """42 octets (14 of OWAMP, 28 of UDP and IPv4) every 10 ms are 33,600 bits per second."""
        counted = usage({"default": "regular"}, root={"bandwidth": 40_000})
        pair = OwampPair(usage=counted).set_up()
        answers = []
        for wish in (TO_SERVER, FROM_SERVER):
            pair.client.request_session(wish, pair.now)
            pair.run()
            answers += pair.client_events()
        assert isinstance(answers[0], OwampSessionAccepted)
        assert counted.used("root", "bandwidth") == 33_600
        assert isinstance(answers[1], SessionRejected)
        assert isinstance(answers[1].error, ServerRefused)
        assert answers[1].error.accept == Accept.TEMPORARY_LIMITATION
        pair.server.session_ended(answers[0].session.sid)
        assert counted.used("root", "bandwidth") == 0

    def test_a_rate_above_the_limit_is_refused_for_good(self) -> None:
        pair = OwampPair(usage=usage({"default": "jail"}, jail={"bandwidth": 1})).set_up()
        pair.client.request_session(TO_SERVER, pair.now)
        pair.run()
        (answer,) = pair.client_events()
        assert isinstance(answer, SessionRejected)
        assert isinstance(answer.error, ServerRefused)
        assert answer.error.accept == Accept.PERMANENT_LIMITATION
        assert pair.hooks.opened == []


class TestFile:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "server.toml"
        path.write_text(text)
        return path

    def test_both_servers_share_the_classes(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            '[limit.root]\nbandwidth = 0\ndisk = "10G"\n[limit.regular]\nparent = "root"\nbandwidth = "20M"\n'
            'test_sessions = 4\ndelete_on_fetch = "on"\nmodes = "AE"\n'
            '[assign]\ndefault = "regular"\n[assign.net]\n"10.0.0.0/8" = "root"\n[assign.user]\nalice = "root"\n',
        )
        tables = read_server_file(path)
        assert tables.twamp is not None
        assert tables.owamp is not None
        assert tables.twamp.usage is tables.owamp.usage is not None
        limits = tables.owamp.usage.limits
        assert limits.classes["regular"].bandwidth == 20_000_000
        assert limits.terms("root").path[0].disk == 10_000_000_000
        assert limits.of_address("10.1.1.1").name == limits.of_user("alice", "192.0.2.1").name == "root"
        assert limits.of_address("192.0.2.1").modes == Mode.AUTHENTICATED | Mode.ENCRYPTED

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('[limit.a]\n[assign]\ndefault = "b"\n', "assign.default: there is no class b"),
            ("[limit.a]\n", "assign.default: the class of every client that nothing else names is wanted"),
            ("limit = 3\n[assign]\n", "limit: tables are wanted, such as [limit.regular]"),
            ('[limit.a]\nparent = "b"\n[assign]\ndefault = "a"\n', "limit.a.parent: there is no class b"),
            (
                '[limit.a]\nparent = "a"\n[assign]\ndefault = "a"\n',
                "limit.a.parent: the class would be above itself",
            ),
            (
                '[limit.a]\nbandwith = 1\n[assign]\ndefault = "a"\n',
                "limit.a.bandwith: not known; parent, bandwidth",
            ),
            (
                '[limit.a]\ndisk = "ten"\n[assign]\ndefault = "a"\n',
                "limit.a.disk: a number, not negative, or a text",
            ),
            ('[limit.a]\ndisk = -1\n[assign]\ndefault = "a"\n', "limit.a.disk: a number, not negative, or a text"),
            ('[limit.a]\nmodes = "X"\n[assign]\ndefault = "a"\n', "limit.a.modes: no security mode is called 'X'"),
            (
                '[limit.a]\ndelete_on_fetch = 1\n[assign]\ndefault = "a"\n',
                "limit.a.delete_on_fetch: true or false is wanted",
            ),
            (
                '[limit.a]\n[assign]\ndefault = "a"\nhost = "a"\n',
                "assign.host: not known; default, net and user are",
            ),
            (
                '[limit.a]\n[assign]\ndefault = "a"\n[assign.net]\n"10.0.0.1/8" = "a"\n',
                'assign.net."10.0.0.1/8": 10.0.0.1/8 has host bits set',
            ),
            (
                '[limit.a]\n[assign]\ndefault = "a"\n[assign.user]\nbob = "b"\n',
                'assign.user."bob": there is no class b',
            ),
        ],
    )
    def test_a_fault_is_one_line_with_its_path(self, tmp_path: Path, text: str, said: str) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(ConfigurationError) as caught:
            read_server_file(path)
        assert str(caught.value).splitlines()[0].startswith(f"{path}: {said}")

    def test_every_fault_has_a_line(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, '[limit.a]\ndisk = "x"\nparent = "q"\n[assign]\ndefault = "z"\n')
        with pytest.raises(ConfigurationError) as caught:
            read_server_file(path)
        assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
            "limit.a.disk", "limit.a.parent", "assign.default",
        ]  # fmt: skip

    def test_quantities(self) -> None:
        assert [quantity(value) for value in (0, 7, "7", "20M", "1k", "3G", "1T")] == [
            0, 7, 7, 20_000_000, 1000, 3_000_000_000, 10**12,
        ]  # fmt: skip
        for wrong in (True, 1.5, "1.5M", "M", "", None):
            with pytest.raises(ValueError, match="is wanted"):
                quantity(wrong)


def test_the_example_of_the_document_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "limits.md").read_text()
    path = tmp_path / "server.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0])
    tables = read_server_file(path)
    assert tables.twamp is not None
    assert tables.twamp.usage is not None
    assert tables.twamp.usage.limits.of_address("203.0.113.7").name == "jail"
