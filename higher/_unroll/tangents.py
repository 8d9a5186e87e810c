"""Forward mode: derivatives by a few settings, carried along with the weights.

A step is a gradient followed by an update, and the derivative of each in a direction is
taken by differentiating twice backward: the vector-Jacobian product is linear in the
vector, and its derivative by that is the Jacobian-vector product. For the gradient of a
loss, whose Jacobian is symmetric, once is enough. torch's own forward mode lacks many
second derivatives, and reverse mode over it is silently wrong through norms; this needs
only what reverse mode needs, too.

Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization"
(2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from higher._carry import Carry, leaf_of, packed, tensors_in, unpacked
from higher._unroll.captured import Named, captured, now
from higher._unroll.held import Held
from higher._unroll.segment import once
from higher._unroll.step import Inner
from higher._unroll.surroundings import Tree

Tangents = list["Tensor | None"]
"""The derivatives of some tensors in one direction; None for zero."""


class Forward(NamedTuple):
    """The carry at the end and the losses; their graph leads to the settings."""

    carry: Carry
    losses: list[Tensor]


def run_forward(
    inner: Inner, tree: Tree, first: int, start: Carry, initial: Sequence[Tensor]
) -> Forward:
    """Runs all steps from ``first`` on; ``initial`` are the weights at time 0.

    Raises:
        RuntimeError: no setting requires grad, or something else does.
    """
    sources = _settings(start)
    leaves = [leaf_of(t) for t in start.tensors]  # held: their ids must stay taken
    carry = Carry(start.layout, leaves)
    origin = {id(leaf): t for leaf, t in zip(leaves, start.tensors)}
    directions = list(_directions(start, sources))
    losses: list[Tensor] = []
    slopes: list[Tangents] = [[] for _ in directions]
    past: dict[int, Sequence[Tensor]] = {}
    if not inner.start:
        past[0] = [w.detach() for w in initial]
    pusher = _Pusher(inner, tree, past)
    with inner.surroundings():
        for number in range(first, inner.steps):
            carry, directions, loss, slope = pusher.step(number, carry, directions)
            losses.append(loss)
            for all_slopes, one in zip(slopes, slope):
                all_slopes.append(one)
    end = [origin.get(id(t), t) for t in carry.tensors]
    made = [i for i, t in enumerate(carry.tensors) if end[i] is t and t.requires_grad]
    rows = [[*(d[i] for i in made), *slope] for d, slope in zip(directions, slopes)]
    node: Any = _Linear
    values = [*(end[i] for i in made), *losses]
    outputs = node.apply(values, rows, *(start.tensors[i] for i in sources))
    for i, t in zip(made, outputs):
        end[i] = t
    return Forward(Carry(carry.layout, end), list(outputs[len(made) :]))


def _settings(start: Carry) -> list[int]:
    """Slots of the settings that require grad. Besides them only weights may, that
    are leaves."""
    layout, tensors = start
    settings = {id(t) for t in tensors_in(unpacked(layout[1], tensors))}
    weights = {slot.at for slot in layout[0]}
    for i, t in enumerate(tensors):
        if t.requires_grad and id(t) not in settings:
            if i not in weights or not t.is_leaf:
                raise RuntimeError(_DEPENDS)
    found = [i for i, t in enumerate(tensors) if t.requires_grad and id(t) in settings]
    if not found:
        raise RuntimeError(
            "mode='forward' has derivatives by settings, and none of this optimizer's "
            "requires grad. Pass them in override, or use mode='reverse'."
        )
    return found


def _directions(start: Carry, sources: Sequence[int]) -> Iterator[Tangents]:
    """One for each element of each setting."""
    for i in sources:
        setting = start.tensors[i]
        for k in range(setting.numel()):
            tangent = torch.zeros_like(setting, requires_grad=False)
            tangent.view(-1)[k] = 1
            row: Tangents = [None] * len(start.tensors)
            row[i] = tangent
            yield row


class _Pusher:
    """Runs steps, and pushes derivatives through them."""

    def __init__(
        self, inner: Inner, tree: Tree, past: dict[int, Sequence[Tensor]]
    ) -> None:
        self.inner = inner
        self.tree = tree
        self.past = past
        self.symmetric: bool | None = None
        self.functions = False

    def step(
        self, number: int, start: Carry, directions: Sequence[Tangents]
    ) -> tuple[Carry, list[Tangents], Tensor, Tangents]:
        """The next carry and its derivatives, the loss and its derivatives."""
        inner, since = self.inner, now()
        layout, tensors = start
        held = Held.by(*start)
        params = held.each()
        at = [slot.at for slot in layout[0]]
        loss, written = inner.loss(self.tree, number, held, params, self.past, {})
        held = held.written(written, params)
        own = {id(t) for t in tensors}
        # its derivatives by settings or state, too, would be lost
        found = captured([loss], {id(tensors[i]) for i in at}, since, Named())
        self.functions = found.functions
        raw = inner.gradients(loss, params)
        # backward runs in devices' own threads
        known = None if inner.devices else since
        by_grads = captured([g for g in raw if g is not None], own, known, Named())
        if found.tensors or by_grads.tensors or self.tree.carried_buffers():
            raise RuntimeError(_CAPTURED)
        along = [held._replace(params=[d[i] for i in at]).each() for d in directions]
        pushed = self._through_gradient(raw, params, along)
        slopes = [_inner_product(raw, row, loss) for row in along]
        value = leaf_of(loss, False)
        grads = [g if g is None else leaf_of(g, True) for g in raw]
        del loss, raw
        end = packed([*inner.updated(held, grads, {}).scheduled()])
        leaves = [g for g in grads if g is not None]
        kept = {id(t): i for i, t in enumerate(tensors)}
        new = [t for t in end.tensors if t.requires_grad and id(t) not in kept]
        if captured(new, own | {id(g) for g in leaves}, since, Named()).tensors:
            raise RuntimeError(_CAPTURED)
        sources = [i for i, t in enumerate(tensors) if t.requires_grad]
        inputs = [*(tensors[i] for i in sources), *leaves]
        rows = [
            [*(d[i] for i in sources), *(t for t, g in zip(p, grads) if g is not None)]
            for d, p in zip(directions, pushed)
        ]
        tangents = _pushed(new, inputs, rows)
        carry = Carry(
            end.layout, [t if id(t) in kept else leaf_of(t) for t in end.tensors]
        )
        place = {id(t): k for k, t in enumerate(new)}
        following = [
            [
                (
                    d[kept[id(t)]]
                    if id(t) in kept
                    else row[place[id(t)]] if id(t) in place else None
                )
                for t in end.tensors
            ]
            for d, row in zip(directions, tangents)
        ]
        return carry, following, value, slopes

    def _through_gradient(
        self,
        grads: Sequence[Tensor | None],
        params: Sequence[Tensor],
        along: Sequence[Tangents],
    ) -> list[Tangents]:
        """Derivatives of gradients by the parameters, in each direction."""
        used = [k for k, g in enumerate(grads) if g is not None and g.requires_grad]
        # a gradient that is constant has no derivative, and by symmetry is not in one
        outputs = [g for g in grads if g is not None and g.requires_grad]
        inputs = [params[k] for k in used]
        rows = [[row[k] for k in used] for row in along]
        result: list[Tangents] = [[None] * len(grads) for _ in along]
        if not outputs or all(t is None for row in rows for t in row):
            return result
        if self.symmetric is None:
            self.symmetric = _is_symmetric(outputs, inputs)
        plain = self.symmetric and not self.functions
        push = _pushed_symmetric if plain else _pushed
        for found, row in zip(result, push(outputs, inputs, rows)):
            for k, t in zip(used, row):
                found[k] = t
        return result


def _inner_product(
    grads: Sequence[Tensor | None], row: Tangents, like: Tensor
) -> Tensor | None:
    """The derivative of the loss."""
    pairs = [(g, t) for g, t in zip(grads, row) if g is not None and t is not None]
    if like.dim() and pairs:
        # of the loss of each task
        return _dots(pairs, like)
    return _dot(pairs, like) if pairs else None


def _pushed(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], rows: Sequence[Tangents]
) -> list[Tangents]:
    """Derivatives of ``outputs`` in the directions ``rows`` of ``inputs``."""
    result: list[Tangents] = [[None] * len(outputs) for _ in rows]
    if not outputs:
        return result
    weights = [torch.zeros_like(t).requires_grad_() for t in outputs]
    linear = torch.autograd.grad(
        outputs, inputs, weights, create_graph=True, allow_unused=True
    )
    for k, row in enumerate(rows):
        pairs = [
            (g, t)
            for g, t in zip(linear, row)
            if g is not None and t is not None and g.requires_grad
        ]
        if pairs:
            products, along = zip(*pairs)
            result[k] = list(
                torch.autograd.grad(
                    products, weights, along, allow_unused=True, retain_graph=True
                )
            )
    return result


def _pushed_symmetric(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], rows: Sequence[Tangents]
) -> list[Tangents]:
    """The same where the derivatives are a symmetric matrix."""
    result: list[Tangents] = []
    for k, row in enumerate(rows):
        pairs = [(g, t) for g, t in zip(outputs, row) if t is not None]
        if not pairs:
            result.append([None] * len(outputs))
            continue
        chosen, along = zip(*pairs)
        last = k == len(rows) - 1
        result.append(
            list(
                torch.autograd.grad(
                    chosen, inputs, along, allow_unused=True, retain_graph=not last
                )
            )
        )
    return result


def _is_symmetric(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> bool:
    """Whether gradients are those of a function: hooks may have changed them."""
    probe: Tangents = [
        torch.arange(t.numel(), dtype=torch.float32, device=t.device)
        .add(1)
        .cos()
        .reshape(t.shape)
        .to(t.dtype)
        for t in inputs
    ]
    exact = _pushed(outputs, inputs, [probe])[0]
    short = _pushed_symmetric(outputs, inputs, [probe, [None] * len(probe)])[0]
    off = total = 0.0
    for a, b, t in zip(exact, short, inputs):
        a, b = (torch.zeros_like(t) if x is None else x for x in (a, b))
        off += float((a - b).abs().square().sum())
        total += float(a.abs().square().sum())
    return off <= torch.finfo(inputs[0].dtype).eps * total


class _Linear(torch.autograd.Function):
    """Inputs: values, their derivatives (one row for each direction), settings.
    Outputs: the values."""

    @staticmethod
    def forward(
        ctx: Any, values: list[Tensor], rows: list[Tangents], *settings: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*settings, *(t for row in rows for t in row))
        ctx.count, ctx.boundary, ctx.steps = len(settings), None, 0
        return tuple(t.detach() for t in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if ctx.boundary is not None:
            if not ctx.boundary.open:
                return (None, None, *(None for _ in range(ctx.count)))
            if ctx.steps > ctx.boundary.left:
                raise RuntimeError(_AMONG)
        saved: tuple[Any, ...] = ctx.saved_tensors
        settings, tangents = saved[: ctx.count], iter(saved[ctx.count :])
        found: list[Tensor | None] = []
        with torch.no_grad():
            for setting in settings:
                rows = [
                    [(g, next(tangents)) for g in grads] for _ in range(setting.numel())
                ]
                slopes = [
                    _dot(
                        [(g, t) for g, t in row if not (g is None or t is None)],
                        setting,
                    )
                    for row in rows
                ]
                found.append(torch.stack(slopes).reshape(setting.shape))
        if torch.is_grad_enabled():
            found = once(found, [*settings, *grads])
        return (None, None, *found)


def _dot(pairs: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """The sum of the real inner products, in the dtype and on the device of ``like``."""
    total = torch.zeros((), dtype=like.dtype, device=like.device)
    for g, t in pairs:
        total = total + torch.real((g.detach() * t.conj()).sum()).to(total)
    return total


def _dots(pairs: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """The same for each task by itself."""
    total = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    for g, t in pairs:
        products = g.detach() * t.conj()
        total = total + torch.real(products.flatten(1).sum(1)).to(total)
    return total


_AMONG = (
    "truncate counts steps back from the outer loss, and would cut among those that were "
    "made with mode='forward', whose derivatives are one sum. Compute the outer loss right "
    "after unroll, or use mode='reverse'."
)
_DEPENDS = (
    "mode='forward' has derivatives by settings only, and the weights or the state that "
    "this unroll starts from depend on something else that requires grad. Pass "
    "copy_initial_weights=True and begin with unroll, or use mode='reverse'."
)
_CAPTURED = (
    "mode='forward' has derivatives by settings only, and a step of this unroll uses "
    "another tensor that requires grad: its gradient would be lost. Detach it, or use "
    "mode='reverse'."
)
