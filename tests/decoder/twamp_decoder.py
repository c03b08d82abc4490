"""A second decoder of TWAMP: from captured octets and the shared secret to fields, written from the RFCs' figures.

It shares nothing with the packages of this project and imports none of them (a test sees to that): only hashlib, hmac,
struct and the AES block from `cryptography`; CBC, CMAC and XCBC are spelt out here. It is slow and does not care.
Use from any test: `from decoder.twamp_decoder import decode_control, decode_test`.

    secret = passphrase octets | rfc7717_secret(prf, sk_d) | keymat_sid_control_secret(prf, keymat, key_id)
    control = decode_control(client_octets, server_octets, secret)
    keys = control.test_keys(sid) | keymat_sid_test_keys(prf, keymat, sid)
    fields = decode_test(datagram, keys, "sender" | "reflector", control.mode)

RFC 4656, RFC 5357, RFC 5618, RFC 5938, RFC 6038, RFC 7717, RFC 7750; `keymat-sid` and `skd-sid` are this project's
reading of the 2012 proposal.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

OPEN, AUTHENTICATED, ENCRYPTED, MIXED = 1, 2, 4, 8
SESSION_CONTROL, REFLECT_OCTETS, SYMMETRICAL_SIZE = 16, 32, 64
IKEV2_DERIVED = 128
DSCP_ECN, PTP = 256, 512


class DecodeError(Exception):
    """The octets do not decode, or a check failed; the text says where."""


# AES, one block at a time.


def aes_encrypt_block(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def aes_decrypt_block(key: bytes, block: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    return decryptor.update(block) + decryptor.finalize()


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def cbc_encrypt(key: bytes, iv: bytes, clear: bytes) -> bytes:
    out, previous = b"", iv
    for at in range(0, len(clear), 16):
        previous = aes_encrypt_block(key, xor(clear[at : at + 16], previous))
        out += previous
    return out


def cbc_decrypt(key: bytes, iv: bytes, sealed: bytes) -> bytes:
    out, previous = b"", iv
    for at in range(0, len(sealed), 16):
        block = sealed[at : at + 16]
        out += xor(aes_decrypt_block(key, block), previous)
        previous = block
    return out


def hmac_sha1_128(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA1 truncated to 128 bits. RFC 4656 section 3.2."""
    return hmac.new(key, data, hashlib.sha1).digest()[:16]


# Pseudorandom functions of IKEv2, and what is derived with them.


def _double(block: bytes) -> bytes:
    value = int.from_bytes(block, "big") << 1
    if value >> 128:
        value = (value & ((1 << 128) - 1)) ^ 0x87
    return value.to_bytes(16, "big")


def _aes_mac(key: bytes, data: bytes, whole: bytes, partial: bytes) -> bytes:
    """The CBC-MAC with a masked last block that CMAC and XCBC have in common."""
    blocks = [data[at : at + 16] for at in range(0, len(data), 16)] or [b""]
    last = blocks.pop()
    last = xor(last, whole) if len(last) == 16 else xor((last + b"\x80").ljust(16, b"\0"), partial)
    state = bytes(16)
    for block in [*blocks, last]:
        state = aes_encrypt_block(key, xor(state, block))
    return state


def aes_cmac(key: bytes, data: bytes) -> bytes:
    """RFC 4493."""
    k1 = _double(aes_encrypt_block(key, bytes(16)))
    return _aes_mac(key, data, k1, _double(k1))


def aes_xcbc(key: bytes, data: bytes) -> bytes:
    """RFC 3566."""
    k1, k2, k3 = (aes_encrypt_block(key, bytes([n]) * 16) for n in (1, 2, 3))
    return _aes_mac(k1, data, k2, k3)


