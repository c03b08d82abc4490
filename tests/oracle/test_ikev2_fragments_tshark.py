"""tshark reads IKE fragments: it decrypts each with our key log, and finds numbers and payload types where they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ikev2_pair import Pair
from oracle.test_ikev2_tshark import dissected, record

from ikev2.io.decode import decode_capture

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]


@pytest.mark.req("rfc7383-s2.5-02", "rfc7383-s2.5-03", "rfc7383-s2.5-04")
@pytest.mark.parametrize("ike", ["aes256gcm16-prfsha384-curve25519", "aes128-sha256-curve25519"])
def test_tshark_decrypts_fragments_with_the_key_log(tmp_path: Path, ike: str) -> None:
    connection = {"proposals": [ike], "fragmentation": "force", "fragment_size": 200}
    pair = Pair(tmp_path, connection=connection)
    path = record(pair, tmp_path)
    packets = dissected(path, tmp_path / "keys", pair.ports)
    text = json.dumps(packets)
    assert "_ws.malformed" not in text
    assert "Malformed" not in text
    messages = [layers["isakmp"] for layers in packets if "isakmp" in layers]
    fragments = [message["isakmp.typepayload_tree"] for message in messages[2:]]
    assert len(fragments) >= 6
    assert all(message["isakmp.nextpayload"] == "53" for message in messages[2:])
    assert all("isakmp.enc.decrypted" in fragment for fragment in fragments)
    assert {fragment["isakmp.enc.decrypted"]["isakmp.enc.pad_length"] for fragment in fragments} <= {
        str(octets) for octets in range(16)
    }
    total = int(fragments[0]["isakmp.frag.total"])
    assert total >= 2
    numbers = [(int(fragment["isakmp.frag.number"]), int(fragment["isakmp.frag.total"])) for fragment in fragments]
    assert numbers[:total] == [(number, total) for number in range(1, total + 1)]
    first = [fragment["isakmp.nextpayload"] for fragment in fragments]
    assert first[:total] == ["35"] + ["0"] * (total - 1)  # IDi, then none
    assert numbers[-1] == (1, 1)  # the answer to the delete


def test_our_own_decoder_puts_fragments_together(tmp_path: Path) -> None:
    """The payloads are with the last one; without keys there are none."""
    pair = Pair(tmp_path, connection={"fragmentation": "force", "fragment_size": 200})
    path = record(pair, tmp_path)
    messages = decode_capture(path, tmp_path / "keys")
    assert all(message.problem is None for message in messages)
    summaries = [str(message.to_dict()["summary"]) for message in messages]
    assert summaries[2] == "IKE_AUTH request 1 [ EF(1/3) ]"
    assert summaries[4].startswith("IKE_AUTH request 1 [ IDi ")
    assert "IDi     ID_FQDN a.example" in "\n".join(messages[4].lines())
    assert summaries[-1] == "INFORMATIONAL response 2 [ ]"
    assert json.dumps([message.to_dict() for message in messages])
    assert all(message.inner is None for message in decode_capture(path))
