"""Complex parameters as pairs of reals, for updates that treat them so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from higher._views import same


def as_real(
    groups: Sequence[dict[str, Any]],
    grads: Sequence[list[Tensor | None]],
    state: Sequence[dict[int, dict[str, Any]]],
) -> list[tuple[int, int]]:
    """Replace complex parameters, gradients and state by real views, in place.

    Returns the positions (group, parameter) of what was complex.
    """
    positions = [
        (g, i)
        for g, group in enumerate(groups)
        for i, p in enumerate(group["params"])
        if p.is_complex()
    ]
    for g, i in positions:
        groups[g]["params"][i] = _real(groups[g]["params"][i])
        grad = grads[g][i]
        if grad is not None:
            grads[g][i] = _real(grad)
        slots = state[g].get(i, {})
        for key, value in slots.items():
            if isinstance(value, Tensor) and value.is_complex():
                slots[key] = _real(value)
    return positions


def as_complex(
    groups: Sequence[dict[str, Any]],
    state: Sequence[dict[int, dict[str, Any]]],
    positions: Sequence[tuple[int, int]],
) -> None:
    """Undo :func:`as_real`; state made meanwhile in a parameter's shape goes along.
    What there is then is no view, see :mod:`higher._views`."""
    for g, i in positions:
        shape = groups[g]["params"][i].shape
        groups[g]["params"][i] = _complex(groups[g]["params"][i])
        slots = state[g].get(i, {})
        for key, value in slots.items():
            if isinstance(value, Tensor) and value.shape == shape:
                slots[key] = _complex(value)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj())


def _complex(x: Tensor) -> Tensor:
    return same([torch.view_as_complex(x.contiguous())])[0]
