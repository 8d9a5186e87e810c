"""Truncation and first order, of ``unroll`` and of ``innerloop_ctx``."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import higher
import pytest
import torch
from codegen.verify.surroundings import unrounded
from higher._generated import OPTIMIZERS
from torch import Tensor, nn

K = 19
MEMORY: list[Any] = ["full", "step", "low", 3]
PATHS = sorted(set(OPTIMIZERS) - {"torch.optim.SparseAdam"})


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 4, bias=False)
    return nn.Sequential(*layers).double()


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(K, 6, 3, generator=generator, dtype=torch.float64))


def settings() -> tuple[Tensor, Tensor]:
    lr, scale = (torch.tensor(v, dtype=torch.float64) for v in (0.02, 1.5))
    return lr.requires_grad_(), scale.requires_grad_()


def build(path: str, model: nn.Module) -> torch.optim.Optimizer:
    name = path.rsplit(".", 1)[1]
    if not hasattr(torch.optim, name):
        pytest.skip("this torch has no such optimizer")
    opt: torch.optim.Optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.02)
    return opt


def wanted(path: str, truncate: int | None, order: int) -> list[Tensor]:
    """By pure updates, detached by hand."""
    model, (lr, scale) = net(), settings()
    f = higher.monkeypatch(model, copy_initial_weights=False)
    diffopt = higher.get_diff_optim(
        build(path, model), list(model.parameters()), f, override={"lr": [lr]}
    )
    params = list(f.parameters())
    state = diffopt.snapshot()
    for t, x in enumerate(data()):
        if truncate is not None and t == K - truncate:
            params = [p.detach().requires_grad_() for p in params]
            for slots in [s for states in state.state for s in states.values()]:
                for key, value in slots.items():
                    if isinstance(value, Tensor):
                        slots[key] = value.detach()
        loss = (f(x, params=params).square() * scale).mean()
        grads = torch.autograd.grad(loss, params, create_graph=order == 2)
        params, state = diffopt.update(params, grads, state)
    f.update_params(params)
    return derivatives(f, model, lr, scale)


def derivatives(f: Any, model: nn.Module, lr: Tensor, scale: Tensor) -> list[Tensor]:
    outer = f(data()[0]).cos().sum()
    leaves = [lr, scale, *model.parameters()]
    found = torch.autograd.grad(outer, leaves, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, leaves)]


def by_unroll(path: str, memory: Any, **kwargs: Any) -> list[Tensor]:
    model, (lr, scale) = net(), settings()
    with higher.innerloop_ctx(
        model,
        build(path, model),
        copy_initial_weights=False,
        override={"lr": [lr]},
    ) as (f, diffopt):
        higher.unroll(
            f,
            diffopt,
            lambda f, x: (f(x).square() * scale).mean(),
            data(),
            memory=memory,
            **kwargs,
        )
        return derivatives(f, model, lr, scale)


def by_ctx(path: str, **kwargs: Any) -> list[Tensor]:
    model, (lr, scale) = net(), settings()
    with higher.innerloop_ctx(
        model,
        build(path, model),
        copy_initial_weights=False,
        override={"lr": [lr]},
        **kwargs,
    ) as (f, diffopt):
        for x in data():
            diffopt.step((f(x).square() * scale).mean())
        return derivatives(f, model, lr, scale)


def same(found: list[Tensor], expected: list[Tensor], zero: bool = False) -> None:
    assert zero or any(g.abs().max() > 1e-6 for g in expected)
    scale = max(float(b.abs().max()) for b in expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(
            a, b, rtol=1e-10, atol=1e-10 * scale, msg=lambda m: f"gradient {i}: {m}"
        )


@pytest.mark.parametrize("path", PATHS)
def test_order_1_takes_inner_gradients_for_constants(path: str) -> None:
    with unrounded():
        expected = wanted(path, None, 1)
        for memory in MEMORY:
            same(by_unroll(path, memory, order=1), expected)
        same(by_ctx(path, order=1), expected)


@pytest.mark.parametrize("truncate", [1, 2, 7, K, 100])
def test_truncate_cuts_what_is_so_many_steps_before_the_end(truncate: int) -> None:
    expected = wanted("torch.optim.NAdam", min(truncate, K), 2)
    if truncate >= K:
        expected = wanted("torch.optim.NAdam", None, 2)
    for memory in MEMORY:
        same(by_unroll("torch.optim.NAdam", memory, truncate=truncate), expected)
    same(by_ctx("torch.optim.NAdam", truncate=truncate), expected)


@pytest.mark.parametrize("path", PATHS)
def test_truncate_cuts_every_optimizers_state(path: str) -> None:
    with unrounded():
        expected = wanted(path, 4, 2)
        # Rprop's later steps don't read the learning rate, and see only signs
        zero = path.endswith("Rprop")
        same(by_unroll(path, "low", truncate=4), expected, zero)
        same(by_ctx(path, truncate=4), expected, zero)


def test_truncate_and_order_1_go_together() -> None:
    expected = wanted("torch.optim.Adam", 3, 1)
    same(by_unroll("torch.optim.Adam", "step", truncate=3, order=1), expected)
    same(by_ctx("torch.optim.Adam", truncate=3, order=1), expected)


def test_unroll_takes_the_order_of_its_context() -> None:
    model, (lr, scale) = net(), settings()
    opt = build("torch.optim.Adam", model)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=False, override={"lr": [lr]}, order=1
    ) as (f, diffopt):

        def loss(f: Any, x: Tensor) -> Tensor:
            out: Tensor = (f(x).square() * scale).mean()
            return out

        higher.unroll(f, diffopt, loss, data(), memory="low")
        found = derivatives(f, model, lr, scale)
    same(found, wanted("torch.optim.Adam", None, 1))


def test_what_is_cut_off_is_let_go() -> None:
    model, alive = net(), []
    opt = build("torch.optim.Adam", model)
    with higher.innerloop_ctx(model, opt, truncate=3) as (f, diffopt):
        for x in data():
            hidden = f[1](f[0](x))
            alive.append(weakref.ref(hidden))
            diffopt.step(f[2](hidden).square().mean())
        del hidden
        assert [r() is not None for r in alive] == [False] * (K - 3) + [True] * 3
        assert list(f.parameters(time=0))
        for t in (K - 3, K):
            assert list(f.parameters(time=t))
        for t in (1, K - 4):
            with pytest.raises(ValueError, match="not kept"):
                list(f.parameters(time=t))


def test_what_was_computed_before_stays() -> None:
    """It is used by steps that are cut off and by steps that are not."""
    model, (lr, scale) = net(), settings()
    opt = build("torch.optim.SGD", model)
    with higher.innerloop_ctx(model, opt, truncate=2) as (f, diffopt):
        factor = scale.exp()
        for x in data():
            diffopt.step((f(x).square() * factor).mean())
        outer = f(data()[0]).cos().sum()
        assert torch.autograd.grad(outer, scale)[0] != 0


def test_an_old_loss_in_the_outer_one() -> None:
    model = net()
    opt = build("torch.optim.SGD", model)
    with higher.innerloop_ctx(model, opt, truncate=2) as (f, diffopt):
        losses = []
        for x in data():
            losses.append(f(x).square().mean())
            diffopt.step(losses[-1])
        torch.stack(losses[-2:]).sum().backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="raise truncate"):
            losses[0].backward()


@pytest.mark.parametrize("memory", ["full", "low"])
def test_copies_and_pickles_have_the_weights_that_are_kept(memory: Any) -> None:
    model = net()
    opt = build("torch.optim.Adam", model)
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        loss: Any = lambda f, x: f(x).square().mean()  # noqa: E731
        higher.unroll(f, diffopt, loss, data(), memory=memory, truncate=3)
        for copied in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
            for time in (0, K):
                pairs = zip(copied.parameters(time=time), f.parameters(time=time))
                assert all(p.equal(q) for p, q in pairs)
            with pytest.raises(ValueError, match="not kept"):
                list(copied.parameters(time=1))


def test_wrong_numbers_are_refused() -> None:
    model = net()
    opt = build("torch.optim.SGD", model)
    for kwargs in ({"truncate": 0}, {"truncate": True}, {"order": 3}, {"order": 0}):
        wrong: Any = kwargs
        with pytest.raises(ValueError, match="must be"):
            with higher.innerloop_ctx(model, opt, **wrong):
                pass
