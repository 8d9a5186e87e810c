"""What a name that leads nowhere may have meant."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


def similar(name: str, names: Iterable[str], prefix: str = "") -> str:
    """The names that are spelled most like ``name``, in upper case or lower."""
    known = {each.lower(): each for each in names}
    wanted = name.lower()
    close = [wanted] if wanted in known else difflib.get_close_matches(wanted, known)
    if close:
        return f"did you mean {', '.join(prefix + known[each] for each in close)}?"
    return "give the full path, such as torch.optim.NAdam, or FILE.py:ClassName"


def in_file(path: str, name: str, optimizers: Iterable[str]) -> str:
    """Which class of a file may have been meant; all of them, where none is like it."""
    known = list(optimizers)
    if not known:
        return f"{path} defines no optimizer; give FILE.py:ClassName"
    close = difflib.get_close_matches(name, known) or known[:5]
    return f"did you mean {' or '.join(shlex.quote(f'{path}:{n}') for n in close)}?"
