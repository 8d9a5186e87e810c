"""Quick walks through module trees."""

from __future__ import annotations

from torch import Tensor, nn


def modules_of(root: nn.Module) -> list[nn.Module]:
    """``list(root.modules())``, in a fraction of the time."""
    found: dict[int, nn.Module] = {}
    _visit(root, found)
    return list(found.values())


def _visit(module: nn.Module, found: dict[int, nn.Module]) -> None:
    found[id(module)] = module
    for child in module._modules.values():
        if child is not None and id(child) not in found:
            _visit(child, found)


_LISTERS = ("parameters", "named_parameters", "_named_members", "named_modules")


def parameters_of(root: nn.Module) -> list[Tensor]:
    """``list(root.parameters())``, in a fraction of the time."""
    cls = type(root)
    for name in _LISTERS:
        if getattr(cls, name) is not getattr(nn.Module, name) or name in root.__dict__:
            return list(root.parameters())
    found = {
        id(p): p
        for module in modules_of(root)
        for p in module._parameters.values()
        if p is not None
    }
    return list(found.values())
