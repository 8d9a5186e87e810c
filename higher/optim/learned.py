"""An optimizer's settings as a module, to be learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from higher.optim.settings import apply_trainable_opt_params, get_trainable_opt_params


class Settings(nn.Module, Mapping[str, "list[Any]"]):
    """Settings of an optimizer as the parameters of a module.

    So an outer optimizer, ``state_dict``, DDP and ``fully_shard`` find them, as they do
    weights. It is an ``override`` at once, with the settings in the graph::

        settings = higher.optim.Settings(opt, ["lr", "betas"])
        with higher.innerloop_ctx(model, opt, override=settings) as (fmodel, diffopt):
            ...

    A parameter has one element and the shape ``[1]``, for ``fully_shard`` takes none
    without dimensions, and is found at ``settings.groups[g].lr``, or ``.betas_0``,
    ``.betas_1`` for the elements of a tuple. What keeps a setting in its range is
    ``torch.nn.utils.parametrize.register_parametrization`` on ``settings.groups[g]``.

    Args:
        opt: an optimizer; it is not changed, and not held.
        names: which settings. Default: all that are numbers in every group, which may be
            more than a step uses: DDP wants ``find_unused_parameters`` then.
        device: where the parameters are made; default: the CPU.
        dtype: theirs; default: torch's default dtype.

    Raises:
        ValueError: a name that is no setting of ``opt``, or none that is a number.
    """

    def __init__(
        self,
        opt: torch.optim.Optimizer,
        names: Iterable[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        found = get_trainable_opt_params(opt)
        chosen = list(found if names is None else names)
        for name in chosen:
            _check(name, found, opt)
        first = opt.param_groups[0]
        self._keys = {name: _keys(name, first[name]) for name in chosen}
        self.groups = nn.ModuleList(nn.Module() for _ in opt.param_groups)
        for module, group in zip(self.groups, opt.param_groups):
            for name, keys in self._keys.items():
                for key, value in zip(_leaves(keys), _leaves(group[name])):
                    number = torch.tensor([float(value)], device=device, dtype=dtype)
                    module.register_parameter(key, nn.Parameter(number))

    def __getitem__(self, name: str) -> list[Any]:
        """The setting in each group: a tensor of shape ``[]`` in the parameters' graph, or
        a tuple or list of them."""
        keys = self._keys[name]
        return [_values(module, keys) for module in self.groups]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def apply_to(self, opt: torch.optim.Optimizer) -> None:
        """Writes the present values into ``opt``'s groups, as plain numbers.

        Raises:
            ValueError: ``opt`` has no such settings or another number of groups.
        """
        apply_trainable_opt_params(opt, self)

    def extra_repr(self) -> str:
        return ", ".join(self)


def _check(name: str, found: Mapping[str, Any], opt: torch.optim.Optimizer) -> None:
    if name not in found:
        raise ValueError(
            f"{name!r} is no setting of {type(opt).__name__} that can be learned. Those "
            f"that can: {', '.join(found)}."
        )


def _keys(name: str, value: Any) -> Any:
    """Names of parameters in the places of the numbers in ``value``."""
    if isinstance(value, (list, tuple)):
        return type(value)(_keys(f"{name}_{i}", v) for i, v in enumerate(value))
    return name


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for v in value for leaf in _leaves(v)]
    return [value]


def _values(module: nn.Module, keys: Any) -> Any:
    """The parameters that ``keys`` names, in its containers."""
    if isinstance(keys, str):
        parameter: Tensor = getattr(module, keys)
        return parameter.reshape(())
    return type(keys)(_values(module, key) for key in keys)
