"""Names that are imported when they are first used: `import ikev2` and `ikev2 --help` cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(module: str, space: dict[str, object], where: Mapping[str, str]) -> Callable[[str], object]:
    """A module's `__getattr__`: `where` says of each name which `module:attribute`, or which module, it is."""

    def get(name: str) -> object:
        place = where.get(name)
        if place is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path, _, attribute = place.partition(":")
        value = import_module(path)
        space[name] = getattr(value, attribute) if attribute else value
        return space[name]

    return get
