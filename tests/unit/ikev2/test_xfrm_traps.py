"""Traps of the xfrm backend: policies that wait for traffic. RFC 4301 section 4.4.1, RFC 7296 section 2.9."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

import pytest
from fake_kernel import FakeKernel, backend, kernel, outbound_spi
from xfrm_support import child_pair

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.types import Mode
from ikev2.errors import BackendError
from ikev2.ipsec.backend import Acquire, Bypass, Trap
from ikev2.ipsec.dry_run import DryRunBackend
from ikev2.ipsec.xfrm.backend import XfrmBackend
from ikev2.ipsec.xfrm.messages import NetlinkMessage, encode_attribute
from ikev2.ipsec.xfrm.structs import SaId, Selector, encode_address, encode_id
from ikev2.ipsec.xfrm.uapi import PolicyDirection, Xfrma, XfrmMsg

A_HOST, B_HOST = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
BYPASS = Bypass(17, (18688, 18751), "192.0.2.1", "192.0.2.2")


__all__ = ["backend", "kernel"]


def trap_of(child: ChildSaParameters, reqid: int = 0x4950_0077) -> Trap:
    return Trap(child.name, reqid, child.mode, child.local, child.remote, child.ts_local, child.ts_remote)


def acquire_of(kernel: FakeKernel, sequence: int) -> NetlinkMessage:
    """What the kernel says of a packet that met the OUT policy as it is now."""
    (policy,) = (p for p in kernel.policies.values() if p.info.direction is PolicyDirection.OUT and not p.is_bypass)
    (template,) = policy.templates
    source, destination = policy.info.selector.source, policy.info.selector.destination
    assert source is not None
    assert destination is not None
    packet = Selector(source, destination, 17, 40001, 0xFFFF, 862, 0xFFFF)
    body = encode_id(template.destination, template.spi, 50) + encode_address(template.source)
    body += packet.encode() + policy.info.encode() + struct.pack("=4I", *(0xFFFFFFFF,) * 3, sequence)
    body += encode_attribute(Xfrma.TMPL, template.encode())
    return NetlinkMessage(XfrmMsg.ACQUIRE, 0, 0, 0, body)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_trap_is_policies_without_an_sa_beneath_those_of_child_sas(
    backend: XfrmBackend, kernel: FakeKernel, mode: Mode
) -> None:
    child = child_pair(mode=mode)[0]
    trap = trap_of(child)
    backend.add_trap(trap)
    backend.add_trap(trap)
    laid = dict(kernel.policies)
    assert not kernel.sas
    assert outbound_spi(kernel) == 0
    assert sorted(p.info.direction.name for p in laid.values() if not p.is_bypass) == (
        ["FWD", "IN", "OUT"] if mode is Mode.TUNNEL else ["IN", "OUT"]
    )
    backend.install(child)
    assert set(kernel.policies) == set(laid)
    assert outbound_spi(kernel) == child.spi_out
    backend.delete(child)
    assert kernel.policies == laid, "the trap is there again"
    backend.remove_trap(trap)
    backend.remove_trap(trap)
    assert kernel.everything == ({}, {})


def test_a_trap_that_comes_after_its_child_sa_lies_beneath_it(backend: XfrmBackend, kernel: FakeKernel) -> None:
    child = child_pair()[0]
    backend.install(child)
    backend.add_trap(trap_of(child))
    assert outbound_spi(kernel) == child.spi_out
    backend.delete(child)
    assert outbound_spi(kernel) == 0


def test_a_pair_on_standby_is_sent_on_where_otherwise_only_a_trap_is(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    child = child_pair()[0]
    backend.add_trap(trap_of(child))
    backend.install_standby(child)
    assert outbound_spi(kernel) == child.spi_out


def test_an_acquire_names_the_trap_and_the_packet_and_the_child_sa_takes_its_number(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    child = child_pair()[0]
    trap = trap_of(child)
    backend.add_trap(trap)
    kernel.notices = [acquire_of(kernel, 4711)]
    wanted = Acquire(trap.reqid, child.local, child.remote, 17, child.local, child.remote, 40001, 862)
    assert backend.next_event() == wanted
    backend.install(child)
    outbound, inbound = (
        kernel.sas[plan_id] for plan_id in (SaId(B_HOST, child.spi_out), SaId(A_HOST, child.spi_in))
    )
    assert (outbound.info.sequence, inbound.info.sequence) == (4711, 0)
    backend.delete(child)
    backend.install(replace(child, spi_in=0x3000A, spi_out=0x3000B))
    assert kernel.sas[SaId(B_HOST, 0x3000B)].info.sequence == 0, "each number is taken once"


def test_a_trap_that_the_kernel_refuses_leaves_nothing(backend: XfrmBackend, kernel: FakeKernel) -> None:
    for fail_at in range(1, 12):
        kernel.changes, kernel.fail_at = 0, fail_at
        with pytest.raises(BackendError):
            backend.add_trap(trap_of(child_pair()[0]))
        assert kernel.everything == ({}, {})
    kernel.fail_at = None


def test_a_dry_run_says_a_trap_in_words_and_takes_it_back() -> None:
    said: list[str] = []
    dry = DryRunBackend(said.append)
    dry.add_trap(trap_of(child_pair()[0]))
    text = "".join(said)
    assert "# lab: a Child SA when there is traffic for it\n" in text
    assert "dir out priority" in text
    assert "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid" in text
    assert "spi" not in text
    said.clear()
    dry.close()
    assert text.count("ip xfrm policy add") == "".join(said).count("ip xfrm policy delete") == 11
