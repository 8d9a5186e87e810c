"""Operations whose settings are numbers, and the runtime's that take tensors for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codegen import optable
from higher import ops


@dataclass(frozen=True)
class Case:
    """``ours(x, a, b)`` computes what ``theirs(x, a, b)`` does of numbers a and b."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    at: tuple[float, ...] = (0.3,)


X = (0.7, -0.4, 1.9, -1.3, 0.2, 0.0)


def _of(name: str, module: Any = F, **options: Any) -> Case:
    return Case(getattr(ops, name), getattr(module, name), **options)


CASES = {
    "elu": _of("elu"),
    "celu": _of("celu"),
    "leaky_relu": _of("leaky_relu"),
    "hardtanh": _of("hardtanh", at=(-0.35, 0.55)),
    "threshold": _of("threshold", at=(0.3, 0.8)),
    "hardshrink": _of("hardshrink"),
    "softshrink": _of("softshrink"),
    "softplus": _of("softplus", at=(1.7, 2.0)),
    "huber_loss": Case(
        lambda x, d: ops.huber_loss(x, x.flip(0), delta=d),
        lambda x, d: F.huber_loss(x, x.flip(0), delta=d),
        (0.6,),
    ),
    "nan_to_num": Case(
        lambda x, a, b: ops.nan_to_num(x / (x != 0.7), nan=a, posinf=b),
        lambda x, a, b: torch.nan_to_num(x / (x != 0.7), nan=a, posinf=b),
        (0.3, 0.4),
    ),
    "pad": Case(
        lambda x, a: ops.pad(x.reshape(-1), (1, 2), value=a),
        lambda x, a: F.pad(x.reshape(-1), (1, 2), value=a),
    ),
    "normalize": Case(
        lambda x, p, e: ops.normalize(x.reshape(-1, 1), p, 1, e),
        lambda x, p, e: F.normalize(x.reshape(-1, 1), p, 1, e),
        (1.7, 0.5),
    ),
    "norm": Case(ops.norm, torch.norm, (1.6,)),
    "norm along a dimension": Case(
        lambda x, p: ops.norm(x.reshape(1, -1), p, 1),
        lambda x, p: torch.norm(x.reshape(1, -1), p, 1),
        (2.5,),
    ),
    "where": Case(
        lambda x, a: ops.where(x > 0, a, 0),
        lambda x, a: torch.where(x > 0, a, 0),
    ),
    "full": Case(
        lambda x, a: ops.full((2,), a, dtype=x.dtype),
        lambda x, a: torch.full((2,), a, dtype=x.dtype),
    ),
    "full_like": _of("full_like", torch),
    "new_full": Case(
        lambda x, a: ops.new_full(x, (2, 2), a), lambda x, a: x.new_full((2, 2), a)
    ),
    "new_tensor": Case(ops.new_tensor, lambda x, a: x.new_tensor(a)),
    "new_tensor of a list": Case(
        lambda x, a: ops.new_tensor(x, [a, 1.0]), lambda x, a: x.new_tensor([a, 1.0])
    ),
    "arange": Case(
        lambda x, a, b: ops.arange(a, 3, b, dtype=x.dtype),
        lambda x, a, b: torch.arange(a, 3, b, dtype=x.dtype),
        (0.2, 0.65),
    ),
    "linspace": Case(
        lambda x, a, b: ops.linspace(a, b, 4, dtype=x.dtype),
        lambda x, a, b: torch.linspace(a, b, 4, dtype=x.dtype),
        (0.2, 0.7),
    ),
    "scatter": Case(
        lambda x, a: ops.scatter(x.reshape(-1), 0, torch.tensor([0]), a),
        lambda x, a: torch.scatter(x.reshape(-1), 0, torch.tensor([0]), a),
    ),
    "index_add": Case(
        lambda x, a: ops.index_add(x.reshape(-1), 0, _ZERO, x.reshape(-1)[:1], alpha=a),
        lambda x, a: torch.index_add(
            x.reshape(-1), 0, _ZERO, x.reshape(-1)[:1], alpha=a
        ),
    ),
    "fill_diagonal": Case(
        lambda x, a: ops.fill_diagonal(x.reshape(-1, 1), a),
        lambda x, a: x.reshape(-1, 1).clone().fill_diagonal_(a),
    ),
    "rsub": Case(
        lambda x, a: ops.rsub(x, x * x, alpha=a),
        lambda x, a: torch.rsub(x, x * x, alpha=a),
    ),
    "addmv": Case(
        lambda x, a, b: ops.addmv(x.reshape(-1), _mat(x), _vec(x), beta=a, alpha=b),
        lambda x, a, b: torch.addmv(x.reshape(-1), _mat(x), _vec(x), beta=a, alpha=b),
        (0.2, 0.7),
    ),
    "addr": Case(
        lambda x, a, b: ops.addr(_mat(x), _vec(x), _vec(x), beta=a, alpha=b),
        lambda x, a, b: torch.addr(_mat(x), _vec(x), _vec(x), beta=a, alpha=b),
        (0.2, 0.7),
    ),
    "addbmm": Case(
        lambda x, a, b: ops.addbmm(
            _mat(x), _mat(x)[None], _mat(x)[None], beta=a, alpha=b
        ),
        lambda x, a, b: torch.addbmm(
            _mat(x), _mat(x)[None], _mat(x)[None], beta=a, alpha=b
        ),
        (0.2, 0.7),
    ),
    "baddbmm": Case(
        lambda x, a, b: ops.baddbmm(*3 * (_mat(x)[None],), beta=a, alpha=b),
        lambda x, a, b: torch.baddbmm(*3 * (_mat(x)[None],), beta=a, alpha=b),
        (0.2, 0.7),
    ),
    "normal_": Case(
        lambda x, a, b: _seeded(lambda: ops.random_like(x, "normal_", a, std=b)),
        lambda x, a, b: _seeded(lambda: torch.empty_like(x).normal_(a, b)),
        (0.2, 0.7),
    ),
    "uniform_": Case(
        lambda x, a, b: _seeded(lambda: ops.random_like(x, "uniform_", a, b)),
        lambda x, a, b: _seeded(lambda: torch.empty_like(x).uniform_(a, b)),
        (0.2, 0.7),
    ),
    "log_normal_": Case(
        lambda x, a, b: _seeded(lambda: ops.random_like(x, "log_normal_", a, b)),
        lambda x, a, b: _seeded(lambda: torch.empty_like(x).log_normal_(a, b)),
        (0.2, 0.7),
    ),
}
_ZERO = torch.tensor([0])


