"""From a name to the text of a module."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, cast

import libcst as cst

from codegen import emit, fence
from codegen.carry import Carrier
from codegen.class_source import class_target
from codegen.command_line import command
from codegen.constructor import attributes, stored_dtypes, stored_values
from codegen.context import Change, Context
from codegen.diagnostics import CodegenError, Diagnostic, Origins, walk
from codegen.elementwise import is_elementwise
from codegen.initial import shared_values
from codegen.lower.facts import FALSE_SETTINGS
from codegen.magic import refuse_patched
from codegen.pipeline import Update, run
from codegen.postconditions import BrokenPostcondition
from codegen.source_map import Line, map_lines, origin_of
from codegen.syntax import (
    Statement,
    all_params,
    assignment,
    code,
    dotted,
    is_constant,
    positional,
    replace_nodes,
    string_key,
)
from codegen.upstream import Definition, Library, Upstream, open_target


@dataclass(frozen=True)
class Translation:
    """A translated optimizer: the text of its module and how it came about.

    ``lines`` map the text to where upstream wrote it, ``sources`` are the files there.

    Examples:
        >>> codegen.translate("torch.optim.SGD").fired["R4"] > 0
        True
    """

    target: str
    text: str
    class_name: str
    module_name: str
    source: str
    version: str
    digest: str
    changes: tuple[Change, ...]
    lines: tuple[Line, ...]
    sources: Mapping[str, str]

    def _repr_html_(self) -> str:
        """In a notebook: upstream's lines beside the generated ones."""
        from codegen.tools.explain import inline

        return inline(self)

    @property
    def fired(self) -> Counter[str]:
        """How often each rule fired."""
        return Counter(change.rule for change in self.changes)


def translate(
    target: str | type,
    library: Library | None = None,
    jumps: frozenset[str] = frozenset(),
) -> Translation:
    """Translate the optimizer at a dotted path, in ``FILE.py:Class``, or a class.

    Args:
        target: what to translate.
        library: where sources are read; default: those installed.
        jumps: settings at whose zero the update itself jumps (a momentum that turns
            a further term on): exactly at zero their switches stay off.

    Raises:
        CodegenError: it can't be translated; the diagnostics say where and why.

    Examples:
        >>> translation = codegen.translate("torch.optim.SGD")
        >>> translation.class_name, translation.source
        ('DifferentiableSGD', 'torch/optim/sgd.py')
        >>> "def _update(self" in translation.text
        True
    """
    if isinstance(target, type):
        target, library = class_target(target)
    context = Context(discontinuous_at_zero=jumps)
    if library is None:
        library = Library(context.origins)
    else:
        library.origins, context.origins = library.origins, library.origins
    upstream = open_target(target, library)
    try:
        return _translate(upstream, context)
    except CodegenError as refusal:
        if not context.converts:
            raise
        return _with_copies(target, library, jumps, refusal)
    except (RecursionError, BrokenPostcondition):
        raise
    except Exception as error:
        raise _internal(upstream, context, error) from error


def _with_copies(
    target: str, library: Library, jumps: frozenset[str], refusal: CodegenError
) -> Translation:
    """Once more, with conversions to short floats taken for copies."""
    context = Context(
        library.origins, discontinuous_at_zero=jumps, assumes_casts_copy=True
    )
    try:
        return _translate(open_target(target, library), context)
    except CodegenError:
        raise refusal from None


def _translate(upstream: Upstream, context: Context) -> Translation:
    context.float_settings = frozenset(float_settings(upstream))
    context.stored = stored_values(upstream)
    context.dtypes = stored_dtypes(upstream)
    context.shared_before = shared_values(upstream, context)
    context.attributes = attributes(upstream)
    if context.discontinuous_at_zero:
        names = ", ".join(sorted(context.discontinuous_at_zero))
        context.notes.append(
            f"The update jumps where these settings leave zero: {names}."
        )
    update = run(upstream, context)
    carrier = Carrier(upstream, context, update.complex_as_real)
    carried = carrier.follow(update.body)
    body = tuple(plain_raises(s, carrier.raised, context.origins) for s in update.body)
    refuse_patched(upstream, context)
    helpers = tuple(code(h).strip() for h in carried.helpers)
    _read_around(upstream)
    module = emit.Module(
        command=command(upstream.target, context.discontinuous_at_zero),
        target=upstream.target,
        source=upstream.method("step").module.file,  # type: ignore[union-attr]
        version=package_version(upstream),
        digest=upstream.digest(),
        class_name=f"Differentiable{upstream.name}",
        settings=", ".join(float_settings(upstream)),
        notes=tuple(dict.fromkeys(context.notes)),
        imports=tuple(_imports(update, carried.imports, helpers)),
        constants=tuple(carried.constants),
        declarations=tuple(_declarations(upstream, update, carried.constants)),
        body=emit.indented(body, 2),
        helpers=helpers,
    )
    text = emit.render(module)
    tree, made_from = ast.parse(text), (*body, *carried.helpers)
    _prove(upstream, context, tree, made_from)
    lines = map_lines(tree, made_from, context.origins)
    return Translation(
        upstream.target,
        text,
        module.class_name,
        module_name(upstream.name),
        module.source,
        module.version,
        module.digest,
        tuple(context.changes),
        lines,
        {o.file: context.origins.text(o.file) for _, o in lines if o is not None},
    )


