"""``unroll(compile=True)`` on a GPU, against the same unroll as it is."""

from __future__ import annotations

from typing import Any

import higher
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),  # the compiler's own
]


def loss_fn(f: Any, batch: Any) -> Tensor:
    return F.mse_loss(f(batch[0]), batch[1])


def derivatives(name: str, compile: bool, tasks: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 6, bias=False), nn.Tanh(), nn.Linear(6, 2)]
    model = nn.Sequential(*layers).to("cuda", torch.float64)
    opt = getattr(torch.optim, name)(model.parameters(), lr=0.05)
    lr = torch.tensor(0.05, dtype=torch.float64, device="cuda", requires_grad=True)
    shape = (5, *([] if tasks is None else [tasks]), 8)
    x, y = (torch.randn(*shape, n, dtype=torch.float64).cuda() for n in (3, 2))
    *inner, outer = zip(x, y)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=False, override={"lr": [lr]}, tasks=tasks
    ) as (f, diffopt):
        higher.unroll(f, diffopt, loss_fn, inner, memory="low", compile=compile)
        loss = higher.map_tasks(f, loss_fn, outer) if tasks else loss_fn(f, outer)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), [lr, *model.parameters()])]


@pytest.mark.parametrize("tasks", [None, 3])
@pytest.mark.parametrize("name", ["SGD", "Adam", "RAdam"])
def test_compiled_steps_have_the_derivatives_of_plain_ones(
    name: str, tasks: int | None
) -> None:
    found, wanted = derivatives(name, True, tasks), derivatives(name, False, tasks)
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6) < 1e-9
