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
from ikev2.ipsec.xfrm.uapi import XfrmMsg

ABSENT = frozenset({errno.ESRCH, errno.ENOENT})


def unless_absent(action: Callable[[], None]) -> None:
    """Runs a deletion whose object may be gone already."""
    try:
        action()
    except XfrmError as error:
        if error.errno not in ABSENT:
            raise


def remove_ours(kernel: XfrmSocket, instance: int, entries: Iterable[Entry]) -> int:
    """Removes what carries the instance's mark, all entries of its file among it; the number of those of no file.

    Policies go before SAs, so that no packet asks for an SA that has just gone.
    """
    known = set(entries)
    strays = 0
    for operation, ours in (
        (XfrmMsg.DELPOLICY, [one.id for one in kernel.dump_policies() if instance_of_policy(one) == instance]),
        (
            XfrmMsg.DELSA,
            [one.info.id for one in kernel.dump_sas() if instance_of_reqid(one.info.reqid) == instance],
        ),
    ):
        # An acquire that waits for an SA has no SPI, cannot be named, and goes by itself.
        named: list[Entry] = [one for one in ours if not isinstance(one, SaId) or one.spi]
        for error in kernel.batch([(operation, one) for one in named]).values():
            if error.errno not in ABSENT:
                raise error
        strays += sum(one not in known for one in named)
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
