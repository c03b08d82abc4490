"""The TOML configuration: what it becomes, and how each fault is told."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from ikev2.cli.config import ConfigurationFaults, load
from ikev2.cli.secrets import read_secret
from ikev2.cli.selectors import parse_duration, parse_selector
from ikev2.core.child_sa import DfBit, Dummies, HwOffload, KernelOptions, TunnelHeader
from ikev2.core.config import DYNAMIC, Dynamic, Identity, Volume
from ikev2.core.types import Mode
from ikev2.errors import ConfigurationError
from ikev2.wire.payloads.ts import TrafficSelector

EXAMPLES = Path(__file__).parents[3] / "examples"
SECRET_TEXT = "correct horse battery staple"

GOOD = """
[connections.lab]
local_addrs  = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
proposals    = ["aes256gcm16-prfsha384-curve25519", "aes128-sha256-modp2048"]
local  = { auth = "psk", id = "a.example" }
remote = { auth = "psk", id = "b.example" }
dpd_delay = "1m"
retransmit_tries = 3
[connections.lab.children.net]
mode = "transport"
local_ts = ["dynamic[udp/862]"]
remote_ts = "192.0.2.2, 198.51.100.0/24[tcp]"
esp_proposals = ["aes256gcm16"]
start_action = "start"
[secrets.lab]
id = ["a.example", "b.example"]
file = "lab.psk"
[measurement]
derivation = "rfc7717"
path = "bypass"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    secret = tmp_path / "lab.psk"
    secret.write_text(SECRET_TEXT + "\n")
    secret.chmod(0o600)
    return tmp_path


def written(directory: Path, text: str) -> Path:
    path = directory / "host.toml"
    path.write_text(text)
    return path


def faults_of(directory: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationFaults) as caught:
        load(written(directory, text))
    return caught.value.faults


def test_a_good_file_becomes_what_the_core_takes(directory: Path) -> None:
    configuration = load(written(directory, GOOD))
    (lab,) = configuration.endpoint.connections
    (net,) = lab.children
    assert (lab.name, lab.local_addrs, lab.remote_addrs) == ("lab", ("192.0.2.1",), ("192.0.2.2",))
    assert (str(lab.local_id), str(lab.remote_id)) == ("a.example", "b.example")
    assert [proposal.number for proposal in lab.proposals] == [1, 2]
    assert lab.psk.octets == SECRET_TEXT.encode()
    assert (lab.dpd_delay_s, lab.retransmission.tries, lab.ike_port, lab.nat_port) == (60.0, 3, 500, 4500)
    assert (net.name, net.mode, net.start_action) == ("net", Mode.TRANSPORT, "start")
    assert net.local_ts == (Dynamic(17, 862, 862),)
    assert [str(ts) for ts in net.remote_ts] == ["192.0.2.2/32", "198.51.100.0/24[tcp]"]
    assert configuration.measurement == {"derivation": "rfc7717", "path": "bypass"}
    assert configuration.endpoint.label == b"IPPM"


@pytest.mark.parametrize(("word", "octets"), [("0", 0), ("1280", 1280), ("'mtu'", 0xFFFFFFFF)])
def test_tfc_padding_is_a_length_or_that_of_the_path(directory: Path, word: str, octets: int) -> None:
    child = f"[connections.lab.children.net]\ntfc_padding = {word}\n"
    configuration = load(written(directory, f"{LAB}{child}{SECRETS}"))
    assert configuration.endpoint.connections[0].children[0].tfc_padding == octets


@pytest.mark.parametrize(
    ("words", "header", "dummies"),
    [
        ("", TunnelHeader(), Dummies()),
        ("df_bit = 'set'\ndscp = 0", TunnelHeader(DfBit.SET, 0), Dummies()),
        ("dscp = 'copy'\ndummy_octets = 100", TunnelHeader(), Dummies()),
        ("df_bit = 'clear'\ndummy_interval = '2s'", TunnelHeader(DfBit.CLEAR), Dummies(2.0, (64, 1024))),
        (
            "dscp = 46\ndummy_interval = 0.5\ndummy_octets = '64-1400'",
            TunnelHeader(dscp=46),
            Dummies(0.5, (64, 1400)),
        ),
        ("dummy_interval = 1\ndummy_octets = 100", TunnelHeader(), Dummies(1.0, (100, 100))),
    ],
)
def test_the_header_outside_and_dummy_packets_have_words(
    directory: Path, words: str, header: TunnelHeader, dummies: Dummies
) -> None:
    configuration = load(written(directory, f"{LAB}[connections.lab.children.net]\n{words}\n{SECRETS}"))
    child = configuration.endpoint.connections[0].children[0]
    assert (child.header, child.dummies) == (header, dummies)


