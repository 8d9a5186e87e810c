"""Small, smooth training problems on which an optimizer and its translation are run.

The loss at step t, over all weights x laid out flat, is

    sum log cosh(A_t x - y_t)

with fresh A_t, y_t at every t: every gradient depends on every weight, no gradient is
near zero, signs change from step to step, and there is no kink anywhere. For sparse
gradients, some rows are read, one of them twice, and compared with targets likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 7  # residuals at each step


@dataclass(frozen=True)
class Layout:
    """Which parameters, in which groups, and what happens to which of them."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    frozen: frozenset[int] = frozenset()
    intermittent: bool = False  # gradients of parameters 0 and 1 are None at times
    zero: str = ""  # "start", "later" or "stationary": parameter 0's gradient is 0
    sparse: bool = False
    scales: tuple[float, ...] = ()  # of the losses, step by step, and again

    def with_(
        self,
        name: str,
        *,
        split: bool = False,
        frozen: bool = False,
        intermittent: bool = False,
    ) -> Layout:
        """The same parameters in two groups, the last one frozen, or now and then
        without a gradient."""
        n = len(self.shapes)
        halves = (tuple(range(0, n, 2)), tuple(range(1, n, 2)))
        return Layout(
            name,
            self.shapes,
            halves if split and n > 1 else self.groups,
            frozenset({n - 1}) if frozen and n > 1 else frozenset(),
            intermittent,
            sparse=self.sparse,
        )

    def zeroed(self, zero: str) -> Layout:
        """The same with parameter 0's gradient exactly zero."""
        return Layout(f"gradient zero ({zero})", self.shapes, self.groups, zero=zero)


def of_shapes(name: str, *shapes: tuple[int, ...], sparse: bool = False) -> Layout:
    """Parameters of some shapes, in one group."""
    return Layout(name, shapes, (tuple(range(len(shapes))),), sparse=sparse)


#: What optimizers take, tried in this order: the first that runs is used.
LAYOUTS = (
    of_shapes("mixed shapes", (3, 2), (4,), (), (2, 1, 2, 2)),
    of_shapes("shapes without scalars", (3, 2), (4,), (2, 1, 2, 2)),
    of_shapes("matrices and vectors", (3, 2), (4,), (2, 3)),
    of_shapes("matrices", (3, 2), (2, 3), (2, 2)),
    of_shapes("sparse gradients", (5, 2), (4, 3), (4, 1), sparse=True),
)
SPARSE = LAYOUTS[-1]


