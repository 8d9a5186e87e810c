"""One spelling for each operation, before anything else looks at a function.

    torch.Tensor.mul_(m, b)          →   m.mul_(b)
    getattr(m, "mul_")(b)            →   m.mul_(b)
    operator.imul(m, b)              →   m.mul_(b)
    m @= b                           →   m = m @ b
    F.relu(x, inplace=True)          →   x.copy_(F.relu(x))
    decay = m.mul_                   →   decay_of = m
    decay(b)                             decay_of.mul_(b)
    decay = lambda t: t.mul_(b)      →   def decay(t): return t.mul_(b)
    used and m.mul_(b)               →   if used: m.mul_(b)
    x[0], p.data = y, z              →   one, two = y, z; x[0] = one; p.data = two
    match mode:                      →   if mode == "sign": …
        case "sign": …

What is left in another spelling (a method that is handed on, ``getattr`` of a name that
is computed) is refused where it stands, by R4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.patterns import both, captured, test_of
from codegen.lower.tuples import one_by_one
from codegen.optable import Write
from codegen.purity import pure
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    assignment,
    block,
    bound_names,
    code,
    expr,
    is_name,
    map_bodies,
    method,
    negate,
    parenthesize,
    positional,
    read_names,
    replace_nodes,
    small,
    statements,
    stmt,
    with_comments,
)

Resolve = Callable[[cst.CSTNode], "str | None"]

_IN_PLACE = {
    "iadd": "add_",
    "isub": "sub_",
    "imul": "mul_",
    "itruediv": "div_",
    "ifloordiv": "floor_divide_",
    "imod": "remainder_",
    "ipow": "pow_",
    "iand": "bitwise_and_",
    "ior": "bitwise_or_",
    "ixor": "bitwise_xor_",
}
"""Python's augmented operators and the tensor methods that they call."""


def spelled(body: Body, context: Context, resolve: Resolve) -> Body:
    """``body`` in the spellings that the passes know; ``resolve`` gives the full name
    of what an expression denotes at module level."""
    return _Spelling(context, resolve).function(body)


