"""Tensor operations of the runtime against what in-place ones leave behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from higher import ops

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda x: x,
    "transposed": lambda x: x.T,
    "rows": lambda x: x[1:],
    "a column": lambda x: x[:, 1],
    "an element": lambda x: x[0, 0],
    "steps": lambda x: x.T[1:, ::2],
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.T.clone(memory_format=torch.contiguous_format).T,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("view", VIEWS)
def test_writing_through_a_view(layout: str, view: str) -> None:
    part, lay = VIEWS[view], LAYOUTS[layout]
    torch.manual_seed(0)
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    y = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)

    def written(x: Tensor, y: Tensor) -> Tensor:
        base = lay(x)
        seen = part(base)
        return ops.write_through(base, seen, torch.maximum(seen * 3, part(y) * 2))

    in_place = lay(x.detach())
    new = torch.maximum(part(in_place) * 3, part(y.detach()) * 2)
    part(in_place).copy_(new)
    assert torch.equal(written(x, y), in_place)
    assert torch.autograd.gradcheck(written, (x, y))
    assert torch.autograd.gradgradcheck(written, (x, y))


def test_a_copy_writes_nothing_through() -> None:
    base = torch.ones(3)
    assert ops.write_through(base, base.clone(), torch.zeros(3)) is base


MEMORY: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "a part that reaches beyond": (lambda m: m[2:8], lambda m: m[:5]),
    "a part that begins before, in steps": (lambda m: m[5:], lambda m: m[::2]),
    "another part": (lambda m: m[:4], lambda m: m[4:]),
    "an expanded tensor": (lambda m: m[3:4].expand(5), lambda m: m[2:6]),
    "overlapping windows": (lambda m: m.unfold(0, 4, 2), lambda m: m[3:7]),
    "the real part": (lambda m: torch.complex(m, -m), lambda c: c.real[1:]),
    "the imaginary part": (lambda m: torch.complex(m, -m), lambda c: c.imag[:3]),
    "the imaginary part of a conjugate": (
        lambda m: torch.complex(m, -m),
        lambda c: c.conj().imag[:3],
    ),
    "a conjugate": (lambda m: torch.complex(m, -m), lambda c: c.conj()[2:]),
}


@pytest.mark.parametrize("held", MEMORY)
def test_memory_is_written_as_far_as_it_is_shared(held: str) -> None:
    whole, part = MEMORY[held]

    def memory() -> tuple[Tensor, Tensor]:
        cells = torch.arange(1.0, 11.0, dtype=torch.float64)
        base = whole(cells)
        return base, part(base if base.is_complex() else cells)

    base, view = memory()
    new = view * 3 + 1
    found = ops.write_through(base, view, new)
    in_place, seen = memory()
    seen.copy_(new)
    assert torch.equal(found, in_place)
    if held == "another part":
        assert found is base


def test_bits_of_complex_numbers_as_another_dtype_are_refused() -> None:
    base = torch.ones(4, dtype=torch.complex128)
    view = torch.view_as_real(base).view(torch.int64)
    with pytest.raises(RuntimeError, match="compute with numbers"):
        ops.write_through(base, view, view + 1)


@pytest.mark.parametrize("name", ["add", "sub", "addcmul", "addcdiv", "lerp"])
def test_a_setting_in_double_precision_does_not_promote_a_scalar(name: str) -> None:
    """The kernels take it as a number, which promotes nothing either."""
    setting = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x, y, z = (torch.tensor(v) for v in (1.0, 2.0, 4.0))
    given = {
        "add": ((x, y), {"alpha": setting}),
        "sub": ((x, y), {"alpha": setting}),
        "addcmul": ((x, y, z), {"value": setting}),
        "addcdiv": ((x, y, z), {"value": setting}),
        "lerp": ((x, y, setting), {}),
    }[name]
    result = getattr(ops, name)(*given[0], **given[1])
    assert result.dtype == torch.float32
    (slope,) = torch.autograd.grad(result, setting)
    wanted = {"add": 2.0, "sub": -2.0, "addcmul": 8.0, "addcdiv": 0.5, "lerp": 1.0}
    assert slope.dtype == torch.float64 and float(slope) == wanted[name]


@pytest.mark.parametrize("name", ["add", "sub", "addcmul", "addcdiv"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(4, 4), (4, 0), (0, 0)])
def test_a_tensor_factor_rounds_where_a_number_does(
    name: str, dtype: torch.dtype, sizes: tuple[int, int]
) -> None:
    """What is scaled has been promoted before; of short floats alone, torch's kernels
    round as they like."""
    rtol = 1e-6 if dtype is not torch.bfloat16 else 1e-2
    generator = torch.Generator().manual_seed(0)
    x, y, z = (
        torch.rand([size] if size else [], generator=generator) + 0.5
        for size in (sizes[0], sizes[1], sizes[1])
    )
    x, y, z = x.to(dtype), y.bfloat16(), z.bfloat16()
    args = (x, y) if name in ("add", "sub") else (x, y, z)
    key = "alpha" if name in ("add", "sub") else "value"
    factor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = getattr(ops, name)(*args, **{key: factor})
    torch.testing.assert_close(
        found, getattr(torch, name)(*args, **{key: 0.3}), rtol=rtol, atol=0
    )


STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    **LAYOUTS,
    "columns": lambda x: x.repeat(1, 2)[:, :2],
    "channels last": lambda x: x.view(1, 3, 2, 1).contiguous(
        memory_format=torch.channels_last
    ),
}


@pytest.mark.parametrize("values", STRIDES)
@pytest.mark.parametrize("layout", STRIDES)
def test_what_is_written_into_keeps_its_strides(layout: str, values: str) -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    base = STRIDES[layout](x)
    y = STRIDES[values](torch.rand(3, 2, dtype=torch.float64, requires_grad=True))
    new = y.reshape(base.shape) if y.dim() != base.dim() else y
    kept = ops.laid_out(base, new)
    assert torch.equal(kept, new) and kept.stride() == base.stride()
    assert torch.autograd.grad(kept.sum(), y)[0].eq(1).all()
    copied = ops.copy(base, new.float())
    assert copied.stride() == base.stride() and copied.dtype == base.dtype
    if layout != "columns":
        stored = ops.setitem(base, torch.ones_like(new, dtype=torch.bool), new.sum())
        assert stored.stride() == base.stride()
