"""Settings and state of a differentiable optimizer: copying, moving, pinning."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from higher._carry import mapped
from higher._dtensor import is_distributed
from higher._frozen import address_of
from higher.optim.settings import as_setting

Device: TypeAlias = "torch.device | str | None"


@dataclass(frozen=True)
class OptimizerState:
    """All that an update reads and writes besides parameters and gradients.

    ``groups[g]`` holds the settings of a group, without its parameters;
    ``state[g][i]`` the slots of one parameter; ``shared`` what belongs to none.
    """

    groups: list[dict[str, Any]]
    state: list[defaultdict[int, dict[str, Any]]]
    shared: dict[str, Any]


def copy_structure(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """``value`` with its lists, tuples, dicts and deques copied, tensors shared.

    Containers that are one object stay one: ``seen`` maps those already copied.
    """
    seen = {} if seen is None else seen
    kind = type(value)
    if kind not in (dict, defaultdict, list, tuple, deque):
        return value
    if id(value) in seen:
        return seen[id(value)][0]
    copied: Any
    if kind is dict:
        copied = {k: copy_structure(v, seen) for k, v in value.items()}
    elif kind is defaultdict:
        items = {k: copy_structure(v, seen) for k, v in value.items()}
        copied = defaultdict(value.default_factory, items)
    elif kind is deque:
        copied = deque((copy_structure(v, seen) for v in value), value.maxlen)
    else:
        copied = kind(copy_structure(v, seen) for v in value)
    seen[id(value)] = copied, value  # the original too: its id must stay taken
    return copied


def is_used(state: Sequence[Mapping[int, Mapping[str, Any]]]) -> bool:
    """Whether a step has been taken with this state."""
    return any(s.get("step", 1) != 0 for states in state for s in states.values())


def replaced(value: Any, renewed: Mapping[int, Tensor]) -> Any:
    """``value`` with tensors that are renewed in place of those with that ``id``; itself
    where it holds none of them."""
    if isinstance(value, Tensor):
        return renewed.get(id(value), value)
    if isinstance(value, Mapping):
        items = {k: replaced(v, renewed) for k, v in value.items()}
        if all(items[k] is v for k, v in value.items()):
            return value
        new = copy.copy(value)
        new.update(items)  # type: ignore[attr-defined]
        return new
    if type(value) not in (list, tuple, deque):
        return value
    parts = [replaced(v, renewed) for v in value]
    if all(a is b for a, b in zip(parts, value)):
        return value
    return deque(parts, value.maxlen) if type(value) is deque else type(value)(parts)


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def changed_settings(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> set[str]:
    """Names of settings that a step has written."""
    return {
        name
        for then, group in zip(before, now)
        for name, value in group.items()
        if name != "params" and (name not in then or then[name] is not value)
    }


def copied_settings(
    groups: Iterable[Mapping[str, Any]],
    told: Container[str],
    copied: Callable[[Tensor], Tensor],
) -> list[dict[str, Any]]:
    """Copies of the settings of ``groups``, in which those that the user may have
    ``told`` the optimizer are 0-dim if they are tensors; of what steps keep there,
    tensors that carry no gradient are ``copied``: the original writes into them."""

    def own(t: Tensor) -> Tensor:
        return t if t.requires_grad else copied(t)

    settings = [settings_of(group) for group in groups]
    kept = [{k: v for k, v in s.items() if k not in told} for s in settings]
    given = [{k: v for k, v in s.items() if k in told} for s in settings]
    return [
        {k: ours[k] if k in ours else as_setting(theirs[k]) for k in names}
        for names, ours, theirs in zip(
            settings, mapped(kept, Tensor, own), copy_structure(given)
        )
    ]


def branched_state(
    other: torch.optim.Optimizer, move: Mover
) -> list[defaultdict[int, dict[str, Any]]]:
    """Copies of ``other``'s state, by group and position instead of parameter."""
    state: list[defaultdict[int, dict[str, Any]]] = []
    for group in other.param_groups:
        used = ((i, p) for i, p in enumerate(group["params"]) if p in other.state)
        slots = {i: move.copy(other.state[p]) for i, p in used}
        state.append(defaultdict(dict, slots))
    return state


def shared_state(
    other: torch.optim.Optimizer, carried: Sequence[str], move: Mover
) -> dict[str, Any]:
    """Copies of ``other``'s carried attributes, and of its state that belongs to no
    parameter. An attribute that the first step makes isn't there before it."""
    there = (name for name in carried if hasattr(other, name))
    shared = {name: move.copy(getattr(other, name)) for name in there}
    own: Mapping[Any, Any] = other.state
    for key in own:
        if not isinstance(key, Tensor) and key not in shared:
            shared[key] = move.copy(own[key])
    return shared


class Mover:
    """Copies an optimizer's state, to a device if there is one.

    Tensors are copied too: the original optimizer writes into its own. What is one
    object stays one, and what is one of ``params`` by another name becomes the one of
    ``weights`` that stands for it.
    """

    def __init__(
        self,
        device: Device,
        params: Iterable[Tensor] = (),
        weights: Iterable[Tensor] = (),
    ) -> None:
        self.device = device
        self._weights = {memory_of(p): w for p, w in zip(params, weights)}
        # the originals too: their ids must stay taken
        self._seen: dict[int, tuple[Any, Any]] = {}

    def copy(self, value: Any, key: Any = None) -> Any:
        if id(value) not in self._seen:
            self._seen[id(value)] = self._copy(value, key), value
        return self._seen[id(value)][0]

    def _copy(self, value: Any, key: Any) -> Any:
        if isinstance(value, Tensor):
            memory = memory_of(value)
            if memory in self._weights:
                return self._weights[memory]
            if value.grad_fn is not None:
                # somebody put back what an inner loop made: not its graph, too
                value = value.detach()
            # torch, too, leaves step counters where they are
            if self.device is None or (key == "step" and value.dim() == 0):
                return value.clone()
            return value.to(self.device, copy=True)
        if isinstance(value, Mapping):
            return {k: self.copy(v, k) for k, v in value.items()}
        if isinstance(value, deque):
            return deque(map(self.copy, value), value.maxlen)
        if is_dataclass(value) and not isinstance(value, type):
            # as a translation keeps it: its items are replaced, and copied
            return {f.name: self.copy(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return [*map(self.copy, value)]  # a named tuple: likewise
        if type(value) in (list, tuple):
            return type(value)(self.copy(v) for v in value)
        return copy.copy(value)


def memory_of(t: Tensor) -> tuple[Any, ...]:
    """What tensors have in common that are one another's ``detach()``."""
    if t.layout is not torch.strided or t.numel() == 0:
        return (id(t),)
    if is_distributed(t):
        local: Any = t
        return ("distributed", *memory_of(local._local_tensor), t.shape)
    try:
        return (address_of(t), t.dtype, t.shape, t.stride())
    except RuntimeError:  # without storage, as under vmap
        return (id(t),)


def pin_dtypes(
    states: Sequence[Mapping[int, dict[str, Any]]],
    before: Sequence[Mapping[int, Mapping[str, Any]]],
) -> None:
    """Casts state back where it was promoted: in-place ops keep the dtype."""
    for now, then in zip(states, before):
        for i, old in then.items():
            slots = now[i]
            for key, t in old.items():
                new = slots.get(key)
                if new is not t and isinstance(new, Tensor) and isinstance(t, Tensor):
                    if new.dtype != t.dtype:
                        slots[key] = new.to(t.dtype)
