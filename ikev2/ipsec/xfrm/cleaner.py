"""Takes what is ours out of the kernel: at close, and at the next start after a crash.

Nothing is deleted that does not carry our reqid or our bypass priority, whatever a state file says: between the
crash and now another daemon may have taken the selector over.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path

from ikev2.ipsec.xfrm.kernel import XfrmError, XfrmSocket
from ikev2.ipsec.xfrm.plan import instance_of_policy, instance_of_reqid
from ikev2.ipsec.xfrm.state import Entry, InstanceLock, StateFile
from ikev2.ipsec.xfrm.structs import SaId

_ABSENT = frozenset({errno.ESRCH, errno.ENOENT})


def unless_absent(action: Callable[[], None]) -> None:
    """Runs a deletion whose object may be gone already."""
    try:
        action()
    except XfrmError as error:
        if error.errno not in _ABSENT:
            raise


def _remove_entry(kernel: XfrmSocket, instance: int, entry: Entry) -> None:
    if isinstance(entry, SaId):
        if instance_of_reqid(kernel.get_sa(entry).info.reqid) == instance:
            kernel.delete_sa(entry)
    elif instance_of_policy(kernel.get_policy(entry)) == instance:
        kernel.delete_policy(entry)


def remove_ours(kernel: XfrmSocket, instance: int, entries: Iterable[Entry]) -> int:
    """Removes the entries, then whatever else carries the instance's mark; the number of the latter.

    Policies go before SAs, so that no packet asks for an SA that has just gone.
    """
    for entry in sorted(entries, key=lambda entry: isinstance(entry, SaId)):
        unless_absent(lambda gone=entry: _remove_entry(kernel, instance, gone))  # type: ignore[misc]
    strays = 0
    for policy in kernel.dump_policies():
        if instance_of_policy(policy) == instance:
            unless_absent(lambda gone=policy: kernel.delete_policy(gone.id))  # type: ignore[misc]
            strays += 1
    for sa in kernel.dump_sas():
        if instance_of_reqid(sa.info.reqid) == instance:
            unless_absent(lambda gone=sa: kernel.delete_sa(gone.info.id))  # type: ignore[misc]
            strays += 1
    return strays


def remove_leftovers(kernel: XfrmSocket, directory: Path) -> list[int]:
    """Cleans after every instance of this namespace that nobody holds any more; their numbers."""
    suspects = set(StateFile.instances(directory))
    suspects |= {number for sa in kernel.dump_sas() if (number := instance_of_reqid(sa.info.reqid)) is not None}
    suspects |= {number for policy in kernel.dump_policies() if (number := instance_of_policy(policy)) is not None}
    cleaned: list[int] = []
    for number in sorted(suspects):
        lock = InstanceLock.take(number)
        if lock is None:
            continue
        try:
            state = StateFile(StateFile.path_for(directory, number))
            remove_ours(kernel, number, state.entries)
            state.close(remove=True)
        finally:
            lock.release()
        cleaned.append(number)
    return cleaned
