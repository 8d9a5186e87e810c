"""Source given by path: what is found in it, which version it is, and that none runs."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import fake_releases as fake
from codegen import translate
from codegen.__main__ import main
from codegen.diagnostics import CodegenError
from codegen.source_tree import unpacked
from codegen.upstream import library_of, torch_optimizers

FORMS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda place: fake.folder(place, fake.torch_files("9.9.0")),
    "the package": lambda place: fake.folder(place, fake.torch_files("9.9.0"))
    / "torch",
    "checkout": lambda place: checkout(place),
    "wheel": lambda place: fake.wheel(
        place / "torch-9.9.0-py3-none-any.whl", fake.torch_files("9.9.0")
    ),
    "sdist": lambda place: fake.sdist(
        place / "torch-9.9.0.tar.gz", fake.torch_files("9.9.0"), "torch-9.9.0"
    ),
}


def checkout(place: Path) -> Path:
    """As in git: no version.py before it is built."""
    files = fake.torch_files("0")
    del files["torch/version.py"]
    return fake.folder(place, files | {"version.txt": "9.9.0\n", "setup.py": "x"})


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_torchs_source_translates_alike(
    form: str, tmp_path: Path
) -> None:
    with unpacked(str(FORMS[form](tmp_path))) as tree:
        assert tree.version_of("torch") == "torch 9.9.0"
        assert tree.version_of("numpy") is None
        assert "torch.optim.NAdam" in torch_optimizers(tree)
        translation = translate("torch.optim.SGD", library_of(tree))
    own = translate("torch.optim.SGD")
    assert translation.source == own.source == "torch/optim/sgd.py"
    assert (translation.digest, translation.version) == (own.digest, "torch 9.9.0")
    assert translation.text.split("\n")[3:] == own.text.split("\n")[3:]


def test_only_what_is_read_is_unpacked_and_nothing_stays(tmp_path: Path) -> None:
    files = fake.torch_files("9.9.0") | {"torch/nn/modules.py": "", "torchgen/x.py": ""}
    path = fake.wheel(tmp_path / "torch.whl", files)
    with unpacked(str(path)) as tree:
        found = {p.relative_to(tree.root).as_posix() for p in tree.root.rglob("*.*")}
        assert found == set(fake.torch_files("9.9.0"))
        assert tree.root.is_relative_to(tempfile.gettempdir())
    assert not tree.root.exists()


def test_names_that_lead_outside_are_left_out(tmp_path: Path) -> None:
    files = {
        "../evil.py": "",
        "/evil.py": "",
        "a/../../evil.py": "",
        "ok/__init__.py": "",
    }
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "x.whl", "w") as archive:
        for name in files:
            archive.writestr(name, "")
    with tarfile.open(inside / "x.tar.gz", "w:gz") as tar:
        for name in files:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("ok/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    for name in ("x.whl", "x.tar.gz"):
        with unpacked(str(inside / name)) as tree:
            assert tree.packages == {"ok"}
            assert [p.name for p in tree.root.rglob("*.py")] == ["__init__.py"]


MISUSES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda place: place / "torch.whl", "no file or folder"),
    "no archive": (lambda place: write(place / "torch.whl", b"x" * 99), "is no wheel"),
    "cut off": (lambda place: cut(place), "is no wheel|can't be unpacked"),
    "cut off tar": (lambda place: cut_tar(place), "is no wheel|can't be unpacked"),
    "no Python": (lambda place: place, "no Python package in"),
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(place: Path) -> Path:
    whole = fake.wheel(place / "torch.whl", fake.torch_files("1")).read_bytes()
    return write(place / "torch.whl", whole[: len(whole) // 2])


def cut_tar(place: Path) -> Path:
    path = fake.sdist(place / "torch.tar.gz", fake.torch_files("1"), "torch")
    return write(path, path.read_bytes()[:20000])


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_one_clear_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = MISUSES[name]
    path = make(tmp_path)
    with pytest.raises(CodegenError, match=message), unpacked(str(path)):
        pass
    assert main(["torch.optim.SGD", "--source", str(path), "-o", "-"]) == 2
    assert "hint:" in capsys.readouterr().err


def test_a_package_of_its_own(tmp_path: Path) -> None:
    """Its base class is the installed torch's, its helper is its own."""
    files = fake.package_files("3.1", lr="0.7")
    with unpacked(str(fake.wheel(tmp_path / "lagging.whl", files))) as tree:
        # the archive's other top-level folder holds no Python
        assert tree.packages == {"lagging"}
        found = translate("lagging.Lagged", library_of(tree))
        inherited = translate("lagging.optim.Heavier", library_of(tree))
    assert found.version == "lagging-opt 3.1"
    assert "# source: lagging/optim.py, lagging-opt 3.1, sha256" in found.text
    assert 'group["strength"]' in found.text
    assert inherited.source == "torch/optim/sgd.py"
    assert "momentum_buffer" in inherited.text


