"""What a rule is: a docstring, examples, and one function from body to body."""

from __future__ import annotations

import abc
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import libcst as cst

from codegen.context import Context
from codegen.source_module import Definition, SourceModule
from codegen.syntax import (
    Body,
    Statement,
    block,
    bound_names,
    code,
    read_names,
    replace_nodes,
    statements,
)


@dataclass(frozen=True)
class Example:
    """``before`` → ``after``; ``after`` None where the rule leaves it alone."""

    before: str
    after: str | None = None
    note: str = ""


class Rule(abc.ABC):
    """One conversion rule. Its docstring is its text in docs/rules.md, its EXAMPLES
    the examples there and its tests."""

    name: ClassVar[str]
    title: ClassVar[str]
    EXAMPLES: ClassVar[tuple[Example, ...]]

    def __init__(self, context: Context) -> None:
        self.context = context

    @abc.abstractmethod
    def apply(self, body: Body) -> Body:
        """The body of a step after this rule."""

    # --- for subclasses

    def refuse(self, node: cst.CSTNode, message: str, hint: str) -> None:
        self.context.refuse(self.name, node, message, hint)

    def fired(self, old: cst.CSTNode, new: cst.CSTNode | None = None) -> None:
        after = "" if new is None else code(new).strip()
        self.context.fired(self.name, old, code(old).strip(), after)

    def rewrite(
        self, body: Body, replace: Callable[[cst.CSTNode], cst.CSTNode | None]
    ) -> Body:
        """Replace nodes bottom-up, counting every replacement."""

        def counted(node: cst.CSTNode) -> cst.CSTNode | None:
            new = replace(node)
            if new is not None:
                self.fired(node, new)
            return new

        origins = self.context.origins
        return tuple(cast(Statement, replace_nodes(s, counted, origins)) for s in body)


_NO_TENSORS = frozenset(
    "self group state grads torch math ops F enumerate zip round use lr betas losses "
    "loss".split()
)
"""Names in examples that stand for something else than a tensor."""


def example_context() -> Context:
    """Where ``use`` is a function that reads its arguments."""
    use = cst.ensure_type(
        cst.parse_statement("def use(*values): pass"), cst.FunctionDef
    )
    module = SourceModule("examples", "example.py", cst.Module([]))
    return Context(
        float_settings=frozenset({"lr", "weight_decay", "beta"}),
        globals={"use": Definition(module, "use", use)},
        arguments_are_local=True,
    )


def run_example(rule: type[Rule], source: str) -> str:
    """Apply one rule to a snippet; used by tests and by ``--rules``."""
    context = example_context()
    module = cst.parse_module(textwrap.dedent(source).strip() + "\n")
    context.origins.read(module, "example.py")
    body = statements(module.body)
    reads: set[str] = set().union(*(read_names(s) for s in body))
    context.annotations = {
        name: "torch.Tensor" for name in reads - _NO_TENSORS - bound_names(block(body))
    }
    body = rule(context).apply(body)
    context.raise_if_refused()
    return cst.Module(body=list(body)).code.strip()
