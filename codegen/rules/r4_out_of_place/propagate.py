"""A mutated place gets its new value everywhere: statements for all who must see it."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from codegen.analysis.values import Kind, Place, Value, View
from codegen.rules.r4_out_of_place.holders import Holders
from codegen.syntax import (
    Statement,
    assign,
    block,
    code,
    expr,
    is_name,
    parenthesize,
    same,
    stmt,
)


class Propagation(Holders):
    """One mutation, written to every live name and slot that holds or shows the place.

    An object that is surely held is stored to; one that may be held is asked for with
    ``is``; a view is undone, and put back into what it shows.
    """

    def rebind(
        self,
        root: cst.BaseExpression,
        value: Value,
        new: cst.BaseExpression,
        extra: tuple[cst.BaseExpression, ...] = (),
    ) -> list[Statement]:
        """``root`` (which denotes ``value``) becomes ``new``; so do ``extra`` targets."""
        self.source, self.root = value.source, root
        lost = self._out_of_reach(value)
        if lost is not None:
            self._unknown_alias(root, lost)
            return []
        if value.place is None:
            return self._rebind_one_of(root, value, new, extra)
        if value.place.views:
            return self._rebind_view(root, value, new, extra)
        return self._rebind_object(root, value, new, extra)

    def _rebind_object(
        self,
        root: cst.BaseExpression,
        value: Value,
        new: cst.BaseExpression,
        extra: tuple[cst.BaseExpression, ...],
    ) -> list[Statement]:
        place = value.place
        assert place is not None
        targets = self._holders(place, root)
        targets += [e for e in extra if not any(same(e, t) for t in targets)]
        maybe = list(self._may_hold(value, root))
        after = self._recompute_views(value, targets, root)
        if not targets:
            self._refuse_lost(place, root)
        if not maybe:
            return [assign(targets, new), *after] if targets else after
        self.rule.emits_identity_tests = True
        updated = cst.Name("updated")
        named, old = self._old(self._readable(root, targets))
        tests = [self._test(m, old, updated) for m in maybe]
        last = [assign(targets, updated)] if targets else []
        return [assign([updated], new), *named, *tests, *last, *after]

    def _readable(
        self, root: cst.BaseExpression, targets: Sequence[cst.BaseExpression]
    ) -> cst.BaseExpression:
        """What denotes the old object: short, and surely bound."""
        if is_name(root):
            return root
        return next((t for t in targets if not self._may_be_missing(t)), root)

    def _old(
        self, holder: cst.BaseExpression
    ) -> tuple[list[Statement], cst.BaseExpression]:
        """A variable that denotes the old object while slots get the new one."""
        if isinstance(holder, cst.Name):
            return [], holder
        return [assign([cst.Name("old")], holder)], cst.Name("old")

    def _recompute_views(
        self,
        value: Value,
        targets: list[cst.BaseExpression],
        root: cst.BaseExpression,
        but: Place | None = None,
    ) -> list[Statement]:
        """Live names and slots that see the object through views see its new value."""
        place = value.place
        assert place is not None
        result: list[Statement] = []
        for holder, held, _ in self._related(value):
            seen = held.place
            if seen is None or seen.obj != place.obj or not seen.views:
                continue
            if seen in (but, place):
                continue
            if not targets:
                self._unknown_alias(root, code(holder))
                continue
            text = code(targets[0]) + "".join(v.text for v in seen.views)
            result.append(assign([holder], expr(text)))
        for name, how in self._parts_of(value):
            if not targets:
                self._unknown_alias(root, name)
                break
            result.append(assign([cst.Name(name)], expr(code(targets[0]) + how)))
        return result

    def _rebind_one_of(
        self,
        root: cst.BaseExpression,
        value: Value,
        new: cst.BaseExpression,
        extra: tuple[cst.BaseExpression, ...],
    ) -> list[Statement]:
        """Which object it is shows at run time only: ask with ``is``."""
        related = [(o, v) for o, v, _ in self._related(value) if not same(o, root)]
        others = [o for o, _ in related]
        self.rule.emits_identity_tests = bool(others) or self.rule.emits_identity_tests
        targets = [root] if self._can_hold(root) else []
        if isinstance(root, cst.Name) and root.value not in self.live:
            targets = []
        targets += list(extra)
        if not others:
            return [assign(targets, new)] if targets else []
        updated = cst.Name("updated")
        named, old = self._old(root)
        if any(p.views for p in value.places):
            for other, held in related:
                if held.kind is not Kind.TENSOR:
                    self._unknown_alias(root, code(other))
            self._refuse_again(root, value, others)
            self.rule.wrote_through = True
            tests = self._write_parts(others, old, updated)
        else:
            for other, held in related:
                if any(p.views for p in held.places):
                    self._unknown_alias(root, code(other))
            tests = [self._test(o, old, updated) for o in others]
        last = [assign(targets, updated)] if targets else []
        return [assign([updated], new), *named, *tests, *last]

    def _refuse_again(
        self,
        root: cst.BaseExpression,
        value: Value,
        others: Sequence[cst.BaseExpression],
    ) -> None:
        """What is written through once is a view no more: if one is at hand afterwards,
        nothing of it may be mutated again."""
        asked = self.env.fork()  # reading a slot shows that it exists
        held = [self.rule.places.value(o, asked) for o in others]
        if is_name(root) and code(root) in self.live:
            held.append(value)
        slots_apart = len(others) > 1 and any(map(self._may_be_missing, others))
        if not slots_apart and not any(p.views for v in held for p in v.places):
            return
        if any(self.env.may_alias(value, later) for later in self.scope.mutated_later):
            self.rule.refuse(
                root,
                f"mutates what may be a view that `{code(others[0])}` shows too, and "
                "is mutated again later",
                "clone it first, or assign the result back",
            )

    def _rebind_view(
        self,
        root: cst.BaseExpression,
        value: Value,
        new: cst.BaseExpression,
        extra: tuple[cst.BaseExpression, ...],
    ) -> list[Statement]:
        place = value.place
        assert place is not None
        whole = Place(place.obj)
        bases = self._holders(whole, None)
        if not bases and self._shown_elsewhere(value, place):
            # nobody reads the whole any more, but other parts of it
            bases = self._named(whole)
        names: list[cst.BaseExpression] = [
            cst.Name(n)
            for n, v in self.env.names.items()
            if v.place == place and n in self.live
        ]
        names += [e for e in extra if not any(same(e, n) for n in names)]
        for holder in self._may_hold(value, root):
            self._unknown_alias(root, code(holder))
        if not bases:
            self._refuse_lost(whole, root)
            if self._shown_elsewhere(value, place):
                self._unknown_alias(root, "another part of it")
        result: list[Statement] = []
        if bases and any(v.how == "opaque" for v in place.views):
            return self._write_through(root, value, new, bases, names)
        if names:
            result.append(assign(names, new))
            new = names[0]
        old = self._old_base(whole, root, place)
        if bases and old is not None:
            undone = self._undo(place.views, old, new, root)
            result.append(assign(bases, undone))
            result += self._recompute_views(value, bases, root, but=place)
        elif bases:
            self._unknown_alias(root, code(bases[0]))
        return result

    def _write_through(
        self,
        root: cst.BaseExpression,
        value: Value,
        new: cst.BaseExpression,
        bases: list[cst.BaseExpression],
        names: list[cst.BaseExpression],
    ) -> list[Statement]:
        """A view whose inverse isn't known writes through its strides."""
        place = value.place
        assert place is not None
        self.rule.emits_identity_tests = self.rule.wrote_through = True
        updated = cst.Name("updated")
        base = self._old_base(Place(place.obj), root, place)
        text = f"ops.write_through({code(base or bases[0])}, {code(root)}, updated)"
        result: list[Statement] = [
            assign([updated], new),
            assign(bases, expr(text)),
        ]
        if names and self._is_mutated_again(value):
            # what is written through is a view no more: this one is needed
            shown = expr(code(bases[0]) + "".join(v.text for v in place.views))
            result.append(assign(names, shown))
        elif names:
            result.append(assign(names, updated))
        return [
            *result,
            *self._recompute_views(value, bases, root, but=place),
        ]

    def _undo(
        self,
        views: tuple[View, ...],
        base: cst.BaseExpression,
        new: cst.BaseExpression,
        root: cst.BaseExpression,
    ) -> cst.BaseExpression:
        """The whole object, given the new value of a part of it."""
        if not views:
            return new
        last = views[-1]
        inner = code(base) + "".join(v.text for v in views[:-1])
        text = code(parenthesize(new))
        if last.how == "transpose":
            undone = expr(f"{text}{last.text}")
        elif last.how == "reshape":
            undone = expr(f"{text}.reshape({inner}.shape)")
        elif last.how == "index" and last.index is not None:
            undone = expr(f"ops.setitem({inner}, {code(last.index)}, {code(new)})")
        elif last.how == "real":
            undone = expr(f"torch.view_as_complex({code(new)})")
        elif last.how == "complex":
            undone = expr(f"torch.view_as_real({code(new)})")
        else:
            self.rule.refuse(
                root,
                f"a tensor is mutated through the view `{last.text}`, and how to put "
                "the new values back is not known",
                "mutate the tensor itself, or assign the result back",
            )
            return new
        return self._undo(views[:-1], base, undone, root)

    def _test(
        self,
        holder: cst.BaseExpression,
        old: cst.BaseExpression,
        new: cst.BaseExpression,
    ) -> Statement:
        """``holder = new if holder is old else holder``; a slot may not exist."""
        text = code(holder)
        self._bind_first(holder)
        if self._may_be_missing(holder) and not isinstance(holder, cst.Name):
            asked = f"{self._got(holder)} is {code(old)}"
            return stmt(f"if {asked}:\n    {text} = {code(new)}\n")
        value = expr(f"{code(new)} if {text} is {code(old)} else {text}")
        return assign([holder], value)

    def _write_parts(
        self,
        holders: Sequence[cst.BaseExpression],
        view: cst.BaseExpression,
        new: cst.BaseExpression,
    ) -> list[Statement]:
        """``holders`` with what ``view`` shows of them replaced, if it shows any; those
        that are one tensor stay one."""
        for holder in holders:
            self._bind_first(holder)
        sure = [h for h in holders if is_name(h) or not self._may_be_missing(h)]
        seen = f"{code(view)}, {code(new)}"
        result: list[Statement] = []
        if len(sure) == 1:
            written = expr(f"ops.write_through({code(sure[0])}, {seen})")
            result.append(assign(sure, written))
        elif sure:
            names = ", ".join(map(code, sure))
            result.append(stmt(f"{names} = ops.write_through_all([{names}], {seen})"))
        for holder in holders:
            if holder not in sure:
                written = expr(f"ops.write_through({code(holder)}, {seen})")
                exists = expr(self._exists(holder))
                result.append(cst.If(exists, block([assign([holder], written)])))
        return result

    def _bind_first(self, holder: cst.BaseExpression) -> None:
        """A variable that is asked for here may not be bound yet."""
        if isinstance(holder, cst.Name) and holder.value in self.env.unbound:
            self.rule.asked_unbound[holder.value] = None

    def _is_in_list(self, slot: cst.Subscript) -> bool:
        return self.rule.places.value(slot.value, self.env.fork()).kind is Kind.SEQUENCE

    def _got(self, slot: cst.BaseExpression) -> str:
        """What ``state["k"]`` or ``bufs[1]`` holds, None where it may not exist."""
        assert isinstance(slot, cst.Subscript)
        if self._is_in_list(slot):
            return f"{self._exists(slot)} and {code(slot)}"
        return f"{code(slot.value)}.get({_key(slot)})"

    def _exists(self, slot: cst.BaseExpression) -> str:
        assert isinstance(slot, cst.Subscript)
        if self._is_in_list(slot):
            return f"len({code(slot.value)}) > {_key(slot)}"
        return f"{self._got(slot)} is not None"


def _key(slot: cst.Subscript) -> str:
    return code(slot)[len(code(slot.value)) + 1 : -1]
