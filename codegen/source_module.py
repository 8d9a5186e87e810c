"""One file of Python as it is read: what its top level binds, and to what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import libcst as cst

from codegen.syntax import dotted, statements


@dataclass(frozen=True)
class Import:
    """A name bound by an import: a module, or (``attr``) something inside one."""

    module: str
    attr: str | None = None


Binding: TypeAlias = "cst.FunctionDef | cst.ClassDef | cst.BaseExpression | Import"


@dataclass(eq=False)
class SourceModule:
    """One parsed file and what its top level binds."""

    name: str
    file: str
    tree: cst.Module
    is_package: bool = False
    bindings: dict[str, Binding] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

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
    """Something outside the sources that are read, such as ``torch.sqrt``."""

    full_name: str


Resolved: TypeAlias = "Definition | SourceModule | External"


def bind(module: SourceModule, body: Sequence[cst.CSTNode]) -> None:
    for node in body:
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            module.bindings[node.name.value] = node
        elif isinstance(node, (cst.If, cst.Try)):
            # a later branch is the fallback: the first binding is the usual one
            for inner in _branches(node):
                before = dict(module.bindings)
                bind(module, statements(inner))
                module.bindings.update(before)
        elif isinstance(node, cst.SimpleStatementLine):
            _bind_small(module, node.body[0])


def _branches(node: cst.If | cst.Try) -> Iterator[cst.BaseSuite]:
    yield node.body
    if isinstance(node, cst.If):
        if isinstance(node.orelse, cst.If):
            yield from _branches(node.orelse)
        elif node.orelse is not None:
            yield node.orelse.body
        return
    for handler in node.handlers:
        yield handler.body
    if node.orelse is not None:
        yield node.orelse.body


def _bind_small(module: SourceModule, node: cst.BaseSmallStatement) -> None:
    if isinstance(node, cst.Assign):
        for target in node.targets:
            if isinstance(target.target, cst.Name):
                module.bindings[target.target.value] = node.value
    elif isinstance(node, cst.AnnAssign):
        if isinstance(node.target, cst.Name) and node.value is not None:
            module.bindings[node.target.value] = node.value
    elif isinstance(node, cst.Import):
        for alias in node.names:
            _bind_import(module, alias)
    elif isinstance(node, cst.ImportFrom):
        _bind_import_from(module, node)


def _bind_import(module: SourceModule, alias: cst.ImportAlias) -> None:
    name = dotted(alias.name) or ""
    if alias.asname is not None:
        module.bindings[cast(cst.Name, alias.asname.name).value] = Import(name)
    else:
        top = name.partition(".")[0]
        module.bindings[top] = Import(top)


def _bind_import_from(module: SourceModule, node: cst.ImportFrom) -> None:
    source = _absolute(module, node)
    if isinstance(node.names, cst.ImportStar):
        module.stars.append(source)
        return
    for alias in node.names:
        name = cast(cst.Name, alias.name).value
        bound = cast(cst.Name, alias.asname.name).value if alias.asname else name
        module.bindings[bound] = Import(source, name)


def _absolute(module: SourceModule, node: cst.ImportFrom) -> str:
    name = dotted(node.module) if node.module is not None else ""
    if not node.relative:
        return name or ""
    package = module.package
    for _ in range(len(node.relative) - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{name}" if name else package
