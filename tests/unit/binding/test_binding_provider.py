"""The key provider over an exporter that the test plays: signalling, switches, refusals, and what is never shown."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import logging

import pytest
from binding_peers import ROOT_KEY, SPI_I, SPI_R, FakeExporter, FakeHandle, control, outcome
from ippm_control_peers import WISH, SessionAccepted, drain
from sim.network import A, B

from binding.derivation import Derivation
from binding.provider import MAX_FINGERPRINTS, MAX_RECORDS, IkeKeyProvider, KeyOptions
from ikev2.embedding import IkeError, NoSuchSa
from ippm import NoSecret, PassphraseProvider, PreferringProvider, ServerRefused, SessionKeys
from ippm.core.control_events import ClientRefused, ClientSetUp, Connected
from ippm.iana import Mode
from ippm.wire.set_up_response import SetUpResponse

KEY_ID = SPI_I + SPI_R + bytes(64)
SALT = bytes(range(16))


def provider(exporter: FakeExporter | None = None, **options: object) -> IkeKeyProvider:
    return IkeKeyProvider(exporter or FakeExporter(), KeyOptions(**options))  # type: ignore[arg-type]


@pytest.mark.req("rfc7717-s5.3-07", "rfc7717-s5.3-08")
def test_unknown_spis_get_accept_6_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    client = provider(FakeExporter(spi_i=bytes(7) + b"\1"))
    with caplog.at_level(logging.WARNING):
        at_client, at_server = outcome(control(client, provider()))
    assert isinstance(at_client, ServerRefused)
    assert at_client.accept == 6
    assert str(at_client) == (
        f"server refused: Accept 6 (no IKEv2 SA with SPIi 0000000000000001 SPIr {SPI_R.hex()} at the server)"
    )
    assert isinstance(at_server, ClientRefused)
    (record,) = [record for record in caplog.records if record.name == "ippm-ipsec"]
    assert record.levelno == logging.WARNING
    for word in (A, "0000000000000001", SPI_R.hex()):
        assert word in record.getMessage()


def test_accept_no_sa_1_is_for_peers_that_know_no_6() -> None:
    client = provider(FakeExporter(spi_i=bytes(7) + b"\1"))
    at_client, at_server = outcome(control(client, provider(accept_no_sa=1)))
    assert isinstance(at_client, ServerRefused)
    assert at_client.accept == 1
    assert isinstance(at_server, ClientRefused)
    assert at_server.accept == 1


def test_another_failure_of_the_ike_side_is_no_accept_6() -> None:
    server = provider(FakeExporter(IkeError("the key agent does not answer")))
    with pytest.raises(NoSecret) as caught:
        server.for_server(KEY_ID, True, A, "twamp")
    assert caught.value.accept == 2
    assert "does not answer" in caught.value.reason


@pytest.mark.req("rfc7717-s5.3-06")
def test_the_tail_of_the_key_id_is_ignored_by_the_server() -> None:
    exporter = FakeExporter()
    for derivation in (Derivation.RFC7717, Derivation.SKD_SID):
        secret = provider(exporter, derivation=derivation).for_server(
            SPI_I + SPI_R + b"\xff" * 64, True, A, "twamp"
        )
        assert secret.ikev2_derived
        assert exporter.asked[-1] == ((SPI_I, SPI_R), derivation.value, None, True)


def test_keymat_sid_reads_the_esp_spi_and_ignores_what_follows() -> None:
    exporter = FakeExporter()
    options = {"derivation": Derivation.KEYMAT_SID}
    provider(exporter, **options).for_server(SPI_I + SPI_R + b"\xc0\0\0\1" + b"\xff" * 60, True, A, "twamp")
    assert exporter.asked[-1] == ((SPI_I, SPI_R), "keymat-sid", 0xC0000001, True)


@pytest.mark.req("rfc7717-s5.3-02", "rfc7717-s5.3-03", "rfc7717-s5.3-04", "rfc7717-s5.3-05")
@pytest.mark.parametrize("derivation", [Derivation.RFC7717, Derivation.SKD_SID])
def test_the_client_sends_both_spis_and_zeros(derivation: Derivation) -> None:
    made = control(provider(derivation=derivation), provider(derivation=derivation))
    sent = SetUpResponse.parse(made.to_server[:164])
    assert sent.key_id == KEY_ID


def test_keymat_sid_sends_the_esp_spi_on_which_the_server_receives() -> None:
    client = provider(FakeExporter(child_spi=0xC0FFEE01), derivation=Derivation.KEYMAT_SID)
    assert client.for_client(B, "twamp").key_id == SPI_I + SPI_R + b"\xc0\xff\xee\x01" + bytes(60)


@pytest.mark.req("rfc7717-s5.1-02", "rfc7717-s5.3-01", "rfc7717-s5.3-m1")
def test_the_secret_is_asked_by_the_label_and_takes_the_passphrases_place() -> None:
    exporter = FakeExporter()
    made = control(provider(exporter), provider(), Mode.AUTHENTICATED)
    assert isinstance(outcome(made)[0], Connected)
    assert exporter.given[0].contexts == [b"IPPM"]
    sent = SetUpResponse.parse(made.to_server[:164])
    assert sent.mode == 128 + 2  # IKEv2Derived, and the one bit of the security mode
    greeting_salt, count = made.to_client[32:48], int.from_bytes(made.to_client[48:52], "big")
    secret = hmac.new(ROOT_KEY, b"IPPM", hashlib.sha256).digest()
    (key,) = provider().for_client(B, "twamp").token_keys(greeting_salt, count)
    assert key == hashlib.pbkdf2_hmac("sha1", secret, greeting_salt, 1024, 16)


def test_the_label_is_the_handles() -> None:
    exporter = FakeExporter(label=b"OTHER")
    provider(exporter).for_client(B, "twamp").token_keys(SALT, 1024)
    assert exporter.given[0].contexts == [b"OTHER"]


@pytest.mark.parametrize(
    ("address", "binding", "accepted", "lines"),
    [
        (A, "enforce", True, 0),
        (A, "warn", True, 0),
        ("198.51.100.7", "off", True, 0),
        ("198.51.100.7", "warn", True, 1),
        ("198.51.100.7", "enforce", False, 1),
        ("2001:db8::1", "enforce", True, 0),
    ],
)
def test_peer_binding(
    caplog: pytest.LogCaptureFixture, address: str, binding: str, accepted: bool, lines: int
) -> None:
    """Reading A12: key proof is enough, unless the switch wants the SA's own peer; the spelling does not matter."""
    exporter = FakeExporter(peer_address="2001:DB8:0::1" if ":" in address else A)
    server = provider(exporter, peer_binding=binding)
    with caplog.at_level(logging.INFO):
        if accepted:
            server.for_server(KEY_ID, True, address, "twamp")
        else:
            with pytest.raises(NoSecret) as caught:
                server.for_server(KEY_ID, True, address, "twamp")
            assert caught.value.accept == 6
            assert exporter.given[0].closed == 1
    found = [record.getMessage() for record in caplog.records if record.name == "ippm-ipsec"]
    assert len(found) == lines
    assert all(address in line and A in line for line in found)


