"""Who is measured: each a function from a workload to its meta-gradient.

Libraries are imported only by those who need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from workloads import Batch, Workload, loss_fn


class Problem(NamedTuple):
    """One task, or all of them, their batches stacked: model, inner batches, the outer
    batch, and what derivatives are by."""

    model: nn.Module
    inner: Sequence[Batch]
    outer: Batch
    settings: list[Tensor]


Unroll = Callable[[Workload, Problem], Tensor]
"""The outer loss after the inner steps, in the graph."""


class AtOnce(NamedTuple):
    """Takes all tasks at once: the sum of their outer losses."""

    unroll: Unroll

    def __call__(self, work: Workload, problem: Problem) -> Tensor:
        if work.tasks == 1:
            raise NotImplementedError("this workload is of one task")
        return self.unroll(work, problem)


def _optimizer(work: Workload, model: nn.Module) -> torch.optim.Optimizer:
    opt: torch.optim.Optimizer = getattr(torch.optim, work.optimizer)(
        model.parameters(), **work.settings
    )
    return opt


def _override(work: Workload, problem: Problem) -> dict[str, Any] | None:
    names = ["lr", "weight_decay"]
    return {n: [s] for n, s in zip(names, problem.settings)} or None


def plain_loop(work: Workload, problem: Problem) -> Tensor:
    """``innerloop_ctx`` and a loop: ours, or the classic library's."""
    import higher

    with higher.innerloop_ctx(
        problem.model,
        _optimizer(work, problem.model),
        copy_initial_weights=not work.by_weights,
        override=_override(work, problem),
    ) as (fmodel, diffopt):
        for batch in problem.inner:
            diffopt.step(loss_fn(fmodel, batch))
        return loss_fn(fmodel, problem.outer)


def unrolled(**kwargs: Any) -> Unroll:
    """``higher.unroll``."""

    def unroll(work: Workload, problem: Problem) -> Tensor:
        import higher

        with higher.innerloop_ctx(
            problem.model,
            _optimizer(work, problem.model),
            copy_initial_weights=not work.by_weights,
            override=_override(work, problem),
        ) as (fmodel, diffopt):
            higher.unroll(fmodel, diffopt, loss_fn, problem.inner, **kwargs)
            return loss_fn(fmodel, problem.outer)

    return unroll


