"""What the body of a module or class leaves bound once it has been run.

    try: import fast                         fast, HAVE: of ``fast`` it is known whether
    except ImportError: HAVE = False         it can be imported, or the names are unsettled
    X = 1.0                                  X: unsettled, it was 1.0 for a while
    X += 1.0
    def f(): ...                             g: the function f, as it was then
    g = f

Statements are followed in order. Where the source doesn't tell which of them run, or
what they make of a name, that is ``Unsettled``: whoever reads it imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, cast

import libcst as cst

from codegen.bindings import bound_names, dotted, read_names, target_names
from codegen.diagnostics import children, walk
from codegen.source_module import Binding, Import, Unsettled
from codegen.syntax import all_params, is_constant, small, statements

_MISSING = frozenset({"ImportError", "ModuleNotFoundError", "Exception"})
_PLAIN_CONTEXTS = frozenset(
    {"torch.no_grad", "warnings.catch_warnings", "contextlib.nullcontext"}
)
_DECORATORS = frozenset(
    "torch.no_grad torch.inference_mode property staticmethod classmethod".split()
)
"""Those that may be called by hand."""


class Decisions(Protocol):
    """What can be known before anything is run."""

    def truth(self, node: cst.BaseExpression) -> bool | None:
        """Whether a test holds."""

    def imports(self, node: cst.Import | cst.ImportFrom) -> bool | None:
        """Whether what is imported is there."""


class TopLevel:
    """Follows a body; ``bindings`` is what names mean at the present place.

    ``stars`` are the modules all of whose names were bound, and after which names.
    """

    def __init__(
        self,
        decisions: Decisions,
        absolute: Callable[[cst.ImportFrom], str],
        around: Mapping[str, Binding],
    ) -> None:
        self.decisions = decisions
        self.around = around
        self.absolute = absolute
        self.bindings: dict[str, Binding] = {}
        self.stars: list[tuple[str, frozenset[str]]] = []
        self._read: set[str] = set()
        self._captured: set[str] = set()
        self._stale: dict[str, Unsettled] = {}
        self._typing: dict[str, Binding] = {}
        self._at: cst.CSTNode = cst.Pass()

    def run(self, body: Sequence[cst.CSTNode]) -> None:
        """All of a body, and what of it is seen in the end."""
        self._block(body)
        for name, found in self._typing.items():
            self.bindings.setdefault(name, found)

    # --- names

    def _bind(self, name: str, value: Binding) -> None:
        old = self.bindings.get(name)
        if old is not None and not _alike(old, value):
            if name in self._captured:
                self._stale[name] = Unsettled(self._at, later=True)
            elif name in self._read:
                self._stale.setdefault(name, Unsettled(self._at))
        self.bindings[name] = self._stale.get(name, value)

    def _unsettle(self, names: Iterable[str], node: cst.CSTNode) -> None:
        for name in names:
            self._bind(name, Unsettled(node))

    def _note_reads(self, node: cst.CSTNode, captured: bool = False) -> None:
        names = {n for part in read_when_run(node) for n in read_names(part)}
        self._read |= names
        if captured:
            self._captured |= names

    # --- statements

    def _block(self, body: Sequence[cst.CSTNode]) -> None:
        for node in body:
            self._statement(node)

    def _statement(self, node: cst.CSTNode) -> None:
        self._at = node
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self._note_reads(node, captured=True)
            if not (isinstance(node, cst.FunctionDef) and self._is_accessor(node)):
                self._bind(node.name.value, node)
        elif isinstance(node, cst.If):
            self._if(node)
        elif isinstance(node, cst.Try):
            self._try(node)
        elif isinstance(node, cst.With) and self._is_plain(node):
            self._block(statements(node.body))
        elif isinstance(node, cst.SimpleStatementLine):
            self._simple(node)
        else:
            self._note_reads(node)
            self._unsettle(_all_bound(node), node)

    def _is_accessor(self, node: cst.FunctionDef) -> bool:
        """``@x.setter def x``: the property stays what it is."""
        names = {f"{node.name.value}.{k}" for k in ("setter", "deleter")}
        return any(dotted(d.decorator) in names for d in node.decorators)

    def _is_plain(self, node: cst.With) -> bool:
        """Whether a block is run, whatever its context does around it."""
        made = [i.item.func for i in node.items if isinstance(i.item, cst.Call)]
        return len(made) == len(node.items) and all(
            dotted(f) in _PLAIN_CONTEXTS for f in made
        )

    def _if(self, node: cst.If) -> None:
        body, orelse = statements(node.body), _orelse(node)
        if dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            # for annotations alone
            before, self.bindings = self.bindings, {}
            self._block(body)
            self._typing.update(self.bindings)
            self.bindings = before
            self._block(orelse)
            return
        self._note_reads(node.test)
        self._unsettle(bound_names(node.test), node)
        holds = self.decisions.truth(node.test)
        if holds is not None:
            self._block(body if holds else orelse)
        else:
            self._either(node, [body, orelse])

    def _try(self, node: cst.Try) -> None:
        body, failing = self._as_far(statements(node.body))
        orelse = statements(node.orelse.body) if node.orelse is not None else ()
        handlers = [h for h in node.handlers if not _raises(statements(h.body))]
        if failing is None or not handlers:
            self._block((*statements(node.body), *orelse))
        elif failing is False:
            self._block((*body, *_handler(node)))
        else:
            whole = statements(node.body)
            caught = [statements(h.body) for h in handlers]
            partly = {name for s in whole for name in _all_bound(s)}
            self._either(node, [(*whole, *orelse), *caught], partly)
        if node.finalbody is not None:
            self._block(statements(node.finalbody.body))

    def _as_far(
        self, body: Sequence[cst.CSTNode]
    ) -> tuple[Sequence[cst.CSTNode], bool | None]:
        """The statements that surely run, and what is known of the next: None that
        there is none, False that an import fails, True that something may."""
        for number, node in enumerate(body):
            inner = small(cast(cst.BaseStatement, node))
            if isinstance(inner, (cst.Import, cst.ImportFrom)):
                there = self.decisions.imports(inner)
                if there is not True:
                    return body[:number], there is None
            elif not _cannot_fail(node):
                return body[:number], True
        return body, None

    def _either(
        self,
        node: cst.CSTNode,
        branches: Sequence[Sequence[cst.CSTNode]],
        partly: Collection[str] = (),
    ) -> None:
        """One of several blocks, nobody knows which; ``partly`` are names that the
        first may have bound before another begins."""
        start, ends = self.bindings, []
        for number, branch in enumerate(branches):
            self.bindings = dict(start)
            if number:
                self._unsettle(partly, node)
            self._block(branch)
            ends.append(self.bindings)
        self.bindings = {}
        for name in dict.fromkeys(n for end in ends for n in end):
            found = [end.get(name) for end in ends]
            first = found[0]
            same = first is not None and all(f == first for f in found)
            self.bindings[name] = first if first and same else Unsettled(node)

    def _simple(self, line: cst.SimpleStatementLine) -> None:
        node = line.body[0]
        value = getattr(node, "value", None)
        if isinstance(value, cst.BaseExpression):
            if self._function(value) is None:
                self._note_reads(value)
            self._unsettle(_walrus(value), node)
        if isinstance(node, cst.Assign):
            for target in node.targets:
                self._assign(target.target, node.value, node)
        elif isinstance(node, cst.AnnAssign):
            if node.value is not None:
                self._assign(node.target, node.value, node)
        elif isinstance(node, (cst.AugAssign, cst.Del)):
            names = set(target_names(node.target))
            if isinstance(node, cst.AugAssign):
                self._unsettle(names, node)
            for name in names if isinstance(node, cst.Del) else ():
                self.bindings.pop(name, None)
        elif isinstance(node, cst.Import):
            for alias in node.names:
                self._import(alias)
        elif isinstance(node, cst.ImportFrom):
            self._import_from(node)

    def _assign(
        self, target: cst.BaseExpression, value: cst.BaseExpression, node: cst.CSTNode
    ) -> None:
        if isinstance(target, cst.Name):
            function = self._function(value)
            self._bind(target.value, value if function is None else function)
        else:
            self._unsettle(set(target_names(target)), node)

    def _function(self, value: cst.BaseExpression) -> Binding | None:
        """The function that ``g`` or ``torch.no_grad()(g)`` is at this place."""
        if isinstance(value, cst.Call) and len(value.args) == 1:
            func = value.func.func if isinstance(value.func, cst.Call) else value.func
            found = self._function(value.args[0].value)
            if dotted(func) in _DECORATORS and isinstance(found, cst.FunctionDef):
                outer = cst.Decorator(value.func)
                return found.with_changes(decorators=[outer, *found.decorators])
        if not isinstance(value, cst.Name):
            return None
        found = self.bindings.get(value.value) or self.around.get(value.value)
        return found if isinstance(found, (cst.FunctionDef, Unsettled)) else None

    def _import(self, alias: cst.ImportAlias) -> None:
        name = dotted(alias.name) or ""
        if alias.asname is not None:
            self._bind(cast(cst.Name, alias.asname.name).value, Import(name))
        else:
            top = name.partition(".")[0]
            self._bind(top, Import(top))

    def _import_from(self, node: cst.ImportFrom) -> None:
        source = self.absolute(node)
        if isinstance(node.names, cst.ImportStar):
            self.stars.append((source, frozenset(self.bindings)))
            return
        for alias in node.names:
            name = cast(cst.Name, alias.name).value
            bound = cast(cst.Name, alias.asname.name).value if alias.asname else name
            self._bind(bound, Import(source, name))


# --- what statements do ------------------------------------------------------------


def read_when_run(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Expressions that are evaluated when a definition or expression is: not the bodies
    of functions."""
    if isinstance(node, cst.FunctionDef):
        yield from (d.decorator for d in node.decorators)
        yield from (p.default for p in all_params(node.params) if p.default)
    elif isinstance(node, cst.Lambda):
        yield from (p.default for p in all_params(node.params) if p.default)
    elif any(isinstance(n, (cst.FunctionDef, cst.Lambda)) for n in walk(node)):
        for child in children(node):
            yield from read_when_run(child)
    elif not isinstance(node, cst.Annotation):
        yield node


