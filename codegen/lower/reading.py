"""A function's body as the step sees it: in one spelling, under names of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower import facts
from codegen.lower.blocks import group_loop_target, without_docstring
from codegen.lower.callees import calls_through, is_of_numbers, is_torchs
from codegen.lower.discarded import loops_of_discarded
from codegen.lower.frame import Frame
from codegen.lower.names import hidden_names, rename
from codegen.lower.own import mangled
from codegen.lower.spelling import spelled
from codegen.magic import refuse_unsettled
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_params,
    all_statements,
    block,
    bound_names,
    dotted,
    expr,
    is_name,
    read_names,
    statements,
    sub_bodies,
)
from codegen.upstream import Definition, External, Resolved, SourceModule, Upstream


class Reader:
    """Reads functions of upstream's; their module-level names are apart from those of
    other modules, their variables from what hides a builtin."""

    def __init__(self, upstream: Upstream, context: Context) -> None:
        self.upstream = upstream
        self.context = context
        self.origins = context.origins

    def refuse_decorators(self, node: cst.FunctionDef, where: Definition) -> None:
        """A decorator of the sources at hand must call what it decorates, once, and do
        nothing to tensors by itself."""
        for decorator in node.decorators:
            func = decorator.decorator
            func = func.func if isinstance(func, cst.Call) else func
            name = dotted(func)
            found = self.upstream.library.resolve(where.module, name) if name else None
            full = found.full_name if isinstance(found, External) else name
            if isinstance(found, Definition):
                if is_torchs(found) or found.full_name in facts.STEP_DECORATORS:
                    continue
                if isinstance(found.node, cst.FunctionDef) and calls_through(
                    found.node
                ):
                    continue
                full = found.name
            elif full in facts.STEP_DECORATORS:
                continue
            elif full in facts.MEMOS and is_of_numbers(node):
                continue
            self.context.refuse(
                "lower",
                decorator,
                f"{full or 'a decorator'} may change what {node.name.value} does",
                "do what the decorator does in the function itself",
            )

    def refuse_unsettled(self, body: Body, local: Collection[str]) -> None:
        """Refuse what a specialized body reads and nobody can tell what it does."""
        refuse_unsettled(body, local, self.context)
        for node in (n for s in body for n in walk(s)):
            if isinstance(node, cst.Attribute) and is_name(node.value, "self"):
                method = self.upstream.method(node.attr.value)
                if method is not None:
                    function = cast(cst.FunctionDef, method.node)
                    self.refuse_decorators(function, method)

    def read_body(
        self, node: cst.FunctionDef, frame: Frame, around: Collection[str]
    ) -> Body:
        """A function's statements, its names apart from those around it."""
        body = statements(without_docstring(node.body))
        params = {p.name.value for p in all_params(node.params)}

        def resolve(named: cst.CSTNode) -> str | None:
            return None if read_names(named) & params else frame.full_name(named)

        body = spelled(body, self.context, resolve)
        body = loops_of_discarded(body, self.origins)
        body = rename(body, hidden_names(body) - params, self.origins)
        own = bound_names(block(body)) | params | frame.local
        body = tuple(
            cast(Statement, self.name_globals(s, frame, own, around)) for s in body
        )
        if frame.owner is not None and frame.owner.is_method:
            owner = frame.owner.name.partition(".")[0]
            body = tuple(mangled(s, owner, self.origins) for s in body)
        return self._name_groups(body)

    def name_globals(
        self,
        node: cst.CSTNode,
        frame: Frame,
        own: Collection[str],
        around: Collection[str],
    ) -> cst.CSTNode:
        """Module-level names under those by which the whole step knows them."""
        new: dict[str, cst.BaseExpression] = {}
        for name in sorted(read_names(node) - set(own)):
            found = self.upstream.library.resolve(frame.module, name)
            if found is None:
                continue
            known = _well_known(found, name)
            if known is not None:
                new[name] = expr(known)
                frame.aliases[known] = name
                continue
            alias = self.context.name(found, name, around)
            if alias != name:
                frame.aliases[alias] = name
                new[name] = cst.Name(alias)
        return substitute(node, new, self.origins)

    def _name_groups(self, body: Body) -> Body:
        """``for pg in self.param_groups`` → ``for group in …``: one name for all, but
        for those that are walked inside the turn of another."""
        rename: dict[str, cst.BaseExpression] = {
            target: cst.Name("group")
            for node in _outermost(body)
            if (target := group_loop_target(node)) not in (None, "group")
        }
        inner = {
            group_loop_target(n)
            for node in _outermost(body)
            for n in all_statements(statements(cst.ensure_type(node, cst.For).body))
        }
        if not rename or "group" in bound_names(block(body)) or inner & rename.keys():
            return body
        return tuple(cast(Statement, substitute(s, rename, self.origins)) for s in body)


def _outermost(body: Sequence[Statement]) -> Iterator[Statement]:
    """The walks over groups that stand in no other."""
    for node in body:
        if group_loop_target(node) is not None:
            yield node
        else:
            for part in sub_bodies(node):
                yield from _outermost(statements(part))


def _well_known(found: Resolved, name: str) -> str | None:
    """``math.sqrt`` for a ``sqrt`` of math's, ``torch`` for torch by another name: the
    rules know these by their own."""
    if isinstance(found, SourceModule):
        full = found.name
    else:
        full = found.full_name if isinstance(found, External) else ""
    known = full in ("math", "torch") or full.startswith("math.")
    return full if known and full != name else None
