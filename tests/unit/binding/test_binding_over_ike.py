"""O/TWAMP keyed by a real IKE SA: two SaManagers with their key exporters, a Control connection between them."""

from __future__ import annotations

import hashlib
import logging

import pytest
from binding_peers import Ends, Everything, bare_server, control, ends, outcome
from ippm_control_peers import WISH, Pair, SessionAccepted, drain
from sim.network import A, B, proposals

from binding.derivation import Derivation, control_context
from binding.provider import IkeKeyProvider, KeyOptions
from ikev2.embedding import IkeError, LocalProtocolError
from ippm import (
    ConnectionFailed,
    KeyProvider,
    LimitUsage,
    NoProvider,
    NoSecret,
    PassphraseProvider,
    ServerRefused,
    SessionKeys,
    parse_limits,
    seal_token,
)
from ippm.core.control_events import ClientRefused, ClientSetUp, Connected, ConnectionClosed, TestSession
from ippm.core.server import ServerState
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.crypto import open_token
from ippm.iana import Mode
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.set_up_response import SetUpResponse

ALL = list(Derivation)
NOW_NTP = 0xE0000000_00000000
ERROR_ESTIMATE = 0x8001


def session(made: Pair) -> tuple[TestSession, TestSession]:
    """A Test session as the client and the server have it."""
    made.client.request_session(WISH, made.now)
    made.run()
    (accepted,) = [event.session for event in drain(made.client) if isinstance(event, SessionAccepted)]
    return accepted, made.hooks.opened[-1]


def reflects(at_client: TestSession, at_server: TestSession, packets: int = 5) -> tuple[int, dict[str, int]]:
    """How many Test packets come back to the sender, and the reflector's counters."""
    sender = SessionSender(
        SenderPlan(
            at_client.sid, int(at_client.mode), at_client.keys, at_client.sender, at_client.reflector, packets
        )
    )
    reflector = SessionReflector(
        ReflectorPlan(
            at_server.sid, int(at_server.mode), at_server.keys, at_server.reflector, at_server.sender,
            hmac_counter="hmac_mismatch (key_count differs?)",
        ),
        lambda: NOW_NTP,
        ERROR_ESTIMATE,
    )  # fmt: skip
    reflector.start(0)
    answered = 0
    for sequence in range(packets):
        packet = bytes(sender.pack(sequence, NOW_NTP + sequence, ERROR_ESTIMATE))
        reply = reflector.handle(packet, 255, NOW_NTP, at_server.sender)
        answered += reply is not None and sender.handle_reply(bytes(reply), 255, NOW_NTP)
    return answered, reflector.counters


def set_up(made: Pair) -> None:
    at_client, at_server = outcome(made)
    assert isinstance(at_client, Connected), at_client
    assert isinstance(at_server, ClientSetUp), at_server


# The keys.


@pytest.mark.req("rfc7717-s5.1-01", "rfc7717-s5.1-02", "rfc7717-s5.1-m1")
@pytest.mark.parametrize("mode", [Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED])
@pytest.mark.parametrize("prf", ["prfsha1", "prfsha256", "prfsha384", "prfsha512"])
def test_in_every_keyed_mode_the_token_opens_with_the_prf_of_sk_d(mode: Mode, prf: str) -> None:
    change = {"proposals": proposals(f"aes128gcm16-{prf}-curve25519")}
    both = ends(a=change, b=change)
    made = both.control(mode=mode)
    set_up(made)
    greeting = ServerGreeting.parse(made.to_client[: ServerGreeting.OCTETS])
    response = SetUpResponse.parse(made.to_server[: SetUpResponse.OCTETS])
    assert response.mode == Mode.IKEV2_DERIVED | mode
    assert response.key_id == both.a.sa.spi_i + both.a.sa.spi_r + bytes(64)
    suite, keys = both.b.sa.need_keys()
    secret = suite.prf(keys.sk_d.octets, bytes.fromhex("4950504d"))
    token_key = hashlib.pbkdf2_hmac("sha1", secret, greeting.salt, greeting.count, 16)
    open_token([token_key], response.token, greeting.challenge)  # raises when it does not fit


