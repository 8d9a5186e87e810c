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
    """One task: model, inner batches, the outer batch, and what derivatives are by."""

    model: nn.Module
    inner: Sequence[Batch]
    outer: Batch
    settings: list[Tensor]


Unroll = Callable[[Workload, Problem], Tensor]
"""The outer loss after the inner steps, in the graph."""


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
    opt = library.sgd(lr=work.settings["lr"])
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


CONTESTANTS: dict[str, Unroll] = {
    "classic": plain_loop,
    "ours": plain_loop,
    "ours, step": unrolled(memory="step"),
    "ours, low": unrolled(memory="low"),
    "ours, forward": unrolled(mode="forward"),
    "functional_call": by_hand,
    "differentiable=True": upstream,
    "TorchOpt": torchopt,
}


def meta_gradient(
    work: Workload, unroll: Unroll, steps: int, dtype: torch.dtype, settings: int
) -> list[Tensor]:
    """Derivatives of the outer losses of all tasks.

    Args:
        work: the inner problem.
        unroll: a contestant.
        steps: number of inner steps.
        dtype: of weights and inputs.
        settings: by how many settings, unless derivatives are by weights.
    """
    torch.manual_seed(0)
    model = work.net().to(dtype)
    values = (work.settings["lr"], 0.01)[: 0 if work.by_weights else settings]
    leaves = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in values]
    sources = list(model.parameters()) if work.by_weights else leaves
    total = [torch.zeros_like(s) for s in sources]
    for _ in range(work.tasks):
        *inner, last = [(_to(x, dtype), y) for x, y in work.batches(steps)]
        outer = unroll(work, Problem(model, inner, last, leaves))
        for t, g in zip(total, torch.autograd.grad(outer, sources)):
            t += g
        del outer
    return total


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x
