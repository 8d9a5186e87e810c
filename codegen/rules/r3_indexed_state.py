"""R3: indexed state."""

from __future__ import annotations

from collections.abc import Collection

import libcst as cst

from codegen.diagnostics import children, walk
from codegen.rules.base import Example, Rule
from codegen.syntax import (
    Body,
    all_params,
    bound_names,
    code,
    comprehension_names,
    dotted,
    expr,
    index_of,
    is_name,
    statements,
)

KNOWN_ATTRIBUTES = frozenset({"param_groups", "state", "defaults", "shared"})
"""What a differentiable optimizer has of its own."""


def _asked_for(node: cst.CSTNode) -> str | None:
    """``k`` of ``"k" in self.state`` and ``self.state.get("k")``."""
    named: cst.CSTNode | None = None
    if _ask_shared(node) is not None:
        named = (
            getattr(node, "left", None) or cst.ensure_type(node, cst.Call).args[0].value
        )
    return str(named.evaluated_value) if isinstance(named, cst.SimpleString) else None


def _ask_shared(node: cst.CSTNode) -> cst.CSTNode | None:
    """``"k" in self.state`` and ``self.state.get("k")`` ask for what is shared."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        asks = node.func.attr.value in ("get", "setdefault")
        by_name = bool(node.args) and isinstance(node.args[0].value, cst.SimpleString)
        if asks and by_name and dotted(node.func.value) == "self.state":
            return node.with_changes(
                func=node.func.with_changes(value=expr("self.shared"))
            )
    if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
        (part,) = node.comparisons
        if isinstance(part.operator, (cst.In, cst.NotIn)):
            if dotted(part.comparator) == "self.state":
                if isinstance(node.left, cst.SimpleString):
                    asked = part.with_changes(comparator=expr("self.shared"))
                    return node.with_changes(comparisons=[asked])
    return None


def _ask_own(node: cst.CSTNode, own: Collection[cst.CSTNode]) -> cst.CSTNode | None:
    """``p in self.state`` → ``p_idx in self.state[group_idx]``."""
    if not isinstance(node, cst.Comparison) or len(node.comparisons) != 1:
        return None
    (part,) = node.comparisons
    asks = isinstance(part.operator, (cst.In, cst.NotIn))
    if not asks or dotted(part.comparator) != "self.state":
        return None
    if node.left not in own:
        return None
    where = part.with_changes(comparator=expr("self.state[group_idx]"))
    return node.with_changes(left=cst.Name("p_idx"), comparisons=[where])


class IndexedState(Rule):
    """``self.state[p]`` becomes ``self.state[group_idx][p_idx]``.

    What is kept for the optimizer as a whole, ``self.state["k"]`` or an attribute
    ``self.k``, is ``self.shared["k"]``.
    """

    name = "R3"
    title = "Indexed state"
    EXAMPLES = (
        Example(
            """
            for p_idx, (p, grad) in enumerate(zip(group["params"], grads)):
                state = self.state[p]
            """,
            """
            for p_idx, (p, grad) in enumerate(zip(group["params"], grads)):
                state = self.state[group_idx][p_idx]
            """,
        ),
        Example(
            'self.state["k"] = self.state["k"] + 1',
            'self.shared["k"] = self.shared["k"] + 1',
        ),
        Example("lr = self.base_lr", 'lr = self.shared["base_lr"]'),
        Example("x = state[p_idx]"),
    )

    def apply(self, body: Body) -> Body:
        called = {
            n.func.attr.value
            for s in body
            for n in walk(s)
            if isinstance(n, cst.Call)
            and isinstance(n.func, cst.Attribute)
            and is_name(n.func.value, "self")
        }
        self._methods = called - self.context.attributes
        for name in sorted(called & self.context.attributes):
            self.context.notes.append(
                f"Calls the optimizer's own ``{name}``, which must be differentiable "
                "and leave its arguments as they are."
            )
        own = _own_turns(body)
        keys: dict[str, cst.CSTNode] = {}

        def replace(node: cst.CSTNode) -> cst.CSTNode | None:
            if not isinstance(node, cst.Subscript):
                return None
            if dotted(node.value) != "self.state":
                return None
            key = index_of(node)
            if key in own:
                return expr("self.state[group_idx][p_idx]")
            if isinstance(key, cst.SimpleString):
                keys.setdefault(str(key.evaluated_value), node)
                return expr(f"self.shared[{key.value}]")
            if is_name(key, "group_idx"):
                return None
            self.refuse(
                node,
                f"state of {code(node)} is looked up by something other than a "
                "parameter of the loop around it",
                'use self.state[p] inside `for p in group["params"]`, or a string key',
            )
            return None

        def ask(node: cst.CSTNode) -> cst.CSTNode | None:
            key = _asked_for(node)
            if key is not None:
                keys.setdefault(key, node)
            return _ask_own(node, own) or _ask_shared(node)

        body = self.rewrite(self.rewrite(body, ask), replace)
        self._refuse_whole(body)
        body = self.rewrite(body, self._attribute)
        for key in sorted(keys.keys() & self.context.carried):
            self.refuse(
                keys[key],
                f"self.{key} and self.state[{key!r}] are two things of one name",
                "call one of them otherwise",
            )
        return body

    def _attribute(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """``self.x`` → ``self.shared["x"]``, which is copied from the original."""
        if not isinstance(node, cst.Attribute) or not is_name(node.value, "self"):
            return None
        name = node.attr.value
        if name in KNOWN_ATTRIBUTES or name in self._methods:
            return None
        self.context.carried.add(name)
        return expr(f'self.shared["{name}"]')

    def _refuse_whole(self, body: Body) -> None:
        for statement in body:
            parents = {c: n for n in walk(statement) for c in children(n)}
            for node in walk(statement):
                if dotted(node) == "self.state" and isinstance(node, cst.Attribute):
                    if not isinstance(parents.get(node), cst.Subscript):
                        self.refuse(
                            node,
                            "the optimizer's state is used as a whole",
                            "read and write self.state[p], parameter by parameter",
                        )


def _own_turns(body: Body) -> set[cst.CSTNode]:
    """Where the step's own walks over parameters name the parameter whose turn it is:
    not where another walk, a function or an assignment gives that name to another."""
    found: dict[bool, set[cst.CSTNode]] = {True: set(), False: set()}

    def look(node: cst.CSTNode, item: str | None) -> None:
        if isinstance(node, cst.Name):
            found[node.value == item].add(node)
        if isinstance(node, (cst.For, cst.While)) and item in bound_names(node):
            item = None
        if isinstance(node, cst.For) and code(node.target).startswith("p_idx, ("):
            look(node.iter, None)
            own = code(node.target)[len("p_idx, (") :].partition(",")[0]
            in_order(statements(node.body), own)
        elif isinstance(node, cst.BaseComp):
            look(node.for_in.iter, item)
            inside = None if item in comprehension_names(node) else item
            for part in children(node):
                for inner in children(part) if part is node.for_in else (part,):
                    if inner is not node.for_in.iter:
                        look(inner, inside)
        elif isinstance(node, cst.BaseSuite):
            in_order(statements(node), item)
        elif isinstance(node, (cst.Lambda, cst.FunctionDef)):
            named = {p.name.value for p in all_params(node.params)}
            for part in children(node):
                look(part, None if item in named else item)
        else:
            for part in children(node):
                look(part, item)

    def in_order(body: Body, item: str | None) -> None:
        for node in body:
            look(node, item)
            if item in bound_names(node):
                item = None

    in_order(body, None)
    return found[True] - found[False]
