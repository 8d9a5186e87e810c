"""``--check``: whatever happens to generated files is noticed, and has its name."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

import codegen
from codegen import emit, files
from codegen.tools import drift
from codegen.__main__ import main
from codegen.diagnostics import CodegenError

Capture: TypeAlias = "pytest.CaptureFixture[str]"
REAL = Path(__file__).parent.parent / "generated"


@functools.cache
def _translated(target: str, jumps: frozenset[str]) -> codegen.Translation:
    return codegen.translate(target, jumps=jumps)


def translated(
    target: str, library: object = None, jumps: frozenset[str] = frozenset()
) -> codegen.Translation:
    """Translate once, however many tests ask for it: always the installed torch's."""
    return _translated(target, jumps)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A generated/ of SGD and Adadelta as the installed torch has them."""
    made = tmp_path / "generated"
    made.mkdir()
    targets = ["torch.optim.Adadelta", "torch.optim.SGD"]
    monkeypatch.setattr(files, "generated_folder", lambda: made)
    monkeypatch.setattr(drift, "torch_optimizers", lambda tree: targets)
    monkeypatch.setattr(drift, "translate", translated)
    for target, name in zip(targets, ("adadelta.py", "sgd.py")):
        (made / name).write_text(translated(target).text)
    (made / "__init__.py").write_text(files.index_of(made))
    return made


def rehashed(text: str) -> str:
    """A text whose hash fits, as its last editor would have it."""
    found = files.header(text)
    assert found is not None
    return text.replace(found.body, emit.body_digest(text))


def digest_zeroed(text: str) -> str:
    return re.sub(r"(torch [\d.]+, sha256) \w{16}", r"\1 " + 16 * "0", text)


def edited(text: str) -> str:
    assert "lr = group" in text
    return text.replace("lr = group", "lr = 2 * group")


def reordered(text: str) -> str:
    lines = text.split("\n")
    return "\n".join([*lines[:30], *lines[30:][::-1]])


EDITS: dict[str, tuple[Callable[[str], str], str]] = {
    "edited": (edited, drift.EDITED),
    "one space": (lambda text: text + " ", drift.EDITED),
    "no newline at the end": (lambda text: text[:-1], "edited by hand: it is trunc"),
    "truncated": (lambda text: text[: len(text) // 2], "edited by hand: it is trunc"),
    "truncated in its header": (lambda text: text[:120], "edited by hand: its header"),
    "empty": (lambda text: "", "edited by hand: its header"),
    "reordered": (reordered, "edited by hand: its lines are in another order"),
    "CRLF": (lambda text: text.replace("\n", "\r\n"), "edited by hand: its lines end"),
    "CR": (lambda text: text.replace("\n", "\r"), drift.EDITED),
    "byte order mark": (lambda text: "\ufeff" + text, "edited by hand: its header"),
    "no header": (emit.body, "edited by hand: its header"),
    "another header": (
        lambda text: text.replace("torch.optim.SGD", "torch.optim.Adam", 1),
        drift.EDITED,
    ),
    "version in the header": (
        lambda text: re.sub(r"torch [\d.]+,", "torch 1.0.0,", text),
        "edited by hand: its header alone",
    ),
    "upstream's hash": (digest_zeroed, "edited by hand: its header alone"),
    "its own hash": (
        lambda text: text.replace("# body: sha256 ", "# body: sha256 0"),
        "edited by hand: its header alone",
    ),
    "edited, with a new hash": (
        lambda text: rehashed(edited(text)),
        "translator changed: or the file was, and its hash made to fit",
    ),
    "upstream's hash, with a new hash": (
        lambda text: rehashed(digest_zeroed(text)),
        "upstream changed: what is generated stays the same",
    ),
    "upstream's hash and an edit, with a new hash": (
        lambda text: rehashed(digest_zeroed(edited(text))),
        drift.UPSTREAM,
    ),
    "another optimizer, with a new hash": (
        lambda text: rehashed(text.replace("torch.optim.SGD", "torch.optim.Adam", 1)),
        "edited by hand: it is not what torch.optim.SGD translates to",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_has_its_name(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, kind = EDITS[name]
    path = folder / "sgd.py"
    path.write_bytes(change(path.read_text()).encode())
    # as a file by its name, its place in the folder unknown
    copy = folder.parent / "sgd.py"
    shutil.copy(path, copy)
    assert main(["--check"]) == 1
    report = capsys.readouterr().err
    assert f"{path}: {kind}" in report and "mend it with: " in report
    assert "adadelta.py" not in report.split("mend it with")[0]
    assert main(["--check", str(copy)]) == 1


RENAMED = {"Gone": drift.GONE, "LBFGS": drift.REFUSED}


@pytest.mark.parametrize("name", RENAMED)
def test_a_file_whose_upstream_is_gone_or_refused_says_which(
    folder: Path, name: str
) -> None:
    """A file of a package's own, whose optimizer is no longer what it was."""
    path = folder.parent / "mine.py"
    text = (folder / "sgd.py").read_text().replace("optim.SGD", f"optim.{name}", 1)
    path.write_text(rehashed(text))
    assert [found.kind for found in drift.drifts([str(path)])] == [RENAMED[name]]
    path.write_text(text)
    assert [found.kind for found in drift.drifts([str(path)])] == [drift.EDITED]


