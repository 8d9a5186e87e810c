"""``--drift``: what versions of torch translate to, told apart as a person would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_releases as fake
from codegen import files
from codegen.tools import versions
from codegen.__main__ import main
from codegen.tools.canonical import Likeness, code_lines, likeness
from codegen.tools.hunks import Side, hunks
from codegen.translate import translate

HAS = ("SGD",)

EDITS: dict[str, fake.Change] = {
    "same": lambda text: text.replace("def step(self", "def step(\n        self"),
    "notes": lambda text: text.replace(
        "            if nesterov:\n",
        "            # look ahead\n            if nesterov:\n",
    ),
    "checks": lambda text: text.replace(
        "    for i, param in enumerate(params):\n        grad =",
        "    for i, param in enumerate(params):\n"
        "        if lr > 1e9:\n"
        "            raise ValueError('that is too much')\n"
        "        grad =",
    ),
    "differs": lambda text: text.replace(
        "grad = grad.add(param, alpha=", "grad = grad.sub(param, alpha="
    ),
    "refused": lambda text: text.replace(
        "        loss = None\n", "        loss = closure()\n"
    ),
}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated/ of one optimizer, made from the installed torch."""
    folder = tmp_path_factory.mktemp("committed") / "generated"
    folder.mkdir()
    for name in HAS:
        text = translate(f"torch.optim.{name}").text
        (folder / f"{name.lower()}.py").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def folder(committed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(files, "generated_folder", lambda: committed)
    yield committed


def release(
    place: Path, version: str, sgd: str = "", only: tuple[str, ...] = HAS
) -> str:
    changes = {"sgd": EDITS[sgd]} if sgd else {}
    made = fake.torch_files(version, only, **changes)
    return str(fake.wheel(place / f"torch-{version}.whl", made))


def rows(page: str) -> dict[str, list[str]]:
    lines = [line.strip("|").split("|") for line in page.splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {line[0]: line[1:] for line in cells}


@pytest.mark.parametrize("edit", EDITS)
def test_every_kind_of_difference_has_its_word(
    edit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--drift", release(tmp_path, "9.9.0", edit)])
    page = capsys.readouterr().out
    assert rows(page)["SGD"] == [edit]
    assert status == (edit != "same")
    told = {"checks": "too much", "differs": "ops.sub", "refused": "R1: the closure"}
    assert ("### SGD" in page) == (edit in told)
    assert told.get(edit, "") in page


def test_a_table_of_versions_from_oldest_to_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        release(tmp_path, "9.10.0"),
        release(tmp_path, "9.9.0", only=("Adadelta",)),
        release(tmp_path, "9.10.0.dev20300101", "differs"),
        release(tmp_path, "9.9.1", "refused"),
    ]
    assert main(["--drift", *paths]) == 0, "the newest is what is committed"
    page = capsys.readouterr().out
    table = rows(page)
    order = ["9.9.0", "9.9.1", "9.10.0.dev20300101", "9.10.0"]
    assert table["optimizer"] == order
    assert table["SGD"] == ["absent", "refused", "differs", "same"]
    assert table["Adadelta"] == ["new", "absent", "absent", "absent"]
    titles = re.findall(r"^### (SGD.*)$", page, re.MULTILINE)
    assert titles == [f"SGD {a} → {b}" for a, b in zip(order, order[1:])]
    assert "Refused:" in page and "torch/optim/sgd.py:" in page
    assert "New; it was refused." in page
    assert "`generated/` is what torch 9.10.0 translates to." in page


def test_what_upstream_changed_stands_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [release(tmp_path, "9.9.0"), release(tmp_path, "9.9.1", "differs")]
    assert main(["--drift", *paths]) == 1
    page = capsys.readouterr().out
    generated, upstream = page.split("upstream, `torch/optim/sgd.py`:")
    assert re.search(r"^-.* grad = ops.add\(grad, param, alpha=weight", generated, re.M)
    assert re.search(
        r"^\+.* grad = ops.sub\(grad, param, alpha=weight", generated, re.M
    )
    changed = [l for l in upstream.splitlines() if l[:1] in "+-" and l[1:2] == " "]
    assert changed and all("param, alpha=weight_decay" in line for line in changed)
    assert "not what torch 9.9.1 translates to (differs: SGD)" in page


def test_one_version_is_held_against_what_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which made what is committed: its lines are at hand."""
    assert main(["--drift", release(tmp_path, "9.9.0", "differs")]) == 1
    page = capsys.readouterr().out
    assert re.search(r"### SGD generated/ \(torch [\d.]+\) → 9.9.0", page)
    assert "upstream, `torch/optim/sgd.py`:" in page


def test_settings_that_changed_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(text: str) -> str:
        text = text.replace("momentum: float = 0,", "momentum: float = 0.5,", 1)
        return text.replace(
            "dampening: float = 0,", "dampening: float = 0, x: int = 1,", 1
        )

    made = fake.torch_files("9.9.1", HAS, sgd=change)
    newer = str(fake.wheel(tmp_path / "newer.whl", made))
    assert main(["--drift", release(tmp_path, "9.9.0"), newer]) == 0
    page = capsys.readouterr().out
    assert "Settings: `x=1` is new; `momentum=0` became `momentum=0.5`." in page


def test_an_optimizer_that_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = release(tmp_path, "9.9.0", only=(*HAS, "Adamax"))
    assert main(["--drift", path]) == 1
    page = capsys.readouterr().out
    assert rows(page)["Adamax"] == ["new"] and "(new: Adamax)" in page


def test_a_document_keeps_what_stands_around(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "upstream.md"
    document.write_text(
        "# Title\n<!-- drift: how -->\nold\n<!-- end of drift -->\nend\n"
    )
    path = release(tmp_path, "9.9.0")
    assert main(["--drift", path, "-o", str(document)]) == 0
    first = document.read_text()
    assert first.startswith("# Title\n") and first.endswith("end\n")
    assert "9.9.0" in first and "old" not in first
    assert main(["--drift", path, "-o", str(document)]) == 0
    assert document.read_text() == first
    assert "is what torch 9.9.0 translates to" in capsys.readouterr().out


MISUSES = {
    "nothing": ([], "no version to compare"),
    "no such file": (["nowhere.whl"], "no file or folder"),
    "twice": (["9.9.0", "again/9.9.0"], "are both torch 9.9.0"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_one_error_that_says_what_to_do(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, message = MISUSES[name]
    paths = [
        (
            release(tmp_path / path.partition("9")[0], "9.9.0")
            if path.endswith("9.9.0")
            else path
        )
        for path in given
    ]
    assert main(["--drift", *paths]) == 2
    assert message in capsys.readouterr().err


def test_a_package_without_torch_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake.wheel(tmp_path / "lagging.whl", fake.package_files("1"))
    assert main(["--drift", str(path)]) == 2
    assert "has no package 'torch'" in capsys.readouterr().err


def test_several_processes_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [release(tmp_path, "9.9.0"), release(tmp_path, "9.9.1", "differs")]
    alone = versions.survey(paths)
    monkeypatch.setattr(versions, "_PER_PROCESS", 1)
    monkeypatch.setattr(versions.os, "cpu_count", lambda: 2)
    assert versions.survey(paths) == alone


# --- telling texts apart -----------------------------------------------------------

HEAD = "# one\n# two\n# three\n"
LIKENESS = {
    Likeness.TEXT: ("x = f(1)\n", "x = f(1)\n"),
    Likeness.CODE: (
        'import a\nfrom torch import Tensor\nx: Tensor = f("1")\n',
        "import a\n'''doc'''\nx = f(  # why\n    '1'\n)\n",
    ),
    Likeness.COMPUTES: (
        "if a > 1:\n    raise ValueError('a')\nassert b, 'b'\nx = 1\n",
        "if not b:\n    raise RuntimeError(f'b {b}')\nx = 1\n",
    ),
    Likeness.DIFFERENT: ("if a > 1:\n    x = 1\n", "if a > 1:\n    x = 2\n"),
}


@pytest.mark.parametrize("expected", LIKENESS)
def test_two_texts_are_as_alike_as_what_they_do(expected: Likeness) -> None:
    a, b = LIKENESS[expected]
    a, b = (text.replace("import a\n", "import a\na\n") for text in (a, b))
    assert likeness(HEAD + a, HEAD + b) is expected
    assert likeness(HEAD + b, HEAD + a) is expected


def test_a_branch_that_does_more_than_raise_is_no_check() -> None:
    a = "if a:\n    raise X\nelse:\n    x = 1\n"
    assert likeness(HEAD + a, HEAD + "x = 1\n") is Likeness.DIFFERENT


def test_every_kind_of_statement_has_its_lines() -> None:
    text = '''
import torch
class A(B):
    """Doc."""
    k: int = 1
    def f(self, x: int) -> int:
        for i, y in enumerate(x):  # why
            if y:
                pass
            elif i:
                x = {"a": 1}
            else:
                continue
        else:
            y = 2
        while x:
            break
        with torch.no_grad():
            x += 1
        try:
            f()
        except ValueError as e:
            raise
        finally:
            g()
        return torch.ones(3)
'''
    expected = """
import torch
class A(B):
    k = 1
    def f(self, x):
        for i, y in enumerate(x):
            if y:
                pass
            elif i:
                x = {"a": 1}
            else:
                continue
        else:
            y = 2
        while x:
            break
        with torch.no_grad():
            x += 1
        try:
            f()
        except ValueError as e:
            raise
        finally:
            g()
        return torch.ones(3)
"""
    assert [line.text for line in code_lines(text)] == expected.strip().splitlines()


def test_code_that_moved_to_another_file_is_shown_from_both(tmp_path: Path) -> None:
    def side(file: str, op: str) -> Side:
        from codegen.diagnostics import Origin

        text = f"{HEAD}x = {op}(y)\n"
        return Side(text, {4: Origin(file, 2, 1)}, {file: f"z = 1\nx = {op}(y)\n"})

    (hunk,) = hunks(side("old.py", "f"), side("new.py", "g"))
    assert hunk.generated == ("-x = f(y)", "+x = g(y)")
    assert hunk.upstream == {"new.py": ("+x = g(y)",), "old.py": ("-x = f(y)",)}


# --- the committed page --------------------------------------------------------------


def test_the_page_is_of_what_is_committed() -> None:
    root = Path(__file__).parent.parent
    page = (root / "docs" / "upstream.md").read_text()
    header = files.header((root / "generated" / "sgd.py").read_text())
    assert header is not None
    pinned = header.version.removeprefix("torch ")
    table = rows(page)
    column = table["optimizer"].index(pinned)
    rule = {name for name in table if name.startswith("-")}
    made = {n: c[column] for n, c in table.items() if len(c) == 10 and n not in rule}
    del made["optimizer"]
    renew = "renew docs/upstream.md: the command stands in it"
    assert made.pop("LBFGS") == "refused"
    assert set(made.values()) == {"same"}, renew
    assert table["optimizer"][0] == "2.6.0" and "2.15.0" in table["optimizer"]
    others = [cells for name, cells in table.items() if name in made]
    assert not any("refused" in cells for cells in others)