@pytest.mark.parametrize("packets", [0, 32, 4096])
def test_a_replay_window_is_none_or_of_32_packets_at_least(directory: Path, packets: int) -> None:
    child = f"[connections.lab.children.net]\nreplay_window = {packets}\n"
    configuration = load(written(directory, f"{LAB}{child}{SECRETS}"))
    assert configuration.endpoint.connections[0].children[0].replay_window == packets


@pytest.mark.parametrize(
    ("words", "wanted"), [("", True), ("drop_clear = true", True), ("drop_clear = false", False)]
)
def test_whether_what_arrives_in_clear_is_dropped_is_for_the_file_to_say(
    directory: Path, words: str, wanted: bool
) -> None:
    configuration = load(written(directory, f"{LAB}{SECRETS}[endpoint]\n{words}\n"))
    assert configuration.endpoint.drop_clear is wanted


def test_what_only_the_kernel_is_told_reaches_the_child(directory: Path) -> None:
    words = "if_id_in = 42\nif_id_out = 43\nhw_offload = 'yes'\nsa_direction = true\n"
    configuration = load(written(directory, f"{LAB}[connections.lab.children.net]\n{words}{SECRETS}"))
    child = configuration.endpoint.connections[0].children[0]
    assert child.kernel == KernelOptions(42, 43, HwOffload.CRYPTO, sa_direction=True)


@pytest.mark.parametrize(
    ("words", "octets", "packets"),
    [
        ("", Volume(), Volume()),
        ("rekey_bytes = 1000\nrekey_packets = 50", Volume(1000, 1100, 100), Volume(50, 55, 5)),
        ("rekey_bytes = 1000\nlife_bytes = 3000\nrand_bytes = 0", Volume(1000, 3000, 0), Volume()),
        ("life_packets = 7", Volume(), Volume(0, 7, 7)),
    ],
)
def test_how_much_a_child_sa_carries_has_the_defaults_of_swanctl(
    directory: Path, words: str, octets: Volume, packets: Volume
) -> None:
    configuration = load(written(directory, f"{LAB}[connections.lab.children.net]\n{words}\n{SECRETS}"))
    child = configuration.endpoint.connections[0].children[0]
    assert (child.octets, child.packets) == (octets, packets)


def test_defaults_are_offered_where_nothing_is_said(directory: Path) -> None:
    configuration = load(written(directory, "[connections.x]\n[secrets.x]\nfile = 'lab.psk'\n"))
    (connection,) = configuration.endpoint.connections
    assert connection.local_addrs == connection.remote_addrs == ("%any",)
    assert connection.local_id is None
    assert connection.remote_id is None
    assert len(connection.proposals) > 1
    assert configuration.backend == "auto"


LAB = "[connections.lab]\n"
SECRETS = "[secrets.lab]\nfile = 'lab.psk'\n"

