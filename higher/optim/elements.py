"""Settings of several elements: one for each element of a parameter, as in Meta-SGD
(Li et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from higher._carry import tensors_in
from higher.optim.settings import listed
from higher.optim.state import settings_of

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


def check_elements(
    optimizer: DifferentiableOptimizer, override: Mapping[str, Any]
) -> None:
    """Refuses settings of several elements where there is no such thing.

    Args:
        optimizer: which will have the settings. One that is written by hand may do with
            them whatever it likes.
        override: setting name -> one value for all groups or one per group.

    Raises:
        ValueError: the update is none of each element by itself, or a setting does not
            fit every parameter of its group.
    """
    if not _of_numbers(type(optimizer)) or getattr(optimizer, "_tasks", None):
        return  # with tasks they may be one for each
    for name, each in override.items():
        values = listed(each)
        if not isinstance(values, list):
            continue
        for number, group in enumerate(optimizer.param_groups):
            if _of_several(group.get(name)):
                continue  # it is no number in the original either
            for setting in _of_several(values[number % len(values)] if values else ()):
                _check(optimizer, number, group["params"], name, setting)


def _of_numbers(kind: type) -> bool:
    """Whether the settings of this class are numbers in the original optimizer."""
    owner = next(c for c in kind.__mro__ if "_update" in vars(c))
    return "_elementwise" in vars(owner) or owner.__module__.startswith(
        "higher._generated."
    )


def _check(
    optimizer: DifferentiableOptimizer,
    number: int,
    params: Sequence[Tensor],
    name: str,
    setting: Tensor,
) -> None:
    kind = type(optimizer)
    what = f"override[{name!r}] of shape {tuple(setting.shape)}"
    owner = next(c for c in kind.__mro__ if "_update" in vars(c))
    if not vars(owner).get("_elementwise"):
        raise ValueError(
            f"{what}: {kind.__name__} does not update each element by itself, so its "
            "settings are numbers: pass tensors of one element, for each group its own."
        )
    if optimizer._complex_as_real and any(p.is_complex() for p in params):
        raise ValueError(
            f"{what}: group {number} has complex parameters, which are updated as pairs "
            "of reals; pass tensors of one element for these."
        )
    for k, p in enumerate(params):
        if not _fits(setting, p):
            raise ValueError(
                f"{what} does not fit parameter {k} of group {number}, which has shape "
                f"{tuple(p.shape)}. For settings of the parameters' shapes make a group "
                "for each parameter, [{'params': [p]} for p in model.parameters()], and "
                "give one value per group."
            )


def _fits(setting: Tensor, param: Tensor) -> bool:
    """Whether it can be spread over the parameter without making it larger."""
    pairs = zip(reversed(setting.shape), reversed(param.shape))
    return setting.dim() <= param.dim() and all(n in (1, size) for n, size in pairs)


def _of_several(setting: Any) -> list[Tensor]:
    return [t for t in tensors_in(setting) if t.numel() > 1]


@contextmanager
def explained(groups: Sequence[Mapping[str, Any]], optimizer: type) -> Iterator[None]:
    """Says of an update that fails for such a setting that it does.

    Raises:
        ValueError: which settings there were.
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:
        found = {
            name
            for group in groups
            for name, value in settings_of(group).items()
            if _of_several(value)
        }
        shapes = any(word in str(error) for word in _OF_SHAPES)
        if not (found and shapes and _of_numbers(optimizer)):
            raise
        raise ValueError(
            f"{optimizer.__name__} can't take a tensor of several elements for "
            f"{' and '.join(sorted(found))}: something that it decides or counts by "
            f"that is one number for the whole parameter ({error}). Pass tensors of one "
            "element, for each group its own."
        ) from error


_OF_SHAPES = ("ambiguous", "element", "shape", "size", "dimension", "broadcast")
"""Words of torch's errors about tensors where numbers should be."""
