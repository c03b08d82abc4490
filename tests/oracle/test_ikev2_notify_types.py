"""Every notify type of RFC 7296 section 3.10.1: what we do when we receive it, and the octets of it when we send it.

Who adds a type to the list below without a case for both, or takes a case away, fails here. What we send is read by a
decoder that shares nothing with the project (tests/decoder/ikev2_notifies.py).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sim.craft import clear, clear_of, give, notify_types, opened, parse, sealed, unknown
from sim.network import A, B, Host, Network, assert_joined, child_config, connection, pair, up
from sim.test_ike_auth import AUTH_EXCHANGE, half_open, tampered, ts, without

from ikev2.core.config import Childless, Limits
from ikev2.core.events import ChildSaFailed, ChildSaRekeyed, IkeSaDeleted, IkeSaFailed, PeerAlive
from ikev2.core.exchanges.informational import FATAL_NOTIFIES
from ikev2.core.pools import AddressRange, PoolConfig
from ikev2.core.state import State
from ikev2.core.types import Mode
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_ike_proposal
from ikev2.errors import ProtocolError
from ikev2.iana import ExchangeType, NotifyType, PayloadType
from ikev2.wire.payloads import Encrypted, Notify, Payload, Sa, TsI, TsR

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "decoder"))
from ikev2_notifies import ReadNotify, read

SECTION_3_10_1 = {
    "UNSUPPORTED_CRITICAL_PAYLOAD": 1,
    "INVALID_IKE_SPI": 4,
    "INVALID_MAJOR_VERSION": 5,
    "INVALID_SYNTAX": 7,
    "INVALID_MESSAGE_ID": 9,
    "INVALID_SPI": 11,
    "NO_PROPOSAL_CHOSEN": 14,
    "INVALID_KE_PAYLOAD": 17,
    "AUTHENTICATION_FAILED": 24,
    "SINGLE_PAIR_REQUIRED": 34,
    "NO_ADDITIONAL_SAS": 35,
    "INTERNAL_ADDRESS_FAILURE": 36,
    "FAILED_CP_REQUIRED": 37,
    "TS_UNACCEPTABLE": 38,
    "INVALID_SELECTORS": 39,
    "TEMPORARY_FAILURE": 43,
    "CHILD_SA_NOT_FOUND": 44,
    "INITIAL_CONTACT": 16384,
    "SET_WINDOW_SIZE": 16385,
    "ADDITIONAL_TS_POSSIBLE": 16386,
    "IPCOMP_SUPPORTED": 16387,
    "NAT_DETECTION_SOURCE_IP": 16388,
    "NAT_DETECTION_DESTINATION_IP": 16389,
    "COOKIE": 16390,
    "USE_TRANSPORT_MODE": 16391,
    "HTTP_CERT_LOOKUP_SUPPORTED": 16392,
    "REKEY_SA": 16393,
    "ESP_TFC_PADDING_NOT_SUPPORTED": 16394,
    "NON_FIRST_FRAGMENTS_ALSO": 16395,
}
"""The two tables of the section, typed off."""

NEVER_SENT = {
    "INVALID_MESSAGE_ID": "it is optional, and who sends it has to limit its rate (section 2.3)",
    "IPCOMP_SUPPORTED": "IPComp is not done here (section 2.22)",
    "HTTP_CERT_LOOKUP_SUPPORTED": "nothing is fetched by HTTP here (section 3.6)",
    "ESP_TFC_PADDING_NOT_SUPPORTED": "traffic flow confidentiality padding is accepted here (section 1.3.1)",
    "NON_FIRST_FRAGMENTS_ALSO": "non-first fragments are not sent by themselves where ports count (section 1.3.1)",
}

CREATE, INFO, INIT = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL, ExchangeType.IKE_SA_INIT
ELSEWHERE_PSK = SecretOctets("PSK", b"another secret")
Net = Callable[..., tuple[Network, Host, Host]]


@dataclass
class Keys:
    """The keys of all IKE SAs, by their SPIs."""

    known: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)

    def ike_sa(self, info: object, suite: object, keys: IkeKeys) -> None:
        self.known[info.spi_i + info.spi_r] = (keys.sk_ei.octets, keys.sk_er.octets)  # type: ignore[attr-defined]

    def child_sa(self, params: object) -> None:
        pass

    def read(self, network: Network, since: int = 0) -> list[ReadNotify]:
        """All notifies that anybody has sent."""
        sent = (item.datagram.data for item in network.sent[since:])
        return [one for data in sent for one in read(data, *self.known.get(data[:16], (b"", b"")))]


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> Net:
    """A pair whose messages can be tampered with, and whose keys are known."""

    def make(**options: object) -> tuple[Network, Host, Host]:
        network, a, b = pair(keylog=keys, **options)  # type: ignore[arg-type]
        network.patch = monkeypatch  # type: ignore[attr-defined]
        return network, a, b

    return make


def joined(net: Net, **options: object) -> tuple[Network, Host, Host]:
    network, a, b = net(**options)
    up(network, a, until=5.0)
    assert_joined(a, b)
    return network, a, b


def child(host: Host) -> object:
    (only,) = host.installed.values()
    return only


# --- sent -----------------------------------------------------------------------------------------------------------

Sending = Callable[[Net], tuple[Network, object]]
SENT: dict[str, tuple[Sending, int, int]] = {}


def sends(name: str, protocol_id: int = 0, spi_size: int = 0) -> Callable[[Sending], Sending]:
    """A scenario in which the type is sent, and the two fields it has then; it gives the data, or (SPI, data)."""

    def keep(scenario: Sending) -> Sending:
        SENT[name] = (scenario, protocol_id, spi_size)
        return scenario

    return keep


@sends("UNSUPPORTED_CRITICAL_PAYLOAD")
def _critical(net: Net) -> tuple[Network, object]:
    """Section 2.5: the data is the one octet of the payload's type."""
    network, a, b = joined(net)
    give(network, b, sealed(a, INFO, (unknown(177, critical=True),)), a.address)
    return network, b"\xb1"


