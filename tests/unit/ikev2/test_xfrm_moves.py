"""Pairs of the xfrm backend that move to other addresses, and those that wait for their first packet.

RFC 7296 sections 2.8 and 2.23.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

import pytest
from fake_kernel import FakeKernel, backend, kernel, outbound_spi
from test_xfrm_traps import trap_of
from xfrm_support import child_pair

from ikev2.core.child_sa import ChildSaParameters, HwOffload, KernelOptions, UdpEncap
from ikev2.core.types import Mode
from ikev2.errors import BackendError
from ikev2.ipsec.backend import Bypass
from ikev2.ipsec.xfrm.aevents import AeFlag
from ikev2.ipsec.xfrm.attributes import Encap
from ikev2.ipsec.xfrm.backend import XfrmBackend
from ikev2.ipsec.xfrm.messages import NetlinkMessage
from ikev2.ipsec.xfrm.structs import SaId
from ikev2.ipsec.xfrm.uapi import OffloadFlag, XfrmMsg
from ikev2.wire.payloads import TrafficSelector

A_HOST, B_HOST = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
BYPASS = Bypass(17, (18688, 18751), "192.0.2.1", "192.0.2.2")


__all__ = ["backend", "kernel"]


def where(kernel: FakeKernel) -> set[tuple[str, str]]:
    """The outer addresses of the SAs and of the templates."""
    ends = [(sa.info.source, sa.info.destination) for sa in kernel.sas.values()]
    ends += [(one.source, one.destination) for policy in kernel.policies.values() for one in policy.templates]
    return {(str(source), str(destination)) for source, destination in ends}


MOVED_A = "192.0.2.11"
THERE, MOVED = (
    {("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1")},
    {
        (MOVED_A, "192.0.2.2"),
        ("192.0.2.2", MOVED_A),
    },
)


def test_the_kernel_moves_a_pair_and_nothing_is_put_in_anew(backend: XfrmBackend, kernel: FakeKernel) -> None:
    child = child_pair(encap=True)[0]
    moved = replace(child, local=MOVED_A, encap=UdpEncap(4500, 40001))
    backend.install(child)
    ids = {policy.id for policy in kernel.policies.values() if not policy.is_bypass}
    kernel.update_sa = kernel.update_policy = None  # type: ignore[assignment]
    backend.update_address(child, moved)
    assert where(kernel) == MOVED
    assert {sa.encap for sa in kernel.sas.values()} == {Encap(4500, 40001), Encap(40001, 4500)}
    assert {policy.id for policy in kernel.policies.values() if not policy.is_bypass} == ids
    assert {str(p.info.selector.source) for p in kernel.policies.values() if p.is_bypass} == {
        f"{MOVED_A}/32",
        "192.0.2.2/32",
    }
    backend.query(moved)
    backend.delete(moved)
    assert kernel.everything == ({}, {})


@pytest.mark.parametrize(
    "why", ["no MIGRATE in the kernel", "transport mode", "out of UDP", "another pair", "another device"]
)
def test_what_the_kernel_cannot_move_is_replaced(
    backend: XfrmBackend, kernel: FakeKernel, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ikev2.ipsec.xfrm.offload.interface_of", lambda address: 7)
    kernel.has_migrate = why != "no MIGRATE in the kernel"
    kernel.offloads = {OffloadFlag(0)}
    child = child_pair(mode=Mode.TRANSPORT if why == "transport mode" else Mode.TUNNEL, encap=why == "out of UDP")[
        0
    ]
    if why == "another device":
        child = replace(child, kernel=KernelOptions(hw_offload=HwOffload.CRYPTO))
    moved = replace(child, local=MOVED_A, encap=None)
    if why == "transport mode":
        moved = replace(moved, ts_local=(TrafficSelector.from_network(MOVED_A),))
    backend.install(child)
    other = replace(child, spi_in=0x2000A, spi_out=0x2000B)
    if why == "another pair":
        backend.install(other)
    backend.update_address(child, moved)
    assert where(kernel) >= MOVED
    assert all(sa.encap is None for sa in kernel.sas.values())
    backend.delete(moved)
    backend.delete(other)
    assert kernel.everything == ({}, {})


def test_a_move_that_the_kernel_breaks_off_is_taken_back_and_done_by_hand(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    child = child_pair()[0]
    for failing in (1, 2, 3):
        backend.install(child)
        ike = len([policy for policy in kernel.policies.values() if policy.is_bypass])
        kernel.changes, kernel.fail_at = 0, ike + failing
        moved = replace(child, local=MOVED_A)
        backend.update_address(child, moved)
        assert where(kernel) == MOVED
        backend.delete(moved)
        assert kernel.everything == ({}, {})


def test_a_trap_beneath_is_no_reason_to_replace(backend: XfrmBackend, kernel: FakeKernel) -> None:
    child = child_pair()[0]
    backend.add_trap(trap_of(child))
    backend.install(child)
    moved = replace(child, local=MOVED_A)
    kernel.update_sa = None  # type: ignore[assignment]
    backend.update_address(child, moved)
    assert where(kernel) == MOVED
    backend.delete(moved)
    assert outbound_spi(kernel) == 0


# --- the first packet on standby ------------------------------------------------------------------------------------


def told_of(child: ChildSaParameters, flags: AeFlag) -> NetlinkMessage:
    sa_id = SaId(ipaddress.ip_address(child.local), child.spi_in)
    return NetlinkMessage(XfrmMsg.NEWAE, 0, 0, 0, sa_id.encode() + bytes(16) + struct.pack("=II", flags, 0))


@pytest.mark.parametrize("keyword", ["aes128gcm16", "aes128gcm16-esn"])
def test_a_pair_on_standby_is_sent_on_from_the_first_packet_that_the_kernel_tells_of(
    backend: XfrmBackend, kernel: FakeKernel, keyword: str
) -> None:
    old = child_pair(keyword)[0]
    new = replace(child_pair(keyword, seed=3)[0], spi_in=0x2000A, spi_out=0x2000B)
    backend.install(old)
    assert not kernel.groups, "nobody listens where nothing waits"
    backend.install_standby(new)
    inbound = SaId(A_HOST, new.spi_in)
    assert kernel.groups == {5}
    assert kernel.sas[inbound].notice_after == 1
    assert {sa.notice_after for sa_id, sa in kernel.sas.items() if sa_id != inbound} == {0}
    kernel.notices = [told_of(old, AeFlag.CAUSE_REPLAY), told_of(new, AeFlag.CAUSE_UPDATE)]
    assert backend.next_event() is None
    assert outbound_spi(kernel) == old.spi_out, "of another SA, or no packet"
    kernel.notices = [told_of(new, AeFlag.CAUSE_REPLAY | AeFlag.REPLAY_VALUE)] * 2
    assert backend.next_event() is None
    assert outbound_spi(kernel) == new.spi_out
    assert kernel.sas[inbound].notice_after == 0, "once is enough"
    assert not kernel.groups
    backend.activate(new)
    backend.delete(old)
    backend.delete(new)


def test_who_waits_for_the_first_packet_waits_no_more_when_it_is_told_gone_or_moved(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    old = child_pair()[0]
    new = replace(child_pair(seed=3)[0], spi_in=0x2000A, spi_out=0x2000B)
    backend.install(old)
    backend.install_standby(new)
    backend.activate(new)
    assert not kernel.groups
    backend.delete(new)
    backend.install_standby(new)
    backend.delete(new)
    assert not kernel.groups
    kernel.fail_at = kernel.changes + 2
    with pytest.raises(BackendError):
        backend.install_standby(new)
    assert not kernel.groups
    backend.install_standby(new)
    moved = replace(new, local=MOVED_A)
    backend.update_address(new, moved)
    assert kernel.groups
    kernel.notices = [told_of(moved, AeFlag.CAUSE_REPLAY)]
    assert backend.next_event() is None
    assert not kernel.groups
    assert outbound_spi(kernel) == new.spi_out


def test_without_a_replay_window_the_kernel_has_nothing_to_tell(backend: XfrmBackend, kernel: FakeKernel) -> None:
    old = child_pair(replay_window=0)[0]
    backend.install(old)
    backend.install_standby(replace(old, spi_in=0x2000A, spi_out=0x2000B))
    assert not kernel.groups
    assert outbound_spi(kernel) == old.spi_out
