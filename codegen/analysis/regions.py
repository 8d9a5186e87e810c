"""Regions of memory, by unification: what may be one object is one region.

Flow-insensitive, after B. Steensgaard, "Points-to Analysis in Almost Linear Time" (POPL
1996): assigning unifies, and nothing is ever taken apart again. Coarser than the heap,
but it needs no form of the loops, so that it can tell which of them may become one.
"""

from __future__ import annotations

from collections.abc import Iterable

ITEM = "@"
"""The item of a list for the parameter whose turn it is."""

ANY = "*"
"""All of a region: a tensor's elements, or any item of a container."""


class Region:
    """Objects that may be one, and what they hold: by constant key, or attribute.

    Where an item was taken by a key that isn't constant, container and items are one.
    """

    def __init__(self) -> None:
        self._became: Region | None = None
        self._held: dict[str, Region] = {}
        self._whole = False

    def found(self) -> Region:
        """The region that this one is part of now."""
        region = self
        while region._became is not None:
            region = region._became
        if region is not self:
            self._became = region
        return region

    def held(self, key: str) -> Region:
        """What lies in it under a constant key."""
        region = self.found()
        if region._whole:
            return region
        region._held.setdefault(key, Region())
        return unified([region])._held.get(key, region).found()

    def any_item(self) -> Region:
        """What lies in it under some key: from here on, one with all of it."""
        region = self.found()
        region._whole = True
        return unified([region])

    def is_container(self) -> bool:
        """Whether items were put there, or taken; of tensors, parts, too."""
        region = self.found()
        return region._whole or any(not k.startswith(".") for k in region._held)

    def parts(self) -> list[Region]:
        """What lies in it but for attributes."""
        held = self.found()._held
        return [r.found() for k, r in held.items() if not k.startswith(".")]

    def shown(self) -> list[Region]:
        """What whoever knows the region can reach: not another turn's own items."""
        return [r.found() for k, r in self.found()._held.items() if k != ITEM]

    def items(self) -> list[Region]:
        """Its items for the parameters of each turn."""
        return [r.found() for k, r in self.found()._held.items() if k == ITEM]

    def _mixes(self) -> bool:
        """Whether items are taken by turn, and by number as well."""
        return ITEM in self._held and any(k.isdigit() for k in self._held)

    def _take(self, other: Region) -> list[tuple[Region, Region]]:
        """Become one with another region; what else must become one."""
        other._became = self
        self._whole |= other._whole
        pairs = [(self._held.get(k), r) for k, r in other._held.items()]
        self._held = {**other._held, **self._held}
        other._held = {}
        return [(mine, theirs) for mine, theirs in pairs if mine is not None]


def unified(regions: Iterable[Region]) -> Region:
    """All of these as one region."""
    first, *others = regions
    pending = [(first, other) for other in others] or [(first, first)]
    while pending:
        one, other = (r.found() for r in pending.pop())
        if one is not other:
            pending += one._take(other)
        one._whole |= one._mixes()
        if one._whole:
            pending += [(one, r) for r in one._held.values()]
            one._held = {}
    return first.found()
