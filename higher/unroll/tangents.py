"""Forward mode: derivatives by a few settings, carried along with the weights.

Each step is ``torch.func.jvp`` of an update by ``torch.func.grad``, forward over
reverse; the other way round is silently wrong in torch (LayerNorm, BatchNorm). See
Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization"
(2017).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from higher._carry import Carry, leaf_of, packed, tensors_in, unpacked
from higher.unroll.segment import once
from higher.unroll.step import Inner
from higher.unroll.surroundings import Random, Tree

Tangents = list["Tensor | None"]
"""The derivatives of a carry's tensors in one direction; None for zero."""


class Forward(NamedTuple):
    """The carry at the end and the losses; their graph leads to the settings."""

    carry: Carry
    losses: list[Tensor]


class _Pushed(NamedTuple):
    """What a step made, and the derivatives of that in one direction."""

    carry: Carry
    loss: Tensor
    tangents: Tangents
    slope: Tensor


def run_forward(inner: Inner, tree: Tree, first: int, start: Carry) -> Forward:
    """Runs all steps from ``first`` on.

    Raises:
        RuntimeError: no setting requires grad, or something else does.
    """
    _load_torch_quietly()
    sources = _settings(start)
    leaves = [leaf_of(t, False) for t in start.tensors]
    carry = Carry(start.layout, leaves)
    directions = list(_directions(start, sources))
    losses: list[Tensor] = []
    slopes: list[list[Tensor]] = [[] for _ in directions]
    trained = [start.tensors[slot.at].requires_grad for slot in start.layout[0]]
    with inner.surroundings():
        for number in range(first, inner.steps):
            step = _Step(inner, tree, number, trained, carry)
            pushed = step.along(directions)
            carry, directions = pushed[0].carry, [p.tangents for p in pushed]
            losses.append(pushed[0].loss)
            for slope, p in zip(slopes, pushed):
                slope.append(p.slope)
    origin = {id(leaf): t for leaf, t in zip(leaves, start.tensors)}
    end = [origin.get(id(t), t) for t in carry.tensors]
    made = [
        i for i, t in enumerate(end) if t is carry.tensors[i] and _moves(directions, i)
    ]
    rows = [
        [*(_filled(d[i], end[i]) for i in made), *slope]
        for d, slope in zip(directions, slopes)
    ]
    node: Any = _Linear
    settings = [start.tensors[i] for i in sources]
    values = [*(end[i] for i in made), *losses]
    outputs = node.apply(values, rows, *settings)
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


def _moves(directions: Sequence[Tangents], i: int) -> bool:
    return any(d[i] is not None for d in directions)


def _filled(tangent: Tensor | None, t: Tensor) -> Tensor:
    return torch.zeros_like(t) if tangent is None else tangent