@pytest.mark.parametrize(("client", "index"), [("pbkdf2", 0), ("truncate16", 1)])
@pytest.mark.parametrize("encoding", ["raw", "hex"])
def test_token_key_auto_takes_either_rule_and_tells_which(client: str, index: int, encoding: str) -> None:
    how = {"secret_encoding": encoding}
    made = control(provider(token_key=client, **how), provider(token_key="auto", **how))
    at_client, at_server = outcome(made)
    assert isinstance(at_client, Connected)
    assert isinstance(at_server, ClientSetUp)
    assert at_server.token_key_index == index


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ({"token_key": "truncate16"}, {}),
        ({}, {"token_key": "truncate16"}),
        ({"secret_encoding": "hex"}, {}),
        ({"secret_encoding": "hex"}, {"token_key": "auto"}),
        ({"derivation": Derivation.SKD_SID}, {}),
    ],
)
def test_ends_that_read_the_text_differently_do_not_meet(
    client: dict[str, object], server: dict[str, object]
) -> None:
    at_client, at_server = outcome(control(provider(**client), provider(**server)))
    assert isinstance(at_client, ServerRefused)
    assert at_client.accept == 1
    assert isinstance(at_server, ClientRefused)


def test_secret_encoding_hex_is_lower_case_without_a_prefix() -> None:
    secret = hmac.new(ROOT_KEY, b"IPPM", hashlib.sha256).hexdigest().encode()
    keys = provider(secret_encoding="hex").for_client(B, "twamp").token_keys(SALT, 1024)
    assert list(keys) == [hashlib.pbkdf2_hmac("sha1", secret, SALT, 1024, 16)]


