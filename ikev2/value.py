"""Values of which every message makes dozens: frozen dataclasses that cost less to make.

The `__init__` of a frozen dataclass calls `object.__setattr__` for every field, which takes three times as long as
storing it. Those of `@value` store it: a type checker sees a frozen dataclass and refuses to change one, at run time
nothing stands guard. Only for small classes that the profile names; all others are frozen dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as value
else:
    T = TypeVar("T")

    def value(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
        """What `dataclass(frozen=True, slots=True)` makes, but for the guard."""
        make: Any = dataclass(frozen=frozen, slots=slots)

        def decorate(cls: type[T]) -> type[T]:
            made = make(cls)
            same = [
                (
                    one.name,
                    one.type,
                    field(
                        default=one.default,
                        default_factory=one.default_factory,
                        init=one.init,
                        kw_only=one.kw_only,
                    ),
                )
                for one in fields(made)
            ]
            hooks = {"__post_init__": None} if hasattr(made, "__post_init__") else {}
            made.__init__ = make_dataclass(cls.__name__, same, namespace=hooks).__init__
            made.__setattr__, made.__delattr__ = object.__setattr__, object.__delattr__
            return made

        return decorate


__all__ = ["value"]
