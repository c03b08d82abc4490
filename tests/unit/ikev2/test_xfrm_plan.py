"""What the kernel shall hold: traffic selectors to selectors, algorithms to names, which policy wins."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xfrm_support import child_pair

from ikev2.core.child_sa import UdpEncap, VolumeLimits
from ikev2.core.types import Mode
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import BackendError
from ikev2.iana import TsType
from ikev2.ipsec.backend import Bypass
from ikev2.ipsec.xfrm import plan
from ikev2.ipsec.xfrm.attributes import Encap, ReplayEsn, ReplayLegacy
from ikev2.ipsec.xfrm.messages import Policy, Sa, parse_attributes
from ikev2.ipsec.xfrm.selectors import Flow, cover_ports, flows, hull
from ikev2.ipsec.xfrm.structs import LifetimeConfig, LifetimeCurrent, PolicyInfo, SaInfo, Selector
from ikev2.ipsec.xfrm.uapi import PolicyDirection, SaFlag, SaMode, Xfrma
from ikev2.ipsec.xfrm.words import sa_words
from ikev2.wire.payloads.ts import TrafficSelector

IN, OUT, FWD = PolicyDirection.IN, PolicyDirection.OUT, PolicyDirection.FWD
REQID = plan.kernel_reqid(3, 9)


def ts(network: str, protocol: int = 0, first: int = 0, last: int = 65535) -> TrafficSelector:
    return TrafficSelector.from_network(network, protocol, first, last)


def planned(keyword: str = "aes128gcm16", mode: Mode = Mode.TUNNEL, **changes: object) -> plan.ChildPlan:
    child = replace(child_pair(keyword, mode)[0], **changes)  # type: ignore[arg-type]
    return plan.plan_child(child, REQID)


# -- selectors


@settings(max_examples=200)
@given(st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted))
def test_port_blocks_cover_the_range_and_nothing_else(bounds: list[int]) -> None:
    first, last = bounds
    position = first
    for port, mask in cover_ports(first, last):
        assert port == position
        assert port & mask == port
        position += 0x10000 - mask
    assert position == last + 1
    assert len(cover_ports(first, last)) <= 30


def test_the_usual_ranges_are_one_block() -> None:
    assert cover_ports(0, 65535) == [(0, 0)]
    assert cover_ports(500, 500) == [(500, 0xFFFF)]
    assert cover_ports(18688, 18751) == [(18688, 0xFFC0)]


def test_a_range_of_addresses_becomes_prefixes() -> None:
    odd = TrafficSelector(TsType.TS_IPV4_ADDR_RANGE, 0, 0, 65535, bytes([192, 0, 2, 1]), bytes([192, 0, 2, 6]))
    locals_ = [str(flow.local) for flow in flows([odd], [ts("198.51.100.0/24")])]
    assert locals_ == ["192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/31", "192.0.2.6/32"]


def test_only_what_the_two_sides_have_in_common_is_a_flow() -> None:
    found = flows([ts("192.0.2.1/32", 17), ts("2001:db8::1/128")], [ts("192.0.2.2/32"), ts("192.0.2.2/32", 6)])
    assert [(str(flow.local), str(flow.remote), flow.protocol) for flow in found] == [
        ("192.0.2.1/32", "192.0.2.2/32", 17)
    ]
    with pytest.raises(BackendError, match="in common"):
        flows([ts("192.0.2.1/32")], [ts("2001:db8::1/128")])


def test_ports_follow_their_side_into_both_directions() -> None:
    (flow,) = flows([ts("192.0.2.1/32", 6, 862, 862)], [ts("192.0.2.2/32")])
    assert flow.selector(OUT) == Selector(flow.local, flow.remote, 6, 862, 0xFFFF, 0, 0)
    assert flow.selector(IN) == Selector(flow.remote, flow.local, 6, 0, 0, 862, 0xFFFF)


@pytest.mark.parametrize(
    ("first", "last", "blocks"),
    [
        (0x0800, 0x0800, [((8, 0xFFFF), (0, 0xFFFF))]),
        (0x0800, 0x08FF, [((8, 0xFFFF), (0, 0))]),
        (0x0800, 0x09FF, [((8, 0xFFFE), (0, 0))]),
        (0x0801, 0x0902, [
            ((8, 0xFFFF), (1, 0xFFFF)), ((8, 0xFFFF), (2, 0xFFFE)), ((8, 0xFFFF), (4, 0xFFFC)),
            ((8, 0xFFFF), (8, 0xFFF8)), ((8, 0xFFFF), (16, 0xFFF0)), ((8, 0xFFFF), (32, 0xFFE0)),
            ((8, 0xFFFF), (64, 0xFFC0)), ((8, 0xFFFF), (128, 0xFF80)),
            ((9, 0xFFFF), (0, 0xFFFE)), ((9, 0xFFFF), (2, 0xFFFF)),
        ]),
        (0, 0xFFFF, [((0, 0), (0, 0))]),
    ],
)  # fmt: skip
def test_icmp_type_and_code_keep_their_places_in_both_directions(
    first: int, last: int, blocks: list[tuple[tuple[int, int], tuple[int, int]]]
) -> None:
    """Each side's selector is of what that side sends. RFC 4301 section 4.4.1.3."""
    any_type, these = ts("192.0.2.1/32", 1), ts("192.0.2.2/32", 1, first, last)
    for local, remote, direction in ((these, any_type, OUT), (any_type, these, IN)):
        outbound = direction is OUT
        found = flows([local], [remote], outbound=outbound)
        assert [(flow.local_port, flow.remote_port) for flow in found] == blocks
        for flow in found:
            selector = flow.selector(direction)
            ports = (selector.source_port, selector.source_port_mask)
            assert (ports, (selector.destination_port, selector.destination_port_mask)) == (
                flow.local_port, flow.remote_port,
            )  # fmt: skip
        (other,) = flows([local], [remote], outbound=not outbound)
        assert (other.local_port, other.remote_port) == ((0, 0), (0, 0))


