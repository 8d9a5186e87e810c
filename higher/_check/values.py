"""Settings and state of two optimizers: taken over from one to the other, compared."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

ABSENT: Any = object()
"""Where one of the two has nothing."""

Copies = list[tuple[Tensor, Tensor]]
"""Tensors to be written into, and what is to be written."""


class Gap(NamedTuple):
    """Where two values are unlike: the way there (``"exp_avg"``, ``"sides[0]"``), what
    the original has, what the differentiable optimizer has, and what both started
    from."""

    key: str
    expected: Any
    got: Any
    before: Any


class Refused(ValueError):
    """A setting that an original can't be given."""


# --- taking over --------------------------------------------------------------------


def taken(mine: Any, theirs: Any, copies: Copies, number: bool = False) -> Any:
    """``theirs``, detached, in the form of ``mine``.

    What can be is written into ``mine``, which may be known by other names: containers
    at once, tensors later, by ``copies``. ``number``: what is no tensor in ``mine`` is
    a number, whatever ``theirs`` is.
    """
    if isinstance(theirs, Tensor):
        if isinstance(mine, Tensor) and mine.shape == theirs.shape:
            if mine.dtype == theirs.dtype and mine.layout == theirs.layout:
                copies.append((mine, theirs))
                return mine
        return _tensor_taken(mine, theirs, number)
    if isinstance(mine, Tensor) and isinstance(theirs, (int, float)):
        mine.fill_(theirs)
        return mine
    if isinstance(theirs, Mapping):
        return _mapping_taken(mine, theirs, copies, number)
    if type(theirs) in (list, tuple, deque):
        return _sequence_taken(mine, theirs, copies, number)
    return theirs if _is_value(theirs) or mine is ABSENT else mine


def _tensor_taken(mine: Any, theirs: Tensor, number: bool) -> Any:
    if isinstance(mine, Tensor):
        if mine.numel() == theirs.numel() == 1:
            return theirs.detach().reshape(mine.shape).clone()
    elif theirs.numel() == 1 and (number or isinstance(mine, (int, float))):
        value = theirs.item()
        whole = type(mine) is int and value == int(value)
        return int(value) if whole else value
    elif number and type(mine) in (list, tuple) and theirs.shape == (len(mine),):
        return type(mine)(theirs.tolist())
    elif number:
        raise Refused(f"a tensor of shape {tuple(theirs.shape)}")
    return theirs.detach().clone()


def _mapping_taken(
    mine: Any, theirs: Mapping[Any, Any], copies: Copies, number: bool
) -> Any:
    theirs = _by_numbers(theirs)
    if isinstance(mine, dict) and _by_tensors(theirs):
        # those of the original's own parameters, in the same order
        theirs = dict(zip(mine, theirs.values()))
    new = mine if isinstance(mine, dict) else {}
    for key in [k for k in new if k not in theirs]:
        del new[key]
    for key, value in theirs.items():
        new[key] = taken(new.get(key, ABSENT), value, copies, number)
    return new


def _sequence_taken(
    mine: Any, theirs: Sequence[Any], copies: Copies, number: bool
) -> Any:
    known = list(mine) if type(mine) in (list, tuple, deque) else []
    known += [ABSENT] * (len(theirs) - len(known))
    parts = [taken(m, t, copies, number) for m, t in zip(known, theirs)]
    if type(mine) is list:
        mine[:] = parts
        return mine
    if isinstance(theirs, deque):
        return deque(parts, theirs.maxlen)
    kind: Any = type(theirs)
    return kind(parts)


def formed(own: Any, theirs: Any) -> Any:
    """``theirs`` with numbers in place of tensors where ``own`` has no tensor."""
    if isinstance(theirs, Tensor):
        number = theirs.numel() == 1 and not isinstance(own, Tensor)
        return theirs.item() if number and own is not ABSENT else theirs
    if isinstance(own, Mapping) and isinstance(theirs, Mapping):
        theirs = _by_numbers(theirs)
        return {k: formed(own.get(k, ABSENT), v) for k, v in theirs.items()}
    if _is_sequence(own) and type(theirs) in (list, tuple) and len(own) == len(theirs):
        return type(theirs)(formed(o, t) for o, t in zip(own, theirs))
    return theirs


def _by_numbers(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """With numbers in place of keys that are settings."""
    if not _by_tensors(mapping):
        return mapping
    return {
        k.item() if isinstance(k, Tensor) and k.dim() == 0 else k: v
        for k, v in mapping.items()
    }


def _by_tensors(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, Tensor) for key in mapping)


def write(copies: Copies) -> None:
    """What is the same memory by two names is written twice."""
    if not copies:
        return
    into, values = zip(*copies)
    with torch.no_grad():
        torch._foreach_copy_(into, values)


def _is_value(x: Any) -> bool:
    return x is None or isinstance(
        x, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)
    )


# --- comparing ----------------------------------------------------------------------


