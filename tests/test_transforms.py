"""Updates are pure functions, so torch's function transforms go through them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from codegen.verify.problem import Problem
from codegen.verify.settings import elements, sampled, together, with_element
from codegen.verify.configuration import Configuration
from codegen.verify.subject import Subject
from codegen.verify.surroundings import unrounded
from compiled import PATHS, compiled, seeded
from higher.optim.base import DifferentiableOptimizer, OptimizerState
from torch import Tensor

# Forward mode compiles these when it is first asked for: from torch's functions as they
# are, not as verification replaces them.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    importlib.import_module("torch._decomp.decompositions_for_jvp")

#: torch's own forward-mode formulas are written with it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

STEPS = 6  # some optimizers change over at the sixth

#: What a transform cannot do, and whose limit that is.
NO_VMAP: Mapping[str, str] = {
    "torch.optim.SparseAdam": "torch.func.vmap has no sparse tensors",
}
NO_FORWARD: Mapping[str, str] = {
    "torch.optim.SparseAdam": "forward-mode AD has no sparse tensors",
}


def _configurations(found: Subject) -> list[Configuration]:
    settings = found.settings
    return [
        Configuration(found.layout),
        Configuration(found.layout, sampled(settings, found.runs)),
        Configuration(found.layout, together(settings, found.runs), warm=True),
    ]


def _branch(
    found: Subject, conf: Configuration
) -> tuple[DifferentiableOptimizer, list[Tensor], Problem]:
    problem = found.problem(conf)
    params, opt = found.used(conf, problem)
    diffopt = found.differentiable(opt, params)
    for step in range(STEPS):
        problem.loss(params, step)  # draws and keeps the data, outside of transforms
    problem.outer(params)
    return diffopt, [p.detach().clone() for p in params], problem


@pytest.mark.parametrize("at", range(3), ids=["defaults", "floats", "everything"])
@pytest.mark.parametrize("path", [p for p in PATHS if p not in NO_VMAP])
def test_vmap_over_a_batch_of_parameters(path: str, at: int) -> None:
    found = compiled(path)
    diffopt, params, _ = _branch(found, _configurations(found)[at])
    start = diffopt.snapshot()
    grads = [
        [seeded(3, *p.shape, seed=10 * t + i) for i, p in enumerate(params)]
        for t in range(STEPS)
    ]

    def unroll(fast: list[Tensor], given: list[list[Tensor]]) -> list[Tensor]:
        state = start
        for each in given:
            fast, state = diffopt.update(fast, each, state)
        return fast

    batch = [torch.stack([p, p + 0.1, p - 0.2]) for p in params]
    with unrounded():
        together_ = torch.func.vmap(unroll)(batch, grads)
        for b in range(3):
            alone = unroll([p[b] for p in batch], [[g[b] for g in gs] for gs in grads])
            for ours, theirs in zip(together_, alone):
                torch.testing.assert_close(ours[b], theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", [p for p in PATHS if p not in NO_VMAP])
def test_vmap_over_a_batch_of_learning_rates(path: str) -> None:
    found = compiled(path)
    diffopt, params, problem = _branch(found, _configurations(found)[1])
    rates = torch.tensor([0.01, 0.02, 0.05], dtype=torch.float64)

    def outer(lr: Tensor) -> Tensor:
        state = _told(diffopt.snapshot(), {"lr": lr})
        return problem.outer(_descend(diffopt, problem, params, state))

    with unrounded():
        batched = torch.func.vmap(outer)(rates)
        alone = torch.stack([outer(lr) for lr in rates])
    torch.testing.assert_close(batched, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("leaves", [True, False], ids=["autograd", "func"])
@pytest.mark.parametrize("path", [p for p in PATHS if p not in NO_VMAP])
def test_vmap_over_tasks_with_the_same_initial_weights(path: str, leaves: bool) -> None:
    """MAML: the sum over tasks is differentiated by what all of them start from."""
    found = compiled(path)
    diffopt, params, problem = _branch(found, _configurations(found)[2])
    start = diffopt.snapshot()
    tasks = torch.tensor([0.7, 1.0, 1.4], dtype=torch.float64)

    def trained(initial: list[Tensor], task: Tensor) -> Tensor:
        fast, state = list(initial), start
        for step in range(3):
            loss = lambda p: problem.loss(p, step) * task
            grads = torch.func.grad(loss)(fast)
            fast, state = diffopt.update(fast, grads, state)
        return problem.outer(fast) * task

    def all_tasks(initial: list[Tensor]) -> Tensor:
        return torch.func.vmap(lambda t: trained(initial, t))(tasks).sum()

    with unrounded():
        inputs = [p.clone().requires_grad_(leaves) for p in params]
        if leaves:
            together_ = torch.autograd.grad(all_tasks(inputs), inputs)
        else:
            together_ = torch.func.grad(all_tasks)(inputs)
        alone = [p.clone().requires_grad_() for p in params]
        outer = torch.zeros((), dtype=torch.float64)
        for task in tasks:
            fast, state = list(alone), start
            for step in range(3):
                inner = problem.loss(fast, step) * task
                grads = torch.autograd.grad(inner, fast, create_graph=True)
                fast, state = diffopt.update(fast, grads, state)
            outer = outer + problem.outer(fast) * task
        wanted = torch.autograd.grad(outer, alone)
    for ours, theirs in zip(together_, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("at", range(3), ids=["defaults", "floats", "everything"])
@pytest.mark.parametrize("path", [p for p in PATHS if p not in NO_FORWARD])
def test_forward_mode_equals_reverse_mode(path: str, at: int) -> None:
    """The tangent of each float setting is the hypergradient to it."""
    found = compiled(path)
    diffopt, params, problem = _branch(found, _configurations(found)[at])
    group = diffopt.param_groups[0]
    names = [s.name for s in found.settings if s.numeric]
    leaves = [(n, place, v) for n in names for place, v in elements(group[n])]

    def outer(values: tuple[Tensor, ...]) -> Tensor:
        told: dict[str, Any] = {}
        for (name, place, _), value in zip(leaves, values):
            told[name] = with_element(told.get(name, group[name]), place, value)
        state = _told(diffopt.snapshot(), told)
        return problem.outer(_descend(diffopt, problem, params, state))

    values = tuple(torch.tensor(v, dtype=torch.float64) for _, _, v in leaves)
    with unrounded():
        inputs = [v.clone().requires_grad_() for v in values]
        reverse = torch.autograd.grad(outer(tuple(inputs)), inputs, allow_unused=True)
        for i, expected in enumerate(reverse):
            one = tuple(
                torch.tensor(float(j == i)).double() for j in range(len(values))
            )
            tangent = torch.func.jvp(outer, (values,), (one,))[1]
            wanted = torch.zeros_like(tangent) if expected is None else expected
            torch.testing.assert_close(
                tangent,
                wanted,
                rtol=1e-8,
                atol=1e-12,
                msg=lambda m: f"{leaves[i][:2]}: {m}",
            )


@pytest.mark.parametrize("path", [p for p in PATHS if p not in NO_FORWARD])
def test_forward_mode_through_the_initial_weights(path: str) -> None:
    found = compiled(path)
    diffopt, params, problem = _branch(found, _configurations(found)[1])
    state = diffopt.snapshot()
    along = [seeded(*p.shape, seed=i) for i, p in enumerate(params)]

    def outer(start: list[Tensor]) -> Tensor:
        return problem.outer(_descend(diffopt, problem, start, state))

    with unrounded():
        tangent = torch.func.jvp(outer, (params,), (along,))[1]
        inputs = [p.clone().requires_grad_() for p in params]
        gradients = torch.autograd.grad(outer(inputs), inputs)
    expected = sum((g * d).sum() for g, d in zip(gradients, along))
    torch.testing.assert_close(tangent, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_an_update_changes_nothing_that_it_was_given(path: str) -> None:
    """Twice the same call, twice the same result; the optimizer itself stays put."""
    found = compiled(path)
    conf = replace(_configurations(found)[0], warm=True)
    diffopt, params, problem = _branch(found, conf)
    start, held = diffopt.snapshot(), diffopt.snapshot()
    inputs = [p.requires_grad_() for p in params]
    grads = torch.autograd.grad(problem.loss(inputs, 0), inputs)
    first, after = diffopt.update(inputs, grads, start)
    diffopt.update(first, grads, after)
    again, _ = diffopt.update(inputs, grads, start)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    for one, other in ((start, held), (diffopt.snapshot(), held)):
        assert str(one) == str(other)


def _told(state: OptimizerState, settings: Mapping[str, Any]) -> OptimizerState:
    return replace(state, groups=[{**g, **settings} for g in state.groups])


def _descend(
    diffopt: DifferentiableOptimizer,
    problem: Problem,
    params: list[Tensor],
    state: OptimizerState,
) -> list[Tensor]:
    """Some steps of training, by function transforms alone."""
    fast = params
    for step in range(STEPS):
        loss: Callable[[list[Tensor]], Tensor] = lambda p: problem.loss(p, step)
        grads = torch.func.grad(loss)(fast)
        fast, state = diffopt.update(fast, grads, state)
    return fast