def test_a_request_goes_out_and_its_answer_comes_in() -> None:
    """Echo requests are sent and not received, and the other way round; a message that no side sends has no policy."""
    ends = {"ts_local": (ts("192.0.2.1", 1, 0x0800, 0x08FF),), "ts_remote": (ts("192.0.2.2", 1, 0, 0x00FF),)}
    found = {(one.info.direction, one.info.selector.source_port) for one in planned(**ends).policies}
    assert found == {(OUT, 8), (IN, 0), (FWD, 0)}
    ends["ts_remote"] = (ts("192.0.2.2", 1, 65535, 0),)
    assert [one.info.direction for one in planned(**ends).policies] == [OUT]
    inbound = planned(mode=Mode.TRANSPORT, **ends).inbound.info.selector
    assert (inbound.protocol, str(inbound.source)) == (255, "192.0.2.2/32"), "which no packet has"


def test_a_protocol_without_ports_is_opaque() -> None:
    """RFC 4301 section 4.4.1.3, A."""
    (flow,) = flows([ts("192.0.2.1", 47, 65535, 0)], [ts("192.0.2.2", 47)])
    assert (flow.protocol, flow.local_port, flow.remote_port) == (47, (0, 0), (0, 0))


@pytest.mark.parametrize(
    ("local", "remote", "says"),
    [
        (ts("192.0.2.1/32", 17, 65535, 0), ts("192.0.2.2/32"), "OPAQUE"),
        (ts("192.0.2.1/32", 17, 1, 65534), ts("192.0.2.2/32", 17, 1, 65534), "more than 256"),
        (ts("192.0.2.1/32", 47, 1, 1), ts("192.0.2.2/32"), "no ports of protocol 47"),
        (ts("192.0.2.1/32"), ts("192.0.2.2/32", 50, 1, 1), "no ports of protocol 50"),
    ],
)
def test_what_the_kernel_cannot_say_is_refused_in_a_sentence(
    local: TrafficSelector, remote: TrafficSelector, says: str
) -> None:
    with pytest.raises(BackendError, match=says):
        flows([local], [remote])