FAULTS = [
    ("[connection.lab]\n", "connection: unknown key; did you mean connections?"),
    (LAB + "local_adrs = ['192.0.2.1']\n", "connections.lab.local_adrs: unknown key; did you mean local_addrs?"),
    (
        LAB + "[connections.lab.children.net]\nmode = 'tunel'\n",
        "connections.lab.children.net.mode: 'tunel' is not one of tunnel, transport; did you mean tunnel?",
    ),
    *(
        (
            LAB + f"[connections.lab.children.net]\ntfc_padding = {value}\n",
            f"connections.lab.children.net.tfc_padding: {said} is not a length of packets, 0 to 65535 octets, or "
            '"mtu"',
        )
        for value, said in (("-1", "-1"), ("70000", "70000"), ("'most'", "'most'"), ("true", "True"))
    ),
    *(
        (
            LAB + f"[connections.lab.children.net]\ndscp = {value}\n",
            f'connections.lab.children.net.dscp: {said} is not a code point, 0 to 63, or "copy"',
        )
        for value, said in (("64", "64"), ("-1", "-1"), ("'ef'", "'ef'"), ("true", "True"))
    ),
    *(
        (
            LAB + f"[connections.lab.children.net]\ndummy_octets = {value}\n",
            f"connections.lab.children.net.dummy_octets: {said} is not a length of packets, 0 to 65535 octets, or a "
            "range: '64-1400'",
        )
        for value, said in (("'9-8'", "'9-8'"), ("70000", "70000"), ("'-'", "'-'"), ("true", "True"), ("-1", "-1"))
    ),
    (
        LAB + "[connections.lab.children.net]\ndf_bit = 'set'\nmode = 'transport'\n",
        "connections.lab.children.net.df_bit: transport mode has no header of its own outside",
    ),
    *(
        (
            LAB + f"[connections.lab.children.net]\nreplay_window = {value}\n",
            f"connections.lab.children.net.replay_window: {said} is not a number of packets, 32 to 4096, or 0 for no "
            "replay protection",
        )
        for value, said in (
            ("1", "1"),
            ("31", "31"),
            ("4097", "4097"),
            ("-1", "-1"),
            ("true", "True"),
            ("'64'", "'64'"),
        )
    ),
    (
        LAB + "[connections.lab.children.net]\ntfc_padding = 100\nmode = 'transport'\n",
        "connections.lab.children.net.tfc_padding: packets are padded in tunnel mode only",
    ),
    (
        LAB + "[connections.lab.children.net]\nrekey_bytes = 1000\nlife_bytes = 1000\n",
        "connections.lab.children.net.life_bytes: must be more than rekey_bytes (1000)",
    ),
    (
        LAB + "[connections.lab.children.net]\nrekey_packets = 10\nrand_packets = 10\n",
        "connections.lab.children.net.rand_packets: must be less than rekey_packets (10)",
    ),
    (
        LAB + "[connections.lab.children.net]\nhw_offload = 'chip'\n",
        "connections.lab.children.net.hw_offload: 'chip' is not one of no, yes, crypto, packet, auto",
    ),
    (
        LAB + "[connections.lab.children.net]\nif_id_in = -1\n",
        "connections.lab.children.net.if_id_in: must be greater than or equal to 0",
    ),
    (
        LAB + "[connections.lab.children.net]\nsa_direction = 'in'\n",
        "connections.lab.children.net.sa_direction: must be true or false",
    ),
    (
        LAB + "[connections.lab.children.net]\nstart_action = 'trap'\n",
        "connections.lab.children.net.start_action: trap begins with a peer: name its address in remote_addrs",
    ),
    (
        LAB
        + "remote_addrs = ['192.0.2.2']\nvips = ['0.0.0.0']\n"
        + "[connections.lab.children.net]\nstart_action = 'trap|start'\n",
        "connections.lab.children.net.start_action: trap needs to know the address, which vips asks for: "
        "write local_ts, or start",
    ),
    (
        LAB + "[connections.lab.children.net]\nvips = ['0.0.0.0']\n",
        "connections.lab.children.net.vips: unknown key; it belongs to connections.lab",
    ),
    (
        LAB + "mode = 'tunnel'\n",
        "connections.lab.mode: unknown key; it belongs to connections.lab.children.NAME",
    ),
    (
        LAB + "id = 'a.example'\n",
        "connections.lab.id: unknown key; it belongs to connections.lab.local or connections.lab.remote",
    ),
    (
        LAB + "[connections.lab.children.net]\nlokal_ts = ['dynamic']\n",
        "connections.lab.children.net.lokal_ts: unknown key; did you mean local_ts?",
    ),
    (
        LAB + "[connections.lab.children.net]\nlocal_ts = ['192.0.2.1/24']\n",
        "connections.lab.children.net.local_ts.0: '192.0.2.1/24' is not an address, a network or a range of addresses; "
        "the network is 192.0.2.0/24",
    ),
    (
        LAB + "proposals = ['aes257gcm16-prfsha384-curve25519']\n",
        "connections.lab.proposals.0: IKE proposal 'aes257gcm16-prfsha384-curve25519': "
        "unknown algorithm 'aes257gcm16'; is 'aes256gcm16' meant?",
    ),
    (LAB + "proposals = []\n", "connections.lab.proposals: must not be empty"),
    (LAB + "dpd_delay = 'soon'\n", "connections.lab.dpd_delay: 'soon' is not a time such as 30s, 5m, 1h"),
    (LAB + "ike_port = 0\n", "connections.lab.ike_port: must be greater than or equal to 1"),
    (
        LAB + "ike_port = 4500\n",
        "connections.lab.nat_port: is the same as ike_port: IKE and ESP in UDP need a port each",
    ),
    (LAB + "fragmentation = true\n", "connections.lab.fragmentation: True is not one of yes, no, force"),
    (LAB + "fragment_size = 68\n", "connections.lab.fragment_size: must be greater than or equal to 200"),
    (LAB + "window_size = 0\n", "connections.lab.window_size: must be greater than or equal to 1"),
    (LAB + "window_size = 257\n", "connections.lab.window_size: must be less than or equal to 256"),
    (LAB + "encap = 'yes'\n", "connections.lab.encap: must be true or false"),
    (LAB + "local = { auth = 'pubkey' }\n", "connections.lab.local.auth: must be psk, not 'pubkey'"),
    (
        LAB + "local = { id = '' }\n",
        "connections.lab.local.id: an identity is empty: write an address, a name, user@name or keyid:NAME",
    ),
    (LAB + "children.net = 5\n", "connections.lab.children.net: must be a section"),
    ("[secrets.lab]\nfile = 5\n", "secrets.lab.file: must be the name of a file"),
    ("[secrets.lab]\n", "secrets.lab.file: is missing"),
    (
        LAB + "vips = ['any']\n",
        "connections.lab.vips.0: 'any' is not an address to ask for: 0.0.0.0 and :: stand for any",
    ),
    (
        LAB + "vips = '0.0.0.0, 224.0.0.1'\n",
        "connections.lab.vips.1: '224.0.0.1' is an address that no host can have",
    ),
    (
        LAB + "vips = ['0.0.0.0']\n[connections.lab.children.net]\nmode = 'transport'\n",
        "connections.lab.children.net.mode: transport mode is between the outer addresses, "
        "and vips asks for inner ones: write tunnel",
    ),
    (
        LAB + "pools = ['raod']\n[pools.road]\naddrs = '10.9.0.0/24'\n",
        "connections.lab.pools.0: there is no pool 'raod'; did you mean road?",
    ),
    (LAB + "pools = ['road']\n", "connections.lab.pools.0: there is no pool 'road': add [pools.road] with addrs"),
    (LAB + "pools_required = 1\n", "connections.lab.pools_required: must be true or false"),
    ("[pools.road]\n", "pools.road.addrs: is missing"),
    ("[pools.road]\naddrs = []\n", "pools.road.addrs: must not be empty"),
    (
        "[pools.road]\naddrs = ['10.9.0.1/24']\n",
        "pools.road.addrs.0: '10.9.0.1/24' is not a network such as 10.9.0.0/24 or a range such as "
        "10.9.0.10-10.9.0.20; the network is 10.9.0.0/24",
    ),
    (
        "[pools.road]\naddrs = '10.9.0.9-10.9.0.1'\n",
        "pools.road.addrs.0: '10.9.0.9-10.9.0.1' is a range that ends before it begins",
    ),
    (
        "[pools.road]\naddrs = '10.9.0.0/24'\n[pools.more]\naddrs = ['10.8.0.0/24', '10.9.0.9-10.9.1.9']\n",
        "pools.more.addrs.1: 10.9.0.9-10.9.1.9 overlaps pools.road.addrs.0 (10.9.0.1-10.9.0.254)",
    ),
    (
        "[pools.road]\naddrs = '10.9.0.0/24'\ndns = ['resolver']\n",
        "pools.road.dns.0: 'resolver' is not an IP address",
    ),
    (
        "[pools.road]\naddrs = '10.9.0.0/24'\nnbns = ['2001:db8::1']\n",
        "pools.road.nbns.0: '2001:db8::1' is not an IPv4 address",
    ),
    (
        "[pools.road]\naddrs = '10.9.0.0/24'\nsubnet = ['10.2.0.1/24']\n",
        "pools.road.subnet.0: '10.2.0.1/24' is not a network such as 10.2.0.0/24; the network is 10.2.0.0/24",
    ),
    (
        "[pools.road]\naddrs = '10.9.0.0/24'\nnetmask = '255.0.255.0'\n",
        "pools.road.netmask: '255.0.255.0' is not an IPv4 netmask such as 255.255.255.0",
    ),
    (
        "[pools.road]\naddrs = '2001:db8::/64'\nnetmask = '255.255.255.0'\n",
        "pools.road.netmask: goes with IPv4 addresses only",
    ),
    (
        "[pools.road]\naddr = '10.9.0.0/24'\naddrs = '10.9.0.0/24'\n",
        "pools.road.addr: unknown key; did you mean addrs?",
    ),
    (
        "[measurement]\nlabel = 'longer than sixteen octets'\n",
        "measurement.label: must be 1 to 16 ASCII characters",
    ),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[fault.split(":")[0] for _, fault in FAULTS])
