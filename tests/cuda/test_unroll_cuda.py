"""``higher.unroll`` on a GPU: dropout's random state, autocast, backward's threads."""

from __future__ import annotations

from typing import Any

import higher
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
MEMORY: list[Any] = ["step", "low", 3]
K = 18


def net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Linear(8, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Linear(16, 4, bias=False),
    ]
    return nn.Sequential(*layers).to("cuda", dtype)


def derivatives(memory: Any, dtype: torch.dtype, autocast: bool) -> list[Tensor]:
    model = net(dtype)
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    lr = torch.tensor(0.01, dtype=dtype, device="cuda", requires_grad=True)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(K, 32, 8, generator=generator, dtype=dtype)
    x = images.cuda().requires_grad_()
    y = torch.randint(4, (32,), generator=generator).cuda()

    def loss_fn(f: Any, x: Tensor) -> Tensor:
        return F.cross_entropy(f(x), y)

    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=False, override={"lr": [lr]}
    ) as (f, diffopt):
        with torch.autocast("cuda", torch.float16, enabled=autocast):
            if memory is None:
                for batch in x.unbind():
                    diffopt.step(loss_fn(f, batch))
            else:
                higher.unroll(f, diffopt, loss_fn, x.unbind(), memory=memory)
            outer = loss_fn(f, x[0])
        buffers = [b.clone() for b in f.buffers()]
    grads = torch.autograd.grad(outer, [lr, x, *model.parameters()])
    return [outer.detach(), *grads, *buffers, torch.rand(3, device="cuda")]


@pytest.mark.parametrize("memory", MEMORY)
def test_every_memory_mode_has_the_same_derivatives_in_float64(memory: Any) -> None:
    found = derivatives(memory, torch.float64, False)
    wanted = derivatives(None, torch.float64, False)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("memory", MEMORY)
def test_every_memory_mode_has_the_same_derivatives_under_autocast(memory: Any) -> None:
    found = derivatives(memory, torch.float32, True)
    wanted = derivatives(None, torch.float32, True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1 * float(b.abs().max()))


def test_saving_memory_lowers_the_peak() -> None:
    peaks = []
    for memory in ("full", "low"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        derivatives(memory, torch.float64, False)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < peaks[0]


def test_forward_mode_has_the_derivatives_of_backward() -> None:
    def by(mode: str) -> Tensor:
        model = net(torch.float64)
        opt = torch.optim.Adam(model.parameters(), lr=0.01)
        lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True, device="cuda")
        x = torch.linspace(-1, 1, 256, dtype=torch.float64, device="cuda").view(32, 8)
        with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, diffopt):
            higher.unroll(f, diffopt, lambda f, x: f(x).cos().sum(), [x] * 5, mode=mode)
            return torch.autograd.grad(f(x).sin().sum(), lr)[0]

    torch.testing.assert_close(by("forward"), by("reverse"), rtol=1e-9, atol=0)
