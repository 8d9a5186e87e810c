"""Small parameters updated as one.

Where an update treats each element by itself, it comes to the same for a hundred short
tensors as for the one that they make when joined. What torch's dispatcher, autograd and
Python have to do beside the arithmetic is then done once: for small tensors, most of it.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from higher._carry import tensors_in
from higher._tracing import is_tracing
from higher._views import parts, whole_of
from higher.optim.state import settings_of

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer

LARGEST = 1 << 14
"""Elements up to which joining a tensor to others saves more than it costs."""

_State = list[defaultdict[int, dict[str, Any]]]
_flatten: Any = _flatten_dense_tensors
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor


def flat_groups(
    optimizer: DifferentiableOptimizer,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    largest: int | None = None,
) -> FlatGroups | None:
    """How to join parameters for ``optimizer``'s next update; None where its class does
    not allow that, or it would be of no use.

    Args:
        optimizer: has settings and state, but not ``params``.
        params: all parameters.
        grads: of each.
        largest: how many elements one that is joined may have; :data:`LARGEST`.
    """
    if not by_element(optimizer):
        return None
    most = LARGEST if largest is None else largest
    units: list[_Unit] = []
    taken: set[int] = set()
    groups = zip(
        optimizer.param_groups, optimizer._group_to_param_list, optimizer.state
    )
    for number, (group, positions, states) in enumerate(groups):
        joined: list[_Unit] = []
        if all(t.numel() == 1 for t in tensors_in(settings_of(group))):
            for at in _alike(positions, params, grads, states, most):
                shapes = [params[positions[i]].shape for i in at]
                joined.append(_Unit(number, at, [positions[i] for i in at], shapes))
        inside = {i for unit in joined for i in unit.at}
        left = [i for i in range(len(positions)) if i not in inside]
        units += joined
        units += [_Unit(number, [i], [positions[i]]) for i in left]
        taken.update(positions)
    if len(units) == len(taken):
        return None
    others = [k for k in range(len(params)) if k not in taken]
    return FlatGroups(units + [_Unit(None, [], [k]) for k in others])


def by_element(optimizer: DifferentiableOptimizer) -> bool:
    """Whether the class that has the update says that it treats each element by itself:
    one derived from it may not."""
    return (
        is_elementwise(optimizer)
        and not torch.compiler.is_compiling()
        and torch.autograd.forward_ad._current_level < 0
    )


def is_elementwise(optimizer: DifferentiableOptimizer) -> bool:
    """The same, where tensors can't be joined, too."""
    owner = next(c for c in type(optimizer).__mro__ if "_update" in vars(c))
    return bool(vars(owner).get("_elementwise")) and "_update" not in vars(optimizer)


def _alike(
    positions: Sequence[int],
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    states: Mapping[int, dict[str, Any]],
    largest: int,
) -> list[list[int]]:
    """Which parameters of a group can be joined."""
    found: dict[Any, list[int]] = {}
    for i, k in enumerate(positions):
        p, g, state = params[k], grads[k], states.get(i)
        # without state an update is too short; one element is the shape of a counter
        if g is None or not state or not 1 < p.numel() <= largest:
            continue
        if p.shape == g.shape and _is_plain(p) and _is_plain(g) and p.is_contiguous():
            slots = (_slot_kind(key, value, p) for key, value in state.items())
            kind = p.dtype, p.device, g.dtype, g.device, *slots
            found.setdefault(kind, []).append(i)
    return [at for at in found.values() if len(at) > 1]


def _slot_kind(key: str, value: Any, param: Tensor) -> tuple[Any, ...]:
    """What this state has in common with that of parameters to which ``param`` can be
    joined."""
    if value is None or isinstance(value, (int, float, str)):
        return key, type(value), value
    if isinstance(value, Tensor) and _is_plain(value):
        if value.shape == param.shape and value.is_contiguous():
            return key, value.dtype, value.device
        # reading a counter that is elsewhere would wait for it
        if (
            value.numel() == 1
            and not value.requires_grad
            and value.device.type == "cpu"
        ):
            return key, value.dtype, value.shape, value.item()
    return key, id(value)


def _is_plain(t: Tensor) -> bool:
    return (
        (type(t) in (Tensor, torch.nn.Parameter) or is_tracing())
        and t.layout is torch.strided
        and not t.is_complex()
        and not _is_transformed(t)
    )