@pytest.mark.parametrize(
    ("first", "last", "blocks"),
    [
        (0x0500, 0x0500, [(5, 0xFFFF)]),
        (0x0500, 0x05FF, [(5, 0xFFFF)]),
        (0x0500, 0x0700, [(5, 0xFFFF), (6, 0xFFFE)]),
        (0x0501, 0x06FF, [(6, 0xFFFF)]),
        (0x0501, 0x05FF, []),
        (0, 0xFFFF, [(0, 0)]),
    ],
)
def test_a_mobility_header_has_its_type_where_the_kernel_looks_for_it(
    first: int, last: int, blocks: list[tuple[int, int]]
) -> None:
    found = flows([ts("2001:db8::1", 135, first, last)], [ts("2001:db8::2")])
    assert [flow.local_port for flow in found] == blocks
    for flow in found:
        selector = flow.selector(OUT)
        assert (selector.source_port, selector.source_port_mask) == flow.local_port
        assert selector.destination_port_mask == 0


_hosts = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
_blocks = st.integers(0, 16).flatmap(
    lambda bits: st.integers(0, 0xFFFF).map(lambda port: (port & 0xFFFF << bits & 0xFFFF, 0xFFFF << bits & 0xFFFF))
)
_flows = st.builds(
    Flow,
    _hosts.map(ipaddress.ip_network),
    st.tuples(_hosts, st.integers(8, 32)).map(lambda n: ipaddress.ip_network(n, strict=False)),
    st.sampled_from((6, 17)),
    _blocks,
    _blocks,
)


@given(st.lists(_flows, min_size=1, max_size=4))
def test_the_selector_of_an_sa_holds_all_its_traffic_and_of_one_block_nothing_else(blocks: list[Flow]) -> None:
    for direction in (IN, OUT):
        around = hull(blocks, 4, direction)
        assert around.source is not None
        assert around.destination is not None
        for selector in (flow.selector(direction) for flow in blocks):
            assert selector.source is not None
            assert selector.destination is not None
            assert selector.source.subnet_of(around.source)  # type: ignore[arg-type]
            assert selector.destination.subnet_of(around.destination)  # type: ignore[arg-type]
            assert around.protocol in (0, selector.protocol)
            for inner, inner_mask, outer, outer_mask in (
                (selector.source_port, selector.source_port_mask, around.source_port, around.source_port_mask),
                (
                    selector.destination_port,
                    selector.destination_port_mask,
                    around.destination_port,
                    around.destination_port_mask,
                ),
            ):
                assert inner_mask & outer_mask == outer_mask
                assert inner & outer_mask == outer
        if len(blocks) == 1:
            assert around == blocks[0].selector(direction)


# -- SAs


def test_an_sa_in_transport_mode_carries_its_own_traffic_only() -> None:
    """In a tunnel the kernel drops what no policy knows; in transport mode it would let it in."""
    ends = {"ts_local": (ts("192.0.2.1", 17, 862, 863),), "ts_remote": (ts("192.0.2.2", 17),)}
    pair = planned(mode=Mode.TRANSPORT, **ends)
    here, there = ipaddress.ip_network("192.0.2.1"), ipaddress.ip_network("192.0.2.2")
    assert pair.outbound.info.selector == Selector(here, there, 17, 862, 0xFFFE, 0, 0)
    assert pair.inbound.info.selector == Selector(there, here, 17, 0, 0, 862, 0xFFFE)
    assert "sel src 192.0.2.2/32 dst 192.0.2.1/32 proto udp dport 862  # dport mask 0xfffe" in sa_words(
        pair.inbound
    )
    assert planned(**ends).inbound.info.selector == Selector()


