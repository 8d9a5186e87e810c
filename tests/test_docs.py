"""What the README and docs/ show runs, and what commands write into them is current."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("libcst")

from higher import _generated as generated
import higher
from codegen.arguments import parse
from codegen.commands import rules_text
from codegen.context import Context
from codegen.syntax import Body
from codegen.tools.passes import passes_text
from codegen.tools.sections import section
from higher import ops
from higher.optim import registry

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
WRITTEN = {"rules.md": "rules", "upstream.md": "drift"}
"""Sections whose code is that of a rule's examples or a piece of generated code: those
run in tests of their own."""
ELSEWHERE = {
    "recipes.md": "test_recipes.py",  # beside the gradients of plain loops
    "distributed.md": "distributed/docs_cases.py",  # on several ranks
}
OTHERS = ("torchopt", "learn2learn")
"""Libraries whose programs stand beside ours; run where they are installed."""
FENCE = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


def text_of(page: str) -> str:
    """A page without what is tested elsewhere."""
    text = TEXTS[page]
    if page in WRITTEN:
        text = text.replace(section(text, WRITTEN[page]) or "", "")
    return text


def blocks(page: str, language: str) -> list[str]:
    """Code shown in that language."""
    found = FENCE.finditer(text_of(page))
    return [match["code"] for match in found if match["language"] == language]


def as_module(text: str) -> str:
    """A page's Python, each line where the page has it; all else is blank."""
    lines, end = [], 0
    for match in FENCE.finditer(text):
        shown = match["language"] == "python" and not missing(match["code"])
        lines.append("\n" * text.count("\n", end, match.start("code")))
        lines.append(match["code"] if shown else "\n" * match["code"].count("\n"))
        end = match.end("code")
    return "".join(lines)


def missing(code: str) -> list[str]:
    imported = re.findall(r"^import (\w+)", code, re.MULTILINE)
    return [n for n in OTHERS if n in imported and importlib.util.find_spec(n) is None]


# --- what is shown --------------------------------------------------------------

SHOWING = [page for page in PAGES if blocks(page, "python") and page not in ELSEWHERE]


@pytest.mark.parametrize("page", SHOWING)
def test_the_python_of_a_page_runs_as_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page, one after the other, as one program."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    name = f"shown_in_{Path(page).stem.replace('-', '_')}"
    place = tmp_path / f"{name}.py"
    place.write_text(as_module(TEXTS[page]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    torch.manual_seed(0)
    spec.loader.exec_module(module)
    _settled(module)


def _settled(module: ModuleType) -> None:
    """That the program got as far as it was meant to: gradients are finite numbers."""
    shown = [v for v in vars(module).values() if isinstance(v, torch.Tensor)]
    grads = [v.grad for v in shown if v.is_leaf and v.grad is not None]
    for net in (v for v in vars(module).values() if isinstance(v, torch.nn.Module)):
        leaves = [p for p in net.parameters() if p.is_leaf]
        grads += [p.grad for p in leaves if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_the_program_for_another_library_learns_the_same_weights(other: str) -> None:
    """Where that library is installed: side by side, from the same random numbers."""
    if missing(f"import {other}"):
        pytest.skip(f"{other} is not installed")
    maml = [b for b in blocks("coming-from.md", "python") if "for phase in" in b]
    learned = []
    for library in ("higher", other):
        (program,) = (b for b in maml if f"import {library}\n" in b)
        torch.manual_seed(0)
        shown: dict[str, Any] = {}
        exec(compile(program, f"coming-from.md, {library}", "exec"), shown)
        learned.append([p.detach() for p in shown["model"].parameters()])
    torch.testing.assert_close(*learned, rtol=1e-4, atol=1e-5)


CONSOLE = [(page, block) for page in PAGES for block in blocks(page, "console")]


@pytest.mark.skipif(
    f"PINNED_TORCH := {torch.__version__.split('+')[0]}\n"
    not in (ROOT / "Makefile").read_text(),
    reason="line numbers are those of the torch that the Makefile pins",
)
@pytest.mark.parametrize("page, block", CONSOLE, ids=[page for page, _ in CONSOLE])
def test_commands_print_what_is_shown(page: str, block: str) -> None:
    command, _, shown = block.partition("\n")
    python, *arguments = shlex.split(command.removeprefix("$ "))
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "80",
            "HIGHER_CODEGEN_CACHE": os.environ["HIGHER_CODEGEN_CACHE"],
        },
        capture_output=True,
        text=True,
    )
    assert shown.strip() in done.stdout + done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "")])
