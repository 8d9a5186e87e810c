"""What a translated step still names: helpers, constants and imports.

Pure helpers are translated by the same rules and stand below the class; modules and
classes are imported; constants are copied.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.inplace import may_mutate
from codegen.layout import space
from codegen.lower.specialize import Specializer
from codegen.pipeline import HELPER_PASSES, run_passes
from codegen.polish import with_scalars
from codegen.syntax import (
    Body,
    all_params,
    block,
    bound_names,
    code,
    is_constant,
    is_name,
    read_names,
)
from codegen.upstream import Definition, External, Resolved, SourceModule, Upstream

RUNTIME = frozenset({"ops", "grouped_grads", "self", "kwargs"})


@dataclass
class Carried:
    """What a module needs besides its class: source lines, and functions."""

    imports: set[str] = field(default_factory=set)
    constants: list[str] = field(default_factory=list)
    helpers: list[cst.FunctionDef] = field(default_factory=list)


class Carrier:
    """Follows the names that a body reads until all are accounted for."""

    def __init__(
        self, upstream: Upstream, context: Context, real_views: bool = False
    ) -> None:
        self.upstream = upstream
        self.real_views = real_views
        self.context = context
        self.result = Carried()
        self._done: set[str] = set()
        self.raised: set[str] = set()
        self._bodies: list[Body] = []

    def follow(self, body: Body, own: Iterable[str] = ()) -> Carried:
        """All that ``body`` needs; ``own`` are names bound around it."""
        self._bodies.append(body)
        known = bound_names(block(body)) | set(own) | RUNTIME
        for name in sorted(_global_reads(body) - known):
            if name in self._done:
                continue
            self._done.add(name)
            found = self.context.globals.get(name)
            if found is not None:
                self._carry(name, found)
            elif name == "math":
                self.result.imports.add("import math")
            elif name == "torch":
                self.result.imports.add("import torch")
            elif not hasattr(builtins, name):
                self._refuse(body, name)
        return self.result

    def _refuse(self, body: Body, name: str) -> None:
        for statement in body:
            for node in walk(statement):
                if isinstance(node, cst.Name) and node.value == name:
                    self.context.refuse(
                        "carry",
                        node,
                        f"{name!r} is not defined where the compiler can read it",
                        "define it at the top level of the module",
                    )
                    return

    def _carry(self, name: str, found: Resolved) -> None:
        if self._only_raised(name):
            self.raised.add(name)
        elif isinstance(found, External):
            self.result.imports.add(import_line(name, found.full_name))
        elif isinstance(found, SourceModule):
            self.result.imports.add(import_line(name, found.name, module=True))
        elif isinstance(found.node, cst.FunctionDef):
            self._translate(name, found)
        elif isinstance(found.node, cst.ClassDef):
            self.result.imports.add(import_line(name, found.full_name))
        else:
            self._constant(name, found)

    def _only_raised(self, name: str) -> bool:
        """Whether a name is an exception of upstream's own: the message is enough."""
        reads = [
            n for b in self._bodies for s in b for n in walk(s) if is_name(n, name)
        ]
        raised = [
            n.exc.func
            for b in self._bodies
            for s in b
            for n in walk(s)
            if isinstance(n, cst.Raise) and isinstance(n.exc, cst.Call)
        ]
        return bool(reads) and all(any(r is f for f in raised) for r in reads)

    def _constant(self, name: str, found: Definition) -> None:
        value = cast(cst.BaseExpression, found.node)
        if all(is_constant(n) or not _is_opaque(n) for n in walk(value)):
            self.result.constants.append(f"{name} = {code(value)}")
        else:
            self.result.imports.add(import_line(name, found.full_name))

    def _translate(self, name: str, found: Definition) -> None:
        node = self.upstream.read(found)
        if any(isinstance(n, (cst.Yield, cst.Await)) for n in walk(node)):
            self.context.refuse(
                "carry", node, "a generator can't be translated", "return a list"
            )
        specializer = Specializer(self.upstream, self.context, self.real_views)
        body = specializer.function(found, called=True)
        params = all_params(node.params)
        if may_mutate(
            node.with_changes(body=block(body)), {p.name.value for p in params}
        ):
            self.context.refuse(
                "R4",
                node,
                f"{found.name} changes its arguments where no one sees it",
                "call it by its name, in a statement of its own",
            )
            self.context.raise_if_refused()
        self.context.annotations = {
            p.name.value: code(p.annotation.annotation) if p.annotation else ""
            for p in params
        }
        body = run_passes(HELPER_PASSES, body, self.context)
        self.context.annotations = {}
        new = cst.FunctionDef(
            cst.Name(name),
            without_self(node),
            block(space(body, self.context)),
            returns=node.returns,
        )
        new = with_scalars(new, self.context.origins)
        self.result.helpers.append(new)
        names = {p.name.value for p in params}
        annotations = _annotation_lines(new)
        self._know(annotations, found.module)
        self.follow((*body, *annotations), names)

    def _know(self, annotations: Body, module: SourceModule) -> None:
        """What the names in annotations mean, which no pass has asked for yet."""
        for name in sorted(_global_reads(annotations) - set(self.context.globals)):
            meaning = self.upstream.library.resolve(module, name)
            if meaning is not None:
                self.context.globals[name] = meaning


def without_self(node: cst.FunctionDef) -> cst.Parameters:
    """Parameters of a method that became a function."""
    params = node.params.params
    if params and params[0].name.value in ("self", "cls"):
        return node.params.with_changes(params=params[1:])
    return node.params


def _is_opaque(node: cst.CSTNode) -> bool:
    """What isn't the same wherever it is written: a container may be changed later."""
    return isinstance(node, (cst.Name, cst.Call, cst.Attribute, cst.Lambda, *_MUTABLE))


_MUTABLE = (cst.BaseDict, cst.BaseList, cst.BaseSet)


def _annotation_lines(node: cst.FunctionDef) -> Body:
    """Annotations as expressions, so that the names in them are imported too."""
    found = [p.annotation for p in all_params(node.params)] + [node.returns]
    return tuple(
        cst.SimpleStatementLine([cst.Expr(a.annotation)])
        for a in found
        if a is not None
    )


def _global_reads(body: Body) -> set[str]:
    names: set[str] = set()
    for statement in body:
        names |= read_names(statement)
    return names


def import_line(name: str, full_name: str, module: bool = False) -> str:
    """The import that binds ``name`` to ``full_name``."""
    parent, _, last = full_name.rpartition(".")
    if not parent or module:
        return f"import {full_name}" + ("" if name == full_name else f" as {name}")
    return f"from {parent} import {last}" + ("" if name == last else f" as {name}")
