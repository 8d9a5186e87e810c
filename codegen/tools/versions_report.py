"""A survey of versions as a page: what changed first, then each change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codegen.tools.canonical import Likeness
from codegen.tools.hunks import Hunk, hunks
from codegen.tools.versions import COMMITTED, Change, Outcome, Survey

LEGEND = """\
Each version's output, held against `generated/`, which is made from {committed}:

- `same`: the same text;
- `notes`: the same code; comments, annotations or layout differ;
- `checks`: the same computation; what is refused, or the words for it, differs;
- `differs`: other code, shown below;
- `refused`: it can't be translated; `absent`: that version has no such optimizer;
  `new`: `generated/` has no such file.
"""


def render(survey: Survey) -> str:
    """The page, in Markdown: a table, then a section for each optimizer that changed."""
    parts = [LEGEND.format(committed=survey.committed_version), _table(survey)]
    parts += [_verdict(survey), ""]
    parts += _sections(survey)
    return "\n".join(parts).rstrip() + "\n"


def verdict(survey: Survey) -> str:
    """Whether what is committed is what the newest version makes, in a sentence."""
    return _verdict(survey)


def _short(target: str) -> str:
    return target.rpartition(".")[2]


# --- table -------------------------------------------------------------------------


def _table(survey: Survey) -> str:
    head = ["optimizer", *survey.versions]
    rows = [
        [_short(target), *(survey.cell(target, version) for version in survey.versions)]
        for target in survey.targets
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths))
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def _verdict(survey: Survey) -> str:
    newest = survey.versions[-1]
    outdated = survey.outdated()
    if not outdated:
        return f"`{COMMITTED}` is what torch {newest} translates to."
    words: dict[str, list[str]] = {}
    for target in outdated:
        words.setdefault(survey.cell(target, newest), []).append(_short(target))
    listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in words.items())
    return f"`{COMMITTED}` is not what torch {newest} translates to ({listed})."


# --- changes -----------------------------------------------------------------------


def _sections(survey: Survey) -> Iterator[str]:
    """A section for each optimizer with changes to tell; none is told twice."""
    told: dict[str, str] = {}
    for target in survey.targets:
        name = _short(target)
        changes = [
            change for change in survey.changes(target) if _worth_telling(change)
        ]
        if changes:
            yield f"## {name}\n"
        for change in changes:
            title = f"### {name} {change.old_version} → {change.new_version}\n"
            text = "\n".join(_change(change))
            same = told.setdefault(text.replace(f"Differentiable{name}(", ""), name)
            yield title
            yield text if same == name else f"As {same}.\n"


def _worth_telling(change: Change) -> bool:
    if change.old.side is None and change.new.side is None:
        return change.old.word != change.new.word
    if change.likeness is None or change.likeness < Likeness.CODE:
        return True
    return bool(_settings(change))


def _change(change: Change) -> list[str]:
    lines: list[str] = []
    settings = _settings(change)
    if settings:
        lines += [f"Settings: {settings}.", ""]
    if change.old.side is None or change.new.side is None:
        return [*lines, _came_or_went(change), ""]
    if change.likeness is Likeness.COMPUTES:
        lines += [
            "It computes the same; what is refused, or the words for it, differs."
        ]
        lines += [""]
    for hunk in hunks(change.old.side, change.new.side):
        lines += _hunk(hunk)
    if not (change.old.side.sources and change.new.side.sources):
        lines += [
            f"Upstream's lines need the source that `{COMMITTED}` was made from: name "
            "that version, too.",
            "",
        ]
    return lines


def _came_or_went(change: Change) -> str:
    if change.new.refusal:
        refusal = change.new.refusal
        return f"Refused:\n\n```\n{refusal}\n```"
    word = {"absent": "Gone.", "translated": f"New; it was {change.old.word}."}
    return word[change.new.word]


def _settings(change: Change) -> str:
    """What became of the constructor's settings, in words."""
    if not (change.old.settings and change.new.settings):
        return ""
    old, new = (_by_name(outcome) for outcome in (change.old, change.new))
    told = [f"`{new[name]}` is new" for name in new if name not in old]
    told += [f"`{name}` is gone" for name in old if name not in new]
    told += [
        f"`{old[name]}` became `{new[name]}`"
        for name in new
        if name in old and old[name] != new[name]
    ]
    return "; ".join(told)


def _by_name(outcome: Outcome) -> dict[str, str]:
    return {setting.partition("=")[0]: setting for setting in outcome.settings}


def _hunk(hunk: Hunk) -> list[str]:
    lines = ["```diff", *hunk.generated, "```", ""]
    for file, diff in hunk.upstream.items():
        lines += [f"upstream, `{file}`:", "", "```diff", *diff, "```", ""]
    return lines
