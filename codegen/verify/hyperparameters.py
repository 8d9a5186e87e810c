"""The numbers among an optimizer's settings, one by one: moved, or made tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from .settings import with_element

#: Ways to tell a setting: to the constructor, to the groups once, before every step.
REBUILD, WRITE, EACH_STEP = "rebuild", "write", "each step"


@dataclass(frozen=True)
class Hyperparameter:
    """One number that the settings of all groups (group None) or of one group hold.

    whole: the setting's value, of which the number is all or, in a tuple, one place.
    """

    name: str
    place: int | None
    group: int | None
    value: float
    whole: Any = field(compare=False)

    def __str__(self) -> str:
        label = self.name if self.place is None else f"{self.name}[{self.place}]"
        return label if self.group is None else f"{label} of group {self.group}"

    def at(self, value: Any) -> Any:
        """The setting with this number replaced."""
        return with_element(self.whole, self.place, value)


@dataclass(frozen=True)
class Perturbation:
    """A setting told another value, one of three ways."""

    leaf: Hyperparameter
    value: float
    way: str


def write(opt: Optimizer, moves: Iterable[Perturbation]) -> None:
    """Put moved settings into the groups of the original; one for all groups is what
    its constructor would have been told, too."""
    for m in moves:
        groups = opt.param_groups
        for group in groups if m.leaf.group is None else [groups[m.leaf.group]]:
            group[m.leaf.name] = m.leaf.at(m.value)
        if m.leaf.group is None and m.leaf.name in opt.defaults:
            opt.defaults[m.leaf.name] = m.leaf.at(m.value)


def overridden(
    opt: Optimizer, leaves: Sequence[Hyperparameter], values: Sequence[Any]
) -> dict[str, list[Any]]:
    """`opt`'s settings as an override, with `values` in the places of `leaves`."""
    groups = opt.param_groups
    found: dict[str, list[Any]] = {}
    for leaf, value in zip(leaves, values):
        if leaf.name not in found:
            shown = groups if leaf.group is not None else groups[:1]
            found[leaf.name] = [group.get(leaf.name) for group in shown]
        current = found[leaf.name]
        g = leaf.group or 0
        if leaf.place is None:
            current[g] = value
        else:
            old = current[g]
            current[g] = type(old)(
                value if j == leaf.place else v for j, v in enumerate(old)
            )
    return found
