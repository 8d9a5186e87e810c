"""Whole inner loops, in as little memory as one chooses.

An inner step is a pure function of weights, optimizer state and settings. So its graph
need not be kept until backward comes: kept are the weights and state of some steps, and
the others are computed again from there. Gradients are those of the plain loop.

The scheme with two levels is that of Griewank, "Achieving logarithmic growth of
temporal and spatial complexity in reverse automatic differentiation" (1992), as in
Chen et al., "Training deep nets with sublinear memory cost" (2016).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from higher._apart import apart
from higher._check import checked
from higher._dtensor import FORWARD, refuse_distributed
from higher._tasks.module import PerTask
from higher._dropped import Dropped
from higher._truncation import Truncation, last_boundary
from higher._weights import fast_weights
from higher.optim.base import (
    DifferentiableOptimizer,
    GradCallback,
    checked_order,
    checked_truncate,
)
from higher.patch import Model, StatelessModule
from higher._unroll.batches import Batches
from higher._unroll.captured import Named
from higher._carry import Carry, leaf_of, packed, tensors_in, tensors_within, unpacked
from higher._later import Later
from higher._unroll.overrides import OverrideOfSteps, Overrides
from higher._unroll.segment import Plan, Stretch, run
from higher._unroll.step import Held, Inner, LossFn
from higher._unroll.surroundings import Tree
from higher._unroll.tangents import run_forward

__all__ = ["LossFn", "unroll"]


Batch = TypeVar("Batch")
Memory: TypeAlias = Literal["full", "step", "low"] | int


def unroll(
    fmodel: Model,
    diffopt: DifferentiableOptimizer,
    loss_fn: Callable[[Model, Batch], Tensor],
    batches: Iterable[Batch],
    *,
    memory: Memory = "full",
    override: OverrideOfSteps = None,
    grad_callback: GradCallback | None = None,
    truncate: int | None = None,
    order: Literal[1, 2] | None = None,
    meta_params: Iterable[Tensor] = (),
    mode: Literal["reverse", "forward"] = "reverse",
    check: bool = False,
) -> list[Tensor]:
    """Takes one inner step for each batch, as ``diffopt.step`` in a loop would.

    Afterwards ``fmodel`` has the last weights and ``diffopt`` the last state, both in
    the graph: ``meta_loss(fmodel).backward()`` reaches the initial weights, tensors
    in ``override``, and whatever ``loss_fn`` captured or found in ``batches``.

    Args:
        fmodel: the stateless module of ``higher.innerloop_ctx``.
        diffopt: its differentiable optimizer.
        loss_fn: ``loss_fn(fmodel, batch)`` is the scalar loss of one step; with
            ``tasks=`` that of one task, which is mapped over all. Unless
            ``memory="full"`` it is called several times for each step, and must do
            the same each time; torch's random state, autocast, modes and buffers are
            put back for that.
        batches: one for each of the K steps, anything that ``loss_fn`` understands.
            They are asked for as their steps come, those of a stretch that is kept as
            one together; all at the start if they don't tell their number (``len``).
            With ``tasks=`` tensors have a first dimension of tasks, or of 1 for what
            all share, which ``loss_fn`` doesn't see.
        memory: which weights and optimizer states are kept. ``"full"``: all, and the
            graphs of all steps, as the plain loop does. ``"step"``: those of each
            step; its graph is made again when backward reaches it (the last one's
            is kept). ``"low"``: in a long unroll those of about √(2K) steps, ever
            closer to one another, the steps between being computed again from there.
            An int n: those of every nth step.
        override: settings from the first step on, as for ``diffopt.step``; or settings
            from each step on: a list of such dicts, one for each step, or a function of
            the step's number in this call, from 0 on, that returns one. None is one
            that changes nothing. Such a function is called again as ``loss_fn`` is.
        grad_callback: used instead of ``diffopt``'s own.
        truncate: gradients flow through the last ``truncate`` steps only, counted back
            from the outer loss, through earlier calls too: what they start from is a
            constant. Default: that of ``innerloop_ctx``.
        order: 1: inner gradients are constants (first-order MAML). 2: they are
            differentiated, too. Default: that of ``innerloop_ctx``.
        meta_params: tensors that ``loss_fn`` or ``grad_callback`` use, require grad
            and were computed before (non-leaves). Leaves, and those in ``batches``, in
            containers or attributes, and in a dict or list of ``override`` are found
            without being named.
        mode: ``"forward"``: the derivatives by ``diffopt``'s settings that are tensors
            are carried along with the weights, and nothing else is kept: memory does
            not depend on K, time grows with the number of settings. The initial
            weights get no gradient, and what ``loss_fn`` captures must not require
            any. ``memory`` means nothing then, and of earlier weights ``loss_fn``
            finds the initial ones only, as constants.
        check: whether the original optimizer's class steps beside every step, as in
            ``innerloop_ctx``: it is made again from ``diffopt``'s present state.

    Returns:
        The loss of each step, in the graph (with ``tasks=``, those of all tasks; detached in test mode and before the
        point of truncation).

    Raises:
        ValueError: ``fmodel`` and ``diffopt`` don't belong together, an argument is
            out of range, or a fast weight has a hook; with ``check``, the original
            optimizer can't be made again, or is gone.
        CheckError: with ``check``, a step went elsewhere than the original's.
        RuntimeError: in forward mode, something else that requires grad; in the
            low-memory modes, a captured tensor that was computed before and is not
            named; a ``loss_fn`` that assigns to fast weights, or asks for weights that
            aren't kept; in backward, a step that had another loss, gradient or update
            when it ran again, or that made a tensor which is used outside of it;
            differentiating the gradient again.

    ``fmodel.parameters(time=t)`` has the weights of all times, in the graph; those
    that were not kept are computed again when asked for.
    """
    if not isinstance(meta_params, Tensor):
        meta_params = list(meta_params)
    module = _checked_pair(fmodel, diffopt)
    if check and diffopt._shadow is None:
        with checked(diffopt, module):
            return unroll(
                *(fmodel, diffopt, loss_fn, batches),
                memory=memory,
                override=override,
                grad_callback=grad_callback,
                truncate=truncate,
                order=order,
                meta_params=meta_params,
                mode=mode,
            )
    loss = loss_fn if diffopt._tasks is None else PerTask(loss_fn)
    degree = checked_order(diffopt._order if order is None else order)
    overrides = Overrides(override, batches)
    plain = partial(_plain, module, diffopt, loss, grad_callback, degree, overrides)
    if memory == "full" and truncate is None and mode == "reverse":
        return plain(batches)
    forward = _checked(memory, mode)
    named = Named(tensors_within([meta_params, overrides.listed]))
    steps = Batches(
        batches, fast_weights(module), lambda b: named.add(tensors_within([b]))
    )
    if truncate is not None:
        checked_truncate(truncate)
    if forward:
        refuse_distributed(module.parameters(), FORWARD)
    if forward and degree == 1:
        raise ValueError("mode='forward' is of second order: leave out order=1.")
    overrides.check_count(len(steps))
    if not steps:
        return []
    if not (diffopt._track_higher_grads and torch.is_grad_enabled()):
        return plain(steps.after(0))
    truncation = _truncation_of(diffopt)
    with truncation.during(truncate, len(steps)):
        cut = truncation.cut(len(steps))
        if memory == "full" and not forward and cut is None:
            return plain(steps.after(0))
        _check_steps(diffopt)
        _check_hooks(module)
        if isinstance(override, Mapping):
            # in forward mode derivatives are by what is there at the start
            diffopt._apply_override(override)
            overrides = Overrides(None, steps)
        inner = Inner(module, diffopt, loss, steps, grad_callback, degree, overrides)
        line = _Line(inner, module, diffopt, named)
        with line:
            if cut is not None:
                line.go_ahead(cut)
            if forward:
                line.go_forward()
            elif memory != "full":
                # the last step's graph is kept: backward begins there
                segments = _segments(memory, len(steps) - line.done - 1)
                for count in segments:
                    # before the random state is taken down, which they may change
                    steps.draw(line.done + count)
                    line.go(count, keep=max(segments) == 1)
        return line.losses + plain(steps.after(line.done), line.done)


def _plain(
    fmodel: StatelessModule,
    diffopt: DifferentiableOptimizer,
    loss_fn: LossFn,
    callback: GradCallback | None,
    order: int,
    overrides: Overrides,
    steps: Iterable[Any],
    first: int = 0,
) -> list[Tensor]:
    """Steps of an ordinary loop, numbered from ``first`` on."""
    losses: list[Tensor] = []
    usual, diffopt._order = diffopt._order, order
    try:
        for number, batch in enumerate(steps, first):
            override = overrides.at(number)
            if override is not None:
                diffopt._apply_override(override)
            loss = loss_fn(fmodel, batch)
            diffopt.step(loss, grad_callback=callback)
            losses.append(loss if diffopt._track_higher_grads else loss.detach())
    finally:
        diffopt._order = usual
    overrides.check_count(first + len(losses))
    return losses


class _Line:
    """An unroll under way. Module and optimizer have its result when it is left; if
    that is by an error, they have the weights and state from before."""

    def __init__(
        self,
        inner: Inner,
        fmodel: StatelessModule,
        diffopt: DifferentiableOptimizer,
        named: Named,
    ) -> None:
        assert diffopt._truncation is not None
        self.inner = inner
        self.tree = Tree(fmodel)
        self.diffopt = diffopt
        self.truncation = diffopt._truncation
        self.named = named
        self.weights = weights = self.tree.weights
        weights.sync()
        self.history: list[Any] = list(weights.history or ())
        self.before = weights.history, weights.installed, weights.exposed
        state = diffopt.snapshot()
        self.carry = packed(
            [
                list(weights.installed),
                state.groups,
                state.state,
                state.shared,
                None,
                self.tree.carried_buffers(),
            ]
        )
        self.done = 0
        self.losses: list[Tensor] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.inner.shadow = None
        weights = self.weights
        weights.history, latest, weights.exposed = self.before
        if error is not None:
            weights.install(latest)
            return
        held = Held.by(*self.carry)
        params, state = held.params, held.state
        if held.bundles is not None:
            # what others are handed may be written into: views don't allow that
            params = held.bundles.apart(held.params, copied=True)
            state = held.bundles.state_apart(state, held.params, params)
        # steps that run again begin on those of now
        own = weights.watched.own
        params = [p if p.requires_grad else own(p) for p in params]
        self.history[-1] = params
        self.truncation.forget(self.history)
        weights.history = self.history
        weights.install(params)
        self.tree.set_buffers(held.buffers)
        self.diffopt._hold(params, [held.groups, state, held.shared])

    def go_ahead(self, count: int) -> None:
        """Runs ``count`` steps without a graph; what they lead to is a constant, and
        what came before."""
        if self.truncation.begun:
            self._cut_off()
        self.truncation.restart()
        if count == 0:
            return
        start = self.carry
        leaves = [leaf_of(t) for t in start.tensors]
        origin = {id(leaf): t for leaf, t in zip(leaves, start.tensors)}
        given: list[tuple[Tensor, Tensor]] = []  # held: their ids must stay taken
        carry = Carry(start.layout, leaves)
        past = dict(enumerate(self.history))
        with self.inner.surroundings():
            for step in range(count):
                played = self.inner.quick(self.tree, step, carry, past, {})
                carry = played.carry
                given += played.given
                self.losses.append(played.loss)
        params = {slot.at for slot in carry.layout[0]}
        origin.update((id(leaf), t) for leaf, t in given)
        end = [
            leaf_of(t) if i in params else origin.get(id(t), leaf_of(t, False))
            for i, t in enumerate(carry.tensors)
        ]
        self.carry = Carry(carry.layout, end)
        self.done = count
        size = self.inner.count
        self.history += [Dropped(size) for _ in range(count - 1)]
        self.history.append(self._params())

    def _cut_off(self) -> None:
        """What came before is a constant, but for settings that no step has made."""
        layout, tensors = self.carry
        params = {slot.at for slot in layout[0]}
        users = {
            id(t)
            for t in tensors_in(unpacked(layout[1], tensors))
            if last_boundary(t) is None
        }
        cut = [
            leaf_of(t) if i in params else t if id(t) in users else leaf_of(t, False)
            for i, t in enumerate(tensors)
        ]
        self.carry = Carry(layout, cut)
        self.history[-1] = self._params()

    def go(self, count: int, keep: bool) -> None:
        """Runs ``count`` steps as one node, whose last weights are kept in any case or
        as long as the graph is."""
        inner, first, start = self.inner, self.done, self.carry
        past = dict(enumerate(self.history))
        result = run(inner, self.tree, first, count, start, past, self.named)
        self.carry = self._apart(result.carry)
        self.losses += result.losses
        self._count(result, count)
        later = [
            Later(
                inner.count,
                partial(_again, inner, first, k, start, result.plan, self.named),
            )
            for k in range(1, count)
        ]
        last = Held.by(self.carry.layout, self.carry.tensors).each
        if not keep:
            later.append(Later(inner.count, last, kept=True))
        result.plan.weights = [weakref.ref(one) for one in later]
        self.history += later
        if keep:
            self.history.append(last())
        self.done += count

    def _count(self, result: Stretch, count: int) -> None:
        if self.truncation.steps is None:
            self.truncation.bare_steps(count)
            return
        fences = result.plan.fences
        fences += [self.truncation.end() for _ in range(count)]
        node: Any = result.losses[-1].grad_fn
        if node is not None:
            node.boundary, fences[-1].node = fences[-1], node

    def _apart(self, carry: Carry) -> Carry:
        """Weights that no step has changed are apart from what others were made of."""
        weights = {slot.at for slot in carry.layout[0]}
        same = {id(t) for t in self.carry.tensors}
        tensors = list(carry.tensors)
        for i in weights:
            (tensors[i],) = apart([tensors[i]], only=same)
        return Carry(carry.layout, tensors)

    def go_forward(self) -> None:
        """Runs the remaining steps, their derivatives by the settings beside them."""
        initial = self.history[0]
        result = run_forward(self.inner, self.tree, self.done, self.carry, initial)
        count = len(result.losses)
        self.carry = self._apart(result.carry)
        self.losses += result.losses
        kept = [Dropped(self.inner.count, _FORWARD) for _ in range(count - 1)]
        self.history += [*kept, self._params()]
        self.done += count
        if self.truncation.steps is None:
            self.truncation.bare_steps(count)
            return
        # a cut among these steps can't be made any more
        self.truncation.bare_steps(count - 1)
        fence, node = self.truncation.end(), self.losses[-1].grad_fn
        if isinstance(node, BackwardCFunction):
            node.boundary, node.steps, fence.node = fence, count, node

    def _params(self) -> list[Tensor]:
        return Held.by(*self.carry).each()


def _again(
    inner: Inner, first: int, count: int, start: Carry, plan: Plan, named: Named
) -> list[Tensor]:
    """The weights ``count`` steps after a carry that is kept, as a node of their own."""
    tree = Tree(inner.module())
    with tree.kept(), torch.enable_grad():
        tree.go_to(plan.moment)
        result = run(inner, tree, first, count, start, plan.used, named)
    result.plan.fences += plan.fences[:count]
    return Held.by(*result.carry).each()


def _segments(memory: str | int, steps: int) -> list[int]:
    """Lengths of the segments, of which only the start is kept.

    Backward runs a segment again and holds all of its steps, when it has done with those
    behind it: so the first may be the longest. Of n segments whose lengths fall by one,
    n(n + 1) / 2 steps, never more than n steps are held.
    """
    # of a short unroll, weights and state are less than the graph of a step
    if memory == "step" or (memory == "low" and steps < _SHORT):
        return [1] * steps
    if memory == "low":
        most = math.isqrt(2 * steps)
        most += most * (most + 1) // 2 < steps
        excess = most * (most + 1) // 2 - steps
        lengths = [n - (most - n < excess) for n in range(most, 0, -1)]
        return [n for n in lengths if n]
    assert isinstance(memory, int)
    whole, odd = divmod(steps, memory)
    return [odd] * (odd > 0) + [memory] * whole


_SHORT = 16


def _checked(memory: str | int, mode: str) -> bool:
    """Whether it is forward mode."""
    number = isinstance(memory, int) and not isinstance(memory, bool) and memory >= 1
    if not number and memory not in ("full", "step", "low"):
        raise ValueError(
            f"memory must be 'full', 'step', 'low' or a positive int, not {memory!r}."
        )
    if mode not in ("reverse", "forward"):
        raise ValueError(f"mode must be 'reverse' or 'forward', not {mode!r}.")
    return mode == "forward"


_FORWARD = "With mode='forward' only the last and the initial fast weights are kept."


def _truncation_of(diffopt: DifferentiableOptimizer) -> Truncation:
    if diffopt._truncation is None:
        diffopt._truncation = Truncation(diffopt, None, diffopt._steps_made)
    return diffopt._truncation


def _checked_pair(
    fmodel: nn.Module, diffopt: DifferentiableOptimizer
) -> StatelessModule:
    if not isinstance(fmodel, StatelessModule):
        raise ValueError(
            "unroll needs a stateless module: the fmodel of higher.innerloop_ctx, not "
            f"a {type(fmodel).__name__}."
        )
    if diffopt._fmodel is not fmodel:
        raise ValueError(
            "This optimizer doesn't step the fast weights of this module: pass the "
            "two that one innerloop_ctx gave, or make the optimizer with fmodel=."
        )
    return fmodel


def _check_steps(diffopt: DifferentiableOptimizer) -> None:
    own = type(diffopt).step
    if own is not DifferentiableOptimizer.step:
        raise ValueError(
            f"{type(diffopt).__name__} has a step of its own, which unroll can't run "
            "again: override _update, or use memory='full' without truncate."
        )


def _check_hooks(fmodel: StatelessModule) -> None:
    if any(p._backward_hooks for p in fmodel.parameters()):
        raise ValueError(
            "A fast weight has a hook, which would see the first step's gradient and "
            "that of the outer loss, too. Remove it, and pass grad_callback for inner "
            "gradients; or use memory='full' without truncate."
        )