@pytest.mark.parametrize(
    ("keyword", "names", "bits"),
    [
        ("aes128gmac", ["rfc4543(gcm(aes))"], [(160, 128)]),
        ("aes256gmac", ["rfc4543(gcm(aes))"], [(288, 128)]),
        ("aes128gcm16", ["rfc4106(gcm(aes))"], [(160, 128)]),
        ("aes256gcm8", ["rfc4106(gcm(aes))"], [(288, 64)]),
        ("chacha20poly1305", ["rfc7539esp(chacha20,poly1305)"], [(288, 128)]),
        ("aes128ccm16", ["rfc4309(ccm(aes))"], [(152, 128)]),
        ("aes128-sha1", ["cbc(aes)", "hmac(sha1)"], [(128, None), (160, 96)]),
        ("aes192-sha256", ["cbc(aes)", "hmac(sha256)"], [(192, None), (256, 128)]),
        ("aes256-sha384", ["cbc(aes)", "hmac(sha384)"], [(256, None), (384, 192)]),
        ("aes256-sha512", ["cbc(aes)", "hmac(sha512)"], [(256, None), (512, 256)]),
        ("aes128ctr-sha256", ["rfc3686(ctr(aes))", "hmac(sha256)"], [(160, None), (256, 128)]),
        ("null-sha256", ["ecb(cipher_null)", "hmac(sha256)"], [(0, None), (256, 128)]),
    ],
)
def test_algorithms_have_the_kernels_names_and_lengths(
    keyword: str, names: list[str], bits: list[tuple[int, int | None]]
) -> None:
    for sa in (planned(keyword).inbound, planned(keyword).outbound):
        used = [algorithm for algorithm in (sa.aead, sa.crypt, sa.auth) if algorithm is not None]
        assert [algorithm.name for algorithm in used] == names
        assert [(8 * len(algorithm.key), algorithm.icv_bits) for algorithm in used] == bits


@pytest.mark.parametrize("keyword", ["aes128gcm16iiv", "aes256ccm8iiv", "chacha20poly1305iiv"])
def test_an_implicit_iv_is_nothing_the_kernel_has(keyword: str) -> None:
    """`xfrm_algo.c` of Linux has no name for the transforms of RFC 8750."""
    with pytest.raises(BackendError, match=f"the xfrm backend has no {keyword}"):
        planned(keyword)


def test_each_direction_has_its_own_addresses_spi_and_keys() -> None:
    child = child_pair("aes128-sha256")[0]
    pair = plan.plan_child(child, REQID)
    into, out = pair.inbound, pair.outbound
    assert (str(into.info.source), str(into.info.destination), into.info.spi) == ("192.0.2.2", "192.0.2.1", 0x1000A)
    assert (str(out.info.source), str(out.info.destination), out.info.spi) == ("192.0.2.1", "192.0.2.2", 0x1000B)
    assert into.crypt is not None
    assert into.auth is not None
    assert out.crypt is not None
    assert child.integ_key_in is not None
    assert (into.crypt.key, into.auth.key) == (child.encr_key_in.octets, child.integ_key_in.octets)
    assert out.crypt.key == child.encr_key_out.octets


def test_both_ends_hold_the_same_keys_for_one_direction() -> None:
    a, b = child_pair("aes256gcm16")
    assert plan.plan_child(a, 1).outbound.aead == plan.plan_child(b, 2).inbound.aead


@pytest.mark.parametrize(
    ("keyword", "window", "legacy", "esn_in", "esn_out"),
    [
        ("aes128gcm16", 64, 0, 64, None),
        ("aes128gcm16", 32, 32, None, None),
        ("aes128gcm16", 0, 0, None, None),
        ("aes128gcm16", 1024, 0, 1024, None),
        ("aes128gcm16-esn", 64, 0, 64, 1),
        ("aes128gcm16-esn", 0, 0, 32, 1),
    ],
)
def test_the_replay_window_takes_the_form_that_the_kernel_accepts(
    keyword: str, window: int, legacy: int, esn_in: int | None, esn_out: int | None
) -> None:
    pair = planned(keyword, replay_window=window)
    assert pair.inbound.info.replay_window == legacy
    assert pair.outbound.info.replay_window == 0
    for sa, expected in ((pair.inbound, esn_in), (pair.outbound, esn_out)):
        assert (None if sa.replay_esn is None else sa.replay_esn.window) == expected
        if sa.replay_esn is not None:
            assert 32 * len(sa.replay_esn.bitmap) >= sa.replay_esn.window
        assert (SaFlag.ESN in sa.info.flags) == keyword.endswith("esn")


def test_tunnel_sas_take_both_address_families_inside() -> None:
    assert SaFlag.AF_UNSPEC in planned(mode=Mode.TUNNEL).inbound.info.flags
    assert SaFlag.AF_UNSPEC not in planned(mode=Mode.TRANSPORT).inbound.info.flags


