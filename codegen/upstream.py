"""An optimizer as upstream wrote it: its class, bases, and what of them was read."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import libcst as cst

from codegen import misnamed
from codegen.command_line import split
from codegen.diagnostics import Origins, misuse, walk
from codegen.library import BASE as BASE
from codegen.library import Absent as Absent
from codegen.library import Library as Library
from codegen.source_module import Binding, Unsettled
from codegen.source_module import Definition as Definition
from codegen.source_module import External as External
from codegen.source_module import Import as Import
from codegen.source_module import Resolved as Resolved
from codegen.source_module import SourceModule as SourceModule
from codegen.source_tree import SourceTree
from codegen.stores import given_to_self
from codegen.substitution import substitute
from codegen.syntax import code, dotted, statements

# --- what is translated ------------------------------------------------------


@dataclass
class Upstream:
    """An optimizer as upstream wrote it, and every function the compiler read."""

    library: Library
    target: str
    cls: Definition
    lineage: list[Definition]
    reads: dict[str, cst.CSTNode] = field(default_factory=dict)
    of_self: dict[cst.CSTNode, cst.FunctionDef] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return cast(cst.ClassDef, self.cls.node).name.value

    def method(self, name: str, after: Definition | None = None) -> Definition | None:
        """The method that ``self.name`` finds; ``after`` a class, as ``super()`` does."""
        lineage = self.lineage
        hidden = after is None and name in self.given
        if after is not None:
            lineage = lineage[lineage.index(after) + 1 :]
        for cls in lineage:
            found = self.library.class_bindings(cls).get(name)
            if self.library.patch(cls.full_name, name) is not None:
                return None
            if isinstance(found, cst.FunctionDef):
                if hidden and not _is_property(found):
                    return None
                found = self._of_self(found)
                return Definition(cls.module, f"{cls.name}.{name}", found)
            if found is not None:
                return None
        return None

    @functools.cached_property
    def given(self) -> Mapping[str | None, list[cst.CSTNode]]:
        """What methods give to ``self``; under None what may have any name."""
        found: dict[str | None, list[cst.CSTNode]] = {}
        for cls in self.lineage:
            for node in statements(cast(cst.ClassDef, cls.node).body):
                if isinstance(node, cst.FunctionDef):
                    for store in given_to_self(node):
                        found.setdefault(store.attribute, []).append(store.node)
        return found

    def unsettled(self, name: str) -> cst.CSTNode | None:
        """Why it can't be told what ``self.name`` does, where it may be a method."""
        for cls in self.lineage:
            found = self.library.class_bindings(cls).get(name)
            patched = self.library.patch(cls.full_name, name)
            if patched is None and found is None:
                continue
            if patched is not None or isinstance(found, Unsettled):
                why = patched or cast(Unsettled, found).node
                return why if self._is_method(name) else None
            if isinstance(found, cst.FunctionDef):
                given = self.given.get(name)
                return given[0] if given and not _is_property(found) else None
            return self._computes(found, cls)
        return None

    def _is_method(self, name: str) -> bool:
        return any(
            isinstance(n, cst.FunctionDef) and n.name.value == name
            for cls in self.lineage
            for n in walk(cls.node)
        )

    def _computes(self, value: Binding | None, cls: Definition) -> cst.CSTNode | None:
        """An attribute of a class that may be a function, or run one when it is read."""
        for node in walk(value) if isinstance(value, cst.CSTNode) else ():
            func = node.func if isinstance(node, cst.Call) else node
            if isinstance(node, cst.Lambda):
                return node
            if isinstance(func, (cst.Name, cst.Attribute)) and dotted(func):
                meant = self.library.resolve(cls.module, dotted(func) or "")
                if isinstance(meant, Definition) and isinstance(
                    meant.node, (cst.FunctionDef, cst.ClassDef)
                ):
                    return node
                if dotted(func) in ("property", "classmethod", "staticmethod"):
                    return node
        return None

    def _of_self(self, node: cst.FunctionDef) -> cst.FunctionDef:
        """A class method's ``cls`` is read through ``self``, which finds the same."""
        if not any(dotted(d.decorator) == "classmethod" for d in node.decorators):
            return node
        if node not in self.of_self:
            first = (*node.params.posonly_params, *node.params.params)[0].name.value
            origins = self.library.origins
            named = {first: cst.Name("self")}
            body = cast(cst.BaseSuite, substitute(node.body, named, origins))
            new = node.with_changes(body=body)
            origins.inherit(new, node)
            self.of_self[node] = new
        return self.of_self[node]

    def read(self, definition: Definition) -> cst.FunctionDef:
        """Note that a function was read: the header's hash covers exactly those."""
        self.reads[definition.full_name] = definition.node
        return cast(cst.FunctionDef, definition.node)

    def digest(self) -> str:
        """Hash of the functions read, whatever the order of reading."""
        hasher = hashlib.sha256()
        for name in sorted(self.reads):
            hasher.update(f"{name}\n{code(self.reads[name]).strip()}\n".encode())
        return hasher.hexdigest()[:16]


def _is_property(node: cst.FunctionDef) -> bool:
    """Whether Python asks the class first, whatever the optimizer itself has."""
    return any(dotted(d.decorator) == "property" for d in node.decorators)


def open_target(target: str, library: Library) -> Upstream:
    """Find the optimizer that ``target`` names: ``pkg.mod.Class`` or ``file.py:Class``."""
    parts = split(target)
    if parts is None and target.endswith(".py") and _is_file(target, library):
        parts = target, ""
    if parts is None:
        cls = library.find_class(target)
    elif not _is_file(parts[0], library):
        seen = f" in {library.base}" if library.base else ""
        raise Absent(f"no file {parts[0]}{seen}", "give FILE.py:ClassName")
    else:
        module = library.load(Path(parts[0]))
        if not parts[1]:
            raise misuse(
                f"{parts[0]} is a file, of which no class is named",
                misnamed.in_file(parts[0], "", library.optimizers_in(module)),
            )
        cls = library.class_in(module, parts[1], target)
    if not library.is_optimizer(cls):
        raise misuse(
            f"{target} is no optimizer: torch.optim.Optimizer is not among its bases",
            "name a subclass of torch.optim.Optimizer",
        )
    return Upstream(library, target, cls, library.mro(cls))


def _is_file(path: str, library: Library) -> bool:
    return ((library.base or Path()) / path).is_file()


def library_of(tree: SourceTree | None, base: Path | None = None) -> Library:
    """A library that reads a source tree; without one, what is installed."""
    return Library(Origins(), tree=tree, base=base)


def torch_optimizers(tree: SourceTree | None = None) -> list[str]:
    """Every optimizer class that ``torch.optim`` exports, by its public path."""
    library = library_of(tree)
    library.must_hold("torch")
    package = library.module("torch.optim")
    if package is None:
        raise misuse(
            f"{tree.given if tree else 'torch'} has no torch/optim/__init__.py",
            "name a source tree, a wheel or an sdist of torch that is whole",
        )
    return sorted(
        f"torch.optim.{name}"
        for name, binding in package.bindings.items()
        if isinstance(binding, Import) and name[:1].isupper() and name != "Optimizer"
    )
