"""A stretch of inner steps as one node of the graph, which keeps only its start."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from higher._carry import Carry, leaf_of
from higher._later import Later
from higher._truncation import Boundary, refuse_old
from higher._unroll.captured import Named, Search, cut, edges_of, nested, silenced
from higher._unroll.held import Played
from higher._unroll.step import Inner
from higher._unroll.surroundings import Moment, Random, Tree

_Kind = tuple[torch.Size, bool]
"""A tensor's shape, and whether it requires grad."""


@dataclass
class Plan:
    """What a segment needs to be run again, besides the tensors of its start."""

    inner: Inner
    first: int
    count: int
    layout: Any
    needs_grad: list[bool]
    moment: Moment
    used: dict[int, Sequence[Tensor]] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    norms: list[list[Tensor]] = field(default_factory=list)
    """Of each step, to be compared when it runs again."""
    outside: list[Tensor] = field(default_factory=list)
    """Captured tensors."""
    edges: list[GradientEdge] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    """Positions in the last carry of the node's outputs; its losses follow."""
    outputs: list[Tensor] = field(default_factory=list)
    end: list[_Kind] = field(default_factory=list)
    """Of the last carry's tensors."""
    fences: list[Boundary] = field(default_factory=list)
    """The ends of the steps, where a truncation counts them."""
    weights: list[weakref.ref[Later]] = field(default_factory=list)
    """Of the steps, for those who ask; they may lead back to the node that has this."""


class Stretch(NamedTuple):
    """A segment that has been run: the carry at its end and its losses, in the graph."""

    carry: Carry
    losses: list[Tensor]
    plan: Plan
    given: list[Tensor]
    """Of the carry, what the user wrote into the optimizer in the last step."""
    lasting: bool
    """Whether something that the user wrote, and that carries gradient, outlasted a
    step."""


def run(
    inner: Inner,
    tree: Tree,
    first: int,
    count: int,
    start: Carry,
    past: Mapping[int, Sequence[Tensor]],
    named: Named,
) -> Stretch:
    """Runs ``count`` steps from ``first`` on, and makes them one node.

    Args:
        inner: the inner problem.
        tree: its module, with the modes and buffers of the first step.
        first: number of the first step.
        count: how many.
        start: what they start from, in the graph.
        past: weights of earlier times.
        named: non-leaf tensors that may be captured.
    """
    plan = Plan(
        inner,
        first,
        count,
        start.layout,
        [t.requires_grad for t in start.tensors],
        tree.moment(Random(inner.devices)),
    )
    leaves = [leaf_of(t, n) for t, n in zip(start.tensors, plan.needs_grad)]
    carry = Carry(start.layout, leaves)
    search = Search(named, start.tensors)
    given: list[Tensor] = []
    lasting = False
    with inner.surroundings():
        for step in range(first, first + count):
            played = inner.quick(tree, step, carry, past, plan.used, search)
            carry = played.carry
            lasting |= holds_any(carry.tensors, given)
            given = [leaf for leaf, _ in played.given if leaf.requires_grad]
            plan.losses.append(played.loss)
            plan.norms.append(played.norms)
    origin = {id(leaf): t for leaf, t in zip(leaves, start.tensors)}
    end = [origin.get(id(t), t) for t in carry.tensors]
    plan.made = [
        i for i, t in enumerate(carry.tensors) if t.requires_grad and end[i] is t
    ]
    plan.end = _kinds(carry.tensors)
    plan.outside = list(search.found.values())
    plan.edges = edges_of(plan.outside)
    plan.outputs = [leaf_of(carry.tensors[i], False) for i in plan.made]
    node: Any = _Segment
    outputs = node.apply(plan, *start.tensors, *plan.outside)
    for i, t in zip(plan.made, outputs):
        end[i] = t
    losses = list(outputs[len(plan.made) :])
    places = [i for i, t in enumerate(carry.tensors) if holds_any([t], given)]
    given = [end[i] for i in places]
    return Stretch(Carry(carry.layout, end), losses, plan, given, lasting)


