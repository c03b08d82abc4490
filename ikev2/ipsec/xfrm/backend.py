"""The kernel's own IPsec as a Child SA backend.

RFC 4301 section 4.4: the SAD and the SPD are the kernel's, this keeps them in step with IKE.
"""

from __future__ import annotations

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
from ikev2.ipsec.xfrm.aevents import ReplayNotice
from ikev2.ipsec.xfrm.cleaner import remove_leftovers, remove_ours
from ikev2.ipsec.xfrm.kernel import XfrmError, XfrmSocket
from ikev2.ipsec.xfrm.messages import AcquireNotice, ExpireNotice, MappingNotice, NetlinkMessage, Policy, Sa
from ikev2.ipsec.xfrm.migration import can_migrate
from ikev2.ipsec.xfrm.offload import offloads
from ikev2.ipsec.xfrm.plan import ChildPlan
from ikev2.ipsec.xfrm.policy_table import PolicyTable
from ikev2.ipsec.xfrm.probe import KernelProbe
from ikev2.ipsec.xfrm.sa_table import SaTable
from ikev2.ipsec.xfrm.sockets import accept_esp_in_udp, exempt_from_policies
from ikev2.ipsec.xfrm.standby import Standby
from ikev2.ipsec.xfrm.state import InstanceLock, StateFile, default_directory
from ikev2.ipsec.xfrm.statistics import Statistics
from ikev2.ipsec.xfrm.structs import SaId
from ikev2.ipsec.xfrm.uapi import (
    GROUP_ACQUIRE,
    GROUP_EXPIRE,
    GROUP_MAPPING,
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
    takes_kernel_options: ClassVar[bool] = True

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
            self._sa_table = SaTable(self._kernel, self._state)
            self._policy_table = PolicyTable(self._kernel, self._state)
            self._standby = Standby(self._kernel, self._notices)
            self._statistics = Statistics()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        kernel, state, lock = self._kernel, self._state, self._lock
        self._kernel = self._state = self._lock = None
        self._children.clear()
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
        larval = SaId(plan.address_of(local), spi)
        if larval in state and (local, spi) not in self._children:
            try:
                self._sa_table.forget(larval)
            except BackendError:
                return  # the kernel forgets it by itself; the state file is read at the next start

    def install(self, child: ChildSaParameters) -> None:
        self._install(child, standby=False)

    def install_standby(self, child: ChildSaParameters) -> None:
        self._install(child, standby=True)

    def activate(self, child: ChildSaParameters) -> None:
        self._opened()
        installed = self._children.get((child.local, child.spi_in))
        if installed is not None:
            self._send_on(installed)

    def _send_on(self, installed: _Installed) -> None:
        self._standby.forget(installed.plan.inbound.info.id)
        self._policy_table.let_decide(installed.plan.policies)

    def _install(self, child: ChildSaParameters, *, standby: bool) -> None:
        _, _, instance = self._opened()
        key = (child.local, child.spi_in)
        if key in self._children:
            raise LocalProtocolError(f"{child.label} is installed already")
        reqid = plan.kernel_reqid(instance, child.reqid)
        *optional, last = offloads(child)
        for offload in optional:
            try:
                self._put_in(key, child, plan.plan_child(child, reqid, offload=offload), standby=standby)
                break
            except XfrmError:
                continue  # the device, or its driver, does less than that
        else:
            self._put_in(key, child, plan.plan_child(child, reqid, offload=last), standby=standby)
        try:
            self._addresses.settle(self._installed())
        except BackendError:
            self.delete(child)
            raise

    def _put_in(self, key: _ChildKey, child: ChildSaParameters, planned: ChildPlan, *, standby: bool) -> None:
        planned = replace(planned, outbound=self._acquired(child, planned.outbound))
        sa_id = planned.inbound.info.id
        if standby and Standby.can_wait(child):
            self._standby.watch(sa_id, child)
            planned = replace(planned, inbound=replace(planned.inbound, notice_after=1))
        ike = self._ike_policies(child)
        try:
            self._sa_table.install(planned)
            try:
                self._policy_table.add((*ike, *planned.policies), standby=standby)
            except BackendError:
                self._sa_table.remove(planned)
                raise
        except BackendError:
            self._standby.forget(sa_id)
            raise
        self._children[key] = _Installed(child, planned, ike)

    def _installed(self) -> Iterator[ChildSaParameters]:
        return (installed.child for installed in self._children.values())

    def delete(self, child: ChildSaParameters) -> None:
        _, state, _ = self._opened()
        installed = self._children.pop((child.local, child.spi_in), None)
        if installed is None:
            larval = SaId(plan.address_of(child.local), child.spi_in)
            if larval in state:
                self._sa_table.forget(larval)
            return
        self._standby.forget(installed.plan.inbound.info.id)
        self._policy_table.remove((*installed.plan.policies, *installed.ike_policies))
        self._sa_table.remove(installed.plan)
        self._addresses.settle(self._installed())

    def delete_outbound(self, child: ChildSaParameters) -> None:
        installed = self._children.get((child.local, child.spi_in))
        if installed is not None:
            # The policies stay: what they protect waits for another SA, and is not sent in clear.
            self._sa_table.forget(installed.plan.outbound.info.id)

    def update_address(self, old: ChildSaParameters, new: ChildSaParameters) -> None:
        kernel, _, instance = self._opened()
        installed = self._children.get((old.local, old.spi_in))
        if installed is None:
            raise LocalProtocolError(f"{old.label} is not installed")
        after = plan.plan_child(new, plan.kernel_reqid(instance, new.reqid), offload=offloads(new)[-1])
        if self._standby.forget(installed.plan.inbound.info.id):
            after = replace(after, inbound=replace(after.inbound, notice_after=1))
            self._standby.watch(after.inbound.info.id, new)
        if not self._migrate(installed, new, after):
            self._replace(kernel, installed, new, after)
        self._addresses.settle(self._installed())

    def _migrate(self, installed: _Installed, new: ChildSaParameters, after: ChildPlan) -> bool:
        """Let the kernel move the pair; False when it is to be taken out and put in again."""
        before = installed.plan
        ids = [policy.id for policy in before.policies]
        if not can_migrate(installed.child, new) or ids != [policy.id for policy in after.policies]:
            return False
        if before.outbound.offload is not None or not self._policy_table.alone(before.policies):
            return False  # of several SAs under one policy the kernel would move any
        ike = self._ike_policies(new)
        self._policy_table.add(ike)
        try:
            self._sa_table.migrate(before, after)
        except XfrmError:
            self._policy_table.remove(ike)
            return False
        self._policy_table.changed(before.policies, after.policies)
        self._policy_table.remove(installed.ike_policies)
        del self._children[(installed.child.local, installed.child.spi_in)]
        self._children[(new.local, new.spi_in)] = _Installed(new, after, ike)
        return True

    def _replace(self, kernel: XfrmSocket, installed: _Installed, new: ChildSaParameters, after: ChildPlan) -> None:
        """Take the pair out and put it in at the new addresses, with the sequence numbers that it has."""
        before = installed.plan
        after = replace(
            after,
            inbound=plan.moved_sa(after.inbound, kernel.get_sa(before.inbound.info.id)),
            outbound=plan.moved_sa(after.outbound, kernel.get_sa(before.outbound.info.id)),
        )
        ike = self._ike_policies(new)
        del self._children[(installed.child.local, installed.child.spi_in)]
        # The old SAs go first: ports alone may have changed, and then the SPIs would collide. The old policies
        # stay until the new ones are there, so nothing leaves in clear.
        try:
            self._sa_table.remove(before)
            self._sa_table.install(after)
            try:
                self._policy_table.add((*ike, *after.policies))
            except BackendError:
                self._sa_table.remove(after)
                raise
        finally:
            self._policy_table.remove((*before.policies, *installed.ike_policies))
        self._children[(new.local, new.spi_in)] = _Installed(new, after, ike)

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

    def drops(self) -> dict[str, int]:
        return {} if self._kernel is None else self._statistics.drops()

    # -- policies

    def _ike_policies(self, of: ChildSaParameters | Trap) -> tuple[Policy, ...]:
        ports = set(self._ike_ports)
        if isinstance(of, ChildSaParameters) and of.encap is not None:
            ports |= {of.encap.local_port}
        return plan.ike_bypass(of.local, of.remote, ports, plan.bypass_priority(self.instance))

    def add_bypass(self, bypass: Bypass) -> None:
        if bypass in self._bypasses:
            return
        policies = plan.measurement_bypass(bypass, plan.bypass_priority(self.instance))
        self._policy_table.add(policies)
        self._bypasses[bypass] = policies

    def remove_bypass(self, bypass: Bypass) -> None:
        self._policy_table.remove(self._bypasses.pop(bypass, ()))

    # -- traps

    def add_trap(self, trap: Trap) -> None:
        if trap in self._traps:
            return
        planned = plan.plan_trap(trap, plan.kernel_reqid(self.instance, trap.reqid))
        policies = (*self._ike_policies(trap), *planned)
        self._policy_table.add(policies, beneath=True)
        self._traps[trap] = _Sprung(policies)

    def remove_trap(self, trap: Trap) -> None:
        sprung = self._traps.pop(trap, None)
        if sprung is not None:
            self._policy_table.remove(sprung.policies)

    def _acquired(self, child: ChildSaParameters, outbound: Sa) -> Sa:
        """With the number of the acquire that waits for it: the kernel asks no more for it, and may ask again."""
        wanted = (child.name, plan.address_of(child.local), plan.address_of(child.remote))
        for trap, sprung in self._traps.items():
            ends = (trap.name, plan.address_of(trap.local), plan.address_of(trap.remote))
            if sprung.acquire and ends == wanted:
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
        if message.type == XfrmMsg.NEWAE:
            waiting = self._standby.arrived(ReplayNotice.parse(message.body))
            if waiting is not None:
                self.activate(waiting)
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
