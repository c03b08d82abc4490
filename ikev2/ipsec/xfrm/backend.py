"""The kernel's own IPsec as a Child SA backend.

RFC 4301 section 4.4: the SAD and the SPD are the kernel's, this keeps them in step with IKE.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ikev2.core.child_sa import ChildCounters, ChildSaParameters
from ikev2.errors import BackendError, LocalProtocolError
from ikev2.ipsec.backend import (
    IKE_PORT,
    NAT_PORT,
    Acquire,
    Backend,
    BackendEvent,
    Bypass,
    DropReason,
    Expire,
    PeerMoved,
    ProbeResult,
    Trap,
)
from ikev2.ipsec.virtual_ip import VirtualAddresses
from ikev2.ipsec.xfrm import plan
from ikev2.ipsec.xfrm.cleaner import remove_leftovers, remove_ours, unless_absent
from ikev2.ipsec.xfrm.kernel import XfrmError, XfrmSocket
from ikev2.ipsec.xfrm.messages import AcquireNotice, ExpireNotice, MappingNotice, NetlinkMessage, Policy, Sa
from ikev2.ipsec.xfrm.plan import ChildPlan
from ikev2.ipsec.xfrm.probe import KernelProbe
from ikev2.ipsec.xfrm.sockets import accept_esp_in_udp, exempt_from_policies
from ikev2.ipsec.xfrm.state import InstanceLock, StateFile, default_directory
from ikev2.ipsec.xfrm.structs import PolicyId, SaId
from ikev2.ipsec.xfrm.uapi import (
    GROUP_ACQUIRE,
    GROUP_EXPIRE,
    GROUP_MAPPING,
    PolicyDirection,
    XfrmMsg,
)
from ikev2.wire.payloads import Transform

_ChildKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Installed:
    """A pair in the kernel; `ike_policies` are its share in letting IKE pass."""

    child: ChildSaParameters
    plan: ChildPlan
    ike_policies: tuple[Policy, ...]


@dataclass(slots=True)
class _Sprung:
    """What a trap has in the kernel, and the number of the acquire that waits for its Child SA (0: none)."""

    policies: tuple[Policy, ...]
    acquire: int = 0


class XfrmBackend(Backend):
    """Child SAs in the kernel of the network namespace in which `open` is called.

    `state_directory` None: `/run/ikev2`, or a private directory where that is not writable. `ike_ports` are the
    UDP ports that pass outside every tunnel, with those of the sockets given to `prepare_ike_socket`.
    """

    name: ClassVar[str] = "xfrm"

    def __init__(
        self, state_directory: Path | None = None, ike_ports: Iterable[int] = (IKE_PORT, NAT_PORT)
    ) -> None:
        self._state_directory = state_directory
        self._ike_ports = set(ike_ports)
        self._kernel: XfrmSocket | None = None
        self._notices: XfrmSocket | None = None
        self._lock: InstanceLock | None = None
        self._state: StateFile | None = None
        self._children: dict[_ChildKey, _Installed] = {}
        self._users: dict[PolicyId, list[Policy]] = {}
        self._bypasses: dict[Bypass, tuple[Policy, ...]] = {}
        self._traps: dict[Trap, _Sprung] = {}
        self._events: deque[BackendEvent] = deque()
        self._addresses = VirtualAddresses()

    # -- life

    @classmethod
    def probe(cls) -> ProbeResult:
        """Really installs a harmless SA between two loopback addresses, and takes it out again."""
        try:
            with XfrmSocket() as kernel:
                KernelProbe(kernel).esp()
        except (BackendError, OSError) as error:
            return ProbeResult(cls.name, False, f"the kernel's IPsec does not serve here: {error}")
        return ProbeResult(cls.name, True, "the kernel took an ESP SA and gave it back")

    def carries(self, transform: Transform) -> bool:
        """Tries it: no kernel has a cipher with an implicit IV (RFC 8750), and some lack others."""
        self._opened()
        return self._probe.has(transform)

    @property
    def instance(self) -> int:
        """Our number among the processes that use XFRM here; part of the reqids and bypass priorities."""
        if self._lock is None:
            raise LocalProtocolError("the xfrm backend is not open")
        return self._lock.number

    def open(self) -> None:
        try:
            self._kernel = XfrmSocket()
            self._probe = KernelProbe(self._kernel)
            self._notices = XfrmSocket(GROUP_ACQUIRE | GROUP_EXPIRE | GROUP_MAPPING)
            directory = default_directory() if self._state_directory is None else self._state_directory
            if remove_leftovers(self._kernel, directory):
                self._addresses.clean()
            self._lock = InstanceLock.take_lowest()
            self._state = StateFile(StateFile.path_for(directory, self._lock.number))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        kernel, state, lock = self._kernel, self._state, self._lock
        self._kernel = self._state = self._lock = None
        self._children.clear()
        self._users.clear()
        self._bypasses.clear()
        self._traps.clear()
        try:
            self._addresses.close()
            if kernel is not None and state is not None and lock is not None:
                remove_ours(kernel, lock.number, state.entries)
        except BackendError:
            if state is not None:  # the next start finds the file
                state.close(remove=False)
                state = None
            raise
        finally:
            if state is not None:
                state.close(remove=True)
            for resource in (kernel, self._notices):
                if resource is not None:
                    resource.close()
            self._notices = None
            if lock is not None:
                lock.release()

    def _opened(self) -> tuple[XfrmSocket, StateFile, int]:
        if self._kernel is None or self._state is None or self._lock is None:
            raise LocalProtocolError("the xfrm backend is not open")
        return self._kernel, self._state, self._lock.number

    # -- Child SAs

    def allocate_spi(self, local: str, remote: str) -> int:
        kernel, state, instance = self._opened()
        # The larval SA carries our reqid, and the kernel forgets it after 30 s (xfrm_acq_expires) if it stays one.
        larval = kernel.allocate_spi(plan.spi_request(local, remote, plan.kernel_reqid(instance, 0)))
        state.add(larval.info.id)
        return larval.info.spi

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        _, state, _ = self._opened()
        larval = SaId(ipaddress.ip_address(local.partition("%")[0]), spi)
        if larval in state and (local, spi) not in self._children:
            try:
                self._forget_sa(larval)
            except BackendError:
                return  # the kernel forgets it by itself; the state file is read at the next start

    def install(self, child: ChildSaParameters) -> None:
        self._install(child, standby=False)

    def install_standby(self, child: ChildSaParameters) -> None:
        self._install(child, standby=True)

    def activate(self, child: ChildSaParameters) -> None:
        installed = self._children.get((child.local, child.spi_in))
        if installed is not None:
            for policy in installed.plan.policies:
                self._let_decide(policy)

    def _install(self, child: ChildSaParameters, *, standby: bool) -> None:
        _, _, instance = self._opened()
        key = (child.local, child.spi_in)
        if key in self._children:
            raise LocalProtocolError(f"{child.label} is installed already")
        planned = plan.plan_child(child, plan.kernel_reqid(instance, child.reqid))
        ike = self._ike_policies(child)
        planned = replace(planned, outbound=self._acquired(child, planned.outbound))
        self._install_sas(planned)
        try:
            self._add_policies((*ike, *planned.policies), standby=standby)
        except BackendError:
            self._remove_sas(planned)
            raise
        self._children[key] = _Installed(child, planned, ike)
        try:
            self._addresses.settle(self._installed())
        except BackendError:
            self.delete(child)
            raise

    def _installed(self) -> Iterator[ChildSaParameters]:
        return (installed.child for installed in self._children.values())

    def delete(self, child: ChildSaParameters) -> None:
        _, state, _ = self._opened()
        installed = self._children.pop((child.local, child.spi_in), None)
        if installed is None:
            larval = SaId(ipaddress.ip_address(child.local), child.spi_in)
            if larval in state:
                self._forget_sa(larval)
            return
        self._remove_policies((*installed.plan.policies, *installed.ike_policies))
        self._remove_sas(installed.plan)
        self._addresses.settle(self._installed())

    def delete_outbound(self, child: ChildSaParameters) -> None:
        installed = self._children.get((child.local, child.spi_in))
        if installed is not None:
            # The policies stay: what they protect waits for another SA, and is not sent in clear.
            self._forget_sa(installed.plan.outbound.info.id)

    def update_address(self, old: ChildSaParameters, new: ChildSaParameters) -> None:
        kernel, _, instance = self._opened()
        installed = self._children.get((old.local, old.spi_in))
        if installed is None:
            raise LocalProtocolError(f"{old.label} is not installed")
        before, after = installed.plan, plan.plan_child(new, plan.kernel_reqid(instance, new.reqid))
        after = replace(
            after,
            inbound=plan.moved_sa(after.inbound, kernel.get_sa(before.inbound.info.id)),
            outbound=plan.moved_sa(after.outbound, kernel.get_sa(before.outbound.info.id)),
        )
        ike = self._ike_policies(new)
        del self._children[(old.local, old.spi_in)]
        # The old SAs go first: ports alone may have changed, and then the SPIs would collide. The old policies
        # stay until the new ones are there, so nothing leaves in clear.
        try:
            self._remove_sas(before)
            self._install_sas(after)
            try:
                self._add_policies((*ike, *after.policies))
            except BackendError:
                self._remove_sas(after)
                raise
        finally:
            self._remove_policies((*before.policies, *installed.ike_policies))
        self._children[(new.local, new.spi_in)] = _Installed(new, after, ike)
        self._addresses.settle(self._installed())

    def query(self, child: ChildSaParameters) -> ChildCounters:
        kernel, _, _ = self._opened()
        installed = self._children.get((child.local, child.spi_in))
        if installed is None:
            raise BackendError(f"{child.label} is not installed")
        planned = installed.plan
        inbound = kernel.get_sa(planned.inbound.info.id).info
        outbound = kernel.get_sa(planned.outbound.info.id).info
        errors = {
            str(DropReason.REPLAY): inbound.late_packets + inbound.replayed_packets,
            str(DropReason.INTEGRITY): inbound.integrity_failures,
        }
        return ChildCounters(
            packets_in=inbound.current.packets,
            octets_in=inbound.current.octets,
            packets_out=outbound.current.packets,
            octets_out=outbound.current.octets,
            errors={reason: count for reason, count in errors.items() if count},
        )

    def _install_sas(self, planned: ChildPlan) -> None:
        """Both or none; an SA of somebody else with the same SPI is refused, not replaced."""
        kernel, state, _ = self._opened()
        inbound, outbound = planned.inbound, planned.outbound
        try:
            if inbound.info.id in state:
                self._complete_larval(kernel, inbound)
            else:
                self._new_sa(inbound)
            self._new_sa(outbound)
        except BackendError:
            if inbound.info.id in state:
                self._forget_sa(inbound.info.id)
            raise

    def _complete_larval(self, kernel: XfrmSocket, sa: Sa) -> None:
        try:
            kernel.update_sa(sa)
        except XfrmError as error:
            if error.errno != errno.ESRCH:
                raise
            kernel.new_sa(sa)  # the larval SA timed out

    def _new_sa(self, sa: Sa) -> None:
        kernel, state, _ = self._opened()
        state.add(sa.info.id)
        try:
            kernel.new_sa(sa)
        except BackendError:
            state.drop(sa.info.id)
            raise

    def _forget_sa(self, sa_id: SaId) -> None:
        kernel, state, _ = self._opened()
        unless_absent(lambda: kernel.delete_sa(sa_id))
        state.drop(sa_id)

    def _remove_sas(self, planned: ChildPlan) -> None:
        self._forget_sa(planned.outbound.info.id)
        self._forget_sa(planned.inbound.info.id)

    # -- policies

    def _ike_policies(self, of: ChildSaParameters | Trap) -> tuple[Policy, ...]:
        ports = set(self._ike_ports)
        if isinstance(of, ChildSaParameters) and of.encap is not None:
            ports |= {of.encap.local_port}
        return plan.ike_bypass(of.local, of.remote, ports, plan.bypass_priority(self.instance))

    def _add_policies(self, policies: Iterable[Policy], *, standby: bool = False, beneath: bool = False) -> None:
        """All or none of them."""
        added: list[Policy] = []
        try:
            for policy in policies:
                self._add_policy(policy, standby=standby, beneath=beneath)
                added.append(policy)
        except BackendError:
            self._remove_policies(added)
            raise

    def _add_policy(self, policy: Policy, *, standby: bool, beneath: bool) -> None:
        """The newest user of a selector decides what its policy says; one `beneath` when there is no other.

        One that is on standby decides only what comes in: what goes out takes the SA that it took before, until
        `_let_decide`. RFC 7296 section 2.8.
        """
        kernel, state, _ = self._opened()
        users = self._users.get(policy.id)
        if users is None:
            state.add(policy.id)
            try:
                kernel.new_policy(policy)
            except BackendError:
                state.drop(policy.id)
                raise
            self._users[policy.id] = [policy]
            return
        if beneath:
            users.insert(0, policy)
            return
        if standby and policy.info.direction is PolicyDirection.OUT and not is_trap(users[-1]):
            users.insert(len(users) - 1, policy)
            return
        if users[-1] != policy:
            kernel.update_policy(policy)
        users.append(policy)

    def _let_decide(self, policy: Policy) -> None:
        kernel, _, _ = self._opened()
        users = self._users.get(policy.id, [])
        if policy not in users or users[-1] == policy:
            return
        kernel.update_policy(policy)
        users.remove(policy)
        users.append(policy)

    def _remove_policies(self, policies: Iterable[Policy]) -> None:
        for policy in policies:
            users = self._users.get(policy.id)
            if users is not None and policy in users:
                self._remove_policy(policy, users)

    def _remove_policy(self, policy: Policy, users: list[Policy]) -> None:
        kernel, state, _ = self._opened()
        deciding = users[-1]
        # The newest of equal ones: two children may ask for the same bypass.
        del users[len(users) - 1 - users[::-1].index(policy)]
        if users:
            if users[-1] != deciding:
                kernel.update_policy(users[-1])
            return
        del self._users[policy.id]
        unless_absent(lambda: kernel.delete_policy(policy.id))
        state.drop(policy.id)

    def add_bypass(self, bypass: Bypass) -> None:
        if bypass in self._bypasses:
            return
        policies = plan.measurement_bypass(bypass, plan.bypass_priority(self.instance))
        self._add_policies(policies)
        self._bypasses[bypass] = policies

    def remove_bypass(self, bypass: Bypass) -> None:
        self._remove_policies(self._bypasses.pop(bypass, ()))

    # -- traps

    def add_trap(self, trap: Trap) -> None:
        if trap in self._traps:
            return
        planned = plan.plan_trap(trap, plan.kernel_reqid(self.instance, trap.reqid))
        policies = (*self._ike_policies(trap), *planned)
        self._add_policies(policies, beneath=True)
        self._traps[trap] = _Sprung(policies)

    def remove_trap(self, trap: Trap) -> None:
        sprung = self._traps.pop(trap, None)
        if sprung is not None:
            self._remove_policies(sprung.policies)

    def _acquired(self, child: ChildSaParameters, outbound: Sa) -> Sa:
        """With the number of the acquire that waits for it: the kernel asks no more for it, and may ask again."""
        for trap, sprung in self._traps.items():
            ends = (trap.name, trap.local, trap.remote)
            if sprung.acquire and ends == (child.name, child.local, child.remote):
                sequence, sprung.acquire = sprung.acquire, 0
                return replace(outbound, info=replace(outbound.info, sequence=sequence))
        return outbound

    # -- virtual addresses

    def add_address(self, address: str) -> None:
        self._opened()
        self._addresses.add(address)
        self._addresses.settle(self._installed())

    def remove_address(self, address: str) -> None:
        self._addresses.remove(address)
        self._addresses.settle(self._installed())

    # -- sockets

    def prepare_ike_socket(self, sock: socket.socket, *, encap: bool = False) -> None:
        exempt_from_policies(sock)
        self._ike_ports.add(sock.getsockname()[1])
        if encap:
            accept_esp_in_udp(sock)

    # -- events

    def event_fd(self) -> int | None:
        return None if self._notices is None else self._notices.fileno()

    def next_event(self) -> BackendEvent | None:
        if not self._events and self._notices is not None:
            for message in self._notices.receive_notices():
                event = self._event(message)
                if event is not None:
                    self._events.append(event)
        return self._events.popleft() if self._events else None

    def _event(self, message: NetlinkMessage) -> BackendEvent | None:
        if message.type == XfrmMsg.ACQUIRE:
            return self._acquire(AcquireNotice.parse(message.body))
        if message.type == XfrmMsg.MAPPING:
            return self._moved(MappingNotice.parse(message.body))
        if message.type == XfrmMsg.EXPIRE:
            notice = ExpireNotice.parse(message.body)
            for installed in self._children.values():
                inbound = installed.plan.inbound.info.id == notice.info.id
                if inbound or installed.plan.outbound.info.id == notice.info.id:
                    child = installed.child
                    return Expire(notice.info.spi, child.local, child.remote, notice.hard, inbound)
        return None

    def _moved(self, notice: MappingNotice) -> PeerMoved | None:
        """Of an SA of ours, and only with a replay window: RFC 7296 section 2.23."""
        for installed in self._children.values():
            if installed.plan.inbound.info.id == notice.id and installed.child.replay_window:
                return PeerMoved(notice.id.spi, str(notice.source), notice.source_port)
        return None

    def _acquire(self, notice: AcquireNotice) -> Acquire | None:
        for template in notice.templates:
            if plan.instance_of_reqid(template.reqid) != self.instance:
                continue
            selector = notice.selector
            reqid = template.reqid & 0xFFFF
            for trap, sprung in self._traps.items():
                if trap.reqid & 0xFFFF == reqid:
                    reqid, sprung.acquire = trap.reqid, notice.sequence
            return Acquire(
                reqid=reqid,
                local=str(template.source),
                remote=str(template.destination),
                ip_protocol=selector.protocol,
                source="" if selector.source is None else str(selector.source.network_address),
                destination="" if selector.destination is None else str(selector.destination.network_address),
                source_port=selector.source_port,
                destination_port=selector.destination_port,
            )
        return None


def is_trap(policy: Policy) -> bool:
    """Whether an OUT policy is a trap's: that of a Child SA names an SPI."""
    return bool(policy.templates) and not policy.templates[0].spi
