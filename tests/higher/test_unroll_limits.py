"""What ``higher.unroll`` keeps, and what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import higher
import pytest
import torch
from higher.optim import DifferentiableOptimizer
from torch import Tensor, nn

MODES: list[Any] = ["step", "low", 3]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def data(steps: int = 20) -> list[Tensor]:
    return list(torch.randn(steps, 5, 3, dtype=torch.float64))


def loss_fn(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return f(x).square().mean()


def outer(
    memory: Any,
    loss: Any = loss_fn,
    batches: Any = None,
    model: nn.Module | None = None,
    opt: type[torch.optim.Optimizer] = torch.optim.Adam,
    **kwargs: Any,
) -> Tensor:
    model = net() if model is None else model
    with higher.innerloop_ctx(
        model, opt(model.parameters(), lr=0.01), copy_initial_weights=False
    ) as (f, diffopt):
        steps = data() if batches is None else batches
        higher.unroll(f, diffopt, loss, steps, memory=memory, **kwargs)
        return loss_fn(f, torch.ones(4, 3, dtype=torch.float64))


class Kept:
    """Counts the bytes of tensors that graphs hold, each storage once."""

    def __init__(self) -> None:
        self.sizes: dict[int, tuple[int, int]] = {}
        self.now = self.peak = 0

    def pack(self, t: Tensor) -> Any:
        return _Held(self, t)

    def __enter__(self) -> Kept:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, _tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self.hooks.__exit__(*args)


class _Held:
    def __init__(self, kept: Kept, t: Tensor) -> None:
        # t may have the graph that holds this: a cycle
        self.kept, self.tensor = kept, t.detach()
        self.key = t.untyped_storage().data_ptr()
        count, size = kept.sizes.get(self.key, (0, t.untyped_storage().nbytes()))
        kept.sizes[self.key] = count + 1, size
        if count == 0:
            kept.now += size
            kept.peak = max(kept.peak, kept.now)

    def __del__(self) -> None:
        count, size = self.kept.sizes.pop(self.key)
        if count > 1:
            self.kept.sizes[self.key] = count - 1, size
        else:
            self.kept.now -= size


def _tensor(held: _Held) -> Tensor:
    return held.tensor


def peak(memory: Any, steps: int, **kwargs: Any) -> tuple[int, int]:
    """Bytes that graphs hold at most, and at the end of the unroll."""
    wide = nn.Sequential(nn.Linear(3, 8), *(nn.Tanh() for _ in range(30))).double()
    batches = [torch.randn(100, 3, dtype=torch.float64) for _ in range(steps)]
    with Kept() as kept:
        value = outer(memory, batches=batches, model=wide, **kwargs)
        end = kept.now
        value.backward()
    return kept.peak, end


def test_memory_is_what_was_asked_for() -> None:
    full, _ = peak("full", 64)
    step, step_end = peak("step", 64)
    low, low_end = peak("low", 64)
    _, last = peak("full", 1)
    # here the graph of a step is some 500 times its weights and state
    assert step < full / 50
    assert low_end - last < (step_end - last) / 2
    assert low < step
    assert peak("full", 64, truncate=4)[0] < full / 10


def test_memory_of_low_grows_with_the_root() -> None:
    one, four = peak("low", 36)[1], peak("low", 144)[1]
    assert four < 2.5 * one


@pytest.mark.parametrize("memory", ["full", *MODES])
def test_the_loss_is_called_at_most_as_often_as_the_mode_says(memory: Any) -> None:
    """At most: once forward, once for a segment, once for a step's graph."""
    calls = itertools.count()

    def loss(f: Any, x: Tensor) -> Tensor:
        next(calls)
        return loss_fn(f, x)

    value = outer(memory, loss)
    assert next(calls) == 20
    value.backward()
    limit = {"full": 0, "step": 20}.get(memory, 40)
    assert next(calls) - 21 <= limit


@pytest.mark.parametrize("memory", MODES)
def test_a_computed_tensor_without_a_name(memory: Any) -> None:
    raw = torch.ones((), dtype=torch.float64, requires_grad=True)
    scale = raw.exp()
    with pytest.raises(RuntimeError, match=r"shape \(\).*ExpBackward0.*meta_params"):
        outer(memory, lambda f, x: loss_fn(f, x) * scale)
    value = outer(memory, lambda f, x: loss_fn(f, x) * scale, meta_params=[scale])
    assert torch.autograd.grad(value, raw)[0] != 0


@pytest.mark.parametrize("memory", MODES)
def test_a_computed_tensor_of_another_thread(memory: Any) -> None:
    """Each thread numbers its nodes by itself."""
    raw = torch.ones((), dtype=torch.float64, requires_grad=True)
    for _ in range(1000):
        scale = raw.exp()

    def attempt() -> Tensor:
        return outer(memory, lambda f, x: loss_fn(f, x) * scale)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="meta_params"):
            pool.submit(attempt).result()


