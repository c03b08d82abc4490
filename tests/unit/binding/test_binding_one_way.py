"""OWAMP keyed by a real IKE SA: the octets on the wire read by the second decoder, which computes the keys itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from binding_peers import Ends, ends
from click.testing import CliRunner
from decoder.owamp_decoder import DecodeError, decode_control, decode_test
from decoder.twamp_decoder import keymat_sid_control_secret, keymat_sid_test_keys, rfc7717_secret
from owamp_control_peers import (
    FROM_SERVER,
    NTP_NOW,
    SYNCHRONIZED,
    TO_SERVER,
    OwampPair,
    deliver,
    receiver_of,
    sender_of,
)

from binding.cli import main
from binding.config import MeasurementConfig, parse_measurement, parse_servers
from binding.derivation import Derivation
from binding.host import load_host_config
from binding.init import write_pair
from binding.measurement import ChildTraffic, _check_path
from binding.owping import one_way_requests, schedule
from binding.policy import ChildView
from binding.provider import KeyOptions
from binding.switches import ONE_WAY_CLIENT
from ikev2.embedding import ChildCounters, ConfigurationError
from ippm import Thresholds
from ippm.core.control_events import ClientSetUp
from ippm.core.owamp_events import OwampSession, OwampSessionAccepted
from ippm.iana import Mode

PRF = "hmac-sha2-256"


def keyed_pair(both: Ends, options: KeyOptions, mode: Mode = Mode.ENCRYPTED, **server: object) -> OwampPair:
    """A Control connection from A to B, set up with keys from the IKE SA."""
    client, there = both.providers(options)
    return OwampPair(mode, client_provider=client, server_provider=there, **server).set_up()


def sessions(pair: OwampPair) -> list[OwampSession]:
    """A session each way, as the client has them."""
    for wish in (TO_SERVER, FROM_SERVER):
        pair.client.request_session(wish, pair.now)
    pair.run()
    return [event.session for event in pair.client_events() if isinstance(event, OwampSessionAccepted)]


def root_key(both: Ends, derivation: Derivation) -> tuple[str, bytes]:
    """The name of the prf, and SK_d or the KEYMAT of the Child SA, from the server's own state."""
    suite, keys = both.b.sa.need_keys()
    if derivation is Derivation.KEYMAT_SID:
        (child,) = both.b.sa.children.values()
        return suite.prf.name, child.keymat.octets
    return suite.prf.name, keys.sk_d.octets


@pytest.mark.req("rfc7717-s5.1-01", "rfc7717-s5.1-02", "rfc7717-s5.1-m1")
@pytest.mark.req("rfc7717-s5.3-02", "rfc7717-s5.3-03", "rfc7717-s5.3-04", "rfc7717-s5.3-05")
@pytest.mark.parametrize("mode", [Mode.AUTHENTICATED, Mode.ENCRYPTED])
def test_the_second_decoder_reads_a_control_stream_with_prf_of_sk_d(mode: Mode) -> None:
    both = ends()
    pair = keyed_pair(both, KeyOptions(), mode)
    to, back = sessions(pair)
    pair.client.start_sessions(pair.now)
    pair.run()
    control = decode_control(pair.to_server, pair.to_client, rfc7717_secret(*root_key(both, Derivation.RFC7717)))
    assert control.mode == int(mode) | 16
    assert control.client[0].fields["key_id"] == both.a.sa.spi_i + both.a.sa.spi_r + bytes(64)
    assert [message.name for message in control.client] == [
        "Set-Up-Response", "Request-Session", "Request-Session", "Start-Sessions",
    ]  # fmt: skip
    assert all(message.hmac for message in control.client[1:] + control.server[2:])
    for at_client, at_server in zip((to, back), pair.hooks.opened, strict=True):
        keys = control.test_keys(at_client.sid)
        assert at_client.keys == at_server.keys
        assert at_client.keys is not None
        assert (at_client.keys.aes, at_client.keys.hmac) == keys
        sender = sender_of(at_server if at_client.server_sends else at_client)
        sender.prepare()
        packet = bytes(sender.pack(NTP_NOW, SYNCHRONIZED))
        assert decode_test(packet, keys, control.mode)["seq"] == 0
    with pytest.raises(DecodeError):
        decode_control(pair.to_server, pair.to_client, rfc7717_secret(PRF, bytes(32)))


