"""What the texts of keys and views read."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable

from codegen import optable


@functools.lru_cache(maxsize=1 << 14)
def variables(text: str) -> frozenset[str]:
    """Variables that a text reads: not ``.data``, nor words in strings."""
    return frozenset(re.findall(r"(?<![\"'\w.])[A-Za-z_]\w*(?![\"'\w=])", text))


@functools.cache
def elements_read(text: str) -> frozenset[str]:
    """Variables of which a text reads more than shape and dtype, if they are tensors."""
    try:
        tree = ast.parse(f"_{text}" if text[:1] in "[.(" else text)
    except SyntaxError:
        return frozenset(variables(text))
    sizes = {
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and optable.is_metadata(n.attr)
    }
    calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call))
    sizes |= {
        c.args[0] for c in calls if isinstance(c.func, ast.Name) and c.func.id == "len"
    }
    names = (n for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in sizes)
    return frozenset(n.id for n in names)


def is_computed(key: str, computed: Callable[[str], bool]) -> bool:
    """Whether a key is read out of something that may be written into."""
    return not is_constant_key(key) and ("(" in key or computed(key))


def is_constant_key(key: str) -> bool:
    """Whether a key is the same wherever it is written: a string, a number."""
    return key[:1] in "\"'." or key.isdigit() or key in ("True", "False", "None")
