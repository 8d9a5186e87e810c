"""Every derivative of every compiled optimizer equals the original's.

The oracle trains the original in place, with one thing moved a little, and takes finite
differences; see `codegen.verify.oracle`.
"""

from __future__ import annotations

import pytest
import torch
from codegen.verify import gradients
from codegen.verify.comparison import TOLERANCE
from codegen.verify.oracle import Original
from codegen.verify.report import Tally
from codegen.verify.configuration import Configuration
from codegen.verify.surroundings import undisturbed, unrounded
from compiled import PATHS, compiled

#: Settings whose derivative can be undefined, and where. No other may be excused.
UNDEFINED = {
    "torch.optim.Rprop": "step_sizes[0]: a step that lies on its lower bound already",
}


@pytest.mark.parametrize("path", PATHS)
def test_every_derivative_equals_finite_differences_of_the_original(path: str) -> None:
    """Initial weights and every float setting, elements of tuples included, after 1 to
    8 steps; told by `override` at construction and in `step`, and, at the defaults and
    with all float settings at work, by a tensor in the user's optimizer, and alone."""
    found, tally = compiled(path), Tally()
    with undisturbed():
        for i, conf in enumerate(gradients.configurations(found, thorough=False)):
            gradients.check(found, conf, tally, thorough=i < 2)
        for conf in gradients.further(found, tally):
            gradients.check(found, conf, tally)
    assert not tally.failures, "\n".join(map(str, tally.failures[:10]))
    assert tally.hypergradients_right == tally.hypergradients_run > 30
    assert tally.worst_gradient < TOLERANCE
    excused = [note for note in tally.notes if "do not converge" in note]
    allowed = UNDEFINED.get(path, "nothing").partition(":")[0]
    assert all(note.startswith(allowed) for note in excused), excused


@pytest.mark.parametrize("path", PATHS)
def test_no_float_setting_is_left_out(path: str) -> None:
    found = compiled(path)
    conf = next(iter(gradients.configurations(found, thorough=False)))
    original = Original(found, conf, found.problem(conf))
    named = {leaf.name for leaf in original.leaves()}
    assert named == {s.name for s in found.settings if s.numeric}


@pytest.mark.parametrize("path", PATHS)
def test_settings_of_step_win_over_those_of_construction(path: str) -> None:
    found = compiled(path)
    conf = Configuration(found.layout)
    problem = found.problem(conf)
    params, opt = found.used(conf, problem)
    early = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    late = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    with unrounded():
        history, _ = found.unroll(
            opt, params, problem.loss, 3, {"lr": [early]}, {"lr": [late]}
        )
        plain = {"lr": [0.02]}
        expected, _ = found.unroll(opt, params, problem.loss, 3, None, plain)
    for ours, theirs in zip(history[-1], expected[-1]):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    first, second = torch.autograd.grad(
        problem.outer(history[-1]), [early, late], allow_unused=True
    )
    assert first is None and second is not None and second != 0


@pytest.mark.parametrize("path", PATHS)
def test_a_single_step_can_have_settings_of_its_own(path: str) -> None:
    """One learning rate a step: each has its own hypergradient, and they add up."""
    found = compiled(path)
    conf = Configuration(found.layout, steps=3)
    problem = found.problem(conf)
    params, opt = found.used(conf, problem)

    def outer(rates: list[torch.Tensor]) -> torch.Tensor:
        fast = [p.detach().clone().requires_grad_() for p in params]
        diffopt = found.differentiable(opt, params)
        for step, lr in enumerate(rates):
            loss = problem.loss(fast, step)
            fast = diffopt.step(loss, params=fast, override={"lr": [lr]})
        return problem.outer(fast)

    shared = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    (together,) = torch.autograd.grad(outer([shared] * 3), shared)
    rates = [shared.detach().clone().requires_grad_() for _ in range(3)]
    apart = torch.autograd.grad(outer(rates), rates, allow_unused=True)
    total = sum(g for g in apart if g is not None)
    torch.testing.assert_close(total, together, rtol=1e-10, atol=1e-14)