def test_encapsulation_ports_are_seen_from_each_direction() -> None:
    pair = planned(encap=UdpEncap(4500, 40001))
    assert pair.outbound.encap == Encap(4500, 40001)
    assert pair.inbound.encap == Encap(40001, 4500)


def test_nothing_ever_carries_a_mark() -> None:
    pair = planned("aes128-sha256-esn", encap=UdpEncap(4500, 4500))
    octets = [(sa.encode(), SaInfo.SIZE) for sa in (pair.inbound, pair.outbound)]
    octets += [(policy.encode(), PolicyInfo.SIZE) for policy in pair.policies]
    for body, fixed in octets:
        found = parse_attributes(body, fixed)
        assert found
        assert Xfrma.MARK not in found


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(BackendError, match="20 octets with its salt, not 16"):
        planned(encr_key_in=SecretOctets("short", bytes(16)))


# -- policies


def test_a_tunnel_has_in_forward_and_out_with_out_last() -> None:
    assert [policy.info.direction for policy in planned().policies] == [IN, FWD, OUT]
    assert [policy.info.direction for policy in planned(mode=Mode.TRANSPORT).policies] == [IN, OUT]


def test_out_names_its_sa_and_in_takes_every_pair_of_the_reqid() -> None:
    into, _, out = planned().policies
    (template,) = out.templates
    assert (template.spi, str(template.source), str(template.destination)) == (0x1000B, "192.0.2.1", "192.0.2.2")
    (template,) = into.templates
    assert (template.spi, str(template.source), str(template.destination)) == (0, "192.0.2.2", "192.0.2.1")
    assert {policy.templates[0].reqid for policy in planned().policies} == {REQID}


def test_the_more_specific_policy_wins_and_a_bypass_wins_over_all() -> None:
    wide = ts("0.0.0.0/0")
    from_wide_to_narrow = [
        (wide, wide),
        (ts("192.0.2.0/24"), wide),
        (ts("192.0.2.0/24"), ts("198.51.100.0/24")),
        (ts("192.0.2.1/32"), ts("198.51.100.1/32")),
        (ts("192.0.2.1/32", 17), ts("198.51.100.1/32", 17)),
        (ts("192.0.2.1/32", 17), ts("198.51.100.1/32", 17, 862, 862)),
    ]
    priorities = [
        planned(ts_local=(local,), ts_remote=(remote,)).policies[0].info.priority
        for local, remote in from_wide_to_narrow
    ]
    assert priorities == sorted(set(priorities), reverse=True)
    narrowest = planned(
        ts_local=(ts("2001:db8::1/128", 17, 1, 1),), ts_remote=(ts("2001:db8::2/128", 17, 2, 2),)
    ).policies[0]
    assert plan.bypass_priority(plan.MAXIMUM_INSTANCE) < narrowest.info.priority < priorities[-1]


def test_a_measurement_bypass_is_two_selectors_per_direction() -> None:
    policies = plan.measurement_bypass(
        Bypass(17, (18688, 18751), "192.0.2.1", "192.0.2.2"), plan.bypass_priority(3)
    )
    assert len(policies) == 4
    assert all(policy.is_bypass and policy.info.priority == 0x7703 for policy in policies)
    here, there = ipaddress.ip_network("192.0.2.1"), ipaddress.ip_network("192.0.2.2")
    block = (18688, 0xFFC0)
    assert {(policy.info.direction, policy.info.selector) for policy in policies} == {
        (OUT, Selector(here, there, 17, *block, 0, 0)),
        (OUT, Selector(here, there, 17, 0, 0, *block)),
        (IN, Selector(there, here, 17, *block, 0, 0)),
        (IN, Selector(there, here, 17, 0, 0, *block)),
    }