class _Step:
    """One step, run once for each direction."""

    def __init__(
        self, inner: Inner, tree: Tree, number: int, trained: list[bool], carry: Carry
    ) -> None:
        self.inner = inner
        self.tree = tree
        self.number = number
        self.carry = carry
        self.trained = trained
        self.moment = tree.moment(Random(inner.devices))
        self.unused: set[int] | None = None

    def along(self, directions: Sequence[Tangents]) -> list[_Pushed]:
        held = self.tree.plain_buffers()
        try:
            pushed: list[_Pushed] = []
            buffers: dict[tuple[int, str], Tensor] = {}
            for direction in directions:
                result, buffers = self._along(directions, direction)
                pushed.append(result)
        finally:
            self.tree.set_buffers(held)
        with torch.no_grad():
            for key, b in held.items():
                if key in buffers:
                    b.copy_(buffers[key])
        return pushed

    def _along(
        self, directions: Sequence[Tangents], direction: Tangents
    ) -> tuple[_Pushed, dict[tuple[int, str], Tensor]]:
        tensors = self.carry.tensors
        moving = [i for i in range(len(tensors)) if _moves(directions, i)]
        primals = tuple(tensors[i] for i in moving)
        tangents = tuple(_filled(direction[i], tensors[i]) for i in moving)
        layout: Any = None
        kept: dict[int, int] = {}
        floats: list[int] = []

        def step(*duals: Tensor) -> Any:
            nonlocal layout
            inputs = list(tensors)
            for i, dual in zip(moving, duals):
                inputs[i] = dual
            made, loss, vanish, buffers = self._step(inputs)
            layout, new = packed([*made, {}])
            place = {id(t): i for i, t in enumerate(inputs)}
            kept.update((i, place[id(t)]) for i, t in enumerate(new) if id(t) in place)
            fresh = [i for i in range(len(new)) if i not in kept]
            floats[:] = [i for i in fresh if _differentiable(new[i])]
            others = {i: new[i] for i in fresh if i not in floats}
            return (*(new[i] for i in floats), loss), (others, vanish, buffers)

        self.tree.go_to(self.moment)
        result: Any = torch.func.jvp(step, primals, tangents, has_aux=True)
        out, slopes, (others, vanish, buffers) = result
        if self.unused is None and any(bool(v) for v in vanish):
            self.unused = self._without_gradient()
            if self.unused:
                return self._along(directions, direction)
        if any(t.requires_grad for t in (*out, *others.values())):
            raise RuntimeError(_CAPTURED)
        end: list[Any] = [None] * (len(kept) + len(floats) + len(others))
        row: Tangents = [None] * len(end)
        for i, source in kept.items():
            end[i], row[i] = tensors[source], direction[source]
        for i, t in others.items():
            end[i] = t
        for i, t, slope in zip(floats, out, slopes):
            end[i] = t
            # counters: a dual number would slow them down
            still = t.dim() == 0 and t.device.type == "cpu" and not bool(slope)
            row[i] = None if still else slope
        pushed = _Pushed(Carry(layout, end), out[-1], row, slopes[-1])
        return pushed, buffers

    def _step(self, inputs: list[Tensor]) -> Any:
        """Made: parameters, settings, state; the loss; where gradients vanish;
        buffers."""
        params, groups, state, shared, _ = unpacked(self.carry.layout, inputs)
        unused = self.unused or set()
        chosen = [i for i, t in enumerate(self.trained) if t and i not in unused]

        def loss_of(weights: Sequence[Tensor]) -> Any:
            now = list(params)
            for i, w in zip(chosen, weights):
                now[i] = w
            self.tree.copy_small_buffers()
            with _WrittenOut():
                loss = self.inner.loss(self.tree, self.number, now, {}, {})
            return loss, self.tree.plain_buffers()

        found, (loss, buffers) = torch.func.grad_and_value(loss_of, has_aux=True)(
            tuple(params[i] for i in chosen)
        )
        grads: list[Tensor | None] = [None] * len(params)
        for i, g in zip(chosen, found):
            grads[i] = g
        optimizer = self.inner.optimizer(groups, state, shared)
        made = self.inner.updated(optimizer, params, grads)
        vanish = [~g.any() for g in found] if self.unused is None else []
        return made, loss, vanish, buffers

    def _without_gradient(self) -> set[int]:
        """Parameters that the loss does not depend on: torch.func takes their
        gradient for zero, and optimizers skip them."""
        self.tree.go_to(self.moment)
        params = unpacked(self.carry.layout[0], self.carry.tensors)
        leaves = [leaf_of(p, t) for p, t in zip(params, self.trained)]
        loss = self.inner.loss(self.tree, self.number, leaves, {}, {})
        chosen = [i for i, t in enumerate(self.trained) if t]
        found = torch.autograd.grad(
            loss, [leaves[i] for i in chosen], allow_unused=True
        )
        return {i for i, g in zip(chosen, found) if g is None}


@functools.cache
def _load_torch_quietly() -> None:
    """Some torch warns of its own use of TorchScript at the first jvp."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        one = torch.ones(())
        torch.func.jvp(torch.sin, (one,), (one,))


def _differentiable(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


class _WrittenOut(TorchFunctionMode):
    """Writes out what breaks in torch's forward mode and need not.

    The derivative of mse_loss's backward writes into its target's, a constant zero.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {k: v for k, v in (kwargs or {}).items() if v is not None}
        if func is F.mse_loss and len(args) == 2 and given.keys() <= {"reduction"}:
            return _mse_loss(*args, **given)
        return func(*args, **(kwargs or {}))


def _mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    errors = (input - target).square()
    if reduction == "none":
        return errors
    return errors.sum() if reduction == "sum" else errors.mean()


class _Linear(torch.autograd.Function):
    """Inputs: values, their derivatives (one row for each direction), settings.
    Outputs: the values."""

    @staticmethod
    def forward(
        ctx: Any, values: list[Tensor], rows: list[list[Tensor]], *settings: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*settings, *(t for row in rows for t in row))
        ctx.count = len(settings)
        return tuple(t.detach() for t in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        settings, tangents = saved[: ctx.count], iter(saved[ctx.count :])
        found: list[Tensor | None] = []
        with torch.no_grad():
            for setting in settings:
                slopes = [
                    _dot(grads, [next(tangents) for _ in grads], setting)
                    for _ in range(setting.numel())
                ]
                found.append(torch.stack(slopes).reshape(setting.shape))
        return (None, None, *(once(found) if torch.is_grad_enabled() else found))


def _dot(
    grads: Sequence[Tensor | None], tangents: Sequence[Tensor], like: Tensor
) -> Tensor:
    total = torch.zeros((), dtype=like.dtype, device=like.device)
    for g, t in zip(grads, tangents):
        if g is not None:
            product = (g * t.conj()).sum()
            total = total + torch.real(product).to(total)
    return total


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