@pytest.mark.parametrize("memory", MODES)
def test_a_computed_tensor_in_a_callback(memory: Any) -> None:
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True).exp()
    with pytest.raises(RuntimeError, match="meta_params"):
        outer(memory, grad_callback=lambda gs: [g * scale.sum() for g in gs])


@pytest.mark.parametrize("memory", MODES)
def test_what_an_earlier_step_left_in_an_attribute(memory: Any) -> None:
    class Leaves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)
            self.last: Any = 0.0

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.inner(x) + self.last
            result: Tensor = self.last
            return result

    with pytest.raises(RuntimeError, match="computed before it"):
        outer(memory, model=Leaves().double())


@pytest.mark.parametrize("memory", MODES)
def test_a_loss_that_differs_the_second_time(memory: Any) -> None:
    calls = itertools.count()
    value = outer(memory, lambda f, x: loss_fn(f, x) * (1 + 1e-6 * next(calls)))
    with pytest.raises(RuntimeError, match="another loss, gradient or update"):
        value.backward()


class Scaled(torch.autograd.Function):
    """Its backward uses what is no input of its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: list[Any]) -> Tensor:
        ctx.factor = factor[0]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * ctx.factor, None


@pytest.mark.parametrize("memory", MODES)
def test_a_gradient_that_differs_the_second_time(memory: Any) -> None:
    """The losses of the steps that run again are the same."""
    calls = itertools.count()

    def loss(f: Any, x: Tensor) -> Tensor:
        out: Tensor = Scaled.apply(f[0](x), [1 + 0.01 * next(calls)])
        return loss_fn(f, x) + out.square().mean()

    value = outer(memory, loss)
    with pytest.raises(RuntimeError, match="another loss, gradient or update"):
        value.backward()


@pytest.mark.parametrize("memory", MODES)
def test_a_callback_that_differs_the_second_time(memory: Any) -> None:
    calls = itertools.count(1)

    def callback(grads: list[Tensor]) -> list[Tensor]:
        scale = 0.01 * next(calls)
        return [g * scale for g in grads]

    value = outer(memory, opt=torch.optim.SGD, grad_callback=callback)
    with pytest.raises(RuntimeError, match="another loss, gradient or update"):
        value.backward()


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("where", ["loss", "callback"])
def test_what_a_step_made_is_used_outside(where: str, memory: Any) -> None:
    aside: list[Tensor] = []

    def loss(f: Any, x: Tensor) -> Tensor:
        if where == "loss":
            aside.append(torch.stack([p.sum() for p in f.parameters()]).sum())
        return loss_fn(f, x)

    def callback(grads: list[Tensor]) -> list[Tensor]:
        if where == "callback":
            aside.append(torch.stack([g.sum() for g in grads]).sum())
        return grads

    model = net()
    value = outer(memory, loss, model=model, grad_callback=callback)
    value = value + torch.stack(aside).sum()
    with pytest.raises(RuntimeError, match="is used outside of it"):
        torch.autograd.grad(value, list(model.parameters()))


@pytest.mark.parametrize("memory", MODES)
def test_a_captured_leaf_that_changed_since(memory: Any) -> None:
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = outer(memory, lambda f, x: loss_fn(f, x) * scale)
    with torch.no_grad():
        scale.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("memory", MODES)
def test_a_second_derivative_is_refused_where_memory_is_saved(memory: Any) -> None:
    model = net()
    value = outer(memory, model=model)
    grads = torch.autograd.grad(value, list(model.parameters()), create_graph=True)
    norm = torch.stack([g.square().sum() for g in grads]).sum()
    with pytest.raises(RuntimeError, match="memory='full'"):
        torch.autograd.grad(norm, list(model.parameters()), retain_graph=True)
    with pytest.raises(RuntimeError, match="memory='full'"):
        norm.backward()


@pytest.mark.parametrize("memory", MODES)
def test_an_unroll_in_the_loss_of_another(memory: Any) -> None:
    """The outer one differentiates the inner one's gradient."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(f: Any, x: Tensor) -> Tensor:
        def inner(g: Any, x: Tensor) -> Tensor:
            return loss_fn(g, x) * loss_fn(f, x)

        with higher.innerloop_ctx(model, opt) as (g, diffopt):
            named = list(f.parameters())
            higher.unroll(g, diffopt, inner, [x, x], memory=memory, meta_params=named)
            return loss_fn(g, x) + loss_fn(f, x)

    value = outer(memory, loss, data(3))
    with pytest.raises(RuntimeError, match="can't be differentiated again"):
        value.backward()


