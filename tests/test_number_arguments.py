"""Settings in places where torch and Python take plain numbers: right, or refused.

What is translated is held against the original's own step in float64: values, and the
derivative by every setting against central differences.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import codegen
import higher
from codegen.rules.r7_settings import DifferentiableSettings

HEAD = """
import functools, math, operator, statistics
from math import sqrt as root
import torch
import torch as th
import torch.nn.functional as F
from torch.nn.functional import elu, softplus as sp
from torch.optim import Optimizer

def scaled(x, factor):
    return F.leaky_relu(x, negative_slope=factor)

def halved(x):
    return x * 0.5

def squashed(x):
    return F.elu(x)

class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.87, clip=0.45, eps=0.01, kind="a"):
        super().__init__(params, dict(lr=lr, beta=beta, clip=clip, eps=eps, kind=kind))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            clip, eps = group["clip"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad
"""

RIGHT = {
    "activations": """
        p.sub_(F.elu(g, alpha=beta), alpha=lr)
        p.sub_(F.hardtanh(g, -clip, clip), alpha=lr)
        p.sub_(F.softshrink(p, lambd=lr * eps), alpha=lr)
        p.sub_(F.hardshrink(g, eps), alpha=lr)
        p.sub_(F.leaky_relu(g, beta), alpha=lr)
        p.sub_(sp(g, beta), alpha=lr)
        p.sub_(elu(g, beta), alpha=lr)
        p.sub_(th.celu(g, beta), alpha=lr)
        p.sub_(F.threshold(g, eps, -clip), alpha=lr)
        p.sub_(F.gelu(g * beta), alpha=lr)
        p.sub_(F.logsigmoid(g * clip), alpha=lr)
        p.sub_(F.huber_loss(g, torch.zeros_like(g), reduction="none", delta=clip), alpha=lr)
        p.sub_(F.normalize(g, p=2, dim=0, eps=clip), alpha=lr)
        p.sub_(scaled(g, beta), alpha=lr)
        bent = lambda x: F.elu(x, alpha=beta)
        p.sub_(bent(g), alpha=lr)
    """,
    "new tensors": """
        p.sub_(p.new_tensor(lr) * g)
        p.sub_(p.new_full(p.shape, lr) * g)
        p.sub_(torch.full(p.shape, lr, dtype=p.dtype) * g)
        p.sub_(torch.where(g > 0, lr, 0) * g)
        p.sub_(torch.where(g > 0, lr, lr * beta) * g)
        p.sub_(torch.linspace(lr, beta, p.numel(), dtype=p.dtype).view_as(p) * g, alpha=eps)
        p.sub_(torch.arange(lr, p.numel(), dtype=p.dtype)[: p.numel()].view_as(p), alpha=eps)
        weights = torch.tensor([lr, beta])
        p.sub_(g * weights[0] * weights[1])
        p.sub_(g * torch.as_tensor(lr) * torch.scalar_tensor(beta))
        p.sub_(torch.empty_like(p).normal_(0, lr))
        p.sub_(torch.empty_like(p).uniform_(-lr, eps))
        p.sub_(g.masked_fill(g > 0, lr), alpha=lr)
        p.sub_(torch.nan_to_num(g / g, nan=lr), alpha=lr)
        p.sub_(F.pad(g.reshape(-1), (1, 0), value=lr)[:-1].view_as(g), alpha=lr)
        p.sub_(g.reshape(-1).scatter(0, torch.tensor([1]), lr).view_as(g), alpha=lr)
        corner = g.reshape(1, -1).clone()
        corner.fill_diagonal_(beta)
        p.sub_(corner.view_as(p), alpha=lr)
    """,
    "numbers": """
        p.sub_(g, alpha=root(lr) * math.tan(lr) * math.log2(1 + beta))
        p.sub_(g, alpha=-lr * math.log(beta, 10) * math.hypot(lr, eps))
        p.sub_(g, alpha=math.copysign(lr, beta) * math.atan2(lr, beta))
        p.sub_(g, alpha=float(lr) * max(min(lr, beta), eps) * max([lr, eps]))
        p.sub_(g, alpha=lr * int(10 * beta) * round(beta, 1) * math.ceil(beta))
        p.sub_(g, alpha=lr * (beta // 0.4) + lr * (beta % 0.4))
        p.sub_(g, alpha=lr if beta > 0.5 else eps)
        p.sub_(operator.mul(g, lr * functools.reduce(operator.mul, [lr, beta])))
        first, second = sorted([lr, beta])
        p.sub_(g, alpha=first * second * sum([lr, eps]))
        p.sub_(g, alpha=math.fsum([lr, eps]) * math.prod([lr, beta]))
    """,
    "functions in variables": """
        for view in [halved, squashed]:
            p.sub_(view(g) * beta, alpha=lr)
    """,
    "powers, bounds and norms": """
        p.sub_((g.abs() + 1) ** beta, alpha=lr)
        p.sub_(torch.pow(beta, g), alpha=lr)
        p.sub_(torch.clamp(g, min=-clip), alpha=lr)
        p.sub_(g.clamp(-clip, 0.7), alpha=lr)
        p.sub_(g / (g.norm(p=1 + beta) + eps), alpha=lr)
        p.sub_(g.lerp(p, 1 - beta), alpha=lr)
        flat = g.reshape(-1)
        p.sub_(torch.addmv(flat, flat.outer(flat), flat, beta=clip, alpha=eps).view_as(p), alpha=lr)
        p.sub_(torch.addr(flat.outer(flat), flat, flat, beta=eps, alpha=eps).sum(0).view_as(p), alpha=lr)
        p.sub_(flat.index_add(0, torch.tensor([0]), flat[:1], alpha=beta).view_as(p), alpha=lr)
    """,
}

REFUSED = """
    p.sub_(g, alpha=lr * math.gamma(1 + beta))
    p.sub_(g, alpha=statistics.mean(lr, beta))
    p.sub_(torch.normal(0.0, lr, p.shape))
    p.sub_(g * torch.quantile(g.abs(), clip), alpha=lr)
    p.sub_(g.reshape(1, -1).renorm(2, 0, clip).view_as(p), alpha=lr)
    p.sub_(g, alpha=lr * divmod(beta, 0.4)[1])
    p.sub_(F.dropout(g, p=clip), alpha=lr)
    p.sub_(F.smooth_l1_loss(g, g * 2, reduction="none", beta=clip), alpha=lr)
    p.sub_(F.elu(g, *(beta,)), alpha=lr)
    p.sub_(F.elu(g, **{"alpha": beta}), alpha=lr)
"""

SETTINGS = {"lr": 0.1, "beta": 0.87, "clip": 0.45, "eps": 0.01}
WEIGHTS = (
    torch.tensor([[0.3, -0.5], [0.8, 1.1], [-0.7, 0.2]], dtype=torch.float64),
    torch.tensor([0.4, -0.9, 0.6, 1.3], dtype=torch.float64),
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(w.clone()) for w in WEIGHTS)

    def forward(self) -> Tensor:
        return sum(((p + 0.3) ** 4 * 0.3 + p.sin()).sum() for p in (self.a, self.b))


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Central differences need a smooth function: torch.where of two numbers, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _load(folder: Path, name: str, lines: str) -> Any:
    path = folder / f"{name}.py"
    path.write_text(HEAD + textwrap.indent(textwrap.dedent(lines), " " * 16))
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Opt


def _measure(params: Any) -> Tensor:
    return sum((p.sin() * (1 + i)).sum() for i, p in enumerate(params))


def _original(cls: Any, settings: dict[str, float]) -> float:
    torch.manual_seed(0)
    net = Net()
    opt = cls(net.parameters(), **settings)
    for _ in range(2):
        opt.zero_grad()
        net().backward()
        opt.step()
    return _measure(net.parameters()).item()


@pytest.mark.parametrize("name", RIGHT)
def test_a_setting_keeps_its_derivative(name: str, tmp_path: Path) -> None:
    cls = _load(tmp_path, f"numbers_{len(name)}", RIGHT[name])
    higher.register_optim(cls, codegen.compile_optimizer(cls, verify=False))
    net = Net()
    settings = {k: torch.tensor(v, requires_grad=True) for k, v in SETTINGS.items()}
    override = {k: [v] for k, v in settings.items()}
    torch.manual_seed(0)
    with higher.innerloop_ctx(net, cls(net.parameters()), override=override) as (f, d):
        for _ in range(2):
            d.step(f())
        result = _measure(f.parameters())
    assert result.item() == pytest.approx(_original(cls, SETTINGS), rel=1e-10)
    slopes = torch.autograd.grad(result, [*settings.values()], allow_unused=True)
    for (word, at), slope in zip(SETTINGS.items(), slopes):
        sides = [_original(cls, {**SETTINGS, word: at + h}) for h in (1e-6, -1e-6)]
        expected = (sides[0] - sides[1]) / 2e-6
        found = 0.0 if slope is None else slope.item()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), word


def test_what_would_lose_a_derivative_is_refused_where_it_stands(
    tmp_path: Path,
) -> None:
    cls = _load(tmp_path, "numbers_refused", REFUSED)
    with pytest.raises(codegen.CodegenError) as caught:
        codegen.compile_optimizer(cls, verify=False)
    lines = [line.strip() for line in REFUSED.strip().splitlines()]
    found = {d.source_line.strip() for d in caught.value.diagnostics if d.rule == "R7"}
    assert found == set(lines)
    assert all(d.hint for d in caught.value.diagnostics)


@pytest.mark.parametrize("check", ["_unknown", "_refuse_number", "_untold"])
def test_the_test_above_fails_without_a_check(
    check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: default deny, one part of it after the other, switched off."""
    monkeypatch.setattr(DifferentiableSettings, check, lambda *args: None)
    with pytest.raises(AssertionError):
        test_what_would_lose_a_derivative_is_refused_where_it_stands(tmp_path)


def test_new_state_is_of_the_parameter_s_dtype(tmp_path: Path) -> None:
    """``.item()`` is a tensor in double precision where its derivative is kept."""
    torch.set_default_dtype(torch.float32)
    lines = """
        state = self.state[p]
        d = g * (lr * g.norm().item())
        if "m" not in state:
            state["m"] = torch.clone(d)
        p.sub_(state["m"])
    """
    cls = _load(tmp_path, "numbers_dtype", lines)
    higher.register_optim(cls, codegen.compile_optimizer(cls, verify=False))
    net = Net()
    net.a, net.b = (nn.Parameter(torch.tensor(0.5)) for _ in range(2))
    with higher.innerloop_ctx(net, cls(net.parameters())) as (f, d):
        d.step(f())
        assert d.state[0][0]["m"].dtype == torch.float32
