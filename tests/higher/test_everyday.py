"""What people do with models and optimizers without thinking."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unroll import regression

import higher

F64 = torch.float64
X = torch.linspace(-1, 1, 15, dtype=F64).reshape(5, 3)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


# --- copies and looks -------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("truncate", [None, 2])
def test_a_deep_copy_goes_its_own_way(kind: Any, truncate: int | None) -> None:
    model, loss = net(), regression()
    opt = kind(model.parameters(), lr=0.05, weight_decay=0.1)
    lr = torch.tensor(0.05, dtype=F64, requires_grad=True)
    with higher.innerloop_ctx(model, opt, override={"lr": [lr]}, truncate=truncate) as (
        fmodel,
        diff,
    ):
        for _ in range(3):
            diff.step(loss(fmodel))
        ftwin, twin = copy.deepcopy((fmodel, diff))
        before = [w.detach().clone() for w in ftwin.parameters()]
        for _ in range(2):
            diff.step(loss(fmodel))
        torch.testing.assert_close([w.detach() for w in ftwin.parameters()], before)
        assert twin._fmodel is ftwin and type(twin) is type(diff)
        for _ in range(2):
            twin.step(loss(ftwin))
        torch.testing.assert_close(
            list(ftwin.parameters()), list(fmodel.parameters()), rtol=0, atol=0
        )
        # nothing flows back from a copy, whose own settings are leaves of their own
        outer = loss(ftwin)
        own = twin.param_groups[0]["lr"]
        assert own is not lr and own.is_leaf and own.requires_grad
        assert torch.autograd.grad(outer, lr, allow_unused=True, retain_graph=True) == (
            None,
        )
        assert torch.autograd.grad(outer, own)[0].abs() > 0


def test_a_look_at_an_optimizer_shows_its_groups_as_torch_does() -> None:
    model = net()
    groups = [{"params": m.parameters(), "lr": lr} for m, lr in zip(model[::2], (1, 2))]
    opt = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    diff = higher.get_diff_optim(opt, model.parameters())
    own, theirs = repr(diff).splitlines(), repr(opt).splitlines()
    assert own[0] == "DifferentiableSGD (" and own[-1] == ")"
    numbers = [
        line for line in theirs[1:] if "None" not in line and "False" not in line
    ]
    assert [line for line in numbers if line not in own] == []


def test_the_version_is_that_of_the_distribution() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    found = re.search(r'^version = "(.*)"', project.read_text(), re.MULTILINE)
    assert found and found.group(1) == higher.__version__


# --- progress bars ----------------------------------------------------------------


class Bar:
    """What tqdm does: passes batches on, and knows how many there are."""

    def __init__(self, batches: list[Any], total: int | None = None) -> None:
        self.batches = batches
        self.total = len(batches) if total is None else total
        self.n = 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield batch
            self.n += 1
        self.n = -self.n  # closed


SETTINGS: list[dict[str, Any]] = [
    {"memory": "full"},
    {"memory": "full", "truncate": 3},
    {"memory": "step"},
    {"memory": "low"},
    {"memory": 2},
    {"memory": 2, "truncate": 4},
    {"mode": "forward"},
]


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_a_bar_around_the_batches_moves_with_the_steps(how: dict[str, Any]) -> None:
    """Random batches and random losses: each is drawn once, and found again."""
    drawn = []
    for bar in (False, True):
        model = net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        lr = torch.tensor(0.1, dtype=F64, requires_grad=True)
        scales = [torch.tensor(1.0 + k, dtype=F64) for k in range(7)]
        seen: list[int] = []
        batches: Any = Bar(scales) if bar else scales

        def loss(fmodel: nn.Module, scale: Tensor) -> Tensor:
            seen.append(getattr(batches, "n", 0))
            noise = torch.rand(5, 2, dtype=F64)
            return (fmodel(X) - noise).square().mean() * scale / 7

        torch.manual_seed(3)
        with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, diff):
            higher.unroll(f, diff, loss, batches, **how)
            first = seen[:7]
            found = torch.autograd.grad(f(X).square().mean(), lr)
        drawn.append([*f.parameters(), *found])
    torch.testing.assert_close(*drawn)
    segment = 2 if how.get("memory") == 2 else 1
    assert all(abs(n - k) <= segment for k, n in enumerate(first[:-1])), first
    assert batches.n == -7


@pytest.mark.parametrize(("there", "said"), [("fewer", 4), ("more", 2)])
def test_a_wrong_length_is_told(there: str, said: int) -> None:
    model, loss = net(), regression()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = Bar([0, 1, 2], said)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        with pytest.raises(ValueError, match=f"is {said}, and there are {there}"):
            higher.unroll(fmodel, diff, lambda m, _: loss(m), batches, memory="step")


def test_batches_that_look_at_the_module_are_refused_where_weights_are_not_kept() -> (
    None
):
    class Hard:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, k: int) -> Tensor:
            if k >= 4:
                raise IndexError
            return fmodel(X).argmax()

    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(module: nn.Module, at: Tensor) -> Tensor:
        return module(X).square().flatten()[at]

    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        higher.unroll(fmodel, diff, loss, Hard())
        with pytest.raises(RuntimeError, match="batches look at"):
            higher.unroll(fmodel, diff, loss, Hard(), memory="step")
        assert fmodel(X).shape == (5, 2)


# --- optimizers that have no steps to differentiate ---------------------------------


def test_an_optimizer_that_evaluates_the_loss_itself_gets_advice() -> None:
    model = net()
    opt = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match="implicitly") as refused:
        with higher.innerloop_ctx(model, opt):
            pass
    assert "codegen" not in str(refused.value)


def test_a_wrapped_optimizer_is_found_in_its_wrapper() -> None:
    accelerate = pytest.importorskip("accelerate")
    model, loss = net(), regression()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = accelerate.Accelerator(cpu=True).prepare(plain)
    with pytest.raises(ValueError, match="Pass that one: opt.optimizer") as refused:
        with higher.innerloop_ctx(model, wrapped):
            pass
    assert "type SGD" in str(refused.value)
    with higher.innerloop_ctx(model, wrapped.optimizer) as (fmodel, diff):
        diff.step(loss(fmodel))
