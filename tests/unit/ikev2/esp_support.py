"""Child SAs made by hand, for the tests of ESP and of the backends: both ends, with keys drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import replace

from ikev2.core.child_sa import ChildSaParameters, UdpEncap
from ikev2.core.types import Mode, Role
from ikev2.crypto.encr import encr
from ikev2.crypto.integ import integ
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite
from ikev2.iana import EncrId, IntegId
from ikev2.ipsec.ipv4 import build_header, ones_complement_sum
from ikev2.wire.payloads.ts import TrafficSelector

SUITES: dict[str, tuple[EncrId, int | None, IntegId | None]] = {
    "aes128gcm16": (EncrId.AES_GCM_16, 128, None),
    "aes256gcm16": (EncrId.AES_GCM_16, 256, None),
    "aes128ccm16": (EncrId.AES_CCM_16, 128, None),
    "aes192ccm12": (EncrId.AES_CCM_12, 192, None),
    "aes256ccm8": (EncrId.AES_CCM_8, 256, None),
    "chacha20poly1305": (EncrId.CHACHA20_POLY1305, None, None),
    "aes128-sha256": (EncrId.AES_CBC, 128, IntegId.HMAC_SHA2_256_128),
    "aes256-sha384": (EncrId.AES_CBC, 256, IntegId.HMAC_SHA2_384_192),
    "aes256-sha512": (EncrId.AES_CBC, 256, IntegId.HMAC_SHA2_512_256),
    "aes128-sha1": (EncrId.AES_CBC, 128, IntegId.HMAC_SHA1_96),
    "aes192gcm12": (EncrId.AES_GCM_12, 192, None),
    "aes128gcm8": (EncrId.AES_GCM_8, 128, None),
    "aes128ctr-sha256": (EncrId.AES_CTR, 128, IntegId.HMAC_SHA2_256_128),
    "aes128-aesxcbc": (EncrId.AES_CBC, 128, IntegId.AES_XCBC_96),
    "aes256-aescmac": (EncrId.AES_CBC, 256, IntegId.AES_CMAC_96),
    "null-sha256": (EncrId.NULL, None, IntegId.HMAC_SHA2_256_128),
    "aes128gmac": (EncrId.NULL_AUTH_AES_GMAC, 128, None),
    "aes192gmac": (EncrId.NULL_AUTH_AES_GMAC, 192, None),
    "aes256gmac": (EncrId.NULL_AUTH_AES_GMAC, 256, None),
    "aes128ccm8iiv": (EncrId.AES_CCM_8_IIV, 128, None),
    "aes256gcm16iiv": (EncrId.AES_GCM_16_IIV, 256, None),
    "chacha20poly1305iiv": (EncrId.CHACHA20_POLY1305_IIV, None, None),
}


def suite(name: str, *, esn: bool = False) -> EspSuite:
    """The ESP suite of a keyword here."""
    encr_id, key_bits, integ_id = SUITES[name]
    return EspSuite(encr(encr_id, key_bits), integ(integ_id) if integ_id is not None else None, esn, None)


def everything(address: str) -> tuple[TrafficSelector, ...]:
    """One selector: an address or network, any protocol, any port."""
    return (TrafficSelector.from_network(address),)


def child_pair(
    name: str = "aes128gcm16",
    *,
    mode: Mode = Mode.TUNNEL,
    a: str = "192.0.2.1",
    b: str = "192.0.2.2",
    ts_a: tuple[TrafficSelector, ...] | None = None,
    ts_b: tuple[TrafficSelector, ...] | None = None,
    encap: UdpEncap | None = None,
    esn: bool = False,
    spis: tuple[int, int] = (0x1001, 0x2002),
    seed: int = 1,
    replay_window: int = 64,
    tfc_padding: int = 0,
) -> tuple[ChildSaParameters, ChildSaParameters]:
    """One Child SA as its two ends install it; `spis` are those on which a and b receive."""
    chosen = suite(name, esn=esn)
    rng = random.Random(seed)
    encr_octets = chosen.encr.key_octets + chosen.encr.salt_octets
    keys = [SecretOctets("encr", rng.randbytes(encr_octets)) for _ in range(2)]
    integ_keys: list[SecretOctets | None] = [None, None]
    if chosen.integ is not None:
        integ_keys = [SecretOctets("integ", rng.randbytes(chosen.integ.key_octets)) for _ in range(2)]
    ts_a = ts_a if ts_a is not None else everything(a)
    ts_b = ts_b if ts_b is not None else everything(b)
    of_a = ChildSaParameters(
        name="test",
        ike_spi_i=bytes(8),
        ike_spi_r=bytes(8),
        suite=chosen,
        mode=mode,
        role=Role.INITIATOR,
        local=a,
        remote=b,
        spi_in=spis[0],
        spi_out=spis[1],
        encr_key_in=keys[1],
        integ_key_in=integ_keys[1],
        encr_key_out=keys[0],
        integ_key_out=integ_keys[0],
        ts_local=ts_a,
        ts_remote=ts_b,
        encap=encap,
        replay_window=replay_window,
        tfc_padding=tfc_padding,
    )
    of_b = replace(
        of_a,
        role=Role.RESPONDER,
        local=b,
        remote=a,
        spi_in=spis[1],
        spi_out=spis[0],
        encr_key_in=keys[0],
        integ_key_in=integ_keys[0],
        encr_key_out=keys[1],
        integ_key_out=integ_keys[1],
        ts_local=ts_b,
        ts_remote=ts_a,
        encap=UdpEncap(encap.remote_port, encap.local_port) if encap is not None else None,
    )
    return of_a, of_b


def udp_packet(
    source: str = "192.0.2.1",
    destination: str = "192.0.2.2",
    ports: tuple[int, int] = (40000, 7),
    data: bytes = b"data",
    *,
    tos: int = 0,
    ttl: int = 64,
    flags: int = 0,
) -> bytes:
    """An IPv4 UDP packet with right checksums."""
    import ipaddress
    import struct

    ends = [ipaddress.IPv4Address(address).packed for address in (source, destination)]
    octets = 8 + len(data)
    pseudo = b"".join(ends) + struct.pack("!HH", 17, octets)
    datagram = struct.pack("!HHHH", *ports, octets, 0) + data
    checksum = 0xFFFF ^ ones_complement_sum(pseudo + datagram) or 0xFFFF
    datagram = datagram[:6] + checksum.to_bytes(2, "big") + data
    return build_header(*ends, 17, octets, tos=tos, ttl=ttl, flags=flags) + datagram
