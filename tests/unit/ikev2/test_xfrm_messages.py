"""XFRM messages against octets that a C program made through the kernel's own header.

`tests/golden/xfrm/make_golden.c` is that program; the file beside it is what it prints.
"""

from __future__ import annotations

import errno
import ipaddress
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ikev2.ipsec.xfrm import attributes, structs
from ikev2.ipsec.xfrm.aevents import AeFlag, NoticeRequest, ReplayNotice
from ikev2.ipsec.xfrm.attributes import Algorithm, Encap, Offload, ReplayEsn, ReplayLegacy
from ikev2.ipsec.xfrm.kernel import sentence
from ikev2.ipsec.xfrm.messages import (
    AcquireNotice,
    ExpireNotice,
    MappingNotice,
    Policy,
    Sa,
    SaFlush,
    SpiRequest,
    encode_attribute,
    encode_message,
    parse_attributes,
    parse_messages,
)
from ikev2.ipsec.xfrm.migration import MigrateRequest, Migration
from ikev2.ipsec.xfrm.structs import (
    LifetimeConfig,
    LifetimeCurrent,
    PolicyId,
    PolicyInfo,
    SaId,
    SaInfo,
    Selector,
    Template,
)
from ikev2.ipsec.xfrm.uapi import NlmF, OffloadFlag, PolicyDirection, SaDirection, SaFlag, SaMode, Xfrma, XfrmMsg

FOLDER = Path(__file__).parents[2] / "golden/xfrm"
GOLDEN = {
    name: bytes.fromhex(octets)
    for name, octets in (line.split() for line in (FOLDER / "little-endian-64.txt").read_text().splitlines())
}
pytestmark = pytest.mark.skipif(
    sys.byteorder != "little" or struct.calcsize("P") != 8,
    reason="the golden octets are of a 64-bit little-endian ABI",
)

A, B = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
A6, B6 = ipaddress.ip_address("2001:db8::1"), ipaddress.ip_address("2001:db8::2")
KEY = bytes(range(36))
SELECTOR = Selector(
    ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("198.51.100.7/32"), 17, 18688, 0xFFC0, 862, 0xFFFF
)
SELECTOR6 = Selector(ipaddress.ip_network("2001:db8:1::/48"), ipaddress.ip_network("2001:db8::2/128"))
SA = SaInfo(
    A,
    B,
    0xC0FFEE01,
    0x77050009,
    SaMode.TUNNEL,
    flags=SaFlag.AF_UNSPEC | SaFlag.ESN,
    current=LifetimeCurrent(1000, 10, 1700000000, 1700000001),
    late_packets=1,
    replayed_packets=2,
    integrity_failures=3,
    sequence=5,
)
SA6 = SaInfo(A6, B6, 0x100, 7, SaMode.TRANSPORT, replay_window=32, selector=SELECTOR6)
POLICY = PolicyInfo(SELECTOR, PolicyDirection.OUT, 0x7705, index=9)
TEMPLATE = Template(A, B, 0x77050009, SaMode.TUNNEL, spi=0xC0FFEE01)

TYPED = {
    "selector": SELECTOR,
    "selector6": SELECTOR6,
    "lifetime_cfg": LifetimeConfig(1, 2, 3, 4, 5, 6, 7, 8),
    "user_tmpl": TEMPLATE,
    "encap_tmpl": Encap(4500, 40001),
    "replay_state": ReplayLegacy(1, 2, 3),
    "replay_state_esn": ReplayEsn(64, (5, 6), 1, 2, 3, 4),
    "usersa_info": SA,
    "usersa_info6": SA6,
    "usersa_id": SaId(B, 0xC0FFEE01),
    "userpolicy_info": POLICY,
    "userpolicy_id": PolicyId(SELECTOR, PolicyDirection.FWD, 9),
    "newsa_inbound": Sa(
        SA, if_id=42, direction=SaDirection.IN, offload=Offload(7, OffloadFlag.INBOUND), notice_after=0
    ),
    "newsa_outbound": Sa(SA, if_id=42, direction=SaDirection.OUT, offload=Offload(7, OffloadFlag.PACKET)),
    "newpolicy": Policy(POLICY, if_id=42, offload=Offload(7, OffloadFlag.PACKET)),
    "delpolicy": PolicyId(SELECTOR, PolicyDirection.OUT, if_id=42),
    "user_migrate": Migration(A, B, A6, B6, 0x77050009, SaMode.TUNNEL),
}


