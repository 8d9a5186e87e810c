"""What makes a class mean something else than its text: refused, line by line.

Decorators and metaclasses that may change it, methods through which Python reads and
writes attributes, hooks around its step, attributes that the runtime has of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import libcst as cst

from codegen import optable
from codegen.bindings import dotted
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import Body, is_name, statements
from codegen.upstream import Definition, External, Upstream

_ATTRIBUTES = frozenset(
    "__setattr__ __getattr__ __getattribute__ __delattr__ __new__".split()
)
_HOOKS = frozenset({"register_step_pre_hook", "register_step_post_hook"}) | {
    f"register_optimizer_step_{when}_hook" for when in ("pre", "post")
}
_OWN = frozenset({"shared"})
"""Attributes that a differentiable optimizer has beside torch's."""


def refuse_magic(upstream: Upstream, context: Context) -> None:
    """Refuse what can't be told from the methods' own text."""
    for number, cls in enumerate(upstream.lineage):
        node = cast(cst.ClassDef, cls.node)
        _refuse_decorators(cls, upstream, context)
        _refuse_metaclass(cls, upstream, context)
        for base, found in zip(node.bases, upstream.library.bases(cls)):
            if isinstance(found, External) and found.unsettled is not None:
                context.refuse(
                    "lower",
                    base,
                    f"which class {found.full_name.rpartition('.')[2]} is can't be told"
                    f"{context.where(found.unsettled.node)}",
                    "define the base once, at the top level of its module",
                )
        for method in statements(node.body):
            if isinstance(method, cst.FunctionDef):
                _refuse_method(method, number, context)
        for inner in walk(node):
            _refuse_use(inner, context)
    for where in upstream.given.get(None, []):
        context.refuse(
            "lower",
            where,
            "an attribute of any name is set here: methods may be hidden by it",
            "set attributes by their names",
        )
    context.raise_if_refused()


def _refuse_decorators(cls: Definition, upstream: Upstream, context: Context) -> None:
    for decorator in cast(cst.ClassDef, cls.node).decorators:
        func = decorator.decorator
        name = dotted(func.func if isinstance(func, cst.Call) else func)
        found = upstream.library.resolve(cls.module, name) if name else None
        meant = found.full_name if isinstance(found, External) else ""
        if meant in _PLAIN_DECORATORS:
            continue
        if isinstance(found, Definition) and _hands_back(found.node, func):
            continue
        context.refuse(
            "lower",
            decorator,
            f"{name or 'a decorator'} may change what the class {cls.name} does",
            "do in the class itself what the decorator does",
        )


_PLAIN_DECORATORS = frozenset(
    {"typing.final", "typing_extensions.final", "functools.total_ordering"}
)


def _hands_back(node: cst.CSTNode, used: cst.BaseExpression) -> bool:
    """Whether a decorator returns the class that it is handed, and only keeps it."""
    if not isinstance(node, cst.FunctionDef) or isinstance(used, cst.Call):
        return False
    params = [p.name.value for p in node.params.params]
    if len(params) != 1:
        return False
    allowed = 0
    for inner in walk(node.body):
        if isinstance(inner, (cst.Return, cst.Assign)) and is_name(
            inner.value, params[0]
        ):
            names = isinstance(inner, cst.Return) or not any(
                isinstance(t.target, cst.Name) for t in inner.targets
            )
            allowed += names
        elif isinstance(inner, cst.Attribute) and is_name(inner.value, params[0]):
            allowed += inner.attr.value == "__name__"
    reads = sum(is_name(n, params[0]) for n in walk(node.body))
    returned = [n.value for n in walk(node.body) if isinstance(n, cst.Return)]
    return reads == allowed and len(returned) == 1 and is_name(returned[0], params[0])


def _refuse_metaclass(cls: Definition, upstream: Upstream, context: Context) -> None:
    for keyword in cast(cst.ClassDef, cls.node).keywords:
        name = dotted(keyword.value) or ""
        found = upstream.library.resolve(cls.module, name) if name else None
        if isinstance(found, External) and found.full_name == "abc.ABCMeta":
            continue
        context.refuse(
            "lower",
            keyword.value,
            f"what is made of the class {cls.name} can't be seen",
            "write the class without keywords",
        )


def _refuse_method(method: cst.FunctionDef, number: int, context: Context) -> None:
    name = method.name.value
    if name in _ATTRIBUTES or (name == "__init_subclass__" and number):
        context.refuse(
            "lower",
            method.name,
            f"{name} changes what attributes of the optimizer mean",
            "use plain attributes and properties",
        )


def _refuse_use(node: cst.CSTNode, context: Context) -> None:
    if isinstance(node, cst.Call) and _last(node.func) in _HOOKS:
        context.refuse(
            "lower",
            node,
            "a hook around the step is none of the step's own",
            "do in the step what the hook does",
        )
    elif isinstance(node, cst.Attribute) and is_name(node.value, "self"):
        if node.attr.value in _OWN:
            context.refuse(
                "R3",
                node,
                f"self.{node.attr.value} is an attribute of every differentiable "
                "optimizer",
                "call it by another name",
            )


def _last(func: cst.BaseExpression) -> str:
    if isinstance(func, cst.Attribute):
        return func.attr.value
    return func.value if isinstance(func, cst.Name) else ""


def refuse_patched(upstream: Upstream, context: Context) -> None:
    """Refuse files that give an operation of the table another meaning."""
    for (owner, attribute), node in upstream.library.patches().items():
        name = f"{owner}.{attribute}"
        of_tensors = owner.startswith("torch.") and owner.endswith("Tensor")
        known = optable.method(attribute or "") or optable.attribute(attribute or "")
        if attribute is None:
            hit = of_tensors or owner.partition(".")[0] in optable.MODULES
        else:
            hit = optable.function(name) is not None or of_tensors and known is not None
        if hit:
            context.refuse(
                "lower",
                node,
                f"{name if attribute else owner} is given another meaning here",
                "call what you mean by a name of its own",
            )
    context.raise_if_refused()


# --- what a step reads --------------------------------------------------------------


def refuse_unsettled(body: Body, local: Collection[str], context: Context) -> None:
    """Refuse what a specialized body reads and nobody can tell what it does."""
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, cst.Attribute) and is_name(node.value, "self"):
            why = context.optimizer.unsettled(node.attr.value)
            if why is not None:
                _refuse_read(node, f"self.{node.attr.value}", why, context)
        elif isinstance(node, cst.Call):
            _refuse_unsettled_name(node.func, local, context, called=True)
        elif isinstance(node, cst.Name):
            _refuse_unsettled_name(node, local, context)


def _refuse_unsettled_name(
    node: cst.BaseExpression,
    local: Collection[str],
    context: Context,
    called: bool = False,
) -> None:
    name = (dotted(node) or "").partition(".")[0]
    found = context.globals.get(name) if name not in local else None
    if not isinstance(found, External) or found.unsettled is None:
        return
    if called or found.unsettled.later:
        _refuse_read(node, name, found.unsettled.node, context)


def _refuse_read(
    node: cst.CSTNode, name: str, why: cst.CSTNode, context: Context
) -> None:
    context.refuse(
        "lower",
        node,
        f"what {name} means can't be told: it may be set{context.where(why)}",
        f"set {name} once, where nothing chooses what it is",
    )