def test_a_second_derivative_flows_in_full_memory() -> None:
    model = net()
    value = outer("full", model=model)
    grads = torch.autograd.grad(value, list(model.parameters()), create_graph=True)
    torch.stack([g.square().sum() for g in grads]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("memory", MODES)
def test_a_loss_that_assigns_weights_is_refused_where_memory_is_saved(
    memory: Any,
) -> None:
    def loss(f: Any, x: Tensor) -> Tensor:
        return loss_fn(lambda x: f(x, params=[p * 2 for p in f.parameters()]), x)

    outer("full", loss)
    with pytest.raises(RuntimeError, match="memory='full'"):
        outer(memory, loss)


@pytest.mark.parametrize("memory", MODES)
def test_an_error_leaves_weights_and_state(memory: Any) -> None:
    def loss(f: Any, x: Tensor) -> Tensor:
        if x is steps[15]:
            raise ZeroDivisionError
        return loss_fn(f, x)

    steps, model = data(), net()
    opt = torch.optim.Adam(model.parameters())
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        before = list(f.parameters())
        with pytest.raises(ZeroDivisionError):
            higher.unroll(f, diffopt, loss, steps, memory=memory)
        assert all(a is b for a, b in zip(f.parameters(), before, strict=True))
        assert len(f._fast_params) == 1 and not diffopt.state[0]
        higher.unroll(f, diffopt, loss_fn, steps, memory=memory)
        assert len(f._fast_params) == 21


@pytest.mark.parametrize("memory", MODES)
def test_hooks_of_fast_weights_are_refused_where_memory_is_saved(memory: Any) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        next(f.parameters()).register_hook(lambda g: 2 * g)
        with pytest.raises(ValueError, match="A fast weight has a hook"):
            higher.unroll(f, diffopt, loss_fn, data(), memory=memory)
        higher.unroll(f, diffopt, loss_fn, data(), memory="full")


@pytest.mark.parametrize("memory", MODES)
def test_a_step_of_its_own_is_refused_where_memory_is_saved(memory: Any) -> None:
    class Steps(DifferentiableOptimizer):
        def step(self, *args: Any, **kwargs: Any) -> list[Tensor]:
            return super().step(*args, **kwargs)

    model = net()
    f = higher.monkeypatch(model)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    diffopt = Steps(opt, list(model.parameters()), fmodel=f)
    with pytest.raises(ValueError, match="Steps has a step of its own"):
        higher.unroll(f, diffopt, loss_fn, data(), memory=memory)


@pytest.mark.parametrize("memory", ["lots", 0, -1, True, None, 2.0])
def test_what_is_no_memory_mode_is_an_error(memory: Any) -> None:
    with pytest.raises(ValueError, match="memory must be"):
        outer(memory)


def test_wrong_arguments_are_errors_that_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="truncate must be"):
        outer("full", truncate=0)
    with pytest.raises(ValueError, match="order must be"):
        outer("full", order=3)
    with pytest.raises(ValueError, match="no setting"):
        outer("low", override={"rl": [0.1]})
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        other: Any = model
        with pytest.raises(ValueError, match="stateless module"):
            higher.unroll(other, diffopt, loss_fn, data())
        with pytest.raises(ValueError, match="fast weights of this module"):
            higher.unroll(higher.monkeypatch(model), diffopt, loss_fn, data())
        assert higher.unroll(f, diffopt, loss_fn, [], memory="low") == []


@pytest.mark.parametrize("memory", MODES)
def test_a_loss_that_does_not_use_the_module_is_an_error(memory: Any) -> None:
    model = net()
    with pytest.raises(RuntimeError, match="does not depend on the parameters"):
        outer(memory, lambda f, x: loss_fn(model, x))


@pytest.mark.parametrize("memory", ["step", "low", 3])
def test_weights_between_are_there_as_long_as_the_graph(memory: Any) -> None:
    """Backward frees them, unless they are kept, or somebody has asked before."""
    model = nn.Linear(2, 1).double()
    x = torch.ones(4, 2, dtype=torch.float64)
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
        loss = lambda f, step: (f(x) - step).square().mean()
        higher.unroll(f, d, loss, range(20), memory=memory)
        plain = [list(f.parameters(time=t)) for t in (0, 20)]
        asked = list(f.parameters(time=4))
        outer = f(x).square().sum()
        outer.backward(retain_graph=True)
        assert list(f.parameters(time=5))
        outer.backward()
        assert [list(f.parameters(time=t)) for t in (0, 20)] == plain
        assert all(a is b for a, b in zip(asked, f.parameters(time=4)))
        for time in (7, 8, 9, 12):
            if memory == "step":
                assert list(f.parameters(time=time))
            else:
                with pytest.raises(RuntimeError, match="Ask for them before"):
                    list(f.parameters(time=time))


def test_segments_get_shorter_and_hold_few_carries() -> None:
    """Never more carries at once than the first segment has steps."""
    from higher._unroll.line import segments_of

    for steps in (*range(1, 40), 127, 128, 500):
        lengths = segments_of("low", steps)
        assert sum(lengths) == steps and min(lengths) == 1
        if steps >= 16:
            held = max(n + count for n, count in enumerate(lengths))
            assert held * (held - 1) < 2 * steps <= held * (held + 1)
    assert segments_of("step", 3) == [1, 1, 1]
    assert segments_of(4, 10) == [2, 4, 4]
