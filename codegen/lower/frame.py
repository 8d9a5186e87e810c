"""What is known at one point of a function while it is specialized."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import TypeAlias

import libcst as cst

from codegen.bindings import walrus_names
from codegen.context import Context
from codegen.lower.blocks import WHOLE
from codegen.syntax import Body, bare, dotted, ends, expr, is_name, string_key
from codegen.upstream import Definition, External, Resolved, SourceModule


class Unknown:
    """The value of an expression that isn't known before run time."""


NOT_KNOWN = Unknown()


class Kind(enum.Enum):
    """What sort of thing an expression yields, as far as a step asks for it."""

    PLAIN = "no tensor, if the settings are none"
    TENSOR = "a tensor"
    TENSOR_OR_NONE = "a tensor, or None"


@dataclass(frozen=True)
class Whole:
    """What belongs to the optimizer as a whole, such as ``self.param_groups``."""

    text: str


Known: TypeAlias = "bool | None | Definition | Whole | Unknown"


@dataclass
class Frame:
    """What is known at one point of a function: constants, settings, scope.

    ``aliases`` are module-level names that go by another one here, ``callers`` the
    functions that this one is called from, ``kinds`` those of variables and of the
    likes of ``p.grad``, by their text.
    """

    module: SourceModule
    context: Context
    owner: Definition | None = None
    constants: dict[str, Known] = field(default_factory=dict)
    settings: set[str] = field(default_factory=set)
    lists: set[str] = field(default_factory=set)
    local: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    real_views: bool = False
    aliases: dict[str, str] = field(default_factory=dict)
    callers: frozenset[str] = frozenset()
    kinds: dict[str, Kind] = field(default_factory=dict)

    def fork(self) -> Frame:
        return Frame(
            self.module,
            self.context,
            self.owner,
            dict(self.constants),
            set(self.settings),
            set(self.lists),
            set(self.local),
            set(self.absent),
            self.real_views,
            dict(self.aliases),
            self.callers,
            dict(self.kinds),
        )

    def of(self, function: Definition) -> Frame:
        """The frame of a function that is called here, before its arguments."""
        inner = Frame(function.module, self.context, function)
        inner.real_views = self.real_views
        return inner

    def join(self, other: Frame) -> None:
        """Keep what both branches agree on."""
        self.constants = {
            name: value
            for name, value in self.constants.items()
            if name in other.constants and other.constants[name] == value
        }
        self.settings &= other.settings
        self.lists &= other.lists
        self.kinds = dict(self.kinds.items() & other.kinds.items())

    def forget(self, name: str) -> None:
        """``name`` is bound anew."""
        self.constants.pop(name, None)
        self.settings.discard(name)
        self.lists.discard(name)
        for text in [t for t in self.kinds if re.match(rf"{name}\b", t)]:
            del self.kinds[text]

    def forget_named(self, node: cst.CSTNode) -> None:
        """Names that an expression binds, perhaps before it reads them."""
        for name in walrus_names(node):
            self.forget(name)

    def forget_paths(self) -> None:
        """Attributes and items of things may have been set."""
        self.kinds = {t: k for t, k in self.kinds.items() if t.isidentifier()}

    def resolve(self, node: cst.CSTNode) -> Resolved | None:
        """What a (dotted) name means at module level; None for local variables."""
        name = dotted(node)
        if name is None:
            return None
        head, dot, rest = name.partition(".")
        if head in self.local:
            return None
        meant = self.aliases.get(head, head)
        return self.context.optimizer.library.resolve(
            self.module, f"{meant}{dot}{rest}"
        )

    def full_name(self, node: cst.CSTNode) -> str | None:
        found = self.resolve(node)
        if isinstance(found, (Definition, External)):
            return found.full_name
        return dotted(node) if found is None and isinstance(node, cst.Name) else None

    def is_setting(self, node: cst.CSTNode) -> bool:
        """``group["lr"]``, or a variable that holds such a value."""
        if isinstance(node, cst.Name):
            return node.value in self.settings
        if isinstance(node, cst.Subscript):
            key = string_key(node)
            if key is None:
                return self.is_setting(node.value)
            kept = key != "params" and key not in self.context.kept_tensors
            return kept and holds_settings(node.value)
        return False


def holds_settings(node: cst.CSTNode) -> bool:
    return is_name(node, "group") or dotted(node) == "self.defaults"


def literal(value: Known) -> cst.BaseExpression | None:
    if value is None or isinstance(value, bool):
        return cst.Name(str(value))
    return expr(value.text) if isinstance(value, Whole) else None


def known(node: cst.CSTNode, frame: Frame) -> Known:
    """The constant that an expression is: a singleton or a function."""
    node = bare(node)
    if isinstance(node, cst.Name) and node.value in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[node.value]
    if isinstance(node, cst.Name) and node.value in frame.constants:
        return frame.constants[node.value]
    if dotted(node) in WHOLE:
        return Whole(dotted(node) or "")
    if isinstance(node, (cst.Name, cst.Attribute)):
        found = frame.resolve(node)
        if isinstance(found, Definition) and isinstance(found.node, cst.FunctionDef):
            return found
    return NOT_KNOWN


def join_branches(frame: Frame, body: Body, other: Frame, rest: Body) -> None:
    """Know in ``frame`` what two branches, one after each, leave known."""
    if body and ends(body[-1]):
        frame.__dict__.update(other.__dict__)
    elif not (rest and ends(rest[-1])):
        frame.join(other)
    frame.local |= other.local
