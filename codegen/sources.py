"""The Python files that can be read, and what their bodies leave bound.

Files are parsed whole: positions in diagnostics are those of the file.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import libcst as cst

from codegen.decided import Decided
from codegen.diagnostics import CodegenError, Diagnostic, Origin, Origins, misuse
from codegen.source_module import (
    Binding,
    Definition,
    SourceModule,
    absolute,
    bound_later,
)
from codegen.source_tree import SourceTree
from codegen.syntax import statements
from codegen.toplevel import TopLevel


class Sources:
    """The Python files that can be read, below ``roots`` (as on ``sys.path``).

    The packages of ``tree`` are read there, in place of those installed. The files
    that targets name are told from the folder ``base``, or the present one.
    """

    def __init__(
        self,
        origins: Origins,
        roots: Sequence[str] | None = None,
        tree: SourceTree | None = None,
        base: Path | None = None,
    ) -> None:
        self.origins = origins
        self.tree = tree
        self.base = base
        self._roots = [Path(r or ".") for r in (sys.path if roots is None else roots)]
        self._modules: dict[str, SourceModule | None] = {}
        self._classes: dict[cst.CSTNode, Mapping[str, Binding]] = {}
        self._unseen: list[SourceModule] = []
        self._patches: dict[tuple[str, str | None], cst.CSTNode] = {}
        self.paths: dict[str, Path] = {}
        self._installed = roots is None and tree is None

    # --- files --------------------------------------------------------------

    def module(self, name: str) -> SourceModule | None:
        """The module of that dotted name; None where it has no Python source."""
        if name not in self._modules:
            found = self._find(name)
            self._modules[name] = None if found is None else self._parse(name, *found)
        return self._modules[name]

    def load(self, path: Path, name: str | None = None) -> SourceModule:
        """A file given by its path."""
        name = name or path.stem
        module = self._parse(name, (self.base or Path()) / path, path.as_posix())
        self._modules[name] = module
        return module

    def load_text(self, text: str, file: str, name: str) -> SourceModule:
        """What lies in no file, under the name of ``file``."""
        module = self._module_of(text.encode(), name, file)
        self._modules[name] = module
        return module

    def _find(self, name: str) -> tuple[Path, str] | None:
        relative = Path(*name.split("."))
        roots = self._roots
        if self.tree is not None and name.partition(".")[0] in self.tree.packages:
            roots = [self.tree.root]
        for root in roots:
            for candidate in (relative / "__init__.py", relative.with_suffix(".py")):
                if (root / candidate).is_file():
                    return root / candidate, candidate.as_posix()
        return self._find_editable(name) if self._installed else None

    def _find_editable(self, name: str) -> tuple[Path, str] | None:
        top = name.partition(".")[0]
        if top in sys.builtin_module_names or top == "__main__":
            return None
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, AttributeError, ValueError):
            return None
        origin = spec.origin if spec is not None else None
        if origin is None or not origin.endswith(".py"):
            return None
        depth = name.count(".") + 1 + (Path(origin).name == "__init__.py")
        return Path(origin), "/".join(Path(origin).parts[-depth:])

    def _parse(self, name: str, path: Path, file: str) -> SourceModule:
        package = path.name == "__init__.py"
        self.paths[name] = path
        return self._module_of(path.read_bytes(), name, file, package)

    def _module_of(
        self, source: bytes, name: str, file: str, is_package: bool = False
    ) -> SourceModule:
        try:
            tree = _tree(source)
        except cst.ParserSyntaxError as error:
            raise _syntax_error(source, file, error) from None
        except (SyntaxError, UnicodeDecodeError, LookupError) as error:
            raise misuse(
                f"{file}: can't be decoded: {error}",
                "save the file as UTF-8, or declare its encoding on the first line",
            ) from None
        self.origins.read(tree, file)
        return self._run(SourceModule(name, file, tree, is_package))

    def _run(self, module: SourceModule) -> SourceModule:
        """What a module's body leaves bound."""
        top = self._scope(module, {})
        top.run(statements(module.tree.body))
        module.bindings, module.stars = top.bindings, top.stars
        if not module.name.startswith("torch."):
            module.bindings.update(bound_later(module))
            self._unseen.append(module)
        return module

    def _scope(self, module: SourceModule, around: Mapping[str, Binding]) -> TopLevel:
        def meaning(name: str) -> Binding | None:
            return top.bindings.get(name) or around.get(name)

        def absolute_of(node: cst.ImportFrom) -> str:
            return absolute(module, node)

        decided = Decided(module.name, meaning, absolute_of, self._is_given)
        top = TopLevel(decided, absolute_of, around)
        return top

    def _is_given(self, package: str) -> bool | None:
        """Whether a package's source was given (it is, or nothing has it: False)."""
        if self.tree is not None and package in self.tree.packages:
            return True
        if self._installed or package == "torch" or package in sys.stdlib_module_names:
            return None
        return True if self._find(package) else None

    def class_bindings(self, cls: Definition) -> Mapping[str, Binding]:
        """What the body of a class binds."""
        if cls.node not in self._classes:
            top = self._scope(cls.module, cls.module.bindings)
            top.run(statements(cast(cst.ClassDef, cls.node).body))
            self._classes[cls.node] = top.bindings
        return self._classes[cls.node]


@functools.lru_cache(maxsize=128)
def _tree(source: bytes) -> cst.Module:
    """Optimizers share most of the files that they are read from."""
    return cst.parse_module(source)


def _syntax_error(
    source: bytes, file: str, error: cst.ParserSyntaxError
) -> CodegenError:
    """Where the interpreter finds a file wrong, in its words."""
    line, col, message = error.raw_line, error.raw_column + 1, "it can't be parsed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except SyntaxError as found:
        line, col = found.lineno or line, max(found.offset or col, 1)
        message = found.msg
    except ValueError as found:  # null bytes
        message = str(found)
    lines = source.decode(errors="replace").splitlines()
    shown = lines[line - 1] if 0 < line <= len(lines) else ""
    hint = "fix the file; the compiler reads the same Python as the interpreter"
    origin = Origin(file, line, col)
    return CodegenError([Diagnostic("syntax error", message, hint, origin, shown)])