def test_bytes_that_are_no_text_are_drift(folder: Path) -> None:
    path = folder / "sgd.py"
    path.write_bytes(path.read_bytes() + b"\xff\xfe")
    assert main(["--check"]) == 1


def test_what_is_current_passes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check"]) == 0
    assert main(["--check", str(folder / "sgd.py"), str(folder / "__init__.py")]) == 0
    assert capsys.readouterr().err == ""


def test_a_version_with_the_same_source_is_current(folder: Path) -> None:
    """The hashes tell what was read; a package's release alone makes nothing stale."""
    path = folder / "sgd.py"
    older = emit.with_version(path.read_text(), "torch 1.0.0")
    assert "torch 1.0.0, sha256" in older
    path.write_text(older)
    assert main(["--check"]) == 0


ADDITIONS = {
    "a module": ("extra.py", "x = 1\n"),
    "a copy": ("sgd_2.py", None),
    "anything else": ("notes.txt", "x"),
    "a hidden file": (".sgd.py.x1y2", "x"),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_extra_files_are_orphans(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, text = ADDITIONS[name]
    (folder / file).write_text((folder / "sgd.py").read_text() if not text else text)
    assert main(["--check"]) == 1
    report = capsys.readouterr().err
    assert f"{folder / file}: orphan file" in report
    assert f"rm {folder / file}" in report


def test_a_folder_inside_is_an_orphan(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "more").mkdir()
    (folder / "__pycache__").mkdir()
    assert main(["--check"]) == 1
    report = capsys.readouterr().err
    assert "more: orphan file" in report and "__pycache__" not in report


def test_a_missing_file_is_drift_with_the_command_that_makes_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sgd.py").unlink()
    assert main(["--check"]) == 1
    report = capsys.readouterr().err
    assert f"{folder / 'sgd.py'}: missing file" in report
    assert "python -m codegen torch.optim.SGD" in report
    assert main(["--check", str(folder / "sgd.py")]) == 1


def test_a_missing_file_is_drift_where_the_index_misses_it_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sgd.py").unlink()
    (folder / "__init__.py").write_text(files.index_of(folder))
    assert main(["--check"]) == 1
    assert f"{folder / 'sgd.py'}: missing file" in capsys.readouterr().err


INDEX = {
    "empty": (lambda text: "", "edited by hand: the index"),
    "an entry gone": (
        lambda text: re.sub(r'    "torch.optim.SGD.*\n', "", text),
        "edited by hand: the index",
    ),
    "CRLF": (lambda text: text.replace("\n", "\r\n"), "edited by hand: the index"),
    "gone": (None, "missing file: the index"),
}


@pytest.mark.parametrize("name", INDEX)
def test_the_index_is_compared(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, kind = INDEX[name]
    path = folder / "__init__.py"
    text = path.read_text()
    path.unlink()
    if change is not None:
        path.write_bytes(change(text).encode())
    assert main(["--check"]) == 1
    assert f"{path}: {kind}" in capsys.readouterr().err


def test_what_type_checkers_are_told_is_compared(folder: Path, capsys: Capture) -> None:
    names = folder.parent / "higher/optim/_compiled.pyi"
    names.parent.mkdir(parents=True)
    assert main(["--check"]) == 1
    assert f"{names}: missing file: the index" in capsys.readouterr().err
    for path, text in files.indexes(folder):
        path.write_text(text)
    assert main(["--check"]) == 0
    names.write_text(names.read_text().replace("DifferentiableSGD", "Sgd"))
    assert main(["--check"]) == 1
    assert f"{names}: edited by hand: the index" in capsys.readouterr().err


def test_another_black_is_an_honest_refusal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emit, "installed_black", lambda: "25.1.0")
    assert main(["--check"]) == 0, "it may lay these files out in the same way"
    path = folder / "sgd.py"
    laid_out = path.read_text().replace(
        "zip(self.param_groups, grouped_grads)\n",
        "zip(self.param_groups, grouped_grads),\n",
    )
    assert laid_out != path.read_text()
    path.write_text(rehashed(laid_out))
    assert main(["--check"]) == 2
    error = capsys.readouterr().err
    assert "black 25.1.0" in error and f"pip install black=={emit.BLACK}" in error
    # what was edited is no matter of layout
    path.write_text(rehashed(edited(laid_out)))
    assert main(["--check"]) == 1


def test_the_pinned_black_is_the_one_that_is_named() -> None:
    project = (REAL.parent / "pyproject.toml").read_text()
    assert f'"black=={emit.BLACK}"' in project


def test_a_folder_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match="name the generated files"):
        list(drift.drifts([str(tmp_path)]))