def prf(name: str, key: bytes, data: bytes) -> bytes:
    """A PRF of IKEv2 by its name. RFC 7296 section 2.13; for keys not of 16 octets RFC 4434 section 2, RFC 4615."""
    if name.startswith("hmac-"):
        digest = {
            "hmac-sha1": "sha1",
            "hmac-sha2-256": "sha256",
            "hmac-sha2-384": "sha384",
            "hmac-sha2-512": "sha512",
        }
        return hmac.new(key, data, digest[name]).digest()
    if name == "aes128-cmac":
        return aes_cmac(key if len(key) == 16 else aes_cmac(bytes(16), key), data)
    if name == "aes128-xcbc":
        if len(key) > 16:
            key = aes_xcbc(bytes(16), key)
        return aes_xcbc(key.ljust(16, b"\0"), data)
    raise DecodeError(f"no PRF is called {name}")


def prf_plus(name: str, key: bytes, seed: bytes, octets: int) -> bytes:
    """RFC 7296 section 2.13: T1 = prf(K, S | 0x01), Tn = prf(K, Tn-1 | S | n)."""
    out, last, number = b"", b"", 1
    while len(out) < octets:
        last = prf(name, key, last + seed + bytes([number]))
        out += last
        number += 1
    return out[:octets]


def rfc7717_secret(prf_name: str, sk_d: bytes) -> bytes:
    """Shared secret key = prf(SK_d, "IPPM"), the whole output. RFC 7717 section 5.1."""
    return prf(prf_name, sk_d, b"IPPM")


def keymat_sid_control_secret(prf_name: str, k: bytes, key_id: bytes) -> bytes:
    """S_c = prf(K, SPIi | SPIr), the first 16 octets of KeyID; K is KEYMAT (`keymat-sid`) or SK_d (`skd-sid`)."""
    return prf(prf_name, k, key_id[:16])


def keymat_sid_test_keys(prf_name: str, k: bytes, sid: bytes, label: bytes = b"TWAMP-Test") -> tuple[bytes, bytes]:
    """AES and HMAC Session-key: S_t = prf(K, SID); the first 16 and the next 32 octets of prf+(S_t, label | SID)."""
    octets = prf_plus(prf_name, prf(prf_name, k, sid), label + sid, 48)
    return octets[:16], octets[16:]


def rfc4656_test_keys(control_aes: bytes, control_hmac: bytes, sid: bytes) -> tuple[bytes, bytes]:
    """The Control keys under AES with the SID as key: one block, and two blocks of CBC with IV = 0.

    RFC 4656 section 4.1.2, RFC 5357 section 4.2.1.
    """
    return aes_encrypt_block(sid, control_aes), cbc_encrypt(sid, bytes(16), control_hmac)


# TWAMP-Control.


@dataclass
class Message:
    """A message of TWAMP-Control: its name, its fields, where in its stream it starts, whether its HMAC verified.

    `hmac` is None for a message that has none (or open mode, where the field is MBZ).
    """

    name: str
    fields: dict[str, Any]
    offset: int
    hmac: bool | None = None


@dataclass
class Control:
    """A decoded Control connection; `client` and `server` hold each side's messages in order."""

    mode: int
    client: list[Message] = field(default_factory=list)
    server: list[Message] = field(default_factory=list)
    aes_key: bytes = b""
    hmac_key: bytes = b""
    token_key: bytes = b""
    first_hmac_covers: str = ""

    def test_keys(self, sid: bytes) -> tuple[bytes, bytes]:
        """The Test session keys of RFC 4656 section 4.1.2 for one SID."""
        return rfc4656_test_keys(self.aes_key, self.hmac_key, sid)

    @property
    def sids(self) -> list[bytes]:
        """The SIDs of the sessions that the server accepted."""
        return [m.fields["sid"] for m in self.server if m.name == "Accept-Session" and m.fields["accept"] == 0]

    @property
    def names(self) -> list[str]:
        return [message.name for message in self.server[:1] + self.client + self.server[1:]]


def decode_greeting(octets: bytes) -> dict[str, Any]:
    """Unused 12 | Modes 4 | Challenge 16 | Salt 16 | Count 4 | MBZ 12: 64 octets. RFC 4656 section 3.1."""
    need(octets, 64, "Server-Greeting")
    return {
        "modes": int.from_bytes(octets[12:16], "big"),
        "challenge": octets[16:32],
        "salt": octets[32:48],
        "count": int.from_bytes(octets[48:52], "big"),
    }