@pytest.mark.parametrize("derivation", [Derivation.KEYMAT_SID, Derivation.SKD_SID])
def test_draft_forms_have_test_keys_with_the_label_of_owamp(derivation: Derivation) -> None:
    both = ends()
    pair = keyed_pair(both, KeyOptions(derivation=derivation))
    name, root = root_key(both, derivation)
    made = sessions(pair)
    key_id = both.a.sa.spi_i + both.a.sa.spi_r
    control = decode_control(pair.to_server, pair.to_client, keymat_sid_control_secret(name, root, key_id))
    assert control.client[0].fields["key_id"][:16] == key_id
    assert any(control.client[0].fields["key_id"][16:20]) == (derivation is Derivation.KEYMAT_SID)
    for at_client, at_server in zip(made, pair.hooks.opened, strict=True):
        assert at_client.keys == at_server.keys
        assert at_client.keys is not None
        keys = at_client.keys.aes, at_client.keys.hmac
        assert keys == keymat_sid_test_keys(name, root, at_client.sid, b"OWAMP-Test")
        assert keys != keymat_sid_test_keys(name, root, at_client.sid, b"TWAMP-Test")
        assert keys != control.test_keys(at_client.sid)
        deliver(sender_of(at_client), receiver := receiver_of(at_server))
        assert receiver.received == 20


@pytest.mark.req("rfc7717-s5.2-01", "rfc7717-s5.2-m1", "rfc7717-s5.3-01", "rfc7717-s5.3-m1")
@pytest.mark.parametrize(("bit", "value"), [(4, 16), (7, 128)])
def test_the_bit_of_owamp_modes(bit: int, value: int) -> None:
    """Reading A6: in the Greeting, and in the client's answer together with the security mode's."""
    config = MeasurementConfig(owamp_ikev2_bit=bit)  # type: ignore[arg-type]
    pair = keyed_pair(ends(), config.key_options(), ikev2_bit=config.owamp_ikev2_mode)
    assert int.from_bytes(pair.to_client[12:16], "big") == 1 | 2 | 4 | value
    assert int.from_bytes(pair.to_server[:4], "big") == 4 | value
    (there,) = [event for event in pair.server_said if isinstance(event, ClientSetUp)]
    assert there.ikev2_derived
    assert there.peer_identity is not None


# The section, the options, and the requests that come of them.


def test_owamp_is_on_its_own_port_by_default_and_off_with_0() -> None:
    config = parse_measurement({})
    assert (config.owamp_port, config.owamp_ikev2_bit, config.owamp_ikev2_mode) == (861, 4, 16)
    assert parse_measurement({"owamp_port": 0}).owamp_port == 0
    _, servers = parse_servers({"servers": [{"port": 8620}, {"port": 8621, "owamp_port": 8610}]})
    assert [(server.port, server.owamp_port) for server in servers] == [(862, 861), (8620, 0), (8621, 8610)]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"owamp_port": -1}, "measurement.owamp_port: "),
        ({"owamp_port": "861"}, "measurement.owamp_port: "),
        ({"owamp_port": 18700}, "measurement.bypass_ports: holds a port of the server"),
        ({"owamp_ikev2_bit": 5}, "measurement.owamp_ikev2_bit: Input should be 4 or 7"),
        ({"owamp_port": 862}, "measurement.servers: two servers have port 862"),
        ({"servers": [{"port": 861}]}, "measurement.servers: two servers have port 861"),
    ],
)
def test_faults_of_owamp_words(section: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_servers(section)
    (said,) = str(caught.value).splitlines()
    assert said.startswith(line)


OPTIONS: dict[str, Any] = {
    "count": 10, "interval": "0.1,0.02f", "padding": 3, "timeout_s": 2.0, "start_delay_s": 0.25, "dscp": 46,
    "to_server": False, "from_server": False,
}  # fmt: skip


def load(directory: Path, **switches: object) -> Any:
    write_pair("192.0.2.1", "192.0.2.2", directory)
    return load_host_config(directory / "a.toml", switches)


def test_path_both_is_two_requests_each_with_both_directions(tmp_path: Path) -> None:
    config = load(tmp_path, path="both", owamp_ikev2_bit=7)
    bypass, tunnel = one_way_requests(config, "192.0.2.2", OPTIONS)
    assert (bypass.path, bypass.destination.local_port_range) == ("bypass", (18688, 18751))
    assert (tunnel.path, tunnel.destination.local_port_range) == ("tunnel", None)
    for request in (bypass, tunnel):
        options = request.destination
        assert (options.port, options.mode, options.require_ikev2, options.ikev2_bit) == (
            861, "encrypted", True, 128,
        )  # fmt: skip
        assert (options.to_server, options.from_server, options.path) == (True, True, request.path)
        assert options.schedule == ((True, 0.1), (False, 0.02))
        assert (options.padding, options.dscp, options.count) == (3, 46, 10)
    (bypass, _) = one_way_requests(config, "192.0.2.2", {**OPTIONS, "io": "linux", "realtime": True})
    assert (bypass.destination.io, bypass.destination.realtime) == ("linux", True)


def test_directions_ports_and_modes(tmp_path: Path) -> None:
    config = load(tmp_path)
    for to, back in ((True, False), (False, True)):
        how = {**OPTIONS, "to_server": to, "from_server": back, "security": "o"}
        (request,) = one_way_requests(config, "192.0.2.2:8610", how)
        options = request.destination
        assert (options.to_server, options.from_server) == (to, back)
        assert (options.port, options.mode, options.require_ikev2) == (8610, "open", False)
    with pytest.raises(ConfigurationError, match="no mixed mode"):
        one_way_requests(config, "192.0.2.2", {**OPTIONS, "security": "M"})
    off = load_host_config(tmp_path / "a.toml", {"owamp_port": 0})
    with pytest.raises(ConfigurationError, match="owamp_port is 0"):
        one_way_requests(off, "192.0.2.2", OPTIONS)
    assert one_way_requests(off, "192.0.2.2:861", OPTIONS)[0].destination.port == 861


@pytest.mark.parametrize("text", ["", "x", "1,", "1g", "-1", "1e5", "nan", "١"])
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ConfigurationError, match="-i"):
        schedule(text)


