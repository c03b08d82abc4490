"""The policies of one instance in the kernel, several users of one selector among them.

The kernel has one policy for a selector in a list: the newest user decides what it says, a trap only when there is no
other. RFC 4301 section 4.4.1, RFC 7296 section 2.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ikev2.errors import BackendError
from ikev2.ipsec.xfrm.cleaner import unless_absent
from ikev2.ipsec.xfrm.kernel import XfrmSocket
from ikev2.ipsec.xfrm.messages import Policy
from ikev2.ipsec.xfrm.state import StateFile
from ikev2.ipsec.xfrm.structs import PolicyId
from ikev2.ipsec.xfrm.uapi import PolicyDirection


class PolicyTable:
    """Who uses which policy, kept in step with the kernel and the state file."""

    def __init__(self, kernel: XfrmSocket, state: StateFile) -> None:
        self._kernel = kernel
        self._state = state
        self._users: dict[PolicyId, list[Policy]] = {}
        self._beneath: set[Policy] = set()  # of traps

    def add(self, policies: Iterable[Policy], *, standby: bool = False, beneath: bool = False) -> None:
        """All or none of them.

        The newest user of a selector decides; one `beneath` when there is no other, and one on `standby` only what
        comes in: what goes out takes the SA that it took before, until `let_decide`.
        """
        added: list[Policy] = []
        try:
            for policy in policies:
                self._add_one(policy, standby=standby, beneath=beneath)
                added.append(policy)
        except BackendError:
            self.remove(added)
            raise

    def _add_one(self, policy: Policy, *, standby: bool, beneath: bool) -> None:
        users = self._users.get(policy.id)
        if beneath:
            self._beneath.add(policy)
        if users is None:
            self._state.add(policy.id)
            try:
                self._kernel.new_policy(policy)
            except BackendError:
                self._state.drop(policy.id)
                raise
            self._users[policy.id] = [policy]
            return
        if beneath:
            users.insert(0, policy)
            return
        if standby and policy.info.direction is PolicyDirection.OUT and users[-1] not in self._beneath:
            users.insert(len(users) - 1, policy)
            return
        if users[-1] != policy:
            self._kernel.update_policy(policy)
        users.append(policy)

    def let_decide(self, policies: Iterable[Policy]) -> None:
        """These say what is sent on from now on, where they are there."""
        for policy in policies:
            users = self._users.get(policy.id, [])
            if policy in users and users[-1] != policy:
                self._kernel.update_policy(policy)
                users.remove(policy)
                users.append(policy)

    def remove(self, policies: Iterable[Policy]) -> None:
        """One user less of each; the newest of equal ones, because two children may ask for the same bypass."""
        for policy in policies:
            users = self._users.get(policy.id)
            if users is not None and policy in users:
                self._remove_one(policy, users)

    def _remove_one(self, policy: Policy, users: list[Policy]) -> None:
        deciding = users[-1]
        del users[len(users) - 1 - users[::-1].index(policy)]
        if policy not in users:
            self._beneath.discard(policy)
        if users:
            if users[-1] != deciding:
                self._kernel.update_policy(users[-1])
            return
        del self._users[policy.id]
        unless_absent(lambda: self._kernel.delete_policy(policy.id))
        self._state.drop(policy.id)

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
