"""Modules that can't be made stateless, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from higher._fsdp import sharded_parameter
from higher._object_graph import UNNAMED, path_to
from higher._tree import modules_of, parameters_of

_DDP = (
    "synchronizes the gradients of what runs in its own forward. Wrap a module whose "
    "forward runs the inner loop and returns the outer loss; there, pass the module "
    "inside. Or pass model.module, and average the gradients of the outer loss over "
    "ranks yourself, as DDP does: for p in model.parameters(): "
    "torch.distributed.all_reduce(p.grad); p.grad /= torch.distributed.get_world_size()."
)
_FSDP1 = (
    "holds its weights as parts of flat tensors. Use "
    "torch.distributed.fsdp.fully_shard instead, and run the inner loop in the forward "
    "of the module that it is given."
)
_FSDP1_CLASS = "torch.distributed.fsdp.fully_sharded_data_parallel."
_SHARDED = (
    "is sharded by fully_shard, so that this rank has a part of it. An inner loop needs "
    "it whole: run it in the forward of the module that fully_shard was given, where "
    "weights are gathered. Modules inside that were given to fully_shard by themselves "
    "gather theirs in their own forward: at the start of the outer one, call unshard() "
    "on each of them (for m in model.modules(): if isinstance(m, FSDPModule))."
)


def check_modules(root: nn.Module) -> None:
    """Refuses a tree that can't be cloned into a stateless module.

    Raises:
        TypeError: saying what to do instead.
    """
    seen: set[type] = set()
    for module in modules_of(root):
        if type(module) not in seen:
            reason = _reason(module)
            if reason is not None:
                name = _name(root, module)
                where = f"The module {name!r}" if name else "The module"
                raise TypeError(f"{where} ({type(module).__name__}) {reason}")
            seen.add(type(module))
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if type(tensor) in (UninitializedParameter, UninitializedBuffer):
                    raise TypeError(
                        f"{f'{_name(root, module)}.{key}'.lstrip('.')!r} is not "
                        "initialized yet: call the model once on an example input "
                        "before making it stateless."
                    )
    sharded = sharded_parameter(root)
    if sharded is not None:
        raise TypeError(f"The parameter {sharded!r} {_SHARDED}")


def refuse_holder(root: nn.Module, holders: Sequence[Any]) -> NoReturn:
    """Refuses a tree for what holds a weight where no other can be put: of several, the
    first that the tree leads to by names.

    Raises:
        TypeError: saying where, and what to do instead.
    """
    paths = [path_to(root, holder) for holder in holders]
    named = (n for n, path in enumerate(paths) if not path.startswith(UNNAMED))
    number = next(named, 0)
    holder, path = holders[number], paths[number]
    keyed = isinstance(holder, (dict, set, frozenset))
    raise TypeError(
        f"{path} ({type(holder).__name__}) holds a parameter of "
        f"{type(root).__name__}"
        + (", or its id, as a key or member. " if keyed else ". ")
        + "Every step has new weights, which can't be put there: it would go on with "
        "the initial ones. "
        + (
            "Use the parameter's name instead of it."
            if keyed
            else "Hold the parameter in an attribute of a module or of a plain object, "
            "in a list or in a dict; or hold its name, and use "
            "getattr(module, name) in forward."
        )
    )


def check_hooks(root: nn.Module) -> None:
    """Refuses hooks on parameters: weights that are copies of those don't have them.

    Raises:
        TypeError: saying what to do instead.
    """
    hooked = {id(p) for p in parameters_of(root) if _has_hooks(p)}
    if hooked:
        name = next(n for n, p in root.named_parameters() if id(p) in hooked)
        raise TypeError(
            f"The parameter {name!r} has a hook (register_hook or "
            "register_post_accumulate_grad_hook), which inner steps would leave "
            "out. Remove it, and change gradients in grad_callback instead, which "
            "gets the list of them: diffopt.step(loss, grad_callback=...). A hook "
            "for the outer gradient can be registered after this call."
        )


def _has_hooks(p: Tensor) -> bool:
    return p.requires_grad and bool(p._backward_hooks or p._post_accumulate_grad_hooks)


def _name(root: nn.Module, module: nn.Module) -> str:
    names: dict[nn.Module, str] = {m: name for name, m in root.named_modules()}
    return names[module]


def _reason(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "is compiled by torch.jit, which hides its weights. Pass the Python "
            "module that it was made from."
        )
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return _DDP
    names = {f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__}
    if any(n.startswith(_FSDP1_CLASS) for n in names):
        return _FSDP1
    if "torch._dynamo.eval_frame.OptimizedModule" in names:
        return (
            "is compiled by torch.compile, and would run the original weights. "
            "Pass the module inside: model._orig_mod."
        )
    return None