def test_each_fault_is_told_with_its_full_path(directory: Path, text: str, fault: str) -> None:
    secrets = "" if "[secrets" in text else SECRETS
    assert faults_of(directory, text + secrets) == (fault,)


def test_all_faults_are_told_at_once(directory: Path) -> None:
    text = LAB + "local_adrs = []\nproposals = 5\n[connections.lab.children.net]\nmode = 5\n" + SECRETS
    assert {fault.split(":")[0] for fault in faults_of(directory, text)} == {
        "connections.lab.local_adrs",
        "connections.lab.proposals",
        "connections.lab.children.net.mode",
    }


def test_a_file_that_is_not_toml_or_not_there_is_one_line(directory: Path) -> None:
    (fault,) = faults_of(directory, "connections = {{\n")
    assert fault.startswith(f"{directory}/host.toml: not TOML: ")
    with pytest.raises(ConfigurationFaults, match=r"nowhere\.toml: No such file or directory"):
        load(directory / "nowhere.toml")


def test_a_secret_in_the_file_itself_is_refused_and_not_repeated(directory: Path) -> None:
    faults = faults_of(directory, "[secrets.lab]\nsecret = 'hunter2'\nfile = 'lab.psk'\n")
    assert len(faults) == 1
    assert faults[0].startswith("secrets.lab.secret: a secret does not belong into this file")
    assert "hunter2" not in faults[0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_secret_that_others_can_read_is_refused(directory: Path, mode: int) -> None:
    (directory / "lab.psk").chmod(mode)
    (fault,) = faults_of(directory, GOOD)
    assert fault == f"secrets.lab.file: {directory}/lab.psk can be read by others: chmod 600 {directory}/lab.psk"


def test_a_connection_without_a_secret_says_which_one_it_wants(directory: Path) -> None:
    (fault,) = faults_of(
        directory, GOOD.replace('id = ["a.example", "b.example"]', 'id = ["c.example", "d.example"]')
    )
    assert fault == (
        "connections.lab: no secret serves it: add a [secrets.lab] with a file and an id list that names "
        "a.example and b.example"
    )


def test_identities_of_many_are_for_the_peer_and_have_their_secrets_each(directory: Path) -> None:
    """swanctl's words: a pattern in remote.id, and in secrets.NAME.id; ours is one identity."""
    for name in ("one", "all"):
        secret = directory / f"{name}.psk"
        secret.touch(mode=0o600)
        secret.write_text(name)
    text = """
[connections.lab]
local = { id = "gateway" }
remote = { id = "*.example.org" }
[secrets.one]
id = ["gateway", "one.example.org"]
file = "one.psk"
[secrets.all]
id = "*.example.org"
file = "all.psk"
"""
    (connection,) = load(written(directory, text)).endpoint.connections
    gateway = Identity.parse("gateway")
    for peer, octets in (("one.example.org", b"one"), ("two.example.org", b"all")):
        found = connection.psk_for(gateway, Identity.parse(peer))
        assert found is not None
        assert found.octets == octets
    with pytest.raises(
        ConfigurationFaults, match=r"connections.lab.local.id: identity '\*.example.org' stands for many"
    ):
        load(written(directory, text.replace('"gateway" }', '"*.example.org" }')))


def test_the_secret_that_names_the_peer_is_taken_before_the_one_for_anybody(directory: Path) -> None:
    for name in ("any", "b"):
        (directory / name).write_text(name)
        (directory / name).chmod(0o600)
    text = GOOD.split("[secrets.lab]")[0] + "[secrets.x]\nfile='any'\n[secrets.y]\nid=['b.example']\nfile='b'\n"
    (connection,) = load(written(directory, text)).endpoint.connections
    assert connection.psk.octets == b"b"


@pytest.mark.parametrize(
    ("content", "octets"),
    [
        (b"plain text\nsecond line\n", b"plain text"),
        (b"with \xff octets\r\n", b"with \xff octets"),
        (b"0x00ff10\n", b"\x00\xff\x10"),
        (b"0sAP8Q\n", b"\x00\xff\x10"),
        (b" leading space", b" leading space"),
    ],
)
def test_secret_files_have_strongswans_forms(tmp_path: Path, content: bytes, octets: bytes) -> None:
    path = tmp_path / "psk"
    path.write_bytes(content)
    path.chmod(0o600)
    assert read_secret(path, "psk").octets == octets


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line is empty"),
        (b"\nsecond\n", "the first line is empty"),
        (b"0xzz", "what follows 0x is not hex octets"),
        (b"0s!!", "what follows 0s is not base64"),
        (b"x" * 5000, "is longer than 4096 octets"),
    ],
)
def test_a_bad_secret_file_is_refused_without_showing_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "psk"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_secret(path, "psk")
    assert "zz" not in str(caught.value)


