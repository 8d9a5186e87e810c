"""The command line: exit codes, what is written, and what never is."""

from __future__ import annotations

import inspect
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import libcst as cst
import pytest
import torch

import codegen
from codegen import files
from codegen.tools import drift
from codegen.__main__ import main
from codegen.arguments import COMMANDS, parse
from codegen.diagnostics import Origins

Capture: TypeAlias = "pytest.CaptureFixture[str]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A generated/ with the installed torch's SGD alone, in the real one's place."""
    copy = tmp_path / "generated"
    copy.mkdir()
    (copy / "sgd.py").write_text(codegen.translate("torch.optim.SGD").text)
    (copy / "__init__.py").write_text(files.index_of(copy))
    monkeypatch.setattr(files, "generated_folder", lambda: copy)
    monkeypatch.setattr(drift, "torch_optimizers", lambda tree: ["torch.optim.SGD"])
    return copy


def test_a_deleted_file_is_made_again_as_it_was(folder: Path) -> None:
    before = (folder / "sgd.py").read_bytes()
    (folder / "sgd.py").unlink()
    assert main(["torch.optim.SGD", "--no-verify"]) == 0
    assert (folder / "sgd.py").read_bytes() == before
    assert main(["--check"]) == 0


def test_check_is_content_with_a_current_folder(folder: Path) -> None:
    assert main(["--check"]) == 0


MISUSES = {
    "torch.optim.Nadam": "did you mean torch.optim.NAdam?",
    "torch.optim.Sgd": "did you mean torch.optim.SGD?",
    "torch.optim.AdamsW": "did you mean torch.optim.AdamW",
    "Adam": "did you mean torch.optim.Adam?",
    "torch.optim.Optimizer": "name a subclass",
    "torch.nn.Linear": "is no optimizer",
    "torch.optim": "survey torch.optim",
    "torch.nn.Nothing": "has no class 'Nothing'",
    "torch.optim.lr_scheduler.StepLR": "is no optimizer",
    "no.such.module.Opt": "no Python source",
    "_io.FileIO": "no Python source",
    "nowhere.py:Opt": "no file nowhere.py",
}


@pytest.mark.parametrize("target", MISUSES)
def test_misuse_is_one_clear_error(folder: Path, target: str, capsys: Capture) -> None:
    assert main([target]) == 2
    error = capsys.readouterr().err
    assert MISUSES[target] in error and "hint:" in error
    assert "Traceback" not in error