@pytest.mark.parametrize("name", TYPED)
def test_octets_are_those_of_the_kernels_header_both_ways(name: str) -> None:
    value = TYPED[name]
    assert value.encode() == GOLDEN[name]
    # When the kernel is to give notice it is told, and does not say.
    came = replace(value, notice_after=None) if isinstance(value, Sa) else value
    assert type(value).parse(GOLDEN[name]) == came


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("algo_aead", Algorithm("rfc4106(gcm(aes))", KEY, 128).encode()),
        ("algo_auth", Algorithm("hmac(sha256)", KEY[:32], 128).encode()),
        ("algo", Algorithm("cbc(aes)", KEY[:16]).encode()),
        ("userspi_info", SpiRequest(SA, 0x100, 0xFFFFFFFF).encode()),
        ("usersa_flush", SaFlush().encode()),
        ("allocspi", SpiRequest(SA, 0x100, 0xFFFFFFFF, SaDirection.IN).encode()),
        (
            "migrate",
            MigrateRequest(
                PolicyId(SELECTOR, PolicyDirection.OUT, if_id=42),
                Migration(A, B, A6, B6, 0x77050009, SaMode.TUNNEL),
                Encap(4500, 40001),
            ).encode(),
        ),
        ("newae", NoticeRequest(SA.id, 0).encode()),
    ],
)
def test_octets_that_are_only_sent(name: str, octets: bytes) -> None:
    assert octets == GOLDEN[name]


def test_notices_that_only_come() -> None:
    came = AeFlag.REPLAY_VALUE | AeFlag.CAUSE_REPLAY
    assert ReplayNotice.parse(GOLDEN["aevent_id"]) == ReplayNotice(SA.id, came)
    assert ExpireNotice.parse(GOLDEN["user_expire"]) == ExpireNotice(SA, hard=True)
    moved = MappingNotice(SA.id, ipaddress.ip_address("203.0.113.5"), 40001)
    assert MappingNotice.parse(GOLDEN["user_mapping"]) == moved
    body = GOLDEN["user_acquire"] + encode_attribute(Xfrma.TMPL, GOLDEN["user_tmpl"])
    assert AcquireNotice.parse(body) == AcquireNotice(A, B, SELECTOR, POLICY, (TEMPLATE,), 4)