def _mat(x: Tensor) -> Tensor:
    n = x.numel()
    return torch.arange(n * n, dtype=x.dtype).reshape(n, n) / (n * n) + x.reshape(-1)


def _vec(x: Tensor) -> Tensor:
    return x.reshape(-1) * 0.5


def _seeded(draw: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(0)
    return draw()


def _x(scalar: bool, dtype: torch.dtype) -> Tensor:
    return torch.tensor(X[0] if scalar else X, dtype=dtype)


@pytest.mark.parametrize("name", CASES)
def test_numbers_go_to_the_very_kernel(name: str) -> None:
    case = CASES[name]
    for scalar in (False, True):
        x = _x(scalar, torch.float32)
        expected = case.theirs(x, *case.at)
        result = case.ours(x, *case.at)
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)


@pytest.mark.parametrize("name", CASES)
def test_a_setting_keeps_value_and_dtype(name: str) -> None:
    """Whatever its own dtype is, and also where the tensor has no dimensions."""
    case = CASES[name]
    for scalar in (False, True):
        for dtype in (torch.float32, torch.float64):
            x = _x(scalar, torch.float32)
            settings = [
                torch.tensor(v, dtype=dtype, requires_grad=True) for v in case.at
            ]
            expected = case.theirs(x, *case.at)
            result = case.ours(x, *settings)
            assert result.dtype == expected.dtype, (scalar, dtype)
            torch.testing.assert_close(result.detach(), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_setting_keeps_its_gradient(name: str) -> None:
    """Held against central differences of torch's own operation of numbers."""
    case = CASES[name]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        x = _x(False, torch.float64)
        weights = torch.rand_like(torch.as_tensor(case.theirs(x, *case.at))) + 0.5
        settings = [torch.tensor(v, requires_grad=True) for v in case.at]
        total = (case.ours(x, *settings) * weights).nan_to_num(0, 0, 0).sum()
        total = total + 0 * sum(settings)  # a width may only decide
        found = torch.autograd.grad(total, settings, materialize_grads=True)
        for place, slope in enumerate(found):
            h = 1e-6
            up, down = list(case.at), list(case.at)
            up[place] += h
            down[place] -= h
            change = case.theirs(x, *up) - case.theirs(x, *down)
            expected = (change.nan_to_num(0, 0, 0) * weights).sum() / (2 * h)
            torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)
    finally:
        torch.set_default_dtype(default)


NUMBERS = {
    name: at
    for names, at in {
        "exp exp2 log1p expm1 cos sin tan acos asin atan cosh sinh tanh asinh atanh log "
        "log2 log10 sqrt erf erfc lgamma degrees radians fabs cbrt": (0.4,),
        "acosh": (1.4,),
        "pow atan2 copysign fmod hypot": (0.7, 0.4),
    }.items()
    for name in names.split()
}


@pytest.mark.parametrize("name", NUMBERS)
def test_functions_of_numbers_take_tensors(name: str) -> None:
    at = NUMBERS[name]
    ours = getattr(ops, name)
    theirs = getattr(math, name, None) or (
        lambda x: math.copysign(abs(x) ** (1 / 3), x)
    )
    assert ours(*at) == pytest.approx(theirs(*at), rel=1e-15)
    settings = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in at]
    result = ours(*settings)
    assert result.item() == pytest.approx(theirs(*at), rel=1e-12)
    slopes = torch.autograd.grad(result, settings, materialize_grads=True)
    for place, slope in enumerate(slopes):
        up, down = list(at), list(at)
        up[place] += 1e-6
        down[place] -= 1e-6
        expected = (theirs(*up) - theirs(*down)) / 2e-6
        assert slope.item() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_two_numbers_of_which_one_is_a_tensor() -> None:
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert ops.atan2(0.3, x).item() == pytest.approx(math.atan2(0.3, 0.7))
    assert ops.fmod(2.0, x).item() == pytest.approx(math.fmod(2.0, 0.7))
    assert ops.log(x, 3).item() == pytest.approx(math.log(0.7, 3))
    assert ops.log(3, x).item() == pytest.approx(math.log(3, 0.7))
    assert ops.fsum([x, 1.0]).item() == pytest.approx(1.7)


def test_a_distribution_without_such_gradients_is_refused() -> None:
    rate = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(NotImplementedError, match="exponential_ does not keep"):
        ops.random_like(torch.zeros(2), "exponential_", rate)


def test_every_twin_of_the_table_is_there() -> None:
    named = {
        name.removeprefix("ops.")
        for operation in optable.TABLE.values()
        for name in (operation.twin, operation.stable, operation.functional)
        if name is not None and name.startswith("ops.")
    }
    missing = sorted(name for name in named if not hasattr(ops, name))
    unknown = sorted(name for name in named if optable.function(f"ops.{name}") is None)
    assert not missing and not unknown
