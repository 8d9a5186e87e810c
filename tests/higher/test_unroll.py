"""``higher.unroll`` against the plain loop, in float64."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import higher
import pytest
import torch
from codegen.verify.surroundings import unrounded
from higher._generated import OPTIMIZERS
from handwritten import HandAdam, HandSGD
from higher.optim import DifferentiableOptimizer, GroupedGrads
from looped import (
    K,
    MODES,
    by,
    data,
    looped,
    loss_fn,
    net,
    outer_of,
    result,
    same,
    scalar,
)
from torch import Tensor, nn

PATHS = sorted(set(OPTIMIZERS) - {"torch.optim.SparseAdam"})


def build(path: str) -> Callable[[nn.Module], torch.optim.Optimizer]:
    cls: Any = getattr(torch.optim, path.rsplit(".", 1)[1])
    if path.endswith("Muon"):
        return lambda m: cls([p for p in m.parameters() if p.dim() == 2], lr=0.02)
    return lambda m: cls(m.parameters(), lr=0.02)


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_every_optimizer_has_the_plain_loops_derivatives(
    path: str, memory: Any
) -> None:
    if not hasattr(torch.optim, path.rsplit(".", 1)[1]):
        pytest.skip("this torch has no such optimizer")

    def run(unroll: Any) -> list[Tensor]:
        return result(unroll, build(path), {"lr": [scalar(0.02)]})

    # some keep float32 counters or compute in bfloat16: there, order of sums shows
    with unrounded():
        same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", ["full", *MODES])
def test_settings_of_groups_get_their_own_derivatives(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        def groups(m: nn.Module) -> torch.optim.Optimizer:
            first, *rest = m.parameters()
            return torch.optim.AdamW([{"params": rest}, {"params": [first]}], lr=0.01)

        raw = scalar(-4.0)
        override = {
            "lr": [raw.exp(), scalar(0.03)],
            "betas": [(0.8, scalar(0.99)), (scalar(0.7), 0.9)],
            "weight_decay": [scalar(0.0)],
        }
        return result(unroll, groups, override, [raw])

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", ["full", *MODES])
def test_override_and_callback_of_the_call_are_those_of_each_step(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        limit, lr = scalar(0.3), scalar(0.2)

        def clip(grads: list[Tensor]) -> list[Tensor]:
            norm = torch.stack([g.norm() for g in grads]).norm()
            return [g * limit / (limit + norm) for g in grads]

        kwargs: dict[str, Any] = {"grad_callback": clip, "override": {"lr": [lr * 2]}}
        return result(
            unroll,
            lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9),
            meta=[limit, lr],
            **kwargs,
        )

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_an_optimizer_that_has_stepped_goes_on_from_its_state(memory: Any) -> None:
    def used(m: nn.Module) -> torch.optim.Optimizer:
        opt = torch.optim.NAdam(m.parameters(), lr=0.02)
        loss_fn(m, data(1)[0]).backward()
        opt.step()
        return opt

    def twice(*args: Any) -> list[Tensor]:
        f, diffopt, loss, batches = args
        losses = by(memory)(f, diffopt, loss, batches[:7])
        losses += looped(f, diffopt, loss, batches[7:9])
        return losses + by(memory)(f, diffopt, loss, batches[9:])

    same(result(twice, used), result(looped, used))


@pytest.mark.parametrize("memory", ["full", *MODES])
@pytest.mark.parametrize("cls", [HandSGD, HandAdam])
def test_a_users_subclass_is_unrolled_as_the_plain_loop_steps_it(
    cls: type[DifferentiableOptimizer], memory: Any
) -> None:
    plain = torch.optim.SGD if cls is HandSGD else torch.optim.Adam

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        f = higher.monkeypatch(model, copy_initial_weights=False)
        lr: Tensor = scalar(0.05)
        diffopt = cls(
            plain(model.parameters(), lr=0.1),
            list(model.parameters()),
            fmodel=f,
            override={"lr": [lr]},
        )
        losses = unroll(f, diffopt, loss_fn, data())
        return list(torch.autograd.grad(outer_of(f, losses), [lr, *model.parameters()]))

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("memory", MODES)
def test_buffers_that_carry_gradient_keep_it_in_every_memory_mode(
    memory: Any, order: int
) -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 4, bias=False)
            self.register_buffer("hidden", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x) + self.hidden
            self.hidden = torch.tanh(out.mean(0))
            return out

    def run(unroll: Any) -> list[Tensor]:
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9)  # noqa: E731
        return result(unroll, sgd, model=Remembers().double(), order=order)

    torch.manual_seed(0)
    first = run(by(memory))
    torch.manual_seed(0)
    same(first, run(by("full")))


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("affine", [False, True])
def test_eval_mode_in_between_reads_the_statistics_of_its_step(
    affine: bool, memory: Any
) -> None:
    """What torch saved of running statistics is not overwritten by a later step."""

    def run(unroll: Any) -> list[Tensor]:
        def loss(f: Any, batch: Any) -> Tensor:
            f.train(bool(batch[0].sum() > 0))
            return loss_fn(f, batch)

        model = net()
        model[1] = nn.BatchNorm1d(5, affine=affine).double()
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1)  # noqa: E731
        return result(unroll, sgd, loss=loss, model=model)

    torch.manual_seed(0)
    first = run(by(memory))
    torch.manual_seed(0)
    same(first, run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_modes_and_weights_that_change_before_backward_make_no_difference(
    memory: Any,
) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            unroll(f, d, loss_fn, data())
            f.eval()
            outer = loss_fn(f, data(1)[0])
            f.update_params([torch.zeros_like(p) for p in f.parameters()])
            torch.rand(100)
        return list(torch.autograd.grad(outer, list(model.parameters())))

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_backward_adds_up_as_grad_does_and_a_freed_graph_is_an_error(
    memory: Any,
) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            losses = unroll(f, d, loss_fn, data())
        outer = outer_of(f, losses)
        outer.backward(retain_graph=True)
        outer.backward()
        with pytest.raises(RuntimeError, match="second time"):
            outer.backward()
        grads = [p.grad for p in model.parameters()]
        return [g for g in grads if g is not None]

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_a_module_that_is_gone_when_backward_comes_makes_no_difference(
    memory: Any,
) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            unroll(f, d, loss_fn, data())
            outer = loss_fn(f, data(1)[0])
        del f, d
        return list(torch.autograd.grad(outer, list(model.parameters())))

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_nothing_outlives_the_last_reference(memory: Any) -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters(), lr=0.02)
    gc.collect()
    gc.disable()
    try:
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            higher.unroll(f, d, loss_fn, data(), memory=memory)
            gone = weakref.ref(f), weakref.ref(next(iter(f.parameters())))
            del f, d
        assert [r() for r in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("memory", MODES)
def test_activation_checkpoints_inside_change_no_derivative(memory: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.net, x, use_reentrant=False)

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1)  # noqa: E731
        # as everywhere, statistics advance again with a checkpoint: no batch norm
        model = Checkpointed()
        model.net[1] = nn.Identity()
        return result(unroll, sgd, model=model)

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_autocast_computes_a_step_again_as_it_did_first(memory: Any) -> None:
    """What is computed in bfloat16 the first time is so again."""

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(x.float(), y) for x, y in data()]
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            with torch.autocast("cpu", torch.bfloat16):
                unroll(f, d, loss_fn, batches)
                assert f(batches[0][0]).dtype == torch.bfloat16
                outer = loss_fn(f, batches[0])
        return list(torch.autograd.grad(outer, list(model.parameters())))

    for a, b in zip(run(by(memory)), run(looped)):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max()))


def test_test_mode_keeps_nothing() -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, track_higher_grads=False) as (f, d):
            unroll(f, d, loss_fn, data())
            assert len(f._fast_params) == 1
            return [p.detach() for p in f.parameters()]

    same(run(by("low")), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_frozen_unused_complex_and_shared_parameters_get_the_plain_loops_derivatives(
    memory: Any,
) -> None:
    """Frozen, unused and complex ones, and one in two places."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4, bias=False)
            self.b = self.a
            self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
            self.unused = nn.Parameter(torch.ones(2))
            self.phase = nn.Parameter(torch.ones(4, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Any:
            return (self.a(x) + self.b(x).tanh()) * self.frozen + self.phase.abs()

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = Odd().double()
        model.phase = nn.Parameter(model.phase.to(torch.complex128) * (1 + 1j))
        params = [p for p in model.parameters() if p.requires_grad]
        opt = torch.optim.Adam(params, lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            losses = unroll(f, d, loss_fn, data())
            outer = loss_fn(f, data(1)[0]) + losses[3]
        grads = torch.autograd.grad(outer, params, allow_unused=True)
        return [torch.zeros(()) if g is None else g for g in grads]

    same(run(by(memory)), run(looped))


class Lists(DifferentiableOptimizer):
    """State in a list, and some that belongs to no parameter."""

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            for i, (p, grad) in enumerate(zip(group["params"], grads)):
                if grad is None:
                    continue
                sides = self.state[g][i].setdefault("sides", [torch.zeros_like(p)] * 2)
                sides[0] = 0.5 * sides[0] + grad
                self.shared["total"] = self.shared.get("total", 0) + sides[0].sum()
                group["params"][i] = (
                    p - group["lr"] * (sides[0] + sides[1]) * self.shared["total"].cos()
                )
                sides[1] = sides[0] * grad


@pytest.mark.parametrize("memory", MODES)
def test_state_in_lists_and_state_of_no_parameter_are_carried_along(
    memory: Any,
) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        f = higher.monkeypatch(model, copy_initial_weights=False)
        opt = torch.optim.SGD(model.parameters(), lr=0.05)
        diffopt = Lists(opt, list(model.parameters()), fmodel=f)
        unroll(f, diffopt, loss_fn, data())
        outer = loss_fn(f, data(1)[0]) + diffopt.shared["total"]
        return list(torch.autograd.grad(outer, list(model.parameters())))

    same(run(by(memory)), run(looped))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("memory", MODES)
def test_sparse_gradients_give_the_plain_loops_derivatives(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 3, sparse=True)).double()
        opt = torch.optim.SparseAdam(list(model.parameters()), lr=0.1)
        rows, lr = torch.randint(7, (K, 4)), scalar(0.1)
        with higher.innerloop_ctx(
            model, opt, copy_initial_weights=False, override={"lr": [lr]}
        ) as (f, diffopt):

            def loss(f: Any, row: Tensor) -> Tensor:
                out: Tensor = f(row).square().mean()
                return out

            unroll(f, diffopt, loss, list(rows))
            outer = loss(f, rows[0])
        found = torch.autograd.grad(outer, [lr, *model.parameters()])
        return [g.to_dense() if g.is_sparse else g for g in found]

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_a_callback_that_writes_into_gradients_is_run_again_on_the_same_ones(
    memory: Any,
) -> None:
    def halve(grads: list[Tensor]) -> list[Tensor]:
        for g in grads:
            g.mul_(0.5)
        return grads

    def run(unroll: Any) -> list[Tensor]:
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9)  # noqa: E731
        return result(unroll, sgd, grad_callback=halve)

    same(run(by(memory)), run(looped))


def test_settings_of_less_precision_change_no_step_that_is_run_again() -> None:
    """Segments come out equal to the last bit, though no number is exact."""

    def run(unroll: Any) -> list[Tensor]:
        lr, beta = (torch.tensor(v, requires_grad=True) for v in (0.02, 0.9))
        override = {"lr": [lr], "betas": [(beta, 0.99)]}
        return result(unroll, lambda m: torch.optim.Adam(m.parameters()), override)

    for a, b in zip(run(by("low")), run(looped), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
