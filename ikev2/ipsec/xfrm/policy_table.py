"""The policies of one instance in the kernel, several users of one selector among them.

The kernel has one policy for a selector in a list: the newest user decides what it says, a trap only when there is no
other. RFC 4301 section 4.4.1, RFC 7296 section 2.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ikev2.ipsec.xfrm.cleaner import ABSENT
from ikev2.ipsec.xfrm.kernel import Change, XfrmError, XfrmSocket
from ikev2.ipsec.xfrm.messages import Policy
from ikev2.ipsec.xfrm.state import StateFile
from ikev2.ipsec.xfrm.structs import PolicyId
from ikev2.ipsec.xfrm.uapi import PolicyDirection, XfrmMsg


class PolicyTable:
    """Who uses which policy, kept in step with the kernel and the state file."""

    def __init__(self, kernel: XfrmSocket, state: StateFile) -> None:
        self._kernel = kernel
        self._state = state
        self._users: dict[PolicyId, list[Policy]] = {}
        self._beneath: set[Policy] = set()  # of traps

    def add(self, policies: Sequence[Policy], *, standby: bool = False, beneath: bool = False) -> None:
        """All or none of them.

        The newest user of a selector decides; one `beneath` when there is no other, and one on `standby` only what
        comes in: what goes out takes the SA that it took before, until `let_decide`.
        """
        before: dict[PolicyId, list[Policy]] = {}
        for policy in policies:
            policy_id = policy.id
            users = self._users.setdefault(policy_id, [])
            before.setdefault(policy_id, users.copy())
            self._place(policy, users, standby=standby, beneath=beneath)
        self._follow(before)

    def _place(self, policy: Policy, users: list[Policy], *, standby: bool, beneath: bool) -> None:
        if beneath:
            self._beneath.add(policy)
            users.insert(0, policy)
        elif standby and users and policy.info.direction is PolicyDirection.OUT and users[-1] not in self._beneath:
            users.insert(len(users) - 1, policy)
        else:
            users.append(policy)

    def _follow(self, before: dict[PolicyId, list[Policy]]) -> None:
        """Tell the kernel what has changed since `before`; what it refuses, and all else of this, is taken back."""
        done: list[tuple[XfrmMsg, PolicyId]] = []
        for policy_id, users in before.items():
            now = self._users[policy_id]
            if not users:
                done.append((XfrmMsg.NEWPOLICY, policy_id))
            elif not now:
                done.append((XfrmMsg.DELPOLICY, policy_id))
            elif now[-1] != users[-1]:
                done.append((XfrmMsg.UPDPOLICY, policy_id))
        changes: list[Change] = [
            (operation, policy_id if operation is XfrmMsg.DELPOLICY else self._users[policy_id][-1])
            for operation, policy_id in done
        ]
        fresh = [policy_id for policy_id, users in before.items() if not users]
        self._state.add(*fresh)
        refused = self._kernel.batch(changes)
        refused = {number: error for number, error in refused.items() if not _was_gone(changes[number], error)}
        if refused:
            self._take_back(done, refused, before)
            raise next(iter(refused.values()))
        self._forget_unused(before)

    def _take_back(
        self,
        done: list[tuple[XfrmMsg, PolicyId]],
        refused: dict[int, XfrmError],
        before: dict[PolicyId, list[Policy]],
    ) -> None:
        undo: list[Change] = []
        for number, (operation, policy_id) in enumerate(done):
            if number in refused:
                continue
            if operation is XfrmMsg.NEWPOLICY:
                undo.append((XfrmMsg.DELPOLICY, policy_id))
            else:
                undo.append((XfrmMsg.UPDPOLICY, before[policy_id][-1]))  # which makes it again when it is gone
        self._kernel.batch(undo)
        self._users |= before
        self._forget_unused(before)

    def _forget_unused(self, touched: Iterable[PolicyId]) -> None:
        unused = [policy_id for policy_id in touched if not self._users[policy_id]]
        for policy_id in unused:
            del self._users[policy_id]
        self._state.drop(*unused)
        if self._beneath:
            still = {user for policy_id in touched for user in self._users.get(policy_id, ())}
            gone = set(touched)
            self._beneath -= {one for one in self._beneath if one.id in gone and one not in still}

    def let_decide(self, policies: Iterable[Policy]) -> None:
        """These say what is sent on from now on, where they are there."""
        before: dict[PolicyId, list[Policy]] = {}
        for policy in policies:
            users = self._users.get(policy.id, [])
            if policy in users and users[-1] != policy:
                before[policy.id] = list(users)
                users.remove(policy)
                users.append(policy)
        self._follow(before)

    def remove(self, policies: Iterable[Policy]) -> None:
        """One user less of each; the newest of equal ones, because two children may ask for the same bypass."""
        before: dict[PolicyId, list[Policy]] = {}
        for policy in policies:
            policy_id = policy.id
            users = self._users.get(policy_id)
            if users is not None and policy in users:
                before.setdefault(policy_id, users.copy())
                del users[len(users) - 1 - users[::-1].index(policy)]
        self._follow(before)

    def alone(self, policies: Sequence[Policy]) -> bool:
        """Whether each of these is the only user of its selector, traps aside."""
        users = (self._users.get(policy.id, []) for policy in policies)
        return all(
            [user for user in there if user not in self._beneath] == [policy]
            for there, policy in zip(users, policies, strict=True)
        )

    def changed(self, before: Iterable[Policy], after: Iterable[Policy]) -> None:
        """The kernel has put `after` in the place of `before`, of the same selectors, by itself."""
        for old, new in zip(before, after, strict=True):
            users = self._users[old.id]
            users[users.index(old)] = new


def _was_gone(change: Change, error: XfrmError) -> bool:
    """A deletion whose object had gone already."""
    return change[0] is XfrmMsg.DELPOLICY and error.errno in ABSENT
