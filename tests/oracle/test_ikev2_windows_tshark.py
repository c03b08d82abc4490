"""tshark reads SET_WINDOW_SIZE where we say it, once in each direction, and knows it by its number and octets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ikev2_pair import Pair
from oracle.test_ikev2_tshark import dissected, record

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

SET_WINDOW_SIZE = "16385"


def notifies(tree: Any) -> list[dict[str, Any]]:
    """Every notify payload in a dissected message, however deep."""
    found: list[dict[str, Any]] = []
    if isinstance(tree, dict):
        if "isakmp.notify.msgtype" in tree:
            found.append(tree)
        for value in tree.values():
            found += notifies(value)
    elif isinstance(tree, list):
        for value in tree:
            found += notifies(value)
    return found


@pytest.mark.req("rfc7296-s2.3-01")
def test_tshark_finds_the_window_in_ike_auth_as_four_octets(tmp_path: Path) -> None:
    pair = Pair(tmp_path, connection={"window_size": 256})
    path = record(pair, tmp_path)
    packets = dissected(path, tmp_path / "keys", pair.ports)
    assert "Malformed" not in json.dumps(packets)
    messages = [layers["isakmp"] for layers in packets if "isakmp" in layers]
    said = {
        number: windows
        for number, message in enumerate(messages)
        if (windows := [one for one in notifies(message) if one["isakmp.notify.msgtype"] == SET_WINDOW_SIZE])
    }
    assert list(said) == [2, 3]  # IKE_AUTH request and response, and nowhere else
    for number, (notify,) in said.items():
        assert messages[number]["isakmp.exchangetype"] == "35"
        assert notify["isakmp.notify.data"].replace(":", "") == "00000100"
        assert notify["isakmp.spisize"] == "0"
        assert int(notify["isakmp.payloadlength"]) == 4 + 4 + 4