def test_commands_shown_are_commands(page: str) -> None:
    """The compiler's parse; make has the targets; the others are pip and shell loops."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in "".join(blocks(page, "")).replace("\\\n", "").splitlines():
        word, *rest = shlex.split(line, comments=True) or [""]
        if line.startswith("python -m codegen"):
            command = " ".join(rest).partition(" && ")[0].split()
            parse(command[2:], "python -m codegen")
        elif word == "make":
            assert rest[0] in targets
        else:
            assert word in {"", "pip", "for", "done"}, line


def test_every_file_named_exists() -> None:
    name = re.compile(
        r"`((?:examples|docs|tests|codegen|\.github)/[\w./]*\w|[A-Z]+\.md)`"
    )
    named = {
        n for page in PAGES if page != "upstream.md" for n in name.findall(TEXTS[page])
    }
    assert named
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_every_link_of_a_page_leads_somewhere() -> None:
    """Without the tools of the site, which check this, too, and the places in a page."""
    for name, path in PAGES.items():
        for link in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", TEXTS[name]):
            assert link.startswith("https:") or (path.parent / link).exists(), (
                name,
                link,
            )


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"- (?:\w+: )?([\w-]+\.md)$", _config(), re.MULTILINE)
    assert sorted(listed) == sorted(PAGES.keys() - {"README.md"})


def _config() -> str:
    return (ROOT / ".ci" / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_reference_has_every_public_name() -> None:
    """Those that ``higher`` and ``codegen`` offer themselves."""
    import codegen

    listed = re.findall(r"^::: ([\w.]+)$", TEXTS["reference.md"], re.MULTILINE)
    offered = {f"codegen.{n}" for n in codegen.__all__}
    offered |= {f"higher.{n}" for n in higher.__all__}
    assert offered - set(listed) == {"higher.optim", "higher.patch", "higher.utils"}


def test_the_front_page_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200


# --- what commands write --------------------------------------------------------


def test_the_rules_are_those_of_the_compiler() -> None:
    renew = "python -m codegen --rules -o docs/rules.md"
    assert section(TEXTS["rules.md"], "rules") == rules_text().strip(), f"run: {renew}"


def test_the_passes_are_those_of_the_compiler() -> None:
    renew = "python -m codegen.tools.passes CONTRIBUTING.md"
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert section(text, "passes") == passes_text().strip(), f"run: {renew}"


def test_the_passes_stand_in_the_order_in_which_they_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against what runs when an optimizer is translated."""
    import codegen
    from codegen.pipeline import Pass

    ran: list[str] = []
    run = Pass.__call__

    def told(self: Pass, body: Body, context: Context) -> Body:
        ran.append(self.name)
        return run(self, body, context)

    monkeypatch.setattr(Pass, "__call__", told)
    codegen.translate("torch.optim.SGD")
    listed = r"^\d+\. (?:R\d, )?`(\w+)` \("
    assert re.findall(listed, passes_text(), re.MULTILINE) == ran


def test_the_table_has_a_row_for_each_optimizer() -> None:
    renew = "python -m codegen --verify -o docs/verification.md"
    table = (section(TEXTS["verification.md"], "verification") or "").splitlines()[2:]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    names = sorted(path.rpartition(".")[2] for path in generated.OPTIMIZERS)
    assert sorted(row[0] for row in rows) == names, f"renew it: {renew}"
    for row in rows:
        for cell in row[1], row[3]:
            right, _, run_ = cell.partition("/")
            assert right == run_, f"{row[0]} is wrong; renew it: {renew}"


# --- where a derivative is zero, undefined or a choice ----------------------------


