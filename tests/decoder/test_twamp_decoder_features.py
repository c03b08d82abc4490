"""The second decoder reads what our roles write with the features of RFC 5938, 6038, 7750 and 8186, in every mode."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations

import pytest
from decoder.twamp_decoder import decode_control, decode_features, decode_test
from ippm_control_peers import WISH, Pair, SessionAccepted, passphrases

from ippm.core.control_client import ControlClientConfig
from ippm.core.server_policy import ControlServerConfig
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.crypto import SessionKeys
from ippm.iana import FEATURE_BITS, Mode

KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
SECURITY = [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED]
T1, T2, T3 = 0xE0000000_10000000, 0xE0000000_20000000, 0xE0000000_30000000
UTC_OFFSET_S = 37
POOL = bytes((7 * at + 1) % 251 for at in range(5000))
SERVER_OCTETS = 0xABCD
PACKET_FEATURES = [Mode.REFLECT_OCTETS, Mode.SYMMETRICAL_SIZE, Mode.DSCP_ECN_MONITORING, Mode.PTP_TIMESTAMPS]
COMBINATIONS = [
    sum(chosen, Mode(0))
    for chosen in chain.from_iterable(
        combinations(PACKET_FEATURES, size) for size in range(len(PACKET_FEATURES) + 1)
    )
]


def ptp(ntp: int) -> int:
    """The truncated PTP stamp of an NTP one, computed here once more, with fractions."""
    seconds = (ntp >> 32) - 2_208_988_800 + UTC_OFFSET_S
    return seconds << 32 | round((ntp & 0xFFFFFFFF) * 10**9 / 2**32)


@pytest.mark.req(
    "rfc6038-s1-01",
    "rfc6038-s1-03",
    "rfc6038-s3-01",
    "rfc6038-s3-02",
    "rfc6038-s4.2-04",
    "rfc6038-s4.3-07",
    "rfc6038-s4.3-08",
    "rfc6038-s5.1.2-01",
    "rfc6038-s5.1.2-03",
    "rfc6038-s5.1.2-04",
    "rfc6038-s5.1.4-01",
    "rfc6038-s5.1.5-01",
    "rfc6038-s5.2-01",
    "rfc6038-s5.2-02",
    "rfc6038-s5.2.1-01",
    "rfc6038-s5.2.1-02",
    "rfc6038-s5.2.1-03",
    "rfc6038-s5.2.1-04",
    "rfc6038-s5.2.1-05",
    "rfc6038-s5.2.1-06",
    "rfc6038-s5.2.2-01",
    "rfc6038-s5.2.2-02",
    "rfc6038-s5.2.3-01",
    "rfc6038-s5.2.3-02",
)
@pytest.mark.parametrize("features", COMBINATIONS, ids=repr)
@pytest.mark.parametrize("security", SECURITY, ids=repr)
def test_packets_of_both_directions(security: Mode, features: Mode) -> None:
    mode = int(security | features)
    keys = None if security in (Mode.OPEN, Mode.MIXED) else KEYS
    decoder_keys = None if keys is None else (keys.aes, keys.hmac)
    reflects, monitored, has_ptp = (
        bool(features & bit) for bit in (Mode.REFLECT_OCTETS, Mode.DSCP_ECN_MONITORING, Mode.PTP_TIMESTAMPS)
    )
    padding, reflected = 100, 20 if reflects else 0
    ends = {"local": ("192.0.2.1", 18700), "remote": ("192.0.2.2", 18760)}
    shared = {
        "sid": bytes(16),
        "mode": mode,
        "keys": keys,
        "reflected_octets": reflected,
        "utc_offset_s": UTC_OFFSET_S,
    }
    sender = SessionSender(
        SenderPlan(**shared, **ends, count=2, padding_octets=padding, server_octets=SERVER_OCTETS),  # type: ignore[arg-type]
        POOL,
    )
    reflector = SessionReflector(
        ReflectorPlan(**shared, local=ends["remote"], remote=ends["local"]),  # type: ignore[arg-type]
        lambda: T3,
        0x8A01,
    )
    reflector.start(0)
    for sequence in range(2):
        sender.prepare(sequence)
        request = bytes(sender.pack(sequence, T1 + sequence, 0x0503))
        fields = decode_features(decode_test(request, decoder_keys, "sender", mode), "sender", mode, reflected)
        assert fields["sequence_number"] == sequence
        assert fields["timestamp"] == (ptp(T1 + sequence) if has_ptp else T1 + sequence)
        assert fields["error_estimate"] == {"s": 0, "z": int(has_ptp), "scale": 5, "multiplier": 3}
        assert not any(fields.get("symmetrical_mbz", b"") + fields.get("mbz", b""))
        start = 61 * sequence
        expected = POOL[start : start + padding]
        if reflects:
            expected = SERVER_OCTETS.to_bytes(2, "big") + expected[2:]
        assert fields.get("reflected", b"") + fields["padding"] == expected

        reply = bytes(reflector.handle(request, 63, T2, ends["local"], 46 << 2 | 1) or b"")
        assert len(reply) == len(request)
        answer = decode_features(decode_test(reply, decoder_keys, "reflector", mode), "reflector", mode, reflected)
        stamps = [ptp(T3), ptp(T2), ptp(T1 + sequence)] if has_ptp else [T3, T2, T1 + sequence]
        assert [answer[n] for n in ("timestamp", "receive_timestamp", "sender_timestamp")] == stamps
        assert answer["error_estimate"] == {"s": 1, "z": int(has_ptp), "scale": 10, "multiplier": 1}
        assert answer["sender_error_estimate"] == fields["error_estimate"]
        assert (answer["sender_sequence_number"], answer["sender_ttl"]) == (sequence, 63)
        assert answer.get("sender_dscp_ecn") == (46 << 2 | 1 if monitored else None)
        assert not any(answer["mbz"])
        # The same octets come back, and the padding with the highest numbers is cut off.
        assert answer.get("reflected", b"") == expected[:reflected]
        back = answer.get("reflected", b"") + answer["padding"]
        assert expected.startswith(back)

        assert sender.handle_reply(reply, 62, T1 + sequence + (1 << 20), 46 << 2)
        records = sender.records
        assert (abs(records.t2[sequence] - T2), abs(records.t3[sequence] - T3)) <= (4, 4)
        assert records.t1[sequence] == T1 + sequence
        assert records.reflector_dscp_ecn[sequence] == (46 << 2 | 1 if monitored else 0)
        assert records.reply_dscp_ecn[sequence] == 46 << 2


def pair_with(security: Mode, features: Mode, **server: object) -> Pair:
    provider = passphrases() if security.keyed else None
    pair = Pair(
        ControlClientConfig(security, features=features),
        ControlServerConfig(count=1024, features=FEATURE_BITS, **server),  # type: ignore[arg-type]
        provider,
        provider,
    )
    pair.run()
    return pair


@pytest.mark.req(
    "rfc5938-s1-01",
    "rfc5938-s1-03",
    "rfc5938-s2-01",
    "rfc5938-s2-02",
    "rfc5938-s3.1-02",
    "rfc5938-s3.1-03",
    "rfc5938-s3.1-04",
    "rfc5938-s3.1-05",
    "rfc5938-s3.2-01",
    "rfc5938-s3.2-03",
    "rfc5938-s3.2-04",
    "rfc5938-s3.2-06",
    "rfc5938-s3.2-08",
    "rfc5938-s3.3-01",
    "rfc5938-s3.3-04",
    "rfc5938-s3.4-01",
    "rfc5938-s3.4-02",
    "rfc5938-s3.4-05",
    "rfc5938-s3.4-06",
    "rfc5938-s3.4-08",
    "rfc5938-s3.5-01",
    "rfc5938-s3.5-02",
    "rfc5938-s3.5-05",
    "rfc6038-s4.1-01",
    "rfc6038-s4.2-01",
    "rfc6038-s4.2-02",
    "rfc6038-s4.2-03",
    "rfc6038-s4.3-01",
    "rfc6038-s4.3-02",
    "rfc6038-s4.3-03",
    "rfc6038-s4.3-04",
    "rfc6038-s4.3-06",
    "rfc6038-s5.1.2-02",
)
@pytest.mark.parametrize("security", SECURITY, ids=repr)
def test_a_control_connection_with_every_feature(security: Mode) -> None:
    """Three sessions; two start, one stops, the third starts with one that is started already, and all stop."""
    pair = pair_with(security, FEATURE_BITS, server_octets=SERVER_OCTETS)
    for number in range(3):
        wish = replace(WISH, padding_octets=110, reflected_octets=20, octets_to_be_reflected=0x1230 + number)
        pair.client.request_session(wish, pair.now)
    pair.run()
    sessions = [event.session for event in pair.client_events() if isinstance(event, SessionAccepted)]
    sids = [session.sid for session in sessions]
    assert [session.server_octets for session in sessions] == [SERVER_OCTETS] * 3
    assert [session.sid for session in pair.hooks.opened] == sids
    assert {session.reflected_octets for session in pair.hooks.opened} == {20}
    pair.client.start_sessions(pair.now, sids[:2])
    pair.client.start_sessions(pair.now, sids[2:])  # without waiting for the first acknowledgement
    pair.run()
    pair.client.stop_sessions(pair.now, sids=sids[:1])
    pair.run()
    pair.client.stop_sessions(pair.now)
    pair.run()
    secret = b"correct horse" if security.keyed else None
    control = decode_control(pair.to_server, pair.to_client, secret)
    assert control.server[0].fields["modes"] & int(FEATURE_BITS) == int(FEATURE_BITS)
    assert control.mode == security | FEATURE_BITS
    assert [message.name for message in control.client[1:]] == (
        ["Request-TW-Session"] * 3 + ["Start-N-Sessions"] * 2 + ["Stop-N-Sessions"] * 2
    )
    assert [message.name for message in control.server[2:]] == (
        ["Accept-Session"] * 3 + ["Start-N-Ack"] * 2 + ["Stop-N-Ack"] * 2
    )
    for number in range(3):
        request, answer = control.client[1 + number].fields, control.server[2 + number].fields
        assert request["octets_to_be_reflected"] == answer["reflected_octets"] == bytes([0x12, 0x30 + number])
        assert request["padding_to_reflect"] == 20
        assert answer["server_octets"] == SERVER_OCTETS.to_bytes(2, "big")
    assert [message.fields["sids"] for message in control.client[4:]] == [sids[:2], sids[2:], sids[:1], sids[1:]]
    assert [message.fields["sids"] for message in control.server[5:]] == [sids[:2], sids[2:], sids[:1], sids[1:]]
    assert [message.fields["accept"] for message in control.server[5:]] == [0] * 4
    for message in control.client + control.server:
        assert not any(message.fields.get("mbz", b""))
    if security.keyed:
        assert all(message.hmac for message in control.client[1:] + control.server[2:])