def gaps(expected: Any, got: Any, before: Any, key: str = "") -> Iterator[Gap]:
    """Leaves in which the two differ by so much as a bit; numbers may be tensors."""
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        if not equal(expected, got):
            yield Gap(key, expected, got, before)
    elif isinstance(expected, Mapping) and isinstance(got, Mapping):
        got = _by_numbers(got)
        if _by_tensors(expected) and len(expected) == len(got):
            yield from gaps([*expected.values()], [*got.values()], before, key)
            return
        old = _by_numbers(before) if isinstance(before, Mapping) else {}
        for k in [*expected, *(k for k in got if k not in expected)]:
            e, g = expected.get(k, ABSENT), got.get(k, ABSENT)
            yield from gaps(e, g, old.get(k, ABSENT), f"{key}[{k!r}]")
    elif _is_sequence(expected) and _is_sequence(got) and len(expected) == len(got):
        old = before if _is_sequence(before) and len(before) == len(got) else expected
        for i, (e, g, o) in enumerate(zip(expected, got, old)):
            yield from gaps(e, g, o, f"{key}[{i}]")
    elif _is_sequence(expected) and isinstance(got, Tensor) and got.dim() == 1:
        yield from gaps(expected, [*got], before, key)
    elif expected is not got and not _same(expected, got):
        yield Gap(key, expected, got, before)


def equal(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.layout is not torch.strided or b.layout is not torch.strided:
        return False
    return torch.equal(a, b if a.device == b.device else b.to(a.device))


def _same(a: Any, b: Any) -> bool:
    """Of what is no container: equal numbers, or the same thing."""
    if is_number(a) and is_number(b):
        a, b = plain(a), plain(b)
        return bool(a == b or (a != a and b != b))
    if type(a) is not type(b) or isinstance(a, Tensor):
        return False
    # things of their own kind are copied for each of the two: nothing can be said
    return not _is_value(a) or bool(a == b)


def is_number(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x.numel() == 1 and x.layout is torch.strided
    return isinstance(x, (int, float))


def plain(x: Any) -> Any:
    return x.item() if isinstance(x, Tensor) else x


def _is_sequence(x: Any) -> bool:
    return isinstance(x, (list, tuple, deque))


class Size(NamedTuple):
    """Of a difference: absolute, at which element, and what may be rounding."""

    off: float
    at: tuple[int, ...]
    limit: float


UNLIKE = Size(math.inf, (), 0.0)
"""Of things that have no difference: of other shapes or dtypes, or one is missing."""


def size(gap: Gap, eps: float, within: float | None = None) -> Size:
    """How far the two are apart, and how far rounding may take them.

    Both start a step from the same values. Some operations in another order make a
    few units in the last place of what there is; where numbers cancel, half of the
    digits of what has changed.

    Args:
        gap: a place where the two differ.
        eps: that of the coarsest dtype in which it is kept.
        within: that of the coarsest in which the change is computed; default: ``eps``.
    """
    if not (_comparable(gap.expected) and _comparable(gap.got)):
        return UNLIKE
    e, g = _wide(gap.expected), _wide(gap.got)
    if _both_tensors(gap) and gap.expected.dtype != gap.got.dtype:
        return UNLIKE
    if e.shape != g.shape and (_both_tensors(gap) or e.numel() != g.numel()):
        return UNLIKE
    g = g.reshape(e.shape)
    off = torch.where((e == g) | (e.isnan() & g.isnan()), 0.0, (e - g).abs())
    off = off.nan_to_num(nan=math.inf)
    if not off.numel():
        return Size(0.0, (), 0.0)
    old = _wide(gap.before) if _comparable(gap.before) else torch.zeros_like(e)
    old = old.reshape(e.shape) if old.numel() == e.numel() else torch.zeros_like(e)
    worst = off.argmax()
    at = tuple(int(i) for i in torch.unravel_index(worst, off.shape))
    share = max(math.sqrt(eps if within is None else within), _SHORT_FLOATS)
    change = share * _largest(e - old)
    limit = 2 * eps * _largest(e, old) + change
    return Size(float(off.reshape(-1)[worst]), at, limit)


_SHORT_FLOATS = 1e-6
"""Of a change, what a double may differ by: some compute it from floats on purpose."""


def _comparable(x: Any) -> bool:
    return isinstance(x, (Tensor, int, float))


def _both_tensors(gap: Gap) -> bool:
    return isinstance(gap.expected, Tensor) and isinstance(gap.got, Tensor)


def _wide(x: Any) -> Tensor:
    """A dense copy on the CPU, in double precision."""
    t = x.detach() if isinstance(x, Tensor) else torch.tensor(x)
    t = t.to_dense() if t.layout is not torch.strided else t
    return t.to("cpu", torch.complex128 if t.is_complex() else torch.float64)


def _largest(*tensors: Tensor) -> float:
    return max(
        float(t.abs().nan_to_num(posinf=0.0).max()) if t.numel() else 0.0
        for t in tensors
    )
