"""A kernel made of dictionaries, and an xfrm backend over it: fixtures that the test modules import."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ikev2.ipsec.xfrm import backend as backend_module
from ikev2.ipsec.xfrm.aevents import NoticeRequest
from ikev2.ipsec.xfrm.backend import XfrmBackend
from ikev2.ipsec.xfrm.kernel import Change, XfrmError, sentence
from ikev2.ipsec.xfrm.messages import NetlinkMessage, Policy, Sa, SpiRequest
from ikev2.ipsec.xfrm.migration import MigrateRequest
from ikev2.ipsec.xfrm.structs import PolicyId, SaId
from ikev2.ipsec.xfrm.uapi import OffloadFlag, PolicyDirection, XfrmMsg


class FakeKernel:
    """Behaves as the kernel does where the backend depends on it. `fail_at` refuses the n-th change."""

    def __init__(self) -> None:
        self.sas: dict[SaId, Sa] = {}
        self.larval: set[SaId] = set()
        self.policies: dict[PolicyId, Policy] = {}
        self.changes = 0
        self.fail_at: int | None = None
        self.notices: list[NetlinkMessage] = []
        self.lacks: set[str] = set()
        self.groups: set[int] = set()
        self.has_migrate = True
        self.offloads: set[OffloadFlag] = set()
        self.no_esp = False

    def __call__(self, groups: int = 0) -> FakeKernel:
        return self

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def receive_notices(self) -> list[NetlinkMessage]:
        waiting, self.notices = self.notices, []
        return waiting

    def _check_algorithms(self, sa: Sa) -> None:
        names = {algorithm.name for algorithm in (sa.aead, sa.crypt, sa.auth) if algorithm is not None}
        if names & self.lacks:
            self._change(XfrmMsg.UPDSA, errno.ENOSYS)
        if sa.offload is not None and (sa.offload.flags & ~OffloadFlag.INBOUND) not in self.offloads:
            self._change(XfrmMsg.UPDSA, errno.EOPNOTSUPP)
        if self.no_esp:
            self._change(XfrmMsg.UPDSA, errno.EPROTONOSUPPORT)

    def _change(self, operation: XfrmMsg, number: int = 0) -> None:
        self.changes += 1
        if self.changes == self.fail_at:
            number = errno.ENOBUFS
        if number:
            raise XfrmError(sentence(operation, number), number)

    def allocate_spi(self, request: SpiRequest) -> Sa:
        self._change(XfrmMsg.ALLOCSPI)
        sa = Sa(replace(request.info, spi=0xABC000 + self.changes))
        self.sas[sa.info.id] = sa
        self.larval.add(sa.info.id)
        return sa

    def new_sa(self, sa: Sa) -> None:
        self._check_algorithms(sa)
        self._change(XfrmMsg.NEWSA, errno.EEXIST if sa.info.id in self.sas else 0)
        self.sas[sa.info.id] = sa

    def update_sa(self, sa: Sa) -> None:
        self._check_algorithms(sa)
        self._change(XfrmMsg.UPDSA, 0 if sa.info.id in self.sas else errno.ESRCH)
        self.sas[sa.info.id] = sa
        self.larval.discard(sa.info.id)

    def delete_sa(self, sa_id: SaId) -> None:
        if self.sas.pop(sa_id, None) is None:
            raise XfrmError("", errno.ESRCH)

    def get_sa(self, sa_id: SaId) -> Sa:
        if sa_id not in self.sas:
            raise XfrmError("", errno.ESRCH)
        return self.sas[sa_id]

    def dump_sas(self) -> list[Sa]:
        return list(self.sas.values())

    def listen(self, group: int, *, wanted: bool) -> None:
        assert (group in self.groups) is not wanted
        (self.groups.add if wanted else self.groups.remove)(group)

    def set_notice(self, request: NoticeRequest) -> None:
        self.sas[request.id] = replace(self.sas[request.id], notice_after=request.packets)

    def migrate(self, request: MigrateRequest) -> None:
        """As the kernel: the policy's templates, and the first SA that matches."""
        move = request.migration
        self._change(XfrmMsg.MIGRATE, 0 if self.has_migrate else errno.ENOPROTOOPT)
        policy = self.policies[request.policy]
        templates = tuple(
            replace(one, source=move.new_source, destination=move.new_destination) for one in policy.templates
        )
        self.policies[request.policy] = replace(policy, templates=templates)
        for sa_id, sa in self.sas.items():
            if (sa.info.source, sa.info.destination, sa.info.reqid) == (
                move.old_source,
                move.old_destination,
                move.reqid,
            ):
                del self.sas[sa_id]
                info = replace(sa.info, source=move.new_source, destination=move.new_destination)
                self.sas[info.id] = replace(sa, info=info, encap=request.encap or sa.encap)
                return

    def new_policy(self, policy: Policy) -> None:
        self._change(XfrmMsg.NEWPOLICY, errno.EEXIST if policy.id in self.policies else 0)
        self.policies[policy.id] = policy

    def update_policy(self, policy: Policy) -> None:
        self._change(XfrmMsg.UPDPOLICY)
        self.policies[policy.id] = policy

    def delete_policy(self, policy_id: PolicyId) -> None:
        if self.policies.pop(policy_id, None) is None:
            raise XfrmError("", errno.ENOENT)

    def get_policy(self, policy_id: PolicyId) -> Policy:
        if policy_id not in self.policies:
            raise XfrmError("", errno.ENOENT)
        return self.policies[policy_id]

    def batch(self, changes: Sequence[Change]) -> dict[int, XfrmError]:
        """Each in turn, whatever becomes of those before."""
        do = {
            XfrmMsg.NEWPOLICY: self.new_policy,
            XfrmMsg.UPDPOLICY: self.update_policy,
            XfrmMsg.DELPOLICY: self.delete_policy,
            XfrmMsg.NEWSA: self.new_sa,
            XfrmMsg.UPDSA: self.update_sa,
            XfrmMsg.DELSA: self.delete_sa,
        }
        refused = {}
        for number, (operation, request) in enumerate(changes):
            try:
                do[operation](request)  # type: ignore[operator]
            except XfrmError as error:
                refused[number] = error
        return refused

    def dump_policies(self) -> list[Policy]:
        return list(self.policies.values())

    @property
    def everything(self) -> tuple[dict[SaId, Sa], dict[PolicyId, Policy]]:
        return dict(self.sas), dict(self.policies)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setattr(backend_module, "XfrmSocket", fake)
    return fake


@pytest.fixture
def backend(kernel: FakeKernel, tmp_path: Path) -> Iterator[XfrmBackend]:
    opened = XfrmBackend(tmp_path)
    opened.open()
    yield opened
    opened.close()
    assert kernel.everything == ({}, {})
    assert not list(tmp_path.iterdir())


def outbound_spi(kernel: FakeKernel) -> int:
    (policy,) = (p for p in kernel.policies.values() if p.info.direction is PolicyDirection.OUT and not p.is_bypass)
    return policy.templates[0].spi