@pytest.mark.parametrize("derivation", ALL)
@pytest.mark.parametrize("client_is_responder", [False, True])
def test_both_ends_have_the_same_test_keys_whoever_began_the_ike_sa(
    derivation: Derivation, client_is_responder: bool
) -> None:
    """Reading A13: SPIi is the original initiator's, also when the Control-Client was IKE's responder."""
    both = ends(client_is_responder=client_is_responder)
    assert both.a.sa.role.value == ("responder" if client_is_responder else "initiator")
    made = both.control(KeyOptions(derivation=derivation))
    set_up(made)
    sent = SetUpResponse.parse(made.to_server[: SetUpResponse.OCTETS]).key_id
    assert sent[:16] == both.a.sa.spi_i + both.a.sa.spi_r
    at_client, at_server = session(made)
    assert at_client.keys == at_server.keys
    assert at_client.keys is not None
    assert reflects(at_client, at_server) == (5, {"received": 5, "reflected": 5})


def test_swapped_spis_are_no_sa() -> None:
    both = ends()
    client, server = both.providers()
    secret = client.for_client(B, "twamp")
    swapped = secret.key_id[8:16] + secret.key_id[:8] + bytes(64)
    with pytest.raises(NoSecret) as caught:
        server.for_server(swapped, True, A, "twamp")
    assert caught.value.accept == 6


@pytest.mark.parametrize("derivation", [Derivation.KEYMAT_SID, Derivation.SKD_SID])
def test_draft_forms_give_every_session_keys_of_its_own(derivation: Derivation) -> None:
    both = ends()
    made = both.control(KeyOptions(derivation=derivation))
    set_up(made)
    first, second = session(made)[0], session(made)[0]
    assert first.sid != second.sid
    assert first.keys != second.keys
    suite, keys = both.a.sa.need_keys()
    root = keys.sk_d
    if derivation is Derivation.KEYMAT_SID:
        (root,) = (child.keymat for child in both.a.sa.children.values())
    for one in (first, second):
        # S_t = prf(K, SID); prf+(S_t, L | SID), of which the first 16 and the next 32 octets.
        stream = suite.prf.plus(suite.prf(root, one.sid), b"TWAMP-Test" + one.sid, 48)
        assert one.keys == SessionKeys(stream[:16], stream[16:])


# Deleted and gone SAs.


@pytest.mark.req("rfc7717-s5.1-03")
@pytest.mark.parametrize("derivation", ALL)
def test_a_session_goes_on_to_its_end_when_the_ike_sa_is_deleted_in_the_middle(derivation: Derivation) -> None:
    both = ends()
    made = both.control(KeyOptions(derivation=derivation))
    set_up(made)
    before = session(made)
    both.delete_ike_sa()
    both.network.run(both.network.now + 120)  # also the grace is over
    assert reflects(*before)[0] == 5
    # The Control connection still gives keys: for one more session, and for Start-Sessions.
    at_client, at_server = session(made)
    assert at_client.keys == at_server.keys
    assert reflects(at_client, at_server)[0] == 5
    made.client.start_sessions(made.now)
    made.run()
    assert made.server.state is ServerState.ACTIVE
    # But nobody gets in anew.
    with pytest.raises(NoSecret):
        IkeKeyProvider(both.at_a).for_client(B, "twamp")


@pytest.mark.req("rfc7717-s5.1-03")
@pytest.mark.parametrize("what", ["ike", "child"])
@pytest.mark.parametrize("derivation", ALL)
def test_a_session_goes_on_when_an_sa_is_rekeyed_and_a_new_connection_takes_the_new_one(
    derivation: Derivation, what: str
) -> None:
    """Readings A13 and A14: SPIi is then that of the end that rekeyed, here the server's host."""
    both = ends()
    options = KeyOptions(derivation=derivation)
    made = both.control(options)
    set_up(made)
    before, old = session(made), both.spis
    (old_child,) = both.b.installed.values()
    if what == "ike":
        both.b.manager.rekey(both.b.sa, both.network.now)
    else:
        both.b.manager.rekey_child(old_child, both.network.now)
    both.network.run(both.network.now + 100)
    assert (both.spis == old) == (what == "child")
    assert (old_child.spi_in in both.b.installed) == (what == "ike")
    assert reflects(*before)[0] == 5
    at_client, at_server = session(made)
    assert at_client.keys == at_server.keys
    assert reflects(at_client, at_server)[0] == 5
    again = both.control(options, seed="again")
    set_up(again)
    sent = SetUpResponse.parse(again.to_server[: SetUpResponse.OCTETS]).key_id
    assert sent[:16] == both.a.sa.spi_i + both.a.sa.spi_r
    if what == "ike":
        assert both.b.sa.role.value == "initiator"
        assert sent[:16] != b"".join(old)
    if derivation is Derivation.KEYMAT_SID:
        (child,) = both.b.installed.values()
        assert sent[16:20] == child.spi_in.to_bytes(4, "big")


