"""``x.mul_(a).add_(b)``: the value that a chain of in-place calls leaves, and its stores."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.dtypes import Dtypes, promoting
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.liveness import Liveness
from codegen.analysis.values import Kind, Value
from codegen.diagnostics import walk
from codegen.inplace import chain_links, chain_root, inplace_function, inplace_method
from codegen.rules.r4_out_of_place.parts import MutationRule
from codegen.rules.r4_out_of_place.propagate import Propagation
from codegen.rules.r4_out_of_place.strides import Asked, laid_out
from codegen.rules.r4_out_of_place.twins import (
    out_of_place,
    replace_temporaries,
    written_into,
)
from codegen.syntax import (
    Statement,
    assign,
    code,
    dotted,
    expr,
    keyword,
    parenthesize,
    read_names,
)


class ChainRule(MutationRule):
    """Replaces a chain, ``out=`` or ``torch.op_`` by the operation that returns the new
    value, in the dtype of what it replaces."""

    places: Heap
    dtypes: Dtypes
    live: Liveness
    asked = Asked.NOTHING
    exact = False
    """Whether every tensor must have the strides that it has in the original."""

    @abc.abstractmethod
    def propagation(self, node: Statement, env: Env) -> Propagation:
        """What hands the new value on, of a mutation at ``node``."""

    @abc.abstractmethod
    def left_of(self, value: cst.BaseExpression) -> list[Statement]:
        """What computing a value does, where nobody needs it."""

    def mutation(
        self,
        node: Statement,
        value: cst.Call,
        env: Env,
        extra: tuple[cst.BaseExpression, ...],
    ) -> list[Statement]:
        """A chain, ``out=`` or ``torch.op_`` on a place, maybe assigned to ``extra``."""
        root, new = self._new_value(value, env)
        new = self._pinned(root, value, new, node, env)
        new = self.laid_out(root, new, chain_links(value) or [value])
        place = self.places.value(root, env)
        live = self.live.after.get(node, frozenset())
        kept = tuple(e for e in extra if not isinstance(e, cst.Name) or e.value in live)
        if place.kind in (Kind.MAPPING, Kind.SEQUENCE, Kind.OTHER):
            self.refuse(
                value,
                f"`{code(root)}` is no single tensor, and this call mutates it",
                "mutate its tensors one by one",
            )
            return []
        if self._reads_itself(value, place, env):
            return self._link_by_link(node, value, env, kept)
        write = self.propagation(node, env)
        if any(_is_private(link) for link in chain_links(value)):
            seen_by = write.seen_by(place, root)
            if seen_by is not None:
                self.refuse(
                    value,
                    f"the memory of `{code(root)}` takes turns with a buffer's, and "
                    f"`{seen_by}` may see it",
                    f"assign the result to `{code(root)}`, without out=",
                )
        # what is assigned anyway needs no rebinding of its own
        names = {e.value for e in extra if isinstance(e, cst.Name)}
        write.live = write.live - names
        statements_ = write.rebind(root, place, new, kept) or self.left_of(new)
        self.fire(node, statements_)
        return statements_

    def _pinned(
        self,
        root: cst.BaseExpression,
        value: cst.Call,
        new: cst.BaseExpression,
        node: Statement,
        env: Env,
    ) -> cst.BaseExpression:
        """``new`` in the dtype of what it replaces, where it may have another."""
        if isinstance(new, cst.Call) and dotted(new.func) == "ops.copy":
            return new
        links = chain_links(value) or [value]
        operands = [x for link in links for x in _operands(link)]
        return self.in_dtype_of(root, operands, new, node, env)

    def laid_out(
        self, root: cst.BaseExpression, new: cst.BaseExpression, links: list[cst.Call]
    ) -> cst.BaseExpression:
        """``new`` in the strides of what it replaces, where somebody asks for them."""
        if not self.asked:
            return new
        return laid_out(root, new, links, self.exact)

    def in_dtype_of(
        self,
        root: cst.BaseExpression,
        operands: Sequence[cst.BaseExpression],
        new: cst.BaseExpression,
        node: Statement,
        env: Env,
    ) -> cst.BaseExpression:
        if not self.dtypes.differ(root, operands, env) or not self._must_be_pinned(
            node, root
        ):
            return new
        return expr(f"{code(parenthesize(new))}.to({code(root)}.dtype)")

    def without_temporaries(
        self, node: cst.CSTNodeT, env: Env, pinned: bool = False
    ) -> cst.CSTNodeT:
        """``node`` with the twins of what mutates temporaries, in their dtypes; where it
        is ``pinned`` what is computed of it gets the right one anyway."""

        def pin(link: cst.Call, new: cst.BaseExpression) -> cst.BaseExpression:
            root = cst.ensure_type(link.func, cst.Attribute).value
            if self.exact and laid_out(root, new, [link], exact=False) is not new:
                self.refuse(
                    link,
                    "the strides of what is mutated here are asked for later",
                    "assign it to a variable first, and mutate that",
                )
            if not self._may_promote(link, new, env):
                return new
            dtype = self._dtype_text(root, env)
            if dtype is not None:
                return expr(f"{code(parenthesize(new))}.to({dtype})")
            if not pinned:
                self.refuse(
                    link,
                    "the dtype of what is mutated here can't be told",
                    "assign it to a variable first, and mutate that",
                )
            return new

        return replace_temporaries(node, self, pin)

    def named_first(
        self,
        node: Statement,
        target: cst.Name,
        value: cst.BaseExpression,
        env: Env,
    ) -> list[Statement] | None:
        """``x = f(y).mul_(z)`` in two statements, where it can't be told what dtype the
        temporary has: that of x."""
        links = chain_links(value)
        root = chain_root(value)
        arguments = {n for link in links for a in link.args for n in read_names(a)}
        unknown = self._dtype_text(root, env) is None
        if not links or not unknown or target.value in arguments:
            return None
        if not any(self._may_promote(link, link, env) for link in links):
            return None
        chain = self._clean_arguments(cast(cst.Call, value), env)
        new = out_of_place(chain, target, self)
        pinned = expr(f"{code(parenthesize(new))}.to({target.value}.dtype)")
        first = assign([target], self.without_temporaries(root, env))
        both: list[Statement] = [first, assign([target], pinned)]
        self.fire(node, both)
        return both

    def _may_promote(self, link: cst.Call, new: cst.BaseExpression, env: Env) -> bool:
        """Whether the twin of a call may have another dtype than what is mutated."""
        if isinstance(new, cst.Call) and dotted(new.func) == "ops.copy":
            return False
        root = cst.ensure_type(link.func, cst.Attribute).value
        return self.dtypes.differ(root, _operands(link), env)

    def _dtype_text(self, node: cst.BaseExpression, env: Env) -> str | None:
        own = self.dtypes.with_own([node], env)
        return self.dtypes.text(self.dtypes.of(node, own), own)

    def _must_be_pinned(self, node: Statement, root: cst.BaseExpression) -> bool:
        """Whether anything but the parameter gets the new value: the base class sees
        to the dtypes of parameters."""
        env = self.places.before.get(node, Env())
        place = self.places.value(root, env).objects
        live = self.live.after.get(node, frozenset())
        held = (n for n, v in env.names.items() if v.objects & place)
        if any(name in live for name in held):
            return True
        slots = (s for s, v in env.slots.items() if v.objects & place)
        return any(s.container != "param" for s in slots)

    def _new_value(
        self, value: cst.Call, env: Env
    ) -> tuple[cst.BaseExpression, cst.BaseExpression]:
        out = keyword(value, "out")
        if out is not None:
            return out, self.without_temporaries(
                written_into(value, out), env, pinned=True
            )
        function = inplace_function(value)
        if function is not None:
            if "_foreach_" in function:
                self.refuse(
                    value,
                    f"{function} mutates a list of tensors",
                    "use the loop over single tensors",
                )
            func = expr(function[:-1])
            return value.args[0].value, value.with_changes(func=func)
        root = chain_root(value)
        chain = self._clean_arguments(value, env)
        return root, out_of_place(chain, chain_root(chain), self)

    def _clean_arguments(self, value: cst.Call, env: Env) -> cst.Call:
        """Temporaries mutated inside the arguments of a chain's links."""
        args = [
            a.with_changes(value=self.without_temporaries(a.value, env, pinned=True))
            for a in value.args
        ]
        func = value.func
        assert isinstance(func, cst.Attribute)
        if inplace_method(func.value) is not None:
            inner = self._clean_arguments(cast(cst.Call, func.value), env)
            func = func.with_changes(value=inner)
        else:
            func = func.with_changes(
                value=self.without_temporaries(func.value, env, pinned=True)
            )
        return value.with_changes(args=args, func=func)

    def _reads_itself(self, value: cst.Call, place: Value, env: Env) -> bool:
        """In ``x.mul_(a).add_(x)`` the second x, whatever its name, is the product."""
        for link in chain_links(value)[1:]:
            for part in (n for arg in link.args for n in walk(arg)):
                if isinstance(part, (cst.Name, cst.Subscript, cst.Attribute)):
                    if env.may_alias(self.places.value(part, env), place):
                        return True
        return False

    def _link_by_link(
        self,
        node: Statement,
        value: cst.Call,
        env: Env,
        extra: tuple[cst.BaseExpression, ...],
    ) -> list[Statement]:
        """Each in-place call of a chain as a statement of its own."""
        root = chain_root(value)
        place = self.places.value(root, env)
        links = chain_links(value)
        result: list[Statement] = []
        for number, link in enumerate(links):
            assert isinstance(link.func, cst.Attribute)
            single = link.with_changes(func=link.func.with_changes(value=root))
            last = number == len(links) - 1
            write = self.propagation(node, env)
            for later in links[number + 1 :]:
                write.live |= {n for arg in later.args for n in read_names(arg)}
            write.links_left = not last
            if not last:
                write.live |= read_names(root)
            new = self._pinned(root, single, self._new_value(single, env)[1], node, env)
            new = self.laid_out(root, new, [single])
            result += write.rebind(root, place, new, extra if last else ())
        self.fire(node, result)
        return result

    def fire(self, node: Statement, new: Sequence[Statement]) -> None:
        after = "\n".join(code(s).strip() for s in new)
        self.context.fired(self.name, node, code(node).strip(), after)


def _operands(link: cst.Call) -> list[cst.BaseExpression]:
    """The arguments that may promote what a call of a chain computes."""
    operation = optable.spelled(link)
    receiver = None
    if operation is not None and operation.name.startswith("method."):
        receiver = cst.ensure_type(link.func, cst.Attribute).value
    bound = operation.bind(link.args, receiver) if operation is not None else None
    if operation is None or bound is None:
        return [a.value for a in link.args]
    first = operation.parameters[0].name
    return promoting(
        operation, {n: x for n, x in bound.items() if n != first or receiver is None}
    )


def _is_private(link: cst.Call) -> bool:
    operation = optable.spelled(link)
    return operation is not None and operation.private
