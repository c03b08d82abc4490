"""The packet of RFC 7634 appendix A, made and opened."""

from __future__ import annotations

import json
from pathlib import Path

from ikev2.crypto.esp import AeadEspCipher, esp_cipher
from ikev2.iana import EncrId
from ikev2.ipsec.esp import NEXT_HEADER_IPV4, InboundEspSa

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
FIGURES = {
    name: bytes.fromhex(value)
    for name, value in json.loads((VECTORS / "esp_rfc7634.json").read_text()).items()
    if name != "source"
}
ESP = FIGURES["esp_packet_with_outer_ip"][20:]


def test_sealing_gives_the_packet_of_the_rfc() -> None:
    cipher = esp_cipher(EncrId.CHACHA20_POLY1305, FIGURES["keymat"])
    assert isinstance(cipher, AeadEspCipher)
    header = FIGURES["spi"] + FIGURES["seq"]
    assert cipher.seal_with_iv(header, 5, FIGURES["iv"], FIGURES["plaintext"]) == ESP


def test_the_padding_and_trailer_are_those_of_the_rfc() -> None:
    packet, plaintext = FIGURES["source_packet"], FIGURES["plaintext"]
    padding_octets = -(len(packet) + 2) % 4
    assert plaintext == packet + bytes(range(1, padding_octets + 1)) + bytes((padding_octets, NEXT_HEADER_IPV4))


def test_opening_the_packet_of_the_rfc_gives_its_source_packet() -> None:
    sa = InboundEspSa(0x01020304, esp_cipher(EncrId.CHACHA20_POLY1305, FIGURES["keymat"]))
    assert sa.open(ESP) == (FIGURES["source_packet"], NEXT_HEADER_IPV4)
    assert (sa.window.top, sa.packets, sa.octets) == (5, 1, len(FIGURES["source_packet"]))
