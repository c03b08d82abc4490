"""Which rules and routes the Child SAs and bypasses of a host want, counted, so that a change costs what it changes.

A rule that several want is in force while one of them wants it. Of several routes to one destination the one that was
wanted first is in force, and the next takes its place when it goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

from ikev2.ipsec.rules import Route, Rule, Wanted


class Claims:
    """What each owner wants; an owner is anything that can be a key."""

    def __init__(self) -> None:
        self._of: dict[Hashable, tuple[Wanted, ...]] = {}
        self._rules: Counter[Rule] = Counter()
        self._routes: dict[Hashable, dict[Hashable, Route]] = {}

    def of(self, owner: Hashable) -> tuple[Wanted, ...]:
        """What an owner wants now; nothing for one that is not known."""
        return self._of.get(owner, ())

    def want(self, owner: Hashable, wanted: Iterable[Wanted]) -> tuple[set[Wanted], set[Wanted]]:
        """What an owner wants from now on; what comes into force by that, and what goes."""
        new, old = tuple(dict.fromkeys(wanted)), self.of(owner)
        places = {item.place for item in (*old, *new) if isinstance(item, Route)}
        routes_before = self._in_force(places)
        rules = {item for item in (*old, *new) if isinstance(item, Rule)}
        rules_before = {rule for rule in rules if rule in self._rules}
        self._forget(owner, old)
        self._note(owner, new)
        routes_after = self._in_force(places)
        rules_after = {rule for rule in rules if rule in self._rules}
        added = (rules_after - rules_before) | (routes_after - routes_before)
        return added, (rules_before - rules_after) | (routes_before - routes_after)

    def clear(self) -> None:
        """Nobody wants anything."""
        self._of.clear()
        self._rules.clear()
        self._routes.clear()

    def _in_force(self, places: Iterable[Hashable]) -> set[Wanted]:
        return {next(iter(self._routes[place].values())) for place in places if place in self._routes}

    def _forget(self, owner: Hashable, wanted: tuple[Wanted, ...]) -> None:
        self._of.pop(owner, None)
        for item in wanted:
            if isinstance(item, Route):
                claims = self._routes[item.place]
                del claims[owner]
                if not claims:
                    del self._routes[item.place]
            else:
                self._rules[item] -= 1
                if not self._rules[item]:
                    del self._rules[item]

    def _note(self, owner: Hashable, wanted: tuple[Wanted, ...]) -> None:
        if wanted:
            self._of[owner] = wanted
        for item in wanted:
            if isinstance(item, Route):
                self._routes.setdefault(item.place, {})[owner] = item
            else:
                self._rules[item] += 1
