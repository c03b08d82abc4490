"""The xfrm backend over a kernel made of dictionaries: what is left when any single request fails, above all."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_kernel import FakeKernel, backend, kernel, outbound_spi
from xfrm_support import child_pair

from ikev2.core.config import ChildConfig, ConnectionConfig
from ikev2.core.types import Mode
from ikev2.crypto.keywords import numbered, proposal_keyword
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal, parse_ike_proposal
from ikev2.errors import BackendError, ConfigurationError, LocalProtocolError
from ikev2.ipsec import probe
from ikev2.ipsec.backend import Backend, Bypass, ProbeResult
from ikev2.ipsec.dry_run import DryRunBackend
from ikev2.ipsec.memory import MemoryBackend
from ikev2.ipsec.xfrm import plan
from ikev2.ipsec.xfrm.backend import XfrmBackend
from ikev2.ipsec.xfrm.cleaner import remove_leftovers
from ikev2.ipsec.xfrm.messages import Sa, parse_messages
from ikev2.ipsec.xfrm.state import InstanceLock, StateFile
from ikev2.ipsec.xfrm.structs import SaId
from ikev2.ipsec.xfrm.uapi import XfrmMsg

A_HOST, B_HOST = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
BYPASS = Bypass(17, (18688, 18751), "192.0.2.1", "192.0.2.2")


__all__ = ["backend", "kernel"]


def test_a_larval_sa_is_completed(backend: XfrmBackend, kernel: FakeKernel) -> None:
    spi = backend.allocate_spi("192.0.2.1", "192.0.2.2")
    child = replace(child_pair()[0], spi_in=spi)
    (larval,) = kernel.larval
    backend.install(child)
    assert not kernel.larval
    assert kernel.sas[larval].aead is not None


def test_a_larval_sa_that_timed_out_is_made_anew(backend: XfrmBackend, kernel: FakeKernel) -> None:
    child = replace(child_pair()[0], spi_in=backend.allocate_spi("192.0.2.1", "192.0.2.2"))
    kernel.sas.clear()
    backend.install(child)
    assert {sa.info.spi for sa in kernel.sas.values()} == {child.spi_in, child.spi_out}


def test_deleting_a_child_that_was_never_installed_gives_its_spi_back(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    child = replace(child_pair()[0], spi_in=backend.allocate_spi("192.0.2.1", "192.0.2.2"))
    backend.delete(child)
    assert kernel.everything == ({}, {})
    backend.delete(child)


def test_an_spi_that_no_child_sa_came_of_is_given_back(backend: XfrmBackend, kernel: FakeKernel) -> None:
    """The larval SA goes from the kernel and from the state file; what it has forgotten by itself is no mistake."""
    first = backend.allocate_spi("192.0.2.1", "192.0.2.2")
    second = backend.allocate_spi("192.0.2.1", "192.0.2.2")
    backend.release_spi(first, "192.0.2.1", "192.0.2.2")
    assert [sa.info.spi for sa in kernel.sas.values()] == [second]
    kernel.sas.clear()
    backend.release_spi(second, "192.0.2.1", "192.0.2.2")
    backend.release_spi(second, "192.0.2.1", "192.0.2.2")
    assert kernel.everything == ({}, {})


def test_an_installed_child_is_not_taken_for_an_spi_that_was_not_used(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    child = replace(child_pair()[0], spi_in=backend.allocate_spi("192.0.2.1", "192.0.2.2"))
    backend.install(child)
    before = kernel.everything
    backend.release_spi(child.spi_in, child.local, child.remote)
    backend.release_spi(0x12345, child.local, child.remote)
    assert kernel.everything == before


def test_a_failed_install_leaves_nothing_whichever_request_fails(kernel: FakeKernel, backend: XfrmBackend) -> None:
    first = child_pair()[0]
    backend.install(first)
    before, start = kernel.everything, kernel.changes
    other = replace(child_pair(seed=5)[0], spi_out=0x2000B, reqid=2)
    failures = 0
    while True:
        child = replace(other, spi_in=backend.allocate_spi(other.local, other.remote))
        kernel.fail_at = kernel.changes + 1 + failures
        try:
            backend.install(child)
        except BackendError:
            assert kernel.everything == before, f"after the failure of request {failures + 1}"
            failures += 1
            continue
        break
    kernel.fail_at = None
    assert failures >= 5, "two SAs and three policies can fail"
    assert kernel.changes > start
    backend.delete(child)
    assert kernel.everything == before


def test_somebody_elses_policy_is_left_alone(backend: XfrmBackend, kernel: FakeKernel, tmp_path: Path) -> None:
    child = child_pair()[0]
    foreign = plan.plan_child(child, 12345).policies[1]
    kernel.policies[foreign.id] = foreign
    with pytest.raises(BackendError, match="somebody else"):
        backend.install(child)
    assert kernel.everything == ({}, {foreign.id: foreign})
    assert not StateFile(next(tmp_path.iterdir())).entries
    del kernel.policies[foreign.id]


def test_policies_follow_the_newest_pair_and_fall_back_to_the_one_before(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    old = child_pair()[0]
    new = replace(child_pair(seed=3)[0], spi_in=0x2000A, spi_out=0x2000B)
    backend.install(old)
    policies = set(kernel.policies)
    backend.install(new)
    assert set(kernel.policies) == policies
    assert outbound_spi(kernel) == new.spi_out
    backend.delete(new)
    assert outbound_spi(kernel) == old.spi_out
    backend.install(new)
    backend.delete(old)
    assert outbound_spi(kernel) == new.spi_out
    backend.delete(new)
    assert kernel.everything == ({}, {})


def test_a_pair_on_standby_receives_and_sends_only_when_activated(backend: XfrmBackend, kernel: FakeKernel) -> None:
    old = child_pair()[0]
    new = replace(child_pair(seed=3)[0], spi_in=0x2000A, spi_out=0x2000B)
    backend.install(old)
    backend.install_standby(new)
    assert {sa.spi for sa in kernel.sas} == {old.spi_in, old.spi_out, new.spi_in, new.spi_out}
    assert outbound_spi(kernel) == old.spi_out
    backend.activate(new)
    backend.activate(new)
    assert outbound_spi(kernel) == new.spi_out
    backend.delete(old)
    assert outbound_spi(kernel) == new.spi_out
    backend.install_standby(old)
    backend.delete(new)  # without being told, the one that is left is sent on
    assert outbound_spi(kernel) == old.spi_out
    backend.delete(old)
    backend.activate(old)  # gone meanwhile: nothing to do
    assert kernel.everything == ({}, {})


def test_ike_passes_as_long_as_one_child_needs_it(backend: XfrmBackend, kernel: FakeKernel) -> None:
    one = child_pair()[0]
    two = replace(child_pair(mode=Mode.TRANSPORT)[0], spi_in=0x2000A, spi_out=0x2000B)
    backend.install(one)
    bypasses = {policy.id for policy in kernel.policies.values() if policy.is_bypass}
    assert len(bypasses) == 8
    backend.install(two)
    backend.delete(one)
    assert bypasses <= set(kernel.policies)
    backend.delete(two)
    assert not kernel.policies


def test_a_bypass_comes_once_and_goes_once(backend: XfrmBackend, kernel: FakeKernel) -> None:
    backend.add_bypass(BYPASS)
    backend.add_bypass(BYPASS)
    assert len(kernel.policies) == 4
    backend.remove_bypass(BYPASS)
    assert not kernel.policies
    backend.remove_bypass(BYPASS)


def test_a_pair_that_cannot_move_is_gone_and_nothing_of_it_is_left(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    child = child_pair()[0]
    backend.install(child)
    kernel.has_migrate = False
    ike = len([policy for policy in kernel.policies.values() if policy.is_bypass])
    kernel.fail_at = kernel.changes + ike + 1 + 2  # after MIGRATE the first SA comes, and not the second
    with pytest.raises(BackendError):
        backend.update_address(child, replace(child, local="192.0.2.11"))
    assert kernel.everything == ({}, {})


def test_using_it_wrongly_is_the_callers_mistake(backend: XfrmBackend, kernel: FakeKernel) -> None:
    child = child_pair()[0]
    backend.install(child)
    with pytest.raises(LocalProtocolError, match="already"):
        backend.install(child)
    with pytest.raises(LocalProtocolError, match="not installed"):
        backend.update_address(replace(child, spi_in=9), child)
    with pytest.raises(BackendError, match="not installed"):
        backend.query(replace(child, spi_in=9))
    with pytest.raises(LocalProtocolError, match="not open"):
        XfrmBackend().allocate_spi("192.0.2.1", "192.0.2.2")
    XfrmBackend().close()


# -- crashes


def crash(backend: XfrmBackend) -> None:
    """What kill -9 does: descriptors close, nothing else happens."""
    assert backend._lock is not None
    backend._lock.release()


def test_the_next_start_cleans_what_a_killed_one_left(kernel: FakeKernel, tmp_path: Path) -> None:
    killed = XfrmBackend(tmp_path)
    killed.open()
    killed.allocate_spi("192.0.2.1", "192.0.2.2")
    killed.install(child_pair()[0])
    killed.add_bypass(BYPASS)
    crash(killed)
    assert kernel.sas
    fresh = XfrmBackend(tmp_path)
    fresh.open()
    assert kernel.everything == ({}, {})
    fresh.close()
    assert not list(tmp_path.iterdir())


def test_it_cleans_without_a_state_file_too(kernel: FakeKernel, tmp_path: Path) -> None:
    killed = XfrmBackend(tmp_path)
    killed.open()
    killed.install(child_pair()[0])
    killed.add_bypass(BYPASS)
    number = killed.instance
    crash(killed)
    next(tmp_path.iterdir()).unlink()
    assert remove_leftovers(kernel, tmp_path) == [number]  # type: ignore[arg-type]
    assert kernel.everything == ({}, {})


def test_a_living_one_is_not_cleaned_away(kernel: FakeKernel, tmp_path: Path) -> None:
    living, second = XfrmBackend(tmp_path), XfrmBackend(tmp_path)
    living.open()
    living.install(child_pair()[0])
    before = kernel.everything
    second.open()
    assert living.instance < second.instance
    second.close()
    assert kernel.everything == before
    living.close()
    assert kernel.everything == ({}, {})


def test_a_state_file_does_not_condemn_what_another_daemon_took_over(kernel: FakeKernel, tmp_path: Path) -> None:
    child = child_pair()[0]
    killed = XfrmBackend(tmp_path)
    killed.open()
    killed.install(child)
    crash(killed)
    theirs = plan.plan_child(child, 12345)
    kernel.sas[theirs.inbound.info.id] = theirs.inbound
    kernel.policies[theirs.policies[0].id] = theirs.policies[0]
    remove_leftovers(kernel, tmp_path)  # type: ignore[arg-type]
    assert kernel.everything == (
        {theirs.inbound.info.id: theirs.inbound},
        {theirs.policies[0].id: theirs.policies[0]},
    )


def test_the_state_file_knows_at_least_what_the_kernel_has(
    backend: XfrmBackend, kernel: FakeKernel, tmp_path: Path
) -> None:
    backend.install(child_pair()[0])
    backend.add_bypass(BYPASS)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert child_pair()[0].encr_key_in.octets.hex() not in text
    known = {next(iter(json.loads(line)["add"].values())) for line in text.splitlines()}
    assert {entry.encode().hex() for entry in (*kernel.sas, *kernel.policies)} <= known


def test_a_torn_line_of_the_state_file_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.state"
    sa_id = child_sa_id(7)
    state = StateFile(path)
    state.add(sa_id, child_sa_id(8))
    state.drop(child_sa_id(8))
    state.close(remove=False)
    with path.open("a") as file:
        file.write('{"add": {"sa": "c000\n{"add": {"sa": "zz"}}\n[]\n{"add": {"sa": "00"}}\n{"dro')
    assert StateFile(path).entries == [sa_id]


def child_sa_id(spi: int) -> SaId:
    return replace(plan.plan_child(child_pair()[0], 1).inbound.info.id, spi=spi)


def test_the_state_file_stays_small(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "x.state")
    for spi in range(256, 3256):
        state.add(child_sa_id(spi))
        state.drop(child_sa_id(spi))
    assert len(state.path.read_bytes().splitlines()) <= 520


def test_an_instance_is_held_until_it_is_released() -> None:
    first = InstanceLock.take_lowest()
    assert InstanceLock.take(first.number) is None
    second = InstanceLock.take_lowest()
    assert second.number > first.number
    number = first.number
    first.release()
    again = InstanceLock.take(number)
    assert again is not None
    again.release()
    second.release()


# -- dry run and choice


def test_a_dry_run_says_what_the_kernel_would_get_without_the_keys() -> None:
    said: list[str] = []
    dry = DryRunBackend(said.append)
    dry.open()
    child = replace(child_pair(encap=True)[0], spi_in=dry.allocate_spi("192.0.2.1", "192.0.2.2"))
    dry.install(child)
    dry.add_bypass(BYPASS)
    text = "".join(said)
    assert "ip xfrm state allocspi src 192.0.2.2 dst 192.0.2.1 proto esp" in text
    assert f"ip xfrm state update src 192.0.2.2 dst 192.0.2.1 proto esp spi {child.spi_in:#010x}" in text
    assert "aead 'rfc4106(gcm(aes))' 0x" + "00" * 20 + " 128 encap espinudp 4500 4500" in text
    assert "proto udp sport 18688 dir in priority 30464  # sport mask 0xffc0" in text
    assert child.encr_key_in.octets.hex() not in text
    lines = [line.split()[1] for line in text.splitlines() if line.startswith("  netlink")]
    messages = [next(parse_messages(bytes.fromhex(line))) for line in lines]
    assert [XfrmMsg(message.type).name for message in messages[:3]] == ["ALLOCSPI", "UPDSA", "NEWSA"]
    assert {XfrmMsg(message.type).name for message in messages[3:]} == {"NEWPOLICY"}
    assert Sa.parse(messages[1].body).info.spi == child.spi_in
    said.clear()
    dry.close()
    gone = "".join(said)
    assert gone.count("policy delete") == text.count("policy add")
    assert gone.count("state delete") == 2


def test_a_dry_run_says_that_an_spi_is_given_back() -> None:
    said: list[str] = []
    dry = DryRunBackend(said.append)
    spi = dry.allocate_spi("192.0.2.1", "192.0.2.2")
    dry.release_spi(spi, "192.0.2.1", "192.0.2.2")
    assert f"ip xfrm state delete src 192.0.2.2 dst 192.0.2.1 proto esp spi {spi:#010x}" in said[-1]
    message = next(parse_messages(bytes.fromhex(said[-1].split()[-1])))
    assert XfrmMsg(message.type) is XfrmMsg.DELSA
    assert message.body == SaId(ipaddress.ip_address("192.0.2.1"), spi).encode()


def test_keys_are_shown_when_asked_for() -> None:
    said: list[str] = []
    child = child_pair()[0]
    DryRunBackend(said.append, show_keys=True).install(child)
    assert child.encr_key_in.octets.hex() in "".join(said)


def results(**ok: bool) -> dict[str, ProbeResult]:
    return {name: ProbeResult(name, good, f"because of {name}") for name, good in ok.items()}


def test_auto_takes_the_first_that_serves_and_says_why() -> None:
    found = results(xfrm=False, userspace=False, memory=True)
    chosen, reason = probe.choose_backend(probe=found.__getitem__)
    assert chosen is MemoryBackend
    assert reason == "memory: because of memory; not xfrm: because of xfrm; not userspace: because of userspace"
    chosen, reason = probe.choose_backend(probe=results(xfrm=True).__getitem__)
    assert chosen is XfrmBackend
    assert reason == "xfrm: because of xfrm"


def test_a_named_backend_is_taken_or_refused_never_replaced() -> None:
    with pytest.raises(BackendError, match="backend xfrm: because of xfrm"):
        probe.choose_backend("xfrm", probe=results(xfrm=False, memory=True).__getitem__)
    chosen, _ = probe.choose_backend("dry-run")
    assert chosen is DryRunBackend
    with pytest.raises(ConfigurationError, match="backend 'foo' does not exist: one of auto, xfrm"):
        probe.choose_backend("foo")


def connection_with(*proposals: str) -> ConnectionConfig:
    child = ChildConfig("net", esp_proposals=numbered(parse_esp_proposal(text) for text in proposals))
    ike, psk = (parse_ike_proposal("aes128gcm16-prfsha256-curve25519"),), SecretOctets("PSK", b"secret")
    return ConnectionConfig("lab", ("%any",), ("%any",), ike, None, None, psk, (child,))


def offered(backend: Backend, *proposals: str) -> tuple[list[str], tuple[str, ...]]:
    """What is left of ESP proposals, and what is said of the rest."""
    (connection,), said = probe.installable(backend, [connection_with(*proposals)])
    kept = connection.children[0].esp_proposals
    assert [proposal.number for proposal in kept] == list(range(1, len(kept) + 1))
    return [proposal_keyword(proposal) for proposal in kept], said


def test_a_proposal_has_only_what_this_kernel_has(backend: XfrmBackend, kernel: FakeKernel) -> None:
    kernel.lacks = {"rfc4106(gcm(aes))", "hmac(sha512)", "rfc7539esp(chacha20,poly1305)"}
    proposals = (
        "aes256gcm16",
        "aes128ccm8-aes128gcm16",
        "aes128-sha512-sha256-curve25519",
        "aes128-sha512",
        "chacha20poly1305",
    )
    kept, said = offered(backend, *proposals)
    assert kept == ["aes128ccm8", "aes128-sha256-curve25519"]
    where = "child 'net' of connection 'lab': the xfrm backend"
    lacking = "aes256gcm16, aes128gcm16, sha512, chacha20poly1305"
    assert said == (f"{where} has no {lacking}: not offered and not taken",)
    with pytest.raises(ConfigurationError, match=f"{where} has no aes256gcm16: name others in esp_proposals"):
        offered(backend, "aes256gcm16")
    assert kernel.everything == ({}, {}), "what was tried has gone"


def test_each_algorithm_is_tried_once_however_often_it_is_named(backend: XfrmBackend, kernel: FakeKernel) -> None:
    offered(backend, "aes128gcm16", "aes256gcm16-aes128gcm12", "aes128-sha256", "aes256-sha256", "null-sha256")
    changes = kernel.changes
    assert changes == 2 * 4, "an SPI and an SA for GCM, CBC, SHA-256 and NULL"
    offered(backend, "aes192gcm8", "aes192-sha256")
    assert kernel.changes == changes


def test_a_kernel_without_esp_is_no_matter_of_algorithms(backend: XfrmBackend, kernel: FakeKernel) -> None:
    kernel.no_esp = True
    with pytest.raises(BackendError, match="this kernel has no ESP"):
        offered(backend, "aes128-sha256")
    assert kernel.everything == ({}, {})


def test_where_sha256_is_missing_ciphers_are_tried_with_sha1(backend: XfrmBackend, kernel: FakeKernel) -> None:
    kernel.lacks = {"hmac(sha256)"}
    assert offered(backend, "aes128-sha256-sha1")[0] == ["aes128-sha1"]


def test_a_dry_run_and_our_own_esp_say_what_they_have() -> None:
    iiv = "aes128gcm16iiv-aes128gcm16"
    kept, said = offered(DryRunBackend(lambda text: None), iiv)
    assert kept == ["aes128gcm16"]
    assert "the dry-run backend has no aes128gcm16iiv" in said[0]
    assert offered(MemoryBackend(), iiv) == ([iiv], ())


def test_no_backend_at_all_names_every_reason() -> None:
    with pytest.raises(BackendError, match=r"because of xfrm.*because of userspace.*because of memory"):
        probe.choose_backend(probe=results(xfrm=False, userspace=False, memory=False).__getitem__)


@pytest.mark.req("rfc7296-s1.4.1-04")
def test_a_half_closed_pair_has_lost_its_outbound_sa_and_nothing_else(
    backend: XfrmBackend, kernel: FakeKernel
) -> None:
    child = child_pair()[0]
    backend.install(child)
    policies = dict(kernel.policies)
    backend.delete_outbound(child)
    backend.delete_outbound(child)
    assert [sa_id.spi for sa_id in kernel.sas] == [child.spi_in]
    assert kernel.policies == policies
    backend.delete_outbound(replace(child, spi_in=9))
    backend.delete(child)
    assert kernel.everything == ({}, {})


def test_a_dry_run_of_a_half_closed_pair() -> None:
    said: list[str] = []
    dry = DryRunBackend(said.append)
    child = child_pair()[0]
    dry.install(child)
    said.clear()
    dry.delete_outbound(child)
    dry.delete_outbound(replace(child, spi_in=9))
    (line,) = said
    assert f"state delete src 192.0.2.1 dst 192.0.2.2 proto esp spi {child.spi_out:#010x}" in line
