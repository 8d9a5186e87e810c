"""Reads the source of an optimizer: its class, bases, helpers and constants.

Names are resolved statically, by following imports from file to file, so the
code that is translated need not be importable, nor be of the installed version.
Files are parsed whole: positions in diagnostics are those of the file.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import libcst as cst

from codegen import misnamed
from codegen.command_line import split
from codegen.diagnostics import CodegenError, Diagnostic, Origin, Origins, misuse
from codegen.source_module import Definition as Definition
from codegen.source_module import External as External
from codegen.source_module import Import as Import
from codegen.source_module import Resolved as Resolved
from codegen.source_module import SourceModule as SourceModule
from codegen.source_module import bind
from codegen.source_tree import SourceTree
from codegen.substitution import substitute
from codegen.syntax import code, dotted, statements

BASE = "torch.optim.optimizer.Optimizer"
_BASES = (BASE, "torch.optim.Optimizer")


class Absent(CodegenError):
    """There is no such optimizer in the source that is read."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__([Diagnostic("error", message, hint)])


class Library:
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
        module = SourceModule(name, file, tree, is_package)
        bind(module, statements(tree.body))
        return module

    # --- names --------------------------------------------------------------

    def resolve(self, module: SourceModule, name: str) -> Resolved | None:
        """What the dotted ``name`` means at the top level of ``module``."""
        head, _, rest = name.partition(".")
        found = self._resolve_one(module, head)
        for part in rest.split(".") if rest else ():
            if isinstance(found, External):
                found = External(f"{found.full_name}.{part}")
            elif isinstance(found, SourceModule):
                found = self.member(found, part)
            else:
                return None
        return self._inside_torch(found) if isinstance(found, External) else found

    def _inside_torch(self, found: External) -> Resolved:
        """``torch.optim.SGD`` written in full is the class, as imported by name."""
        module_name, _, name = found.full_name.rpartition(".")
        inside = found.full_name.startswith("torch.optim.")
        if found.full_name == BASE or not inside:
            return found
        module = self.module(module_name)
        if module is None or name == "Optimizer":
            return found
        return self.member(module, name) or found

    def _resolve_one(self, module: SourceModule, name: str) -> Resolved | None:
        binding = module.bindings.get(name)
        if isinstance(binding, Import):
            return self._follow(binding)
        if binding is not None:
            return Definition(module, name, binding)
        for star in module.stars:
            source = self.module(star)
            found = self._resolve_one(source, name) if source else None
            if found is not None:
                return found
        return None

    def member(self, module: SourceModule, name: str) -> Resolved | None:
        """``module.name``: a definition, a re-export or a submodule."""
        found = self._resolve_one(module, name)
        if found is not None:
            return found
        submodule = self.module(f"{module.name}.{name}")
        return submodule or External(f"{module.name}.{name}")

    def _follow(self, binding: Import) -> Resolved:
        whole = binding.module + (f".{binding.attr}" if binding.attr else "")
        if whole == BASE or not _worth_reading(binding.module):
            return External(whole)
        if binding.attr is None:
            return self.module(binding.module) or External(whole)
        source = self.module(binding.module)
        if source is None:
            return External(whole)
        return self.member(source, binding.attr) or External(whole)

    # --- classes ------------------------------------------------------------

    def find_class(self, target: str) -> Definition:
        """The class of a dotted path, through re-exports."""
        self.must_hold(target.partition(".")[0])
        module_name, _, class_name = target.rpartition(".")
        module = self.module(module_name) if module_name else None
        if not module_name:
            torch_optim = self.module("torch.optim")
            names = self._class_names(torch_optim) if torch_optim else ()
            hint = misnamed.similar(target, names, "torch.optim.")
            raise Absent(f"{target!r} is no dotted path", hint)
        if module is None:
            raise Absent(
                f"no Python source found for module {module_name or target!r}",
                "give the full dotted path, such as torch.optim.NAdam, or "
                "FILE.py:ClassName; C extensions have no source to translate",
            )
        return self.class_in(module, class_name, target)

    def class_in(self, module: SourceModule, name: str, target: str) -> Definition:
        """The class that a module calls ``name``, wherever it is defined."""
        found = self._defined(self.member(module, name))
        if isinstance(found, External) and found.full_name in _BASES:
            raise misuse(
                f"{target} is what all optimizers derive from: it has no step",
                "name a subclass of it",
            )
        if not isinstance(found, Definition) or not isinstance(
            found.node, cst.ClassDef
        ):
            if parts := split(target):
                hint = misnamed.in_file(parts[0], name, self.optimizers_in(module))
            elif self.module(target) is not None:
                raise Absent(
                    f"{target} is a module, not a class",
                    f"name one of its classes; python -m codegen survey {target} "
                    "tries all of its optimizers",
                )
            else:
                prefix = target.removesuffix(name)
                hint = misnamed.similar(name, self._class_names(module), prefix)
            raise Absent(f"{module.file} has no class {name!r}", hint)
        return found

    def _defined(self, found: Resolved | None) -> Resolved | None:
        """Where it is defined, also in modules that no optimizer's helpers come from."""
        for _ in range(8):  # re-exports of re-exports, perhaps in a circle
            if not isinstance(found, External) or found.full_name in _BASES:
                break
            module_name, _, name = found.full_name.rpartition(".")
            module = self.module(module_name) if module_name else None
            found = (module and self._resolve_one(module, name)) or found
        return found

    def optimizers_in(self, module: SourceModule) -> list[str]:
        """Names of the optimizers that a module itself defines."""
        return [
            name
            for name, node in module.bindings.items()
            if isinstance(node, cst.ClassDef)
            and self.is_optimizer(Definition(module, name, node))
        ]

    def must_hold(self, package: str) -> None:
        """Refuse to read an installed package where a source tree was given."""
        if self.tree is not None and package not in self.tree.packages:
            held = ", ".join(sorted(self.tree.packages)[:5])
            raise misuse(
                f"{self.tree.given} has no package {package!r}",
                f"it has {held}: name the source of {package}",
            )

    def _class_names(self, module: SourceModule) -> Iterator[str]:
        for name in module.bindings:
            if not name.startswith("_") and name[:1].isupper():
                yield name

    def bases(self, cls: Definition) -> list[Resolved]:
        node = cast(cst.ClassDef, cls.node)
        result: list[Resolved] = []
        for arg in node.bases:
            value = (
                arg.value.value if isinstance(arg.value, cst.Subscript) else arg.value
            )
            name = dotted(value)
            found = self.resolve(cls.module, name) if name else None
            result.append(found or External(name or "?"))
        return result

    def mro(self, cls: Definition) -> list[Definition]:
        """Linearised bases that have source, ``torch.optim.Optimizer`` left out."""
        return [c for c in self._linearize(cls) if isinstance(c, Definition)]

    def is_optimizer(self, cls: Definition) -> bool:
        return any(
            isinstance(c, External) and c.full_name in _BASES
            for c in self._linearize(cls)
        )

    def _linearize(self, cls: Resolved) -> list[Definition | External]:
        if isinstance(cls, Definition) and cls.full_name == BASE:
            return [External(BASE)]
        if not isinstance(cls, Definition) or not isinstance(cls.node, cst.ClassDef):
            return [cls] if isinstance(cls, External) else []
        bases = self.bases(cls)
        sequences = [self._linearize(base) for base in bases]
        heads = [b for b in bases if isinstance(b, (Definition, External))]
        return [cls, *_merge([*sequences, heads])]