def test_a_secret_must_be_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="is not a file"):
        read_secret(tmp_path / "fifo", "psk")


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("dynamic", DYNAMIC),
        ("dynamic[tcp]", Dynamic(6)),
        ("dynamic[udp/18688-18751]", Dynamic(17, 18688, 18751)),
        ("192.0.2.1", TrafficSelector.from_network("192.0.2.1/32")),
        ("192.0.2.0/24[47]", TrafficSelector.from_network("192.0.2.0/24", 47)),
        ("2001:db8::/32[udp/862]", TrafficSelector.from_network("2001:db8::/32", 17, 862, 862)),
        ("192.0.2.0/24[tcp/opaque]", TrafficSelector.from_network("192.0.2.0/24", 6, 65535, 0)),
        ("192.0.2.0/24[icmp/8]", TrafficSelector.from_network("192.0.2.0/24", 1, 0x0800, 0x08FF)),
        ("192.0.2.0/24[icmp/769]", TrafficSelector.from_network("192.0.2.0/24", 1, 0x0301, 0x0301)),
        ("dynamic[icmp/8-11]", Dynamic(1, 0x0800, 0x0BFF)),
        ("2001:db8::/32[ipv6-icmp/128]", TrafficSelector.from_network("2001:db8::/32", 58, 0x8000, 0x80FF)),
        ("2001:db8::/32[mobility-header/5]", TrafficSelector.from_network("2001:db8::/32", 135, 0x0500, 0x0500)),
    ],
)
def test_selectors_are_read_as_swanctl_writes_them(text: str, selector: object) -> None:
    assert parse_selector(text) == selector