@pytest.mark.req("rfc7717-s5.1-03")
def test_keymat_sid_lives_on_when_its_child_sa_is_deleted() -> None:
    both = ends()
    made = both.control(KeyOptions(derivation=Derivation.KEYMAT_SID))
    set_up(made)
    both.delete_child()
    at_client, at_server = session(made)
    assert at_client.keys == at_server.keys
    assert reflects(at_client, at_server)[0] == 5


def test_the_key_is_forgotten_when_the_connection_ends() -> None:
    both = ends()
    secret = IkeKeyProvider(both.at_a).for_client(B, "twamp")
    secret.close()
    with pytest.raises(LocalProtocolError):
        secret.token_keys(bytes(16), 1024)


@pytest.mark.parametrize(("sa_grace_s", "after_s", "accepted"), [(60, 58, True), (60, 61, False), (0, 1, False)])
def test_spis_of_an_sa_that_has_just_gone_are_accepted_within_the_grace(
    sa_grace_s: float, after_s: float, accepted: bool
) -> None:
    """Reading A14: the SA goes between the client's lookup and the server's."""
    both = ends(sa_grace_s=sa_grace_s)
    client, server = both.providers()
    secret = client.for_client(B, "twamp")
    both.delete_ike_sa()
    both.network.run(both.network.now + after_s - 1)
    if accepted:
        found = server.for_server(secret.key_id, True, A, "twamp")
        assert found.token_keys(bytes(16), 1024) == secret.token_keys(bytes(16), 1024)
    else:
        with pytest.raises(NoSecret) as caught:
            server.for_server(secret.key_id, True, A, "twamp")
        assert caught.value.accept == 6


# keymat-sid and its Child SA.


def test_keymat_sid_without_a_child_sa_is_refused_by_the_client() -> None:
    both = ends()
    both.delete_child()
    made = both.control(KeyOptions(derivation=Derivation.KEYMAT_SID))
    at_client, _ = outcome(made)
    assert isinstance(at_client, NoSecret)
    assert "no Child SA" in str(at_client)
    assert "\n" not in str(at_client)
    assert made.to_server == b""
    set_up(both.control())  # rfc7717 needs none (RFC 7717 section 5.1, reading A30)


def test_keymat_sid_without_a_child_sa_is_answered_6_by_the_server() -> None:
    both = ends()
    client, server = both.providers(KeyOptions(derivation=Derivation.KEYMAT_SID))
    held = client.for_client(B, "twamp")
    both.delete_child()
    with pytest.raises(NoSecret) as caught:
        server.for_server(held.key_id, True, A, "twamp")
    assert caught.value.accept == 6


def test_keymat_sid_picks_the_child_sa_by_the_servers_esp_spi() -> None:
    both = ends()
    options = KeyOptions(derivation=Derivation.KEYMAT_SID)
    client, server = both.providers(options)
    of_first = client.for_client(B, "twamp")
    both.add_child(bytes(range(72)), 0xD0000001, 0xD0000002)
    of_second = client.for_client(B, "twamp")
    assert of_second.key_id[16:20] == b"\xd0\0\0\2"  # what B receives on
    assert of_first.key_id[16:20] != of_second.key_id[16:20]
    answers = {}
    for secret in (of_first, of_second):
        there = server.for_server(secret.key_id, True, A, "twamp")
        assert there.token_keys(bytes(16), 1024) == secret.token_keys(bytes(16), 1024)
        answers[secret.key_id] = secret.token_keys(bytes(16), 1024)[0]
    assert len(set(answers.values())) == 2
    ours = of_second.key_id[:16] + b"\xd0\0\0\1" + bytes(60)  # the SPI on which the client receives names nothing
    with pytest.raises(NoSecret) as caught:
        server.for_server(ours, True, A, "twamp")
    assert caught.value.accept == 6


def test_keymat_sid_server_has_nothing_for_a_client_of_rfc7717() -> None:
    both = ends()
    made = both.control(KeyOptions(), KeyOptions(derivation=Derivation.KEYMAT_SID))
    at_client, _ = outcome(made)
    assert isinstance(at_client, ServerRefused)
    assert at_client.accept == 6


# key_count.


def test_two_keys_are_those_of_the_control_connection() -> None:
    made = ends().control(KeyOptions(key_count=2))
    set_up(made)
    at_client, at_server = session(made)
    second = session(made)[0]
    assert at_client.keys == at_server.keys == second.keys == made.client._keys
    assert reflects(at_client, at_server)[0] == 5


