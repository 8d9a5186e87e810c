"""Parts of tensors: what writing into them leaves in the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, TypeVar

import torch
from torch import Tensor

from higher._scalars import Scalar, as_tensor_like, is_transformed, known
from higher._strides import laid_out
from higher._tracing import is_tracing


def setitem(input: Tensor, index: Any, value: Scalar) -> Tensor:
    """What ``input[index] = value`` leaves in ``input``."""
    masks = isinstance(index, Tensor) and index.dtype == torch.bool
    if masks and (not isinstance(value, Tensor) or value.dim() == 0):
        if isinstance(value, Tensor):
            value = value.to(dtype=input.dtype, device=input.device)
        mask = index.reshape(index.shape + (1,) * (input.dim() - index.dim()))
        if not isinstance(value, Tensor):
            return laid_out(input, input.masked_fill(mask, value))
        return laid_out(input, torch.where(mask, value, input))
    if _may_repeat(index):
        return _set_items(input, index, value)
    result = input.clone()
    result[index] = value
    return result


def _may_repeat(index: Any) -> bool:
    """Whether an index may name an element twice: the last value stays, alone."""
    parts = index if isinstance(index, tuple) else (index,)
    numbers = (p for p in parts if isinstance(p, (Tensor, list)))
    return any(not isinstance(p, Tensor) or p.dtype != torch.bool for p in numbers)


def _set_items(input: Tensor, index: Any, value: Scalar) -> Tensor:
    """``setitem`` whose derivative leaves out values that others were written over."""
    sources = torch.full(input.shape, -1, device=input.device)
    shape = sources[index].shape
    count = shape.numel()
    sources[index] = torch.arange(count, device=input.device).view(shape)
    if not isinstance(value, Tensor):
        return laid_out(input, input.masked_fill(sources >= 0, value))
    parts = value.to(input).expand(shape).reshape(-1)
    if count == 0:
        return input.clone()
    chosen = torch.where(sources >= 0, parts[sources.clamp(min=0)], input)
    return laid_out(input, chosen)


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Scalar, **options: Any
) -> Tensor:
    """``torch.scatter`` of a tensor or a number that may be a tensor."""
    if not isinstance(src, Tensor) or src.dim():
        return torch.scatter(input, dim, index, src, **options)
    source = as_tensor_like(src, input).expand(index.shape)
    return torch.scatter(input, dim, index, source, **options)


def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Scalar = 1
) -> Tensor:
    """``torch.index_add`` that keeps the gradient of ``alpha``."""
    number = known(alpha)
    if number is not None:
        return torch.index_add(input, dim, index, source, alpha=number)
    return torch.index_add(input, dim, index, source * as_tensor_like(alpha, source))


def fill_diagonal(input: Tensor, fill_value: Scalar, wrap: bool = False) -> Tensor:
    """What ``input.fill_diagonal_(fill_value)`` leaves in ``input``."""
    diagonal = torch.zeros_like(input, dtype=torch.bool).fill_diagonal_(True, wrap)
    if isinstance(fill_value, Tensor):
        return torch.where(diagonal, as_tensor_like(fill_value, input), input)
    return input.masked_fill(diagonal, fill_value)


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """
    Raises:
        RuntimeError: a step is being traced, where tensors have no memory.
    """
    if is_tracing():
        raise RuntimeError(
            "it asks whether two tensors share memory, which can't be told while a step "
            "is traced (Muon does for parameters in bfloat16). Leave out compile=True."
        )
    return _storage_of(a) == _storage_of(b)


def _storage_of(x: Tensor) -> int:
    while is_transformed(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.untyped_storage().data_ptr()


Base = TypeVar("Base", Tensor, Optional[Tensor])


def write_through(base: Base, view: Tensor, new: Tensor) -> Base:
    """``base`` after ``view`` was overwritten with ``new``, as far as they show the same
    memory; ``base`` itself where they share none, or where it is None.

    Raises:
        RuntimeError: ``view`` reads the bits of ``base`` as another dtype.
    """
    if base is None:
        return base
    if view.dtype != base.dtype and not (base.is_complex() or view.is_complex()):
        return base  # a cast: bits read as another dtype are refused where it compiles
    if torch.strided is not base.layout or torch.strided is not view.layout:
        return _of_sparse(base, view, new)
    if not _share_memory(base, view):
        return base
    if view.is_conj():
        return write_through(base, view.conj(), new.conj())
    if base.is_conj():
        return write_through(base.conj(), view, new).conj()
    if view.is_neg():
        return write_through(base, torch._neg_view(view), -new)
    if view.dtype != base.dtype:
        return _of_complex(base, view, new)
    offset = int(view.storage_offset() - base.storage_offset())
    if offset == 0 and view.size() == base.size() and view.stride() == base.stride():
        return new
    sources = _sources(base, view, offset).to(base.device)
    written = sources >= 0
    if not bool(written.any()):
        return base
    # torch.as_strided_scatter would do, but for its derivative: it lets the gradient
    # of what is overwritten through
    parts = new.to(base.dtype).expand_as(view).reshape(-1)[sources.clamp(min=0)]
    return torch.where(written, parts, base)


def _of_sparse(base: Tensor, view: Tensor, new: Tensor) -> Tensor:
    """The same where one of them is sparse: a view is its values, or itself."""
    if view is base:
        return new
    if torch.sparse_coo is not base.layout or torch.strided is not view.layout:
        return base
    if not base.is_coalesced():
        return base  # its values can't be asked for
    values = base.values()
    written = write_through(values, view, new)
    if written is values:
        return base
    return torch.sparse_coo_tensor(
        base.indices(), written, base.size(), is_coalesced=True
    )


def _of_complex(base: Tensor, view: Tensor, new: Tensor) -> Tensor:
    """The same for the real or imaginary part of a complex tensor, or for a complex
    view of pairs of reals."""
    if base.is_complex() and view.dtype == base.real.dtype:
        pairs = write_through(torch.view_as_real(base), view, new)
        return torch.view_as_complex(pairs)
    if view.is_complex() and base.dtype == view.real.dtype:
        return write_through(base, torch.view_as_real(view), torch.view_as_real(new))
    raise RuntimeError(
        f"A view of {view.dtype} is written into, which shows the bits of a tensor of "
        f"{base.dtype}: compute with numbers, not with their bits."
    )


def write_through_all(bases: Sequence[Base], view: Tensor, new: Tensor) -> list[Base]:
    """:func:`write_through` for each; those that are one tensor stay one."""
    written = {id(base): write_through(base, view, new) for base in bases}
    return [written[id(base)] for base in bases]


def _sources(base: Tensor, view: Tensor, offset: int) -> Tensor:
    """Which element of ``view.flatten()`` each element of ``base`` is; -1 for none."""
    start = min(offset, 0)
    reach = max(_reach(base) - start, offset - start + _reach(view))
    memory = torch.full((reach,), -1)
    shown = memory.as_strided(view.size(), view.stride(), offset - start)
    shown.copy_(torch.arange(view.numel()).view(view.size()))
    return memory.as_strided(base.size(), base.stride(), -start)


def _reach(x: Tensor) -> int:
    """How far into memory ``x`` reaches from its first element."""
    if x.numel() == 0:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(x.size(), x.stride()))
