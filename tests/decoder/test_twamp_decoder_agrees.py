"""The second decoder reads what our implementation writes: Control both ways and Test packets, in every mode."""

from __future__ import annotations

import pytest
from decoder.twamp_decoder import DecodeError, decode_control, decode_test, rfc4656_test_keys
from ippm_control_peers import WISH, Pair, SessionAccepted, pair_in_mode

from ippm.crypto import SessionKeys, test_session_keys
from ippm.crypto_packet import TestProtection
from ippm.iana import Mode

SECRETS = {
    Mode.OPEN: None,
    Mode.AUTHENTICATED: b"correct horse",
    Mode.ENCRYPTED: b"correct horse",
    Mode.MIXED: b"correct horse",
    Mode.AUTHENTICATED | Mode.IKEV2_DERIVED: b"\x00\n\r shared secret \xff",
    Mode.ENCRYPTED | Mode.IKEV2_DERIVED: b"\x00\n\r shared secret \xff",
}


def session_from_greeting_to_stop(mode: Mode) -> tuple[Pair, SessionAccepted]:
    pair = pair_in_mode(mode)
    pair.run()
    pair.client.request_session(WISH, pair.now)
    pair.run()
    accepted = next(event for event in pair.client_events() if isinstance(event, SessionAccepted))
    pair.client.start_sessions(pair.now)
    pair.run()
    pair.client.stop_sessions(pair.now)
    pair.run()
    return pair, accepted


@pytest.mark.req("rfc5357-s2-01", "rfc5618-s3.1-03")
@pytest.mark.parametrize("mode", SECRETS, ids=repr)
def test_a_control_connection_of_ours(mode: Mode) -> None:
    pair, accepted = session_from_greeting_to_stop(mode)
    control = decode_control(pair.to_server, pair.to_client, SECRETS[mode])
    assert control.mode == mode
    assert [message.name for message in control.client] == [
        "Set-Up-Response",
        "Request-TW-Session",
        "Start-Sessions",
        "Stop-Sessions",
    ]
    assert [message.name for message in control.server] == [
        "Server-Greeting",
        "Server-Start",
        "Accept-Session",
        "Start-Ack",
    ]
    assert control.sids == [accepted.session.sid]
    assert control.client[1].fields["type_p"] == WISH.dscp << 24
    assert control.client[1].fields["padding_length"] == WISH.padding_octets
    for message in control.client + control.server:
        assert not any(message.fields.get("mbz", b""))
    if mode.keyed:
        assert control.first_hmac_covers == "start-time block"
        assert all(message.hmac for message in control.client[1:] + control.server[2:])
        keys = accepted.session.keys
        if mode.security is not Mode.MIXED:
            assert keys is not None
            assert control.test_keys(control.sids[0]) == (keys.aes, keys.hmac)


@pytest.mark.req("rfc5618-s3.1-01", "rfc5618-s3.1-02", "rfc5618-s3.1-04")
def test_mixed_mode_is_encrypted_control_and_open_test() -> None:
    pair, accepted = session_from_greeting_to_stop(Mode.MIXED)
    control = decode_control(pair.to_server, pair.to_client, SECRETS[Mode.MIXED])
    assert all(message.hmac for message in control.client[1:] + control.server[2:])
    assert accepted.session.keys is None
    (opened,) = pair.hooks.opened
    for session in (accepted.session, opened):
        buffer = bytearray(14)
        TestProtection.of(int(session.mode), session.keys).pack_sender_into(buffer, 7, 0xE000000112345678, 0x8A01)
        assert buffer.hex() == "00000007" + "e000000112345678" + "8a01"


def test_our_test_session_keys() -> None:
    control, sid = SessionKeys(bytes(range(16)), bytes(range(50, 82))), bytes(range(200, 216))
    keys = test_session_keys(control, sid)
    assert rfc4656_test_keys(control.aes, control.hmac, sid) == (keys.aes, keys.hmac)


@pytest.mark.req("rfc5357-s4.2.1-04", "rfc5357-s4.2.1-08", "rfc5357-s4.2.1-09", "rfc5357-s4.2-04", "rfc5357-s2-01")
@pytest.mark.parametrize("mode", [1, 2, 4])
def test_our_test_packets(mode: int) -> None:
    keys = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
    protection = TestProtection.of(mode, keys)
    decoder_keys = (keys.aes, keys.hmac)
    buffer = bytearray(160)
    buffer[-48:] = b"x" * 48
    for sequence in (0, 1, 1, 0xFFFFFFFF):
        protection.pack_sender_into(buffer, sequence, 0xE000000112345678, 0x8A01)
        fields = decode_test(bytes(buffer), decoder_keys, "sender", mode)
        assert fields["sequence_number"] == sequence
        assert fields["timestamp"] == 0xE000000112345678
        assert fields["error_estimate"] == {"s": 1, "z": 0, "scale": 10, "multiplier": 1}
        assert not any(fields.get("mbz", b""))
        assert fields["padding"].endswith(b"x" * 48)
        protection.pack_reflector_into(
            buffer, sequence, 0xE000000212345678, 0x0503, 0xE000000312345678, (9, 0xE000000412345678, 0x8107), 63
        )
        fields = decode_test(bytes(buffer), decoder_keys, "reflector", mode)
        assert fields["sequence_number"] == sequence
        assert fields["timestamp"] == 0xE000000212345678
        assert fields["receive_timestamp"] == 0xE000000312345678
        assert fields["sender_sequence_number"] == 9
        assert fields["sender_timestamp"] == 0xE000000412345678
        assert fields["sender_error_estimate"] == {"s": 1, "z": 0, "scale": 1, "multiplier": 7}
        assert fields["sender_ttl"] == 63
        assert not any(fields["mbz"])
        assert fields["padding"].endswith(b"x" * 48)
        assert fields["verified"] == (mode != 1)
    if mode != 1:
        with pytest.raises(DecodeError):
            decode_test(bytes(buffer), (keys.hmac[:16], keys.hmac), "reflector", mode)