def by_hand(work: Workload, problem: Problem) -> Tensor:
    """``torch.func.functional_call`` and the optimizer's formula, as one writes it."""
    model, names = problem.model, [n for n, _ in problem.model.named_parameters()]
    params = list(model.parameters())
    if not work.by_weights:
        params = [p.detach().clone().requires_grad_() for p in params]
    lr: Any = problem.settings[0] if problem.settings else work.settings["lr"]
    rule = _sgd if work.optimizer == "SGD" else _adam
    state: list[Any] = [None] * len(params)

    def on(weights: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        held = dict(zip(names, weights))
        return lambda x: functional_call(model, held, (x,))

    for step, batch in enumerate(problem.inner, 1):
        loss = loss_fn(on(params), batch)
        grads = torch.autograd.grad(loss, params, create_graph=True)
        made = [rule(p, g, s, lr, step, work) for p, g, s in zip(params, grads, state)]
        params, state = [p for p, _ in made], [s for _, s in made]
    return loss_fn(on(params), problem.outer)


def _sgd(
    p: Tensor, g: Tensor, buffer: Any, lr: Any, step: int, work: Workload
) -> tuple[Tensor, Any]:
    momentum = work.settings.get("momentum", 0)
    if momentum:
        buffer = g if buffer is None else momentum * buffer + g
        return p - lr * buffer, buffer
    return p - lr * g, None


def _adam(
    p: Tensor, g: Tensor, moments: Any, lr: Any, step: int, work: Workload
) -> tuple[Tensor, Any]:
    if work.optimizer == "AdamW":
        p = p * (1 - lr * 0.01)
    m, v = moments or (torch.zeros_like(p), torch.zeros_like(p))
    m, v = m.lerp(g, 0.1), 0.999 * v + 0.001 * g * g
    root = (v / (1 - 0.999**step)).sqrt() + 1e-8
    return p - (lr / (1 - 0.9**step)) * m / root, (m, v)


def upstream(work: Workload, problem: Problem) -> Tensor:
    """``torch.optim`` with ``differentiable=True``."""
    model, names = problem.model, [n for n, _ in problem.model.named_parameters()]
    params = [p.clone() for p in model.parameters()]
    if not work.by_weights:
        params = [p.detach().requires_grad_().clone() for p in params]
    lr: Any = problem.settings[0] if problem.settings else work.settings["lr"]
    opt = getattr(torch.optim, work.optimizer)(
        params, **{**work.settings, "lr": lr}, differentiable=True, foreach=False
    )

    def on() -> Callable[[Tensor], Tensor]:
        # copies: the step writes into the parameters
        held = dict(zip(names, (p.clone() for p in params)))
        return lambda x: functional_call(model, held, (x,))

    for batch in problem.inner:
        grads = torch.autograd.grad(loss_fn(on(), batch), params, create_graph=True)
        for p, g in zip(params, grads):
            p.grad = g
        opt.step()
    return loss_fn(on(), problem.outer)


def torchopt(work: Workload, problem: Problem) -> Tensor:
    """TorchOpt's functional optimizers; its learning rate must be a number."""
    import torchopt as library

    if not work.by_weights:
        raise NotImplementedError("its learning rates are numbers")
    model, names = problem.model, [n for n, _ in problem.model.named_parameters()]
    params = tuple(p.clone() for p in model.parameters())
    opt = getattr(library, work.optimizer.lower())(**work.settings)
    state = opt.init(params)

    def on(weights: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        held = dict(zip(names, weights))
        return lambda x: functional_call(model, held, (x,))

    for batch in problem.inner:
        loss = loss_fn(on(params), batch)
        grads = torch.autograd.grad(loss, params, create_graph=True)
        updates, state = opt.update(grads, state, params=params, inplace=False)
        params = library.apply_updates(params, updates, inplace=False)
    return loss_fn(on(params), problem.outer)


def many_tasks(**kwargs: Any) -> AtOnce:
    """``innerloop_ctx(tasks=...)`` and ``higher.unroll``."""

    def unroll(work: Workload, problem: Problem) -> Tensor:
        import higher

        with higher.innerloop_ctx(
            problem.model,
            _optimizer(work, problem.model),
            copy_initial_weights=not work.by_weights,
            override=_override(work, problem),
            tasks=work.tasks,
        ) as (fmodel, diffopt):
            higher.unroll(fmodel, diffopt, loss_fn, problem.inner, **kwargs)
            return higher.map_tasks(fmodel, loss_fn, problem.outer).sum()

    return AtOnce(unroll)


def vmap_by_hand(work: Workload, problem: Problem) -> Tensor:
    """``torch.func.vmap`` of a loss, and the optimizer's formula on stacked weights."""
    model, names = problem.model, [n for n, _ in problem.model.named_parameters()]
    params = [p.expand(work.tasks, *p.shape) for p in model.parameters()]
    if not work.by_weights:
        params = [p.detach().clone().requires_grad_() for p in params]
    lr: Any = problem.settings[0] if problem.settings else work.settings["lr"]
    rule = _sgd if work.optimizer == "SGD" else _adam
    state: list[Any] = [None] * len(params)

    def loss(weights: Sequence[Tensor], batch: Batch) -> Tensor:
        held = dict(zip(names, weights))
        return loss_fn(lambda x: functional_call(model, held, (x,)), batch)

    losses = torch.func.vmap(loss, randomness="different")
    for step, batch in enumerate(problem.inner, 1):
        total = losses(params, batch).sum()
        grads = torch.autograd.grad(total, params, create_graph=True)
        made = [rule(p, g, s, lr, step, work) for p, g, s in zip(params, grads, state)]
        params, state = [p for p, _ in made], [s for _, s in made]
    outer: Tensor = losses(params, problem.outer).sum()
    return outer


def learn2learn(work: Workload, problem: Problem) -> Tensor:
    """learn2learn's MAML: SGD without momentum, a number for its rate."""
    import learn2learn as library

    if work.optimizer != "SGD" or not work.by_weights or "momentum" in work.settings:
        raise NotImplementedError("it has SGD alone, and its learning rate is a number")
    learner = library.algorithms.MAML(problem.model, lr=work.settings["lr"]).clone()
    for batch in problem.inner:
        learner.adapt(loss_fn(learner, batch))
    return loss_fn(learner, problem.outer)


CONTESTANTS: dict[str, Unroll] = {
    "classic": plain_loop,
    "ours": plain_loop,
    "ours, step": unrolled(memory="step"),
    "ours, low": unrolled(memory="low"),
    "ours, forward": unrolled(mode="forward"),
    "ours, compiled": unrolled(compile=True),
    "ours, low, compiled": unrolled(memory="low", compile=True),
    "ours, tasks": many_tasks(),
    "ours, tasks, compiled": many_tasks(compile=True),
    "vmap by hand": AtOnce(vmap_by_hand),
    "functional_call": by_hand,
    "differentiable=True": upstream,
    "TorchOpt": torchopt,
    "learn2learn": learn2learn,
}


class MetaGradient:
    """A model, and derivatives of the outer losses of all tasks.

    Args:
        work: the inner problem.
        unroll: a contestant.
        dtype: of weights and inputs.
        settings: by how many settings, unless derivatives are by weights.
    """

    def __init__(
        self, work: Workload, unroll: Unroll, dtype: torch.dtype, settings: int
    ) -> None:
        torch.manual_seed(0)
        self.work, self.unroll, self.dtype = work, unroll, dtype
        self.model = work.net().to(dtype)
        # a second one changes nothing, so that all take the same steps
        values = (work.settings["lr"], work.settings.get("weight_decay", 0.0))
        self.leaves = [
            torch.tensor(v, dtype=dtype, requires_grad=True)
            for v in values[: 0 if work.by_weights else settings]
        ]

    def __call__(self, steps: int) -> list[Tensor]:
        """After so many inner steps."""
        torch.manual_seed(1)
        work, by_weights = self.work, self.work.by_weights
        sources = list(self.model.parameters()) if by_weights else self.leaves
        total = [torch.zeros_like(s) for s in sources]
        tasks = [self._batches(steps) for _ in range(work.tasks)]
        if isinstance(self.unroll, AtOnce):
            tasks = [[_stacked(batches) for batches in zip(*tasks)]]
        for *inner, last in tasks:
            outer = self.unroll(work, Problem(self.model, inner, last, self.leaves))
            for t, g in zip(total, torch.autograd.grad(outer, sources)):
                t += g
            del outer
        return total

    def _batches(self, steps: int) -> list[Batch]:
        return [(_to(x, self.dtype), y) for x, y in self.work.batches(steps)]


def _stacked(batches: Sequence[Batch]) -> Batch:
    x, y = zip(*batches)
    return torch.stack(x), torch.stack(y)


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x
