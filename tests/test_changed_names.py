"""Names that a module or class binds are known where all that may change them is; what
isn't known is imported, or refused where a step calls it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import codegen
import pytest

HEAD = """\
import functools
import torch
from torch.optim import Optimizer
"""
CLASS = """\
class Odd(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))
"""
STEP = """\
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_({}, alpha=group["lr"])
"""


def odd(
    value: str, above: str = "", inside: str = "", begin: str = "", below: str = ""
) -> str:
    """A module with an optimizer that subtracts ``value``."""
    parts = [HEAD, above, CLASS, textwrap.indent(begin, " " * 8)]
    return "\n".join(
        [*parts, textwrap.indent(inside, "    "), STEP.format(value), below]
    )


METHOD = "def f(self, g):\n    return g\n"
REFUSED = {
    "a function that another one binds": (
        odd(
            "f(p.grad)",
            "def f(g):\n    return g\ndef other():\n    global f\n    f = abs\n",
        ),
        'p.sub_(f(p.grad), alpha=group["lr"])',
    ),
    "a number that a function binds": (
        odd("p.grad * X", "X = 1.0\ndef other():\n    global X\n    X = 2.0\n"),
        'p.sub_(p.grad * X, alpha=group["lr"])',
    ),
    "a default that was another number": (
        odd("f(p.grad)", "X = 1.0\ndef f(g, c=X):\n    return g * c\nX = 2.0\n"),
        None,
    ),
    "a method that is replaced below its class": (
        odd("self.f(p.grad)", inside=METHOD, below="Odd.f = lambda self, g: -g"),
        'p.sub_(self.f(p.grad), alpha=group["lr"])',
    ),
    "a method that setattr replaces": (
        odd("self.f(p.grad)", inside=METHOD, below="setattr(Odd, 'f', None)"),
        'p.sub_(self.f(p.grad), alpha=group["lr"])',
    ),
    "a method that an attribute hides": (
        odd("self.f(p.grad)", inside=METHOD, begin="self.f = abs\n"),
        'p.sub_(self.f(p.grad), alpha=group["lr"])',
    ),
    "a step that an attribute hides": (
        odd("p.grad", begin="self.step = self.other\n"),
        "self.step = self.other",
    ),
    "attributes of any name": (
        odd("p.grad", begin="for k in 'ab':\n    setattr(self, k, 1)\n"),
        "setattr(self, k, 1)",
    ),
    "a decorated method": (
        odd(
            "self.f(p.grad)",
            "def twice(f):\n    return lambda self, g: f(self, g) * 2\n",
            "@twice\n" + METHOD,
        ),
        "@twice",
    ),
    "a method whose decorator changes what it returns": (
        odd(
            "self.f(p.grad)",
            "def twice(f):\n    def g(self, x):\n        return f(self, x) * 2\n"
            "    return g\n",
            "@twice\n" + METHOD,
        ),
        "@twice",
    ),
    "a decorated class": (
        odd("p.grad", "def turn(cls):\n    cls.step = None\n    return cls\n@turn\n"),
        "@turn",
    ),
    "a method that keeps what it computed": (
        odd(
            "p.grad * self.once",
            inside="@functools.cached_property\ndef once(self):\n    return 1.0\n",
        ),
        "@functools.cached_property",
    ),
    "a function that keeps its tensors": (
        odd(
            "f(p.shape)",
            "@functools.lru_cache(None)\ndef f(s):\n    return torch.ones(s)\n",
        ),
        "@functools.lru_cache(None)",
    ),
    "attributes that are written otherwise": (
        odd("p.grad", inside="def __setattr__(self, k, v):\n    pass\n"),
        "def __setattr__(self, k, v):",
    ),
    "a hook around the step": (
        odd("p.grad", begin="self.register_step_pre_hook(print)\n"),
        "self.register_step_pre_hook(print)",
    ),
    "an attribute of the runtime's": (
        odd("p.grad * self.shared", begin="self.shared = 1\n"),
        "self.shared = 1",
    ),
    "no step": (HEAD + CLASS, "class Odd(Optimizer):"),
    "a function of which there are two": (
        odd(
            "f(p.grad)",
            "if torch.rand(1) > 2:\n    def f(g):\n        return -g\n"
            "else:\n    def f(g):\n        return g\n",
        ),
        'p.sub_(f(p.grad), alpha=group["lr"])',
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_be_changed_is_refused_where_it_is_used(
    name: str, tmp_path: Path
) -> None:
    source, line = REFUSED[name]
    path = tmp_path / "odd.py"
    path.write_text(source)
    with pytest.raises(codegen.CodegenError) as caught:
        codegen.translate(f"{path}:Odd")
    first, *_ = caught.value.diagnostics
    assert first.origin is not None and first.hint
    if line is not None:
        assert source.splitlines()[first.origin.line - 1].strip() == line


KNOWN = {
    "one import failed": (
        "try:\n    import not_there\n    X = 1.0\nexcept ImportError:\n    X = 2.0\n",
        "X = 2.0",
    ),
    "the version of Python": (
        "import sys\nif sys.version_info >= (3, 9):\n    X = 3.0\nelse:\n    X = 4.0\n",
        "X = 3.0",
    ),
    "a flag above": ("A = False\nif A:\n    X = 5.0\nelse:\n    X = 6.0\n", "X = 6.0"),
    "bound twice": ("X = 7.0\nX = 8.0\n", "X = 8.0"),
    "added to": ("X = 9.0\nX += 1\n", "from odd import X"),
    "a list": ("X = [1.0]\nX.append(2.0)\n", "from odd import X"),
    "bound in a loop": ("for X in (1.0, 2.0):\n    pass\n", "from odd import X"),
    "through globals": ("X = 1.0\nglobals()['X'] = 2.0\n", None),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_name_is_what_it_is_in_the_end(name: str, tmp_path: Path) -> None:
    above, line = KNOWN[name]
    path = tmp_path / "odd.py"
    path.write_text(odd("p.grad * X" if name != "a list" else "p.grad * X[0]", above))
    if line is None:
        with pytest.raises(codegen.CodegenError):
            codegen.translate(f"{path}:Odd")
    else:
        assert line in codegen.translate(f"{path}:Odd").text.splitlines()


def test_a_method_may_go_by_two_names(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    inside = METHOD + "g = f\ndef f(self, g):\n    return g * 2\n"
    path.write_text(odd("self.f(self.g(p.grad))", inside=inside))
    text = codegen.translate(f"{path}:Odd").text
    assert "def g(g):\n    return g\n" in text
    assert "def f(g):\n    return g * 2\n" in text
