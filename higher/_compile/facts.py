"""What a traced step depends on besides tensors, to tell whether a graph can be used
again: code, what it is closed over, modes and plain attributes of modules."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from higher._object_graph import ATOMIC, content
from higher._tasks.module import PerTask
from higher.optim.flat_groups import FlatGroups


class Same:
    """Equal to what stands for the very same object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


class Facts:
    """Of a step: facts and how parameters are joined, compared together."""

    def __init__(self, facts: list[Any], joined: FlatGroups | None) -> None:
        self._facts = facts
        self._joined = joined

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Facts) or self._facts != other._facts:
            return False
        a, b = self._joined, other._joined
        return a is b or (a is not None and a.same(b))

    __hash__ = None  # type: ignore[assignment]


_DEEPEST = 5


def facts_of(value: Any, tensors: list[Tensor], depth: int = 0) -> Any:
    """Something equal for values that a trace can't tell from one another.

    Args:
        value: anything.
        tensors: takes the tensors inside, for which there is no more than their kind.
        depth: how far inside.
    """
    kind = type(value)
    if isinstance(value, Tensor):
        tensors.append(value)
        return kind_of(value)
    if kind in ATOMIC:
        return kind, value
    if depth > _DEEPEST:
        return Same(value)
    further = functools.partial(facts_of, tensors=tensors, depth=depth + 1)
    if kind in (list, tuple):
        return kind, [further(v) for v in value]
    if kind is dict:
        return kind, [(further(k), further(v)) for k, v in value.items()]
    if kind is PerTask:
        return kind, further(value.loss_fn)
    if kind is functools.partial:
        return kind, further(value.func), further(value.args), further(value.keywords)
    if kind is types.MethodType:
        return kind, value.__func__.__code__, Same(value.__self__)
    if kind is types.FunctionType:
        return kind, _function(value, further)
    return Same(value)


def _function(function: types.FunctionType, further: Any) -> Any:
    code = function.__code__
    cells = [further(content(c)) for c in function.__closure__ or ()]
    defaults = further(function.__defaults__), further(function.__kwdefaults__)
    read = [
        (name, further(value))
        for name in code.co_names
        if name in function.__globals__
        for value in [function.__globals__[name]]
        if type(value) in ATOMIC or isinstance(value, Tensor)
    ]
    return code, cells, defaults, read


def kind_of(t: Tensor) -> tuple[Any, ...]:
    strides = t.stride() if t.layout is torch.strided else None
    return t.shape, t.dtype, t.device, strides, t.requires_grad, t.layout


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
_OWN = frozenset(vars(nn.Module()))


def facts_of_modules(modules: Sequence[nn.Module], tensors: list[Tensor]) -> Any:
    """The same of modules; tensors are those that are neither weights nor buffers."""
    return [_module(m, tensors) for m in modules]


def _module(module: nn.Module, tensors: list[Tensor]) -> Any:
    held: Mapping[str, Any] = module.__dict__
    plain: list[Any] = [type(module), module.training]
    for name, value in held.items():
        if name in _OWN:
            if name in _HOOKS and value:
                plain.append([Same(hook) for hook in value.values()])
        elif isinstance(value, Tensor):
            tensors.append(value)
            plain.append((name, kind_of(value)))
        elif type(value) in ATOMIC:
            plain.append((name, value))
    return plain


def facts_of_surroundings() -> Any:
    """What the process is set to."""
    return torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