@dataclass(frozen=True)
class _Unit:
    """A parameter, or several of a group that are joined.

    Attributes:
        group: number of the group; None for a parameter that is in none.
        at: positions in the group.
        positions: positions among all parameters.
        shapes: of the joined ones.
    """

    group: int | None
    at: list[int]
    positions: list[int]
    shapes: Sequence[torch.Size] = ()

    def fits(self, grads: Sequence[Tensor | None]) -> bool:
        if not self.shapes:
            return True
        kinds = {
            g is not None and _is_plain(g) and g.shape == shape and (g.dtype, g.device)
            for g, shape in zip(grads, self.shapes)
        }
        return len(kinds) == 1 and False not in kinds

    def joined(self, values: Sequence[Any]) -> Any:
        own = [values[k] for k in self.positions]
        return _joined(own) if self.shapes else own[0]

    def apart(self, value: Any, copied: bool = False) -> list[Any]:
        """Views, or copies that may be written into in the graph; of None, None."""
        if not self.shapes:
            return [value]
        if value is None:
            return [None] * len(self.shapes)
        if copied:
            return list(parts(value, self.shapes, copied))
        pieces = value.split([s.numel() for s in self.shapes])
        return [t.view(s) for t, s in zip(pieces, self.shapes)]

    def state(self, states: Mapping[int, dict[str, Any]]) -> dict[str, Any] | None:
        """The state of all as that of one."""
        first = states.get(self.at[0])
        if not self.shapes or first is None:
            return first
        joined = {}
        for key, value in first.items():
            whole = isinstance(value, Tensor) and value.shape == self.shapes[0]
            joined[key] = _joined([states[i][key] for i in self.at]) if whole else value
        return joined

    def slots_apart(
        self, joined: dict[str, Any], known: dict[int, list[Any]]
    ) -> list[dict[str, Any]]:
        """The state of each; ``known`` is what was taken apart already, by its ``id``."""
        if not self.shapes:
            return [{k: known.get(id(v), [v])[0] for k, v in joined.items()}]
        slots: list[dict[str, Any]] = [{} for _ in self.at]
        for key, value in joined.items():
            if id(value) not in known:
                known[id(value)] = self._slot_apart(value)
            for own, part in zip(slots, known[id(value)]):
                own[key] = part
        return slots

    def _slot_apart(self, value: Any) -> list[Any]:
        if isinstance(value, Tensor):
            if value.shape == (sum(s.numel() for s in self.shapes),):
                return list(parts(value, self.shapes))
            if not value.requires_grad:
                # counters of their own: somebody may write into one
                return [value.clone() for _ in self.at]
        return [value] * len(self.at)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The tensor of which these are all the parts, in this order, or a new one."""
    whole = None if is_tracing() else whole_of(parts)
    joined: Tensor = _flatten(parts) if whole is None else whole
    return joined


class FlatGroups:
    """How an optimizer's parameters are joined for an update: in each group flat ones come
    first and what is left follows, at the end the parameters that are in no group."""

    def __init__(self, units: list[_Unit]) -> None:
        self._units = units

    def updated(
        self,
        optimizer: DifferentiableOptimizer,
        params: list[Tensor],
        grads: list[Tensor | None],
        kwargs: Mapping[str, Any],
    ) -> list[Tensor]:
        """Updates ``optimizer``, which has these ``params`` already; the new ones."""
        twin = self.optimizer(optimizer)
        twin.state = self.state(optimizer.state)
        made = twin._updated_as_is(
            self.joined(params), self.joined_grads(grads), kwargs
        )
        # weights are the user's, who may write into them
        new = self.apart(made, copied=True)
        for group, joined, positions in zip(
            optimizer.param_groups, twin.param_groups, optimizer._group_to_param_list
        ):
            group.update({**joined, "params": [new[k] for k in positions]})
        optimizer.state = self.state_apart(twin.state, made, new)
        return new

    def optimizer(self, optimizer: DifferentiableOptimizer) -> DifferentiableOptimizer:
        """Another with the same settings, for parameters as :meth:`joined` makes them.
        It has none yet, and its state is still that of ``optimizer``."""
        twin = copy.copy(optimizer)
        twin.param_groups = [{**g, "params": []} for g in optimizer.param_groups]
        twin._group_to_param_list = [[] for _ in optimizer.param_groups]
        twin._reference_count = len(self._units)
        for k, unit in enumerate(self._units):
            if unit.group is not None:
                twin._group_to_param_list[unit.group].append(k)
        return twin

    def same(self, other: object) -> bool:
        """Whether they join the same parameters."""
        return isinstance(other, FlatGroups) and self._units == other._units

    def left_out(self, missing: Sequence[bool]) -> list[bool]:
        """Of the parameters as they are joined, which have no gradient."""
        return [missing[u.positions[0]] for u in self._units]

    def joined(self, params: Sequence[Tensor]) -> list[Tensor]:
        return [unit.joined(params) for unit in self._units]

    def joined_grads(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [
            _flatten([grads[k] for k in u.positions]) if u.shapes else u.joined(grads)
            for u in self._units
        ]

    def fit(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether these can be joined, too."""
        return all(
            unit.fits([grads[k] for k in unit.positions]) for unit in self._units
        )

    def apart(self, joined: Sequence[Any], copied: bool = False) -> list[Any]:
        """Parameters, or something of each, as they were before :meth:`joined`."""
        result: dict[int, Any] = {}
        for unit, value in zip(self._units, joined):
            result.update(zip(unit.positions, unit.apart(value, copied)))
        return [result[k] for k in range(len(result))]

    def state(self, state: _State) -> _State:
        joined: _State = [defaultdict(dict) for _ in state]
        for _, number, i, unit in self._numbered():
            slots = unit.state(state[number])
            if slots is not None:
                joined[number][i] = slots
        return joined

    def state_apart(
        self, joined: _State, made: Sequence[Tensor], new: Sequence[Tensor]
    ) -> _State:
        """The state of each parameter by itself; where it is a parameter of those
        ``made``, what became of that in ``new``."""
        state: _State = [defaultdict(dict) for _ in joined]
        for k, number, i, unit in self._numbered():
            if i in joined[number]:
                known = {id(made[k]): [new[at] for at in unit.positions]}
                slots = unit.slots_apart(joined[number][i], known)
                state[number].update(zip(unit.at, slots))
        return [defaultdict(dict, sorted(slots.items())) for slots in state]

    def _numbered(self) -> Iterator[tuple[int, int, int, _Unit]]:
        """Units with their own number, that of their group, and which of it they are."""
        counts: dict[int, int] = defaultdict(int)
        for k, unit in enumerate(self._units):
            if unit.group is not None:
                yield k, unit.group, counts[unit.group], unit
                counts[unit.group] += 1
