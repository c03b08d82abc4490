"""tshark reads our capture with our key log: it decrypts IKE and ESP, checks the ICVs, finds nothing malformed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ikev2_pair import HOST_A, HOST_B, Pair

from ikev2.io.decode import decode_capture
from ikev2.io.keylog import ESP_TABLE, IKE_TABLE, KeyLogWriter
from ikev2.io.pcap import LINKTYPE_RAW, PcapWriter
from ikev2.ipsec.ipv4 import build_header
from ikev2.ipsec.memory import MemoryBackend

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

INNER = bytes(range(64))


def record(pair: Pair, directory: Path) -> Path:
    """Bring the pair up, send a packet each way, take it down: the capture; the key log is in `directory`."""
    path = directory / "capture.pcapng"

    async def scenario() -> None:
        keylog, pcap = KeyLogWriter(directory / "keys"), PcapWriter(path)
        number = pcap.add_interface("wire", LINKTYPE_RAW)
        pair.network.taps.append(lambda packet: pcap.packet(number, time.time_ns(), packet))
        backend_a, backend_b = MemoryBackend(pair.network), MemoryBackend(pair.network)
        a = pair.endpoint("a", backend_a, keylog=keylog, pcap=pcap)
        b = pair.endpoint("b", backend_b)
        async with pair.running(a, b):
            await a.up("lab", 5)
            host_a, host_b = bytes(map(int, HOST_A.split("."))), bytes(map(int, HOST_B.split(".")))
            backend_a.send_packet(build_header(host_a, host_b, 253, len(INNER)) + INNER)
            backend_b.send_packet(build_header(host_b, host_a, 253, len(INNER)) + INNER)
            await a.down("lab")
        keylog.close()
        pcap.close()

    asyncio.run(scenario())
    return path


def tshark(path: Path, keys: Path | None, ports: list[int], *arguments: str) -> str:
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(keys or path.parent / "nothing")}
    command = ["tshark", "-n", "-r", str(path), "-d", f"udp.port=={ports[0]},isakmp"]
    command += ["-d", f"udp.port=={ports[1]},udpencap", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


def dissected(path: Path, keys: Path | None, ports: list[int]) -> list[dict[str, Any]]:
    """The layers of each packet."""
    options = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-T", "json", "--no-duplicate-keys")
    return [packet["_source"]["layers"] for packet in json.loads(tshark(path, keys, ports, *options))]


SUITES = [
    ("aes256gcm16-prfsha384-curve25519", "aes256gcm16"),
    ("aes128gcm16-prfsha256-ecp256", "aes128gcm16"),
    ("aes256gcm8-prfsha256-curve25519", "aes256-sha384"),
    ("aes128-sha256-curve25519", "aes128-sha256"),
    ("aes256-sha384-prfsha512-curve25519", "aes256-sha512"),
    ("aes192-sha1-curve25519", "aes192-sha1"),
    ("aes256ccm16-prfsha256-curve25519", "null-sha256"),
    ("aes128-aesxcbc-prfsha256-curve25519", "aes128-sha256"),
    ("aes128ccm8-prfaescmac-ecp224bp", "aes128gcm8"),
    ("aes128ccm12-prfaesxcbc-ecp256bp", "aes256gcm12"),
    ("aes128ctr-sha256-ecp384bp", "aes128ctr-sha256"),
    ("aes256ctr-sha512-ecp512bp", "aes256ctr-sha512"),
]


@pytest.mark.parametrize("encap", [False, True], ids=["esp", "esp-in-udp"])
@pytest.mark.parametrize(("ike", "esp"), SUITES, ids=[f"{ike}+{esp}" for ike, esp in SUITES])
def test_tshark_decrypts_ike_and_esp_with_the_key_log(tmp_path: Path, ike: str, esp: str, encap: bool) -> None:
    connection = {"proposals": [ike], "encap": encap}
    pair = Pair(tmp_path, connection=connection, child={"esp_proposals": [esp]})
    path = record(pair, tmp_path)
    packets = dissected(path, tmp_path / "keys", pair.ports)
    text = json.dumps(packets)
    assert "_ws.malformed" not in text
    assert "Malformed" not in text
    assert "incorrect" not in text
    for layers in packets:
        assert outer(layers["ip"])["ip.checksum.status"] == "1"
        if "udp" in layers and layers["udp"]["udp.checksum"] != "0x0000":
            assert layers["udp"]["udp.checksum.status"] == "1"
    ike_messages = [json.dumps(layers["isakmp"]) for layers in packets if "isakmp" in layers]
    assert len(ike_messages) == 6
    assert sum('"isakmp.enc.decrypted"' in message for message in ike_messages) == 4
    auth_request, auth_response, delete_request = ike_messages[2], ike_messages[3], ike_messages[4]
    assert '"a.example"' in auth_request
    assert '"b.example"' in auth_response
    assert '"isakmp.auth.data"' in auth_request
    assert '"isakmp.auth.data"' in auth_response
    assert '"isakmp.delete.protoid": "1"' in delete_request
    esp_packets = [layers for layers in packets if "esp" in layers]
    assert len(esp_packets) == 2
    for layers in esp_packets:
        assert re.search(r'"esp.icv[._]good": "1"', json.dumps(layers)), layers
        assert layers["data"]["data.data"].replace(":", "") == INNER.hex()


def outer(layer: Any) -> Any:
    """The first of several layers of one protocol: a tunnel has two IP headers."""
    return layer[0] if isinstance(layer, list) else layer


def test_without_the_key_log_nothing_is_decrypted(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    path = record(pair, tmp_path)
    assert INNER.hex() not in json.dumps(dissected(path, None, pair.ports)).replace(":", "")


def test_a_table_with_algorithms_that_tshark_lacks_still_loads(tmp_path: Path) -> None:
    connection = {"proposals": ["chacha20poly1305-prfsha256-curve25519"]}
    pair = Pair(tmp_path, connection=connection, child={"esp_proposals": ["chacha20poly1305"]})
    path = record(pair, tmp_path)
    packets = dissected(path, tmp_path / "keys", pair.ports)
    assert len(packets) == 8
    for name in (IKE_TABLE, ESP_TABLE):
        assert (tmp_path / "keys" / name).read_text().startswith("#+")


@pytest.mark.parametrize("ike", ["aes256gcm16-prfsha384-curve25519", "chacha20poly1305-prfsha256-curve25519"])
def test_our_own_decoder_sees_what_tshark_sees(tmp_path: Path, ike: str) -> None:
    path = record(Pair(tmp_path, connection={"proposals": [ike]}), tmp_path)
    messages = decode_capture(path, tmp_path / "keys")
    assert [str(message.to_dict()["summary"]).split(" [")[0] for message in messages] == [
        "IKE_SA_INIT request 0",
        "IKE_SA_INIT response 0",
        "IKE_AUTH request 1",
        "IKE_AUTH response 1",
        "INFORMATIONAL request 2",
        "INFORMATIONAL response 2",
    ]
    assert all(message.inner is not None for message in messages[2:])
    assert "IDi     ID_FQDN a.example" in "\n".join(messages[2].lines())
    assert json.dumps([message.to_dict() for message in messages])
    assert all(message.inner is None for message in decode_capture(path))
