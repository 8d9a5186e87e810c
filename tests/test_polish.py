"""Lines that a reviewer would strike go, and what looks alike but isn't stays."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest
from codegen.context import Context
from codegen.diagnostics import Origins
from codegen.polish import respell, reuse_variables, with_scalars
from codegen.syntax import statements
from codegen.unwrap import unwrap_functions

STRUCK = {
    "parentheses of an argument": ("f(x, value=(a * b))", "f(x, value=a * b)"),
    "a factor of one": (
        "s = s.addcmul(g, g, value=1)\ns = ops.add(s, g, alpha=1)",
        "s = s.addcmul(g, g)\ns = ops.add(s, g)",
    ),
    "a factor of minus one": ("p = p.add(g * lr, alpha=-1.0)", "p = p.sub(g * lr)"),
    "names that are deleted": ("x = a\ndel x, y\ndel z\nuse(a)", "x = a\nuse(a)"),
    "a setting that has a name": (
        """
        for group in groups:
            fast = group["fast"]
            for p in group["params"]:
                if group["fast"]:
                    use(group["fast"], group["slow"])
        """,
        """
        for group in groups:
            fast = group["fast"]
            for p in group["params"]:
                if fast:
                    use(fast, group["slow"])
        """,
    ),
    "a name for a slot's next value": (
        's = state["s"]\ng = -g\nstate["s"] = s + 1',
        'g = -g\nstate["s"] = state["s"] + 1',
    ),
    "a slot that is filled after a name": (
        'use(g)\n# first\nb = g.clone()\nstate["m"] = b\nuse(b)',
        'use(g)\n# first\nstate["m"] = b = g.clone()\nuse(b)',
    ),
    "a copy of a copy": (
        "use(g)\n# zero\ng = g.clone(memory_format=torch.preserve_format)\n"
        "g = ops.setitem(g, m, 0)",
        "use(g)\n# zero\ng = ops.setitem(g, m, 0)",
    ),
    "an argument's own line": (
        'u = u.mul(b)\nstate["u"] = u = torch.maximum(u, g.abs())',
        'state["u"] = u = torch.maximum(u.mul(b), g.abs())',
    ),
    "a function that is called once": (
        """
        def _compute_rect():
            n = rho - 4
            n = n * 2
            return n**0.5
        if rho > 5:
            p = p.mul(_compute_rect())
        """,
        """
        if rho > 5:
            n = rho - 4
            n = n * 2
            rect = n**0.5
            p = p.mul(rect)
        """,
    ),
    "a comment beside a long line": (
        f"x = {'a + ' * 20}a  # all of them",
        f"# all of them\nx = {'a + ' * 20}a",
    ),
}

KEPT = {
    "a tuple, and a generator": "f((a, b), c=(x for x in y))",
    "a factor of one and a half": "s = s.addcmul(g, g, value=1.5)",
    "an integer's factor": "s = s.add(g, alpha=-1)",
    "an item that is deleted": 'del state["m"]',
    "a setting that is stored": """
        for group in groups:
            step = group["step"]
            group["step"] = step + 1
            use(group["step"], step)
        """,
    "a setting of another group": """
        for group in groups:
            lr = group["lr"]
            use(lr, [group["lr"] for group in groups])
        """,
    "a group under another name": """
        for group in groups:
            lr = group["lr"]
            other = group
            other["lr"] = 2
            use(group["lr"], lr)
        """,
    "a group that a function is handed": """
        for group in groups:
            lr = group["lr"]
            change(group)
            use(group["lr"], lr)
        """,
    "a slot that is stored in between": """
        s = state["s"]
        state["s"] = 1
        use(state)
        state["s"] = s + 1
        """,
    "a slot under a key that isn't known": """
        s = state["s"]
        state[key] = 1
        state["s"] = s + 1
        """,
    "a slot whose container changes": """
        s = state["s"]
        state = other
        state["s"] = s + 1
        """,
    "a slot that is read twice": 's = state["s"]\nstate["s"] = s + s',
    "another slot": 's = state["s"]\nstate["t"] = s + 1',
    "a slot by a name that is given": "k = f(x)\nstate[k] = k",
    "a copy of something else": "a = g.clone()\nb = ops.setitem(a, m, 0)\nuse(a, b)",
    "a line that speaks for itself": "u = u.mul(b)\n# next\nu = torch.maximum(u, g)",
    "an argument that is used twice": "u = u.mul(b)\nu = torch.maximum(u, u.abs())",
    "a function that is called twice": """
        def f():
            return a * 2
        use(f(), f())
        """,
    "a function that may not be called": """
        def f():
            return a / b
        x = f() if b else 0
        """,
    "a function that draws": """
        def f():
            return torch.rand_like(a)
        x = f()
        """,
    "a function with an argument": """
        def f(x=a):
            return x * 2
        y = f()
        """,
    "a function whose variable is somebody's": """
        n = 1
        def f():
            n = 2
            return n
        use(f(), n)
        """,
    "a function that is handed on": """
        def f():
            return a
        use(f)
        """,
}


def test_a_helper_s_numbers_may_be_tensors() -> None:
    given = "def f(lr: float, k: str = 'float') -> Optional[float]:\n    x: int = 1\n"
    node = cst.ensure_type(cst.parse_statement(given), cst.FunctionDef)
    text = cst.Module([with_scalars(node, Origins())]).code
    assert text == given.replace(": float", ": ops.Scalar").replace(
        "[float]", "[ops.Scalar]"
    )


def polished(source: str) -> str:
    context = Context()
    module = cst.parse_module(textwrap.dedent(source).strip() + "\n")
    context.origins.read(module, "example.py")
    body = statements(module.body)
    for one in (respell, unwrap_functions, reuse_variables):
        body = one(body, context)
    return cst.Module(body=list(body)).code.strip()


@pytest.mark.parametrize("name", STRUCK)
def test_struck(name: str) -> None:
    before, after = STRUCK[name]
    assert polished(before) == textwrap.dedent(after).strip()


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str) -> None:
    assert polished(KEPT[name]) == textwrap.dedent(KEPT[name]).strip()
