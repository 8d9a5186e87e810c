"""What can be known of a module before it is run: which tests hold, what can be imported.

``sys.version_info >= (3, 10)``, ``find_spec("einops") is not None``, a flag that was set
above, ``hasattr(torch, "compile")``. Torch and the standard library are there, and are
asked; other packages are only looked for: what their import does isn't known.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import operator
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import libcst as cst

from codegen.bindings import dotted
from codegen.source_module import Binding, Import
from codegen.syntax import bare, is_constant

_COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    cst.Equal: operator.eq,
    cst.NotEqual: operator.ne,
    cst.LessThan: operator.lt,
    cst.LessThanEqual: operator.le,
    cst.GreaterThan: operator.gt,
    cst.GreaterThanEqual: operator.ge,
    cst.Is: operator.is_,
    cst.IsNot: operator.is_not,
    cst.In: lambda a, b: a in b,
    cst.NotIn: lambda a, b: a not in b,
}
_PLAIN = (bool, int, float, str, tuple, type(None))


class Undecided(Exception):
    """It takes running the module."""


class Decided:
    """Decisions in one module: ``meaning`` says what its names mean at this place."""

    def __init__(
        self,
        name: str,
        meaning: Callable[[str], Binding | None],
        absolute: Callable[[cst.ImportFrom], str],
        is_read: Callable[[str], bool | None],
    ) -> None:
        self.name = name
        self.meaning = meaning
        self.absolute = absolute
        self.is_read = is_read
        """Whether a package is read from source given by the user (True), surely is
        nowhere (False), or is as installed."""

    def truth(self, node: cst.BaseExpression) -> bool | None:
        try:
            return bool(self._value(node))
        except Exception:  # whatever a comparison of strange things raises
            return None

    def imports(self, node: cst.Import | cst.ImportFrom) -> bool | None:
        if isinstance(node, cst.Import):
            found = [self._is_there(dotted(a.name) or "") for a in node.names]
        elif isinstance(node.names, cst.ImportStar):
            found = [self._is_there(self.absolute(node))]
        else:
            source = self.absolute(node)
            names = [str(a.name.value) for a in node.names]
            found = [self._is_there(source, name) for name in names]
        if False in found:
            return False
        return None if None in found else True

    def _is_there(self, module: str, attribute: str | None = None) -> bool | None:
        top = module.partition(".")[0]
        read = self.is_read(top)
        if read is not None:
            return None if read else False
        if top != "torch" and top not in sys.stdlib_module_names:
            return False if _spec(top) is None else None
        if module.startswith("torch.distributed"):
            return None  # not every build has it, and its import takes seconds
        try:
            found = _imported(module)
            if attribute is None or hasattr(found, attribute):
                return True
            inside = hasattr(found, "__path__") and _spec(f"{module}.{attribute}")
            return None if inside else False
        except ImportError:
            return False
        except Exception:
            return None

    # --- values

    def _value(self, node: cst.BaseExpression) -> Any:
        node = cast(cst.BaseExpression, bare(node))
        if is_constant(node) and not isinstance(node, cst.Ellipsis):
            return _literal(node)
        if isinstance(node, cst.Tuple):
            return tuple(self._value(e.value) for e in node.elements)
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            return not self._value(node.expression)
        if isinstance(node, cst.BooleanOperation):
            left = self._value(node.left)
            goes_on = bool(left) == isinstance(node.operator, cst.And)
            return self._value(node.right) if goes_on else left
        if isinstance(node, cst.Comparison):
            return self._compared(node)
        if isinstance(node, cst.Call):
            return self._called(node)
        if isinstance(node, cst.Subscript) and len(node.slice) == 1:
            index = node.slice[0].slice
            if isinstance(index, cst.Index):
                return self._value(node.value)[self._value(index.value)]
        if isinstance(node, (cst.Name, cst.Attribute)):
            return self._named(node)
        raise Undecided

    def _compared(self, node: cst.Comparison) -> bool:
        left = self._value(node.left)
        for part in node.comparisons:
            right = self._value(part.comparator)
            if not _COMPARISONS[type(part.operator)](left, right):
                return False
            left = right
        return True

    def _named(self, node: cst.Name | cst.Attribute) -> Any:
        if isinstance(node, cst.Name):
            if node.value == "__name__":
                return self.name
            meant = self.meaning(node.value)
            if isinstance(meant, cst.BaseExpression):
                return self._value(meant)
        value = self._object(self._full_name(node))
        value = tuple(value) if _is_version(value) else value
        if not isinstance(value, _PLAIN):
            raise Undecided
        return value

    def _called(self, node: cst.Call) -> Any:
        name = self._full_name(node.func)
        args = [a.value for a in node.args if a.keyword is None and not a.star]
        if len(args) != len(node.args):
            raise Undecided
        if name == "importlib.util.find_spec" and len(args) == 1:
            package = self._value(args[0])
            if "." in package or self.is_read(package):
                raise Undecided
            return _spec(package)
        if name == "hasattr" and len(args) == 2:
            owner = self._object(self._full_name(args[0]))
            return hasattr(owner, self._value(args[1]))
        raise Undecided

    def _full_name(self, node: cst.CSTNode) -> str:
        name = dotted(node)
        if name is None:
            raise Undecided
        head, dot, rest = name.partition(".")
        meant = self.meaning(head)
        if isinstance(meant, Import):
            inside = f".{meant.attr}" if meant.attr else ""
            return f"{meant.module}{inside}{dot}{rest}"
        if meant is not None:
            raise Undecided
        return name

    def _object(self, name: str) -> Any:
        """A thing of torch's or the standard library's."""
        top, _, rest = name.partition(".")
        ours = top == "torch" or top in sys.stdlib_module_names
        if not ours or self.is_read(top) is not None:
            raise Undecided
        found: Any = _imported(top)
        for part in rest.split(".") if rest else ():
            found = getattr(found, part)
        return found


def _is_version(value: object) -> bool:
    return type(value) is type(sys.version_info)


def _literal(node: cst.BaseExpression) -> Any:
    return ast.literal_eval(cst.Module([]).code_for_node(node))


def _spec(package: str) -> object | None:
    try:
        return importlib.util.find_spec(package)
    except ValueError:  # a module without one, such as __main__
        raise Undecided from None


def _imported(module: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def exports(module: str, name: str) -> bool:
    """Whether ``from module import *`` binds a name, of torch or the standard library."""
    top = module.partition(".")[0]
    if top != "torch" and top not in sys.stdlib_module_names:
        return False
    try:
        found = _imported(module)
    except Exception:
        return False
    public = getattr(found, "__all__", None)
    if public is None:
        return not name.startswith("_") and hasattr(found, name)
    return name in public
