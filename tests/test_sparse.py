"""Sparse gradients: the original's trajectory, right derivatives, second order too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from codegen.verify import gradients, trajectory
from codegen.verify.problem import SPARSE
from codegen.verify.report import Tally
from codegen.verify.configuration import Configuration
from codegen.verify.subject import Subject
from codegen.verify.surroundings import undisturbed
from compiled import PATHS, build, compiled, seeded
from torch import Tensor, nn

#: torch's note on its own defaults, which the originals cause, too.
TAKERS = ["torch.optim.Adagrad", "torch.optim.SGD", "torch.optim.SparseAdam"]


def test_who_takes_sparse_gradients_is_found_out_by_trying() -> None:
    assert [p for p in PATHS if SPARSE in compiled(p).layouts] == TAKERS


def _configurations(found: Subject) -> list[Configuration]:
    grid = trajectory.configurations(found, thorough=True)
    return [conf for conf in grid if conf.layout.sparse]


@pytest.mark.parametrize("path", TAKERS)
def test_sparse_gradients_lead_where_the_original_goes(path: str) -> None:
    found, tally = compiled(path), Tally()
    with undisturbed():
        for conf in _configurations(found):
            trajectory.check(found, conf, tally)
    assert not tally.failures, "\n".join(map(str, tally.failures[:10]))
    assert tally.identical == tally.run > 10


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("path", TAKERS)
def test_derivatives_through_sparse_gradients_equal_finite_differences(
    path: str, warm: bool
) -> None:
    """Of a loss that is no linear function of the rows it looks up: right derivatives
    need the second derivative of the lookup."""
    found, tally = compiled(path), Tally()
    with undisturbed():
        conf = Configuration(SPARSE, warm=warm)
        gradients.check(found, conf, tally, thorough=True)
        gradients.check(found, replace(conf, settings={"maximize": True}), tally)
    assert not tally.failures, "\n".join(map(str, tally.failures[:10]))
    assert tally.hypergradients_right > 12


@pytest.mark.parametrize("path", TAKERS)
def test_an_embedding_learns_like_the_original_s(path: str) -> None:
    """Rows read twice (an uncoalesced gradient), rows read late, rows never read."""
    rows = [torch.tensor(r) for r in ([0, 2, 2], [2, 0, 1], [1, 1, 1], [3, 0, 2])]
    ours, theirs = (nn.Embedding(6, 3, sparse=True).double() for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    opts = [build(path, net.parameters()) for net in (ours, theirs)]
    diffopt = compiled(path).differentiable(opts[0], ours.parameters())
    fast = [p.detach().clone().requires_grad_() for p in ours.parameters()]

    def loss(weight: Tensor, t: int) -> Tensor:
        read = nn.functional.embedding(rows[t], weight, sparse=True)
        return (read - seeded(3, 3, seed=t)).square().sum()

    for t in range(len(rows)):
        opts[1].zero_grad()
        loss(theirs.weight, t).backward()  # type: ignore[no-untyped-call]
        opts[1].step()
        fast = diffopt.step(loss(fast[0], t), params=fast)
    assert torch.equal(fast[0], theirs.weight)


@pytest.mark.parametrize("path", ["torch.optim.Adagrad", "torch.optim.SGD"])
def test_sparse_and_dense_gradients_mean_the_same(path: str) -> None:
    """Weights and hypergradients do not depend on how the gradient is stored."""
    results = []
    for sparse in (True, False):
        weight = seeded(5, 2).requires_grad_()
        opt = build(path, [weight])
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        diffopt = compiled(path).differentiable(opt, [weight], override={"lr": [lr]})
        fast = [weight.detach().clone().requires_grad_()]
        start = fast[0]
        for t in range(3):
            rows = torch.tensor([t, 2, 2])
            read = nn.functional.embedding(rows, fast[0], sparse=sparse)
            fast = diffopt.step(read.cosh().log().sum(), params=fast)
        derivatives = torch.autograd.grad(fast[0].square().sum(), [lr, start])
        results.append([fast[0], *derivatives])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_dense_gradients_are_refused_by_sparse_adam() -> None:
    path = "torch.optim.SparseAdam"
    weight = seeded(3, 2).requires_grad_()
    diffopt = compiled(path).differentiable(build(path, [weight]), [weight])
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        diffopt.step(weight.square().sum(), params=[weight])
