"""The Python files that can be read, and what names mean in them.

Names are resolved statically, by following imports from file to file, so the
code that is translated need not be importable, nor be of the installed version.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import cast

import libcst as cst

from codegen import misnamed
from codegen.command_line import split
from codegen.decided import exports
from codegen.diagnostics import CodegenError, Diagnostic, misuse
from codegen.source_module import (
    Definition,
    External,
    Import,
    Resolved,
    SourceModule,
    Unsettled,
)
from codegen.sources import Sources
from codegen.stores import stores
from codegen.syntax import dotted

BASE = "torch.optim.optimizer.Optimizer"
_BASES = (BASE, "torch.optim.Optimizer")


class Absent(CodegenError):
    """There is no such optimizer in the source that is read."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__([Diagnostic("error", message, hint)])


class Library(Sources):
    """What names mean in files that can be read, and which classes are there."""

    # --- names --------------------------------------------------------------

    def resolve(self, module: SourceModule, name: str) -> Resolved | None:
        """What the dotted ``name`` means at the top level of ``module``."""
        head, _, rest = name.partition(".")
        found = self._resolve_one(module, head)
        for part in rest.split(".") if rest else ():
            if isinstance(found, External):
                found = External(f"{found.full_name}.{part}", found.unsettled)
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
        found = self._bound(module, name)
        for star, before in reversed(module.stars):
            if found is None or name in before:
                other = self._of_star(star, name)
                if found is not None and other not in (None, found):
                    return External(f"{module.name}.{name}")
                found = found or other
        return found

    def _bound(self, module: SourceModule, name: str) -> Resolved | None:
        """What a module's own statements make of a name."""
        binding = module.bindings.get(name)
        if isinstance(binding, Import):
            return self._follow(binding)
        if isinstance(binding, Unsettled):
            return External(f"{module.name}.{name}", binding)
        return Definition(module, name, binding) if binding is not None else None

    def _of_star(self, module: str, name: str) -> Resolved | None:
        """What ``from module import *`` calls ``name``."""
        source = self.module(module)
        if source is not None:
            return self._resolve_one(source, name)
        return External(f"{module}.{name}") if exports(module, name) else None

    def member(self, module: SourceModule, name: str) -> Resolved | None:
        """``module.name``: a definition, a re-export or a submodule."""
        patched = self.patch(module.name, name)
        if patched is not None:
            return External(f"{module.name}.{name}", Unsettled(patched, later=True))
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

    def patch(self, owner: str, attribute: str) -> cst.CSTNode | None:
        """What gives a class or module another attribute than its own body does, in the
        files read so far; those of torch are as they are."""
        patches = self.patches()
        return patches.get((owner, attribute), patches.get((owner, None)))

    def patches(self) -> Mapping[tuple[str, str | None], cst.CSTNode]:
        """All of them, by owner and attribute: None where it may be any."""
        while self._unseen:
            module = self._unseen.pop()
            for store in stores(module.tree):
                found = None
                if store.owner.partition(".")[0] in module.bindings:
                    found = self.resolve(module, store.owner)
                if found is not None:
                    self._patches.setdefault(
                        (_path(found), store.attribute), store.node
                    )
        return self._patches

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


def _path(found: Resolved) -> str:
    return found.name if isinstance(found, SourceModule) else found.full_name


def _worth_reading(module: str) -> bool:
    """Optimizers' helpers live beside them; torch's other modules are primitives."""
    top = module.partition(".")[0]
    if top == "torch":
        return module.startswith("torch.optim")
    return top not in sys.stdlib_module_names
