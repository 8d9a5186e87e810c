"""One file of Python as it is read: what its top level binds, and to what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import libcst as cst

from codegen.diagnostics import children, walk
from codegen.syntax import dotted, string_key


@dataclass(frozen=True)
class Import:
    """A name bound by an import: a module, or (``attr``) something inside one."""

    module: str
    attr: str | None = None


@dataclass(frozen=True, eq=False)
class Unsettled:
    """A name of which the source doesn't tell what it means; ``node`` is why.

    ``later``: not even whoever imports it once the module has been run gets what it
    means everywhere and for good.
    """

    node: cst.CSTNode
    later: bool = False


Binding: TypeAlias = (
    "cst.FunctionDef | cst.ClassDef | cst.BaseExpression | Import | Unsettled"
)


@dataclass(eq=False)
class SourceModule:
    """One parsed file and what its top level binds."""

    name: str
    file: str
    tree: cst.Module
    is_package: bool = False
    bindings: dict[str, Binding] = field(default_factory=dict)
    stars: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    """Modules all of whose names are bound, and the names that were bound before."""

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Definition:
    """What a name means: a node and the module it stands in."""

    module: SourceModule
    name: str
    node: cst.FunctionDef | cst.ClassDef | cst.BaseExpression

    @property
    def full_name(self) -> str:
        return f"{self.module.name}.{self.name}"

    @property
    def is_method(self) -> bool:
        return "." in self.name


@dataclass(frozen=True)
class External:
    """Something outside the sources that are read, such as ``torch.sqrt``; or inside,
    where only running them tells what it is."""

    full_name: str
    unsettled: Unsettled | None = field(default=None, compare=False)


Resolved: TypeAlias = "Definition | SourceModule | External"


def absolute(module: SourceModule, node: cst.ImportFrom) -> str:
    name = dotted(node.module) if node.module is not None else ""
    if not node.relative:
        return name or ""
    package = module.package
    for _ in range(len(node.relative) - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{name}" if name else package


def bound_later(module: SourceModule) -> dict[str, Unsettled]:
    """Names of a module that functions bind, or what reaches into its dictionary.

    Of ``globals()`` that is read, nothing is bound; of what is done to it under a
    known name, only that is.
    """
    found: dict[str, Unsettled] = {}
    parents = {c: n for n in walk(module.tree) for c in children(n)}
    for node in walk(module.tree):
        if isinstance(node, cst.Global):
            names = {str(item.name.value) for item in node.names}
        elif isinstance(node, cst.Call) and dotted(node.func) in _REACHING:
            names = _bound_through(node, parents, set(module.bindings))
        else:
            continue
        found.update({name: Unsettled(node, later=True) for name in names})
    return found


_REACHING = ("globals", "vars", "locals", "exec")


def _bound_through(
    node: cst.Call, parents: Mapping[cst.CSTNode, cst.CSTNode], names: set[str]
) -> set[str]:
    """Names that may be bound by what is done with ``globals()``."""
    whole = parents.get(node)
    if dotted(node.func) == "vars" and node.args:
        return set()
    if isinstance(whole, cst.Attribute) and whole.attr.value in _ASKING:
        return set()
    if isinstance(whole, cst.Subscript) and whole.value is node:
        stored = isinstance(
            parents.get(whole), (cst.AssignTarget, cst.AugAssign, cst.Del)
        )
        key = string_key(whole)
        if not stored or key is not None:
            return {key} if stored and key is not None else set()
    return names


_ASKING = frozenset({"get", "items", "keys", "values", "copy"})
