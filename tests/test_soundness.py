"""Programs that share memory, mutate and branch in every way that authors think of:
each follows its original without verification, or is refused where it stands.

`soundness/NAME.py` defines the optimizer `Opt`; `soundness/cases.json` its settings,
the shapes of its weights, and, for those that are refused, what is said; what it
`rounds` to short floats has steps, and no derivatives to compare.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import codegen
import higher
import pytest
import torch
from codegen.diagnostics import CodegenError
from codegen.memory import load
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "soundness"
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "cases.json").read_text())
STEPS = 5
SHAPES = [(3, 2), (4,), (2, 3)]

pytestmark = pytest.mark.filterwarnings("ignore")


class Case(NamedTuple):
    """One program with its settings."""

    name: str
    settings: dict[str, Any]

    def __getattr__(self, key: str) -> Any:
        return self.settings[key]

    @property
    def sizes(self) -> list[Any]:
        return list((self.shapes or {}).values()) or SHAPES

    def module(self) -> ModuleType:
        """The program, anew: what it keeps at module level is its own."""
        spec = importlib.util.spec_from_file_location(
            f"soundness_{self.name}", FOLDER / f"{self.name}.py"
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = module  # constants are imported from there
        spec.loader.exec_module(module)
        return module

    def optimizer(self, kind: Any, params: list[Tensor], lr: float) -> Any:
        cut = len(params) if self.one_group else 2
        groups = [{"params": g} for g in (params[:cut], params[cut:]) if g]
        torch.manual_seed(5)
        given = {} if self.lr is None else {self.lr: lr}
        return kind(groups, **self.kw, **given)


class Net(nn.Module):
    """A loss of its weights alone, another one at each step."""

    def __init__(self, shapes: list[Any], shift: float = 0.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(7)
        self.weights = nn.ParameterList()
        for shape in shapes:
            drawn = torch.rand(shape, generator=random, dtype=torch.float64) - 0.5
            drawn = drawn * 1.2 + drawn.sign() * 0.1
            along = torch.randn(shape, generator=random, dtype=torch.float64)
            self.weights.append(drawn + shift * along)
            self.along = [*getattr(self, "along", []), along]

    def forward(self, step: int) -> Tensor:
        x = torch.cat([w.reshape(-1) for w in self.weights])
        random = torch.Generator().manual_seed(100 + step)
        a = torch.randn(9, x.numel(), generator=random, dtype=torch.float64) / 2
        y = torch.randn(9, generator=random, dtype=torch.float64)
        bent = torch.log(torch.cosh(a @ x - y)).sum() + 0.1 * torch.sin(x).sum()
        return bent + 0.05 * (x**2).sum()


def outer(weights: Any) -> Tensor:
    parts = [
        (w.sin() * (1 + i)).sum() + 0.3 * (w**2).sum() for i, w in enumerate(weights)
    ]
    return torch.stack(parts).sum()


def trained(case: Case, lr: float, shift: float = 0.0) -> list[list[Tensor]]:
    """The original's weights after each step."""
    net = Net(case.sizes, shift)
    optimizer = case.optimizer(case.module().Opt, list(net.parameters()), lr)
    history = []
    for step in range(STEPS):
        optimizer.zero_grad()
        net(step).backward()
        optimizer.step()
        history.append([w.detach().clone() for w in net.parameters()])
    return history


def slope(case: Case, of: str, size: float) -> float:
    """A central difference of the original's."""
    change: Any = {"lr": lambda h: (case.lr0 + h, 0.0), "w": lambda h: (case.lr0, h)}
    ends = [outer(trained(case, *change[of](h))[-1]) for h in (size, -size)]
    return float(ends[0] - ends[1]) / (2 * size)


def follows(case: Case) -> None:
    """The same weights, cold and used, and the same derivatives."""
    kind = case.module().Opt
    # not compile_optimizer: that would remember what came out
    made = load(codegen.translate(f"{FOLDER / case.name}.py:Opt"))
    higher.register_optim(kind, made)
    expected = trained(case, case.lr0)
    rtol = 1e-5 if case.loose else 1e-9
    for used in (0, 2):
        net = Net(case.sizes)
        optimizer = case.optimizer(kind, list(net.parameters()), case.lr0)
        for step in range(used):
            optimizer.zero_grad()
            net(step).backward()
            optimizer.step()
        optimizer.zero_grad()
        lr = torch.tensor(case.lr0, dtype=torch.float64, requires_grad=True)
        # a used optimizer goes on with plain numbers
        override = None if used or case.lr is None else {case.lr: [lr]}
        with higher.innerloop_ctx(
            net, optimizer, copy_initial_weights=False, override=override
        ) as (fmodel, diffopt):
            for step in range(used, STEPS):
                diffopt.step(fmodel(step))
                for found, right in zip(fmodel.parameters(), expected[step]):
                    torch.testing.assert_close(found, right, rtol=rtol, atol=rtol)
            if used or case.settings.get("rounds"):
                continue
            wrt = [lr, *net.parameters()]
            value = outer(list(fmodel.parameters()))
            by_lr, *by_w = torch.autograd.grad(value, wrt, materialize_grads=True)
            size, close = (1e-3, 5e-2) if case.loose else (1e-5, 1e-4)
            if case.lr is not None:
                right = slope(case, "lr", size)
                assert float(by_lr) == pytest.approx(right, rel=close, abs=1e-3 * close)
            along = sum(float((g * d).sum()) for g, d in zip(by_w, net.along))
            right = slope(case, "w", size)
            assert along == pytest.approx(right, rel=close, abs=1e-3 * close)


ALL = [Case(name, settings) for name, settings in CASES.items()]
named = functools.partial(pytest.mark.parametrize, "case", ids=lambda case: case.name)


@named(argvalues=[c for c in ALL if "refused" not in c.settings])
def test_follows_the_original(case: Case) -> None:
    follows(case)


@named(argvalues=[c for c in ALL if "refused" in c.settings])
def test_refused_where_it_stands(case: Case) -> None:
    with pytest.raises(CodegenError, match=case.refused) as refusal:
        codegen.compile_optimizer(case.module().Opt, verify=False)
    assert all(d.origin is not None and d.hint for d in refusal.value.diagnostics)
