"""One step of both optimizers, and what becomes of a difference."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from higher._carry import tensors_in
from higher._check.connected import Walk, mostly_differ, moved, sources
from higher._check.errors import ADVICE, ZEROS, CheckError, Where, difference
from higher._check.rounding import After, Before, is_rounding
from higher._check.twin import Found, Place, Twin, has_zeros
from higher._check.values import Gap, Size, size
from higher.optim.state import OptimizerState, copy_structure, settings_of

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer

_FIRST_STEPS = 3


class Shadow:
    """The original optimizer of one inner loop, on parameters of its own.

    Attributes:
        steps: how many have been compared.
    """

    def __init__(
        self,
        optimizer: DifferentiableOptimizer,
        original: Optimizer,
        names: Sequence[str],
        walks: bool = True,
    ) -> None:
        """Branches off ``original`` as ``optimizer`` has just done, or takes over what
        that has by now.

        Args:
            optimizer: the differentiable one; it is not kept.
            original: the original one; it is not changed.
            names: of the reference parameters.
            walks: whether gradients that get lost are looked for in the graph.

        Raises:
            CannotCheck: the original can't be made again, or can't be stepped so.
        """
        self.steps = 0
        self._names = names
        self._walks = walks
        self._twin = Twin(optimizer, original)
        self._twin.take(optimizer, None)
        self._before: Before | None = None
        self._given: list[Tensor] = []
        self._versions: list[int] = []
        # for what the first steps' results depend on: a copy to be stepped otherwise
        self._spare: Twin | None = None
        self._reached: set[tuple[Any, ...]] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Shadow:
        new: Shadow = object.__new__(type(self))
        vars(new).update(vars(self), _before=None, _spare=None, _given=[])
        new._reached = set(self._reached)
        new._twin = self._twin.copy()
        return new

    def begins(
        self,
        optimizer: DifferentiableOptimizer,
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> None:
        """Takes over weights, settings and state that a step starts from.

        Args:
            optimizer: has the settings and state.
            params: weights in the order of the reference parameters.
            grads: their gradients, as the update is given them.
        """
        self._twin.take(optimizer, params)
        # an update may write into containers
        state = OptimizerState(
            [copy_structure(settings_of(g)) for g in optimizer.param_groups],
            [
                defaultdict(dict, {i: _copied(slots) for i, slots in states.items()})
                for states in optimizer.state
            ],
            _copied(optimizer.shared),
        )
        self._before = Before([*params], [*grads], state, self._twin.random.states())
        self._given = [*params, *(g for g in grads if g is not None), *_held(state)]
        self._versions = [t._version for t in self._given]
        if self._walks and self.steps < _FIRST_STEPS and torch.is_grad_enabled():
            if any(s.place not in self._reached for s in sources(self._before)):
                self._spare = self._twin.copy()

    def ends(
        self,
        optimizer: DifferentiableOptimizer,
        params: Sequence[Tensor],
        kwargs: Mapping[str, Any] = {},
    ) -> None:
        """Steps the original from where :meth:`begins` put it, and compares.

        Args:
            optimizer: has settings and state after the step.
            params: the new weights.
            kwargs: what else the step was given.

        Raises:
            CheckError: something is not what the original makes of it.
        """
        before, self._before = self._before, None
        given, self._given = self._given, []
        spare, self._spare = self._spare, None
        assert before is not None
        self.steps += 1
        self._refuse_writes(given, before)
        self._run(before, kwargs)
        made = After(
            params,
            OptimizerState(optimizer.param_groups, optimizer.state, optimizer.shared),
        )
        wrong = self._wrong(optimizer, before, made)
        if wrong:
            self._settle(optimizer, before, wrong, kwargs)
        if spare is not None:
            self._refuse_dropped(before, made, spare, kwargs)

    def _run(self, before: Before, kwargs: Mapping[str, Any]) -> None:
        self._twin.refuse_unknown(before, kwargs)
        try:
            self._twin.step(before, kwargs)
        except Exception as error:
            slots = (d for states in before.state.state for d in states.values())
            keys = sorted({str(k) for d in slots for k in d})
            raise self._error(
                f"the original's own raises {type(error).__name__}: {error}. The "
                "differentiable one doesn't. The original is given the state that this "
                f"has ({', '.join(keys) or 'none'}): if it keeps another, begin the "
                "check with innerloop_ctx."
            ) from error

    def _error(
        self, what: str, parameter: str = "", key: str = "", off: float = math.inf
    ) -> CheckError:
        cls = type(self._twin.optimizer).__name__
        message = f"check=True: in step {self.steps} beside {cls}, {what}"
        return CheckError(message, parameter, self.steps, key, off)

    # --- values ---------------------------------------------------------------------

    def _wrong(
        self, optimizer: DifferentiableOptimizer, before: Before, made: After
    ) -> list[tuple[Found, Size]]:
        """What differs by more than rounding, with its size."""
        result = []
        for found in self._twin.differences(optimizer, before, made):
            tensors = tensors_in(before.state.groups)
            gap = _in_one_dtype(found.gap) if tensors else found.gap
            measured = size(gap, self._twin.eps(found, before))
            if measured.off > measured.limit:
                result.append((found, measured))
        return result

    def _position(self, place: Place) -> int:
        return next(k for k, at, _ in self._twin.params if at == place)

    def _settle(
        self,
        optimizer: DifferentiableOptimizer,
        before: Before,
        wrong: list[tuple[Found, Size]],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Raises unless it is rounding after all."""

        def update(start: Before) -> After:
            # gradients on or off as in the step: a zero is on where it has one
            with self._twin.random.at(before.random):
                made = optimizer.update(
                    start.params, start.grads, start.state, **kwargs
                )
            return After(*made)

        def fits() -> bool:
            numbers = self._twin.in_own_form(before)
            return not self._wrong(optimizer, before, update(numbers))

        error = self._difference(before, *wrong[0], len(wrong) - 1)
        try:
            tensors = tensors_in(before.state.groups)
            rounded = (
                bool(tensors)
                and fits()
                and is_rounding(update, before, self._twin.in_own_form)
            )
        except Exception as cause:  # with numbers, or in double precision, it can't run
            raise error from cause
        if not rounded:
            raise error

    def _difference(
        self, before: Before, found: Found, measured: Size, more: int
    ) -> CheckError:
        where = Where("")
        if found.place is not None:
            k = self._position(found.place)
            shape = tuple(before.params[k].shape)
            where = Where(self._names[k], found.place[0], shape)
        told = f"of {where}, {difference(found.gap, measured, more)}. {ADVICE}"
        if any(map(has_zeros, before.state.groups)):
            told += f" {ZEROS}"
        return self._error(told, where.name, found.gap.key, measured.off)

    # --- gradients ------------------------------------------------------------------

    def _refuse_writes(self, given: Sequence[Tensor], before: Before) -> None:
        """Earlier steps' graphs hold what an update is given."""
        for t, version in zip(given, self._versions):
            if t._version != version:
                name, key = self._place_of(t, before)
                raise self._error(
                    f"the update writes into {key or 'the weight'!r} of "
                    f"{name or 'the optimizer'!r} in place, which the graphs of earlier "
                    f"steps hold. {ADVICE}",
                    *(name, key),
                )

    def _place_of(self, t: Tensor, before: Before) -> tuple[str, str]:
        """Parameter and key of what an update was given."""
        for k, (g, i), _ in self._twin.params:
            if before.params[k] is t:
                return self._names[k], ""
            if before.grads[k] is t:
                return self._names[k], "gradient"
            for key, value in before.state.state[g].get(i, {}).items():
                if any(t is one for one in tensors_in(value)):
                    return self._names[k], str(key)
        return "", "state"

    def _refuse_dropped(
        self, before: Before, made: After, spare: Twin, kwargs: Mapping[str, Any]
    ) -> None:
        """Of gradients and settings on which this step is seen to depend."""
        given = [s for s in sources(before) if s.place not in self._reached]
        settings = [settings_of(g) for g in made.state.groups]
        results = tensors_in(
            [made.params, settings, made.state.state, made.state.shared]
        )
        inside = {id(s.tensor) for s in given}
        walk = Walk(
            [t for t in results if id(t) not in inside],
            [s.tensor for s in given],
            [*before.params, *_held(before.state)],
        )
        node = walk.overwritten()
        if node:
            raise self._error(
                f"the update writes in place into what {node} needs: its own backward "
                f"is an error. {ADVICE}"
            )
        lost = walk.unreached()
        self._reached |= {s.place for s, away in zip(given, lost) if not away}
        for source in (s for s, away in zip(given, lost) if away):
            if not all(
                self._depends(spare, before, kwargs, source, sign) for sign in (1, -1)
            ):
                continue
            one = len(source.place) == 1
            name = self._names[source.place[0]] if one else ""
            key = "gradient" if one else source.place[1]
            what = f"the gradient of {name!r}" if one else repr(key)
            raise self._error(
                f"no gradient flows to {what}, "
                f"on which the original's new weights or state depend. {ADVICE}",
                *(name, key),
            )

    def _depends(
        self,
        spare: Twin,
        before: Before,
        kwargs: Mapping[str, Any],
        source: Any,
        sign: int,
    ) -> bool:
        """Whether the original's result moves with a gradient or setting."""
        moving = spare.copy()
        start = moved(source, moving.optimizer, before, sign)
        if start is None:
            return False
        try:
            moving.step(start, kwargs)
        except Exception:  # the setting can't be this number
            return False
        return mostly_differ(self._twin.outcome(), moving.outcome())


def _copied(slots: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: v if isinstance(v, Tensor) else copy_structure(v) for k, v in slots.items()
    }


def _held(state: OptimizerState) -> list[Tensor]:
    found: list[Tensor] = []
    for states in state.state:
        for slots in states.values():
            for value in slots.values():
                if isinstance(value, Tensor):
                    found.append(value)
                elif isinstance(value, (list, tuple, dict)):
                    found += tensors_in(value)
    return found + (tensors_in(state.shared) if state.shared else [])


def _in_one_dtype(gap: Gap) -> Gap:
    """A counter that was made of tensors is in their dtype, until a step pins it."""
    e, g = gap.expected, gap.got
    if isinstance(e, Tensor) and isinstance(g, Tensor) and e.dim() == g.dim() == 0:
        if e.is_floating_point() and g.is_floating_point():
            return gap._replace(got=g.to(e.dtype))
    return gap
