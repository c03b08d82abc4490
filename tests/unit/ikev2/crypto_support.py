"""What the tests of ikev2.crypto share: published figures, and entropy that can be foreseen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[2] / "vectors" / "ikev2"


def vectors(name: str) -> Any:
    """The content of a file of published figures; its `source` says where they are from."""
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


class CountingEntropy:
    """SHA-256 of a seed and a counter: the same octets in every run."""

    def __init__(self, seed: str = "seed") -> None:
        self.seed = seed
        self.drawn = 0

    def octets(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            out += hashlib.sha256(f"{self.seed}/{self.drawn}/{len(out)}".encode()).digest()
        self.drawn += 1
        return out[:count]
