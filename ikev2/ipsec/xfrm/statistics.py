"""What the kernel has dropped in this network namespace for want of an SA or a policy: /proc/net/xfrm_stat.

Documentation/networking/xfrm_proc.rst of Linux says what each counter is. They are the namespace's, so other programs'
packets are among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ikev2.ipsec.backend import DropReason

_FILE = Path("/proc/thread-self/net/xfrm_stat")
_REASONS: Mapping[str, DropReason] = MappingProxyType(
    {
        "XfrmInNoStates": DropReason.UNKNOWN_SPI,
        "XfrmInNoPols": DropReason.SELECTOR_MISMATCH,  # it came in a tunnel, and no policy knows of it
        "XfrmInStateMismatch": DropReason.SELECTOR_MISMATCH,  # in transport mode; or in UDP, and the SA is without
        "XfrmInTmplMismatch": DropReason.CLEAR,
        "XfrmInHdrError": DropReason.MALFORMED,
        "XfrmOutNoStates": DropReason.NO_SA,
    }
)
_OF_ONE_SA = frozenset({"XfrmInStateProtoError", "XfrmInStateSeqError"})
"""What an SA counts itself: packets that are forged, and those that are late or came again."""


class Statistics:
    """The counters from the time on at which this is made."""

    def __init__(self) -> None:
        self._before = _read()

    def drops(self) -> dict[str, int]:
        """By DropReason, and by the kernel's own name where there is none; {} without CONFIG_XFRM_STATISTICS."""
        total: Counter[str] = Counter()
        for name, count in _read().items():
            risen = count - self._before.get(name, 0)
            if risen > 0 and name not in _OF_ONE_SA:
                total[str(_REASONS.get(name, name))] += risen
        return dict(total)


def _read() -> dict[str, int]:
    try:
        lines = _FILE.read_text("ascii").splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {word[0]: int(word[1]) for word in words if len(word) == 2 and word[1].isdecimal()}