def test_the_options_of_owping_are_words_of_the_section_with_help() -> None:
    words = {parameter.name: parameter for parameter in main.commands["owping"].params}
    for switch in ONE_WAY_CLIENT:
        assert switch.word in MeasurementConfig.model_fields
        assert switch.word in words
    assert all(getattr(one, "help", "") for one in words.values() if one.name != "destination" and _shown(one))


def _shown(parameter: Any) -> bool:
    return not getattr(parameter, "hidden", False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--owamp-ikev2-bit", "5"], "--owamp-ikev2-bit"),
        (["-A", "M"], "no mixed mode"),
        (["-i", "often"], "-i"),
        (["--offer", "always"], "does not have that switch yet"),
        (["--tw-auth-pad", "64"], "--tw-auth-pad"),
    ],
)
def test_a_faulty_command_line_ends_with_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_pair("192.0.2.1", "192.0.2.2", tmp_path)
    result = CliRunner().invoke(main, ["owping", "192.0.2.2", "-c", str(tmp_path / "a.toml"), *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr.splitlines()[-1]


class _Delay:
    median = 3_000_000


class _Result:
    direction, sent, lost = "from", 200, 3
    delay: _Delay | None = _Delay()


class _NothingCame(_Result):
    delay = None


class _NothingSent(_NothingCame):
    sent = lost = 0


@pytest.mark.parametrize(
    ("thresholds", "result", "words"),
    [
        (Thresholds(), _Result, None),
        (Thresholds(loss_percent=1.5, delay_ms=3.0), _Result, None),
        (Thresholds(loss_percent=1.4), _Result, "from the server, 3 of 200 packets lost"),
        (Thresholds(delay_ms=2.9), _Result, "from the server, median delay 3.000 ms"),
        (Thresholds(delay_ms=2.9), _NothingCame, "from the server, no packet arrived"),
        (Thresholds(loss_percent=100), _NothingSent, "from the server, no packet was sent"),
    ],
)
def test_thresholds_of_a_direction(thresholds: Thresholds, result: Any, words: str | None) -> None:
    reason = thresholds.exceeded_one_way(result())
    assert (reason is None) == (words is None)
    assert words is None or words in str(reason)


@pytest.mark.parametrize(
    ("path", "came", "warned"),
    [("tunnel", 9, True), ("tunnel", 10, False), ("bypass", 10, True), ("bypass", 9, False)],
)
def test_packets_from_the_server_are_looked_for_in_the_child_sa(
    path: str, came: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = ChildView(1, 2, ChildCounters(100, 0, 0, 0))
    traffic = ChildTraffic("userspace", before, ChildView(1, 2, ChildCounters(100 + came, 0, 0, 0)))
    _check_path(path, traffic, 10, out=False)
    assert (f"{came} packets came through the Child SA" in caplog.text) == warned
