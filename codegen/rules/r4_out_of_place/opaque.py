"""Default deny: what nobody can see through may change, or keep, what it is handed.

A callable that is in the table of operations, or has a source that is translated too,
is known. Any other is refused where it stands, if it is handed a tensor, a container
or something unknown.
"""

from __future__ import annotations

from collections.abc import Callable

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.values import CONTAINERS, MAY_HOLD_TENSORS, Kind
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.optable import Operation
from codegen.purity import is_unpacked
from codegen.syntax import (
    all_statements,
    code,
    comprehension_names,
    dotted,
    is_name,
    read_names,
    small,
    statements,
)
from codegen.upstream import Definition, External

_MODULES = ("torch", "ops", "math", "F", "operator")
_OF_STRINGS = ("format", "join", "startswith", "endswith", "lower", "upper", "strip")

_UNBOUND = {"NameError", "UnboundLocalError", "Exception", "BaseException"}

Refuse = Callable[[cst.CSTNode, str, str], None]


class Opaque:
    """Looks at every expression of a statement."""

    def __init__(self, context: Context, heap: Heap, refuse: Refuse) -> None:
        self.context = context
        self.heap = heap
        self.refuse = refuse

    def check(self, node: cst.CSTNode, env: Env) -> None:
        """Refuse calls and attributes of ``node`` that can't be seen through."""
        called = set[cst.CSTNode]()
        bound = set[str]()
        for inner in walk(node):
            if isinstance(inner, cst.BaseComp):
                bound |= comprehension_names(inner)
        for inner in walk(node):
            if isinstance(inner, cst.Call):
                called.add(inner.func)
                self._call(inner, env, bound)
            elif isinstance(inner, cst.Attribute) and inner not in called:
                self._attribute(inner, env)
            elif isinstance(inner, cst.Subscript):
                self._key(inner, env)
            elif isinstance(inner, cst.AssignTarget):
                self._target(inner.target)
            elif isinstance(inner, cst.Assign):
                if not all(is_unpacked(t.target) for t in inner.targets):
                    self._lazy(inner.value)
            elif isinstance(inner, cst.AnnAssign):
                self._lazy(inner.value)

    def _lazy(self, node: cst.BaseExpression | None) -> None:
        """What is computed when it is asked for reads what there is then."""
        called = isinstance(node, cst.Call) and dotted(node.func) in ("map", "filter")
        if node is not None and (called or isinstance(node, cst.GeneratorExp)):
            self.refuse(
                node,
                "this is computed later, when what it reads may have changed",
                "make it a list",
            )

    def check_handlers(self, node: cst.Try) -> None:
        """A variable that isn't bound raises, and may be bound in the translation."""
        caught = (
            h.type is None or read_names(h.type) & _UNBOUND for h in node.handlers
        )
        if not any(caught):
            return
        for statement in all_statements(statements(node.body)):
            unbound = self.heap.before.get(statement, Env()).unbound
            for name in sorted(_read_at(statement) & unbound):
                self.refuse(
                    statement,
                    f"`{name}` may not be bound here, and what is raised then is caught",
                    f"bind `{name}` first, and ask what it is",
                )

    # --- calls

    def _call(self, node: cst.Call, env: Env, bound: set[str]) -> None:
        func = node.func
        if isinstance(func, cst.Name):
            known = func.value not in bound and self._is_known(func.value, env)
        elif isinstance(func, cst.Attribute):
            known = self._knows_attribute(node, func, env)
        else:
            known = False
        if is_name(func, "id") or is_name(func, "hash"):
            self._refuse_identity(node, env)
        elif self.context.full_name(func) == "copy.copy":
            self._refuse_shallow(node, env)
        elif not known:
            self._refuse_call(node, env)

    def _is_known(self, name: str, env: Env) -> bool:
        if name in env.names:
            return env.names[name].kind is Kind.OTHER
        if name in self.context.sources():
            return True
        found = self.context.globals.get(name)
        if isinstance(found, (Definition, External)):
            return optable.function(found.full_name) is not None
        return optable.function(name) is not None

    def _knows_attribute(self, node: cst.Call, func: cst.Attribute, env: Env) -> bool:
        path = dotted(func) or ""
        root = path.partition(".")[0]
        if root == "self":
            return True  # a method without a source: the fence has words for it
        if root not in env.names and (root in _MODULES or root in self.context.globals):
            return self._is_operation(
                optable.function(self.context.full_name(func)), node
            )
        kind = self.heap.value(func.value, env).kind
        name = func.attr.value
        if kind in CONTAINERS:
            return optable.container_method(name) is not None
        if kind is Kind.OTHER and name in _OF_STRINGS:
            return True
        return self._is_operation(optable.method(name), node, func.value) or (
            kind is Kind.UNKNOWN and optable.container_method(name) is not None
        )

    def _is_operation(
        self,
        operation: Operation | None,
        node: cst.Call,
        receiver: cst.BaseExpression | None = None,
    ) -> bool:
        """Whether the table has it, and tells what this call writes."""
        if operation is None:
            return False
        bound = operation.bind(node.args, receiver)
        if bound is None:
            return not operation.in_place and not any(
                a.keyword is not None and a.keyword.value == "out" for a in node.args
            )
        name = operation.name
        return (
            name.endswith("_") or "out" in bound or not list(operation.written(bound))
        )

    def _refuse_call(self, node: cst.Call, env: Env) -> None:
        kinds = {self.heap.value(a.value, env).kind for a in node.args}
        if kinds & {*MAY_HOLD_TENSORS}:
            self.refuse(
                node,
                f"what `{code(node.func)}` does to the tensors that it is handed can't "
                "be seen",
                "make it a function of the module, or write it out",
            )

    def _refuse_shallow(self, node: cst.Call, env: Env) -> None:
        kinds = {self.heap.value(a.value, env).kind for a in node.args}
        if kinds & {Kind.TENSOR, Kind.UNKNOWN}:
            self.refuse(
                node,
                "copy.copy of a tensor shares its memory and drops its gradient",
                "clone it, or use the tensor itself",
            )

    def _refuse_identity(self, node: cst.Call, env: Env) -> None:
        kinds = {self.heap.value(a.value, env).kind for a in node.args}
        if kinds & {Kind.TENSOR, Kind.UNKNOWN}:
            self.refuse(
                node,
                "a tensor here is another one after each step: it has no lasting "
                "identity",
                "keep what belongs to a parameter in self.state[p]",
            )

    # --- attributes, keys, targets

    def _attribute(self, node: cst.Attribute, env: Env) -> None:
        """A method that mutates, handed on without being called; what tells of memory
        or of autograd, which are others here."""
        operation = optable.method(node.attr.value)
        if operation is None and optable.attribute(node.attr.value) is None:
            if self.heap.value(node.value, env).kind is Kind.TENSOR:
                self.refuse(
                    node,
                    f"what `{code(node)}` is in a differentiable step can't be told",
                    "use what a tensor's numbers, shape and dtype tell",
                )
            return
        if operation is None or not operation.in_place:
            return
        if self.heap.value(node.value, env).kind in (Kind.TENSOR, Kind.UNKNOWN):
            self.refuse(
                node,
                f"`{code(node)}` is handed on: what calls it, and when, can't be seen",
                "call it where it stands",
            )

    def _key(self, node: cst.Subscript, env: Env) -> None:
        """A dict whose keys are tensors: they are others after each step."""
        base = self.heap.value(node.value, env)
        if base.kind in (Kind.TENSOR, Kind.SEQUENCE) or len(node.slice) != 1:
            return
        index = node.slice[0].slice
        if not isinstance(index, cst.Index):
            return
        key = self.heap.value(index.value, env)
        if key.parameter or (base.kind is Kind.MAPPING and key.kind is Kind.TENSOR):
            self.refuse(
                node,
                f"`{code(node.value)}` is keyed by a tensor, which is another one after "
                "each step",
                "keep what belongs to a parameter in self.state[p]",
            )

    def _target(self, node: cst.CSTNode) -> None:
        if isinstance(node, cst.Attribute) and node.attr.value != "data":
            self.refuse(
                node,
                f"what `{code(node)}` belongs to is kept by nobody from step to step",
                "keep it in self.state[p], or as an attribute of the optimizer",
            )


def _read_at(statement: cst.CSTNode) -> set[str]:
    """Variables that a simple statement reads, or the head of a compound one."""
    head = getattr(statement, "test", None) or getattr(statement, "iter", None)
    if head is None and small(statement) is None:
        return set()
    return read_names(head or statement)