def test_ike_passes_on_its_ports_and_ipv6_has_its_neighbour_discovery() -> None:
    policies = plan.ike_bypass("192.0.2.1", "192.0.2.2", [4500, 500], 0x7700)
    ports = {(p.info.direction, p.info.selector.source_port, p.info.selector.destination_port) for p in policies}
    assert ports == {(d, *pair) for d in (IN, OUT) for pair in ((500, 0), (0, 500), (4500, 0), (0, 4500))}
    discovery = {
        (policy.info.direction, policy.info.selector.source_port)
        for policy in plan.ike_bypass("2001:db8::1", "2001:db8::2", [], 0x7700)
    }
    assert discovery == {(IN, 135), (OUT, 135), (IN, 136), (OUT, 136)}


def test_what_is_ours_is_told_from_what_is_not() -> None:
    child_policy, bypass = (
        planned().policies[0],
        plan.measurement_bypass(Bypass(6, (18688, 18751), "192.0.2.1", "192.0.2.2"), plan.bypass_priority(3))[0],
    )
    assert plan.instance_of_policy(child_policy) == plan.instance_of_policy(bypass) == 3
    assert plan.instance_of_reqid(REQID) == 3
    assert plan.instance_of_reqid(9) is None
    foreign = Policy(PolicyInfo(bypass.info.selector, OUT, 1000))
    assert plan.instance_of_policy(foreign) is None
    template = replace(child_policy.templates[0], reqid=9)
    assert plan.instance_of_policy(replace(child_policy, templates=(template,))) is None


@given(st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_a_reqid_always_says_its_instance(instance: int, reqid: int) -> None:
    assert plan.instance_of_reqid(plan.kernel_reqid(instance, reqid)) == instance


# -- moving


def test_a_moved_sa_goes_on_from_where_it_was() -> None:
    info = SaInfo(
        ipaddress.ip_address("192.0.2.1"),
        ipaddress.ip_address("192.0.2.2"),
        1,
        1,
        SaMode.TUNNEL,
        current=LifetimeCurrent(1000, 10, 5, 6),
    )
    esn = ReplayEsn(64, (0xFF, 0), output=70, input=80, output_high=1)
    fresh = planned("aes128gcm16-esn").outbound
    moved = plan.moved_sa(fresh, Sa(info, replay_esn=esn))
    assert moved.replay_esn == esn
    assert moved.current == info.current
    moved = plan.moved_sa(planned().outbound, Sa(info, replay_legacy=ReplayLegacy(70, 0, 0)))
    assert moved.replay_legacy == ReplayLegacy(70, 0, 0)


def test_policies_of_one_child_have_different_selectors() -> None:
    policies = planned(ts_local=(ts("192.0.2.1/32"), ts("192.0.2.0/24"))).policies
    assert len(policies) == 6
    assert all(a.id != b.id for a, b in combinations(policies, 2))


# -- limits


def test_the_kernel_counts_what_an_sa_may_carry_and_never_its_time() -> None:
    found = planned(limits=VolumeLimits(1000, 2000, 30, 40))
    for sa in (found.inbound, found.outbound):
        assert sa.info.lifetime == LifetimeConfig(1000, 2000, 30, 40)
        assert "limit byte-soft 1000 limit byte-hard 2000 limit packet-soft 30 limit packet-hard 40" in sa_words(sa)
    unlimited = planned()
    assert unlimited.inbound.info.lifetime == LifetimeConfig()
    assert "limit" not in sa_words(unlimited.inbound)


@pytest.mark.parametrize(
    ("keyword", "soft", "expected"),
    [
        ("aes128gcm16", 0, 0xFF00_0000),
        ("aes128gcm16", 1000, 1000),
        ("aes128gcm16", 2**33, 0xFF00_0000),
        ("aes128gcm16-esn", 0, 2**64 - 1),
        ("aes128gcm16-esn", 2**33, 2**33),
    ],
)
def test_an_sa_is_rekeyed_before_its_sequence_numbers_are_used_up(keyword: str, soft: int, expected: int) -> None:
    """RFC 4303 section 3.3.3: the kernel sends nothing after number 2**32 - 1."""
    pair = planned(keyword, limits=VolumeLimits(soft_packets=soft))
    assert pair.outbound.info.lifetime.soft_packets == expected
    assert pair.inbound.info.lifetime.soft_packets == (soft or 2**64 - 1)
    assert pair.outbound.info.lifetime.hard_packets == 2**64 - 1