def test_what_is_wrong_with_a_file_is_told_before_that_no_output_was_named(
    spaced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Where the compiler is installed, and has no folder of its own to write to."""
    monkeypatch.setattr(files, "_ROOT", tmp_path)
    assert main(["my source/opt.py:Plan"]) == 2
    assert "did you mean 'my source/opt.py:Plain'?" in capsys.readouterr().err
    assert main(["my source/opt.py:Plain"]) == 2
    assert "name the output" in capsys.readouterr().err


BAD_FILES = {
    "syntax": (b"class Opt(:\n", "syntax error"),
    "encoding": (b"# \xff\xfe\nclass Opt: pass\n", "can't be decoded"),
    "import": (
        b"import torch\nraise OSError('no luck')\nclass Opt(torch.optim.SGD): pass\n",
        "can't be imported",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_leave_nothing_behind(
    tmp_path: Path, name: str, capsys: Capture
) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    assert main([f"{path}:Opt", "-o", str(tmp_path / "out.py")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.py").exists()


def test_foreign_files_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("precious = 1\n")
    assert main(["torch.optim.SGD", "--no-verify", "-o", str(path)]) == 2
    assert path.read_text() == "precious = 1\n"
    assert main(["torch.optim.SGD", "--no-verify", "--force", "-o", str(path)]) == 0
    assert main(["--check", str(path)]) == 0


def test_a_dash_for_output_prints_the_text_alone(capsys: Capture) -> None:
    assert main(["torch.optim.SGD", "--no-verify", "-o", "-"]) == 0
    assert capsys.readouterr().out == codegen.translate("torch.optim.SGD").text


def test_interrupted_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.py"
    path.write_text("old\n")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, "new\n")
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


OWN = """
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


class Other(Plain):
    def step(self, closure=None):
        print(self)
"""


@pytest.fixture
def spaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose folders have spaces in their names."""
    project = tmp_path / "a project"
    (project / "my source").mkdir(parents=True)
    (project / "made here").mkdir()
    (project / "my source/opt.py").write_text(OWN)
    monkeypatch.chdir(project)
    return project


def compile_spaced(*more: str) -> int:
    target = "my source/opt.py:Plain"
    return main([target, "--no-verify", "-o", "made here/plain.py", *more])


def test_a_file_is_told_from_the_generated_file_whatever_folder_one_stands_in(
    spaced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compile_spaced() == 0
    made = (spaced / "made here/plain.py").read_text()
    assert "`python -m codegen '../my source/opt.py:Plain'`" in made
    for folder in (spaced, spaced / "made here", spaced.parent):
        monkeypatch.chdir(folder)
        assert main(["check", str(spaced / "made here/plain.py")]) == 0
    monkeypatch.chdir(spaced / "made here")
    given = str(spaced / "my source/opt.py:Plain")
    assert main([given, "--no-verify", "-o", "again.py"]) == 0
    assert (spaced / "made here/again.py").read_text() == made


def test_the_mend_is_quoted_and_told_from_where_one_stands(
    spaced: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compile_spaced() == 0
    path = spaced / "made here/plain.py"
    made = path.read_text()
    path.write_text(made + "\n")
    capsys.readouterr()
    assert main(["check", "made here/plain.py"]) == 1
    mend = capsys.readouterr().err.partition("mend it with: python -m codegen ")[2]
    assert main(["--no-verify", *shlex.split(mend)]) == 0
    assert path.read_text() == made
    # now only from where one stands is there a file of that name
    (spaced / "my source").rename(spaced.parent / "my source")
    assert main(["check", "made here/plain.py"]) == 1
    assert "mend it with: rm 'made here/plain.py'" in capsys.readouterr().err


def test_what_is_refused_is_told_from_where_one_stands(
    spaced: Path, capsys: Capture
) -> None:
    assert main(["my source/opt.py:Other", "-o", "made here/other.py"]) == 2
    assert capsys.readouterr().err.startswith("my source/opt.py:1")


IN_A_FILE = {
    "my source/opt.py": "'my source/opt.py:Plain' or 'my source/opt.py:Other'?",
    "my source/opt.py:Plan": "did you mean 'my source/opt.py:Plain'?",
    "my source/opt.py:Nothing": "'my source/opt.py:Plain' or 'my source/opt.py:Other'?",
}


@pytest.mark.parametrize("target", IN_A_FILE)
def test_a_file_without_the_class_suggests_those_it_has(
    spaced: Path, target: str, capsys: Capture
) -> None:
    assert main([target]) == 2
    assert IN_A_FILE[target] in capsys.readouterr().err


def test_a_missing_folder_is_told_before_anything_is_run(
    spaced: Path, capsys: Capture
) -> None:
    assert main(["my source/opt.py:Other", "-o", "no such/other.py"]) == 2
    assert "mkdir -p 'no such'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["survey", "torch.optim"], ["verify"], ["rules"]])
def test_a_document_without_the_section_is_told_before_anything_is_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("codegen.tools.survey.survey", None)
    monkeypatch.setattr("codegen.tools.verification.reports", None)
    document = tmp_path / "page.md"
    document.write_text("# without a section\n")
    assert main([*words, "-o", str(document)]) == 2
    assert f"{document} has no section" in capsys.readouterr().err


def test_a_syntax_error_is_one_position_in_pythons_words(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import torch\nx = = 1\n")
    assert main([f"{path}:A"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path}:2:5: syntax error: invalid syntax\n")
    assert len(error.splitlines()) == 4


INSTALLED = {
    "--check": "name the files",
    "--list": "survey torch.optim",
    "--all": "-o FILE.py",
    "--drift": "clone",
}


@pytest.mark.parametrize("flag", INSTALLED)
def test_what_needs_a_checkout_says_so_where_there_is_none(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(files, "_ROOT", tmp_path)
    assert main([flag, *(["torch.whl"] if flag == "--drift" else [])]) == 2
    error = capsys.readouterr().err
    assert "installed, not in a checkout" in error and INSTALLED[flag] in error


@pytest.mark.parametrize("words", [["rules"], ["explain", "torch.optim.SGD"]])
def test_a_reader_that_stops_reading_is_no_error(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(words) == 141
    assert capsys.readouterr().err == ""


def test_a_terminal_without_arrows_gets_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    print_rules = main(["rules"])
    sys.stdout.seek(0)
    assert print_rules == 0 and " -> " in sys.stdout.read()


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_has_what_there_is(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as done:
        main([*filter(None, [name]), "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and f"usage: python -m codegen {name}" in text
    assert name or all(word in text for word in ("examples:", "exit codes:"))


def test_commands_and_flags_ask_for_the_same() -> None:
    for words, command in (
        (["check", "a.py"], ["--check", "a.py"]),
        (["survey", "muon", "--no-verify"], ["--survey", "muon", "--no-verify"]),
        (["explain", "--html", "x.Y"], ["x.Y", "--explain=html"]),
        (["explain", "--html", "x.Y"], ["--explain", "html", "x.Y"]),
        (["compile", "x.Y", "-o", "-"], ["x.Y", "-o", "-"]),
    ):
        assert parse(words, "") == parse(command, "")


def test_a_flag_may_stand_in_front_of_its_target() -> None:
    found = parse(["--explain", "x.Y", "-o", "-"], "")
    assert (found.command, found.targets, found.output) == ("explain", ["x.Y"], "-")
    assert parse(["--explain"], "").command == "explain"


class Interrupts(cst.Name):
    """Ctrl-C comes where its position is found."""

    def _codegen_impl(self, state: object, **_: object) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_stays_one_inside_libcst() -> None:
    module = cst.parse_module("x = 1\n").visit(cst.CSTTransformer())
    (line,) = module.body
    stopped = module.with_changes(
        body=[line.with_deep_changes(line.body[0].targets[0], target=Interrupts("x"))]
    )
    with pytest.raises(KeyboardInterrupt):
        Origins().read(stopped, "x.py")


def test_help_imports_neither_torch_nor_what_translating_takes() -> None:
    code = (
        "import sys, codegen.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: sys.exit(bool({'torch', 'libcst'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_refusal_exits_2_with_a_position(capsys: Capture) -> None:
    assert main(["torch.optim.LBFGS"]) == 2
    assert "torch/optim/lbfgs.py:" in capsys.readouterr().err


def test_compiled_in_memory_shows_its_source() -> None:
    compiled = codegen.compile_optimizer(torch.optim.SGD, verify=False)
    assert "def _update" in inspect.getsource(compiled._update)


def test_classes_inside_functions_are_refused() -> None:
    class Local(torch.optim.SGD):
        pass

    with pytest.raises(codegen.CodegenError, match="top level of a module"):
        codegen.compile_optimizer(Local)
    with pytest.raises(codegen.CodegenError, match="no optimizer class"):
        codegen.compile_optimizer(torch.nn.Linear)  # type: ignore[arg-type]
