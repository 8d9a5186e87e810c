"""codegen.compile_optimizer verifies, once for the same sources."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libcst")

import codegen
from codegen import cache, memory
from codegen.verify.report import Report

ROOT = Path(__file__).resolve().parent.parent

OPTIMIZER = """
import torch
from cached_helper import scaled

class Halved(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(scaled(p.grad, group["lr"]))
"""
HELPER = "def scaled(grad, lr):\n    return {} * lr * grad\n"


class Counted:
    """How often something was translated and verified."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.translations = self.verifications = 0
        translate = memory.translate
        report = Report("Halved", 1, 1, 1, 1, 1, {}, 0.0, 0.1)

        def translated(*args: Any) -> Any:
            self.translations += 1
            return translate(*args)

        def settled(original: Any, translation: Any, library: Any) -> Any:
            self.verifications += 1
            return translation, report

        patch.setattr(memory, "translate", translated)
        patch.setattr(memory, "translate_and_verify", settled)

    def __call__(self) -> tuple[int, int]:
        return self.translations, self.verifications


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which the optimizer's module can be imported."""
    (tmp_path / "cached_module.py").write_text(OPTIMIZER)
    (tmp_path / "cached_helper.py").write_text(HELPER.format("0.5"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("cached_module", "cached_helper"):
        sys.modules.pop(name, None)


def text_of(compiled: type) -> str:
    return inspect.getsource(sys.modules[compiled.__module__])


def imported() -> Any:
    """The class as its file now has it."""
    for name in ("cached_module", "cached_helper"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module("cached_module").Halved


@pytest.mark.usefixtures("folder", "sources")
def test_the_second_call_translates_and_verifies_nothing(counted: Counted) -> None:
    first = codegen.compile_optimizer(imported())
    second = codegen.compile_optimizer(imported())
    assert counted() == (1, 1)
    assert text_of(first) == text_of(second)
    assert "Verified: right." in (second.__doc__ or "")


@pytest.mark.usefixtures("folder", "sources")
def test_what_was_not_verified_does_not_pass_for_verified(counted: Counted) -> None:
    plain = codegen.compile_optimizer(imported(), verify=False)
    assert counted() == (1, 0) and "Verified" not in (plain.__doc__ or "")
    codegen.compile_optimizer(imported())
    codegen.compile_optimizer(imported(), verify=False)
    assert counted() == (2, 1)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("file", ["cached_module.py", "cached_helper.py"])
def test_other_source_is_compiled_anew(
    file: str, sources: Path, counted: Counted
) -> None:
    codegen.compile_optimizer(imported())
    path = sources / file
    path.write_text(path.read_text().replace("lr * grad", "lr * lr * grad") + "\n")
    codegen.compile_optimizer(imported())
    assert counted() == (2, 2)


@pytest.mark.usefixtures("folder", "sources")
def test_a_method_that_was_patched_is_verified_anew(counted: Counted) -> None:
    cls = imported()
    codegen.compile_optimizer(cls)
    cls.step = cls.profile_hook_step(cls.step)  # torch does, for the first instance
    codegen.compile_optimizer(cls)
    assert counted() == (1, 1)
    cls.step = lambda self, closure=None: None
    codegen.compile_optimizer(cls)
    assert counted() == (2, 2)


@pytest.mark.usefixtures("folder")
def test_a_module_from_another_place_is_compiled_anew(
    sources: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    codegen.compile_optimizer(imported())
    elsewhere = sources / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cached_helper.py").write_text(HELPER.format("0.25"))
    monkeypatch.syspath_prepend(elsewhere)
    cls = imported()
    assert "0.25 * lr" in text_of(codegen.compile_optimizer(cls))
    assert counted() == (2, 2)


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("damage", ["", "[]", "{}", "half", "flipped", "no text"])
def test_a_damaged_entry_is_made_anew(
    damage: str, folder: Path, counted: Counted
) -> None:
    codegen.compile_optimizer(imported(), verify=False)
    (entry,) = folder.iterdir()
    whole = entry.read_text()
    broken = {
        "half": whole[: len(whole) // 2],
        "flipped": whole.replace("0.5 * lr", "0.6 * lr"),
        "no text": whole.replace('"text"', '"next"'),
    }
    entry.write_text(broken.get(damage, damage))
    compiled = codegen.compile_optimizer(imported(), verify=False)
    assert counted() == (2, 0) and "0.5 * lr" in text_of(compiled)
    assert json.loads(entry.read_text()) == json.loads(whole)


@pytest.mark.usefixtures("sources")
def test_without_a_folder_all_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    (tmp_path / "file").write_text("")
    for told in ("", str(tmp_path / "file" / "inside")):
        monkeypatch.setenv(cache.VARIABLE, told)
        codegen.compile_optimizer(imported(), verify=False)
    assert counted() == (2, 0)


def test_the_folder_is_the_platform_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    found = cache.folder()
    assert found is not None and found.name == "higher-codegen"


def test_the_oldest_entries_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST", 3)
    entry = cache.Entry("a.B", "DifferentiableB", "", "", "", {})
    for k in range(6):
        cache.store(folder / f"B-{k}.json", entry)
        os.utime(folder / f"B-{k}.json", (k, k))
    assert {path.name for path in folder.iterdir()} == {
        f"B-{k}.json" for k in (3, 4, 5)
    }


AT_ONCE = """
import sys
from pathlib import Path
from codegen import cache
place = Path(sys.argv[1]) / "B-0.json"
entry = cache.Entry("a.B", "B", sys.argv[2] * 20_000, "", "", {})
for _ in range(100):
    cache.store(place, entry)
    found = cache.find(place)
    assert found is not None and len(set(found.text)) == 1
"""
AGAIN = """
import sys, torch, higher, codegen, cached_module
codegen.compile_optimizer(cached_module.Halved)
assert not {"libcst", "black", "codegen.translate", "codegen.verify"} & set(sys.modules)
"""


def started(code: str, *arguments: str, path: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(path)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("counted")
def test_processes_at_once_find_whole_entries_and_need_no_compiler(
    folder: Path, sources: Path
) -> None:
    codegen.compile_optimizer(imported())
    processes = [started(AT_ONCE, str(folder), letter, path=sources) for letter in "ab"]
    processes.append(started(AGAIN, path=sources))
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert not [*folder.glob(".*")]