def _prove(
    upstream: Upstream,
    context: Context,
    tree: ast.Module,
    made_from: Sequence[cst.CSTNode],
) -> None:
    """Refuse a module that the fence finds a law broken in."""
    before = fence.before(upstream)
    for fault in fence.check(
        tree, context.float_settings, context.discontinuous_at_zero, before
    ):
        origin = origin_of(fault.node, tree, made_from, context.origins)
        context.refuse_at(fault.rule, origin, fault.message, fault.hint)
    context.raise_if_refused()


def plain_raises(node: Statement, names: set[str], origins: Origins) -> Statement:
    """``raise OwnError(text)`` → ``raise RuntimeError("OwnError", text)``."""

    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(inner, cst.Raise) or not isinstance(inner.exc, cst.Call):
            return None
        name = dotted(inner.exc.func)
        if name not in names:
            return None
        text = cst.Arg(cst.SimpleString(f'"{name}"'))
        error = inner.exc.with_changes(
            func=cst.Name("RuntimeError"), args=[text, *inner.exc.args]
        )
        return inner.with_changes(exc=error)

    return cast(Statement, replace_nodes(node, replace, origins)) if names else node


def _internal(upstream: Upstream, context: Context, error: Exception) -> CodegenError:
    """A crash of the compiler's own is a refusal that asks for a report."""
    frame = inspect.trace()[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return CodegenError(
        [
            *context.diagnostics,
            Diagnostic(
                "internal",
                f"the compiler failed on {upstream.target}: {type(error).__name__}: "
                f"{error} ({where})",
                "this is a bug of the compiler: please report it with the source",
            ),
        ]
    )


def module_name(class_name: str) -> str:
    """``nadam`` for NAdam, ``sparse_adam`` for SparseAdam, ``adamw`` for AdamW."""
    words = re.findall(
        r"[A-Z]{2,}(?![a-z])|[A-Z][a-z]+|[A-Z]+(?=[A-Z][a-z])|[A-Z]|\d+|[a-z]+",
        class_name,
    )
    if words and all(len(w) > 2 for w in words):
        return "_".join(w.lower() for w in words)
    return class_name.lower()


# --- settings -------------------------------------------------------------------


def float_settings(upstream: Upstream) -> list[str]:
    """Settings of the constructor that are numbers, and no counts or flags."""
    init = upstream.method("__init__")
    if init is None:
        return []
    return [
        p.name.value
        for p in all_params(cast(cst.FunctionDef, init.node).params)
        if p.name.value not in ("self", "params") and _is_float(p)
    ]


def _is_float(param: cst.Param) -> bool:
    if param.name.value in FALSE_SETTINGS:
        return False
    annotation = code(param.annotation.annotation) if param.annotation else ""
    default = param.default
    numbers = default and [n for n in walk(default) if isinstance(n, cst.Float)]
    if numbers and isinstance(default, (cst.Float, cst.Tuple, cst.List)):
        return True
    if re.search(r"\bfloat\b|\bTensor\b|\bFloat\b|BETAS|Betas", annotation):
        return True
    if annotation:
        return False
    if default is None:
        return False
    whole = isinstance(default, cst.Integer) and default.value in ("0", "1")
    return bool(numbers) or whole


def _declarations(
    upstream: Upstream, update: Update, constants: Sequence[str]
) -> Iterator[str]:
    if update.complex_as_real:
        yield "_complex_as_real = True"
    text = "".join(code(s) for s in update.body)
    if not update.carried and is_elementwise(text, constants):
        yield "_elementwise = True"
    missing = _later_settings(upstream)
    kept = {k: v for k, v in missing.items() if f'"{k}"' in text}
    if kept:
        items = ", ".join(f'"{k}": {v}' for k, v in kept.items())
        yield f"_group_defaults = {{{items}}}"
    choices = {k: v for k, v in _choices(upstream).items() if f'"{k}"' in text}
    if choices:
        yield f"_choices = {choices!r}"
    if update.carried:
        names = ", ".join(f'"{name}"' for name in update.carried)
        yield f"_carried = ({names},)"
    if update.constructor_settings:
        names = ", ".join(f'"{name}"' for name in update.constructor_settings)
        yield f"_constructor_settings = ({names},)"
    if _fills_state_early(upstream) and _makes_state(text):
        yield "_state_from_constructor = True"


def _choices(upstream: Upstream) -> dict[str, tuple[str, ...]]:
    """Words that the constructor accepts: ``if how not in ["this", "that"]: raise``."""
    init = upstream.method("__init__")
    found: dict[str, tuple[str, ...]] = {}
    for node in walk(init.node) if init is not None else ():
        if not isinstance(node, cst.Comparison) or len(node.comparisons) != 1:
            continue
        (target,) = node.comparisons
        words = target.comparator
        if isinstance(target.operator, cst.NotIn) and isinstance(node.left, cst.Name):
            if isinstance(words, (cst.List, cst.Tuple, cst.Set)):
                values = [e.value for e in words.elements]
                known = [v.evaluated_value for v in values if _is_string(v)]
                if len(known) == len(values):
                    found[node.left.value] = tuple(map(str, known))
    return found


def _is_string(node: cst.CSTNode) -> TypeGuard[cst.SimpleString]:
    return isinstance(node, cst.SimpleString)


def _read_around(upstream: Upstream) -> None:
    """Note what the class's head was made from, beside the step."""
    init = upstream.method("__init__")
    if init is not None and (_fills_state_early(upstream) or _choices(upstream)):
        upstream.read(init)
    elif init is not None:
        upstream.reads[init.full_name] = cast(cst.FunctionDef, init.node).params
    for method in _inherited(upstream, "__setstate__"):
        upstream.read(method)


def _later_settings(upstream: Upstream) -> dict[str, str]:
    """Settings that upstream's ``__setstate__`` adds to what older versions saved.

    A base's are the default, which a subclass may set to something else.
    """
    found: dict[str, str] = {}
    for method in reversed([*_inherited(upstream, "__setstate__")]):
        for node in walk(method.node):
            if isinstance(node, cst.Call) and dotted(node.func) == "group.setdefault":
                key, value = positional(node)
                if isinstance(key, cst.SimpleString) and is_constant(value):
                    found.setdefault(str(key.evaluated_value), code(value))
            pair = assignment(node)
            if pair is not None and code(pair[0]).startswith("group["):
                name = string_key(pair[0])
                if name is not None and is_constant(pair[1]):
                    found[name] = code(pair[1])
    return {k: value for k, value in found.items() if k not in FALSE_SETTINGS}


def _inherited(upstream: Upstream, name: str) -> Iterator[Definition]:
    """A method and those that it overrides, as ``super()`` finds them."""
    method = upstream.method(name)
    while method is not None:
        yield method
        owner = method.name.rpartition(".")[0]
        cls = next(c for c in upstream.lineage if c.name == owner)
        method = upstream.method(name, after=cls)


def _fills_state_early(upstream: Upstream) -> bool:
    """Whether the constructor fills ``self.state`` already, before any step."""
    init = upstream.method("__init__")
    return init is not None and any(
        isinstance(n, cst.Subscript) and dotted(n.value) == "self.state"
        for n in walk(init.node)
    )


def _makes_state(text: str) -> bool:
    """Whether an update makes the state where there is none."""
    return (
        "len(state) == 0" in text or re.search(r'"\w+" not in state', text) is not None
    )


# --- imports --------------------------------------------------------------------


def _imports(update: Update, found: set[str], helpers: Sequence[str]) -> Iterator[str]:
    text = "".join([*(code(s) for s in update.body), *helpers])
    plain = sorted(l for l in found if l.startswith("import ") and not _third(l))
    third = sorted(l for l in found if _third(l) and l.startswith("import "))
    froms = sorted(l for l in found if _third(l) and l.startswith("from "))
    own = {l for l in found if not _third(l) and l.startswith("from ")}
    yield from plain
    yield from sorted(own | {"from typing import Any"})
    yield ""
    yield from third
    yield from froms
    if third or froms:
        yield ""
    if re.search(r"\bops\.", text):
        yield "from higher import ops"
    yield "from higher.optim.base import DifferentiableOptimizer, GroupedGrads"


def _third(line: str) -> bool:
    top = re.split(r"[ .]", line)[1]
    return top not in sys.stdlib_module_names


@functools.cache
def installed_version(top: str) -> str | None:
    for name in _distributions().get(top, []):
        return f"{name} {importlib.metadata.version(name).partition('+')[0]}"
    return None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Asked once: it reads every installed package's list of files."""
    return importlib.metadata.packages_distributions()


def package_version(upstream: Upstream) -> str:
    """``torch 2.13.0``; ``unversioned`` for a file of the user's own."""
    top = upstream.cls.module.name.partition(".")[0]
    tree = upstream.library.tree
    given = tree.version_of(top) if tree is not None else None
    if given is not None:
        return given
    if top == "torch":
        return f"torch {importlib.metadata.version('torch').partition('+')[0]}"
    return installed_version(top) or "unversioned"