class _Spelling:
    def __init__(self, context: Context, resolve: Resolve) -> None:
        self.context = context
        self.origins = context.origins
        self.resolve = resolve
        self.own: set[str] = set()

    def function(self, body: Body) -> Body:
        self.own = bound_names(block(body))
        body = self._block(body)
        return self._without_bound_methods(body)

    def _block(self, body: Sequence[Statement]) -> Body:
        return tuple(
            self._origin(new, node) for node in body for new in self._statement(node)
        )

    def _origin(self, new: Statement, old: cst.CSTNode) -> Statement:
        self.origins.inherit(new, old)
        return new

    def _statement(self, node: Statement) -> Sequence[Statement]:
        if isinstance(node, cst.Match):
            branches = self._match(node)
            return [node] if branches is None else self._block(branches)
        apart = one_by_one(node, self.context)
        if len(apart) > 1:
            return self._block(apart)
        (node,) = apart
        if small(node) is None:
            node = cast(Statement, self._calls(node))
            return [map_bodies(node, self._block)]
        chosen = self._chosen(node)
        if chosen is not None:
            return self._block([chosen])
        node = self._rebinding(cast(Statement, self._calls(node)))
        return self._clipped(node) or [_as_function(node) or _item_store(node) or node]

    def _rebinding(self, node: Statement) -> Statement:
        """``q @= x`` writes into no tensor: torch has no ``__imatmul__``."""
        inner = small(node)
        if not isinstance(inner, cst.AugAssign):
            return node
        if not isinstance(inner.operator, cst.MatrixMultiplyAssign):
            return node
        target = cast(cst.BaseExpression, inner.target)
        if not pure(target):
            self.context.refuse(
                "lower",
                target,
                "what is assigned to here is looked up twice, and looking it up does "
                "something",
                "give it a name first",
            )
            return node
        value = parenthesize(inner.value)
        product = cst.BinaryOperation(target, cst.MatrixMultiply(), value)
        return with_comments(assign([target.deep_clone()], product), node)

    # --- calls

    def _calls(self, node: cst.CSTNode) -> cst.CSTNode:
        if not any(isinstance(n, cst.Call) for n in walk(node)):
            return node
        return replace_nodes(node, self._call, self.origins)

    def _call(self, node: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(node, cst.Call):
            return None
        if is_name(node.func, "getattr") and "getattr" not in self.own:
            return _attribute(node)
        if isinstance(node.func, cst.Attribute):
            dunder = node.func.attr.value
            if dunder.startswith("__i") and dunder[2:-2] in _IN_PLACE:
                return method(node.func.value, _IN_PLACE[dunder[2:-2]], node.args)
            if dunder == "__getitem__" and len(node.args) == 1:
                return expr(f"{code(node.func.value)}[{code(node.args[0].value)}]")
        name = self._full_name(node.func)
        if name is None:
            return None
        module, _, last = name.rpartition(".")
        if module in ("torch.Tensor", "torch._C.TensorBase") and node.args:
            return self._unbound(node, last)
        if module in ("operator", "_operator") and last in _IN_PLACE:
            return self._unbound(node, _IN_PLACE[last])
        return self._switched_in_place(node, name)

    def _full_name(self, func: cst.BaseExpression) -> str | None:
        names = read_names(func)
        if names & self.own:
            return None
        return self.resolve(func)

    def _unbound(self, node: cst.Call, name: str) -> cst.CSTNode | None:
        first, *rest = node.args
        if first.keyword is not None or first.star:
            return None
        return method(parenthesize(first.value), name, rest)

    def _switched_in_place(self, node: cst.Call, name: str) -> cst.CSTNode | None:
        """``F.relu(x, inplace=True)`` writes into x what ``F.relu(x)`` computes."""
        operation = optable.function(name)
        if operation is None or not any(p.inplace for p in operation.parameters):
            return None
        bound = operation.bind(node.args)
        written = [] if bound is None else list(operation.written(bound))
        if len(written) != 1 or written[0].what is not Write.ITSELF:
            return None
        if not pure(written[0].argument):
            self.context.refuse(
                "R4",
                node,
                "what this call changes is looked up twice, and looking it up does "
                "something",
                "give it a name first",
            )
            return None
        if written[0].unless_false is not None:
            self.context.refuse(
                "R4",
                node,
                "whether this call changes its argument is decided at run time",
                "write inplace=True or leave it out",
            )
            return None
        switch = next(p for p in operation.parameters if p.inplace)
        args = [
            a.with_changes(comma=cst.MaybeSentinel.DEFAULT)
            for a in node.args
            if a.value is not (bound or {}).get(switch.name)
        ]
        value = node.with_changes(args=args)
        return method(written[0].argument.deep_clone(), "copy_", [cst.Arg(value)])

    # --- gradients that torch.nn.utils clips

    def _clipped(self, node: Statement) -> list[Statement] | None:
        """``clip_grad_norm_`` and ``clip_grad_value_``, written out."""
        inner = small(node)
        value = getattr(inner, "value", None)
        if not isinstance(inner, (cst.Expr, cst.Assign)):
            return None
        if not isinstance(value, cst.Call):
            return None
        name = (self._full_name(value.func) or "").rpartition(".")[2]
        operation = optable.function(f"torch.nn.utils.{name}")
        if name not in _CLIPPING or operation is None:
            return None
        bound = operation.bind(value.args)
        walked = None if bound is None else bound.get("parameters")
        if bound is None or walked is None or not code(walked).endswith('["params"]'):
            return None
        text = _CLIPPING[name].format(
            params=code(walked),
            norm=self.context.fresh("norm"),
            coef=self.context.fresh("coef"),
            p=self.context.fresh("p"),
            **{k: code(v) for k, v in _LIMITS.items() if k not in bound},
            **{k: code(v) for k, v in bound.items() if k != "parameters"},
        )
        lines: list[Statement] = list(cst.parse_module(text).body)
        if isinstance(inner, cst.Assign):
            norm = cast(tuple[cst.BaseExpression, ...], assignment(lines[0]))
            lines.append(inner_line(inner, norm[0]))
        return [with_comments(lines[0], node), *lines[1:]]

    # --- bound methods and lambdas

    def _without_bound_methods(self, body: Body) -> Body:
        """``op = m.mul_`` keeps m, and each ``op(…)`` calls the method of that."""
        found: dict[str, list[cst.BaseExpression]] = {}
        for node in all_statements(body):
            pair = assignment(node)
            for name in bound_names(node) if small(node) is not None else ():
                plain = pair is not None and is_name(pair[0], name)
                value = pair[1] if pair is not None and plain else cst.Name(name)
                found.setdefault(name, []).append(value)
        heads = [n for s in all_statements(body) if small(s) is None for n in _heads(s)]
        for name, values in found.items():
            methods = {_method_of(v) for v in values}
            (only,) = methods if len(methods) == 1 else (None,)
            if only is None or name in heads or not _only_called(name, body):
                continue
            body = self._with_receiver(body, name, only)
        return body

    def _with_receiver(self, body: Body, name: str, called: str) -> Body:
        held = f"{name}_of"
        while held in self.own:
            held += "_"
        self.own.add(held)

        def replace(node: cst.CSTNode) -> cst.CSTNode | None:
            if isinstance(node, cst.Call) and is_name(node.func, name):
                return method(cst.Name(held), called, node.args)
            if isinstance(node, cst.Assign) and _method_of(node.value) == called:
                if is_name(node.targets[0].target, name):
                    bound = cast(cst.Attribute, node.value)
                    return cst.Assign([cst.AssignTarget(cst.Name(held))], bound.value)
            return None

        return tuple(
            cast(Statement, replace_nodes(s, replace, self.origins)) for s in body
        )

    # --- choices

    def _chosen(self, node: Statement) -> Statement | None:
        """``a and b()`` and ``b() if a else c()`` that stand for their effect."""
        inner = small(node)
        if not isinstance(inner, cst.Expr):
            return None
        value = inner.value
        if isinstance(value, cst.BooleanOperation):
            test = value.left
            if isinstance(value.operator, cst.Or):
                test = negate(test)
            return _if(_bare(test), value.right, None, node)
        if isinstance(value, cst.IfExp):
            return _if(value.test, value.body, value.orelse, node)
        return None

    def _match(self, node: cst.Match) -> list[Statement] | None:
        """A chain of ``if``; None where a pattern takes things apart."""
        subject = node.subject
        prelude: list[Statement] = []
        guards = [c.guard for c in node.cases if c.guard is not None]
        rebound = set().union(*map(bound_names, guards), set())
        if not isinstance(subject, cst.Name) or subject.value in rebound:
            name = cst.Name(self.context.fresh("matched"))
            prelude = [assign([name], subject)]
            subject = name
        chain: cst.If | cst.Else | None = None
        for case in reversed(node.cases):
            test = test_of(case.pattern, subject)
            if test is None:
                self._refuse_pattern(case.pattern)
                return None
            binds = captured(case.pattern, subject)
            body = block([*binds, *statements(case.body)])
            if case.guard is not None:
                if binds:
                    self._refuse_pattern(case.pattern)
                    return None
                test = both(test, case.guard)
            if is_name(test, "True"):
                chain = cst.Else(body)
                continue
            chain = cst.If(test, body, chain)
            self.origins.inherit(chain, case)
        if isinstance(chain, cst.Else):
            return [*prelude, *statements(chain.body)]
        assert chain is not None
        lines = [*prelude, chain]
        return [with_comments(lines[0], node), *lines[1:]]

    def _refuse_pattern(self, pattern: cst.CSTNode) -> None:
        self.context.refuse(
            "lower",
            pattern,
            "a pattern that takes its subject apart isn't translated",
            "match plain values, or write it with if",
        )


_CLIPPING = {
    "clip_grad_norm_": """\
{norm} = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm({p}.grad, {norm_type}) for {p} in {params} if {p}.grad is not None]), {norm_type})
{coef} = torch.clamp({max_norm} / ({norm} + 1e-6), max=1.0)
for {p} in {params}:
    if {p}.grad is None:
        continue
    {p}.grad.mul_({coef})
""",
    "clip_grad_value_": """\
for {p} in {params}:
    if {p}.grad is None:
        continue
    {p}.grad.clamp_(-{clip_value}, {clip_value})
""",
}
"""What torch.nn.utils does to the gradients of a list of parameters."""

_LIMITS = {"norm_type": cst.Float("2.0")}


def inner_line(node: cst.Assign, value: cst.BaseExpression) -> Statement:
    """The same assignment, of another value."""
    return cst.SimpleStatementLine([node.with_changes(value=value)])


def _attribute(node: cst.Call) -> cst.CSTNode | None:
    """``getattr(x, "name")`` → ``x.name``; of the optimizer itself, others ask."""
    args = positional(node)
    if len(args) != 2 or len(node.args) != 2 or is_name(args[0], "self"):
        return None
    if not isinstance(args[1], cst.SimpleString):
        return None
    name = str(args[1].evaluated_value)
    if not name.isidentifier():
        return None
    return cst.Attribute(parenthesize(args[0]), cst.Name(name))


def _item_store(node: Statement) -> Statement | None:
    """``x.__setitem__(k, v)`` → ``x[k] = v``."""
    value = getattr(small(node), "value", None)
    if not isinstance(value, cst.Call) or not isinstance(value.func, cst.Attribute):
        return None
    if value.func.attr.value != "__setitem__" or len(value.args) != 2:
        return None
    key, new = (a.value for a in value.args)
    target = expr(f"{code(value.func.value)}[{code(key)}]")
    return with_comments(assign([target], new), node)


def _as_function(node: Statement) -> Statement | None:
    """A lambda that changes something, with a name, is a function."""
    pair = assignment(node)
    if pair is None or not isinstance(pair[0], cst.Name):
        return None
    value = pair[1]
    if not isinstance(value, cst.Lambda) or not any(map(_changes, walk(value.body))):
        return None
    params = code(value.params)
    text = f"def {pair[0].value}({params}):\n    return {code(_bare(value.body))}\n"
    return with_comments(stmt(text), node)


def _changes(node: cst.CSTNode) -> bool:
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return False
    name = node.func.attr.value
    found = (optable.method(name), optable.container_method(name))
    return any(operation is not None and operation.in_place for operation in found)


def _method_of(node: cst.BaseExpression) -> str | None:
    """``mul_`` for ``m.mul_``: a method that is not called yet."""
    if not isinstance(node, cst.Attribute):
        return None
    name = node.attr.value
    if optable.method(name) is None and optable.container_method(name) is None:
        return None
    return None if is_name(node.value, "torch") or is_name(node.value, "self") else name


def _only_called(name: str, body: Body) -> bool:
    """Whether a variable is read only to be called."""
    called = {
        n.func
        for s in body
        for n in walk(s)
        if isinstance(n, cst.Call) and is_name(n.func, name)
    }
    bound = {n.target for s in body for n in walk(s) if isinstance(n, cst.AssignTarget)}
    named = [n for s in body for n in walk(s) if is_name(n, name)]
    labels = {
        n.attr if isinstance(n, cst.Attribute) else n.keyword
        for s in body
        for n in walk(s)
        if isinstance(n, (cst.Attribute, cst.Arg))
    }
    return bool(called) and all(n in called | bound | labels for n in named)


def _heads(node: Statement) -> Iterator[str]:
    """Names that the head of a compound statement binds."""
    if isinstance(node, cst.For):
        yield from bound_names(cst.AssignTarget(node.target))
    elif isinstance(node, cst.FunctionDef):
        yield node.name.value
    elif isinstance(node, cst.With):
        for item in node.items:
            yield from bound_names(item)


def _if(
    test: cst.BaseExpression,
    body: cst.BaseExpression,
    orelse: cst.BaseExpression | None,
    like: Statement,
) -> Statement:
    def line(value: cst.BaseExpression) -> cst.IndentedBlock:
        return block([cst.SimpleStatementLine([cst.Expr(_bare(value))])])

    rest = None if orelse is None else cst.Else(line(orelse))
    return with_comments(cst.If(test, line(body), rest), like)


def _bare(node: cst.BaseExpression) -> cst.BaseExpression:
    return node.with_changes(lpar=(), rpar=()) if getattr(node, "lpar", None) else node
