"""The xfrm backend against this machine's own kernel, in a namespace; without ESP it has SPIs and policies only."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ikev2.core.child_sa import KernelOptions
from ikev2.core.types import Mode
from ikev2.errors import BackendError
from ikev2.io.netns import Namespace
from ikev2.ipsec.backend import Acquire, Bypass, Trap
from ikev2.ipsec.dry_run import DryRunBackend
from ikev2.ipsec.xfrm import plan, words
from ikev2.ipsec.xfrm.backend import XfrmBackend
from ikev2.ipsec.xfrm.kernel import XfrmError, XfrmSocket
from ikev2.ipsec.xfrm.messages import Policy
from ikev2.ipsec.xfrm.sockets import accept_esp_in_udp, exempt_from_policies
from ikev2.ipsec.xfrm.structs import SaId
from ikev2.ipsec.xfrm.uapi import UDP_ENCAP, SaDirection, XfrmMsg
from ikev2.wire.payloads.ts import TrafficSelector
from interop.lab.netns import why_no_namespaces

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/unit/ikev2"))

from xfrm_support import ADDRESS_A, ADDRESS_B, child_pair  # noqa: E402


def why_no_xfrm() -> str | None:
    if (reason := why_no_namespaces()) is not None:
        return reason
    try:
        with Namespace("probe") as namespace:
            namespace.call(XfrmSocket).close()
    except BackendError as error:
        return str(error)
    return None


pytestmark = [pytest.mark.netns, pytest.mark.skipif(why_no_xfrm() is not None, reason=f"{why_no_xfrm()}")]
BYPASS = Bypass(17, (18688, 18751), ADDRESS_A, ADDRESS_B)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("xfrm") as made:
        yield made


@pytest.fixture
def kernel(namespace: Namespace) -> Iterator[XfrmSocket]:
    with namespace.call(XfrmSocket) as opened:
        yield opened


@pytest.fixture
def backend(namespace: Namespace, kernel: XfrmSocket, tmp_path: Path) -> Iterator[XfrmBackend]:
    opened = XfrmBackend(tmp_path)
    namespace.call(opened.open)
    yield opened
    namespace.call(opened.close)
    assert kernel.dump_sas() == []
    assert kernel.dump_policies() == []
    assert not list(tmp_path.iterdir())


def bare(policy: Policy) -> tuple[object, ...]:
    info = policy.info
    return info.selector, info.direction, info.priority, info.action, policy.templates


def test_the_kernel_gives_an_spi_and_a_larval_sa(backend: XfrmBackend, kernel: XfrmSocket) -> None:
    spi = backend.allocate_spi(ADDRESS_A, ADDRESS_B)
    assert spi > 255
    (larval,) = kernel.dump_sas()
    assert (larval.info.spi, str(larval.info.source), str(larval.info.destination)) == (spi, ADDRESS_B, ADDRESS_A)
    assert plan.instance_of_reqid(larval.info.reqid) == backend.instance
    assert kernel.get_sa(larval.info.id) == larval
    assert backend.allocate_spi("2001:db8::1", "2001:db8::2") != spi


def test_the_larval_sa_of_an_spi_that_is_given_back_goes(backend: XfrmBackend, kernel: XfrmSocket) -> None:
    spis = [backend.allocate_spi(ADDRESS_A, ADDRESS_B) for _ in range(3)]
    backend.release_spi(spis[1], ADDRESS_A, ADDRESS_B)
    assert sorted(sa.info.spi for sa in kernel.dump_sas()) == sorted((spis[0], spis[2]))
    backend.release_spi(spis[1], ADDRESS_A, ADDRESS_B)  # nothing is there any more


def test_bypass_policies_come_back_from_the_kernel_as_they_went(backend: XfrmBackend, kernel: XfrmSocket) -> None:
    backend.add_bypass(BYPASS)
    wanted = plan.measurement_bypass(BYPASS, plan.bypass_priority(backend.instance))
    assert {bare(policy) for policy in kernel.dump_policies()} == {bare(policy) for policy in wanted}
    backend.remove_bypass(BYPASS)
    assert kernel.dump_policies() == []


def test_child_policies_come_back_from_the_kernel_as_they_went(namespace: Namespace, kernel: XfrmSocket) -> None:
    policies = plan.plan_child(child_pair()[0], plan.kernel_reqid(0, 1)).policies
    for policy in policies:
        kernel.new_policy(policy)
    assert {bare(policy) for policy in kernel.dump_policies()} == {bare(policy) for policy in policies}
    with pytest.raises(XfrmError, match="somebody else"):
        kernel.new_policy(policies[0])
    moved = replace(policies[2], templates=(replace(policies[2].templates[0], spi=0x999),))
    kernel.update_policy(moved)
    assert bare(kernel.get_policy(moved.id)) == bare(moved)
    kernel.flush_policies()
    assert kernel.dump_policies() == []


def test_the_kernel_finds_the_type_of_a_mobility_header_where_we_put_it(
    backend: XfrmBackend, namespace: Namespace, kernel: XfrmSocket
) -> None:
    """It asks for a Child SA for messages of the type that is to be protected, and lets others leave in clear."""
    here, there = "2001:db8::1", "2001:db8::2"
    for words_ in (
        ("link", "set", "lo", "up"),
        ("address", "add", here, "dev", "lo", "nodad"),
        ("route", "add", there, "dev", "lo"),
    ):
        namespace.run(["ip", *words_], check=True)
    selectors = [(TrafficSelector.from_network(host, 135, 0x0500, 0x0500),) for host in (here, there)]
    backend.add_trap(Trap("mobile", 7, Mode.TRANSPORT, here, there, *selectors))
    with namespace.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 135)) as sender:
        sender.bind((here, 0))
        for message_type in (6, 5):
            message = bytes((59, 0, message_type, 0, 0, 0, 0, 0))  # RFC 6275 section 6.1.1
            with contextlib.suppress(BlockingIOError):  # what waits for a Child SA is not sent
                sender.sendto(message, (there, 0))
            event = backend.next_event()
            assert isinstance(event, Acquire) == (message_type == 5), (message_type, event)
    assert isinstance(event, Acquire)
    assert (event.reqid, event.ip_protocol, event.source, event.destination) == (7, 135, here, there)
    kernel.flush_sas()  # of what waits there is one without an SPI, which goes by itself


def test_ip_xfrm_makes_the_same_policies_of_our_words(namespace: Namespace, kernel: XfrmSocket) -> None:
    policies = plan.plan_child(child_pair()[0], plan.kernel_reqid(0, 1)).policies
    policies += plan.ike_bypass(ADDRESS_A, ADDRESS_B, (500, 4500), 0x7700)
    policies += plan.ike_bypass("2001:db8::1", "2001:db8::2", (500,), 0x7700)
    for policy in policies:
        namespace.run(["sh", "-c", words.policy_words(policy)], check=True)
    assert {bare(policy) for policy in kernel.dump_policies()} == {bare(policy) for policy in policies}
    for policy in policies:
        namespace.run(["sh", "-c", words.policy_id_words(policy.id)], check=True)
    assert kernel.dump_policies() == []


def test_the_kernel_takes_the_octets_of_a_dry_run(namespace: Namespace, kernel: XfrmSocket) -> None:
    said: list[str] = []
    dry = DryRunBackend(said.append)
    dry.add_bypass(BYPASS)

    def send() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_XFRM) as raw:
            for line in "".join(said).splitlines():
                if line.startswith("  netlink "):
                    raw.send(bytes.fromhex(line.split()[1]))
                    raw.recv(4096)

    namespace.call(send)
    wanted = plan.measurement_bypass(BYPASS, plan.bypass_priority(0))
    assert {bare(policy) for policy in kernel.dump_policies()} == {bare(policy) for policy in wanted}


def test_a_kernel_without_esp_says_so_and_keeps_nothing(backend: XfrmBackend, kernel: XfrmSocket) -> None:
    child = replace(child_pair("aes128-sha256")[0], spi_in=backend.allocate_spi(ADDRESS_A, ADDRESS_B))
    refusal = None
    try:
        backend.install(child)
    except BackendError as error:
        refusal = str(error)
    if refusal is None:
        pytest.skip("this kernel has ESP: see tests/uml for what it does with it")
    assert "no ESP" in refusal
    assert kernel.dump_sas() == []
    assert kernel.dump_policies() == []


def test_the_probe_says_what_an_install_would_say_and_leaves_nothing(
    namespace: Namespace, kernel: XfrmSocket, backend: XfrmBackend
) -> None:
    found = namespace.call(XfrmBackend.probe)
    try:
        backend.install(child_pair("aes128-sha256")[0])
    except BackendError:
        assert not found.ok
        assert "no ESP" in found.reason
    else:
        assert found.ok
        backend.delete(child_pair("aes128-sha256")[0])
    assert kernel.dump_sas() == []


@pytest.mark.parametrize("keyword", ["aes128-sha1", "aes128-sha1-esn"])
def test_a_kernel_that_knows_directions_finds_nothing_wrong_with_ours(
    backend: XfrmBackend, kernel: XfrmSocket, keyword: str
) -> None:
    """It checks them before it looks for ESP; that they were read, its refusal of a wrong one shows."""
    backend.allocate_spi(ADDRESS_A, ADDRESS_B)
    (larval,) = kernel.dump_sas()
    if larval.direction is None:
        pytest.skip("this kernel is older than 6.10 and reads over the direction of an SA")
    assert larval.direction is SaDirection.IN
    child = replace(child_pair(keyword, replay_window=64)[0], kernel=KernelOptions(sa_direction=True))
    planned = plan.plan_child(child, plan.kernel_reqid(backend.instance, 1))
    refusals = []
    for sa in (planned.inbound, planned.outbound):
        try:
            kernel.new_sa(sa)
            kernel.delete_sa(sa.info.id)
        except XfrmError as error:
            refusals.append(error.detail)
    assert set(refusals) <= {"Requested type not found"}
    with pytest.raises(XfrmError, match="for output SA"):
        kernel.new_sa(replace(planned.inbound, direction=SaDirection.OUT))


def test_policies_of_an_interface_are_told_from_others_by_its_number(
    namespace: Namespace, kernel: XfrmSocket, backend: XfrmBackend
) -> None:
    """`ip` sees the same number, and takes the policy away by our words."""
    child = child_pair()[0]
    reqid = plan.kernel_reqid(backend.instance, 1)
    plain = plan.plan_child(child, reqid).policies
    of_interface = plan.plan_child(replace(child, kernel=KernelOptions(7, 8)), reqid).policies
    for policy in (*plain, *of_interface):
        kernel.new_policy(policy)
    found = kernel.dump_policies()
    assert {(bare(one), one.if_id) for one in found} == {(bare(one), one.if_id) for one in (*plain, *of_interface)}
    text = namespace.run(["ip", "xfrm", "policy", "list"], capture_output=True, text=True, check=True).stdout
    assert (text.count("if_id 0x7"), text.count("if_id 0x8")) == (2, 1)
    for policy in of_interface:
        assert kernel.get_policy(policy.id).if_id == policy.if_id
        namespace.run(["sh", "-c", words.policy_id_words(policy.id)], check=True)
    assert {one.if_id for one in kernel.dump_policies()} == {0}
    for policy in of_interface:
        namespace.run(["sh", "-c", words.policy_words(policy)], check=True)
    assert {(bare(one), one.if_id) for one in kernel.dump_policies()} == {
        (bare(one), one.if_id) for one in (*plain, *of_interface)
    }


def test_absent_things_are_refused_in_sentences(namespace: Namespace, kernel: XfrmSocket) -> None:
    absent = plan.plan_child(child_pair()[0], 1)
    with pytest.raises(XfrmError, match="no such SA"):
        kernel.get_sa(absent.inbound.info.id)
    with pytest.raises(XfrmError, match="no such SA"):
        kernel.delete_sa(SaId(absent.inbound.info.destination, 0x777))
    with pytest.raises(XfrmError, match="no such policy"):
        kernel.delete_policy(absent.policies[0].id)
    kernel.flush_sas()


def test_many_refusals_of_one_batch_all_come(kernel: XfrmSocket) -> None:
    """As when thousands of SAs have timed out before they are taken away."""
    destination = plan.plan_child(child_pair()[0], 1).inbound.info.destination
    absent = [SaId(destination, spi) for spi in range(0x100, 0x100 + 5000)]
    refused = kernel.batch([(XfrmMsg.DELSA, one) for one in absent])
    assert sorted(refused) == list(range(5000))
    assert {error.errno for error in refused.values()} == {errno.ESRCH}


def test_ike_sockets_are_exempt_and_the_second_takes_esp_in_udp(namespace: Namespace, kernel: XfrmSocket) -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):

        def make(family: socket.AddressFamily = family, address: str = address) -> socket.socket:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind((address, 0))
            return sock

        with namespace.call(make) as sock:
            exempt_from_policies(sock)
            accept_esp_in_udp(sock)
            assert sock.getsockopt(socket.IPPROTO_UDP, UDP_ENCAP) == 2
        assert kernel.dump_policies() == [], "policies of sockets are not listed"


CRASHING = """
import sys
from pathlib import Path
from ikev2.ipsec.backend import Bypass
from ikev2.ipsec.xfrm.backend import XfrmBackend
backend = XfrmBackend(Path(sys.argv[1]))
backend.open()
backend.allocate_spi("192.0.2.1", "192.0.2.2")
backend.add_bypass(Bypass(17, (18688, 18751), "192.0.2.1", "192.0.2.2"))
print(backend.instance, flush=True)
sys.stdin.read()
"""


def test_a_killed_process_is_cleaned_after_but_not_while_it_lives(
    namespace: Namespace, kernel: XfrmSocket, tmp_path: Path
) -> None:
    process = namespace.popen(
        [sys.executable, "-c", CRASHING, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    backend = XfrmBackend(tmp_path)
    namespace.call(backend.open)
    assert backend.instance == 1
    assert (len(kernel.dump_sas()), len(kernel.dump_policies())) == (1, 4)
    namespace.call(backend.close)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (len(kernel.dump_sas()), len(kernel.dump_policies())) == (1, 4)
    namespace.call(backend.open)
    assert (kernel.dump_sas(), kernel.dump_policies(), backend.instance) == ([], [], 0)
    namespace.call(backend.close)


def test_without_the_capability_the_sentence_says_so() -> None:
    argv = [
        sys.executable,
        "-c",
        "from ikev2.ipsec.xfrm.backend import XfrmBackend; print(XfrmBackend.probe().reason)",
    ]
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = subprocess.run([*drop, *argv], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode != 0 and "setpriv" in done.stderr:
        pytest.skip(f"capabilities cannot be dropped here: {done.stderr.strip()}")
    assert "CAP_NET_ADMIN" in done.stdout
