"""Both ends' view of one hand-made Child SA pair."""

from __future__ import annotations

from collections.abc import Sequence

from ikev2.core.child_sa import ChildSaParameters, UdpEncap
from ikev2.core.types import Mode, Role
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite, parse_esp_proposal
from ikev2.wire.payloads.ts import TrafficSelector

ADDRESS_A, ADDRESS_B = "192.0.2.1", "192.0.2.2"


def octets(n: int, seed: int) -> bytes:
    return bytes((seed + i) & 0xFF for i in range(n))


def child_pair(
    keyword: str = "aes128gcm16",
    mode: Mode = Mode.TUNNEL,
    *,
    a: str = ADDRESS_A,
    b: str = ADDRESS_B,
    spi_a: int = 0x1000A,
    spi_b: int = 0x1000B,
    ts_a: Sequence[TrafficSelector] | None = None,
    ts_b: Sequence[TrafficSelector] | None = None,
    encap: bool = False,
    reqid: int = 1,
    seed: int = 0,
    replay_window: int = 64,
) -> tuple[ChildSaParameters, ChildSaParameters]:
    """(A's parameters, B's): A is the initiator and receives on `spi_a`; the keys follow from `seed`."""
    suite = EspSuite.from_proposal(parse_esp_proposal(keyword))
    keys = suite.split_keymat(octets(suite.keymat_octets, seed))
    local_ts = tuple(ts_a or (TrafficSelector.from_network(a),))
    remote_ts = tuple(ts_b or (TrafficSelector.from_network(b),))

    def end(role: Role) -> ChildSaParameters:
        initiator = role is Role.INITIATOR
        (encr_out, integ_out), (encr_in, integ_in) = (
            ((keys.encr_i, keys.integ_i), (keys.encr_r, keys.integ_r))
            if initiator
            else ((keys.encr_r, keys.integ_r), (keys.encr_i, keys.integ_i))
        )

        def maybe(key: SecretOctets) -> SecretOctets | None:
            return key if suite.integ is not None else None

        return ChildSaParameters(
            name="lab",
            ike_spi_i=bytes(8),
            ike_spi_r=bytes(8),
            suite=suite,
            mode=mode,
            role=role,
            local=a if initiator else b,
            remote=b if initiator else a,
            spi_in=spi_a if initiator else spi_b,
            spi_out=spi_b if initiator else spi_a,
            encr_key_in=encr_in,
            integ_key_in=maybe(integ_in),
            encr_key_out=encr_out,
            integ_key_out=maybe(integ_out),
            ts_local=local_ts if initiator else remote_ts,
            ts_remote=remote_ts if initiator else local_ts,
            encap=UdpEncap(4500, 4500) if encap else None,
            replay_window=replay_window,
            reqid=reqid,
        )

    return end(Role.INITIATOR), end(Role.RESPONDER)
