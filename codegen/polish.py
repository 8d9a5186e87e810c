"""Lines that a reviewer would strike, and nothing that changes a value.

value=(-lr * mu)                      →   value=-lr * mu
x.addcmul(g, g, value=1)                  x.addcmul(g, g)
x.add(y, alpha=-1.0)                      x.sub(y)
del a, b

amsgrad = group["amsgrad"]            →   amsgrad = group["amsgrad"]
if group["amsgrad"]: …                    if amsgrad: …
step = state["step"]                  →   state["step"] = state["step"] + 1
state["step"] = step + 1
buf = grad.clone()                    →   state["m"] = buf = grad.clone()
state["m"] = buf
grad = grad.clone()                   →   grad = ops.setitem(grad, mask, 0)
grad = ops.setitem(grad, mask, 0)
u = u.mul(beta)                       →   u = torch.maximum(u.mul(beta), v)
u = torch.maximum(u, v)

All of it stands after the rules: nothing is written into any more, so that a tensor and
its copy are alike, and a name and what it was bound to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import Origins, walk
from codegen.ir.loops import Loop
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    bound_names,
    code,
    dotted,
    expr,
    is_name,
    map_bodies,
    read_names,
    replace_nodes,
    same,
    small,
    string_key,
    target_names,
)

GROUPS = "self.param_groups"
_WALKS = (cst.For, cst.CompFor)
_SCALED = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}
_NEEDS_PARENTHESES = (cst.Tuple, cst.GeneratorExp, cst.NamedExpr, cst.Yield)


def respell(body: Body, context: Context) -> Body:
    """Parentheses, defaults and ``del`` that say nothing are left out."""
    kept = _comments_above(_without_del(body), context.origins)
    return tuple(
        cast(Statement, replace_nodes(s, _respelled, context.origins)) for s in kept
    )


_WIDTH = 88


def _comments_above(
    body: Sequence[Statement], origins: Origins, indent: int = 8
) -> Body:
    """Comments beside lines that are too long for them stand above."""
    result: list[Statement] = []
    for node in body:
        if small(node) is None:
            node = map_bodies(
                node, lambda part: _comments_above(part, origins, indent + 4)
            )
        elif isinstance(node, cst.SimpleStatementLine):
            comment = node.trailing_whitespace.comment
            plain = node.with_changes(leading_lines=())
            if comment is not None and indent + len(code(plain).strip()) > _WIDTH:
                new = node.with_changes(
                    leading_lines=[*node.leading_lines, cst.EmptyLine(comment=comment)],
                    trailing_whitespace=cst.TrailingWhitespace(),
                )
                origins.inherit(new, node)
                node = new
        result.append(node)
    return tuple(result)


def _without_del(body: Sequence[Statement]) -> Body:
    return tuple(
        map_bodies(node, _without_del) if small(node) is None else node
        for node in body
        if not _deletes_names(small(node))
    )


def _deletes_names(node: cst.CSTNode | None) -> bool:
    if not isinstance(node, cst.Del):
        return False
    target = node.target
    if isinstance(target, cst.Tuple):
        return all(isinstance(e.value, cst.Name) for e in target.elements)
    return isinstance(target, cst.Name)


def _respelled(node: cst.CSTNode) -> cst.CSTNode | None:
    if isinstance(node, cst.Arg):
        value = node.value
        if not value.lpar or isinstance(value, _NEEDS_PARENTHESES):
            return None
        if "#" in code(value):
            return None
        return node.with_changes(value=value.with_changes(lpar=(), rpar=()))
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        return _plainer(node, node.func)
    return None


def _plainer(node: cst.Call, func: cst.Attribute) -> cst.CSTNode | None:
    """A scaled sum without a factor that is one, or as a difference."""
    word = _SCALED.get(func.attr.value)
    last = node.args[-1] if node.args else None
    if last is None or word is None or not is_name(last.keyword, word):
        return None
    rest = [*node.args[:-1]]
    rest[-1:] = [a.with_changes(comma=cst.MaybeSentinel.DEFAULT) for a in rest[-1:]]
    if isinstance(last.value, cst.Integer) and last.value.value == "1":
        return node.with_changes(args=rest)
    if func.attr.value == "add" and code(last.value) == "-1.0" and len(rest) == 1:
        return node.with_changes(
            func=func.with_changes(attr=cst.Name("sub")), args=rest
        )
    return None


def with_scalars(node: cst.FunctionDef, origins: Origins) -> cst.FunctionDef:
    """``lr: float`` of a helper that may be handed a tensor: ``lr: ops.Scalar``."""

    def name(inner: cst.CSTNode) -> cst.CSTNode | None:
        return expr("ops.Scalar") if is_name(inner, "float") else None

    def annotated(inner: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(inner, cst.Annotation):
            return None
        new = replace_nodes(inner, name, origins)
        return None if new is inner else new

    return cst.ensure_type(replace_nodes(node, annotated, origins), cst.FunctionDef)


# --- variables ------------------------------------------------------------------


def reuse_variables(body: Body, context: Context) -> Body:
    """What has a name is not looked up again, and no name stands for one use."""
    while True:
        polished = _Polisher(body, context.origins)
        new = polished.block(body)
        if not polished.changed:
            return new
        body = new


class _Polisher:
    """One pass over a body, with how often its names are bound and read."""

    def __init__(self, body: Body, origins: Origins) -> None:
        self.origins = origins
        self.changed = False
        self.bound = Counter(_bindings(body))
        nodes = [n for s in body for n in walk(s)]
        self.read = Counter(n.value for n in nodes if isinstance(n, cst.Name))
        groups = _groups(nodes)
        stored = any(_changes_group(n, groups) for n in nodes)
        self.group_changes = stored or _escapes(nodes, groups)

    def block(self, body: Sequence[Statement]) -> Body:
        done: list[Statement] = []
        settings: dict[str, str] = {}
        for node in body:
            node = self._with_names(node, settings)
            if small(node) is None:
                node = map_bodies(node, self.block)
            merged = self._merged(done[-1], node) if done else None
            if merged is not None:
                self.changed = True
                self.origins.inherit(merged, node)
                done[-1] = merged
                continue
            done = self._own_values(done, node)
            self._note_setting(node, settings)
        return tuple(done)

    # --- settings

    def _note_setting(self, node: Statement, settings: dict[str, str]) -> None:
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name) or self.group_changes:
            return
        if _of_group(pair[1]) and self.bound[pair[0].value] == 1:
            settings.setdefault(code(pair[1]), pair[0].value)

    def _with_names(self, node: Statement, settings: dict[str, str]) -> Statement:
        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if not _of_group(inner) or code(inner) not in settings:
                return None
            self.changed = True
            return cst.Name(settings[code(inner)])

        inner = _inner_names(node)
        settings = {k: v for k, v in settings.items() if v not in inner}
        if not settings or "group" in inner:
            return node
        return cast(Statement, replace_nodes(node, replace, self.origins))

    # --- statements beside each other

    def _merged(self, first: Statement, second: Statement) -> Statement | None:
        """Two statements as one."""
        pair, then = assignment(first), small(second)
        if pair is None or not isinstance(pair[0], cst.Name):
            return None
        if not isinstance(then, cst.Assign) or _has_comments(second):
            return None
        name, value = pair[0].value, pair[1]
        new = (
            self._stored_at_once(name, value, then)
            or self._without_clone(name, value, then)
            or self._inside(name, value, then)
        )
        return None if new is None else first.with_changes(body=[new])

    def _stored_at_once(
        self, name: str, value: cst.BaseExpression, then: cst.Assign
    ) -> cst.Assign | None:
        """``x = v``, ``s["k"] = x`` → ``s["k"] = x = v``."""
        if not is_name(then.value, name) or len(then.targets) != 1:
            return None
        target = then.targets[0].target
        if not isinstance(target, cst.Subscript) or name in read_names(target):
            return None
        return cst.Assign([then.targets[0], cst.AssignTarget(cst.Name(name))], value)

    def _without_clone(
        self, name: str, value: cst.BaseExpression, then: cst.Assign
    ) -> cst.Assign | None:
        """A copy that is made of a copy: ``ops.setitem`` leaves ``x`` as it is."""
        if not isinstance(value, cst.Call) or dotted(value.func) != f"{name}.clone":
            return None
        plain = all(code(a.value) == "torch.preserve_format" for a in value.args)
        used = then.value
        if not plain or not isinstance(used, cst.Call) or not _binds(then, name):
            return None
        first = used.args[0].value if used.args else None
        whole = dotted(used.func) == "ops.setitem" and is_name(first, name)
        return then if whole else None

    def _inside(
        self, name: str, value: cst.BaseExpression, then: cst.Assign
    ) -> cst.Assign | None:
        """``x = x.mul(b)``, ``x = torch.maximum(x, y)``: one expression."""
        used = then.value
        if not isinstance(value, cst.Call) or not isinstance(used, cst.Call):
            return None
        receiver = value.func.value if isinstance(value.func, cst.Attribute) else None
        if not is_name(receiver, name) or not _binds(then, name) or not used.args:
            return None
        function = (dotted(used.func) or "").partition(".")[0]
        reads = sum(is_name(n, name) for n in walk(used))
        if function != "torch" or reads != 1 or not is_name(used.args[0].value, name):
            return None
        args = [used.args[0].with_changes(value=value), *used.args[1:]]
        return then.with_changes(value=used.with_changes(args=args))

    # --- slots

    def _own_values(self, done: list[Statement], node: Statement) -> list[Statement]:
        """``step = state["step"]``, … ``state["step"] = step + 1``: the name goes."""
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Subscript):
            for at in reversed(range(len(done))):
                before = assignment(done[at])
                if before is not None and same(before[1], pair[0]):
                    if self._is_for(before[0], pair[1], done[at]):
                        self.changed = True
                        names = {cast(cst.Name, before[0]).value: before[1]}
                        new = cst.Assign([cst.AssignTarget(pair[0])], pair[1])
                        new = cast(cst.Assign, substitute(new, names, self.origins))
                        kept = [*done[:at], *done[at + 1 :]]
                        return [*kept, node.with_changes(body=[new])]
                if _may_store(done[at], pair[0]):
                    break
        return [*done, node]

    def _is_for(
        self, target: cst.BaseExpression, value: cst.BaseExpression, line: Statement
    ) -> bool:
        """Whether a name is bound once, and read once, by ``value``."""
        if not isinstance(target, cst.Name) or _has_comments(line):
            return False
        name = target.value
        reads = sum(is_name(n, name) for n in walk(value))
        return self.bound[name] == 1 and self.read[name] == 2 and reads == 1


def _binds(node: cst.Assign, name: str) -> bool:
    return any(is_name(t.target, name) for t in node.targets)


def _has_comments(node: Statement) -> bool:
    trailing = getattr(node, "trailing_whitespace", None)
    beside = trailing is not None and trailing.comment is not None
    return beside or any(line.comment is not None for line in node.leading_lines)


def _of_group(node: cst.CSTNode) -> bool:
    return (
        isinstance(node, cst.Subscript)
        and is_name(node.value, "group")
        and string_key(node) not in (None, "params")
    )


def _changes_group(node: cst.CSTNode, groups: set[cst.CSTNode]) -> bool:
    """Whether a setting of one of these ``groups`` is stored; what isn't seen through
    may store one, too."""
    if isinstance(node, cst.AssignTarget):
        return any(
            isinstance(n, cst.Subscript)
            and (n.value in groups or dotted(n.value) == GROUPS)
            and string_key(n) != "params"
            for n in walk(node)
        )
    return isinstance(node, (cst.Del, cst.AugAssign))


def _groups(nodes: Sequence[cst.CSTNode]) -> set[cst.CSTNode]:
    """Expressions that denote a group: of the loop around them, of another loop, or by
    its number."""
    items = (i for n in nodes if isinstance(n, _WALKS) for i in Loop.of(n).items)
    walked = (i.target for i in items if dotted(i.source) == GROUPS)
    names = {"group", *(n for target in walked for n in target_names(target))}
    return {
        n
        for n in nodes
        if (isinstance(n, cst.Name) and n.value in names)
        or (isinstance(n, cst.Subscript) and dotted(n.value) == GROUPS)
    }


def _escapes(nodes: Sequence[cst.CSTNode], groups: set[cst.CSTNode]) -> bool:
    """Whether a group, or all of them, may be used as a whole, under whatever name: but
    for being walked, a key is looked up, and no other method called."""
    looked_into = {n.value for n in nodes if isinstance(n, cst.Subscript)}
    looked_into |= {
        n.value
        for n in nodes
        if isinstance(n, cst.Attribute) and is_name(n.attr, "get")
    }
    heads = {head for n in nodes if isinstance(n, _WALKS) for head in walk(n.target)}
    items = (i for n in nodes if isinstance(n, _WALKS) for i in Loop.of(n).items)
    heads |= {i.source for i in items}
    whole = {n for n in nodes if dotted(n) == GROUPS}
    counted = {
        a.value
        for n in nodes
        if isinstance(n, cst.Call) and is_name(n.func, "len")
        for a in n.args
    }
    return not {*groups, *whole - counted} <= looked_into | heads


def _inner_names(node: cst.CSTNode) -> set[str]:
    """Names that loops, comprehensions and functions inside bind for themselves."""
    found: set[str] = set()
    for inner in walk(node):
        if isinstance(inner, (cst.For, cst.CompFor)):
            found |= {*target_names(inner.target)}
        elif isinstance(inner, cst.Param):
            found.add(inner.name.value)
    return found


def _may_store(node: Statement, slot: cst.Subscript) -> bool:
    """Whether a statement may store into a slot, or be one that does who knows what."""
    key = string_key(slot)
    for inner in walk(node):
        if isinstance(inner, cst.AssignTarget):
            for part in walk(inner.target):
                if isinstance(part, cst.Subscript) and string_key(part) in (None, key):
                    return True
                if isinstance(part, cst.Name) and part.value in read_names(slot):
                    if part is inner.target:
                        return True
        elif isinstance(inner, (cst.Expr, cst.Del, cst.AugAssign, cst.FunctionDef)):
            return True
    return key is None


def _bindings(body: Body) -> Iterator[str]:
    for node in all_statements(body):
        inner = small(node)
        if inner is not None:
            yield from bound_names(inner)
        elif isinstance(node, cst.For):
            yield from target_names(node.target)
            yield from target_names(node.target)  # bound anew in each iteration
        elif isinstance(node, cst.FunctionDef):
            yield from bound_names(node.body)
