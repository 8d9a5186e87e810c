"""R6: write-back."""

from __future__ import annotations

import libcst as cst

from codegen.rules.base import Example, Rule
from codegen.syntax import Body, expr


class WriteBack(Rule):
    """The new parameter goes to ``group["params"][p_idx]``; what is not written keeps
    its old value.

    R4 leaves a store to a parameter's own data as ``p.data = …``; here it gets the
    place where the next step, and the caller, look for it.
    """

    name = "R6"
    title = "Write-back"
    EXAMPLES = (
        Example(
            "p.data = p = p.add(d_p, alpha=-lr)",
            'group["params"][p_idx] = p = p.add(d_p, alpha=-lr)',
        ),
        Example('state["step"] = step = step + 1'),
    )

    def apply(self, body: Body) -> Body:
        def replace(node: cst.CSTNode) -> cst.CSTNode | None:
            if isinstance(node, cst.Attribute) and node.attr.value == "data":
                return expr('group["params"][p_idx]')
            return None

        return self.rewrite(body, replace)
