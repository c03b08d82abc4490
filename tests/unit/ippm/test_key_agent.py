"""The key agent's client against agents that are gone, slow, hostile or another user's; preference of keys."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from decoder.twamp_decoder import decode_control
from ippm_control_peers import (
    CLIENT,
    SPI_I,
    SPI_R,
    Connected,
    ConnectionClosed,
    DerivedProvider,
    Pair,
    derived_provider,
    passphrases,
)

from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import ClientRefused
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import KeyProvider
from ippm.errors import ConfigurationError, NoSecret, ServerRefused
from ippm.iana import Accept, Mode
from ippm.io import key_agent
from ippm.io.key_agent import AgentError, KeyAgentProvider, parse_ike_sa
from ippm.io.key_preference import PreferringProvider

SECRET = bytes(range(32))
OPENED = {
    "ok": True,
    "handle": 7,
    "derivation": "rfc7717",
    "prf": "hmac-sha2-256",
    "spi_i": SPI_I.hex(),
    "spi_r": SPI_R.hex(),
    "local_identity": "b.example",
    "peer_identity": "a.example",
    "peer_address": CLIENT.host,
    "child_spi": None,
    "label": b"IPPM".hex(),
}
Answer = Callable[[dict[str, Any]], bytes]


def good(request: dict[str, Any]) -> bytes:
    """What an agent says that has the SA."""
    reply = OPENED if request["op"] == "open" else {"ok": True, "secret": SECRET.hex()}
    return json.dumps(reply).encode() + b"\n"


@contextmanager
def agent(path: Path, answer: Answer) -> Iterator[list[dict[str, Any]]]:
    """A socket that answers as told; what was asked."""
    asked: list[dict[str, Any]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with suppress(ConnectionError), sock, sock.makefile("rb") as lines:
                for line in lines:
                    asked.append(json.loads(line))
                    octets = answer(asked[-1])
                    if not octets:
                        break
                    sock.sendall(octets)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)


def test_a_handle_is_opened_for_the_peer_and_asked_for_its_one_context(tmp_path: Path) -> None:
    with agent(tmp_path / "keys", good) as asked:
        secret = KeyAgentProvider(tmp_path / "keys").for_client("::ffff:192.0.2.2", "twamp")
    assert asked == [
        {"op": "open", "derivation": "rfc7717", "peer": "192.0.2.2"},
        {"op": "secret", "handle": 7, "context": b"IPPM".hex()},
    ]
    assert secret.key_id == SPI_I + SPI_R + bytes(64)
    assert (secret.ikev2_derived, secret.derivation, secret.peer_identity) == (True, "rfc7717", "a.example")
    assert SECRET.hex() not in repr(secret)


def test_a_named_ike_sa_is_asked_for(tmp_path: Path) -> None:
    with agent(tmp_path / "keys", good) as asked:
        KeyAgentProvider(tmp_path / "keys", (SPI_I, SPI_R)).for_client("192.0.2.2", "owamp")
    assert asked[0] == {"op": "open", "derivation": "rfc7717", "spi_i": SPI_I.hex(), "spi_r": SPI_R.hex()}


@pytest.mark.parametrize("mode", [Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED], ids=repr)
def test_the_second_decoder_reads_a_connection_with_the_secret_of_the_agent(mode: Mode, tmp_path: Path) -> None:
    with agent(tmp_path / "keys", good):
        provider = KeyAgentProvider(tmp_path / "keys")
        pair = Pair(
            ControlClientConfig(mode, require_ikev2=True), None, provider, KeyAgentProvider(tmp_path / "keys")
        )
        pair.run()
    (connected,) = pair.client_events()
    assert isinstance(connected, Connected)
    assert connected.ikev2_derived
    control = decode_control(pair.to_server, pair.to_client, SECRET)
    assert control.mode == mode | Mode.IKEV2_DERIVED


@pytest.mark.req("rfc7717-s5.3-07", "rfc7717-s5.3-08")
def test_the_server_answers_accept_6_for_an_sa_that_the_agent_does_not_know(tmp_path: Path) -> None:
    refusal = {"ok": False, "error": "no established IKE SA 01:02", "kind": "NoSuchSa"}
    with agent(tmp_path / "keys", lambda _: json.dumps(refusal).encode() + b"\n"):
        pair = Pair(
            ControlClientConfig(Mode.ENCRYPTED), None, derived_provider(), KeyAgentProvider(tmp_path / "keys")
        )
        pair.run()
    (closed,) = [one for one in pair.client_events() if isinstance(one, ConnectionClosed)]
    assert isinstance(closed.error, ServerRefused)
    assert closed.error.accept == Accept.NO_IKEV2_SA
    (refused, _) = pair.server_events()
    assert isinstance(refused, ClientRefused)
    assert "no established IKE SA" in refused.reason


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: b"not json\n", "this is no key agent"),
        (lambda _: b"[1]\n", "this is no key agent"),
        (lambda _: b"", "closed the connection"),
        (lambda _: b"x" * 100_000, "says too much"),
        (lambda _: b'{"ok": true}\n', "makes no sense: label"),
        (lambda _: json.dumps(OPENED | {"label": ""}).encode() + b"\n", "makes no sense: label"),
        (lambda _: json.dumps(OPENED | {"label": "00" * 17}).encode() + b"\n", "makes no sense: label"),
        (lambda _: json.dumps(OPENED | {"handle": "x"}).encode() + b"\n", "makes no sense: handle"),
        (lambda _: json.dumps(OPENED | {"spi_i": "00"}).encode() + b"\n", "makes no sense: spi_i"),
        (lambda _: json.dumps(OPENED | {"secret": "00" * 15}).encode() + b"\n", "makes no sense: secret"),
        (lambda _: b'{"ok": false, "error": "too many connections to this socket"}\n', "too many connections"),
        (
            lambda _: b'{"ok": false, "error": "unknown command None", "kind": "IkeError"}\n',
            "keys, which should be a key_agent_socket, answers: unknown command None",
        ),
    ],
)
def test_an_agent_that_fails_gets_the_client_accept_2_and_our_user_a_line(
    answer: Answer, words: str, tmp_path: Path
) -> None:
    with agent(tmp_path / "keys", answer):
        provider = KeyAgentProvider(tmp_path / "keys")
        with pytest.raises(NoSecret, match=words) as caught:
            provider.for_server(SPI_I + SPI_R + bytes(64), True, CLIENT.host, "twamp")
        assert caught.value.accept == Accept.INTERNAL_ERROR
        with pytest.raises(NoSecret, match=words):
            provider.for_client(CLIENT.host, "twamp")


def test_an_agent_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_agent, "ANSWER_WAIT_S", 0.05)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "keys"))
    listener.listen()
    with listener, pytest.raises(NoSecret, match="the key agent does not answer"):
        KeyAgentProvider(tmp_path / "keys").for_client(CLIENT.host, "twamp")


def test_no_agent_is_told_with_what_starts_one(tmp_path: Path) -> None:
    provider = KeyAgentProvider(tmp_path / "keys")
    with pytest.raises(NoSecret, match=r"no key agent is running at .*keys \(start one with `ikev2 run -c FILE`\)"):
        provider.for_client(CLIENT.host, "twamp")
    with pytest.raises(AgentError):
        provider.check()


def test_a_passphrase_from_a_client_is_refused_with_accept_1(tmp_path: Path) -> None:
    with pytest.raises(NoSecret) as caught:
        KeyAgentProvider(tmp_path / "keys").for_server(b"alice".ljust(80, b"\0"), False, CLIENT.host, "twamp")
    assert caught.value.accept == Accept.FAILURE


def test_an_agent_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made the socket is told by the kernel; that it was us is an accident of the test."""
    with agent(tmp_path / "keys", good) as asked:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        if os.getuid() == 0:
            monkeypatch.setattr(key_agent, "_UCRED", Uid(4242))
        with pytest.raises(ConfigurationError, match=r"is run by another user \(uid"):
            KeyAgentProvider(tmp_path / "keys").check()
    assert asked == []


