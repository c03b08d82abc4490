"""`ikev2 decode`: what a person reads of a capture, with and without keys, of fragments, and of what is damaged."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ikev2 import KeyLogWriter, PcapWriter, Peer, connection, decode_capture, roundtrip
from ikev2.cli.main import main
from ikev2.core.types import Address, Datagram
from ikev2.iana import (
    AuthMethod,
    CertEncoding,
    CpAttributeType,
    CpType,
    EapCode,
    ExchangeType,
    IdType,
    KeId,
    NotifyType,
    PayloadType,
    ProtocolId,
)
from ikev2.io.decode import Decoder
from ikev2.io.decode_text import payload_lines
from ikev2.io.frames import udp_packet
from ikev2.io.pcap import LINKTYPE_LINUX_SLL2, LINKTYPE_RAW
from ikev2.ipsec.fragments import fragments
from ikev2.wire.payloads import (
    Auth,
    Cert,
    CertReq,
    Cp,
    CpAttribute,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    IdI,
    Ke,
    Nonce,
    Notify,
    Payload,
    Unknown,
    VendorId,
)

A, B = "192.0.2.1", "192.0.2.2"


def exchange(directory: Path, **words: object) -> list[Datagram]:
    """The datagrams of a handshake and of a liveness check; the key log is in `directory`/keys."""
    keylog = KeyLogWriter(directory / "keys")
    ends = [
        connection(psk="x", local_addrs=local, remote_addrs=remote, local_id=name, **words)
        for local, remote, name in ((A, B, "a.example"), (B, A, "b.example"))
    ]
    a, b = Peer(ends[0], keylog=keylog), Peer(ends[1])
    a.initiate()
    carried = roundtrip(a, b)
    a.ask(ExchangeType.INFORMATIONAL)
    carried += roundtrip(a, b)
    keylog.close()
    return carried


def packet(datagram: Datagram, number: int = 0) -> bytes:
    return udp_packet(*datagram.local, *datagram.remote, datagram.data, number)


def captured(directory: Path, packets: list[bytes], link_type: int = LINKTYPE_RAW) -> Path:
    path = directory / "capture.pcapng"
    path.unlink(missing_ok=True)
    with PcapWriter(path) as pcap:
        interface = pcap.add_interface("wire", link_type)
        for number, octets in enumerate(packets):
            pcap.packet(interface, number * 10**9, octets)
    return path


def text(path: Path, *arguments: str) -> list[str]:
    result = CliRunner().invoke(main, ["decode", str(path), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output.splitlines()


def test_text_for_a_person_has_at_most_100_columns_and_says_what_is_in_each_payload(tmp_path: Path) -> None:
    path = captured(tmp_path, [packet(datagram) for datagram in exchange(tmp_path)])
    lines = text(path, "--keys", str(tmp_path / "keys"))
    assert max(map(len, lines)) <= 100
    assert "  IKE_AUTH request 1 [ IDi N(INIT_CONTACT) AUTH SA TSi TSr ]" in lines
    assert "    IDi     ID_FQDN a.example" in lines
    assert "    SA      1 IKE aes256gcm16-prfsha384-curve25519-ecp384" in lines
    assert "            2 IKE aes128gcm16-prfsha256-curve25519-ecp256" in lines
    assert "    TSr     192.0.2.2/32" in lines
    without = text(path)
    assert not any("a.example" in line for line in without)
    assert sum(line.endswith(" octets, encrypted") for line in without) == 4


def test_messages_of_an_sa_that_the_key_log_does_not_have_say_so(tmp_path: Path) -> None:
    exchange(tmp_path)  # its keys are of another IKE SA
    (tmp_path / "other").mkdir()
    path = captured(tmp_path, [packet(datagram) for datagram in exchange(tmp_path / "other")])
    problems = {message.problem for message in decode_capture(path, tmp_path / "keys")}
    assert problems == {None, "no key of this IKE SA in the key log"}


def test_ip_fragments_are_put_together(tmp_path: Path) -> None:
    whole = exchange(tmp_path, fragmentation="no")
    pieces = [piece for number, one in enumerate(whole) for piece in fragments(packet(one, number), 200)]
    assert len(pieces) > len(whole)
    path = captured(tmp_path, pieces)
    summaries = [message.summary for message in decode_capture(path, tmp_path / "keys")]
    assert len(summaries) == len(whole)
    assert summaries[2].startswith("IKE_AUTH request 1 [ IDi ")
    path = captured(tmp_path, [pieces[0], *pieces])  # the same fragment twice is one
    assert len(decode_capture(path)) == len(whole)
    path = captured(tmp_path, [pieces[0][:-1] + b"?", *pieces])  # two in one place: nothing of it, and the rest
    assert len(decode_capture(path)) == len(whole) - 1


def test_what_tcpdump_writes_of_all_interfaces_is_read(tmp_path: Path) -> None:
    framed = [struct.pack("!HHIHBB8s", 0x0800, 0, 1, 1, 0, 6, bytes(8)) + packet(one) for one in exchange(tmp_path)]
    assert len(decode_capture(captured(tmp_path, framed, LINKTYPE_LINUX_SLL2))) == len(framed)


def test_a_capture_that_is_cut_off_is_shown_up_to_there(tmp_path: Path) -> None:
    path = captured(tmp_path, [packet(datagram) for datagram in exchange(tmp_path)])
    path.write_bytes(path.read_bytes()[:-20])
    result = CliRunner().invoke(main, ["decode", str(path)])
    assert result.exit_code == 1
    assert "IKE_AUTH response 1" in result.stdout
    assert result.stderr.startswith(f"ikev2: {path}: ")
    assert len(result.stderr.splitlines()) == 1
    document = CliRunner().invoke(main, ["decode", str(path), "--json"])
    assert document.exit_code == 1
    assert len(json.loads(document.stdout)) == result.stdout.count("IKE SA ")
    assert document.stderr == result.stderr


def test_an_exchange_that_has_no_name_is_recognised_by_its_sa_or_its_port() -> None:
    a, b = Address(A, 40000), Address(B, 40001)
    init = bytes.fromhex("0102030405060708 0000000000000000 00 20 22 08 00000000 0000001c")
    private = bytes.fromhex("0102030405060708 1112131415161718 00 20 fa 08 00000001 0000001c")
    assert Decoder().decode(0, a, b, private) is None
    found = Decoder().decode(0, replace_port(a, 500), b, private)
    assert found is not None
    assert found.summary == "UNKNOWN_250 request 1 [ ]"
    decoder = Decoder()
    assert decoder.decode(0, a, b, init) is not None
    assert decoder.decode(0, a, b, private) is not None
    assert decoder.decode(0, a, b, bytes(4) + private) is not None  # with the marker of RFC 3948
    assert decoder.decode(0, a, b, private[:-1]) is None


def replace_port(address: Address, port: int) -> Address:
    return Address(address.host, port)


@pytest.mark.parametrize(
    ("payload", "lines"),
    [
        (Ke(KeId.MODP_2048, bytes(256)), ["MODP_2048, 256 octets " + "00" * 16 + "..."]),
        (Nonce(b"\x01" * 16), ["16 octets " + "01" * 16]),
        (IdI(IdType.ID_FQDN, b"a\x1b[2J"), ["ID_FQDN fqdn:#611b5b324a"]),
        (Auth(AuthMethod.NULL, b""), ["NULL, no octets"]),
        (Notify(NotifyType.INITIAL_CONTACT), ["INITIAL_CONTACT"]),
        (Notify(NotifyType.REKEY_SA, b"", ProtocolId.ESP, b"\0\0\0\1"), ["REKEY_SA for ESP 00000001"]),
        (Notify(NotifyType(50000), b"\x07"), ["UNKNOWN_50000, 1 octet 07"]),
        (Delete.ike(), ["IKE"]),
        (Delete.esp(b"\0\0\0\1", b"\0\0\0\2"), ["ESP 00000001 00000002"]),
        (Cert(CertEncoding.X509_SIGNATURE, b"\x30"), ["X509_SIGNATURE, 1 octet 30"]),
        (CertReq(CertEncoding.X509_SIGNATURE, b""), ["X509_SIGNATURE, no octets"]),
        (
            Cp(CpType.CFG_REQUEST, (CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS),)),
            ["CPRQ(ADDR)", "INTERNAL_IP4_ADDRESS no octets"],
        ),
        (Eap(EapCode.REQUEST, 3, b"\x01"), ["EAP/REQ/ID, identifier 3, 1 octet 01"]),
        (VendorId(b"vendor"), ["6 octets 76656e646f72"]),
        (Unknown(PayloadType(200), b"x", critical=True), ["critical, 1 octet 78"]),
        (Encrypted(PayloadType.N, bytes(40)), ["40 octets, encrypted"]),
        (EncryptedFragment(PayloadType.N, 2, 3, bytes(40)), ["fragment 2 of 3, 40 octets, encrypted"]),
    ],
)
def test_each_payload_in_words(payload: Payload, lines: list[str]) -> None:
    assert list(payload_lines(payload)) == lines


def test_a_message_that_does_not_parse_is_shown_with_its_reason(tmp_path: Path) -> None:
    first, *_ = exchange(tmp_path)
    broken = replace(first, data=first.data[:31] + b"\xff" + first.data[32:])
    lines = text(captured(tmp_path, [packet(broken)]))
    assert lines[1] == "  IKE_SA_INIT request 0 [ ? ]"
    assert lines[3].startswith("    malformed: ")
