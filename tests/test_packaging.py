"""What a user installs: dependencies, import time, the wheel, and a tidy repository."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def run(
    *command: str | Path, cwd: Path = ROOT, pythonpath: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the test fails with its output if the command does."""
    # Bytecode is kept, as an install keeps it: import times are measured with it.
    env = os.environ | {"PYTHONPATH": str(pythonpath), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}"
    return done


def run_python(code: str, **where: Path) -> str:
    """What ``code`` prints in a fresh interpreter."""
    return run(sys.executable, "-c", code, **where).stdout


WITHOUT_TOOLS = """
import sys
for tool in "libcst", "jinja2", "black", "rich", "codegen":
    sys.modules[tool] = None  # importing it raises ImportError
import torch, higher
assert "higher._generated" not in sys.modules, "to be imported when an optimizer is asked for"
model = torch.nn.Linear(2, 1)
opt = torch.optim.NAdam(model.parameters())
lr = torch.tensor(0.1, requires_grad=True)
with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (fmodel, diffopt):
    diffopt.step(fmodel(torch.ones(3, 2)).square().sum())
    fmodel(torch.ones(3, 2)).square().sum().backward()
assert lr.grad.abs() > 0
"""


@pytest.mark.parametrize("layout", ["checkout", "wheel"])
def test_the_runtime_needs_torch_alone(
    layout: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Differentiating through NAdam works where none of the translator's tools are,
    and where the user's project has packages of our folders' names."""
    site = ROOT if layout == "checkout" else request.getfixturevalue("unpacked_wheel")
    for name in ("generated", "templates", "codegen", "examples"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise OSError({name!r})\n")
    run_python(WITHOUT_TOOLS, cwd=tmp_path, pythonpath=site)


# Processor time: what else the machine does is not higher's doing. Torch's own
# checkpointing, which higher hooks, costs a second before 2.7 (it imports sympy).
IMPORT_TIME = """
import time, torch, torch.utils.checkpoint
start = time.process_time()
import higher
print(time.process_time() - start)
"""


def test_importing_higher_takes_less_than_50_ms_beyond_torch() -> None:
    """Once in three times: nothing makes it quicker than it is."""
    seconds: list[float] = []
    while len(seconds) < 3 and not (seconds and seconds[-1] < 0.05):
        seconds.append(float(run_python(IMPORT_TIME)))
    assert seconds[-1] < 0.05, f"importing higher took {seconds} s"


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents, as an install would lay them out."""
    build = tmp_path_factory.mktemp("wheel")
    backend = "import sys, hatchling.build; hatchling.build.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", backend, build)
    (wheel,) = build.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(build / "site")
    return build / "site"


