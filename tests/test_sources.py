"""How the sources hang together: small modules, small classes, imports that go one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for folder in ("codegen", "higher")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in SOURCES.items()}
LINES = 500
METHODS = 25
LATE = {
    "codegen": "`import codegen` is there for users of the runtime, without libcst",
    "codegen.__main__": "`--help` takes under a second: no torch",
    "codegen.commands": "a command needs no other's torch, rich or verification",
    "codegen.once": "what is in the cache needs no libcst",
    "codegen.script": "what it loads becomes the package of this name first",
    "codegen.translate": "a translation is shown in a notebook only",
}
"""Modules that import others of ours inside functions, and what for."""


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Modules of ours that the import statements of ``tree`` itself name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in SOURCES)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".")
                up = node.level - SOURCES[name].name.startswith("__init__")
                package = package[: len(package) - up]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found = whole if whole in SOURCES else base
                if found in SOURCES and found != name:
                    yield found


def functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node


def late(name: str) -> set[str]:
    return {m for f in functions(TREES[name]) for m in imports(name, f)}


def early(name: str) -> set[str]:
    """What a module imports when it is imported, or for its types."""
    tree = ast.parse(SOURCES[name].read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [ast.Pass()]
    return set(imports(name, tree))


def test_modules_are_small() -> None:
    lengths = {n: len(p.read_text("utf-8").splitlines()) for n, p in SOURCES.items()}
    assert not {n for n, length in lengths.items() if length > LINES}


def test_classes_are_small() -> None:
    found: set[str] = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                found |= {f"{name}.{node.name}"} if len(methods) > METHODS else set()
    assert not found


def test_no_module_of_the_compiler_needs_itself() -> None:
    graph = {n: early(n) for n in SOURCES if n.startswith("codegen")}
    while leaves := {n for n, needs in graph.items() if not needs & graph.keys()}:
        graph = {n: needs for n, needs in graph.items() if n not in leaves}
    assert not graph, "a circle is among these"


def test_imports_stand_at_the_top() -> None:
    found = {n for n in SOURCES if n.startswith("codegen") and late(n)}
    assert found == set(LATE)