def decode_set_up_response(octets: bytes) -> dict[str, Any]:
    """Mode 4 | KeyID 80 | Token 64 | Client-IV 16: 164 octets. RFC 4656 section 3.1."""
    need(octets, 164, "Set-Up-Response")
    return {
        "mode": int.from_bytes(octets[0:4], "big"),
        "key_id": octets[4:84],
        "token": octets[84:148],
        "client_iv": octets[148:164],
    }


def decode_server_start(octets: bytes) -> dict[str, Any]:
    """MBZ 15 | Accept 1 | Server-IV 16 | Start-Time 8 | MBZ 8: 48 octets. RFC 4656 section 3.1."""
    need(octets, 48, "Server-Start")
    return {
        "accept": octets[15],
        "server_iv": octets[16:32],
        "start_time": int.from_bytes(octets[32:40], "big"),
        "mbz": octets[0:15] + octets[40:48],
    }


def decode_request_tw_session(octets: bytes, mode: int = 0) -> dict[str, Any]:
    """112 octets. RFC 4656 section 3.5 with the changes of RFC 5357 section 3.5; with Reflect Octets RFC 6038 4.2."""
    need(octets, 112, "Request-TW-Session")
    reflects = mode & REFLECT_OCTETS
    ipvn = octets[1] & 0x0F
    size = 4 if ipvn == 4 else 16
    return {
        "command": octets[0],
        "ipvn": ipvn,
        "conf_sender": octets[2],
        "conf_receiver": octets[3],
        "schedule_slots": int.from_bytes(octets[4:8], "big"),
        "packets": int.from_bytes(octets[8:12], "big"),
        "sender_port": int.from_bytes(octets[12:14], "big"),
        "receiver_port": int.from_bytes(octets[14:16], "big"),
        "sender_address": octets[16 : 16 + size],
        "receiver_address": octets[32 : 32 + size],
        "sid": octets[48:64],
        "padding_length": int.from_bytes(octets[64:68], "big"),
        "start_time": int.from_bytes(octets[68:76], "big"),
        "timeout": int.from_bytes(octets[76:84], "big"),
        "type_p": int.from_bytes(octets[84:88], "big"),
        "octets_to_be_reflected": octets[88:90] if reflects else b"",
        "padding_to_reflect": int.from_bytes(octets[90:92], "big") if reflects else 0,
        "mbz": octets[92:96] if reflects else octets[88:96],
    }


def decode_accept_session(octets: bytes, mode: int = 0) -> dict[str, Any]:
    """Accept 1 | MBZ 1 | Port 2 | SID 16 | MBZ 12 | HMAC 16: 48 octets. RFC 4656 section 3.5.

    With Reflect Octets the MBZ 12 is Reflected octets 2 | Server octets 2 | MBZ 8. RFC 6038 section 4.3.
    """
    need(octets, 48, "Accept-Session")
    reflects = mode & REFLECT_OCTETS
    return {
        "accept": octets[0],
        "port": int.from_bytes(octets[2:4], "big"),
        "sid": octets[4:20],
        "reflected_octets": octets[20:22] if reflects else b"",
        "server_octets": octets[22:24] if reflects else b"",
        "mbz": octets[1:2] + (octets[24:32] if reflects else octets[20:32]),
    }


def decode_n_sessions(octets: bytes, mode: int = 0) -> dict[str, Any]:
    """7, 8, 9 or 10 | Accept 1 (in 8 and 10) | MBZ | Number of Sessions 4 | SIDs 16 each | HMAC 16. RFC 5938."""
    need(octets, 32, "a message about N sessions")
    number = int.from_bytes(octets[12:16], "big")
    need(octets, 32 + 16 * number, "a message about N sessions")
    is_ack = octets[0] in (8, 10)
    return {
        "command": octets[0],
        "accept": octets[1] if is_ack else None,
        "sids": [octets[16 + 16 * at : 32 + 16 * at] for at in range(number)],
        "mbz": octets[2:12] if is_ack else octets[1:12],
    }


