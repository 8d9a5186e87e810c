"""What an update does, found out by running it on an element or two of each parameter: of
one that treats each element by itself they tell as much as all."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from higher._carry import Slot, mapped, packed, tensors_in
from higher._compile.capture import Answered, Decided
from higher._tracing import tracing
from higher._unroll.held import Held
from higher.optim.base import DifferentiableOptimizer
from higher.optim.state import settings_of

State = list["defaultdict[int, dict[str, Any]]"]


def decisions(
    optimizer: DifferentiableOptimizer,
    held: Held,
    settings: list[dict[str, Any]],
    missing: Sequence[bool],
) -> tuple[list[bool], bool]:
    """What an update decides by the values of settings and counters, in the order of the
    questions, and whether one of them depends on a counter.

    Args:
        optimizer: without parameters and state.
        held: what is updated.
        settings: stand for those that are held.
        missing: which parameters have no gradient.
    """
    optimizer = copy.copy(optimizer)
    optimizer.param_groups = [{**g, "params": []} for g in settings]
    if held.flat_groups is not None:
        missing = held.flat_groups.left_out(missing)
        optimizer = held.flat_groups.optimizer(optimizer)
    optimizer._tasks = None
    params = [_few(p, 1) for p in held.params]
    shapes = [p.shape for p in held.params]
    optimizer.shared = held.shared
    optimizer.state = [
        mapped(s, Tensor, lambda t: _few(t, 1) if t.shape in shapes and t.dim() else t)
        for s in held.state
    ]
    grads = [None if m else torch.ones_like(p) for m, p in zip(missing, params)]
    counters = [t for t in tensors_in(optimizer.state) if t.dim() == 0]
    with torch.enable_grad(), tracing(), Decided(counters) as decided:
        optimizer._updated_as_is(params, list(grads), {})
    return decided.answers, decided.changing


def first_state(
    optimizer: DifferentiableOptimizer, held: Held, missing: Sequence[bool]
) -> State | None:
    """State such that the update of what is ``held`` comes to the same as without: what
    the update itself makes before it reads it. None where that is not proven.

    Args:
        optimizer: without parameters and state.
        held: what is updated, as single parameters.
        missing: which of them have no gradient.
    """
    settings = tensors_in(held.groups)
    if held.flat_groups is not None or held.shared or any(t.dim() for t in settings):
        return None
    known: dict[Any, dict[str, Any] | None] = {}
    state: State = [defaultdict(dict, slots) for slots in held.state]
    for group, positions in enumerate(optimizer._group_to_param_list):
        for i, k in enumerate(positions):
            param = held.params[k]
            if missing[k] or state[group].get(i):
                continue
            kind = group, param.dtype, param.device, param.requires_grad
            if kind not in known:
                known[kind] = _remembered(optimizer, held.groups, group, param)
            slots = known[kind]
            if slots is None or param.is_complex():
                return None
            own = {key: _of(value, param, settings) for key, value in slots.items()}
            state[group][i] = own
    return state


def _remembered(
    optimizer: DifferentiableOptimizer,
    settings: list[dict[str, Any]],
    group: int,
    param: Tensor,
) -> dict[str, Any] | None:
    """The same as :func:`_first_slots`, which takes a while."""
    layout, tensors = packed(settings[group])
    values = [*tree_leaves(layout), *tensors]
    if not all(type(v) in _PLAIN for v in values) or any(
        t.device.type != "cpu" for t in tensors
    ):
        return _first_slots(optimizer, settings, group, param)
    numbers = [(t.dtype, t.requires_grad, t.item()) for t in tensors]
    told = repr((layout, numbers))
    key = type(optimizer), told, param.dtype, param.device, param.requires_grad
    if key not in _found:
        slots = _first_slots(optimizer, settings, group, param)
        made = tensors_in(slots)
        if any(t.requires_grad or any(t is s for s in tensors) for t in made):
            return slots
        if len(_found) >= _MOST:
            _found.clear()
        _found[key] = slots
    return _found[key]


def _first_slots(
    optimizer: DifferentiableOptimizer,
    settings: list[dict[str, Any]],
    group: int,
    param: Tensor,
) -> dict[str, Any] | None:
    """What the first update of a few elements puts into each slot before all else, if
    it comes to the same when that is there before."""
    few = _few(param.detach(), _FEW).requires_grad_(param.requires_grad)
    grad = torch.ones_like(few).requires_grad_()
    numbers = _Numbers([few, grad])

    def result(slots: dict[str, Any]) -> Any:
        twin = copy.copy(optimizer)
        twin._tasks = None
        twin.param_groups = [{**g, "params": []} for g in settings]
        twin._group_to_param_list = [[] for _ in settings]
        twin._group_to_param_list[group] = [0]
        twin._reference_count = 1
        twin.state = [defaultdict(dict) for _ in settings]
        twin.state[group][0] = slots
        twin.shared = {}
        with torch.enable_grad(), tracing(), Answered([]), numbers:
            new = twin._updated_as_is([few], [grad], {})
        groups = [settings_of(g) for g in twin.param_groups]
        found = [new, groups, [dict(s) for s in twin.state[group].values()]]
        layout, tensors = packed([*found, twin.shared])
        return layout, [numbers.of(t) for t in tensors]

    noted = _Noted()
    found = result(noted)
    first = noted.first
    if not numbers.usable(tensors_in(first)) or first.keys() != noted.keys():
        return None
    return first if result(dict(first)) == found and numbers.usable([]) else None


class _Noted(dict[str, Any]):
    """Notes what is first put under each key."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, Any] = {}

    def __setitem__(self, key: str, value: Any) -> None:
        self.first.setdefault(key, value)
        super().__setitem__(key, value)


