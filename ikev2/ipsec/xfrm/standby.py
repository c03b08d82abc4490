"""Pairs on standby: the kernel tells of the first packet on one, and only while there is one.

The group of these notices is left again at once: as long as somebody listens, the kernel tells of every SA that has no
threshold of its own, those of other programs included. RFC 7296 section 2.8.
"""

from __future__ import annotations

from ikev2.core.child_sa import ChildSaParameters
from ikev2.ipsec.xfrm.aevents import AeFlag, NoticeRequest, ReplayNotice
from ikev2.ipsec.xfrm.cleaner import unless_absent
from ikev2.ipsec.xfrm.kernel import XfrmSocket
from ikev2.ipsec.xfrm.structs import SaId
from ikev2.ipsec.xfrm.uapi import GROUP_NUMBER_AEVENTS


class Standby:
    """By the inbound SA, the pairs that receive and are not sent on yet."""

    def __init__(self, kernel: XfrmSocket, notices: XfrmSocket) -> None:
        self._kernel = kernel
        self._notices = notices
        self._waiting: dict[SaId, ChildSaParameters] = {}

    @staticmethod
    def can_wait(child: ChildSaParameters) -> bool:
        """Whether the kernel counts what comes: without a replay window and ESN it does not look at the numbers."""
        return child.replay_window > 0 or child.suite.esn

    def watch(self, sa_id: SaId, child: ChildSaParameters) -> None:
        """Before the SA is installed, which asks for a notice after one packet."""
        if not self._waiting:
            self._notices.listen(GROUP_NUMBER_AEVENTS, wanted=True)
        self._waiting[sa_id] = child

    def forget(self, sa_id: SaId) -> bool:
        """It is sent on, or gone; True when it was waiting."""
        if self._waiting.pop(sa_id, None) is None:
            return False
        if not self._waiting:
            self._notices.listen(GROUP_NUMBER_AEVENTS, wanted=False)
        return True

    def arrived(self, notice: ReplayNotice) -> ChildSaParameters | None:
        """The pair whose first packet this tells of; None when it is none of these, or no packet came."""
        child = self._waiting.get(notice.id)
        if child is None or AeFlag.CAUSE_REPLAY not in notice.flags:
            return None
        self.forget(notice.id)  # before the kernel tells everybody of the next
        unless_absent(lambda: self._kernel.set_notice(NoticeRequest(notice.id, 0)))
        return child