def holds_any(tensors: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether one of ``wanted`` is among ``tensors``."""
    ids = {id(t) for t in wanted}
    return bool(ids) and any(id(t) in ids for t in tensors)


class _Segment(torch.autograd.Function):
    """Inputs: the plan, the start's tensors, captured tensors. Outputs: what the steps
    made of the carry, then each step's loss."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.plan, ctx.boundary, ctx.count = plan, None, len(inputs)
        ctx.set_materialize_grads(False)
        # captured ones too: torch then notices if they were changed in place
        ctx.save_for_backward(*inputs)
        ctx.losses = len(plan.losses)
        outputs = (*plan.outputs, *(loss.clone() for loss in plan.losses))
        plan.outputs = []
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if ctx.boundary is not None and not ctx.boundary.open:
            refuse_old(grads[len(grads) - ctx.losses :])
            return (None,) * (1 + ctx.count)
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        plan: Plan = ctx.plan
        if all(g is None for g in grads):
            return (None,) * (1 + len(inputs))
        count = len(plan.needs_grad)
        found = _Sweep(plan, inputs[:count], grads).run()
        if not _graph_is_kept():
            # loss_fn may hold the module, whose weights hold this node
            ctx.plan = None
            for weights in filter(None, (ref() for ref in plan.weights)):
                weights.forget()
        if torch.is_grad_enabled():
            found = once(found, [*inputs, *grads])
        return (None, *found)


def _graph_is_kept() -> bool:
    graph: Any = torch._C._autograd
    return bool(graph._get_current_graph_task_keep_graph())


class _Sweep:
    """The backward of a segment: its steps run again, and one by one are differentiated,
    the last one first."""

    def __init__(
        self, plan: Plan, start: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> None:
        self.plan = plan
        self.inner = plan.inner
        tensors = [leaf_of(t, n) for t, n in zip(start, plan.needs_grad)]
        self.start = Carry(plan.layout, tensors)
        made = len(plan.made)
        self.grads = dict(zip(plan.made, grads[:made]))
        self.loss_grads = grads[made:]
        self.outside: list[Tensor | None] = [None] * len(plan.edges)
        self.cut = nested(plan.edges)
        self.differing: list[Tensor] = []

    def run(self) -> list[Tensor | None]:
        """Gradients of the start's tensors and of the captured ones."""
        tree = Tree(self.inner.module())
        plan = self.plan
        with tree.kept(), self.inner.surroundings():
            tree.go_to(plan.moment)
            carries = [(self.start, plan.moment)]
            for k in range(plan.count - 1):
                played = self.inner.quick(
                    tree, plan.first + k, carries[k][0], plan.used, {}
                )
                moment = tree.moment(Random(self.inner.devices))
                carries.append((played.carry, moment))
                self._compare(k, played)
                del played  # what it carries is freed as soon as it is popped
            bar: list[Tensor | None] = [None] * (max(self.grads, default=-1) + 1)
            for i, g in self.grads.items():
                bar[i] = g
            then = plan.end
            for k in reversed(range(plan.count)):
                carry, moment = carries.pop()
                tree.go_to(moment)
                bar = self._through(tree, k, carry, then, bar)
                then = _kinds(carry.tensors)
                if k and plan.fences and not plan.fences[k - 1].open:
                    refuse_old(self.loss_grads[:k])
                    bar = self._kept(carry, bar)
                    break
                del carry
        self._check()
        return [*bar, *self.outside]

    def _through(
        self,
        tree: Tree,
        k: int,
        carry: Carry,
        then: list[_Kind],
        bar: list[Tensor | None],
    ) -> list[Tensor | None]:
        """Gradients at the start of step ``k`` from those at its end, whose tensors
        were of these kinds."""
        loss_grad = self.loss_grads[k]
        played = self.inner.whole(
            tree, self.plan.first + k, carry, self.plan.used, loss_grad is not None
        )
        self._compare(k, played)
        made = played.carry.tensors
        _check_same(_kinds(made), then)
        pairs = [(t, g) for t, g in zip(made, bar) if g is not None]
        if loss_grad is not None:
            pairs.append((played.loss, loss_grad))
        pairs = [(t, g) for t, g in pairs if t.requires_grad]
        wanted = [i for i, t in enumerate(carry.tensors) if t.requires_grad]
        edges = self.plan.edges
        targets: list[Any] = [*(carry.tensors[i] for i in wanted), *edges]
        result: list[Tensor | None] = [None] * len(carry.tensors)
        if not pairs or not targets:
            return result
        outputs, grads = zip(*pairs)
        del played, made, pairs
        with cut(self.cut), silenced(self.plan.outside):
            found = torch.autograd.grad(
                outputs,
                targets,
                grads,
                allow_unused=True,
                retain_graph=bool(self.cut),
            )
        for i, g in zip(wanted, found):
            result[i] = g
        for i, g in enumerate(found[len(wanted) :]):
            self.outside[i] = _sum(self.outside[i], g)
        return result

    def _kept(self, carry: Carry, bar: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of those tensors of the start that no step up to here has changed."""
        found = {id(t): g for t, g in zip(carry.tensors, bar)}
        return [found.get(id(t)) for t in self.start.tensors]

    def _compare(self, k: int, played: Played) -> None:
        """Takes down whether a step came out otherwise than the first time."""
        then, again = self.plan.losses[k], leaf_of(played.loss, False)
        if again.shape != then.shape or again.dtype != then.dtype:
            raise RuntimeError(_DIFFERS)
        eps = torch.finfo(then.dtype).eps
        # elsewhere sums may be taken in any order
        limit = 1e4 * eps if then.device.type == "cpu" else eps**0.5
        close = torch.isclose(again, then, rtol=limit, atol=0.0, equal_nan=True)
        self.differing.append(~close.all())
        # a gradient that is to be differentiated may be computed by other formulas
        limit = self.inner.eps**0.4
        norms = zip(played.norms, self.plan.norms[k], self.inner.largest)
        for norm, norm_then, largest in norms:
            self.differing.append((norm - norm_then).abs() > limit * largest)

    def _check(self) -> None:
        if self.differing and bool(torch.stack(self.differing).any()):
            raise RuntimeError(_DIFFERS)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _kinds(tensors: Sequence[Tensor]) -> list[_Kind]:
    return [(t.shape, t.requires_grad) for t in tensors]


def _check_same(made: Sequence[_Kind], then: Sequence[_Kind]) -> None:
    """A tensor that leads somewhere now must have done so then: there its gradient
    was asked for."""
    if len(made) != len(then) or any(
        shape != shape_then or needs_grad > needed_grad
        for (shape, needs_grad), (shape_then, needed_grad) in zip(made, then)
    ):
        raise RuntimeError(
            f"A step that was run again made another state than the first time. {_PURE}"
        )


def once(
    grads: list[Tensor | None], sources: Iterable[Tensor | None]
) -> list[Tensor | None]:
    """The same gradients, refusing to be differentiated by what they depend on."""
    places = [i for i, g in enumerate(grads) if g is not None]
    roots = [t for t in sources if t is not None and t.requires_grad]
    # backward() of what depends on nothing else must not pass for success either
    roots.append(torch.zeros((), requires_grad=True))
    node: Any = _Once
    marked = node.apply(len(roots), *roots, *(grads[i] for i in places))
    result = list(grads)
    for i, g in zip(places, marked):
        result[i] = g
    return result


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, roots: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(g.detach() for g in tensors[roots:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "The gradient through unroll can't be differentiated again in its "
            "low-memory modes. Use memory='full' for that."
        )


_PURE = (
    "unroll runs each step again in backward, so loss_fn, grad_callback and the "
    "optimizer must do the same each time: no counters, no next(iterator), no random "
    "numbers but torch's default generators', no plain attributes of modules that "
    "change. Put what differs from step to step into batches, or use memory='full'."
)
_DIFFERS = (
    "A step that was run again had another loss, gradient or "
    f"update than the first time. {_PURE}"
)
