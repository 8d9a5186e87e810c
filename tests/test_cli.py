"""The command line: exit codes, what is written, and what never is."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import torch

import codegen
from codegen import files
from codegen.tools import drift
from codegen.__main__ import main


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


def test_deleted_and_made_again(folder: Path) -> None:
    before = (folder / "sgd.py").read_bytes()
    (folder / "sgd.py").unlink()
    assert main(["torch.optim.SGD", "--no-verify"]) == 0
    assert (folder / "sgd.py").read_bytes() == before
    assert main(["--check"]) == 0


def test_check_is_content_with_a_current_folder(folder: Path) -> None:
    assert main(["--check"]) == 0


MISUSES = {
    "torch.optim.Nadam": "did you mean",
    "torch.optim.lr_scheduler.StepLR": "is no optimizer",
    "no.such.module.Opt": "no Python source",
    "_io.FileIO": "no Python source",
    "nowhere.py:Opt": "no file nowhere.py",
}


@pytest.mark.parametrize("target", MISUSES)
def test_misuse_is_one_clear_error(
    folder: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([target]) == 2
    error = capsys.readouterr().err
    assert MISUSES[target] in error and "hint:" in error
    assert "Traceback" not in error


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
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
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


def test_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_refusal_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["torch.optim.LBFGS"]) == 2
    assert "torch/optim/lbfgs.py:" in capsys.readouterr().err


def test_compiled_in_memory_shows_its_source() -> None:
    compiled = codegen.compile_optimizer(torch.optim.SGD)
    assert "def _update" in inspect.getsource(compiled._update)


def test_classes_inside_functions_are_refused() -> None:
    class Local(torch.optim.SGD):
        pass

    with pytest.raises(codegen.CodegenError, match="top level of a module"):
        codegen.compile_optimizer(Local)
    with pytest.raises(codegen.CodegenError, match="no optimizer class"):
        codegen.compile_optimizer(torch.nn.Linear)  # type: ignore[arg-type]
