"""``--survey``: every optimizer of a package, compiled or refused where and why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from codegen.tools import survey
from codegen.__main__ import main

SOURCES = {
    "__init__.py": "from surveyed.plain import Plain\n",
    "plain.py": '''
import torch

class Plain(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad, alpha=-group["lr"])


class Helper:
    """No optimizer."""
''',
    "line_search.py": """
import torch

class Searching(torch.optim.Optimizer):
    def step(self, closure):
        return closure()
""",
    "broken.py": "class Optimizer(:\n",
    "tests/other.py": "import torch\nclass InTests(torch.optim.Optimizer):\n    pass\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, text in SOURCES.items():
        file = tmp_path / "surveyed" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # processes would have to find the package, too
    monkeypatch.setattr(survey.os, "cpu_count", lambda: 1)
    survey._digest.cache_clear()
    monkeypatch.delitem(sys.modules, "surveyed", raising=False)
    return "surveyed"


def test_what_compiles_and_what_is_refused(package: str) -> None:
    searching, plain = survey.findings(package, verified=False)
    assert (plain.target, plain.outcome) == ("surveyed.plain.Plain", "compiled")
    assert searching.outcome == "refused"
    assert "surveyed/line_search.py:6:16: R1" in searching.reason


def test_a_second_run_remembers(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = survey.findings(package, verified=False)

    def examine(target: str, verified: bool) -> survey.Finding:
        raise AssertionError(f"{target} is examined again")

    monkeypatch.setattr(survey, "examine", examine)
    assert survey.findings(package, verified=False) == first
    changed = tmp_path / "surveyed" / "plain.py"
    changed.write_text(changed.read_text() + "\n")
    survey._digest.cache_clear()
    with pytest.raises(AssertionError, match="examined again"):
        survey.findings(package, verified=False)


def test_a_verified_survey_has_the_figures(package: str) -> None:
    plain = survey.examine("surveyed.plain.Plain")
    assert plain.outcome == "compiled"
    assert "followed" in plain.reason and "gradients" in plain.reason


def test_the_table_goes_into_a_document(
    package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- survey: x -->\n<!-- end of survey -->\n")
    assert main(["--survey", package, "--no-verify", "-o", str(document)]) == 0
    assert "1 of 2 compiled." in document.read_text()


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ([], "no package named"),
        (["no_such_package"], "no package 'no_such_package' is installed"),
        (["json"], "json defines no optimizer"),
    ],
)
def test_misuse_is_one_error_that_says_what_to_do(
    packages: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--survey", *packages]) == 2
    assert message in capsys.readouterr().err