def test_an_ike_only_server_answers_a_passphrase_with_accept_1() -> None:
    """Reading A35: it cannot say in the greeting that it has no passphrases."""
    made = control(PassphraseProvider({"alice": "correct horse"}), provider())
    at_client, at_server = outcome(made)
    assert isinstance(at_client, ServerRefused)
    assert at_client.accept == 1
    assert isinstance(at_server, ClientRefused)
    assert "no passphrases" in at_server.reason


def test_passphrases_may_be_served_beside_ike() -> None:
    passphrases = PassphraseProvider({"alice": "correct horse"})
    server = PreferringProvider(IkeKeyProvider(FakeExporter()), passphrases)
    key_id = passphrases.for_client(B, "twamp").key_id
    assert not server.for_server(key_id, False, A, "twamp").ikev2_derived
    with pytest.raises(NoSecret) as caught:
        server.for_server(key_id, True, A, "twamp")  # a user's name is no pair of SPIs
    assert caught.value.accept == 6


def test_the_client_is_told_in_one_line_that_there_is_no_sa() -> None:
    client = provider(FakeExporter(NoSuchSa("no established IKE SA with the peer 192.0.2.2")))
    at_client, _ = outcome(control(client, provider()))
    assert isinstance(at_client, NoSecret)
    assert "\n" not in str(at_client)
    assert "192.0.2.2" in str(at_client)


def test_the_handle_is_closed_when_the_token_is_wrong_and_when_the_connection_ends() -> None:
    exporter = FakeExporter()
    control(provider(token_key="truncate16"), provider(exporter))
    assert [handle.closed for handle in exporter.given] == [1]
    at_client, at_server = FakeExporter(), FakeExporter()
    made = control(provider(at_client), provider(at_server))
    assert [handle.closed for handle in (*at_client.given, *at_server.given)] == [0, 0]
    made.client.close()
    made.server.receive_eof(made.now)
    assert [handle.closed for handle in (*at_client.given, *at_server.given)] == [1, 1]


def test_the_handle_of_the_server_waits_for_the_last_test_session() -> None:
    """Reading A15: until the Control connection and its last Test session end."""
    exporter = FakeExporter()
    made = control(provider(), provider(exporter))
    made.client.request_session(WISH, made.now)
    made.run()
    (session,) = [event.session for event in drain(made.client) if isinstance(event, SessionAccepted)]
    made.server.receive_eof(made.now)
    assert exporter.given[0].closed == 0
    made.server.session_ended(session.sid)
    assert exporter.given[0].closed == 1


def test_records_and_fingerprints_are_bounded() -> None:
    server = provider(derivation=Derivation.SKD_SID)
    for _ in range(MAX_RECORDS + 10):
        secret = server.for_server(KEY_ID, True, A, "twamp")
    assert len(server.records) == MAX_RECORDS
    control_keys = SessionKeys(bytes(16), bytes(32))
    for number in range(MAX_FINGERPRINTS):
        secret.test_keys("twamp", number.to_bytes(16, "big"), control_keys)
    fingerprints = server.records[-1].fingerprints
    assert len(fingerprints) == MAX_FINGERPRINTS
    assert f"test_keys {(MAX_FINGERPRINTS - 1).to_bytes(16, 'big').hex()}" in fingerprints


def test_fake_and_real_handles_have_the_same_words() -> None:
    """The fake is worth something only while it looks like the real thing."""
    from ikev2.core.exporter import LocalKeyHandle

    words = {field.name for field in dataclasses.fields(FakeHandle)} - {"contexts", "closed"}
    assert words == {slot for slot in LocalKeyHandle.__slots__ if not slot.startswith("_")}