@sends("INVALID_IKE_SPI")
def _invalid_ike_spi(net: Net) -> tuple[Network, object]:
    """Section 2.21.4: unprotected, to a request of an IKE SA that is not known; no data."""
    network, _a, b = net()
    data = clear(INFO, (Encrypted(PayloadType.NO_NEXT_PAYLOAD, bytes(64)),), spi_r=b"\x55" * 8, message_id=9)
    give(network, b, data, b.address)
    return network, b""


@sends("INVALID_MAJOR_VERSION")
def _invalid_major_version(net: Net) -> tuple[Network, object]:
    """Section 2.5: unprotected, in a message of the version that we speak."""
    network, _a, b = net()
    data = bytearray(clear(INIT))
    data[17] = 0x30
    give(network, b, bytes(data), b.address)
    return network, b""


@sends("INVALID_SYNTAX")
def _invalid_syntax(net: Net) -> tuple[Network, object]:
    network, a, b = joined(net)
    give(network, b, sealed(a, ExchangeType(240), ()), a.address)
    return network, b""


@sends("INVALID_SPI")
def _invalid_spi(net: Net) -> tuple[Network, object]:
    """Section 1.5: the data is the SPI of the packet; the SPI field has none."""
    network, a, b = joined(net)
    a.manager.stray_esp(0xDEADBEEF, a.address, b.address, network.now, in_udp=False)
    network.run(network.now + 1)
    return network, b"\xde\xad\xbe\xef"


@sends("INVALID_SELECTORS", protocol_id=3, spi_size=4)
def _invalid_selectors(net: Net) -> tuple[Network, object]:
    """Section 3.10.1: the SPI is that of the Child SA, the data the start of the packet; as often as a flag allows."""
    network, a, _b = joined(net, a={"invalid_selectors": True})
    (mine,) = a.installed.values()
    packet = bytes(range(200))
    for _ in range(3):
        a.manager.wrong_selectors(mine.spi_in, packet, network.now)
    network.run(network.now + 1)
    assert len(network.sent) == 6, "once in a while, and answered"
    return network, (mine.spi_in.to_bytes(4, "big"), packet[:68])


@sends("NO_PROPOSAL_CHOSEN")
def _no_proposal_chosen(net: Net) -> tuple[Network, object]:
    network, a, _b = net(b={"proposals": (parse_ike_proposal("aes128-sha256-ecp256"),)})
    up(network, a, until=1.0)
    return network, b""


