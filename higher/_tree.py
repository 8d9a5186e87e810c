"""Quick walks through module trees."""

from __future__ import annotations

from torch import Tensor, nn


def modules_of(root: nn.Module) -> list[nn.Module]:
    """``list(root.modules())``, in a fraction of the time."""
    if not root._modules:
        return [root]
    found: dict[int, nn.Module] = {}
    _visit(root, found)
    return list(found.values())


def _visit(module: nn.Module, found: dict[int, nn.Module]) -> None:
    found[id(module)] = module
    for child in module._modules.values():
        if child is not None and id(child) not in found:
            _visit(child, found)


def parameters_of(root: nn.Module) -> list[Tensor]:
    """``list(root.parameters())``, in a fraction of the time."""
    if not _is_usual(type(root)) or not _LISTERS.isdisjoint(root.__dict__):
        return list(root.parameters())
    found = {
        id(p): p
        for module in modules_of(root)
        for p in module._parameters.values()
        if p is not None
    }
    return list(found.values())


_LISTERS = frozenset(
    ("parameters", "named_parameters", "_named_members", "named_modules")
)


def _is_usual(cls: type[nn.Module]) -> bool:
    """Whether the class lists parameters as all modules do."""
    usual = nn.Module
    return (
        cls.parameters is usual.parameters
        and cls.named_parameters is usual.named_parameters
        and cls._named_members is usual._named_members
        and cls.named_modules is usual.named_modules
    )