@pytest.mark.parametrize("mode", [Mode.AUTHENTICATED, Mode.ENCRYPTED])
@pytest.mark.parametrize("derivation", ALL)
@pytest.mark.parametrize(("client", "server"), [(2, 4), (4, 2)])
def test_key_count_at_one_end_alone_fails_every_hmac_and_the_counter_asks_why(
    mode: Mode, derivation: Derivation, client: int, server: int
) -> None:
    here, there = (KeyOptions(derivation=derivation, key_count=count) for count in (client, server))
    made = ends().control(here, there, mode=mode)
    set_up(made)  # it is not signalled
    answered, counters = reflects(*session(made), packets=7)
    assert answered == 0
    assert counters == {"received": 7, "reflected": 0, "hmac_mismatch (key_count differs?)": 7}


# Modes and greetings.


def test_a_greeting_without_the_bit_is_refused_in_one_line_when_it_is_required() -> None:
    both = ends()
    client, _ = both.providers()
    passphrases = PassphraseProvider({"alice": "correct horse"})
    made = control(client, passphrases, require_ikev2=True)
    at_client, at_server = outcome(made)
    assert isinstance(at_client, ConnectionFailed)
    assert "does not offer IKEv2-derived keys" in str(at_client)
    assert "\n" not in str(at_client)
    assert made.to_server == b""  # nothing of the SA is told
    assert at_server is None


def test_a_derived_secret_is_never_used_where_the_bit_was_not_offered() -> None:
    """Also without `require_ikev2`: an old server would take the SPIs for a user's name (reading A7)."""
    both = ends()
    made = control(both.providers()[0], PassphraseProvider({"alice": "correct horse"}))
    at_client, _ = outcome(made)
    assert isinstance(at_client, ConnectionFailed)
    assert made.to_server == b""


@pytest.mark.req("rfc7717-s5.2-01", "rfc7717-s5.2-m1")
def test_the_greeting_of_a_keyed_server_has_bit_7() -> None:
    made = ends().control()
    assert ServerGreeting.parse(made.to_client[: ServerGreeting.OCTETS]).modes & 0x80


@pytest.mark.req("rfc7717-s5.2-m2")
@pytest.mark.parametrize(("client", "mode"), [(NoProvider(), Mode.OPEN), (None, Mode.OPEN)])
def test_a_client_that_knows_nothing_of_the_bit_disregards_it(client: KeyProvider | None, mode: Mode) -> None:
    made = control(client, ends().providers()[1], mode)
    set_up(made)
    assert SetUpResponse.parse(made.to_server[: SetUpResponse.OCTETS]).mode == mode


@pytest.mark.parametrize(
    ("mode", "strict", "accept"),
    [
        (Mode.IKEV2_DERIVED, True, 3),
        (Mode.IKEV2_DERIVED | Mode.OPEN, True, 3),
        (Mode.IKEV2_DERIVED | Mode.AUTHENTICATED | Mode.ENCRYPTED, True, 3),
        (Mode.IKEV2_DERIVED | Mode.ENCRYPTED | Mode.MIXED, True, 3),
        (Mode.IKEV2_DERIVED, False, 3),
        (Mode.IKEV2_DERIVED | Mode.AUTHENTICATED | Mode.ENCRYPTED, False, 3),
        (Mode.IKEV2_DERIVED | Mode.OPEN, False, 0),
    ],
)
def test_bit_7_goes_with_exactly_one_keyed_mode(mode: Mode, strict: bool, accept: int) -> None:
    """Reading A8. Octet 15 of Server-Start is Accept."""
    both = ends()
    client, server = both.providers()
    role = bare_server(server, strict_modes=strict)
    greeting = ServerGreeting.parse(role.data_to_send())
    secret = client.for_client(B, "twamp")
    token_key = secret.token_keys(greeting.salt, greeting.count)[0]
    token = seal_token(token_key, greeting.challenge, SessionKeys(bytes(16), bytes(32)))
    role.receive_data(SetUpResponse(int(mode), secret.key_id, token).encode(), 0.0)
    assert role.data_to_send()[15] == accept
    assert role.closed == (accept != 0)