def trained(
    optimizer: torch.optim.Optimizer, weight: torch.Tensor, **override: object
) -> torch.Tensor:
    """The loss after three steps of ``optimizer``, whose one parameter is ``weight``."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    wrapped = {name: [value] for name, value in override.items()}
    diffopt = higher.get_diff_optim(optimizer, [weight], override=wrapped or None)
    fast = [weight]
    for _ in range(3):
        fast = diffopt.step((x @ fast[0]).sub(1).square().mean(), params=fast)
    return (x @ fast[0]).sub(1).square().mean()


def weight() -> torch.Tensor:
    numbers = torch.tensor([[0.5, -0.4], [0.3, 0.2], [-0.1, 0.6]], dtype=torch.float64)
    return numbers.requires_grad_()


def setting(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "function",
    [ops.sqrt, ops.rsqrt, ops.norm, lambda x: ops.pow(x, 0.3)],
    ids=["sqrt", "rsqrt", "norm", "pow"],
)
def test_roots_and_norms_have_derivative_zero_at_zero(function: object) -> None:
    x = torch.zeros(3, requires_grad=True)
    (slope,) = torch.autograd.grad(function(x).sum(), x)  # type: ignore[operator]
    assert slope.tolist() == [0, 0, 0]


def test_a_setting_that_is_off_has_the_derivative_of_its_branch() -> None:
    w, decay, step = weight(), setting(0.0), 1e-6
    loss = trained(torch.optim.SGD([w], lr=0.1), w, weight_decay=decay)
    plain = trained(torch.optim.SGD([w], lr=0.1), w)
    moved = trained(torch.optim.SGD([w], lr=0.1, weight_decay=step), w)
    (slope,) = torch.autograd.grad(loss, decay)
    assert loss == plain
    assert slope.item() == pytest.approx((moved - plain).item() / step, rel=1e-4)


def test_momentum_zero_with_dampening_is_its_limit() -> None:
    w = weight()
    opt = torch.optim.SGD([w], lr=0.1, dampening=0.5)
    plain, limit = trained(opt, w), trained(opt, w, momentum=1e-12)
    tracked = trained(opt, w, momentum=setting(0.0))
    assert abs(limit - plain) > 1e-3
    assert tracked.item() == pytest.approx(limit.item(), rel=1e-9)


def test_signs_of_rprop_have_no_derivative() -> None:
    """The weights' meta-gradient is that of adding a constant to them."""
    w, lr = weight(), setting(0.01)
    opt = torch.optim.Rprop([w])
    by_lr, by_weight = torch.autograd.grad(trained(opt, w, lr=lr), [lr, w])
    final = (w.detach() + _moved_by(opt, w)).requires_grad_()
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    (expected,) = torch.autograd.grad((x @ final).sub(1).square().mean(), final)
    assert by_lr != 0
    torch.testing.assert_close(by_weight, expected)


def _moved_by(opt: torch.optim.Optimizer, w: torch.Tensor) -> torch.Tensor:
    """What three steps add to the weight."""
    diffopt = higher.get_diff_optim(opt, [w])
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    fast = [w]
    for _ in range(3):
        fast = diffopt.step((x @ fast[0]).sub(1).square().mean(), params=fast)
    return (fast[0] - w).detach()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_s_rounding_passes_derivatives_on() -> None:
    w, lr, step = weight(), setting(0.02), 2e-3
    (slope,) = torch.autograd.grad(trained(torch.optim.Muon([w]), w, lr=lr), lr)
    below, above = (
        trained(torch.optim.Muon([w], lr=0.02 + d), w).item() for d in (-step, step)
    )
    assert slope.item() == pytest.approx((above - below) / (2 * step), rel=5e-2)


def test_maximum_shares_ties() -> None:
    a, b = setting(1.0), setting(1.0)
    slopes = torch.autograd.grad(torch.maximum(a, b), [a, b])
    assert [slope.item() for slope in slopes] == [0.5, 0.5]


def test_clamping_passes_derivatives_on_at_the_bound() -> None:
    x = setting(1.0)
    (slope,) = torch.autograd.grad(ops.clamp(x, max=1.0), [x])  # type: ignore[arg-type]
    (torchs,) = torch.autograd.grad(torch.clamp(x, max=1.0), [x])
    assert slope == torchs
    if int(torch.__version__.split(".")[1]) < 14:  # 2.15 gives zero there
        assert slope == 1


def test_max_of_numbers_takes_the_first_of_equals() -> None:
    a, b = setting(1.0), setting(1.0)
    slopes = torch.autograd.grad(ops.maximum(a, b), [a, b], allow_unused=True)  # type: ignore[arg-type]
    assert slopes == (torch.tensor(1.0, dtype=torch.float64), None)


def test_optimizer_hooks_do_not_run_inside() -> None:
    w, ran = weight(), []
    opt = torch.optim.SGD([w], lr=0.1)
    opt.register_step_post_hook(lambda *_: ran.append(1))
    trained(opt, w)
    assert not ran