@sends("INVALID_KE_PAYLOAD")
def _invalid_ke_payload(net: Net) -> tuple[Network, object]:
    """Section 1.2: the data is the two octets of the group that is wanted: 19 is 256-bit random ECP."""
    both = parse_ike_proposal("aes256gcm16-prfsha256-curve25519-ecp256")
    network, a, _b = net(
        a={"proposals": (both,)}, b={"proposals": (parse_ike_proposal("aes256gcm16-prfsha256-ecp256"),)}
    )
    up(network, a, until=1.0)
    return network, b"\0\x13"


@sends("AUTHENTICATION_FAILED")
def _authentication_failed(net: Net) -> tuple[Network, object]:
    network, a, _b = net(b={"psk": ELSEWHERE_PSK})
    up(network, a, until=5.0)
    return network, b""


@sends("SINGLE_PAIR_REQUIRED")
def _single_pair_required(net: Net) -> tuple[Network, object]:
    wide = child_config(local_ts=(ts("192.0.2.0/24"),), remote_ts=(ts("192.0.2.0/24"),))
    network, _a, _b = joined(net, a={"children": (wide,)}, b={"children": (replace(wide, single_pair=True),)})
    return network, b""


@sends("NO_ADDITIONAL_SAS")
def _no_additional_sas(net: Net) -> tuple[Network, object]:
    network, a, _b = net(b={"childless": Childless.FORCE})
    up(network, a, until=5.0)
    return network, b""


ROAD = PoolConfig("road", (AddressRange.parse("10.9.0.7-10.9.0.7"),))
GIVING = {"pools": ("road",), "children": (child_config(local_ts=(ts("10.2.0.0/16"),)),)}


@sends("INTERNAL_ADDRESS_FAILURE")
def _internal_address_failure(net: Net) -> tuple[Network, object]:
    """Section 3.15.4: the pool has one address, which its first client has."""
    import ipaddress

    asking = {
        "vips": (ipaddress.ip_address("0.0.0.0"),),
        "children": (child_config(remote_ts=(ts("10.2.0.0/16"),)),),
    }
    network, a, b = net(a=asking, b={**GIVING, "remote_addrs": ("%any",), "remote_id": None}, pools=(ROAD,))
    up(network, a, until=2.0)
    keylog = b.manager._keylog
    second = network.add("c", "192.0.2.3", [connection("192.0.2.3", B, **asking)], keylog=keylog)
    up(network, second, until=4.0)
    return network, b""


@sends("FAILED_CP_REQUIRED")
def _failed_cp_required(net: Net) -> tuple[Network, object]:
    network, a, _b = net(b=GIVING, pools=(ROAD,), a={"children": (child_config(remote_ts=(ts("10.2.0.0/16"),)),)})
    up(network, a, until=5.0)
    return network, b""


@sends("TS_UNACCEPTABLE")
def _ts_unacceptable(net: Net) -> tuple[Network, object]:
    network, a, _b = net(a={"children": (child_config(remote_ts=(ts("198.51.100.0/24"),)),)})
    up(network, a, until=5.0)
    return network, b""


@sends("TEMPORARY_FAILURE")
def _temporary_failure(net: Net) -> tuple[Network, object]:
    """Section 2.25.2: B closes the IKE SA, and A asks for a Child SA on it."""
    network, a, b = joined(net)
    network.link = lambda sent: () if sent.sender is b and not sent.datagram.data[19] & 0x20 else (0.01,)
    b.manager.delete(b.sa, network.now)
    network.flush(b)
    a.manager.rekey_child(child(a), network.now)  # type: ignore[arg-type]
    network.run(network.now + 0.5)
    return network, b""


@sends("CHILD_SA_NOT_FOUND", protocol_id=3, spi_size=4)
def _child_sa_not_found(net: Net) -> tuple[Network, object]:
    """Section 2.25: protocol and SPI are those of the REKEY_SA notify."""
    network, a, b = joined(net)
    (mine,) = a.installed.values()
    b.sa.children.clear()
    b.installed.clear()
    b.sending.clear()
    a.manager.rekey_child(mine, network.now)
    network.run(network.now + 0.03)
    return network, (mine.spi_in.to_bytes(4, "big"), b"")


@sends("INITIAL_CONTACT")
def _initial_contact(net: Net) -> tuple[Network, object]:
    return joined(net)[0], b""


