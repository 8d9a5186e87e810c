"""The original optimizer and what it has, beside what a differentiable one has."""

from __future__ import annotations

import inspect
import linecache
import sys
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from higher._carry import tensors_in
from higher._check.original import KERNELS, CannotCheck, again, plain_step
from higher._check.random import Generators
from higher._check.rounding import After, Before
from higher._check.values import (
    ABSENT,
    Copies,
    Gap,
    Refused,
    equal,
    formed,
    gaps,
    is_number,
    taken,
    write,
)
from higher.optim.state import OptimizerState

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer

Place = tuple[int, int]
"""Of a parameter: group, and position in the group."""


class Found(NamedTuple):
    """A gap, and the parameter that it belongs to, if to one."""

    place: Place | None
    gap: Gap


class Twin:
    """A copy of the original optimizer, on parameters of its own.

    Attributes:
        optimizer: the copy.
        params: position among the reference parameters, place, and its own parameter.
        random: the generators that its step may draw from.
    """

    def __init__(self, optimizer: DifferentiableOptimizer, original: Optimizer) -> None:
        groups = zip(original.param_groups, optimizer.param_groups)
        devices = {
            id(p): w.device for a, b in groups for p, w in zip(a["params"], b["params"])
        }
        self._positions = optimizer._group_to_param_list
        self._strict = _is_compiled(type(optimizer))
        # of a parameter's state: keys that one of the two alone has
        self._theirs: dict[Place, set[Any]] = {}
        self._own: dict[Place, set[Any]] = {}
        # state that was equal after the last step: what it was there, its version, ours
        self._same: dict[int, tuple[Tensor, int, Tensor]] = {}
        accelerators = {d for d in devices.values() if d.type not in ("cpu", "meta")}
        self.random = Generators(type(original), sorted(accelerators, key=str))
        self._be(again(original, devices))

    def _be(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.params: list[tuple[int, Place, Tensor]] = [
            (k, (g, i), p)
            for g, (group, at) in enumerate(
                zip(optimizer.param_groups, self._positions)
            )
            for i, (k, p) in enumerate(zip(at, group["params"]))
        ]

    def copy(self) -> Twin:
        new: Twin = object.__new__(type(self))
        vars(new).update(vars(self))
        new._theirs, new._own = dict(self._theirs), dict(self._own)
        new._same = {}
        new._be(again(self.optimizer))
        return new

    def step(self, before: Before, kwargs: Mapping[str, Any]) -> None:
        """Steps as the original would by these gradients, and draws what the
        differentiable one drew."""
        for k, _, p in self.params:
            g = before.grads[k]
            if g is not None:
                g = g.detach().clone()
                g = g if g.dtype == p.dtype else g.to(p.dtype)
            p.grad = g
        with torch.no_grad(), self.random.at(before.random):
            plain_step(type(self.optimizer))(self.optimizer, **kwargs)
        for _, _, p in self.params:
            p.grad = None

    def refuse_unknown(self, before: Before, kwargs: Mapping[str, Any]) -> None:
        """What the original's step can't be given."""
        cls = type(self.optimizer)
        for k, _, p in self.params:
            g = before.grads[k]
            if g is not None and torch.promote_types(g.dtype, p.dtype) != p.dtype:
                raise CannotCheck(
                    f"check=True: a gradient in {str(g.dtype)[6:]} of a weight in "
                    f"{str(p.dtype)[6:]}, where {cls.__name__} takes the weight's own "
                    "dtype. Convert it in grad_callback, or leave check out."
                )
        known = inspect.signature(plain_step(cls)).parameters if kwargs else {}
        for name in kwargs:
            if name not in known:
                raise CannotCheck(
                    f"check=True: {cls.__name__}.step takes no {name!r}, which this "
                    "step was given. Leave check out."
                )

    # --- taking over ----------------------------------------------------------------

    @torch.no_grad()
    def take(
        self, optimizer: DifferentiableOptimizer, params: Sequence[Tensor] | None
    ) -> None:
        """Takes over settings, state and (reference) parameters.

        Raises:
            CannotCheck: a setting is nothing that the original could be given, or its
                constructor fills its state and can't be called.
        """
        copies: Copies = []
        for k, _, p in self.params if params is not None else ():
            w = params[k]  # type: ignore[index]
            if p.requires_grad != w.requires_grad:
                p.requires_grad_(w.requires_grad)
            if p.shape == w.shape and p.dtype == w.dtype and p.device == w.device:
                copies.append((p, w))
            else:
                p.data = w.detach().clone()
        self._take_settings(optimizer, copies)
        self._take_state(optimizer, copies)
        self._take_shared(optimizer, copies)
        write(copies)
        self._same = {}

    def _take_settings(
        self, optimizer: DifferentiableOptimizer, copies: Copies
    ) -> None:
        groups = zip(self.optimizer.param_groups, optimizer.param_groups)
        # what groups have of the defaults may be the same object there
        for own, theirs in [(self.optimizer.defaults, optimizer.defaults), *groups]:
            for name, value in theirs.items():
                if name == "params" or name in KERNELS:
                    continue
                try:
                    known = own.get(name, ABSENT)
                    own[name] = taken(known, value, copies, number=True)
                except Refused as error:
                    raise CannotCheck(
                        f"check=True: {name!r} is {error}, where the original takes "
                        "numbers: it can't step beside. Give each group a tensor of "
                        "one element, or leave check out."
                    ) from None

    def _take_state(self, optimizer: DifferentiableOptimizer, copies: Copies) -> None:
        held: Any = self.optimizer.state
        bare = []
        for _, place, p in self.params:
            theirs = optimizer.state[place[0]].get(place[1])
            own = held.get(p)
            if not theirs and not own:
                bare.append(p)
            elif own is None or isinstance(own, dict):
                held[p] = own = {} if own is None else own
                left_out = self._theirs.get(place)
                if left_out and self._strict:
                    # kept for a setting that was zero, and isn't any more
                    if not has_zeros(optimizer.param_groups[place[0]]):
                        del self._theirs[place]
                        left_out = None
                self._take_slots(place, own, theirs or {}, left_out or (), copies)
                if not own:
                    del held[p]
                    bare.append(p)
        if bare and optimizer._state_from_constructor:
            made = self._constructed().state
            held.update({p: made[p] for p in bare if p in made})

    def _take_slots(
        self,
        place: Place,
        own: dict[Any, Any],
        theirs: Mapping[Any, Any],
        left_out: Container[Any],
        copies: Copies,
    ) -> None:
        if len(own) != len(theirs) or own.keys() != theirs.keys():
            kept = self._own.get(place, ())
            for key in [k for k in own if k not in theirs and k not in kept]:
                del own[key]
        for key, value in theirs.items():
            same = self._same.get(id(value))
            if same is not None and same[1] == value._version:
                if same[0] is value and same[2] is own.get(key):
                    continue
            if key not in left_out:
                own[key] = taken(own.get(key, ABSENT), value, copies)

    def _constructed(self) -> Optimizer:
        """As the constructor makes it on the same parameters with these settings."""
        cls: Any = type(self.optimizer)
        told = inspect.signature(cls.__init__).parameters
        settings = {k: v for k, v in self.optimizer.defaults.items() if k in told}
        groups = [{**g, "params": [*g["params"]]} for g in self.optimizer.param_groups]
        try:
            with self.random.at(self.random.states()):
                made: Optimizer = cls(groups, **settings)
        except Exception as error:
            raise CannotCheck(
                f"check=True: {cls.__name__} fills its state when it is made, and "
                "can't be made again from its groups and defaults "
                f"({type(error).__name__}: {error}). Leave check out."
            ) from error
        return made

    def _take_shared(self, optimizer: DifferentiableOptimizer, copies: Copies) -> None:
        attributes, held = vars(self.optimizer), self._held()
        for name in optimizer._carried:
            if name not in optimizer.shared:
                attributes.pop(name, None)
        for name, value in optimizer.shared.items():
            if name in optimizer._carried:
                known = getattr(self.optimizer, name, ABSENT)
                setattr(self.optimizer, name, taken(known, value, copies))
            elif name in held:
                held[name] = taken(held[name], value, copies)

    def _held(self) -> Any:
        """State; what belongs to no parameter has another key."""
        return self.optimizer.state

    # --- comparing ------------------------------------------------------------------

    def differences(
        self, optimizer: DifferentiableOptimizer, before: Before, made: After
    ) -> Iterator[Found]:
        """What differs by so much as a bit, parameter by parameter."""
        held = self._held()
        for k, place, p in self.params:
            for gap in gaps(p, made.params[k], before.params[k]):
                yield Found(place, gap)
            own = held.get(p, {})
            if isinstance(own, dict):
                g, i = place
                theirs = made.state.state[g].get(i, {})
                for gap in self._in_state(place, own, theirs, before):
                    yield Found(place, gap)
        for gap in self._in_groups(before, made):
            yield Found(None, gap)
        for name, value in made.state.shared.items():
            own = held.get(name, ABSENT)
            if name in optimizer._carried:
                own = getattr(self.optimizer, name, ABSENT)
            elif own is ABSENT:
                continue
            for gap in gaps(own, value, before.state.shared.get(name, ABSENT), name):
                yield Found(None, gap)

    def _in_state(
        self,
        place: Place,
        own: dict[Any, Any],
        theirs: Mapping[Any, Any],
        before: Before,
    ) -> Iterator[Gap]:
        g, i = place
        old = before.state.state[g].get(i, {})
        common = 0
        for key, expected in own.items():
            got = theirs.get(key, ABSENT)
            common += got is not ABSENT
            if got is ABSENT and not self._strict:
                self._own.setdefault(place, set()).add(key)
                continue
            if isinstance(expected, Tensor) and isinstance(got, Tensor):
                if equal(expected, got):
                    self._same[id(got)] = got, got._version, expected
                    continue
            yield from gaps(expected, got, old.get(key, ABSENT), str(key))
        if len(theirs) == common:
            return
        # a tensor that is zero keeps state that a zero does without
        strict = self._strict and not has_zeros(before.state.groups[g])
        for key in theirs:
            if key not in own:
                if strict:
                    yield Gap(str(key), ABSENT, theirs[key], old.get(key, ABSENT))
                self._theirs.setdefault(place, set()).add(key)

    def _in_groups(self, before: Before, made: After) -> Iterator[Gap]:
        groups = self.optimizer.param_groups, made.state.groups, before.state.groups
        for own, theirs, old in zip(*groups):
            for name, value in theirs.items():
                if name != "params" and name not in KERNELS and name in own:
                    expected, then = own[name], old.get(name, ABSENT)
                    if is_number(expected) and is_number(value):
                        # in a group of ours one element has no dimensions
                        expected, value = _flat(expected), _flat(value)
                    yield from gaps(expected, value, then, name)

    def in_own_form(self, before: Before) -> Before:
        """With numbers in place of tensors where the original keeps numbers."""
        held = self._held()
        states = [
            defaultdict(dict, {i: dict(slots) for i, slots in each.items()})
            for each in before.state.state
        ]
        for _, (g, i), p in self.params:
            if i in states[g] and isinstance(held.get(p), dict):
                states[g][i] = formed(held[p], states[g][i])
        pairs = zip(self.optimizer.param_groups, before.state.groups)
        groups = [
            {k: formed(own.get(k), value) for k, value in theirs.items()}
            for own, theirs in pairs
        ]
        attributes = vars(self.optimizer)
        shared = {
            name: formed(attributes.get(name, held.get(name, ABSENT)), value)
            for name, value in before.state.shared.items()
        }
        return before._replace(state=OptimizerState(groups, states, shared))

    def eps(self, found: Found, before: Before) -> float:
        """That of the coarsest dtype from which values that differ were computed."""
        near: list[Any] = [found.gap.expected, found.gap.got]
        if found.place is None:
            near += [*before.params, *before.grads]
        else:
            held = self._held()
            k, p = next((k, p) for k, at, p in self.params if at == found.place)
            near += [before.params[k], before.grads[k]]
            # counters of torch's own are in float32
            near += [t for t in tensors_in(held.get(p)) if t.dim()]
        dtypes = {t.dtype for t in near if isinstance(t, Tensor)}
        short = [d for d in dtypes if d.is_floating_point or d.is_complex]
        return max((torch.finfo(d).eps for d in short), default=2.0**-52)

    def outcome(self) -> list[Tensor]:
        """Weights and state that belongs to them."""
        held = self._held()
        state = [held.get(p) for _, _, p in self.params]
        return [*(p for _, _, p in self.params), *tensors_in(state)]


def _flat(x: Any) -> Any:
    return x.reshape(()) if isinstance(x, Tensor) else x


def has_zeros(settings: Mapping[str, Any]) -> bool:
    """Whether one that is a tensor is on where a number would be off."""
    inside = tensors_in({k: v for k, v in settings.items() if k != "params"})
    return any(t.requires_grad and not bool(t.detach().all()) for t in inside)


def _is_compiled(cls: type) -> bool:
    """Whether its update was written by the compiler, which keeps the state's keys."""
    owner = next(c for c in cls.__mro__ if "_update" in vars(c))
    file = getattr(sys.modules.get(owner.__module__), "__file__", None)
    return file is not None and linecache.getline(file, 1).startswith(_HEADER)


_HEADER = "# Generated by `python -m codegen "
