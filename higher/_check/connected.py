"""Gradients that a step drops: no way in the graph to what its result depends on.

A right value with a gradient that is lost looks like a right step. So in the first steps
the graph is walked, which runs nothing, from what a step has made to the gradients and
settings that it was given. One that isn't reached is moved a little in the original: if
the result moves, it ought to have been.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer

from higher._check.rounding import Before

_Node: Any = Any  # torch's nodes have attributes that its types don't know


class Walk:
    """The graph of one step, from what it has made back to what it was given.

    Args:
        results: what a step has made.
        sources: tensors that it was given.
        starts: further ones, at which the step begins: no way is followed beyond.
    """

    def __init__(
        self,
        results: Iterable[Tensor],
        sources: Sequence[Tensor],
        starts: Iterable[Tensor],
    ) -> None:
        self._nodes = [_node(t) for t in sources]
        ends = {id(n): n for n in [*self._nodes, *map(_node, starts)] if n is not None}
        self._found: set[int] = set()
        self._seen: dict[int, _Node] = {}
        waiting = [n for n in map(_node, results) if n is not None]
        while waiting:
            node = waiting.pop()
            if id(node) in ends:
                self._found.add(id(node))
            elif id(node) not in self._seen:
                self._seen[id(node)] = node  # kept: its id must stay taken
                waiting += [c for c, _ in node.next_functions if c is not None]

    def unreached(self) -> list[bool]:
        """Of each source that requires grad, whether no result has a way to it."""
        return [n is not None and id(n) not in self._found for n in self._nodes]

    def overwritten(self) -> str:
        """The name of a node that has saved what was written into in place since: its
        backward is an error. "" if there is none."""
        for node in self._seen.values():
            kind: Any = type(node)
            for name in _saved_names(kind):
                try:
                    getattr(node, name)
                except RuntimeError as error:
                    if "inplace operation" in str(error):
                        return str(node.name())
        return ""


@functools.cache
def _saved_names(kind: Any) -> tuple[str, ...]:
    return tuple(n for n in dir(kind) if n.startswith("_saved_"))


def _node(t: Tensor) -> _Node:
    return get_gradient_edge(t).node if t.requires_grad else None


class Source(NamedTuple):
    """What a step is given: the gradient of a parameter (by its position), or a setting
    (by group, name and, in a tuple, index)."""

    name: str
    place: tuple[Any, ...]
    tensor: Tensor


def sources(before: Before) -> list[Source]:
    """Gradients and settings that require grad."""
    found = [
        Source("its gradient", (k,), g)
        for k, g in enumerate(before.grads)
        if g is not None and g.requires_grad
    ]
    for number, group in enumerate(before.state.groups):
        for name, value in group.items():
            inside = enumerate(value) if type(value) in (list, tuple) else [(0, value)]
            found += [
                Source(f"setting {name!r}", (number, name, i), t)
                for i, t in inside
                if isinstance(t, Tensor) and t.requires_grad
            ]
    return found


def moved(
    source: Source, optimizer: Optimizer, before: Before, sign: int
) -> Before | None:
    """What a step starts from, with a gradient or a setting of ``optimizer``'s moved a
    little; None where it can't be.

    Args:
        source: which.
        optimizer: an original one.
        before: what the step starts from.
        sign: the way, 1 or -1: where a maximum or a sign turns, only one of them tells.
    """
    if len(source.place) == 1:
        (k,) = source.place
        g = source.tensor.detach()
        if g.layout is not torch.strided:
            return None
        waves = torch.arange(g.numel(), device=g.device).cos().reshape(g.shape)
        other = g + g * waves.to(g.dtype) * (sign * _STEP)
        return before._replace(
            grads=[other if j == k else h for j, h in enumerate(before.grads)]
        )
    number, name, i = source.place
    group = optimizer.param_groups[number]
    value = group[name]
    inside = [*value] if type(value) in (list, tuple) else [value]
    if type(inside[i]) is not float:
        return None
    inside[i] += sign * _STEP * (abs(inside[i]) or 1.0)
    group[name] = type(value)(inside) if type(value) in (list, tuple) else inside[0]
    return before


_STEP = 1e-3


def mostly_differ(these: Sequence[Tensor], those: Sequence[Tensor]) -> bool:
    """Whether most elements of some tensor are others: where signs are taken, or the
    largest, a few change by themselves."""
    for a, b in zip(these, those):
        if a.shape != b.shape or not a.is_floating_point() or not a.numel():
            continue
        a, b = a.detach(), b.detach()
        limit = 64 * torch.finfo(a.dtype).eps * a.abs()
        if 2 * int(((a - b).abs() > limit).sum()) > a.numel():
            return True
    return False
