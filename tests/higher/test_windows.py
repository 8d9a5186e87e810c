"""Long runs in windows: truncation across calls, a backward for each window, windows that
are begun by hand; against a loop by hand that detaches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import higher
import pytest
import torch
from torch import Tensor, nn

STEPS = 24
MODES: list[Any] = ["full", "step", 3]


class Net(nn.Module):
    """With a buffer that is carried through the graph."""

    def __init__(self, graph: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.graph = graph
        self.inside, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inside(x)
        self.mean = 0.9 * self.mean + 0.1 * (h if self.graph else h.detach()).mean(0)
        return self.out((h - self.mean).tanh())


def batches(steps: int = STEPS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(steps, 5, 3, generator=generator, dtype=torch.float64)


def leaves() -> list[Tensor]:
    values = (0.1, 0.9, 1.3)
    return [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values
    ]  # lr, momentum, a factor of the loss


def inner(f: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor) -> Tensor:
    return (f(x) * scale - x[:, :2]).square().mean()


def outer(f: Callable[[Tensor], Tensor]) -> Tensor:
    return f(batches(1)[0] + 1).cos().sum()


def by_hand(made: int, cut: int, graph: bool = False) -> list[Tensor]:
    """Outer loss after ``made`` steps and its gradients by settings and initial weights,
    where everything before step ``cut`` is a constant; 0 cuts nothing."""
    (lr, momentum, scale), initial = leaves(), list(Net().double().parameters())
    params = [p.clone() for p in initial]
    held: list[Tensor] = []
    mean = torch.zeros(4, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        nonlocal mean
        w, b, v, c = params
        h = x @ w.T + b
        mean = 0.9 * mean + 0.1 * (h if graph else h.detach()).mean(0)
        return (h - mean).tanh() @ v.T + c

    for t, x in enumerate(batches()[:made]):
        if t == cut and cut:
            params = [p.detach().requires_grad_() for p in params]
            held, mean = [b.detach() for b in held], mean.detach()
        grads = torch.autograd.grad(inner(f, x, scale), params, create_graph=True)
        held = [momentum * b + g for b, g in zip(held, grads)] if held else list(grads)
        params = [p - lr * b for p, b in zip(params, held)]
    value = outer(f)
    wanted = [lr, momentum, scale, *initial]
    return [value, *gradients(value, wanted)]


def gradients(value: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted)]


_contexts = ExitStack()


@pytest.fixture(autouse=True)
def _left() -> Iterator[None]:
    with _contexts:
        yield


class Run:
    """An inner loop with a learned learning rate and momentum."""

    def __init__(self, graph: bool = False, copy: bool = False, **kwargs: Any) -> None:
        self.model = Net(graph).double()
        self.lr, self.momentum, self.scale = leaves()
        self.wanted = [self.lr, self.momentum, self.scale, *self.model.parameters()]
        self.made = 0
        opt = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        override = {"lr": [self.lr], "momentum": [self.momentum]}
        self.context = higher.innerloop_ctx(
            self.model, opt, copy_initial_weights=copy, override=override, **kwargs
        )
        self.f, self.d = _contexts.enter_context(self.context)

    def plain(self, count: int) -> None:
        for x in self.next(count):
            self.d.step(inner(self.f, x, self.scale))

    def unroll(self, count: int, **kwargs: Any) -> None:
        def loss_fn(f: Any, x: Tensor) -> Tensor:
            return inner(f, x, self.scale)

        higher.unroll(self.f, self.d, loss_fn, self.next(count), **kwargs)

    def next(self, count: int) -> Tensor:
        self.made += count
        return batches()[self.made - count : self.made]

    def outer(self) -> Tensor:
        """Without a trace in the buffer."""
        mean = self.f.mean
        value = outer(self.f)
        self.f.mean = mean
        return value

    def found(self) -> list[Tensor]:
        value = self.outer()
        return [value, *gradients(value, self.wanted)]

    def collected(self) -> list[Tensor]:
        """By ``backward``, which frees the graph."""
        value = self.outer()
        for t in self.wanted:
            t.grad = None
        value.backward()
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in self.wanted]
        return [value.detach(), *grads]


def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert any(g.abs().max() > 1e-6 for g in wanted[1:])
    torch.testing.assert_close(list(found), list(wanted), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("counts", [(4, 4, 4), (2, 2, 2), (3, 5, 2), (1, 1, 9, 1)])
@pytest.mark.parametrize("memory", MODES)
def test_truncate_counts_across_calls(memory: Any, counts: tuple[int, ...]) -> None:
    run = Run()
    for count in counts:
        run.unroll(count, memory=memory, truncate=4)
        same(run.found(), by_hand(run.made, max(0, run.made - 4)))


@pytest.mark.parametrize("memory", MODES)
def test_truncate_of_the_context_counts_all_steps(memory: Any) -> None:
    run = Run(truncate=4)
    for count in (2, 7, 3, 1):
        run.unroll(count, memory=memory)
        same(run.found(), by_hand(run.made, max(0, run.made - 4)))
        run.plain(1)
        same(run.found(), by_hand(run.made, max(0, run.made - 4)))


@pytest.mark.parametrize("memory", MODES)
def test_another_truncate_in_each_call(memory: Any) -> None:
    run = Run()
    run.unroll(5, memory=memory, truncate=8)
    same(run.found(), by_hand(5, 0))
    run.unroll(1, memory=memory, truncate=3)
    same(run.found(), by_hand(6, 3))
    run.unroll(1, memory=memory, truncate=6)
    # what a call has cut stays cut
    same(run.found(), by_hand(7, 4))


@pytest.mark.parametrize("memory", MODES)
def test_steps_after_a_truncated_call(memory: Any) -> None:
    run = Run()
    run.unroll(6, memory=memory, truncate=4)
    run.plain(2)
    same(run.found(), by_hand(8, 4))
    run.unroll(1, memory=memory)
    same(run.found(), by_hand(9, 5))
    run.plain(3)
    same(run.found(), by_hand(12, 6))  # all of the first call's, and none of these


@pytest.mark.parametrize("memory", MODES)
def test_a_cut_among_steps_without_boundaries_is_refused(memory: Any) -> None:
    run = Run()
    run.plain(3)
    with pytest.raises(ValueError, match="innerloop_ctx, or begin a new window"):
        run.unroll(2, memory=memory, truncate=4)
    run.made = 3
    run.unroll(2, memory=memory, truncate=5)
    same(run.found(), by_hand(5, 0))
    run = Run()
    run.plain(3)
    run.unroll(4, memory=memory, truncate=4)
    same(run.found(), by_hand(7, 3))


@pytest.mark.parametrize("memory", MODES)
def test_a_buffer_in_the_graph(memory: Any) -> None:
    run = Run(graph=True)
    for count in (4, 4):
        run.unroll(count, memory=memory, truncate=4)
        # a buffer is cut with the call, for nothing tells which step made it
        same(run.found(), by_hand(run.made, max(0, run.made - 4), graph=True))


def test_forward_mode_truncates_as_reverse_mode_does() -> None:
    run = Run(copy=True)
    run.scale.requires_grad_(False)
    for count in (3, 3, 5):
        run.unroll(count, mode="forward", truncate=3)
        value = run.outer()
        found = [value, *gradients(value, [run.lr, run.momentum])]
        same(found, by_hand(run.made, max(0, run.made - 3))[:3])


@pytest.mark.parametrize("window", [4, 6])
@pytest.mark.parametrize("memory", [None, *MODES])
def test_backward_after_every_window_adds_up(memory: Any, window: int) -> None:
    run = Run(truncate=4 if memory is None else None)
    for _ in range(4):
        if memory is None:
            run.plain(window)
        else:
            run.unroll(window, memory=memory, truncate=4)
        same(run.collected(), by_hand(run.made, max(0, run.made - 4)))


@pytest.mark.parametrize("memory", [None, *MODES])
def test_backward_in_the_midst_of_a_window(memory: Any) -> None:
    """What torch refuses is refused: it has freed the graph."""

    def step(run: Run) -> None:
        if memory is None:
            run.plain(2)
        else:
            run.unroll(2, memory=memory, truncate=4)

    def begun() -> Run:
        run = Run(truncate=4 if memory is None else None)
        step(run)
        run.collected()
        return run

    with pytest.raises(RuntimeError, match="retain_graph=True"):
        begun().collected()
    run = begun()
    step(run)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        run.collected()
    run = begun()
    step(run)
    step(run)
    same(run.collected(), by_hand(6, 2))


def test_a_backward_that_keeps_the_graph() -> None:
    run = Run(truncate=4)
    for _ in range(5):
        run.plain(2)
        run.outer().backward(retain_graph=True)
        same(run.found(), by_hand(run.made, max(0, run.made - 4)))


def test_a_loss_from_before_a_backward_that_frees() -> None:
    run = Run(truncate=1)
    run.plain(1)
    loss = inner(run.f, run.next(1)[0], run.scale)
    run.outer().backward()
    run.d.step(loss)  # its own graph is there
    weights = [p.detach() for p in run.f.parameters()]
    other = Run()
    other.plain(2)
    torch.testing.assert_close(weights, [p.detach() for p in other.f.parameters()])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("memory", [None, *MODES])
def test_windows_cut_by_hand_add_up(memory: Any, graph: bool) -> None:
    run = Run(graph=graph)
    for window in range(3):
        if window:
            assert run.f.detach_() is run.f and run.d.detach_() is run.d
            assert all(p.is_leaf and p.requires_grad for p in run.f.parameters())
        if memory is None:
            run.plain(5)
        else:
            run.unroll(5, memory=memory)
        same(run.collected(), by_hand(run.made, run.made - 5, graph))


def test_what_a_new_window_keeps() -> None:
    run = Run(graph=True)
    run.plain(3)
    first = list(run.f.parameters(time=0))
    values = [p.detach().clone() for p in run.f.parameters()]
    mean = run.f.mean.detach().clone()
    computed = (run.lr * 2).exp()
    run.d.param_groups[0]["dampening"] = computed
    run.f.detach_()
    run.d.detach_()
    torch.testing.assert_close(list(run.f.parameters()), values, rtol=0, atol=0)
    torch.testing.assert_close(run.f.mean, mean, rtol=0, atol=0)
    assert not run.f.mean.requires_grad
    slots = [s["momentum_buffer"] for s in run.d.state[0].values()]
    assert len(slots) == 4 and not any(b.requires_grad for b in slots)
    group = run.d.param_groups[0]
    assert group["lr"] is run.lr and group["momentum"] is run.momentum
    assert group["dampening"] == computed and not group["dampening"].requires_grad
    assert all(a is b for a, b in zip(run.f.parameters(time=0), first))
    with pytest.raises(ValueError, match="before detach_"):
        list(run.f.parameters(time=2))


def live() -> int:
    gc.collect()
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())


@pytest.mark.parametrize("kind", ["truncated", "by hand", "full", "step"])
def test_memory_is_flat_over_100_windows(kind: Any, only_new: None) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    lr = torch.tensor(0.01, requires_grad=True)
    opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.ones(2, 2, 2)
    counts = []
    with higher.innerloop_ctx(
        model,
        opt,
        copy_initial_weights=False,
        override={"lr": [lr]},
        truncate=2 if kind == "truncated" else None,
    ) as (f, d):
        for window in range(101):
            if kind in ("truncated", "by hand"):
                for batch in x:
                    d.step(f(batch).square().mean())
            else:
                higher.unroll(
                    f,
                    d,
                    lambda f, x: f(x).square().mean(),
                    x,
                    memory=kind,
                    truncate=2,
                )
            f(x[0]).sum().backward()
            if kind == "by hand":
                f.detach_()
                d.detach_()
            if window in (20, 100):
                counts.append(live())
    assert counts[0] == counts[1]
    assert lr.grad is not None
