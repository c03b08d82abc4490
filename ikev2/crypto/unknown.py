"""The error of the algorithm registries of this package."""

from __future__ import annotations

from ikev2.errors import IkeError


class UnknownAlgorithm(IkeError, LookupError):
    """No algorithm of this number, key length or name is implemented here."""