class Uid:
    """A struct ucred with this user."""

    size = 12

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def unpack(self, octets: bytes) -> tuple[int, int, int]:
        return 1, self.uid, 1


def test_the_secret_is_forgotten_when_it_is_closed(tmp_path: Path) -> None:
    with agent(tmp_path / "keys", good):
        secret = KeyAgentProvider(tmp_path / "keys").for_client(CLIENT.host, "twamp")
    assert len(secret.token_keys(bytes(16), 1024)) == 1  # the agent is gone, the key is not
    secret.close()
    with pytest.raises(AgentError):
        secret.token_keys(bytes(16), 1024)


@pytest.mark.parametrize("text", ["", "01:02", "0123456789abcdef", "0123456789abcdef:xx23456789abcdef", "a:b:c"])
def test_spis_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SPIi:SPIr are wanted, 16 hexadecimal digits each"):
        parse_ike_sa(text)


# Which kind of key.


class NoSas(DerivedProvider):
    """IKEv2-derived keys could be had, but there is no IKE SA."""

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> Any:
        raise NoSecret(6, "no IKE SA with it")


def connected_by(client: KeyProvider, server: KeyProvider) -> tuple[Connected, Pair]:
    pair = Pair(ControlClientConfig(Mode.ENCRYPTED), ControlServerConfig(count=1024), client, server)
    pair.run()
    (event,) = pair.client_events()
    assert isinstance(event, Connected), event
    return event, pair


