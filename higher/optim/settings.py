"""Optimizer settings as tensors: overriding them, learning them, writing them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def as_setting(value: Any) -> Any:
    """``value`` with each one-element tensor as a 0-dim one, still in its graph.

    A tensor that carries no gradient is copied, for a scheduler may write into it.
    """
    if isinstance(value, Tensor):
        if not value.requires_grad:
            value = value.clone()
        return value.reshape(()) if value.numel() == 1 and value.dim() else value
    if type(value) in (list, tuple) and any(isinstance(v, Tensor) for v in value):
        return type(value)(as_setting(v) for v in value)
    return value


def apply_override(
    groups: Sequence[dict[str, Any]],
    override: Mapping[str, Any],
    optional: Mapping[str, Any] = {},
) -> None:
    """Writes the values of ``override`` into ``groups``.

    Args:
        groups: the parameter groups, changed in place.
        override: setting name -> one value for all groups or one per group.
        optional: further settings that a group may lack.

    Raises:
        ValueError: a name that is no setting, or a wrong number of values.
        TypeError: the values are not a list.
    """
    for name, values in override.items():
        _check_name(name, groups, optional)
        values = _check_values(name, values, len(groups))
        for group, value in zip(groups, values * (len(groups) // len(values))):
            _check_shape(name, value, group.get(name))
            group[name] = as_setting(value)


def _check_name(
    name: str, groups: Sequence[dict[str, Any]], optional: Mapping[str, Any]
) -> None:
    known = {key for group in groups for key in group} | optional.keys()
    if name == "params" or name not in known:
        raise ValueError(
            f"override names {name!r}, which is no setting of this optimizer. "
            f"Its settings: {', '.join(sorted(known - {'params'}))}."
        )


def check_choices(
    optimizer: type, groups: Sequence[dict[str, Any]], choices: Mapping[str, Any]
) -> None:
    """Refuses words for a setting that ``optimizer`` was not compiled with.

    Raises:
        ValueError: which word, and what to do; nothing else would notice it.
    """
    for name, known in choices.items():
        for group in groups:
            word = group.get(name)
            if isinstance(word, str) and word not in known:
                raise ValueError(
                    f"{optimizer.__name__} doesn't know {name}={word!r}, only "
                    f"{', '.join(map(repr, known))}: its original is of another "
                    "version. Compile it anew: codegen.compile_optimizer, then "
                    "higher.register_optim."
                )


def listed(values: Any) -> Any:
    """A list of what ``override`` may hold as one: a tensor's elements along its first
    dimension, a ``torch.nn.ParameterList``, anything else that has an order."""
    if isinstance(values, Tensor):
        return list(values.unbind()) if values.dim() else values
    ordered = isinstance(values, (Sequence, nn.ParameterList))
    return list(values) if ordered and not isinstance(values, str) else values


def _check_values(name: str, values: Any, count: int) -> list[Any]:
    values = listed(values)
    if not isinstance(values, list):
        raise TypeError(
            f"override[{name!r}] must be a list of one value, or of one value per "
            f"parameter group: write [{name}], not {name}."
        )
    if len(values) not in (1, count):
        raise ValueError(
            f"override[{name!r}] has {len(values)} values for {count} parameter "
            f"group{'s' * (count != 1)}: give one for all groups, or one per group."
        )
    return values


def _check_shape(name: str, value: Any, present: Any) -> None:
    """Refuses ``{"betas": [b1, b2]}``, which gives each group one number."""
    if type(present) not in (list, tuple) or isinstance(value, Tensor) and value.dim():
        return
    if not isinstance(value, (list, tuple)) or len(value) != len(present):
        raise ValueError(
            f"each value in override[{name!r}] must be a tuple of {len(present)}, "
            f"like the optimizer's own {present!r}: write "
            f"{{{name!r}: [({', '.join(['...'] * len(present))})]}}."
        )


def get_trainable_opt_params(
    opt: torch.optim.Optimizer, device: torch.device | str | None = None
) -> dict[str, list[Any]]:
    """An ``override`` of trainable tensors for the numbers among ``opt``'s settings.

    Each float or int setting becomes a 0-dim tensor that requires grad, one per
    group, also inside tuples and lists (``betas``). Flags, None, strings and
    structures that contain them are left out, as are settings that are not
    numbers in every group.

    Args:
        opt: an optimizer; it is not changed.
        device: where the tensors are made; default: the CPU.

    Examples:
        >>> opt = torch.optim.SGD([torch.zeros(2)], lr=0.1, momentum=0.9)
        >>> override = higher.optim.get_trainable_opt_params(opt)
        >>> sorted(override)
        ['dampening', 'lr', 'momentum', 'weight_decay']
        >>> override["lr"]
        [tensor(0.1000, requires_grad=True)]
    """
    names = [name for name in opt.param_groups[0] if name != "params"]
    return {
        name: [_trainable(group[name], device) for group in opt.param_groups]
        for name in names
        if all(_is_numeric(group.get(name)) for group in opt.param_groups)
    }


def _is_numeric(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_numeric, value))
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.is_floating_point()
    return isinstance(value, (float, int)) and not isinstance(value, bool)


def _trainable(value: Any, device: torch.device | str | None) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_trainable(v, device) for v in value)
    if isinstance(value, Tensor):
        # a copy: training it must not change the optimizer's own setting
        return value.detach().reshape(()).to(device, copy=True).requires_grad_()
    return torch.tensor(float(value), device=device, requires_grad=True)


def apply_trainable_opt_params(
    opt: torch.optim.Optimizer, override: Mapping[str, Any]
) -> None:
    """Writes the values of ``override`` into ``opt``'s groups as plain numbers.

    A setting that is an int (``weight_decay=0``) stays one if its value is whole.

    Raises:
        ValueError: a name that is no setting, or a wrong number of values.

    Examples:
        >>> opt = torch.optim.SGD([torch.zeros(2)], lr=0.1)
        >>> higher.optim.apply_trainable_opt_params(opt, {"lr": [torch.tensor(0.25)]})
        >>> opt.param_groups[0]["lr"]
        0.25
    """
    numbers = {name: _numbers(listed(v)) for name, v in override.items()}
    before = [{name: group.get(name) for name in numbers} for group in opt.param_groups]
    apply_override(opt.param_groups, numbers)
    for group, held in zip(opt.param_groups, before):
        group.update({name: _like(group[name], old) for name, old in held.items()})


def _like(new: Any, old: Any) -> Any:
    """``new`` as an int where ``old`` is one and nothing is lost."""
    if isinstance(new, (list, tuple)) and isinstance(old, (list, tuple)):
        if len(new) == len(old):
            return type(new)(map(_like, new, old))
    whole = type(old) is int and isinstance(new, float) and new.is_integer()
    return int(new) if whole else new


def _numbers(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        # one-element tensors stand for numbers, also when they have a dimension
        return type(value)(
            v.item() if isinstance(v, Tensor) else _numbers(v) for v in value
        )
    return value
