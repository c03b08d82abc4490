"""The dry run: says what the xfrm backend would put into the kernel, and puts in nothing.

Each request comes as a line in the words of `ip xfrm` and a line `  netlink ...` with the octets of the message
in this machine's byte order. Keys are zeros in both unless `show_keys` is given.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterable
from typing import ClassVar

from ikev2.core.child_sa import ChildCounters, ChildSaParameters
from ikev2.ipsec.backend import IKE_PORT, NAT_PORT, SPI_MINIMUM, Backend, Bypass, ProbeResult, Trap
from ikev2.ipsec.virtual_ip import DEVICE_PREFIX as VIRTUAL_DEVICE
from ikev2.ipsec.xfrm import plan, words
from ikev2.ipsec.xfrm.algorithms import kernel_has
from ikev2.ipsec.xfrm.messages import Policy, Request, Sa, encode_message
from ikev2.ipsec.xfrm.structs import SaId
from ikev2.ipsec.xfrm.uapi import NlmF, XfrmMsg
from ikev2.wire.payloads import Transform

_INSTANCE = 0


class DryRunBackend(Backend):
    """Prints; every SA counts zero packets. `write` takes text with its line ends; the default is standard output."""

    name: ClassVar[str] = "dry-run"
    takes_kernel_options: ClassVar[bool] = True

    def __init__(self, write: Callable[[str], object] | None = None, *, show_keys: bool = False) -> None:
        self._write: Callable[[str], object] = sys.stdout.write if write is None else write
        self._show_keys = show_keys
        self._sequence = 0
        self._ike_ports = {IKE_PORT, NAT_PORT}
        self._children: dict[tuple[str, int], tuple[ChildSaParameters, tuple[Policy, ...]]] = {}
        self._bypasses: dict[Bypass, tuple[Policy, ...]] = {}
        self._traps: dict[Trap, tuple[Policy, ...]] = {}

    def carries(self, transform: Transform) -> bool:
        """As a kernel would that has all that a kernel may have."""
        return kernel_has(transform)

    @classmethod
    def probe(cls) -> ProbeResult:
        return ProbeResult(cls.name, True, "a dry run needs nothing and protects nothing")

    def open(self) -> None:
        self._write("# dry run: nothing below is installed\n")

    def close(self) -> None:
        for child, _ in list(self._children.values()):
            self.delete(child)
        for bypass in list(self._bypasses):
            self.remove_bypass(bypass)
        for trap in list(self._traps):
            self.remove_trap(trap)

    def allocate_spi(self, local: str, remote: str) -> int:
        spi = SPI_MINIMUM + int.from_bytes(os.urandom(4), "big") % (2**32 - SPI_MINIMUM)
        request = plan.spi_request(local, remote, plan.kernel_reqid(_INSTANCE, 0))
        line = f"ip xfrm state allocspi src {remote} dst {local} proto esp min {SPI_MINIMUM:#x} max 0xffffffff"
        self._say(f"{line}  # as if the answer were {spi:#010x}", XfrmMsg.ALLOCSPI, request)
        return spi

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        self._write(f"# no Child SA has come of {spi:#010x}\n")
        sa_id = SaId(plan.address_of(local), spi)
        self._say(words.sa_id_words(sa_id, remote), XfrmMsg.DELSA, sa_id)

    def install(self, child: ChildSaParameters) -> None:
        planned = plan.plan_child(child, plan.kernel_reqid(_INSTANCE, child.reqid))
        ike = plan.ike_bypass(child.local, child.remote, self._ike_ports, plan.bypass_priority(_INSTANCE))
        self._write(f"# {child.label}: {child.suite.keyword}, {child.mode}\n")
        self._say_sa("update", XfrmMsg.UPDSA, planned.inbound)
        self._say_sa("add", XfrmMsg.NEWSA, planned.outbound)
        self._add(ike)
        self._add(planned.policies)
        self._children[(child.local, child.spi_in)] = (child, (*planned.policies, *ike))

    def update_address(self, old: ChildSaParameters, new: ChildSaParameters) -> None:
        self.delete(old)
        self._write("# with the sequence numbers and the window of the old SAs:\n")
        self.install(new)

    def delete(self, child: ChildSaParameters) -> None:
        installed = self._children.pop((child.local, child.spi_in), None)
        if installed is None:
            return
        known, policies = installed
        self._remove(policies)
        planned = plan.plan_child(known, plan.kernel_reqid(_INSTANCE, known.reqid))
        for sa in (planned.outbound, planned.inbound):
            self._say_delete(sa)

    def delete_outbound(self, child: ChildSaParameters) -> None:
        installed = self._children.get((child.local, child.spi_in))
        if installed is not None:
            planned = plan.plan_child(installed[0], plan.kernel_reqid(_INSTANCE, child.reqid))
            self._say_delete(planned.outbound)

    def query(self, child: ChildSaParameters) -> ChildCounters:
        return ChildCounters()

    def add_bypass(self, bypass: Bypass) -> None:
        if bypass not in self._bypasses:
            self._bypasses[bypass] = plan.measurement_bypass(bypass, plan.bypass_priority(_INSTANCE))
            self._add(self._bypasses[bypass])

    def remove_bypass(self, bypass: Bypass) -> None:
        self._remove(self._bypasses.pop(bypass, ()))

    def add_trap(self, trap: Trap) -> None:
        if trap not in self._traps:
            self._write(f"# {trap.name}: a Child SA when there is traffic for it\n")
            ike = plan.ike_bypass(trap.local, trap.remote, self._ike_ports, plan.bypass_priority(_INSTANCE))
            self._traps[trap] = (*ike, *plan.plan_trap(trap, plan.kernel_reqid(_INSTANCE, trap.reqid)))
            self._add(self._traps[trap])

    def remove_trap(self, trap: Trap) -> None:
        self._remove(self._traps.pop(trap, ()))

    def add_address(self, address: str) -> None:
        self._write(f"ip address add {ipaddress.ip_network(address)} dev {VIRTUAL_DEVICE}0\n")

    def remove_address(self, address: str) -> None:
        self._write(f"ip address delete {ipaddress.ip_network(address)} dev {VIRTUAL_DEVICE}0\n")

    def prepare_ike_socket(self, sock: socket.socket, *, encap: bool = False) -> None:
        port = sock.getsockname()[1]
        self._ike_ports.add(port)
        self._write(
            f"# UDP port {port}: socket policies allow in and out{', UDP_ENCAP_ESPINUDP' if encap else ''}\n"
        )

    def _add(self, policies: Iterable[Policy]) -> None:
        for policy in policies:
            self._say(words.policy_words(policy), XfrmMsg.NEWPOLICY, policy)

    def _remove(self, policies: Iterable[Policy]) -> None:
        for policy in policies:
            self._say(words.policy_id_words(policy.id), XfrmMsg.DELPOLICY, policy.id)

    def _say_sa(self, verb: str, operation: XfrmMsg, sa: Sa) -> None:
        shown = sa if self._show_keys else words.without_keys(sa)
        self._say(words.sa_words(shown, verb), operation, shown)

    def _say_delete(self, sa: Sa) -> None:
        self._say(words.sa_id_words(sa.info.id, str(sa.info.source)), XfrmMsg.DELSA, sa.info.id)

    def _say(self, line: str, operation: XfrmMsg, request: Request) -> None:
        self._sequence += 1
        octets = encode_message(operation, NlmF.REQUEST | NlmF.ACK, self._sequence, request.encode())
        self._write(f"{line}\n  netlink {octets.hex()}\n")