def n_sessions_octets(octets: bytes) -> int:
    """The whole length of such a message, from its first block."""
    return 32 + 16 * int.from_bytes(octets[12:16].ljust(4, b"\0"), "big")


def decode_start_sessions(octets: bytes, mode: int = 0) -> dict[str, Any]:
    """2 | MBZ 15 | HMAC 16: 32 octets. RFC 4656 section 3.7."""
    need(octets, 32, "Start-Sessions")
    return {"command": octets[0], "mbz": octets[1:16]}


def decode_start_ack(octets: bytes, mode: int = 0) -> dict[str, Any]:
    """Accept 1 | MBZ 15 | HMAC 16: 32 octets. RFC 4656 section 3.7."""
    need(octets, 32, "Start-Ack")
    return {"accept": octets[0], "mbz": octets[1:16]}


def decode_stop_sessions(octets: bytes, mode: int = 0) -> dict[str, Any]:
    """3 | Accept 1 | MBZ 2 | Number of Sessions 4 | MBZ 8 | HMAC 16: 32 octets. RFC 5357 section 3.8."""
    need(octets, 32, "Stop-Sessions")
    return {
        "command": octets[0],
        "accept": octets[1],
        "sessions": int.from_bytes(octets[4:8], "big"),
        "mbz": octets[2:4] + octets[8:16],
    }


def always(size: int) -> Callable[[bytes], int]:
    return lambda octets: size


COMMANDS: dict[int, tuple[str, Callable[[bytes], int], Callable[[bytes, int], dict[str, Any]]]] = {
    2: ("Start-Sessions", always(32), decode_start_sessions),
    3: ("Stop-Sessions", always(32), decode_stop_sessions),
    5: ("Request-TW-Session", always(112), decode_request_tw_session),
    7: ("Start-N-Sessions", n_sessions_octets, decode_n_sessions),
    9: ("Stop-N-Sessions", n_sessions_octets, decode_n_sessions),
}
ANSWERS: dict[str, tuple[str, Callable[[bytes], int], Callable[[bytes, int], dict[str, Any]]]] = {
    "Request-TW-Session": ("Accept-Session", always(48), decode_accept_session),
    "Start-Sessions": ("Start-Ack", always(32), decode_start_ack),
    "Start-N-Sessions": ("Start-N-Ack", n_sessions_octets, decode_n_sessions),
    "Stop-N-Sessions": ("Stop-N-Ack", n_sessions_octets, decode_n_sessions),
}


def need(octets: bytes, count: int, name: str) -> None:
    if len(octets) < count:
        raise DecodeError(f"{name}: {len(octets)} octets of {count}")


def derive_token_key(secret: bytes, salt: bytes, count: int, token_key: str = "pbkdf2") -> bytes:
    """The key that encrypts the Token. RFC 4656 section 3.1; `truncate16` is the other reading of RFC 7717."""
    if token_key == "truncate16":
        return secret[:16]
    return hashlib.pbkdf2_hmac("sha1", secret, salt, count, 16)


def decode_control(
    client: bytes, server: bytes, secret: bytes | None = None, *, token_key: str = "pbkdf2", strict: bool = True
) -> Control:
    """Decodes and verifies both directions of a TWAMP-Control connection, from their first octet on.

    `client` and `server` are the octets of each TCP direction in order. `secret` is the passphrase, or the octets that
    take its place (RFC 7717); None for open mode. A stream that ends in the middle of a message ends the decoding there
    when not `strict`. DecodeError when the Challenge in the Token or any HMAC does not verify.
    """
    greeting = decode_greeting(server)
    control = Control(0)
    control.server.append(Message("Server-Greeting", greeting, 0))
    if not client and not strict:
        return control
    set_up = decode_set_up_response(client)
    control.mode = mode = set_up["mode"]
    control.client.append(Message("Set-Up-Response", set_up, 0))
    keyed = bool(mode & (AUTHENTICATED | ENCRYPTED | MIXED))
    if keyed:
        open_token(control, greeting, set_up, secret, token_key)
    if len(server) == 64 and not strict:
        return control
    decode_streams(control, client, server, keyed, strict)
    return control


