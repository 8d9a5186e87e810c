"""The way of an unroll from step to step, and what it leaves behind."""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from higher._apart import apart
from higher._carry import Carry, leaf_of, packed, tensors_in, unpacked
from higher._dropped import Dropped
from higher._later import Later
from higher._truncation import last_boundary
from higher._unroll.captured import Named
from higher._unroll.held import Held
from higher._unroll.segment import Plan, Stretch, holds_any, run
from higher._unroll.step import Inner
from higher._unroll.surroundings import Random, Tree
from higher._unroll.tangents import run_forward
from higher.optim.base import DifferentiableOptimizer
from higher.patch import StatelessModule


class UnrollRun:
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
                None if diffopt.scheduler is None else diffopt.scheduler.on(list),
                self.tree.carried_buffers(),
            ]
        )
        self.done = 0
        self.losses: list[Tensor] = []
        self._given: list[Tensor] = []

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
        if held.flat_groups is not None:
            # what others are handed may be written into: views don't allow that
            params = held.flat_groups.apart(held.params, copied=True)
            state = held.flat_groups.state_apart(state, held.params, params)
        # steps that run again begin on those of now
        own = weights.watched.own
        params = [p if p.requires_grad else own(p) for p in params]
        self.history[-1] = params
        self.truncation.forget(self.history)
        weights.history = self.history
        weights.install(params)
        self.tree.set_buffers(held.buffers)
        self.diffopt._hold(params, [held.groups, state, held.shared])
        if held.schedule is not None and self.diffopt.scheduler is not None:
            self.diffopt.scheduler.adopt(held.schedule)

    def run_ahead(self, count: int) -> None:
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

    def run_step_by_step(self) -> None:
        """Runs the remaining steps and keeps the graph of each."""
        inner, tree = self.inner, self.tree
        for step in range(self.done, inner.steps):
            last = step == inner.steps - 1
            inner.draw(step)
            past = dict(enumerate(self.history))
            start = self.carry
            if self.truncation.steps is not None:
                self.truncation.step_begins(start.tensors)
            with inner.surroundings():
                moment = tree.moment(Random(inner.devices)) if last else None
                played = inner.whole(tree, step, start, past, True)
                if last:
                    inner.check(tree, step, start, moment, played)
            carry = played.carry
            if self.truncation.steps is None:
                self.truncation.bare_steps(1)
            else:
                behind = self.truncation.step_taken(list(carry.tensors))
                carry = Carry(carry.layout, behind)
            self.carry = self._apart(carry)
            tree.set_buffers(Held.by(*self.carry).buffers)
            self.losses.append(played.loss)
            each = Held.by(*self.carry).each
            self.history.append(Later(inner.count, each, kept=True))
            self.done += 1

    def _count(self, result: Stretch, count: int) -> None:
        if self.truncation.steps is None:
            self.truncation.bare_steps(count)
            return
        if result.lasting or holds_any(result.carry.tensors, self._given):
            raise RuntimeError(_LASTING)
        self._given = result.given
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

    def run_forward(self) -> None:
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


def segments_of(memory: str | int, steps: int) -> list[int]:
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


_LASTING = (
    "With truncate, a tensor that requires grad and that loss_fn writes into the optimizer "
    "once, for several steps, would be cut off with the step that wrote it. Write it in each "
    "step, pass it in override before, or use memory='full'."
)
_FORWARD = "With mode='forward' only the last and the initial fast weights are kept."
