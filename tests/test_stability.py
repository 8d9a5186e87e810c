"""Meta-gradients are finite and right where a gradient is exactly zero."""

from __future__ import annotations

import pytest
import torch
from codegen.verify import stability
from codegen.verify.report import Tally
from codegen.verify.configuration import Configuration
from codegen.verify.surroundings import undisturbed
from compiled import PATHS, compiled


@pytest.mark.parametrize("path", PATHS)
def test_gradients_that_are_exactly_zero_give_the_originals_derivatives(
    path: str,
) -> None:
    """From the first step, from a later one, or zero with a curvature: first derivatives
    are the original's, second ones finite, in autograd's anomaly mode."""
    found, tally = compiled(path), Tally()
    if found.layout.sparse:
        pytest.skip(
            "a row that is not looked up has no gradient rather than a zero one"
        )
    with undisturbed():
        for conf in stability.configurations(found, thorough=False):
            stability.check(found, conf, tally)
    assert not tally.failures, "\n".join(map(str, tally.failures[:10]))
    assert tally.hypergradients_right == tally.hypergradients_run > 20


@pytest.mark.parametrize("path", PATHS)
def test_where_all_gradients_are_zero_derivatives_are_finite(path: str) -> None:
    """Nothing moves but what decays; every derivative is finite."""
    found = compiled(path)
    if found.layout.sparse:
        pytest.skip(
            "a row that is not looked up has no gradient rather than a zero one"
        )
    problem = found.problem(Configuration(found.layout))
    params, opt = found.used(Configuration(found.layout), problem)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def nothing(fast: list[torch.Tensor], step: int) -> torch.Tensor:
        return torch.stack([(p * 0.0).sum() for p in fast]).sum()

    with torch.autograd.set_detect_anomaly(True):
        history, _ = found.unroll(opt, params, nothing, 3, {"lr": [lr]})
        gradients = torch.autograd.grad(
            problem.outer(history[-1]), [lr, *history[0]], allow_unused=True
        )
    assert all(g.isfinite().all() for g in gradients if g is not None)
    assert all(g is not None for g in gradients[1:])