class _Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers tensors while entered: those have the same that are computed in the same
    way, by the same operations from the same tensors.

    Args:
        changing: tensors that stand for others with other values.
    """

    def __init__(self, changing: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._table: dict[Any, int] = {}
        self._held: list[Any] = []
        self._changing: set[int] = set()
        self._known = True
        self._changing = {self._number(t) for t in changing}

    def usable(self, tensors: Iterable[Tensor]) -> bool:
        """Whether nothing was done that numbers can't tell of, and these tensors depend
        on none that is changing."""
        return self._known and not any(
            self._number(t) in self._changing for t in tensors
        )

    def of(self, t: Tensor) -> Any:
        """The same only for what has the same value and the same derivatives."""
        return self._number(t), t.dtype, t.requires_grad, self._node(t.grad_fn)

    def _number(self, t: Tensor) -> int:
        # nothing is written into here: what lies at one place is one value
        self._held.append(t)
        place = t.data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype
        return self._entry(("at", *place))

    def _entry(self, key: Any, number: int | None = None) -> int:
        new = len(self._table) if number is None else number
        return self._table.setdefault(key, new)

    def _node(self, node: Any) -> int:
        if node is None:
            return -1
        self._held.append(node)
        known = self._table.get(("node", id(node)))
        if known is not None:
            return known
        if type(node).__name__ == "AccumulateGrad":
            key: Any = "leaf", id(node.variable)
        else:
            edges = ((self._node(n), i) for n, i in node.next_functions)
            key = "made", node.name(), tuple(edges)
        return self._entry(("node", id(node)), self._entry(key))

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        if function is torch.ops.aten.lift_fresh.default:
            # a number of the program's
            key: Any = "number", args[0].dtype, str(args[0].tolist())
        else:
            words = tree_map(self._word, (args, sorted(kwargs.items())))
            key = function, str(words)
        changing = any(self._number(t) in self._changing for t in given)
        made = [v for v in tree_leaves(result) if isinstance(v, Tensor)]
        # a value that is read is one of those that stay
        self._known &= len(made) == 1 or not (made or changing)
        self._known &= not function._schema.is_mutable
        self._known &= torch.Tag.nondeterministic_seeded not in function.tags
        for t in made:
            number = self._entry(key)
            self._held.append(t)
            place = t.data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype
            number = self._entry(("at", *place), number)
            if changing and function not in _BY_SHAPE:
                self._changing.add(number)
        return result

    def _word(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return f"tensor {self._number(value)}"
        return f"{type(value).__name__} {value!r}"


_aten: Any = torch.ops.aten
_BY_SHAPE = frozenset(
    (_aten.zeros_like.default, _aten.ones_like.default, _aten.full_like.default)
)
"""What takes nothing but its form from the first tensor."""

_FEW = 2
_PLAIN = frozenset((int, float, bool, str, type(None), Slot, Tensor))
_MOST = 256
_found: dict[Any, dict[str, Any] | None] = {}
"""By optimizers and their settings."""


def _few(t: Tensor, count: int) -> Tensor:
    one = t.reshape(-1)[:1]
    return one if count == 1 else one.repeat(count)


def _of(value: Any, param: Tensor, settings: Sequence[Tensor]) -> Any:
    """The same of all elements."""
    if not isinstance(value, Tensor) or any(value is t for t in settings):
        return value
    if value.shape == (_FEW,):
        value = value[0].expand(param.shape)
    return value.clone(memory_format=torch.contiguous_format)