def open_token(
    control: Control, greeting: dict[str, Any], set_up: dict[str, Any], secret: bytes | None, token_key: str
) -> None:
    """Token = AES-CBC, IV = 0, of Challenge 16 | AES Session-key 16 | HMAC Session-key 32. RFC 4656 section 3.1."""
    if secret is None:
        raise DecodeError("this mode needs the shared secret")
    control.token_key = derive_token_key(secret, greeting["salt"], greeting["count"], token_key)
    token = cbc_decrypt(control.token_key, bytes(16), set_up["token"])
    if token[:16] != greeting["challenge"]:
        raise DecodeError("Token: the Challenge in it is not the one of the greeting (wrong secret?)")
    control.aes_key, control.hmac_key = token[16:32], token[32:64]


def decode_streams(control: Control, client: bytes, server: bytes, keyed: bool, strict: bool) -> None:
    """All after the set-up: each direction one CBC stream from the block after its IV. RFC 4656 section 3.4."""
    set_up = control.client[0].fields
    start = decode_server_start(server[64:])
    control.server.append(Message("Server-Start", start, 64))
    if start["accept"] != 0:
        return  # what follows is not encrypted, and nothing follows
    client_clear, server_clear = client[164:], server[64 + 48 :]
    covered = b""
    if keyed:
        client_clear = cbc_decrypt(control.aes_key, set_up["client_iv"], whole_blocks(client_clear, strict))
        stream = cbc_decrypt(control.aes_key, start["server_iv"], whole_blocks(server[64 + 32 :], strict))
        start_block, server_clear = stream[:16], stream[16:]
        start["start_time"] = int.from_bytes(start_block[:8], "big")
        start["mbz"] = server[64:79] + start_block[8:16]
        covered = start_block
    decode_commands(control, client_clear, keyed, strict)
    decode_answers(control, server_clear, keyed, strict, covered, server[64:96] + covered)


def decode_commands(control: Control, clear: bytes, keyed: bool, strict: bool) -> None:
    """The client's messages; their length is known from the first octet. RFC 5357 section 3.4."""
    at = 0
    while at < len(clear):
        if clear[at] not in COMMANDS:
            raise DecodeError(f"command {clear[at]} at octet {164 + at} of the client")
        name, octets_of, decode = COMMANDS[clear[at]]
        size = octets_of(clear[at : at + 16])
        octets = clear[at : at + size]
        if len(octets) < size and not strict:
            return
        message = Message(name, decode(octets, control.mode), 164 + at)
        if keyed:
            message.hmac = hmac_sha1_128(control.hmac_key, octets[:-16]) == octets[-16:]
            if not message.hmac:
                raise DecodeError(f"{name} at octet {164 + at} of the client: HMAC does not verify")
        control.client.append(message)
        at += size


def decode_answers(
    control: Control, clear: bytes, keyed: bool, strict: bool, covered: bytes, covered_otherwise: bytes
) -> None:
    """The server's answers, in the order of the client's commands.

    An HMAC covers all since the one before it: the first one also the Start-Time block of Server-Start (RFC 5357
    section 3.2). "Once encryption is set up" (RFC 4656 section 3.2) leaves out what was sent in the clear; the other
    reading, the whole of Server-Start, is recognized and named in `first_hmac_covers`.
    """
    at = 0
    asked = [(message.name, list(message.fields.get("sids", ()))) for message in control.client[1:]]
    while asked:
        command, sids = asked.pop(0)
        if command not in ANSWERS or at >= len(clear):
            continue
        name, octets_of, decode = ANSWERS[command]
        size = octets_of(clear[at : at + 16])
        octets = clear[at : at + size]
        if len(octets) < size and not strict:
            return
        message = Message(name, decode(octets, control.mode), 112 + at)
        # One command about N sessions may have several answers, each about some of them. RFC 5938 section 3.3.
        answered = message.fields.get("sids", ())
        left = [sid for sid in sids if sid not in answered]
        if left:
            asked.insert(0, (command, left))
        if keyed:
            message.hmac = hmac_sha1_128(control.hmac_key, covered + octets[:-16]) == octets[-16:]
            if message.hmac and covered:
                control.first_hmac_covers = "start-time block"
            elif not message.hmac and covered:
                message.hmac = hmac_sha1_128(control.hmac_key, covered_otherwise + octets[:-16]) == octets[-16:]
                control.first_hmac_covers = "whole Server-Start"
            if not message.hmac:
                raise DecodeError(f"{name} at octet {112 + at} of the server: HMAC does not verify")
            covered = b""
        control.server.append(message)
        at += size
    if strict and at != len(clear):
        raise DecodeError(f"{len(clear) - at} octets of the server answer no command")


