"""What an optimizer can be told: its settings and values worth running, read from
the signature and the source of its constructor.

    lr: float | Tensor = 1e-3        ->  float,  1e-3, try 1.5e-3
    betas: tuple[float, float]       ->  tuple,  try each element moved
    amsgrad: bool = False            ->  bool,   try True
    adjust_lr_fn: str | None = None  ->  choice, try every constant the source compares
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..lower.facts import FALSE_SETTINGS

Values = Mapping[str, Any]

#: How torch runs the same numbers, never which numbers: the translation ignores them.
DISPATCH = ("foreach", "fused", "capturable", "differentiable")

#: Values that cannot be computed from the default: with these the setting takes part
#: in the first eight steps of a problem whose weights and gradients are about 0.3.
SAMPLES: Mapping[str, Any] = {
    "lr": 0.03,  # for optimizers whose learning rate has no default
    "momentum": 0.6,  # 0.1, the rule for a default of zero, would hardly be seen
    "t0": 2.5,  # averaging starts after t0 steps, by default a million
    "step_sizes": (6e-3, 0.05),  # bounds that steps of about 0.03 run into
    "eps": (0.5, 0.5),  # floors of relative steps, above the weights they bound
}

#: A count by its name, where neither annotation nor default says that it is no float.
COUNTS = ("step", "num", "iter", "freq", "every", "interval", "period", "epoch", "k")


@dataclass(frozen=True)
class Setting:
    """One constructor argument: its kind, its default, other values worth running."""

    name: str
    kind: str  # "float", "int", "bool", "tuple", "choice", "dispatch" or "other"
    default: Any
    alternatives: tuple[Any, ...] = ()
    required: bool = False
    takes_tensor: bool = False
    per_group: bool = False  # told in the groups' own dicts, unknown to the constructor

    @property
    def numeric(self) -> bool:
        """Whether a derivative with respect to it makes sense."""
        return self.kind in ("float", "tuple")


def settings_of(optimizer: type[Optimizer]) -> tuple[Setting, ...]:
    """Every setting of `optimizer`, in the order of its constructor."""
    choices = _compared_strings(optimizer)
    found = (_setting(p, choices) for p in _arguments(optimizer))
    return tuple(found)


def settings_of_groups(
    groups: Iterable[Mapping[str, Any]], known: Iterable[str]
) -> tuple[Setting, ...]:
    """Settings that groups hold and the constructor does not know."""
    entries = {k: v for group in groups for k, v in group.items()}
    skip = {"params", *known}
    found = (
        replace(_plain_setting(k, v), per_group=True)
        for k, v in entries.items()
        if k not in skip
    )
    return tuple(s for s in found if s.numeric)


def required(settings: Iterable[Setting]) -> dict[str, Any]:
    """Arguments without which the constructor cannot be called."""
    return {s.name: s.alternatives[0] for s in settings if s.required}


def variants(
    settings: Iterable[Setting], runs: typing.Callable[[Values], bool], pairs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Labelled arguments to run: the defaults, every setting changed by itself, up to
    `pairs` pairs of them, and as many changed together as the original `runs` with."""
    settings = [s for s in settings if s.kind != "dispatch"]
    single = [(s.name, value) for s in settings for value in s.alternatives]
    yield "default", {}
    for name, value in single:
        yield "single", {name: value}
    both = [
        dict(pair) for pair in itertools.combinations(single, 2) if len(dict(pair)) == 2
    ]
    stride = max(1, -(-len(both) // pairs)) if pairs else len(both) + 1
    yield from (("pair", pair) for pair in both[::stride] if pairs)
    yield "together", together(settings, runs)


def together(
    settings: Iterable[Setting], runs: typing.Callable[[Values], bool]
) -> dict[str, Any]:
    """As many settings moved off their defaults at once as the original `runs` with."""
    chosen: dict[str, Any] = {}
    pending = [s for s in settings if s.kind != "dispatch" and s.alternatives]
    for _ in range(2):  # a flag may need a setting that comes after it
        for s in pending:
            trial = chosen | {s.name: s.alternatives[0]}
            if s.name not in chosen and runs(trial):
                chosen = trial
    return {s.name: chosen[s.name] for s in pending if s.name in chosen}


def sampled(
    settings: Iterable[Setting], runs: typing.Callable[[Values], bool]
) -> dict[str, Any]:
    """Every float setting at a value where it matters, every flag at its default."""
    floats = [s for s in settings if s.numeric]
    return together(floats, runs)


def required_group_keys(optimizer: type[Optimizer]) -> tuple[str, ...]:
    """Flags that the constructor demands of every group: ``assert "x" in group``, or
    ``if "x" not in group: raise …``."""
    names: dict[str, None] = {}
    for node in ast.walk(_tree(optimizer)):
        match node:
            case ast.Assert(ast.Compare(ast.Constant(str(key)), [ast.In()], [where])):
                pass
            case ast.If(
                ast.Compare(ast.Constant(str(key)), [ast.NotIn()], [where]),
                [ast.Raise()],
            ):
                pass
            case _:
                continue
        if "group" in ast.unparse(where) and key != "params":
            names[key] = None
    return tuple(names)


def elements(value: Any) -> list[tuple[int | None, float]]:
    """The numbers in a setting's value, with their place in it if it is a tuple."""
    if isinstance(value, (tuple, list)):
        return [(j, float(v)) for j, v in enumerate(value) if _is_number(v)]
    return [(None, float(value))] if _is_number(value) else []


def with_element(value: Any, place: int | None, new: Any) -> Any:
    """`value` with the number at `place` (None: the whole of it) replaced by `new`."""
    if place is None:
        return new
    return type(value)(new if j == place else v for j, v in enumerate(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _arguments(optimizer: type[Optimizer]) -> list[inspect.Parameter]:
    """The constructor's arguments; those hidden behind `**kwargs` from its bases."""
    found: dict[str, inspect.Parameter] = {}
    for base in optimizer.__mro__:
        if base is Optimizer or "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())
        for p in parameters[2:]:
            variadic = p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            supplied = found and p.default is p.empty  # by the subclass
            if not variadic and not supplied:
                found.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    unseen = FALSE_SETTINGS - set(DISPATCH)  # other ways to run, not to compute
    return [p for name, p in found.items() if name not in unseen]


def needed(setting: Setting) -> Setting:
    """A setting whose default, None, the constructor may not take: ``lr=None``."""
    if setting.default is not None or setting.name not in SAMPLES:
        return setting
    told = _plain_setting(setting.name, SAMPLES[setting.name])
    return replace(told, required=True, alternatives=(told.default, *told.alternatives))


def _plain_setting(name: str, value: Any) -> Setting:
    annotation: Any = inspect.Parameter.empty
    kind = inspect.Parameter.KEYWORD_ONLY
    parameter = inspect.Parameter(name, kind, default=value, annotation=annotation)
    return _setting(parameter, {})


def _setting(p: inspect.Parameter, choices: Mapping[str, list[str]]) -> Setting:
    text = "" if p.annotation is p.empty else _text(p.annotation)
    default = p.default
    needed = default is p.empty or type(default).__name__ == "_RequiredParameter"
    if needed:
        default = SAMPLES.get(p.name, 0.1 if "float" in text or not text else None)
    kind = "dispatch" if p.name in DISPATCH else _kind(p.name, text, default)
    setting = Setting(
        p.name, kind, default, required=needed, takes_tensor="Tensor" in text
    )
    values = tuple(_alternatives(setting, text, choices.get(p.name, [])))
    return replace(setting, alternatives=((default,) if needed else ()) + values)


def _kind(name: str, text: str, default: Any) -> str:
    """Kind of a setting from its default or, where that is ambiguous, annotation."""
    if isinstance(default, bool):
        return "bool"
    if isinstance(default, (float, Tensor)):
        return "float"
    if isinstance(default, int):
        if "float" in text:
            return "float"
        count = any(word in name.split("_") or word + "s" in name for word in COUNTS)
        return "int" if text or default or count else "float"
    if isinstance(default, (tuple, list)):
        return "tuple" if _float_tuple(default, text) else "other"
    if isinstance(default, str) or "str" in text or "Literal" in text:
        return "choice"
    if default is None and "float" in text:
        return "float"
    return "other"


def _float_tuple(default: Any, text: str) -> bool:
    numbers = [v for v in default if v is not None]
    floats = "float" in text or any(isinstance(v, float) for v in numbers)
    return floats and all(_is_number(v) for v in numbers)


def _alternatives(setting: Setting, text: str, choices: list[str]) -> Iterator[Any]:
    sample = SAMPLES.get(setting.name)
    if isinstance(sample, tuple) == (setting.kind == "tuple") and sample is not None:
        yield sample
    elif setting.kind == "bool":
        yield not setting.default
    elif setting.kind == "float":
        yield moved(setting.default)
        if setting.default is None or 0 < setting.default <= 1e-4:
            yield 2.0  # above whatever such a guard is compared with
    elif setting.kind == "int":
        yield setting.default + (-2 if setting.default > 3 else 1)
    elif setting.kind == "tuple":
        yield type(setting.default)(moved(v) for v in setting.default)
    elif setting.kind == "choice":
        literal = [c.strip(" '\"") for c in text.partition("Literal[")[2].split(",")]
        known = choices + [c.strip("]'\" ") for c in literal if c]
        yield from (c for c in dict.fromkeys(known) if c != setting.default)


def moved(default: float | None) -> float:
    """A float near `default` that is as likely to be allowed and is seen in the result:
    decays and rates by a tenth or two, switches (0, None) on, tiny guards up to 1e-2.
    """
    if default is None or 0 < default <= 1e-4:
        return 1e-2
    if math.isinf(default):
        return math.copysign(1.02, default)
    if default == 0:
        return 0.1
    size = abs(default)
    return round(default * (1.02 if size >= 1 else 0.9 if size >= 0.5 else 1.2), 6)


def farther(setting: Setting) -> Iterator[Any]:
    """Values far off the default, for settings that do nothing near it."""
    yield from setting.alternatives[1:]
    for factor in (10.0, 100.0, 1e3, 1e4, 0.1, 0.01):
        if isinstance(setting.default, (tuple, list)):
            numbers = (v if v is None else v * factor for v in setting.default)
            yield type(setting.default)(numbers)
        elif setting.default:
            yield setting.default * factor


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else str(annotation)


def _tree(optimizer: type[Optimizer]) -> ast.AST:
    """Syntax of the module that holds the constructor; empty where it has no source."""
    constructor = inspect.unwrap(optimizer.__init__)
    try:
        module = inspect.getsourcefile(constructor)
        with open(module or "", encoding="utf-8") as source:
            return ast.parse(source.read())
    except (OSError, TypeError, SyntaxError, UnicodeDecodeError):
        return ast.Module(body=[], type_ignores=[])


def _compared_strings(optimizer: type[Optimizer]) -> dict[str, list[str]]:
    """Setting name -> strings that the source compares it with, matches it against or
    has as keys where it is one, in order."""
    found: dict[str, list[str]] = {}
    tree = _tree(optimizer)
    tables, aliases = _tables(tree), _aliases(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left, _, comparators):
                sides, strings = [left, *comparators], []
                for side in sides:
                    strings += _strings(side, tables)
            case ast.Match(subject, cases):
                sides = [subject]
                strings = [s for case in cases for s in _strings(case.pattern, {})]
            case ast.Subscript(value, side) | ast.Call(
                ast.Attribute(value, "get"), [side, *_]
            ):
                sides, strings = [side], tables.get(_name(value) or "", [])
            case _:
                continue
        for name in filter(None, map(_name, sides)):
            for meant in (name, *aliases.get(name, ())):
                found.setdefault(meant, []).extend(strings)
    return found


def _aliases(tree: ast.AST) -> dict[str, list[str]]:
    """Variable -> settings that it may be: ``kind = group["mode"]``."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (meant := _name(node.value)):
            for name in filter(None, map(_name, node.targets)):
                found.setdefault(name, []).append(meant)
    return found


def _tables(tree: ast.AST) -> dict[str, list[str]]:
    """The strings of each container that has a name: its keys, or items."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for name in filter(None, map(_name, targets)):
            value = node.value
            parts = value.keys if isinstance(value, ast.Dict) else _items(value)
            found.setdefault(name, []).extend(
                part.value
                for part in parts
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
    return found


def _strings(node: ast.AST, tables: Mapping[str, list[str]]) -> list[str]:
    """The strings that are compared with: there, in a container, or in one named."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        return tables.get(_name(node) or "", [])
    leaves = ast.walk(node) if isinstance(node, ast.pattern) else [node, *_items(node)]
    return [
        leaf.value
        for leaf in leaves
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
    ]


def _items(node: ast.AST | None) -> list[ast.expr]:
    return node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else []


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return None
