"""[measurement]: every key, every fault in a line of its own with its full path, and the same words as long options."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from binding.cli import main
from binding.config import LIMIT_WORDS, SERVER_WORDS, MeasurementConfig, parse_measurement, parse_servers
from binding.derivation import Derivation
from binding.host import load_host_config
from binding.init import write_pair
from binding.policy import SaChoice
from binding.switches import BOTH, CLIENT, NOT_YET, SERVER
from binding.twping import measure_requests, security_mode, split_destination
from ikev2.embedding import ConfigurationError

ROOT = Path(__file__).resolve().parents[3]


def test_defaults_are_those_of_the_reading() -> None:
    """docs/rfc7717.md, column "default"."""
    config = parse_measurement({})
    assert config.derivation is Derivation.RFC7717
    assert (config.token_key, config.secret_encoding, config.prf, config.label) == (
        "pbkdf2", "raw", "negotiated", "IPPM",
    )  # fmt: skip
    assert (config.key_count, config.strict_modes, config.no_sa, config.require_ikev2) == (
        4,
        True,
        "initiate",
        True,
    )
    assert (config.peer_binding, config.accept_no_sa, config.sa_grace, config.count) == ("warn", 6, 60.0, 1024)
    assert config.tw_auth_pad == 64


def switches_of_the_document() -> set[str]:
    """The names in the last column of the table of docs/rfc7717.md, and the ones in its text."""
    text = (ROOT / "docs" / "rfc7717.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if re.match(r"\| A\d+ \|", line)]
    words = {word for row in rows for word in re.findall(r"`(\w+)[ =`]", row[-2])}
    return {word for word in words if not word.startswith("_")} | {"key_count", "tw_auth_pad", "derivation"}


def test_every_switch_of_the_document_is_there_or_refused_by_name() -> None:
    document = switches_of_the_document()
    assert len(document) > 20
    assert document - set(MeasurementConfig.model_fields) - set(LIMIT_WORDS) == NOT_YET
    options = {switch.word for switch in (*CLIENT, *SERVER)}
    assert document - NOT_YET - set(LIMIT_WORDS) <= options


@pytest.mark.parametrize("word", sorted(NOT_YET))
def test_a_switch_that_is_not_there_yet_is_refused_by_name(word: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_measurement({word: "x"})
    assert str(caught.value) == f"measurement.{word}: this version does not have that switch yet"
    for command in (["host"], ["twping", "192.0.2.2"]):
        result = CliRunner().invoke(main, [*command, "-c", "a.toml", "--" + word.replace("_", "-"), "x"])
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].endswith("this version does not have that switch yet")


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"derivation": "rfc9999"}, "measurement.derivation: Input should be 'rfc7717', 'keymat-sid' or 'skd-sid'"),
    ({"path": "direct"}, "measurement.path: Input should be"),
    ({"mode": "secret"}, "measurement.mode: Input should be"),
    ({"token_key": "md5"}, "measurement.token_key: Input should be"),
    ({"secret_encoding": "base64"}, "measurement.secret_encoding: Input should be"),
    ({"prf": "hmac-sha2-256"}, "measurement.prf: 'hmac-sha2-256': this version has the prf of the IKE SA only"),
    ({"label": ""}, "measurement.label: "),
    ({"label": "x" * 17}, "measurement.label: "),
    ({"label": "IPPµ"}, "measurement.label: is ASCII"),
    ({"key_count": 3}, "measurement.key_count: Input should be 2 or 4"),
    ({"strict_modes": "no"}, "measurement.strict_modes: "),
    ({"no_sa": "wait"}, "measurement.no_sa: Input should be"),
    ({"no_sa": "fallback"}, "measurement.no_sa: \"fallback\" measures without keys from IKEv2"),
    ({"require_ikev2": 1}, "measurement.require_ikev2: "),
    ({"peer_binding": "strict"}, "measurement.peer_binding: Input should be"),
    ({"accept_no_sa": 5}, "measurement.accept_no_sa: Input should be"),
    ({"sa_grace": "a while"}, "measurement.sa_grace: 'a while' is not a time such as 60s"),
    ({"sa_grace": -1}, "measurement.sa_grace: "),
    ({"sa_grace": True}, "measurement.sa_grace: "),
    ({"count": 512}, "measurement.count: "),
    ({"count": 1500}, "measurement.count: 1500 is not a power of two"),
    ({"count": "1024"}, "measurement.count: "),
    ({"tw_auth_pad": 60}, "measurement.tw_auth_pad: Input should be"),
    ({"listen": ["everywhere"]}, "measurement.listen: 'everywhere' does not appear to be"),
    ({"port": 0}, "measurement.port: "),
    ({"test_ports": "20000-10000"}, "measurement.test_ports: 20000-10000 is not a range of ports"),
    ({"test_ports": "many"}, "measurement.test_ports: is a range such as 18760-19959, not 'many'"),
    ({"test_ports": [1, 2, 3]}, "measurement.test_ports: is a range"),
    ({"bypass_ports": "18688-18750"}, "measurement.bypass_ports: 18688-18750 is not an aligned power of two"),
    ({"bypass_ports": "18704-18767"}, "measurement.bypass_ports: 18704-18767 is not an aligned power of two"),
    ({"test_ports": "18700-18800"}, "measurement.bypass_ports: holds a port of the server"),
    ({"port": 18700}, "measurement.bypass_ports: holds a port of the server"),
    ({"tokenkey": "pbkdf2"}, "measurement.tokenkey: unknown; did you mean token_key?"),
    ({"colour": "blue"}, "measurement.colour: unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "line"), FAULTS, ids=[str(section) for section, _ in FAULTS])
def test_a_fault_is_one_line_with_its_path(section: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_measurement(section)
    (said,) = str(caught.value).splitlines()
    assert said.startswith(line)


def test_the_id_map_gives_ike_identities_a_limit_class(tmp_path: Path) -> None:
    """docs/rfc7717.md, reading A20."""
    classes = "[measurement.limit.root]\n[measurement.limit.guest]\nparent = 'root'\ntest_sessions = 1\n"
    text = classes + "[measurement.assign]\ndefault = 'guest'\n[measurement.id_map]\n'b.example' = 'root'\n"
    limits = load(tmp_path, text).limits
    assert limits is not None
    assert limits.of_identity("b.example").name == "root"
    assert limits.of_identity("c.example").name == "guest"
    assert load(tmp_path / "other", "").limits is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[measurement.id_map]\n'b.example' = 'x'\n", "measurement.limit: tables are wanted"),
        (
            "[measurement.limit.a]\n[measurement.assign]\ndefault = 'a'\n[measurement.id_map]\n'b.example' = 'x'\n",
            'measurement.id_map."b.example": there is no class x',
        ),
        ("[measurement.limit.a]\n", "measurement.assign.default: the class of every client"),
        (
            "[[measurement.servers]]\nport = 8620\nid_map = {}\n",
            "measurement.servers[0].id_map: is one for the whole",
        ),
    ],
)
def test_a_fault_of_the_limit_classes_is_one_line_with_its_path(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert str(caught.value).splitlines()[0].startswith(line)


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_servers({"key_count": 3, "colour": "blue", "path": "x", "servers": [{"label": "X", "port": 8620}]})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "measurement.servers[0].label", "measurement.colour", "measurement.path", "measurement.key_count",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60.0), ("2m", 120.0), ("500ms", 0.5), ("1h", 3600.0), (90, 90.0), (0, 0.0), ("7", 7.0)],
)
def test_a_time_is_read_as_the_ike_side_reads_it(text: object, seconds: float, tmp_path: Path) -> None:
    assert parse_measurement({"sa_grace": text}).sa_grace == seconds
    value = f'"{text}"' if isinstance(text, str) else text
    assert load(tmp_path, f"sa_grace = {value}\n").file.endpoint.sa_grace_s == seconds


def test_ports_are_a_range_or_a_list() -> None:
    assert parse_measurement({"test_ports": "20000-20009"}).test_ports == (20000, 20009)
    assert parse_measurement({"test_ports": [20000, 20009]}).test_ports == (20000, 20009)
    assert parse_measurement({"test_ports": "20000"}).test_ports == (20000, 20000)


# Servers.


@pytest.mark.parametrize(
    ("servers", "line"),
    [
        ({"port": 1}, "measurement.servers: is written as [[measurement.servers]] tables"),
        ([1], "measurement.servers: is written as"),
        ([{"port": 862}], "measurement.servers: two servers have port 862"),
        ([{"port": 8620}, {"port": 8620}], "measurement.servers: two servers have port 8620"),
        ([{"port": 8620, "path": "tunnel"}], "measurement.servers[0].path: is one for the whole host"),
        ([{"port": 8620}, {"port": 8621, "key_count": 1}], "measurement.servers[1].key_count: Input should be"),
    ],
)
def test_faults_of_server_tables(servers: object, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_servers({"servers": servers})
    (said,) = str(caught.value).splitlines()
    assert said.startswith(line)


def test_a_server_table_changes_its_own_words_only() -> None:
    own, servers = parse_servers({"key_count": 2, "servers": [{"port": 8620, "derivation": "skd-sid"}]})
    assert [(server.port, server.derivation.value, server.key_count) for server in servers] == [
        (862, "rfc7717", 2), (8620, "skd-sid", 2),
    ]  # fmt: skip
    assert own == servers[0]
    assert set(MeasurementConfig.model_fields) > SERVER_WORDS


# The file, the options, and init.


def load(directory: Path, measurement: str = "", **switches: object) -> Any:
    write_pair("192.0.2.1", "192.0.2.2", directory)
    file = directory / "a.toml"
    file.write_text(file.read_text() + measurement)
    return load_host_config(file, switches)


def test_label_and_sa_grace_reach_the_ike_side_from_file_and_command_line(tmp_path: Path) -> None:
    config = load(tmp_path, 'label = "LAB"\nsa_grace = "5s"\n')
    assert (config.file.endpoint.label, config.file.endpoint.sa_grace_s) == (b"LAB", 5.0)
    config = load_host_config(tmp_path / "a.toml", {"label": "X", "sa_grace": "0s"})
    assert (config.file.endpoint.label, config.file.endpoint.sa_grace_s) == (b"X", 0.0)


def test_a_switch_of_the_command_line_changes_every_server(tmp_path: Path) -> None:
    config = load(tmp_path, "\n[[measurement.servers]]\nport = 8620\n", key_count=2)
    assert [server.key_count for server in config.servers] == [2, 2]


def test_init_writes_a_psk_for_its_owner_only_and_configurations_that_load(tmp_path: Path) -> None:
    arguments = ["init", "--local", "2001:db8::1", "--peer", "2001:db8::2", "--directory", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    psk = tmp_path / "lab.psk"
    assert psk.stat().st_mode & 0o777 == 0o600
    secret = psk.read_text().strip()
    assert re.fullmatch("0x[0-9a-f]{64}", secret)
    configs = [load_host_config(tmp_path / name) for name in ("a.toml", "b.toml")]
    (a,), (b,) = (config.file.endpoint.connections for config in configs)
    assert a.psk.octets == b.psk.octets == bytes.fromhex(secret[2:])
    assert (a.local_id, a.remote_id, a.local_addrs) == (b.remote_id, b.local_id, b.remote_addrs)
    for name in ("a.toml", "b.toml"):
        assert secret not in (tmp_path / name).read_text()
        assert secret not in result.output
        assert tomllib.loads((tmp_path / name).read_text())["measurement"]["path"] == "bypass"
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert psk.read_text().strip() == secret


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--local", "here", "--peer", "192.0.2.2"], "--local"),
        (["--local", "192.0.2.1", "--peer", "192.0.2.0/24"], "--peer"),
        (["--local", "192.0.2.1", "--peer", "2001:db8::2"], "--peer"),
        (["--local", "192.0.2.1", "--peer", "192.0.2.1"], "--peer"),
        (["--local", "192.0.2.1", "--peer", "192.0.2.2", "--certs"], "--certs"),
    ],
)
def test_init_refuses_what_it_cannot_write(tmp_path: Path, arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(main, ["init", "--directory", str(tmp_path / "new"), *arguments])
    assert result.exit_code == 2
    assert word in result.stderr.splitlines()[-1]
    assert not (tmp_path / "new").exists()


OPTIONS = {
    "count": 10, "interval_s": 0.1, "padding": 0, "timeout_s": 2.0, "dscp": 0, "equal_size": True,
}  # fmt: skip


def test_path_both_is_two_requests_the_bypass_with_its_ports(tmp_path: Path) -> None:
    config = load(tmp_path, path="both", tw_auth_pad=56)
    bypass, tunnel = measure_requests(config, "192.0.2.2:8620", OPTIONS)
    assert (bypass.path, bypass.destination.local_port_range) == ("bypass", (18688, 18751))
    assert (tunnel.path, tunnel.destination.local_port_range) == ("tunnel", None)
    for request in (bypass, tunnel):
        options = request.destination
        assert (options.host, options.port, options.mode, options.require_ikev2) == (
            "192.0.2.2",
            8620,
            "encrypted",
            True,
        )
        assert (options.tw_auth_pad, options.equal_size) == (56, True)
        assert (options.io, options.realtime) == ("auto", False)
    bypass, _ = measure_requests(config, "192.0.2.2", {**OPTIONS, "io": "portable", "realtime": True})
    assert (bypass.destination.io, bypass.destination.realtime) == ("portable", True)


@pytest.mark.parametrize(
    ("text", "exponential", "seconds"), [("0.1", False, 0.1), ("0.02f", False, 0.02), (".5e", True, 0.5)]
)
def test_intervals(tmp_path: Path, text: str, exponential: bool, seconds: float) -> None:
    config = load(tmp_path)
    (request,) = measure_requests(config, "192.0.2.2", {**OPTIONS, "interval_s": text})
    assert (request.destination.exponential, request.destination.interval_s) == (exponential, seconds)
    for wrong in ("1x", "", "-1", "٣"):
        with pytest.raises(ConfigurationError, match="-i: "):
            measure_requests(config, "192.0.2.2", {**OPTIONS, "interval_s": wrong})


def test_knobs_are_one_set_for_both_paths_and_kernel_stamps_are_not_asked_for(tmp_path: Path) -> None:
    config = load(tmp_path, path="both")
    for knob, transmit in (("drop:test:3", False), ("hmac:start-sessions:1", True)):
        one, other = measure_requests(config, "192.0.2.2", {**OPTIONS, "knobs": (knob,)})
        assert one.destination.impairments is not None
        assert one.destination.impairments is other.destination.impairments
        assert one.destination.stamps.transmit is transmit
    (plain, _) = measure_requests(config, "192.0.2.2", OPTIONS)
    assert (plain.destination.impairments, plain.destination.stamps.transmit) == (None, True)


def test_open_mode_needs_no_keys_from_ikev2(tmp_path: Path) -> None:
    (request,) = measure_requests(load(tmp_path), "192.0.2.2", {**OPTIONS, "security": "o"})
    assert (request.destination.mode, request.destination.require_ikev2) == ("open", False)


@pytest.mark.parametrize(
    ("letter", "word"),
    [("O", "open"), ("a", "authenticated"), ("E", "encrypted"), ("M", "mixed"), ("mixed", "mixed"), (None, "open")],
)
def test_security_letters(letter: str | None, word: str) -> None:
    assert security_mode(letter, "open") == word


@pytest.mark.parametrize("text", ["X", "", "OE", "encryptedd"])
def test_unknown_security_letters_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="-A"):
        security_mode(text, "open")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("b.example", ("b.example", None)),
        ("192.0.2.2:8620", ("192.0.2.2", 8620)),
        ("2001:db8::2", ("2001:db8::2", None)),
        ("[2001:db8::2]", ("2001:db8::2", None)),
        ("[2001:db8::2]:8620", ("2001:db8::2", 8620)),
    ],
)
def test_destinations(text: str, wanted: tuple[str, int | None]) -> None:
    assert split_destination(text) == wanted


@pytest.mark.parametrize(
    "text", ["", ":862", "b:", "b:0", "b:65536", "b:x", "b:٣", "[::1", "[::1]x", "[::1]:", "[]:862"]
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        split_destination(text)
    assert "\n" not in str(caught.value)


def test_ike_sa_is_two_spis_of_16_hex_digits() -> None:
    choice = SaChoice.parse("0011223344556677:8899AABBCCDDEEFF", None)
    assert choice.spis == (bytes.fromhex("0011223344556677"), bytes.fromhex("8899aabbccddeeff"))
    for text, peer in itertools.product(
        ("", "0011223344556677", "x:y", "0011223344556677:8899aabbccddee"), (None,)
    ):
        with pytest.raises(ConfigurationError, match="--ike-sa"):
            SaChoice.parse(text, peer)
    with pytest.raises(ConfigurationError, match="exclude each other"):
        SaChoice.parse("0011223344556677:8899aabbccddeeff", "b.example")


def test_the_options_of_a_command_are_the_words_of_the_section() -> None:
    """Each takes what TOML takes: no word without a field, and every Literal offered in full, but for the client's
    token_key, which has nothing to try."""
    for switches, command in ((CLIENT, main.commands["twping"]), (SERVER, main.commands["host"])):
        words = {parameter.name for parameter in command.params}
        for switch in switches:
            assert switch.word in MeasurementConfig.model_fields
            if switch in BOTH or switch.word != "count":
                assert switch.word in words
    for switch in SERVER:
        if switch.values:
            allowed = MeasurementConfig.model_fields[switch.word].annotation
            values = {
                str(getattr(value, "value", value)) for value in getattr(allowed, "__args__", None) or Derivation
            }
            assert set(switch.values) == values


def test_every_option_of_a_choice_says_what_it_is_for() -> None:
    for name in ("host", "twping"):
        for parameter in main.commands[name].params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, (name, parameter.name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[measurement]\nkey_count = 3\n", "measurement.key_count"),
        ("[connections.lab]\ncolour = 1\n", "connections.lab.colour"),
        ("not toml", "not TOML"),
    ],
)
@pytest.mark.parametrize("command", [["host"], ["twping", "192.0.2.2"]])
def test_a_faulty_file_ends_a_command_with_2_and_a_line(
    tmp_path: Path, command: list[str], text: str, words: str
) -> None:
    (tmp_path / "a.toml").write_text(text)
    result = CliRunner().invoke(main, [*command, "-c", str(tmp_path / "a.toml")])
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("ippm-ipsec: ")
    assert words in line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["host", "-c", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
