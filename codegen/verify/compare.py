"""Where two trees of containers, tensors and numbers differ, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer


class Difference(NamedTuple):
    """The worst difference found.

    size: largest gap relative to the largest number of its tensor; 0 for equal bits,
    inf for things of different kinds. figures: where, and what stands there.
    """

    size: float
    kind: str
    figures: dict[str, object]


SAME = Difference(0.0, "trajectory", {})


def worst_of(differences: Iterable[Difference]) -> Difference:
    """The largest of some differences."""
    return max(differences, key=lambda d: d.size, default=SAME)


def compare(expected: Any, got: Any, name: str) -> Difference:
    """The worst difference between two trees; `name` is what messages call them.

    Tensors agree in dtype and shape, too. A number may stand for a 0-dim tensor.
    """
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        if (expected.dtype, expected.shape) != (got.dtype, got.shape):
            return _unlike(name, _type(expected), _type(got))
        return _tensors(expected, got, name)
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        if set(expected) != set(got):
            return _unlike(name, list(expected), list(got))
        pairs = [(expected[k], got[k], f"{name}[{k!r}]") for k in expected]
        return worst_of(compare(*pair) for pair in pairs)
    if _is_sequence(expected) and _is_sequence(got) and len(expected) == len(got):
        items = enumerate(zip(expected, got))
        return worst_of(compare(e, g, f"{name}[{j}]") for j, (e, g) in items)
    if _is_number(expected) and _is_number(got):
        return _tensors(torch.as_tensor(expected), torch.as_tensor(got), name)
    same = expected is got or (type(expected) is type(got) and expected == got)
    return _same() if same else _unlike(name, expected, got)


def snapshot(params: Sequence[Tensor], opt: Optimizer) -> Any:
    """A copy of weights, state and settings, to compare with later."""
    return _copied([list(params), opt.state, opt.param_groups])


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {
            k if isinstance(k, str) else id(k): _copied(v) for k, v in value.items()
        }
    return [_copied(v) for v in value] if _is_sequence(value) else value


def _tensors(expected: Tensor, got: Tensor, name: str) -> Difference:
    expected, got = _dense(expected), _dense(got)
    if torch.equal(expected, got):
        return _same()
    wide = torch.complex128 if expected.is_complex() else torch.float64
    e, g = expected.to(wide).reshape(-1), got.to(wide).reshape(-1)
    gaps = torch.where((e == g) | (e.isnan() & g.isnan()), 0.0, (e - g).abs())
    gaps = gaps.nan_to_num(nan=math.inf)
    at = int(gaps.argmax())
    if not gaps[at]:
        return _same()
    size = float(gaps[at] / e.abs().nan_to_num().max().clamp(min=1e-30))
    figures: dict[str, object] = {
        "where": name,
        "shape": tuple(expected.shape),
        "expected": e[at].item(),
        "got": g[at].item(),
        "relative error": size,
    }
    return Difference(size, "trajectory", figures)


def _same() -> Difference:
    return Difference(0.0, "trajectory", {})


def _unlike(name: str, expected: object, got: object) -> Difference:
    figures = {"where": name, "expected": expected, "got": got}
    return Difference(math.inf, "dtype" if _typed(expected) else "trajectory", figures)


def _typed(value: object) -> bool:
    return isinstance(value, str) and value.startswith("torch.")


def _type(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)}"


def _dense(x: Tensor) -> Tensor:
    x = x.detach()
    return x.to_dense() if x.layout is not torch.strided else x


def _is_number(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float))


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
