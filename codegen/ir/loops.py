"""What a ``for`` statement walks, and what each of its targets is an item of.

for p_idx, (p, grad) in enumerate(zip(group["params"], grads)):

position  p_idx
items     p of group["params"], grad of grads
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import cast

import libcst as cst

from codegen.syntax import is_name, positional


class Walk(Enum):
    """What the first of a loop's sources is."""

    GROUPS = "the parameter groups"
    PARAMETERS = "a group's parameters"
    RANGE = "numbers"
    ITEMS = "the items of a container"


@dataclass(frozen=True)
class Item:
    """``target`` is bound to the items of ``source``, one after the other."""

    target: cst.BaseExpression
    source: cst.BaseExpression


@dataclass(frozen=True)
class Loop:
    """A decoded head: ``position`` is the target of ``enumerate``, if there is one."""

    position: cst.BaseExpression | None
    items: tuple[Item, ...]

    @staticmethod
    def of(node: cst.For | cst.CompFor) -> Loop:
        """Decode the head of a loop or of a comprehension.

        A head that is not understood is one item: its whole target, of its iterable.
        """
        target = cast(cst.BaseExpression, node.target)
        source = node.iter
        position: cst.BaseExpression | None = None
        pair = _elements(target)
        if _is_call(source, "enumerate") and pair is not None and len(pair) == 2:
            position, target = pair
            source = cast(cst.Call, source).args[0].value
        parts = _elements(target)
        if _is_call(source, "zip") and parts is not None:
            sources = positional(cast(cst.Call, source))
            if len(sources) == len(parts):
                items = tuple(map(Item, parts, sources))
                return Loop(position, items)
        return Loop(position, (Item(target, source),))

    @property
    def walk(self) -> Walk:
        """In the README's form: ``for group_idx, (group, grads) in enumerate(…)``."""
        source = self.items[0].source if self.items else None
        if source is None or _is_call(source, "range"):
            return Walk.RANGE
        # the step's own walks count by these names; others only read what they walk
        if is_name(self.position, "group_idx"):
            return Walk.GROUPS
        return Walk.PARAMETERS if is_name(self.position, "p_idx") else Walk.ITEMS

    def targets(self) -> Iterator[cst.BaseExpression]:
        if self.position is not None:
            yield self.position
        yield from (item.target for item in self.items)


def _elements(node: cst.BaseExpression) -> list[cst.BaseExpression] | None:
    if not isinstance(node, (cst.Tuple, cst.List)):
        return None
    if any(isinstance(e, cst.StarredElement) for e in node.elements):
        return None
    return [e.value for e in node.elements]


def _is_call(node: cst.BaseExpression, name: str) -> bool:
    return isinstance(node, cst.Call) and is_name(node.func, name)
