"""What becomes of a Child SA when its backend refuses what an event asks for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
from esp_support import child_pair

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.events import ChildSaMoved, ChildSaReady
from ikev2.errors import BackendError
from ikev2.io.installer import Installer
from ikev2.io.log import LogRing
from ikev2.ipsec.memory import MemoryBackend, MemoryNetwork


class Immovable(MemoryBackend):
    """A backend that takes pairs and cannot move them."""

    def update_address(self, old: ChildSaParameters, new: ChildSaParameters) -> None:
        raise BackendError("no way there")


class Told:
    """As much of a manager as hears of failures."""

    def __init__(self) -> None:
        self.failed: list[tuple[ChildSaParameters, str]] = []

    def child_install_failed(self, child: ChildSaParameters, reason: str, now: float) -> None:
        self.failed.append((child, reason))


def test_a_pair_that_cannot_move_is_deleted_here_and_at_the_peer() -> None:
    """The peer's packets would go to the wrong place, and policies may be gone: it must not seem to be up."""
    backend, manager = Immovable(MemoryNetwork()), Told()
    installer = Installer(backend, cast("Any", manager), LogRing(), Counter())
    old = child_pair()[0]
    new = replace(old, remote="192.0.2.99")
    assert installer.carry_out(ChildSaReady(old), 0.0)
    assert not installer.carry_out(ChildSaMoved(old, new), 0.0)
    assert manager.failed == [(new, "no way there")]
    with pytest.raises(BackendError, match="not installed"):
        backend.query(old)