VERSIONS = {
    "pyproject": {"pyproject.toml": '[project]\nname = "lag"\nversion = "4.0"\n'},
    "PKG-INFO": {"PKG-INFO": "Metadata-Version: 2.1\nName: lag\nVersion: 4.0+x\n"},
    "a string": {"lagging/_version.py": "__version__: str = '4.0'\n" + fake.POISON},
    "nothing": {"lagging/_version.py": "__version__ = compute()\n"},
}


@pytest.mark.parametrize("form", VERSIONS)
@pytest.mark.parametrize("source", ["", "src/"])
def test_versions_are_read_wherever_they_stand(
    form: str, source: str, tmp_path: Path
) -> None:
    package = {source + "lagging/__init__.py": ""}
    stated = {
        (source if name.startswith("lagging") else "") + name: text
        for name, text in VERSIONS[form].items()
    }
    expected = {"a string": "lagging 4.0", "nothing": "lagging of unknown version"}
    path = fake.sdist(tmp_path / "lag.tar.gz", package | stated, "lag-4.0")
    with unpacked(str(path)) as tree:
        assert tree.packages == {"lagging"}
        assert tree.version_of("lagging") == expected.get(form, "lag 4.0")


def test_another_package_than_the_optimizers_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake.wheel(tmp_path / "lagging.whl", fake.package_files("1"))
    for arguments in (["torch.optim.SGD", "-o", "-"], ["--all"], ["--check"]):
        assert main([*arguments, "--source", str(path)]) == 2
        error = capsys.readouterr().err
        assert "has no package 'torch'" in error and "it has lagging" in error


def test_an_optimizer_that_the_source_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = fake.torch_files(
        "9.9.0", __init__=lambda text: text.replace("import NAdam as NAdam", "import x")
    )
    path = fake.folder(tmp_path, files)
    arguments = ["torch.optim.NAdam", "--source", str(path), "-o", "-"]
    assert main(arguments) == 2
    assert "has no class 'NAdam'" in capsys.readouterr().err


# --- what is said about verification ----------------------------------------------


def test_another_source_is_not_verified_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = fake.torch_files(
        "9.9.0",
        sgd=lambda text: text.replace(
            "grad = grad.add(param, alpha=", "grad = grad.sub(param, alpha="
        ),
    )
    output = tmp_path / "sgd.py"
    source = ["--source", str(fake.folder(tmp_path / "tree", changed))]
    assert main(["torch.optim.SGD", *source, "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert "read torch/optim/sgd.py of torch 9.9.0" in said
    assert "not verified: only what is installed can be run" in said
    assert "torch 9.9.0, sha256" in output.read_text()
    assert "ops.sub(grad, param" in output.read_text()
    assert main(["--check", str(output), *source]) == 0
    assert main(["--check", str(output)]) == 1
    assert "upstream changed" in capsys.readouterr().err


def test_the_same_source_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codegen import commands

    monkeypatch.setattr(
        commands, "_settled", lambda target, found, library: (found, "right")
    )
    source = str(fake.folder(tmp_path, fake.torch_files("9.9.0")))
    output = str(tmp_path / "sgd.py")
    assert main(["torch.optim.SGD", "--source", source, "-o", output]) == 0
    assert "  right\n" in capsys.readouterr().out


def test_a_package_that_is_not_installed_is_not_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake.wheel(tmp_path / "lagging.whl", fake.package_files("1"))
    output = str(tmp_path / "lagged.py")
    assert main(["lagging.Lagged", "--source", str(path), "-o", output]) == 0
    assert "not verified: lagging.Lagged is not installed" in capsys.readouterr().out


def test_a_file_on_another_torch(tmp_path: Path) -> None:
    """The file is as it is; the class that it extends is the source tree's."""
    changed = fake.torch_files(
        "9.9.0",
        sgd=lambda text: text.replace(
            "grad = grad.add(param, alpha=", "grad = grad.sub(param, alpha="
        ),
    )
    own = tmp_path / "own.py"
    own.write_text("import torch\nclass Own(torch.optim.SGD):\n    pass\n")
    with unpacked(str(fake.folder(tmp_path / "tree", changed))) as tree:
        found = translate(f"{own}:Own", library_of(tree))
    assert "ops.sub(grad, param" in found.text
