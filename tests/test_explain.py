"""``--explain`` shows each generated line beside the line that it was made from."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("libcst")

from codegen import CodegenError, Translation, translate
from codegen.__main__ import main
from codegen.tools.explain import explain
from codegen.tools.explain.rows import Row, rows
from codegen.tools.explain.terminal import WIDE
from codegen.rules import RULES

OPTIMIZER = '''
import math
import torch


def scaled(x, c):
    """Twice a root."""
    return x.mul(math.sqrt(c) * 2)


class Odd(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, c=0.5):
        super().__init__(params, dict(lr=lr, c=c))

    @torch.no_grad()
    def step(self, closure=None):
        """A docstring that explain leaves out."""
        loss = None
        for group in self.param_groups:
            lr = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["sum"] = torch.zeros_like(p)
                # the sum of <all> gradients
                total = state["sum"]
                total.mul_(0.9).add_(p.grad)
                p.add_(scaled(total, group["c"]), alpha=-lr)
        return loss
'''


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Translation:
    path = tmp_path_factory.mktemp("explain") / "odd.py"
    path.write_text(OPTIMIZER)
    return translate(f"{path}:Odd")


@pytest.fixture(scope="module")
def nadam() -> Translation:
    return translate("torch.optim.NAdam")


def row_of(found: list[Row], text: str) -> Row:
    """The row on whose left side ``text`` stands."""
    (row,) = [r for r in found if any(text in line for line in r.upstream.texts)]
    return row


def generated(row: Row) -> str:
    return " ".join(line.strip() for line in row.generated.texts)


# --- rows -----------------------------------------------------------------------


def test_each_generated_line_is_shown_once_and_in_order(nadam: Translation) -> None:
    shown = [n for row in rows(nadam) for n in row.generated.numbers]
    lines = nadam.text.splitlines()
    first = next(n for n, text in enumerate(lines, 1) if "for group_idx" in text)
    assert shown == [n for n in range(first, len(lines) + 1) if lines[n - 1].strip()]


def test_each_line_of_the_functions_read_is_shown_once(odd: Translation) -> None:
    """All of ``step`` and of the helper, but for signatures and docstrings."""
    shown = sorted(n for row in rows(odd) for n in row.upstream.numbers)
    lines = OPTIMIZER.splitlines()
    step = lines.index("        loss = None") + 1
    helper = lines.index("def scaled(x, c):") + 1
    expected = [helper, helper + 2, *range(step, len(lines) + 1)]
    assert shown == expected


@pytest.mark.parametrize(
    "before, after, tags",
    [
        ("for group in", "for group_idx, (group, grads) in", ("R2",)),
        ('lr = group["lr"]', 'lr = group["lr"]', ()),
        ("self.state[p]", "state = self.state[group_idx][p_idx]", ("R3",)),
        ("total.mul_(", 'state["sum"] = total = total.mul(0.9).add(grad)', ("R4",)),
        ("p.add_(", 'group["params"][p_idx] = ops.add(', ("R4", "R6", "R7")),
        ("return loss", "", ("R1",)),
        ("return x.mul", "return x.mul(ops.sqrt(c) * 2)", ("R7",)),
    ],
)
def test_a_line_its_translation_and_the_rules_between(
    odd: Translation, before: str, after: str, tags: tuple[str, ...]
) -> None:
    row = row_of(rows(odd), before)
    assert generated(row).startswith(after) and bool(after) == bool(row.generated)
    assert row.tags == tags


def test_comments_stand_with_their_statement(odd: Translation) -> None:
    row = row_of(rows(odd), "the sum of <all>")
    assert len(row.upstream.texts) == len(row.generated.texts) == 2
    assert row.tags == ()


def test_layers_are_told_apart_from_rules(nadam: Translation) -> None:
    """What is lowered has its own tag, and its place is the function it stands in."""
    found = rows(nadam)
    row = row_of(found, "exp_avg = exp_avgs[i]")
    assert generated(row) == 'exp_avg = state["exp_avg"]'
    assert (row.function, row.tags) == ("_single_tensor_nadam", ("lower",))
    assert row_of(found, "exp_avgs.append(").generated.numbers == ()


def test_every_rule_that_fired_is_seen(nadam: Translation) -> None:
    assert set(nadam.fired) <= {tag for row in rows(nadam) for tag in row.tags}


# --- text -----------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, WIDE, 120, 200])
def test_text_keeps_within_the_width(
    nadam: Translation,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    explain(nadam, "text", None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if line != line.rstrip()]
    beside = [line for line in lines if "mu_product *= mu" in line]
    assert len(beside) == 1
    assert ('state["mu_product"] =' in beside[0]) == (width >= WIDE)


def test_text_is_plain_when_piped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "COLUMNS", "FORCE_COLOR":
        monkeypatch.delenv(name, raising=False)
    assert main(["torch.optim.SGD", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "torch/optim/sgd.py, _single_tensor_sgd" in out
    (line,) = [line for line in out.splitlines() if "self.state[p]" in line]
    number = re.match(r" *(\d+) ", line)
    assert number is not None and "R3" in line
    assert "self.state[group_idx][p_idx]" in line


def test_text_is_coloured_on_a_terminal(
    odd: Translation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    explain(odd, "text", None)
    assert "\x1b[32m" in capsys.readouterr().out


def test_text_goes_to_no_file(odd: Translation, tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match="goes with --explain=html"):
        explain(odd, "text", str(tmp_path / "out.txt"))


# --- page -----------------------------------------------------------------------


def test_the_page_needs_nothing_besides_itself(
    odd: Translation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.html"
    explain(odd, "html", str(path))
    assert capsys.readouterr().out == f"wrote {path}\n"
    page = path.read_text()
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|<script|<link", page)


def test_the_page_has_each_rule_where_its_tag_is(nadam: Translation) -> None:
    page = _page(nadam)
    for rule in RULES:
        tag = f'<span class="tag {rule.name}"'
        assert page.count(tag) == sum(rule.name in r.tags for r in rows(nadam))
        first = re.sub(r"``", "", (rule.__doc__ or "").split(".")[0].strip())
        if rule.name in nadam.fired:
            text = html.unescape(re.sub(r"<[^>]+>", "", page.partition(tag)[2]))
            assert " ".join(first.split()[:6]) in " ".join(text.split())


def test_the_page_shows_code_as_it_is(odd: Translation) -> None:
    page = _page(odd)
    assert "<all>" not in page and "&lt;all&gt;" in page


def test_a_file_of_another_make_is_not_overwritten(
    odd: Translation, tmp_path: Path
) -> None:
    path = tmp_path / "notes.html"
    path.write_text("mine")
    with pytest.raises(CodegenError, match="is no page of --explain"):
        explain(odd, "html", str(path))
    assert path.read_text() == "mine"


def test_a_page_is_renewed(odd: Translation, tmp_path: Path) -> None:
    path = tmp_path / "odd.html"
    for _ in range(2):
        explain(odd, "html", str(path))
    assert path.read_text() == _page(odd)


def _page(translation: Translation) -> str:
    from codegen.tools.explain.page import page

    return page(translation, rows(translation))
