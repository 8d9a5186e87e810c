"""The fence: a proof, from the emitted text alone, that the laws hold.

The module's text is interpreted by values: every expression has a set of things that it
may be, every branch is taken, every loop is walked until nothing is added, functions are
walked with what they are handed. Nothing that is reached may

- write into a tensor, whatever the spelling (R4, R6), or into what isn't the step's;
- lose the gradient of a setting or of a tensor (R5, R7), or make it infinite where an
  operation with a finite one exists (R8);
- call what nobody knows with a tensor or a setting in hand (R7).

It shares no line with the passes that wrote the text: of operations it knows what the
table says, and of the optimizer what its constructor does.
"""

from __future__ import annotations

import ast

from codegen.fence.constructor import before
from codegen.fence.heap import DEFAULTS, GROUP, Heap, optimizer
from codegen.fence.laws import Fault
from codegen.fence.statements import Interpreter
from codegen.fence.values import Frame, Value, of

_ROUNDS = 60


def check(
    tree: ast.Module,
    settings: frozenset[str],
    jumps: frozenset[str] = frozenset(),
    constructor: Heap | None = None,
) -> list[Fault]:
    """Where the ``_update`` of an emitted module breaks a law.

    Args:
        tree: the module.
        settings: those that may be tensors with a gradient.
        jumps: those of them whose switches stay off at zero.
        constructor: what the constructor leaves; by default nothing is known of it.
    """
    machine = Interpreter()
    if constructor is not None:
        machine.contents = {k: dict(v) for k, v in constructor.contents.items()}
        for name in settings:
            for held in (GROUP, DEFAULTS):
                machine.contents.get(held, {}).pop(name, None)
    me = optimizer(machine, settings, jumps)
    module = Frame(tree, None)
    for guessing in (True, False):
        machine.guessing = guessing
        for _ in range(_ROUNDS):
            machine.changed = False
            machine.faults.clear()
            machine.results.clear()
            _walk(machine, tree, module, me)
            if not machine.changed:
                break
        else:
            raise RecursionError("the fence comes to no end")
    return list(dict.fromkeys(machine.faults))


def _walk(machine: Interpreter, tree: ast.Module, module: Frame, me: Value) -> None:
    """Runs the module, then its class's update."""
    machine.env, machine.frame, machine.top = {}, module, False
    machine.outside = True
    updates: list[ast.FunctionDef] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            updates += [n for n in node.body if isinstance(n, ast.FunctionDef)]
        else:
            machine.run([node])
    machine.outside = False
    for update in updates:
        machine.frame = machine.frames.setdefault(update, Frame(update, module))
        machine.env, machine.top = {}, True
        given = (me, of("list", "gradients"), of("dict", "what a step was given"))
        args = update.args
        names = [*args.args, *filter(None, [args.kwarg])]
        for argument, value in zip(names, given, strict=True):
            machine.set(argument.arg, value)
        machine.run(update.body)


__all__ = ["Fault", "before", "check"]