def _merge(
    sequences: list[list[Definition | External]],
) -> list[Definition | External]:
    """C3, the order in which Python itself looks methods up."""
    result: list[Definition | External] = []
    while any(sequences):
        sequences = [s for s in sequences if s]
        for sequence in sequences:
            head = sequence[0]
            if not any(head in other[1:] for other in sequences):
                break
        result.append(head)
        sequences = [[c for c in s if c != head] for s in sequences]
    return result


@functools.lru_cache(maxsize=128)
def _tree(source: bytes) -> cst.Module:
    """Optimizers share most of the files that they are read from."""
    return cst.parse_module(source)


def _worth_reading(module: str) -> bool:
    """Optimizers' helpers live beside them; torch's other modules are primitives."""
    top = module.partition(".")[0]
    if top == "torch":
        return module.startswith("torch.optim")
    return top not in sys.stdlib_module_names


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


# --- what is translated ------------------------------------------------------


@dataclass
class Upstream:
    """An optimizer as upstream wrote it, and every function the compiler read."""

    library: Library
    target: str
    cls: Definition
    lineage: list[Definition]
    reads: dict[str, cst.CSTNode] = field(default_factory=dict)
    of_self: dict[cst.CSTNode, cst.FunctionDef] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return cast(cst.ClassDef, self.cls.node).name.value

    def method(self, name: str, after: Definition | None = None) -> Definition | None:
        """The method that ``self.name`` finds; ``after`` a class, as ``super()`` does."""
        lineage = self.lineage
        if after is not None:
            lineage = lineage[lineage.index(after) + 1 :]
        for cls in lineage:
            for node in statements(cast(cst.ClassDef, cls.node).body):
                if isinstance(node, cst.FunctionDef) and node.name.value == name:
                    found = self._of_self(node)
                    return Definition(cls.module, f"{cls.name}.{name}", found)
        return None

    def _of_self(self, node: cst.FunctionDef) -> cst.FunctionDef:
        """A class method's ``cls`` is read through ``self``, which finds the same."""
        if not any(dotted(d.decorator) == "classmethod" for d in node.decorators):
            return node
        if node not in self.of_self:
            first = (*node.params.posonly_params, *node.params.params)[0].name.value
            origins = self.library.origins
            named = {first: cst.Name("self")}
            body = cast(cst.BaseSuite, substitute(node.body, named, origins))
            new = node.with_changes(body=body)
            origins.inherit(new, node)
            self.of_self[node] = new
        return self.of_self[node]

    def read(self, definition: Definition) -> cst.FunctionDef:
        """Note that a function was read: the header's hash covers exactly those."""
        self.reads[definition.full_name] = definition.node
        return cast(cst.FunctionDef, definition.node)

    def digest(self) -> str:
        """Hash of the functions read, whatever the order of reading."""
        hasher = hashlib.sha256()
        for name in sorted(self.reads):
            hasher.update(f"{name}\n{code(self.reads[name]).strip()}\n".encode())
        return hasher.hexdigest()[:16]


