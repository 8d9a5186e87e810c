"""Operations without a second derivative: torch's error, with what to do about it; and
what it says to do works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import higher

F64 = torch.float64
Y = torch.tensor([0, 1, 2, 3, 0, 1])
BAGS = torch.tensor([[0, 2], [3, 2], [1, 1]])
LENGTHS = torch.tensor([6, 6])
AT = torch.full((6,), 6)
Op = Callable[[Tensor], Tensor]


def x() -> Tensor:
    return torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(1))


def ctc(y: Tensor) -> Tensor:
    logs = F.log_softmax(y.unsqueeze(1).expand(6, 2, 4), -1)
    targets = torch.tensor([[1, 2], [1, 3]])
    return F.ctc_loss(logs, targets, LENGTHS, torch.tensor([2, 2]))


def margins(y: Tensor) -> Tensor:
    others = torch.ones_like(y).scatter(1, Y[:, None], 0)
    return ((1 - y.gather(1, Y[:, None]) + y).clamp(min=0) * others).mean()


def labels(y: Tensor) -> Tensor:
    """For the target that is the first column alone."""
    return (1 - (y[:, :1] - y[:, 1:])).clamp(min=0).sum(1).div(4).mean()


def upper(y: Tensor) -> Tensor:
    every = torch.cdist(y, y, compute_mode="use_mm_for_euclid_dist")
    return every[tuple(torch.triu_indices(6, 6, 1))]


def bags(mode: str) -> Op:
    return lambda y: F.embedding_bag(BAGS, y, mode=mode).square().mean()


def euclidean(**how: Any) -> Op:
    return lambda y: torch.cdist(y, x(), **how).square().mean()


TARGET = torch.tensor([[0, -1, -1, -1]] * 6)
PAIRS: dict[str, tuple[Op, Op | None, str]] = {
    "cdist": (
        euclidean(),
        euclidean(compute_mode="use_mm_for_euclid_dist"),
        "use_mm_for_euclid_dist",
    ),
    "cdist 3": (
        euclidean(p=3.0),
        lambda y: (y.unsqueeze(-2) - x().unsqueeze(-3)).norm(3, dim=-1).square().mean(),
        "norm",
    ),
    "pdist": (
        lambda y: F.pdist(y).square().mean(),
        lambda y: upper(y).square().mean(),
        "triu_indices",
    ),
    "ctc": (ctc, None, "order=1"),
    "bag of sums": (
        bags("sum"),
        lambda y: F.embedding(BAGS, y).sum(1).square().mean(),
        "nn.Embedding ",
    ),
    "bag of maxima": (
        bags("max"),
        lambda y: F.embedding(BAGS, y).amax(1).square().mean(),
        "amax",
    ),
    "margin": (lambda y: F.multi_margin_loss(y, Y), margins, "gather"),
    "margins": (lambda y: F.multilabel_margin_loss(y, TARGET), labels, "clamp"),
    "segments": (
        lambda y: torch.segment_reduce(y, "sum", lengths=torch.tensor([2, 4]))
        .square()
        .mean(),
        lambda y: y.new_zeros(2, 4)
        .index_add(0, torch.tensor([0, 0, 1, 1, 1, 1]), y)
        .square()
        .mean(),
        "index_add",
    ),
}


def unrolled(op: Op, order: int = 2, memory: Any = None) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(4, 4).double()
    opt = torch.optim.SGD(model.parameters(), lr=0.5)

    def loss(module: nn.Module, _: Any = None) -> Tensor:
        return op(module(x()).tanh())

    with higher.innerloop_ctx(model, opt, copy_initial_weights=False, order=order) as (
        fmodel,
        diff,
    ):
        if memory is None:
            for _ in range(2):
                diff.step(loss(fmodel))
        else:
            higher.unroll(fmodel, diff, loss, range(2), memory=memory)
        return [
            *(w.detach() for w in fmodel.parameters()),
            *torch.autograd.grad(loss(fmodel), list(model.parameters())),
        ]


@pytest.mark.parametrize("memory", [None, "step"])
@pytest.mark.parametrize("name", PAIRS)
def test_an_operation_without_second_derivative(name: str, memory: Any) -> None:
    op, instead, said = PAIRS[name]
    with pytest.raises(RuntimeError, match="is not implemented") as refused:
        unrolled(op, memory=memory)
    assert "\nHint: torch has no second derivative" in str(refused.value)
    assert said in str(refused.value) and str(refused.value).count("Hint: ") == 1
    first = unrolled(op, order=1, memory=memory)
    if instead is None:
        assert first[-1].abs().sum() > 0
        return
    torch.testing.assert_close(unrolled(instead, order=1), first)
    # of first order it is another gradient, from the same weights
    second = unrolled(instead)
    torch.testing.assert_close(second[:2], first[:2])
    assert all(g.isfinite().all() for g in second)


def test_the_hint_is_given_once_by_contexts_within_one_another() -> None:
    model = nn.Linear(4, 4).double()
    with pytest.raises(RuntimeError) as refused:
        with higher.innerloop_ctx(model, torch.optim.SGD) as (f, _):
            with higher.innerloop_ctx(f, torch.optim.SGD) as (g, e):
                e.step(F.pdist(g(x())).mean())
                F.pdist(g(x())).mean().backward()
    assert str(refused.value).count("Hint: ") == 1


def test_other_errors_are_left_alone() -> None:
    model = nn.Linear(4, 4).double()
    with pytest.raises(RuntimeError) as refused:
        with higher.innerloop_ctx(model, torch.optim.SGD):
            raise RuntimeError
    assert refused.value.args == ()
    with pytest.raises(RuntimeError, match="^shapes$"):
        with higher.innerloop_ctx(model, torch.optim.SGD):
            raise RuntimeError("shapes")


def test_freezing_a_fast_weight_is_told_how() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).double()
    opt = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with pytest.raises(RuntimeError, match="Hint: after a step, fast weights"):
        with higher.innerloop_ctx(model, opt) as (fmodel, diff):
            diff.step(fmodel(x()).square().mean())
            fmodel[0].requires_grad_(False)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for k in range(3):
            keep = [True] * 4 if k < 1 else [False, False, True, True]
            only = lambda gs: [
                g if on else None for g, on in zip(gs, keep)
            ]  # noqa: E731,B023
            diff.step(fmodel(x()).square().mean(), grad_callback=only)
    for k in range(3):
        model[0].requires_grad_(k < 1)
        opt.zero_grad()
        model(x()).square().mean().backward()
        opt.step()
    torch.testing.assert_close(
        [w.detach() for w in fmodel.parameters()],
        [p.detach() for p in model.parameters()],
    )