@sends("SET_WINDOW_SIZE")
def _set_window_size(net: Net) -> tuple[Network, object]:
    """Section 2.3: four octets."""
    return joined(net, a={"window_size": 5}, b={"window_size": 5})[0], b"\0\0\0\5"


@sends("ADDITIONAL_TS_POSSIBLE")
def _additional_ts_possible(net: Net) -> tuple[Network, object]:
    return _disjoint(net)[0], b""


def _disjoint(net: Net) -> tuple[Network, Host, Host]:
    parts = tuple(child_config(f"part{n}", local_ts=(ts(f"10.{n}.0.0/16"),)) for n in (1, 2))
    return joined(net, a={"children": (child_config(remote_ts=(ts("10.0.0.0/8"),)),)}, b={"children": parts})


def _digest(spis: bytes, host: str, port: int = 500) -> bytes:
    return hashlib.sha1(spis + bytes(map(int, host.split("."))) + port.to_bytes(2, "big")).digest()


@sends("NAT_DETECTION_SOURCE_IP")
def _nat_detection_source_ip(net: Net) -> tuple[Network, object]:
    """Section 2.23: SHA-1 of the SPIs, the address and the port; here of the request, without a responder's SPI."""
    network, a, _b = joined(net)
    return network, _digest(a.sa.spi_i + bytes(8), A)


@sends("NAT_DETECTION_DESTINATION_IP")
def _nat_detection_destination_ip(net: Net) -> tuple[Network, object]:
    network, a, _b = joined(net)
    return network, _digest(a.sa.spi_i + bytes(8), B)


@sends("COOKIE")
def _cookie(net: Net) -> tuple[Network, object]:
    """Section 2.6: 1 to 64 octets, which come back in the next request."""
    network, _a, _b = joined(net, limits=Limits(cookie_threshold=0))
    (asked,) = parse(network.sent[1].datagram).payloads
    assert isinstance(asked, Notify)
    first = parse(network.sent[2].datagram).payloads[0]
    assert first == asked
    assert 1 <= len(asked.data) <= 64
    return network, asked.data


@sends("USE_TRANSPORT_MODE")
def _use_transport_mode(net: Net) -> tuple[Network, object]:
    transport = {"children": (child_config(mode=Mode.TRANSPORT),)}
    return joined(net, a=transport, b=transport)[0], b""


@sends("REKEY_SA", protocol_id=3, spi_size=4)
def _rekey_sa(net: Net) -> tuple[Network, object]:
    """Section 1.3.3: the SPI is the one that the sender of the notify expects in what it receives."""
    network, a, _b = joined(net)
    (mine,) = a.installed.values()
    a.manager.rekey_child(mine, network.now)
    network.run(network.now + 5)
    return network, (mine.spi_in.to_bytes(4, "big"), b"")


@pytest.mark.req("rfc7296-s3.10-01", "rfc7296-s3.10-02", "rfc7296-s3.10-04")
@pytest.mark.parametrize("name", SECTION_3_10_1)
def test_octets_of_each_type_that_is_sent(name: str, net: Net, keys: Keys) -> None:
    if name in NEVER_SENT:
        assert name not in SENT
        return
    scenario, protocol_id, spi_size = SENT[name]
    network, wanted = scenario(net)
    spi, data = wanted if isinstance(wanted, tuple) else (b"", wanted)
    found = [one for one in keys.read(network) if one.message_type == SECTION_3_10_1[name]]
    assert found, f"{name} was not sent"
    # The digests of the response are others.
    assert any((one.spi, one.data) == (spi, data) for one in found)
    for one in found:
        assert (one.protocol_id, one.spi_size) == (protocol_id, spi_size)
        assert name.startswith("NAT_DETECTION") or (one.spi, one.data) == (spi, data)
        assert one.protected or one.exchange == INIT or name == "INVALID_IKE_SPI"


@pytest.mark.req("rfc7296-s2.22-01", "rfc7296-s2.22-02")
@pytest.mark.parametrize("scenario", SENT)
def test_what_is_never_sent_is_sent_in_none_of_these(scenario: str, net: Net, keys: Keys) -> None:
    network, _ = SENT[scenario][0](net)
    types = {one.message_type for one in keys.read(network)}
    assert types.isdisjoint(SECTION_3_10_1[name] for name in NEVER_SENT)


# --- received ---------------------------------------------------------------------------------------------------------