def open_target(target: str, library: Library) -> Upstream:
    """Find the optimizer that ``target`` names: ``pkg.mod.Class`` or ``file.py:Class``."""
    parts = split(target)
    if parts is None and target.endswith(".py") and _is_file(target, library):
        parts = target, ""
    if parts is None:
        cls = library.find_class(target)
    elif not _is_file(parts[0], library):
        seen = f" in {library.base}" if library.base else ""
        raise Absent(f"no file {parts[0]}{seen}", "give FILE.py:ClassName")
    else:
        module = library.load(Path(parts[0]))
        if not parts[1]:
            raise misuse(
                f"{parts[0]} is a file, of which no class is named",
                misnamed.in_file(parts[0], "", library.optimizers_in(module)),
            )
        cls = library.class_in(module, parts[1], target)
    if not library.is_optimizer(cls):
        raise misuse(
            f"{target} is no optimizer: torch.optim.Optimizer is not among its bases",
            "name a subclass of torch.optim.Optimizer",
        )
    return Upstream(library, target, cls, library.mro(cls))


def _is_file(path: str, library: Library) -> bool:
    return ((library.base or Path()) / path).is_file()


def library_of(tree: SourceTree | None, base: Path | None = None) -> Library:
    """A library that reads a source tree; without one, what is installed."""
    return Library(Origins(), tree=tree, base=base)


def torch_optimizers(tree: SourceTree | None = None) -> list[str]:
    """Every optimizer class that ``torch.optim`` exports, by its public path."""
    library = library_of(tree)
    library.must_hold("torch")
    package = library.module("torch.optim")
    if package is None:
        raise misuse(
            f"{tree.given if tree else 'torch'} has no torch/optim/__init__.py",
            "name a source tree, a wheel or an sdist of torch that is whole",
        )
    return sorted(
        f"torch.optim.{name}"
        for name, binding in package.bindings.items()
        if isinstance(binding, Import) and name[:1].isupper() and name != "Optimizer"
    )