def test_the_message_of_figure_3_is_no_set_up_response() -> None:
    """Reading A1: drawn with a Token of 16 and a Client-IV of 12 octets it has 112 octets; 164 are awaited."""
    both = ends()
    client, server = both.providers()
    role = bare_server(server, setup_wait_s=60.0)
    role.data_to_send()
    key_id = client.for_client(B, "twamp").key_id
    figure_3 = (0x84).to_bytes(4, "big") + key_id + bytes(16) + bytes(12)
    assert len(figure_3) == 112
    role.receive_data(figure_3, 0.0)
    assert role.data_to_send() == b""
    assert role.state is ServerState.GREETED
    role.handle_timer(60.0)
    assert role.closed
    events = drain(role)
    assert [type(event) for event in events] == [ConnectionClosed]
    assert len(server.records) == 0  # no key was looked for


# What stays inside.


def secrets_of(both: Ends) -> list[bytes]:
    """Every key of both ends that must not be seen."""
    found = []
    for host in (both.a, both.b):
        _, keys = host.sa.need_keys()
        found += [
            getattr(keys, name).octets for name in ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr")
        ]
        found += [child.keymat.octets for child in host.sa.children.values()]
    return [octets for octets in found if octets]


def reachable(thing: object, seen: set[int]) -> list[object]:
    """Everything that hangs on the binding's own objects by attributes, short of what ikev2 and ippm made."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    out = [thing]
    if type(thing).__module__.split(".")[0] in ("ikev2", "ippm"):
        return out
    values: list[object] = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    values += [getattr(thing, slot) for slot in getattr(type(thing), "__slots__", ()) if hasattr(thing, slot)]
    if isinstance(thing, dict):
        values += [*thing, *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
        values += list(thing)  # type: ignore[call-overload]
    for value in values:
        out += reachable(value, seen)
    return out


@pytest.mark.req("rfc7717-s5.1-m2")
@pytest.mark.parametrize("derivation", ALL)
def test_no_key_of_ike_hangs_on_the_binding_and_none_is_in_a_log_or_repr(derivation: Derivation) -> None:
    both = ends()
    keys = secrets_of(both)
    client, server = both.providers(KeyOptions(derivation=derivation))
    log, root = Everything(), logging.getLogger()
    old = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    try:
        made = control(client, server)
        set_up(made)
        at_client, _ = session(made)
        with pytest.raises(NoSecret):
            server.for_server(bytes(80), True, A, "twamp")
    finally:
        root.removeHandler(log)
        root.setLevel(old)
    secret = made.client._secret
    assert secret is not None
    shared = both.at_a.open(B, derivation.value).secret(control_context(derivation, secret.key_id))
    derived = [shared, *secret.token_keys(bytes(16), 1024), at_client.keys.aes, at_client.keys.hmac]  # type: ignore[union-attr]
    said = "".join(log.lines) + "".join(
        repr(thing) for thing in (client, server, secret, *client.records, *server.records, both.at_a)
    )
    for octets in (*keys, *derived):
        assert octets.hex() not in said
        assert repr(octets) not in said
    held = [thing for owner in (client, server, secret) for thing in reachable(owner, set())]
    for thing in held:
        assert not any(thing == octets for octets in keys if isinstance(thing, bytes | str))
    assert len(held) > 10


def test_a_handle_gives_nothing_but_what_the_derivation_needs() -> None:
    """A binding that asked for more would be refused by ikev2: a free prf(SK_d, x) would hand out KEYMAT."""
    both = ends()
    for context in (b"", bytes(15), bytes(17), bytes(64), bytes(16)):
        with pytest.raises(LocalProtocolError):
            both.at_a.open(B, "rfc7717").secret(context)
    with pytest.raises(IkeError):
        both.at_a.open(B, "sk_d")


def test_the_identity_that_ike_authenticated_selects_the_limit_class() -> None:
    """Reading A20 of docs/rfc7717.md: IDi of A, as B's IKE SA has it."""
    both = ends()
    tables = {"guest": {"test_sessions": 1}, "partner": {"modes": "A"}}
    identity = both.at_b.open(both.spis, "rfc7717").peer_identity
    for id_map, mode, outcome_is in (
        ({identity: "partner"}, Mode.AUTHENTICATED, "partner"),
        ({"x" + identity: "partner"}, Mode.ENCRYPTED, "guest"),
    ):
        usage = LimitUsage(parse_limits(tables, {"default": "guest"}, id_map))
        _, at_server = outcome(both.control(mode=mode, usage=usage))
        assert isinstance(at_server, ClientSetUp)
        assert at_server.limit_class == outcome_is
    usage = LimitUsage(parse_limits(tables, {"default": "guest"}, {identity: "partner"}))
    _, at_server = outcome(both.control(mode=Mode.ENCRYPTED, usage=usage))
    assert at_server == ClientRefused(3, "class partner: encrypted mode is not allowed")
