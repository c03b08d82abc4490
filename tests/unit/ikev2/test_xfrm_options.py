"""What only the kernel can be told of a Child SA: interfaces, devices, directions."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_kernel import FakeKernel, backend, kernel
from test_xfrm_backend import connection_with
from xfrm_support import child_pair

from ikev2.core.child_sa import DfBit, Dummies, HwOffload, KernelOptions, TunnelHeader
from ikev2.core.config import Volume
from ikev2.errors import BackendError, ConfigurationError
from ikev2.ipsec import probe
from ikev2.ipsec.backend import Bypass
from ikev2.ipsec.dry_run import DryRunBackend
from ikev2.ipsec.memory import MemoryBackend
from ikev2.ipsec.userspace import UserspaceBackend
from ikev2.ipsec.xfrm.attributes import Offload
from ikev2.ipsec.xfrm.backend import XfrmBackend
from ikev2.ipsec.xfrm.state import StateFile
from ikev2.ipsec.xfrm.structs import PolicyId, SaId
from ikev2.ipsec.xfrm.uapi import OffloadFlag

A_HOST, B_HOST = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
BYPASS = Bypass(17, (18688, 18751), "192.0.2.1", "192.0.2.2")


__all__ = ["backend", "kernel"]


@pytest.mark.parametrize(
    ("wanted", "has", "gets"),
    [
        (HwOffload.AUTO, {OffloadFlag.PACKET, OffloadFlag(0)}, OffloadFlag.PACKET),
        (HwOffload.AUTO, {OffloadFlag(0)}, OffloadFlag(0)),
        (HwOffload.AUTO, set(), None),
        (HwOffload.CRYPTO, {OffloadFlag(0)}, OffloadFlag(0)),
        (HwOffload.PACKET, {OffloadFlag.PACKET}, OffloadFlag.PACKET),
    ],
)
def test_the_device_does_what_it_can_of_what_is_wanted(
    backend: XfrmBackend,
    kernel: FakeKernel,
    monkeypatch: pytest.MonkeyPatch,
    wanted: HwOffload,
    has: set[OffloadFlag],
    gets: OffloadFlag | None,
) -> None:
    monkeypatch.setattr("ikev2.ipsec.xfrm.offload.interface_of", lambda address: 7)
    kernel.offloads = has
    child = replace(child_pair()[0], kernel=KernelOptions(hw_offload=wanted), spi_in=backend.allocate_spi(*ENDS))
    backend.install(child)
    inbound, outbound = kernel.sas[SaId(A_HOST, child.spi_in)], kernel.sas[SaId(B_HOST, child.spi_out)]
    assert outbound.offload == (None if gets is None else Offload(7, gets))
    assert inbound.offload == (None if gets is None else Offload(7, gets | OffloadFlag.INBOUND))
    policies = {
        policy.info.direction.name: policy.offload for policy in kernel.policies.values() if policy.templates
    }
    whole = Offload(7, OffloadFlag.PACKET) if gets == OffloadFlag.PACKET else None
    assert policies == {"IN": whole, "FWD": None, "OUT": whole}
    backend.delete(child)
    assert kernel.everything == ({}, {})


ENDS = ("192.0.2.1", "192.0.2.2")


def test_a_device_that_cannot_is_an_error_when_it_was_wanted(
    backend: XfrmBackend, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ikev2.ipsec.xfrm.offload.interface_of", lambda address: 7)
    with pytest.raises(BackendError, match="network device"):
        backend.install(replace(child_pair()[0], kernel=KernelOptions(hw_offload=HwOffload.PACKET)))
    assert kernel.everything == ({}, {})


def test_policies_of_an_interface_are_others_and_are_found_again_after_a_crash(
    kernel: FakeKernel, backend: XfrmBackend, tmp_path: Path
) -> None:
    plain = child_pair()[0]
    of_interface = replace(plain, spi_in=0x2000A, spi_out=0x2000B, kernel=KernelOptions(7, 8))
    backend.install(plain)
    backend.install(of_interface)
    ids = {(policy.info.direction.name, policy.if_id) for policy in kernel.policies.values() if policy.templates}
    assert ids == {("IN", 0), ("FWD", 0), ("OUT", 0), ("IN", 7), ("FWD", 7), ("OUT", 8)}
    assert {sa.if_id for sa in kernel.sas.values()} == {0, 7, 8}
    (path,) = tmp_path.iterdir()
    assert {entry.if_id for entry in StateFile(path).entries if isinstance(entry, PolicyId)} == {0, 7, 8}
    backend.delete(plain)
    backend.delete(of_interface)


def test_other_backends_refuse_what_is_the_kernels() -> None:
    connection = connection_with("aes128gcm16")
    child = replace(connection.children[0], kernel=KernelOptions(sa_direction=True))
    connection = replace(connection, children=(child,))
    with pytest.raises(ConfigurationError, match=r"the memory backend has no sa_direction: that is the kernel's"):
        probe.installable(MemoryBackend(), [connection])
    limited = replace(child, kernel=KernelOptions(), octets=Volume(1000, 1100), packets=Volume(0, 7))
    assert probe.installable(MemoryBackend(), [replace(connection, children=(limited,))])[1] == ()
    assert probe.installable(DryRunBackend(lambda text: None), [connection]) == ((connection,), ())


def test_backends_that_do_not_do_esp_themselves_refuse_words_of_it() -> None:
    connection = connection_with("aes128gcm16")
    child = replace(connection.children[0], header=TunnelHeader(DfBit.SET, 46), dummies=Dummies(1.0, (64, 64)))
    connection = replace(connection, children=(child,))
    with pytest.raises(
        ConfigurationError, match=r"the dry-run backend has no df_bit, dscp, dummy_interval: take it"
    ):
        probe.installable(DryRunBackend(lambda text: None), [connection])
    with pytest.raises(
        ConfigurationError, match=r"the memory backend has no dummy_interval: take it out or choose"
    ):
        probe.installable(MemoryBackend(), [connection])
    assert probe.installable(UserspaceBackend(), [connection]) == ((connection,), ())


def test_a_dry_run_says_the_kernels_options_in_words() -> None:
    said: list[str] = []
    dry = DryRunBackend(said.append)
    dry.install(replace(child_pair("aes128gcm16-esn")[0], kernel=KernelOptions(7, 8, sa_direction=True)))
    text = "".join(said)
    assert "replay-window 64 flag af-unspec esn aead" in text
    assert "if_id 0x7 dir in\n" in text
    assert "replay-window 0 flag af-unspec esn aead" in text
    assert "if_id 0x8 dir out\n" in text
    assert re.search(r"dir out priority \d+ if_id 0x8 tmpl", text)
    said.clear()
    dry.close()
    assert "dir out if_id 0x8\n" in "".join(said)