def whole_blocks(octets: bytes, strict: bool) -> bytes:
    rest = len(octets) % 16
    if rest and strict:
        raise DecodeError(f"an encrypted stream of {len(octets)} octets is no whole number of blocks")
    return octets[: len(octets) - rest]


# TWAMP-Test.


def decode_test(packet: bytes, keys: tuple[bytes, bytes] | None, direction: str, mode: int | str) -> dict[str, Any]:
    """The fields of a test packet; DecodeError when it is short, its HMAC does not verify, or a Multiplier is zero.

    `keys` are the AES and HMAC Session-key of Test; `direction` is `sender` or `reflector`; `mode` a word or a Mode.
    `verified` in the result is True when an HMAC was checked; `covered` is how many octets it covers.
    RFC 4656 section 4.1.2, RFC 5357 section 4.2.1.
    """
    word = mode_word(mode)
    if direction not in ("sender", "reflector"):
        raise DecodeError(f"no direction is called {direction}")
    if word == "open":
        return decode_sender_open(packet) if direction == "sender" else decode_reflector_open(packet)
    if keys is None:
        raise DecodeError("this mode needs the keys of the session")
    hmac_at = 32 if direction == "sender" else 96
    need(packet, hmac_at + 16, f"{direction} packet")
    covered = 16 if word == "authenticated" else hmac_at
    aes_key, hmac_key = keys
    if word == "authenticated":
        clear = aes_decrypt_block(aes_key, packet[:16])
    else:
        clear = cbc_decrypt(aes_key, bytes(16), packet[:covered])
    if hmac_sha1_128(hmac_key, clear) != packet[hmac_at : hmac_at + 16]:
        raise DecodeError(f"{direction} packet: HMAC does not verify")
    whole = clear + packet[covered:]
    fields = decode_sender_secured(whole) if direction == "sender" else decode_reflector_secured(whole)
    return fields | {"verified": True, "covered": covered}


def mode_word(mode: int | str) -> str:
    """`open`, `authenticated` or `encrypted`; test packets of mixed mode are open. RFC 5618 section 2."""
    if isinstance(mode, str):
        return {"open": "open", "mixed": "open", "authenticated": "authenticated", "encrypted": "encrypted"}[mode]
    return "encrypted" if mode & ENCRYPTED else "authenticated" if mode & AUTHENTICATED else "open"


def decode_error_estimate(value: int) -> dict[str, Any]:
    """S 1 | Z 1 | Scale 6 | Multiplier 8. RFC 4656 section 4.1.2."""
    if value & 0xFF == 0:
        raise DecodeError("Multiplier is zero")
    return {"s": value >> 15, "z": value >> 14 & 1, "scale": value >> 8 & 0x3F, "multiplier": value & 0xFF}


def decode_sender_open(packet: bytes) -> dict[str, Any]:
    need(packet, 14, "sender packet")
    sequence, timestamp, error = struct.unpack("!IQH", packet[:14])
    return {
        "sequence_number": sequence,
        "timestamp": timestamp,
        "error_estimate": decode_error_estimate(error),
        "padding": packet[14:],
        "verified": False,
        "covered": 0,
    }