def test_sizes_are_those_that_classes_claim() -> None:
    for name, cls in (
        ("selector", Selector),
        ("lifetime_cfg", LifetimeConfig),
        ("usersa_info", SaInfo),
        ("usersa_id", SaId),
        ("user_tmpl", Template),
        ("userpolicy_info", PolicyInfo),
        ("userpolicy_id", PolicyId),
        ("userspi_info", SpiRequest),
        ("encap_tmpl", attributes.Encap),
        ("user_migrate", Migration),
        ("aevent_id", ReplayNotice),
    ):
        assert len(GOLDEN[name]) == cls.SIZE, name
    assert len(structs.encode_id(B, 1, 50)) == 24


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_golden_file_is_what_its_program_prints(tmp_path: Path) -> None:
    if not Path("/usr/include/linux/xfrm.h").exists():
        pytest.skip("no kernel headers (linux-libc-dev)")
    program = tmp_path / "make_golden"
    subprocess.run(["cc", "-o", program, FOLDER / "make_golden.c"], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert printed == (FOLDER / "little-endian-64.txt").read_text()


@pytest.mark.parametrize(
    "sa",
    [
        Sa(SA, aead=Algorithm("rfc4106(gcm(aes))", KEY[:20], 128), replay_esn=ReplayEsn.of_window(64)),
        Sa(
            SA6,
            crypt=Algorithm("cbc(aes)", KEY[:16]),
            auth=Algorithm("hmac(sha256)", KEY[:32], 128),
            encap=Encap(4500, 4500),
            replay_legacy=ReplayLegacy(1, 2, 3),
        ),
    ],
)
def test_an_sa_with_attributes_comes_back_as_it_went(sa: Sa) -> None:
    assert Sa.parse(sa.encode()) == sa


def test_a_policy_with_templates_comes_back_as_it_went() -> None:
    policy = Policy(POLICY, (TEMPLATE, TEMPLATE))
    assert Policy.parse(policy.encode()) == policy
    assert not policy.is_bypass
    assert Policy.parse(Policy(POLICY).encode()).is_bypass


def test_no_repr_shows_a_key() -> None:
    sa = Sa(SA, crypt=Algorithm("cbc(aes)", b"K" * 16), auth=Algorithm("hmac(sha256)", b"K" * 32, 128))
    assert "KKKK" not in repr(sa)
    assert (b"K" * 16).hex() not in repr(sa)


def test_messages_are_framed_and_padded_to_four_octets() -> None:
    one = encode_message(XfrmMsg.FLUSHSA, NlmF.REQUEST | NlmF.ACK, 7, b"\xff")
    assert one == struct.pack("=IHHII", 17, 0x1C, 5, 7, 0) + b"\xff\0\0\0"
    two = list(parse_messages(one + encode_message(3, 2, 8, b"")))
    assert [(m.type, m.flags, m.sequence, m.body) for m in two] == [(0x1C, 5, 7, b"\xff"), (3, 2, 8, b"")]


def test_what_is_cut_short_is_not_read() -> None:
    whole = encode_message(XfrmMsg.NEWSA, 0, 1, bytes(40))
    for length in range(len(whole)):
        assert list(parse_messages(whole[:length])) == []
    attribute = encode_attribute(Xfrma.ENCAP, bytes(24))
    for length in range(len(attribute)):
        assert parse_attributes(attribute[:length], 0) == {}
    assert parse_attributes(struct.pack("=HH", 3, 4) + attribute, 0) == {}, "a length below 4 ends the list"


@pytest.mark.parametrize(
    ("operation", "number", "detail", "says"),
    [
        (XfrmMsg.NEWSA, errno.EPROTONOSUPPORT, "", "no ESP"),
        (XfrmMsg.NEWSA, errno.ENOSYS, "", "ESP or does not have one of the SA's algorithms"),
        (XfrmMsg.UPDSA, errno.EINVAL, "Requested type not found", "no ESP"),
        (XfrmMsg.NEWSA, errno.EEXIST, "", "already there"),
        (XfrmMsg.NEWPOLICY, errno.EEXIST, "", "somebody else"),
        (XfrmMsg.NEWSA, errno.EPERM, "", "CAP_NET_ADMIN"),
        (XfrmMsg.DELPOLICY, errno.ENOENT, "", "no such policy"),
        (XfrmMsg.GETSA, errno.ESRCH, "", "no such SA"),
        (XfrmMsg.NEWSA, errno.EINVAL, "Bad key", 'the kernel says "Bad key"'),
        (XfrmMsg.NEWSA, errno.ENOBUFS, "", "No buffer space"),
        (XfrmMsg.NEWSA, errno.EOPNOTSUPP, "", "the network device, or its driver, does not do that"),
        (XfrmMsg.NEWPOLICY, errno.EOPNOTSUPP, "", "hw_offload"),
        (XfrmMsg.MIGRATE, errno.ENOPROTOOPT, "", "CONFIG_XFRM_MIGRATE"),
        (XfrmMsg.MIGRATE, errno.ENOENT, "", "no such policy"),
        (XfrmMsg.NEWAE, errno.ESRCH, "", "no such SA"),
        (XfrmMsg.ALLOCSPI, errno.ENOENT, "", "no SPI of the range is free"),
        (XfrmMsg.ALLOCSPI, errno.EPERM, "", "CAP_NET_ADMIN"),
        (XfrmMsg.DELSA, errno.ESRCH, "", "no such SA"),
    ],
)
def test_a_refusal_is_a_sentence(operation: XfrmMsg, number: int, detail: str, says: str) -> None:
    text = sentence(operation, number, detail)
    assert text.startswith("cannot ")
    assert says in text