@pytest.mark.req("rfc7717-s1-01")
def test_ikev2_derived_keys_are_used_instead_of_a_passphrase_where_both_can_be_had() -> None:
    client = PreferringProvider(derived_provider(), passphrases())
    connected, pair = connected_by(client, PreferringProvider(derived_provider(), passphrases()))
    assert connected.ikev2_derived
    control = decode_control(pair.to_server, pair.to_client, b"\x00\n\r shared secret \xff")
    assert control.client[0].fields["key_id"][:16] == SPI_I + SPI_R
    assert control.mode & Mode.IKEV2_DERIVED


@pytest.mark.req("rfc7717-s1-01")
def test_who_prefers_a_passphrase_gets_one() -> None:
    client = PreferringProvider(derived_provider(), passphrases(), "passphrase")
    connected, pair = connected_by(client, PreferringProvider(derived_provider(), passphrases()))
    assert not connected.ikev2_derived
    control = decode_control(pair.to_server, pair.to_client, b"correct horse")
    assert control.client[0].fields["key_id"].rstrip(b"\0") == b"alice"


def test_without_an_ike_sa_or_an_offer_the_passphrase_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    both = PreferringProvider(derived_provider(), passphrases())
    connected, _ = connected_by(PreferringProvider(NoSas({}), passphrases()), both)
    assert not connected.ikev2_derived
    assert "no IKE SA with it: taking a passphrase" in caplog.text
    connected, _ = connected_by(both, passphrases())
    assert not connected.ikev2_derived
    assert "does not offer IKEv2-derived keys: a passphrase is taken" in caplog.text


def test_a_preferred_passphrase_that_is_not_there_gives_way() -> None:
    two = passphrases().__class__({"alice": "a", "bob": "b"})  # which of them was not said
    both = PreferringProvider(derived_provider(), passphrases())
    connected, _ = connected_by(PreferringProvider(derived_provider(), two, "passphrase"), both)
    assert connected.ikev2_derived


def test_when_there_is_neither_the_reason_is_that_of_the_preferred_kind() -> None:
    two = passphrases().__class__({"alice": "a", "bob": "b"})
    with pytest.raises(NoSecret, match="no IKE SA with it"):
        PreferringProvider(NoSas({}), two).for_client("192.0.2.2", "twamp")
    with pytest.raises(NoSecret, match="which of 2 KeyIDs"):
        PreferringProvider(NoSas({}), two, "passphrase").for_client("192.0.2.2", "twamp")