def test_a_range_of_addresses_is_a_selector() -> None:
    selector = parse_selector("192.0.2.1-192.0.2.9")
    assert isinstance(selector, TrafficSelector)
    assert (str(selector.start_ip), str(selector.end_ip)) == ("192.0.2.1", "192.0.2.9")


@pytest.mark.req("rfc7296-s3.13.1-01", "rfc7296-s3.13.1-02")
@pytest.mark.parametrize(
    "text",
    [
        "dynamic[gre/5]",
        "dynamic[any/53]",
        "dynamic[99/1-2]",
        "dynamic[icmp/769-3]",
        "",
        "dynamic[/80]",
        "192.0.2.9-192.0.2.1",
        "192.0.2.1-2001:db8::1",
        "dynamic[udp/9-8]",
        "x[udp]",
        "a b",
    ],
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_selector(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [(5, 5.0), ("30s", 30.0), ("1.5m", 90.0), ("2h", 7200.0), ("500ms", 0.5)]
)
def test_times(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_the_examples_are_good(directory: Path) -> None:
    secret = directory / "two-hosts.psk"
    secret.write_text("0s" + "AAAA" * 8 + "\n")
    secret.chmod(0o600)
    for name in (
        "two-hosts-a.toml",
        "two-hosts-b.toml",
        "responder-any.toml",
        "road-client.toml",
        "road-gateway.toml",
    ):
        path = directory / name
        path.write_text((EXAMPLES / name).read_text())
        assert load(path).endpoint.connections


def test_pools_and_addresses_become_what_the_core_takes(directory: Path) -> None:
    text = """
[connections.lab]
vips = ["0.0.0.0", "2001:db8::7"]
pools = ["road", "six"]
pools_required = false
[pools.road]
addrs = "10.9.0.0/24, 10.8.0.10-10.8.0.20"
dns = ["10.2.0.53", "2001:db8:2::53"]
nbns = ["10.2.0.54"]
dhcp = ["10.2.0.55"]
subnet = ["10.2.0.0/16", "2001:db8:2::/48"]
netmask = "255.255.255.0"
[pools.six]
addrs = ["2001:db8:9::/64"]
"""
    endpoint = load(written(directory, text + SECRETS)).endpoint
    (connection,) = endpoint.connections
    assert [str(vip) for vip in connection.vips] == ["0.0.0.0", "2001:db8::7"]
    assert (connection.pools, connection.pools_required) == (("road", "six"), False)
    road, six = endpoint.pools
    assert [str(part) for part in road.ranges] == ["10.9.0.1-10.9.0.254", "10.8.0.10-10.8.0.20"]
    assert (road.name, road.size, str(road.netmask)) == ("road", 254 + 11, "255.255.255.0")
    assert [str(one) for one in (*road.dns, *road.nbns, *road.dhcp, *road.subnets)] == [
        "10.2.0.53", "2001:db8:2::53", "10.2.0.54", "10.2.0.55", "10.2.0.0/16", "2001:db8:2::/48",
    ]  # fmt: skip
    assert str(six.ranges[0]) == "2001:db8:9::1-2001:db8:9:0:ffff:ffff:ffff:ffff"


def test_an_example_never_holds_a_secret() -> None:
    for path in EXAMPLES.glob("*.toml"):
        for section in tomllib.loads(path.read_text()).get("secrets", {}).values():
            assert set(section) <= {"id", "file"}


def test_faults_of_one_section_do_not_hide_those_of_another(directory: Path) -> None:
    faults = faults_of(
        directory,
        "foo = 1\n[connections.lab]\nversion = 1\n"
        "[connections.two]\nnat_port = 500\nlocal = { id = 'two' }\n[connections.three]\nlocal = { id = 'three' }\n"
        "[secrets.lab]\nfile = 'nothere'\nid = 'two'\n[measurement]\nlabel = ''\n",
    )
    assert faults == (
        "connections.lab.version: must be 2, not 1",
        "foo: unknown key",
        f"secrets.lab.file: {directory}/nothere: No such file or directory",
        "connections.two.nat_port: is the same as ike_port: IKE and ESP in UDP need a port each",
        "connections.three: no secret serves it: add a [secrets.three] with a file and an id list that names three",
        "measurement.label: must be 1 to 16 ASCII characters",
    )
    # A secret that is wrong may be the one that is missed: that is not a fault of the connection.
    assert faults_of(directory, "[connections.two]\n[secrets.lab]\nfile = 3\n") == (
        "secrets.lab.file: must be the name of a file",
    )
