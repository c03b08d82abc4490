"""The second decoder by itself: hand-made messages, published vectors, and that it imports nothing of this project."""

from __future__ import annotations

import ast
import hashlib
import hmac
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from decoder import twamp_decoder
from decoder.twamp_decoder import (
    DecodeError,
    cbc_decrypt,
    cbc_encrypt,
    decode_control,
    decode_test,
    keymat_sid_control_secret,
    keymat_sid_test_keys,
    prf,
    prf_plus,
    rfc4656_test_keys,
    rfc7717_secret,
)

ALLOWED = {"collections", "__future__", "dataclasses", "hashlib", "hmac", "struct", "typing", "cryptography"}
AES_KEY = bytes(range(16))
HMAC_KEY = bytes(range(100, 132))
CLIENT_IV = b"client-iv-octets"
SERVER_IV = b"server-iv-octets"
CHALLENGE = b"challenge-octets"
SALT = b"salt-salt-salt-s"
PASSPHRASE = b"correct horse"
SID = bytes.fromhex("c0000202e0000000000000005eed5eed")


def test_imports_nothing_of_this_project() -> None:
    tree = ast.parse(Path(twamp_decoder.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "importlib", "exec", "eval")
    assert names <= ALLOWED
    assert not names & {"ikev2", "ippm", "binding"}


# AES-XCBC-PRF-128: RFC 4434 section 2.1; AES-CMAC-PRF-128: RFC 4615 section 4.
@pytest.mark.parametrize(
    ("name", "key", "output"),
    [
        ("aes128-xcbc", "000102030405060708090a0b0c0d0e0f", "47f51b4564966215b8985c63055ed308"),
        ("aes128-xcbc", "00010203040506070809", "0fa087af7d866e7653434e602fdde835"),
        ("aes128-xcbc", "000102030405060708090a0b0c0d0e0fedcb", "8cd3c93ae598a9803006ffb67c40e9e4"),
        ("aes128-cmac", "000102030405060708090a0b0c0d0e0fedcb", "84a348a4a45d235babfffc0d2b4da09a"),
        ("aes128-cmac", "000102030405060708090a0b0c0d0e0f", "980ae87b5f4c9c5214f5b6a8455e4c2d"),
        ("aes128-cmac", "00010203040506070809", "290d9e112edb09ee141fcf64c0b72f3d"),
    ],
)
def test_prf_of_published_vectors(name: str, key: str, output: str) -> None:
    message = bytes.fromhex("000102030405060708090a0b0c0d0e0f10111213")
    assert prf(name, bytes.fromhex(key), message).hex() == output


def test_cbc_agrees_with_the_library() -> None:
    clear = bytes(range(96))
    encryptor = Cipher(algorithms.AES(AES_KEY), modes.CBC(CLIENT_IV)).encryptor()
    sealed = encryptor.update(clear) + encryptor.finalize()
    assert cbc_encrypt(AES_KEY, CLIENT_IV, clear) == sealed
    assert cbc_decrypt(AES_KEY, CLIENT_IV, sealed) == clear


def test_derivations_are_as_written_down() -> None:
    sk_d, keymat, key_id = b"d" * 32, b"k" * 72, bytes(range(80))
    assert rfc7717_secret("hmac-sha2-256", sk_d) == hmac.digest(sk_d, b"IPPM", "sha256")
    assert keymat_sid_control_secret("hmac-sha2-384", keymat, key_id) == hmac.digest(keymat, key_id[:16], "sha384")
    secret = hmac.digest(keymat, SID, "sha256")
    t1 = hmac.digest(secret, b"TWAMP-Test" + SID + b"\x01", "sha256")
    t2 = hmac.digest(secret, t1 + b"TWAMP-Test" + SID + b"\x02", "sha256")
    assert keymat_sid_test_keys("hmac-sha2-256", keymat, SID) == (t1[:16], (t1 + t2)[16:48])
    assert prf_plus("hmac-sha2-256", secret, b"TWAMP-Test" + SID, 20) == t1[:20]


class Stream:
    """One direction as a sender makes it: CBC with the running IV, HMAC over what went before it."""

    def __init__(self, iv: bytes) -> None:
        self.encryptor = Cipher(algorithms.AES(AES_KEY), modes.CBC(iv)).encryptor()
        self.hmac = hmac.new(HMAC_KEY, digestmod=hashlib.sha1)
        self.octets = b""

    def put(self, clear: bytes) -> None:
        self.hmac.update(clear)
        self.octets += self.encryptor.update(clear)

    def put_hmac(self) -> None:
        self.octets += self.encryptor.update(self.hmac.digest()[:16])
        self.hmac = hmac.new(HMAC_KEY, digestmod=hashlib.sha1)


REQUEST = (
    b"\x05\x04\x00\x00"  # command, IPVN, Conf-Sender, Conf-Receiver
    + bytes(8)  # schedule slots, packets
    + b"\x49\x00\x49\x48"  # ports
    + bytes([192, 0, 2, 1])
    + bytes(12)
    + bytes([192, 0, 2, 2])
    + bytes(12)
    + bytes(16)  # SID
    + b"\x00\x00\x00\x1b"  # padding length
    + b"\xe0\x00\x00\x00\x80\x00\x00\x00"  # start time
    + b"\x00\x00\x00\x02\x00\x00\x00\x00"  # timeout
    + b"\x2e\x00\x00\x00"  # type-P: DSCP 46
    + bytes(8)
)


def conversation(secret: bytes = PASSPHRASE, mode: int = 2, token_key: bytes | None = None) -> tuple[bytes, bytes]:
    """Client and server octets of a session from greeting to stop."""
    greeting = bytes(12) + b"\x00\x00\x00\x8f" + CHALLENGE + SALT + b"\x00\x00\x04\x00" + bytes(12)
    token_key = token_key or hashlib.pbkdf2_hmac("sha1", secret, SALT, 1024, 16)
    token = (
        Cipher(algorithms.AES(token_key), modes.CBC(bytes(16))).encryptor().update(CHALLENGE + AES_KEY + HMAC_KEY)
    )
    set_up = mode.to_bytes(4, "big") + b"alice".ljust(80, b"\0") + token + CLIENT_IV
    client, server = Stream(CLIENT_IV), Stream(SERVER_IV)
    client.put(REQUEST)
    client.put_hmac()
    client.put(b"\x02" + bytes(15))
    client.put_hmac()
    client.put(b"\x03\x00\x00\x00\x00\x00\x00\x01" + bytes(8))
    client.put_hmac()
    server.put(b"\xe0\x00\x00\x00\x00\x00\x00\x01" + bytes(8))
    server.put(b"\x00\x00\x49\x49" + SID + bytes(12))
    server.put_hmac()
    server.put(bytes(16))
    server.put_hmac()
    return set_up + client.octets, greeting + bytes(15) + b"\x00" + SERVER_IV + server.octets


@pytest.mark.parametrize("mode", [2, 4, 8, 2 | 128])
def test_a_whole_conversation(mode: int) -> None:
    client, server = conversation(mode=mode)
    control = decode_control(client, server, PASSPHRASE)
    assert control.mode == mode
    assert (control.aes_key, control.hmac_key) == (AES_KEY, HMAC_KEY)
    assert control.sids == [SID]
    assert control.first_hmac_covers == "start-time block"
    assert control.names == [
        "Server-Greeting",
        "Set-Up-Response",
        "Request-TW-Session",
        "Start-Sessions",
        "Stop-Sessions",
        "Server-Start",
        "Accept-Session",
        "Start-Ack",
    ]
    assert all(message.hmac for message in control.client[1:] + control.server[2:])
    request = control.client[1].fields
    assert request["sender_port"] == 0x4900
    assert request["receiver_port"] == 0x4948
    assert request["receiver_address"] == bytes([192, 0, 2, 2])
    assert request["padding_length"] == 27
    assert request["timeout"] == 2 << 32
    assert request["type_p"] == 46 << 24
    assert control.server[1].fields["start_time"] == 0xE0000000_00000001
    assert control.server[2].fields["port"] == 0x4949
    assert control.client[3].fields["sessions"] == 1


def test_every_octet_of_the_client_stream_is_verified() -> None:
    client, server = conversation()
    for at in range(164, len(client)):
        broken = bytearray(client)
        broken[at] ^= 1
        with pytest.raises(DecodeError):
            decode_control(bytes(broken), server, PASSPHRASE)


def test_every_octet_of_the_server_stream_is_verified() -> None:
    client, server = conversation()
    for at in range(64 + 32, len(server)):
        broken = bytearray(server)
        broken[at] ^= 1
        with pytest.raises(DecodeError):
            decode_control(client, bytes(broken), PASSPHRASE)


def test_a_wrong_secret_is_told_by_the_challenge() -> None:
    client, server = conversation()
    with pytest.raises(DecodeError, match="Challenge"):
        decode_control(client, server, b"wrong")
    with pytest.raises(DecodeError, match="secret"):
        decode_control(client, server, None)


def test_the_other_reading_of_the_token_key() -> None:
    secret = b"a secret of many octets, used as it is"
    client, server = conversation(secret, token_key=secret[:16])
    assert decode_control(client, server, secret, token_key="truncate16").sids == [SID]
    with pytest.raises(DecodeError, match="Challenge"):
        decode_control(client, server, secret)


def test_a_capture_that_ends_early() -> None:
    client, server = conversation()
    control = decode_control(client[:-20], server, PASSPHRASE, strict=False)
    assert control.names[-1] == "Start-Ack"
    assert [message.name for message in control.client] == [
        "Set-Up-Response",
        "Request-TW-Session",
        "Start-Sessions",
    ]


def test_a_server_that_refuses_says_so_in_the_clear() -> None:
    client, server = conversation(mode=2 | 128)
    refusal = server[:64] + bytes(15) + b"\x06" + bytes(32)
    control = decode_control(client[:164], refusal, PASSPHRASE)
    assert control.server[-1].fields["accept"] == 6
    assert control.sids == []


def test_test_keys_are_the_control_keys_under_the_sid() -> None:
    aes, mac = rfc4656_test_keys(AES_KEY, HMAC_KEY, SID)
    assert aes == Cipher(algorithms.AES(SID), modes.ECB()).encryptor().update(AES_KEY)
    assert mac == Cipher(algorithms.AES(SID), modes.CBC(bytes(16))).encryptor().update(HMAC_KEY)


def test_packets_of_unauthenticated_mode_by_hand() -> None:
    packet = bytes.fromhex("00000007e0000000800000008a01") + b"pad"
    fields = decode_test(packet, None, "sender", "open")
    assert fields["sequence_number"] == 7
    assert fields["timestamp"] == 0xE000000080000000
    assert fields["error_estimate"] == {"s": 1, "z": 0, "scale": 10, "multiplier": 1}
    assert fields["padding"] == b"pad"
    reply = bytes.fromhex("00000001e00000010000000000010000e00000009000000000000007e0000000800000008a010000fe")
    fields = decode_test(reply, None, "reflector", 1)
    assert fields["sequence_number"] == 1
    assert fields["receive_timestamp"] == 0xE000000090000000
    assert fields["sender_sequence_number"] == 7
    assert fields["sender_ttl"] == 254
    with pytest.raises(DecodeError):
        decode_test(reply[:40], None, "reflector", 1)
    with pytest.raises(DecodeError, match="Multiplier"):
        decode_test(packet[:13] + b"\0", None, "sender", 1)


@pytest.mark.parametrize("direction", ["sender", "reflector"])
def test_packets_of_the_keyed_modes_by_hand(direction: str) -> None:
    hmac_at = 32 if direction == "sender" else 96
    clear = bytearray(range(hmac_at))
    clear[25] = 1  # Multiplier
    if direction == "reflector":
        clear[73] = 1
    library = Cipher(algorithms.AES(AES_KEY), modes.CBC(bytes(16)))
    tag = hmac.digest(HMAC_KEY, bytes(clear), "sha1")[:16]
    encrypted = library.encryptor().update(bytes(clear)) + tag + b"padding"
    fields = decode_test(encrypted, (AES_KEY, HMAC_KEY), direction, "encrypted")
    assert fields["sequence_number"] == 0x00010203
    assert fields["covered"] == hmac_at
    assert fields["padding"] == b"padding"
    tag = hmac.digest(HMAC_KEY, bytes(clear[:16]), "sha1")[:16]
    authenticated = library.encryptor().update(bytes(clear[:16])) + bytes(clear[16:]) + tag
    assert decode_test(authenticated, (AES_KEY, HMAC_KEY), direction, 2)["timestamp"] == 0x1011121314151617
    with pytest.raises(DecodeError, match="HMAC"):
        decode_test(authenticated, (AES_KEY, HMAC_KEY), direction, 4)
    with pytest.raises(DecodeError, match="HMAC"):
        decode_test(authenticated, (HMAC_KEY[:16], HMAC_KEY), direction, 2)