def test_the_wheel_holds_the_packages_and_templates(unpacked_wheel: Path) -> None:
    """All that the packages' folders hold, the templates, and nothing beside them."""
    top_level = {path.name for path in unpacked_wheel.iterdir()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {
        "codegen",
        "higher",
        "higher_codegen.py",
    }
    places = {"templates/": "codegen/templates/", "generated/": "higher/_generated/"}
    packed = {
        path.replace(folder, inside, 1)
        for folder, inside in (
            places | {"higher/": "higher/", "codegen/": "codegen/"}
        ).items()
        for path in tracked_files()
        if path.startswith(folder)
    }
    found = {
        p.relative_to(unpacked_wheel).as_posix() for p in unpacked_wheel.rglob("*")
    }
    elsewhere = {"higher/_generated.py", "codegen/script.py"}
    assert packed - found == elsewhere, "a folder's stand-in, and the script's module"


@pytest.mark.skipif(
    f"PINNED_TORCH := {torch.__version__.split('+')[0]}\n"
    not in (ROOT / "Makefile").read_text(),
    reason="generated/ is made from the torch that the Makefile pins",
)
def test_the_wheel_translates_as_the_checkout_does(
    unpacked_wheel: Path, tmp_path: Path
) -> None:
    """Installed from the wheel, the translator writes what the repository holds, but
    for what only a verification knows."""
    output = tmp_path / "nadam.py"
    run(
        *(sys.executable, "-m", "codegen", "torch.optim.NAdam"),
        *("--no-verify", "-o", output),
        cwd=tmp_path,
        pythonpath=unpacked_wheel,
    )
    made, held = output.read_text(), (ROOT / "generated/nadam.py").read_text()
    assert made.splitlines()[:2] == held.splitlines()[:2], "command and source"
    start = "from __future__"  # below the docstring
    assert made.partition(start)[2] == held.partition(start)[2] != ""


def test_the_script_runs_the_compiler_beside_higher(
    unpacked_wheel: Path, tmp_path: Path
) -> None:
    """Also where the present folder and the path have a codegen of the user's own."""
    (tmp_path / "codegen.py").write_text("raise OSError('not this one')")
    start = (
        "import sys; sys.argv[1:] = ['--version']; import higher_codegen as h; h.main()"
    )
    path = f"{tmp_path}{os.pathsep}{unpacked_wheel}"
    done = run(sys.executable, "-c", start, cwd=tmp_path, pythonpath=Path(path))
    assert f"({(unpacked_wheel / 'codegen').resolve()})" in done.stdout


def bare_python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python in a folder without any installed package."""
    return subprocess.run(
        [sys.executable, "-S", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
    )


EXTRA = "pip install 'higher-codegen[codegen]'\n"


def test_without_its_extra_the_command_says_how_to_install_it() -> None:
    done = bare_python("-m", "codegen", "torch.optim.SGD")
    assert done.returncode == 2
    assert done.stderr.endswith(EXTRA) and done.stderr.count("\n") == 1
    assert bare_python("-m", "codegen", "--help").returncode == 0


def test_without_its_extra_importing_codegen_says_how_to_install_it() -> None:
    done = bare_python("-c", "import codegen")
    assert done.stderr.endswith(EXTRA)


def test_the_extra_is_what_is_looked_for() -> None:
    from codegen.extra import TOOLS

    (extra,) = re.findall(
        r"^codegen = \[(.+?)\]$", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    names = re.findall(r'"([a-zA-Z0-9_-]+)', extra)
    assert sorted(TOOLS) == sorted(names)


def test_the_classic_library_over_this_one_is_an_error_with_the_mend(
    tmp_path: Path,
) -> None:
    shutil.copytree(ROOT / "higher", tmp_path / "higher")
    init = tmp_path / "higher/__init__.py"
    init.write_text("from . import optim\nfrom . import patch\n")
    for state in ("overwritten", "uninstalled"):
        done = bare_python("-c", "import higher.optim", cwd=tmp_path)
        assert "&& pip install higher-codegen" in done.stderr.splitlines()[-1], state
        init.unlink(missing_ok=True)


def test_the_classic_library_in_front_of_this_one_is_an_error_with_the_mend(
    tmp_path: Path,
) -> None:
    """As where this one is installed from a checkout, and found behind it."""
    (tmp_path / "higher").mkdir()
    (tmp_path / "higher/__init__.py").write_text("from . import patch\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    code = f"import sys; sys.path[:0] = {path.split(os.pathsep)}; "
    for name in "codegen", "codegen.script":
        done = bare_python("-c", f"{code}import {name}", cwd=tmp_path)
        mend = "pip uninstall -y higher && pip install 'higher-codegen[codegen]'"
        assert done.stderr.splitlines()[-1].endswith(mend), name


def test_this_one_over_the_classic_library_is_a_warning_with_the_mend(
    tmp_path: Path,
) -> None:
    import higher  # noqa: F401  which is asked for when it is imported

    (tmp_path / "higher").mkdir()
    (tmp_path / "higher/optim.py").touch()
    place = shutil.copy(ROOT / "higher/_intact.py", tmp_path / "higher")
    spec = importlib.util.spec_from_file_location("intact", place)
    assert spec is not None and spec.loader is not None
    intact = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(intact)
    with pytest.warns(UserWarning, match="pip uninstall -y higher higher-codegen &&"):
        intact.check()


def tracked_files() -> list[str]:
    """The repository's files, relative to its root; skips where git can't tell."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip(f"git cannot list the files: {listed.stderr.strip()}")
    return [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


TOP_LEVEL = {
    *("higher", "codegen", "templates", "generated"),
    *("tests", "examples", "benchmarks", "docs", ".ci", ".github"),
    *("pyproject.toml", "Makefile", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("LICENSE", ".gitignore", ".pre-commit-config.yaml", ".pre-commit-hooks.yaml"),
}


def test_the_top_level_stays_small() -> None:
    """A new file at the top has to be a decision."""
    assert {name.split("/")[0] for name in tracked_files()} - TOP_LEVEL == set()


# Written in pieces, so that this file does not contain them.
MACHINE_PATHS = [
    ("work",),
    ("root",),
    ("home", r"\w+"),
    ("Users", r"\w+"),
    ("tmp", "v"),
]
REGISTRY_HOSTS = [
    ("pypi", "org"),
    ("pypi", "python", "org"),
    ("pythonhosted", "org"),
    ("pytorch", "org", "whl"),
    ("npmjs", "org"),
]
NOT_PORTABLE = re.compile(
    r"(?<![\w.$})/-])("
    + "|".join("/" + "/".join(path) + r"(?![\w-])" for path in MACHINE_PATHS)
    + ")|"
    + "|".join(r"\b" + r"[./]".join(host) + r"\b" for host in REGISTRY_HOSTS)
)


def test_nothing_names_a_machine_or_a_registry() -> None:
    """Paths of the machine a file was written on, or hosts a user may not reach."""
    found = [
        f"{name}:{number}: {match[0]}"
        for name in tracked_files()
        for number, line in enumerate(read_lines(ROOT / name), start=1)
        if (match := NOT_PORTABLE.search(line))
    ]
    assert not found, "\n".join(found)


def read_lines(path: Path) -> list[str]:
    """The file's lines; none if it isn't text."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


def test_the_drift_workflow_finds_the_pin() -> None:
    """It moves the Makefile's torch with a line of sed, which has to match."""
    workflow = (ROOT / ".github/workflows/drift.yml").read_text()
    (pattern,) = re.findall(r'sed -i "s/(.+?)/', workflow)
    assert len(re.findall(pattern, (ROOT / "Makefile").read_text(), re.M)) == 1


def test_continuous_integration_reports_the_tests_status(tmp_path: Path) -> None:
    """.ci/run calls `make test`, without input, and ends with its status."""
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "$@"; cat; exit 7\n')
    make.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / ".ci/run"],
        env=os.environ | {"PATH": path},
        input="typed",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "test\n")