def decode_sender_secured(packet: bytes) -> dict[str, Any]:
    return {
        "sequence_number": int.from_bytes(packet[0:4], "big"),
        "timestamp": int.from_bytes(packet[16:24], "big"),
        "error_estimate": decode_error_estimate(int.from_bytes(packet[24:26], "big")),
        "mbz": packet[4:16] + packet[26:32],
        "hmac": packet[32:48],
        "padding": packet[48:],
    }


def decode_reflector_open(packet: bytes) -> dict[str, Any]:
    need(packet, 41, "reflector packet")
    return {
        "sequence_number": int.from_bytes(packet[0:4], "big"),
        "timestamp": int.from_bytes(packet[4:12], "big"),
        "error_estimate": decode_error_estimate(int.from_bytes(packet[12:14], "big")),
        "receive_timestamp": int.from_bytes(packet[16:24], "big"),
        "sender_sequence_number": int.from_bytes(packet[24:28], "big"),
        "sender_timestamp": int.from_bytes(packet[28:36], "big"),
        "sender_error_estimate": decode_error_estimate(int.from_bytes(packet[36:38], "big")),
        "sender_ttl": packet[40],
        "mbz": packet[14:16] + packet[38:40],
        "padding": packet[41:],
        "verified": False,
        "covered": 0,
    }


def decode_reflector_secured(packet: bytes) -> dict[str, Any]:
    return {
        "sequence_number": int.from_bytes(packet[0:4], "big"),
        "timestamp": int.from_bytes(packet[16:24], "big"),
        "error_estimate": decode_error_estimate(int.from_bytes(packet[24:26], "big")),
        "receive_timestamp": int.from_bytes(packet[32:40], "big"),
        "sender_sequence_number": int.from_bytes(packet[48:52], "big"),
        "sender_timestamp": int.from_bytes(packet[64:72], "big"),
        "sender_error_estimate": decode_error_estimate(int.from_bytes(packet[72:74], "big")),
        "sender_ttl": packet[80],
        "mbz": packet[4:16] + packet[26:32] + packet[40:48] + packet[52:64] + packet[74:80] + packet[81:96],
        "hmac": packet[96:112],
        "padding": packet[112:],
    }


# What RFC 6038 and RFC 7750 make of the octets behind a test packet's fields.


def decode_features(
    fields: dict[str, Any], direction: str, mode: int, padding_to_reflect: int = 0
) -> dict[str, Any]:
    """`fields` of `decode_test` with what the features in `mode` add, and `padding` without it.

    `sender_dscp_ecn` (RFC 7750 figures 2 and 3), `symmetrical_mbz` (RFC 6038 sections 5.1.4 and 5.1.5, RFC 7750
    figure 4; in the keyed modes 64 octets, by RFC 5357's own figure), and `reflected`, the padding that is to come
    back, or has come.
    """
    found = dict(fields)
    padding = found["padding"]
    is_open = mode_word(mode) == "open"
    if direction == "reflector" and mode & DSCP_ECN:
        if is_open:
            need(padding, 3, "S-DSCP-ECN")
            found["sender_dscp_ecn"], found["mbz"] = padding[0], found["mbz"] + padding[1:3]
            padding = padding[3:]
        else:
            # Sender TTL is the octet before it: MBZ 12, 6, 8, 12 and 6 stand before that.
            at = 12 + 6 + 8 + 12 + 6
            found["sender_dscp_ecn"] = found["mbz"][at]
            found["mbz"] = found["mbz"][:at] + found["mbz"][at + 1 :]
    if direction == "sender" and mode & SYMMETRICAL_SIZE:
        size = (28 if mode & DSCP_ECN else 27) if is_open else 64
        need(padding, size, "MBZ of Symmetrical Size")
        found["symmetrical_mbz"], padding = padding[:size], padding[size:]
    if mode & REFLECT_OCTETS:
        need(padding, padding_to_reflect, "padding to reflect")
        found["reflected"], padding = padding[:padding_to_reflect], padding[padding_to_reflect:]
    found["padding"] = padding
    return found