def _orelse(node: cst.If) -> Sequence[cst.CSTNode]:
    if isinstance(node.orelse, cst.If):
        return (node.orelse,)
    return statements(node.orelse.body) if node.orelse is not None else ()


def _raises(body: Sequence[cst.CSTNode]) -> bool:
    return bool(body) and isinstance(small(body[-1]), cst.Raise)


def _handler(node: cst.Try) -> Sequence[cst.CSTNode]:
    """What runs where an import fails."""
    for handler in node.handlers:
        kind = handler.type
        kinds = (
            [e.value for e in kind.elements] if isinstance(kind, cst.Tuple) else [kind]
        )
        if kind is None or any(dotted(k) in _MISSING for k in kinds):
            return statements(handler.body)
    return ()


def _cannot_fail(node: cst.CSTNode) -> bool:
    inner = small(node)
    if isinstance(node, cst.FunctionDef):
        defaults = [p.default for p in all_params(node.params) if p.default]
        return not node.decorators and all(map(is_constant, defaults))
    if isinstance(inner, cst.Expr):
        return isinstance(inner.value, cst.SimpleString)
    if isinstance(inner, (cst.Assign, cst.AnnAssign)):
        targets = inner.targets if isinstance(inner, cst.Assign) else [inner]
        names = all(isinstance(t.target, cst.Name) for t in targets)
        return names and inner.value is not None and is_constant(inner.value)
    return isinstance(inner, cst.Pass)


def _walrus(node: cst.CSTNode) -> set[str]:
    found = (n for n in walk(node) if isinstance(n, cst.NamedExpr))
    return {name for n in found for name in target_names(n.target)}


def _all_bound(node: cst.CSTNode) -> set[str]:
    """Names that a statement may bind or delete, whatever kind it is of."""
    found = bound_names(node)
    for inner in walk(node):
        if isinstance(inner, cst.ClassDef):
            found.add(inner.name.value)
        elif isinstance(inner, cst.Del):
            found |= set(target_names(inner.target))
        elif isinstance(inner, (cst.MatchAs, cst.MatchStar)) and inner.name is not None:
            found.add(inner.name.value)
    return found


def _alike(old: Binding, new: Binding) -> bool:
    if isinstance(old, cst.CSTNode) and isinstance(new, cst.CSTNode):
        fixed = isinstance(old, cst.FunctionDef) or is_constant(old)
        return old is new or (fixed and old.deep_equals(new))
    return old == new