Receiving = Callable[[Net], None]
RECEIVED: dict[str, Receiving] = {}


def receives(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What we do when the type comes; a scenario for several is given the type."""

    def keep(scenario: Callable[..., None]) -> Callable[..., None]:
        for name in names:
            RECEIVED[name] = (
                scenario if len(names) == 1 else lambda net, name=name: scenario(net, NotifyType[name])  # type: ignore[misc]
            )
        return scenario

    return keep


def answered(net: Net, *notifies: Notify, keep: bool = False, **options: object) -> tuple[Network, Host, Host]:
    """B's IKE_AUTH response has these notifies, in the place of a Child SA or (`keep`) beside it."""
    network, a, b = net(**options)
    once: list[bool] = []

    def change(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        if once:
            return payloads
        once.append(True)
        return (*(payloads if keep else without(payloads, Sa, TsI, TsR)), *notifies)

    tampered(network, b, AUTH_EXCHANGE, change)
    up(network, a, until=5.0)
    return network, a, b


@receives("UNSUPPORTED_CRITICAL_PAYLOAD", "INVALID_SYNTAX", "AUTHENTICATION_FAILED")
def _fatal(net: Net, notify_type: NotifyType) -> None:
    """Section 2.21.2: no IKE SA, and no Delete is sent."""
    network, a, _b = answered(net, Notify(notify_type))
    (failed,) = a.of(IkeSaFailed)
    assert failed.notify_type == notify_type  # type: ignore[attr-defined]
    assert a.manager.sas == []
    assert len([sent for sent in network.sent if sent.sender is a]) == 2


@receives(
    "NO_PROPOSAL_CHOSEN", "NO_ADDITIONAL_SAS", "INTERNAL_ADDRESS_FAILURE", "FAILED_CP_REQUIRED", "TS_UNACCEPTABLE"
)
def _child_refused(net: Net, notify_type: NotifyType) -> None:
    """Section 2.21.2: there is no Child SA, and the IKE SA stays."""
    _network, a, _b = answered(net, Notify(notify_type))
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == notify_type  # type: ignore[attr-defined]
    assert a.sa.state is State.ESTABLISHED
    assert a.installed == {}


@receives("SINGLE_PAIR_REQUIRED")
def _single_pair(net: Net) -> None:
    """Section 2.9: the pair of addresses of the IKE SA is asked for."""
    wide = child_config(remote_ts=(ts("192.0.2.0/24"),))
    far = child_config(local_ts=(ts("192.0.2.0/24"),))
    _network, a, _b = answered(
        net, Notify(NotifyType.SINGLE_PAIR_REQUIRED), a={"children": (wide,)}, b={"children": (far,)}
    )
    (installed,) = a.installed.values()
    assert installed.ts_remote == (ts(f"{B}/32"),)


@receives("INVALID_KE_PAYLOAD")
def _other_group(net: Net) -> None:
    """Section 1.2: the request goes again with the group that is wanted."""
    network, _ = _invalid_ke_payload(net)
    network.run(5.0)
    a = network.hosts[A]
    assert a.sa.suite is not None
    assert "ecp256" in a.sa.suite.keyword


@receives("TEMPORARY_FAILURE")
def _later(net: Net) -> None:
    """Section 2.25: the request goes again after a while."""
    network, a, b = joined(net)
    answers = [(Notify(NotifyType.TEMPORARY_FAILURE),)]
    tampered(network, b, CREATE, lambda payloads: answers.pop() if answers else payloads)
    (old,) = a.installed.values()
    a.manager.rekey_child(old, network.now)
    network.run(network.now + 2)
    assert a.of(ChildSaRekeyed) == []
    network.run(network.now + 30)
    assert len(a.of(ChildSaRekeyed)) == 1


@receives("CHILD_SA_NOT_FOUND")
def _not_there(net: Net) -> None:
    """Section 2.25: the Child SA that the peer does not have goes, and another one is made."""
    network, _ = _child_sa_not_found(net)
    a, b = network.hosts[A], network.hosts[B]
    network.run(network.now + 30)
    assert_joined(a, b)
    assert len(a.installed) == 1


@receives("INVALID_IKE_SPI")
def _forgotten(net: Net) -> None:
    """Section 2.21.4: unprotected it is a hint, and the peer is asked whether it lives."""
    network, a, b = joined(net)
    network.run(60.0)
    hint = clear_of(
        a, INFO, (Notify(NotifyType.INVALID_IKE_SPI),), message_id=9, is_initiator=False, is_response=True
    )
    give(network, a, hint, b.address)
    network.run(70.0)
    assert len(a.of(PeerAlive)) == 1
    assert_joined(a, b)


@receives("INVALID_MAJOR_VERSION")
def _older_peer(net: Net) -> None:
    """Section 2.21.1: it is not authenticated, so the request goes on for a while; then that is the reason."""
    network, a, b = net(link=lambda sent: ())
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.flush(a)
    answer = clear(
        INIT, (Notify(NotifyType.INVALID_MAJOR_VERSION),), spi_i=sa.spi_i, is_initiator=False, is_response=True
    )
    give(network, a, answer, b.address)
    assert a.of(IkeSaFailed) == []
    network.run(60.0)
    (failed,) = a.of(IkeSaFailed)
    assert failed.notify_type == NotifyType.INVALID_MAJOR_VERSION  # type: ignore[attr-defined]
    assert len(network.sent) == 1 + sa.connection.retransmission.error_tries


@receives("INVALID_MESSAGE_ID", "INVALID_SPI", "INVALID_SELECTORS")
def _report(net: Net, notify_type: NotifyType) -> None:
    """Sections 2.3, 1.5 and 2.21.4: the report of something suspicious is answered and changes no SA."""
    from ikev2.iana import ProtocolId

    network, a, b = joined(net)
    (mine,) = a.installed.values()
    spi = mine.spi_in.to_bytes(4, "big")
    selectors = Notify(notify_type, b"E\0\0\x14", ProtocolId.ESP, spi)
    notify = selectors if notify_type == NotifyType.INVALID_SELECTORS else Notify(notify_type, spi)
    before = dict(b.installed)
    give(network, b, sealed(a, INFO, (notify,)), a.address)
    assert opened(a, network.sent[-1].datagram) == ()
    network.run(network.now + 60)
    assert b.installed == before
    assert b.of(IkeSaDeleted) == []


@receives("INITIAL_CONTACT")
def _started_anew(net: Net) -> None:
    """Section 2.4: the IKE SAs that the peer has forgotten go."""
    network, a, b = joined(net)
    network.now += 10
    again = network.add("a again", A, [connection(A, B)])
    up(network, again, until=network.now + 5)
    assert len(b.manager.sas) == 1
    assert b.sa.spi_i == again.sa.spi_i
    assert a.name != again.name


@receives("SET_WINDOW_SIZE")
def _window(net: Net) -> None:
    """Section 2.3: as many requests may be on their way."""
    _network, a, b = joined(net, b={"window_size": 4})
    assert (a.sa.requests.window, b.sa.requests.window) == (4, 1)


@receives("ADDITIONAL_TS_POSSIBLE")
def _rest(net: Net) -> None:
    """Section 2.9: the rest is asked for."""
    _network, a, _b = _disjoint(net)
    assert len(a.installed) == 2


@receives("NAT_DETECTION_SOURCE_IP", "NAT_DETECTION_DESTINATION_IP")
def _nat(net: Net, notify_type: NotifyType) -> None:
    """Section 2.23: one that does not fit means a NAT, and IKE moves to port 4500; those that fit leave it at 500."""
    from ikev2.core import nat

    _network, a, _b = joined(net)
    assert a.sa.remote.port == 500
    plain = nat.detection_notifies
    network, a, b = net()

    def wrong(*args: object, **flags: object) -> tuple[Notify, ...]:
        notifies = plain(*args, **flags)  # type: ignore[arg-type]
        return tuple(replace(one, data=bytes(20)) if one.notify_type == notify_type else one for one in notifies)

    network.patch.setattr(nat, "detection_notifies", wrong)  # type: ignore[attr-defined]
    up(network, a, until=5.0)
    assert (a.sa.remote.port, b.sa.local.port) == (4500, 4500)
    behind = a.sa.nat.remote if notify_type == NotifyType.NAT_DETECTION_SOURCE_IP else a.sa.nat.local
    assert behind


@receives("COOKIE")
def _again_with_cookie(net: Net) -> None:
    """Section 2.6: the request goes again with the cookie as its first payload, and nothing else changed."""
    network, data = _cookie(net)
    first, second = (parse(network.sent[number].datagram).payloads for number in (0, 2))
    assert second == (Notify(NotifyType.COOKIE, data), *first)  # type: ignore[arg-type]


@receives("USE_TRANSPORT_MODE")
def _transport(net: Net) -> None:
    """Section 1.3.1: answered with the same, or declined with silence, and then we do not take tunnel mode."""
    transport = {"children": (child_config(mode=Mode.TRANSPORT),)}
    network, a, b = joined(net, a=transport, b=transport)
    assert NotifyType.USE_TRANSPORT_MODE in notify_types(opened(a, network.sent[3].datagram))
    assert {one.mode for host in (a, b) for one in host.installed.values()} == {Mode.TRANSPORT}
    network, a, b = net(a=transport)
    up(network, a, until=5.0)
    assert NotifyType.USE_TRANSPORT_MODE not in notify_types(opened(a, network.sent[3].datagram))
    assert a.installed == b.installed == {}


@receives("REKEY_SA")
def _replaced(net: Net) -> None:
    """Section 1.3.3: the Child SA of that SPI is replaced."""
    network, a, b = joined(net)
    (old,) = b.installed.values()
    a.manager.rekey_child(child(a), network.now)  # type: ignore[arg-type]
    network.run(network.now + 5)
    (event,) = b.of(ChildSaRekeyed)
    assert event.old.spi_out == old.spi_out  # type: ignore[attr-defined]


DATA = {"IPCOMP_SUPPORTED": b"\x12\x34\x02"}


@receives(
    "IPCOMP_SUPPORTED", "HTTP_CERT_LOOKUP_SUPPORTED", "ESP_TFC_PADDING_NOT_SUPPORTED", "NON_FIRST_FRAGMENTS_ALSO"
)
def _declined(net: Net, notify_type: NotifyType) -> None:
    """Sections 1.3.1, 2.22 and 3.6: who does not send it back has declined; what is made is what was to be made."""
    notify = Notify(notify_type, DATA.get(notify_type.name, b""))
    network, a, b, genuine = half_open()
    give(network, b, sealed(a, AUTH_EXCHANGE, (*genuine, notify), message_id=1), a.address)
    assert notify_types(opened(a, network.sent[-1].datagram)) == []
    assert len(b.installed) == 1
    _network, a, b = answered(net, notify, keep=True)
    assert_joined(a, b)
    assert len(a.installed) == 1


@pytest.mark.req("rfc7296-s3.10.1-03")
@pytest.mark.parametrize("name", SECTION_3_10_1)
def test_what_we_do_when_each_type_is_received(name: str, net: Net) -> None:
    RECEIVED[name](net)


# --- the list ---------------------------------------------------------------------------------------------------------


def test_every_type_of_the_section_has_a_case_in_both_directions() -> None:
    assert set(RECEIVED) == set(SECTION_3_10_1)
    assert set(SENT) | set(NEVER_SENT) == set(SECTION_3_10_1)
    assert set(SENT).isdisjoint(NEVER_SENT)


def test_the_numbers_are_those_of_the_section() -> None:
    assert {name: NotifyType[name].value for name in SECTION_3_10_1} == SECTION_3_10_1
    assert all(NotifyType[name].is_error is (number < 16384) for name, number in SECTION_3_10_1.items())


@pytest.mark.req("rfc7296-s2.21.2-05")
def test_no_error_is_sent_that_is_not_of_the_section() -> None:
    """An error that ends IKE_AUTH and is of another document would have to be agreed on first; there is none here."""

    def kinds(kind: type[ProtocolError]) -> list[type[ProtocolError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in kinds(child))]

    sent = {kind.notify_type.name for kind in kinds(ProtocolError) if kind.notify_type is not None}
    assert sent <= {name for name, number in SECTION_3_10_1.items() if number < 16384}
    assert {one.name for one in FATAL_NOTIFIES} == {
        "UNSUPPORTED_CRITICAL_PAYLOAD",
        "INVALID_SYNTAX",
        "AUTHENTICATION_FAILED",
    }


def test_the_decoder_shares_no_code_with_the_project() -> None:
    import ast

    import ikev2_notifies

    tree = ast.parse(Path(str(ikev2_notifies.__file__)).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] in ("ikev2", "ippm", "binding") for name in names)
