"""Inner loops and ``torch.distributed.fsdp.fully_shard``.

It gives a module another class, hooks that gather its weights before a forward and let
go of them afterwards, and a state that both share. A stateless module has weights of its
own, which nobody gathers: it is made without all that, from weights that are whole.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

_PACKAGE = "torch.distributed.fsdp"
_MANAGED = "_is_fsdp_managed_module"
_STATE = "__composable_api_state_key"


def _sharding_class() -> type | None:
    """``FSDPModule``, from which sharded modules' classes are derived."""
    found = getattr(sys.modules.get(_PACKAGE), "FSDPModule", None)
    return found if isinstance(found, type) else None


def is_sharding(cls: type) -> bool:
    """Whether ``fully_shard`` made this class of a module's own."""
    base = _sharding_class()
    return base is not None and issubclass(cls, base)


def original_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that a module had before ``fully_shard``."""
    if not is_sharding(cls):
        return cls
    # [the new one, FSDPModule, the module's own, ...]
    own: type[nn.Module] = cls.__mro__[getattr(cls, "_orig_cls_mro_index", 2)]
    return own


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of ``module`` without those of ``fully_shard``, and its hooks
    without the ones that gather weights and let them go."""
    attributes = module.__dict__
    if _sharding_class() is None:
        return attributes
    return {
        name: _own_hooks(value) if type(value) is OrderedDict and value else value
        for name, value in attributes.items()
        if not name.startswith(_STATE) and name != _MANAGED
    }


def _own_hooks(hooks: OrderedDict[Any, Any]) -> OrderedDict[Any, Any]:
    """Without those of ``fully_shard``; itself where there are none of them."""
    own = OrderedDict(
        (key, hook)
        for key, hook in hooks.items()
        if not str(getattr(hook, "__module__", "")).startswith(f"{_PACKAGE}.")
    )
    return hooks if len(own) == len(hooks) else own


def sharded_parameter(root: nn.Module) -> str | None:
    """The name of a parameter that this rank has a part of only, by ``fully_shard``."""
    if _sharding_class() is None:
        return None
    shards = _shards()
    for name, p in root.named_parameters() if shards else ():
        if id(p) in shards:
            return name
    return None


def is_shard(p: object) -> bool:
    """Whether ``p`` stands for this rank's part of a parameter."""
    return _sharding_class() is not None and id(p) in _shards()


def refuse_written(params: Iterable[Tensor]) -> None:
    """Refuses to write into weights that ``fully_shard`` has charge of.

    Raises:
        TypeError: one is this rank's part, or gathered for a while.
    """
    kept = gathered() | _shards() if _sharding_class() is not None else set()
    if any(id(p) in kept for p in params):
        raise TypeError(
            "Weights of a module that fully_shard shards can't be written back: they are "
            "parts, or gathered for the time of a forward, and what is written then is "
            "lost. Keep the adapted weights themselves, fmodel.state_dict()."
        )


def gathered() -> set[int]:
    """The ``id`` of each parameter whose memory ``fully_shard`` has charge of."""
    if _sharding_class() is None:
        return set()
    return {id(getattr(p, "_unsharded_param", None)) for p in _params()} - {id(None)}


def _shards() -> set[int]:
    """The ``id`` of each parameter that stands for its part on this rank."""
    found: set[int] = set()
    for param in _params():
        found.add(id(param.sharded_param))
        found.add(id(getattr(param, "_sharded_post_forward_param", None)))
    return found - {id(None)}


def _params() -> Iterator[Any]:
    """All that ``fully_shard`` shards in this process."""
    composable: Any = sys.modules.get("torch.distributed._composable_state")
    known = getattr(composable, "_module_state_mapping", {})
    for reference in list(known.values()):
        state: Any = reference() if callable(reference) else reference
        for group in _groups(state):
            yield from group.fsdp_params


def _groups(state: Any) -> list[Any]:
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # torch 2.6 to 2.10 have one
        groups = [getattr(state, "_fsdp_param_group", None)]
    return [group for group in groups if group is not None]
