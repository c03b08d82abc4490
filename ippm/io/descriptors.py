"""The limit of open files: each Control connection takes one, and each test session one (an OWAMP receiver two)."""

from __future__ import annotations

import contextlib
import logging
import resource

log = logging.getLogger("ippm.server")

SPARE = 64
"""For listeners, epoll, log, libraries."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, and say so; gives the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.info("open files: at most %d (it was %d)", hard, soft)
        return hard
    return soft


def check_descriptors(limit: int, wanted: int) -> None:
    """Warn when the configured limits of connections and sessions ask for more open files than there may be."""
    if 0 <= limit < wanted + SPARE:
        log.warning(
            "open files: at most %d, but as many connections and sessions as are configured take %d; raise ulimit -n",
            limit,
            wanted + SPARE,
        )
