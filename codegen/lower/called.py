"""Which function of upstream's a call is of."""

from __future__ import annotations

import libcst as cst

from codegen.constructor import attribute_function
from codegen.lower.facts import STEP_DECORATORS
from codegen.lower.frame import Frame
from codegen.syntax import dotted, is_name
from codegen.upstream import Definition


def called(node: cst.Call, frame: Frame) -> Definition | None:
    """The function whose source is at hand, by a name, through ``self`` or ``super()``."""
    upstream, name = frame.context.optimizer, dotted(node.func)
    if name is None:
        return _super_method(node, frame)
    if name.startswith("self.") and name.count(".") == 1:
        return upstream.method(name[5:]) or attribute_function(upstream, name[5:])
    constant = frame.constants.get(name)
    if isinstance(constant, Definition):
        return constant
    found = frame.resolve(node.func)
    if found is None and name not in frame.local:
        found = frame.context.globals.get(name)
    if isinstance(found, Definition) and isinstance(found.node, cst.FunctionDef):
        return found
    return None


def computes_the_same(function: cst.FunctionDef, frame: Frame) -> bool:
    """Whether a function's decorators leave what it computes as it is."""
    funcs = (d.decorator for d in function.decorators)
    bare = (f.func if isinstance(f, cst.Call) else f for f in funcs)
    return all(frame.full_name(f) in STEP_DECORATORS for f in bare)


def _super_method(node: cst.Call, frame: Frame) -> Definition | None:
    func = node.func
    if not isinstance(func, cst.Attribute) or not isinstance(func.value, cst.Call):
        return None
    if not is_name(func.value.func, "super") or frame.owner is None:
        return None
    class_name = frame.owner.name.partition(".")[0]
    upstream = frame.context.optimizer
    for cls in upstream.lineage:
        if cls.name == class_name:
            return upstream.method(func.attr.value, after=cls)
    return None
