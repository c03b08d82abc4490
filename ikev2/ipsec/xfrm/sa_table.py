"""The SAs of one instance in the kernel, each noted in the state file before the kernel has it.

RFC 4301 section 4.4.2.
"""

from __future__ import annotations

import errno

from ikev2.ipsec.xfrm.cleaner import ABSENT, unless_absent
from ikev2.ipsec.xfrm.kernel import Change, XfrmError, XfrmSocket
from ikev2.ipsec.xfrm.migration import migrate_requests
from ikev2.ipsec.xfrm.plan import ChildPlan
from ikev2.ipsec.xfrm.state import StateFile
from ikev2.ipsec.xfrm.structs import SaId
from ikev2.ipsec.xfrm.uapi import XfrmMsg


class SaTable:
    """Pairs of SAs, kept in step with the kernel and the state file."""

    def __init__(self, kernel: XfrmSocket, state: StateFile) -> None:
        self._kernel = kernel
        self._state = state

    def install(self, planned: ChildPlan) -> None:
        """Both or none; an SA of somebody else with the same SPI is refused, not replaced."""
        inbound, outbound = planned.inbound, planned.outbound
        larval = inbound.info.id in self._state
        self._state.add(inbound.info.id, outbound.info.id)
        first: Change = (XfrmMsg.UPDSA if larval else XfrmMsg.NEWSA, inbound)
        refused = self._kernel.batch([first, (XfrmMsg.NEWSA, outbound)])
        if larval and 0 in refused and refused[0].errno == errno.ESRCH:  # the larval SA timed out
            again = self._kernel.batch([(XfrmMsg.NEWSA, inbound)])
            refused = {number: error for number, error in refused.items() if number} | again
        if refused:
            # Of what was refused, another's may be there under the same SPI: it is left alone. A larval SA goes.
            for number, sa in enumerate((inbound, outbound)):
                if number not in refused or (larval and not number):
                    self.forget(sa.info.id)
                else:
                    self._state.drop(sa.info.id)
            raise refused[min(refused)]

    def forget(self, sa_id: SaId) -> None:
        """One that may have gone by itself."""
        unless_absent(lambda: self._kernel.delete_sa(sa_id))
        self._state.drop(sa_id)

    def remove(self, planned: ChildPlan) -> None:
        """Both, what is sent on first."""
        ids = [sa.info.id for sa in (planned.outbound, planned.inbound)]
        for error in self._kernel.batch([(XfrmMsg.DELSA, sa_id) for sa_id in ids]).values():
            if error.errno not in ABSENT:
                raise error
        self._state.drop(*ids)

    def migrate(self, before: ChildPlan, after: ChildPlan) -> None:
        """Let the kernel move a pair and its policies; XfrmError when it cannot: then all is at the old addresses.

        Between copying an SA and deleting the original the kernel may send under the same sequence number from both:
        the receiver drops the second as a replay. The cipher's IV is not the same, because each SA of Linux mixes a
        random number of its own into it.
        """
        old = {sa.info.id for sa in (before.inbound, before.outbound)}
        new = {sa.info.id for sa in (after.inbound, after.outbound)}
        self._state.add(*new)
        done = 0
        requests, back = migrate_requests(before, after), migrate_requests(after, before)
        try:
            for request in requests:
                self._kernel.migrate(request)
                done += 1
        except XfrmError:
            for request in reversed(back[:done]):
                self._kernel.migrate(request)
            self._state.drop(*(new - old))
            raise
        self._state.drop(*(old - new))