class Problem:
    """Initial weights, and losses that depend on the step, for one layout."""

    def __init__(self, layout: Layout, dtype: torch.dtype, seed: int = 0) -> None:
        self.layout = layout
        self.dtype = dtype
        self._random = torch.Generator().manual_seed(seed)
        self._weights = [self._uniform(*s) for s in layout.shapes]
        self._data: dict[int, list[Tensor]] = {}
        #: Rows of the embeddings that a step reads, one of them twice.
        self._rows = torch.tensor([[0, 2, 2], [1, 3, 0], [3, 3, 1], [2, 0, 1]])

    def initial(self) -> list[Tensor]:
        """Fresh initial weights; those not frozen require grad."""
        frozen = self.layout.frozen
        return [
            w.clone().requires_grad_(i not in frozen)
            for i, w in enumerate(self._weights)
        ]

    def present(self, step: int) -> list[int]:
        """Parameters that get a gradient at `step` (negative: before branching off)."""
        everyone = [i for i in range(len(self._weights)) if i not in self.layout.frozen]
        if not self.layout.intermittent:
            return everyone
        absent = {0} if step in (-2, 0, 3) else set()
        if step < 2 and len(self._weights) > 3:
            absent |= {1}
        return [i for i in everyone if i not in absent]

    def loss(self, params: Sequence[Tensor], step: int) -> Tensor:
        """The training loss at `step`, a real scalar."""
        scales = self.layout.scales or (1,)
        return self._loss(params, step) * scales[step % len(scales)]

    def _loss(self, params: Sequence[Tensor], step: int) -> Tensor:
        if self.layout.sparse:
            return self._lookup(params, step)
        present = self.present(step)
        matrix, target, *_ = self._at(step)
        loss = _log_cosh(matrix @ self._flat(params, step, present) - target)
        if self.layout.zero == "stationary":
            away = params[0] - self._weights[0]
            loss = loss + 0.5 * (away * away).sum()
        return loss

    def outer(self, params: Sequence[Tensor]) -> Tensor:
        """The validation loss, a real scalar of every weight."""
        everyone = list(range(len(params)))
        matrix, target, *_ = self._at(1000)
        flat = torch.cat([_real(params[i]).reshape(-1) for i in everyone])
        return _log_cosh(matrix @ flat - target)

    def of_state(self, state: object) -> Tensor:
        """A real scalar of all floating-point tensors in an optimizer's state, except
        single numbers, which are counters mostly."""
        leaves = [x for x in _tensors(state) if x.dim() and x.is_floating_point()]
        flat = [x.to_dense().reshape(-1) for x in leaves] or [torch.zeros(1)]
        together = torch.cat([x.to(flat[0].dtype) for x in flat])
        weights = torch.arange(together.numel(), dtype=together.dtype).cos()
        return (together * weights).sum()

    def replay(
        self, params: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Tensor:
        """A loss whose gradients are exactly `grads` (dense ones)."""
        terms = [
            (_real(p) * _real(g)).sum() for p, g in zip(params, grads) if g is not None
        ]
        return torch.stack(terms).sum()

    def _flat(self, params: Sequence[Tensor], step: int, present: list[int]) -> Tensor:
        flat = [_real(p).reshape(-1) for p in params]
        zero = self.layout.zero
        off = zero in ("start", "stationary") or (zero == "later" and step >= 2)
        if off:
            flat[0] = flat[0] * 0.0
        return torch.cat(
            [f if i in present else f.detach() * 0.0 for i, f in enumerate(flat)]
        )

    def _lookup(self, params: Sequence[Tensor], step: int) -> Tensor:
        rows = self._rows[step % len(self._rows)]
        targets = self._at(step)[2:]
        lookup = torch.nn.functional.embedding
        terms = [
            _log_cosh(lookup(rows, params[i], sparse=True) - targets[i])
            for i in self.present(step)
        ]
        return torch.stack(terms).sum()

    def _at(self, step: int) -> list[Tensor]:
        """Matrix, target and, for lookups, one target for each number read."""
        if step not in self._data:
            self._random.manual_seed(step + 10**6)
            size = sum(_real(w).numel() for w in self._weights)
            real = _real(torch.zeros((), dtype=self.dtype)).dtype
            shapes = [(ROWS, size), (ROWS,)]
            if self.layout.sparse:
                shapes += [(3, s[1]) for s in self.layout.shapes]
            drawn = (self._uniform(*s, dtype=real) for s in shapes)
            self._data[step] = [d / math.sqrt(0.2) for d in drawn]
        return self._data[step]

    def _uniform(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Numbers between 0.1 and 0.5 in size, of either sign."""
        dtype = dtype or self.dtype
        if dtype.is_complex:
            pair = self._uniform(*shape, 2, dtype=torch.float32)
            return torch.view_as_complex(pair).to(dtype)
        size = torch.rand(shape, generator=self._random, dtype=torch.float64)
        sign = torch.rand(shape, generator=self._random, dtype=torch.float64) - 0.5
        return ((0.1 + 0.4 * size) * sign.sign()).to(dtype)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _tensors(tree: object) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for key in sorted(tree, key=str):
            yield from _tensors(tree[key])
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for item in tree:
            yield from _tensors(item)


def _log_cosh(x: Tensor) -> Tensor:
    return x.cosh().log().sum()
