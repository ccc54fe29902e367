"""The project's own files agree with one another: README, .ci/run, settings and constraints."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ptinspect
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def lines_of(path: str) -> list[str]:
    return [line.strip() for line in (ROOT / path).read_text("utf-8").splitlines()]


def readme_commands() -> list[str]:
    return [line for line in lines_of("README.md") if line.startswith("python3 -m venv ")]


def pins() -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in lines_of("constraints.txt"))
    return [Requirement(line) for line in lines if line]


def direct(project: dict[str, Any]) -> list[Requirement]:
    extras = project["optional-dependencies"].values()
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    return [r for r in map(Requirement, texts) if r.name != project["name"]]


def applies(requirement: Requirement, python: str) -> bool:
    there = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(there)


def test_ci_runs_the_commands_of_the_readme_literally() -> None:
    show, test = readme_commands()
    assert {show, test} <= set(lines_of(".ci/run"))
    assert "ptinspect show" in show
    assert "constraints.txt" in test
    assert "pytest" in test


def test_the_readme_shows_a_file_that_is_there() -> None:
    shown = [word for word in readme_commands()[0].split() if word.startswith("fixtures/")]
    assert shown
    assert [path for path in shown if not (ROOT / path).is_file()] == []


def test_git_ignores_the_environments_of_the_readme() -> None:
    made = {line.split()[3] for line in readme_commands()}
    assert made == {".venv", ".venv-test"}
    assert ".venv*/" in lines_of(".gitignore")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no bit that lets a file be run")
def test_ci_may_be_run() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert "set -euo pipefail" in lines_of(".ci/run")


def test_the_supported_pythons_are_the_same_everywhere(pyproject: dict[str, Any]) -> None:
    project, name = pyproject["project"], "Programming Language :: Python :: "
    classifiers = [c.removeprefix(name) for c in project["classifiers"] if c.startswith(name)]
    assert tuple(c for c in classifiers if re.fullmatch(r"3\.\d+", c)) == PYTHONS
    assert project["requires-python"] == f">={PYTHONS[0]}"
    assert f"supported=({' '.join(PYTHONS)})" in lines_of(".ci/run")
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"


@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_has_one_pin_that_meets_it(python: str, pyproject: dict[str, Any]) -> None:
    pinned: dict[str, list[str]] = {}
    for pin in pins():
        (spec,) = pin.specifier
        assert spec.operator == "=="
        if applies(pin, python):
            pinned.setdefault(canonicalize_name(pin.name), []).append(spec.version)
    assert {name: versions for name, versions in pinned.items() if len(versions) > 1} == {}

    wanted = [r for r in direct(pyproject["project"]) if applies(r, python)]
    unmet = [
        str(r)
        for r in wanted
        if not r.specifier.contains(pinned.get(canonicalize_name(r.name), ["0"])[0])
    ]
    assert unmet == []


def test_torch_is_pinned_on_every_python() -> None:
    assert [str(pin) for pin in pins() if pin.name == "torch"] == ["torch==2.13.0"]


def test_nothing_says_where_packages_come_from() -> None:
    """Neither an index nor a path: each machine has its own, and pip is told by its settings."""
    options = re.compile(r"--(find-links|(extra-)?index|trusted)|file://|(?<![\w.])/(?:root|home)/")
    names = ("pyproject.toml", "constraints.txt", ".ci/run", "README.md", "CONTRIBUTING.md")
    assert [name for name in names if options.search((ROOT / name).read_text("utf-8"))] == []


def test_no_large_file_and_no_stray_model_is_in_the_repository() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("git, or its folder, is not here to list the files")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    files = [path for path in paths if path.is_file()]
    assert len(files) > 500
    assert [path for path in files if path.stat().st_size > 1_000_000] == []
    models = (".pt", ".pth", ".pkl", ".bin", ".safetensors")
    assert [path for path in files if path.parent == ROOT and path.suffix in models] == []


def test_the_version_is_one(pyproject: dict[str, Any]) -> None:
    version = pyproject["project"]["version"]
    assert ptinspect.__version__ == version
    changes = [line.split()[1] for line in lines_of("CHANGELOG.md") if line.startswith("## ")]
    assert changes[0].rstrip(",") == version


def test_nothing_of_the_package_runs_what_a_file_says() -> None:
    """The built-in ways to do it; ruff looks for pickle, marshal and import_module. `stubbed`
    runs the stub that ptinspect wrote itself."""
    acts = {"__import__", "eval", "exec", "compile"}
    ours = ROOT / "ptinspect" / "stubs" / "build.py"
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {node.id}"
        for path in sorted((ROOT / "ptinspect").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Name) and node.id in acts and path != ours
    ]
    assert found == []


def installed_files() -> set[str]:
    """Of the package, below site-packages; skips where it is not installed as a user has it."""
    try:
        files = importlib.metadata.files("ptinspect") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ptinspect is not installed in this environment")
    if not any(file.parts[0] == "ptinspect" for file in files):
        pytest.skip("ptinspect is installed as editable: no file is copied")
    return {file.as_posix() for file in files if "__pycache__" not in file.parts}


def test_every_file_of_the_package_is_installed() -> None:
    """py.typed and the data files too. After a change, `pip install .` again."""
    installed = installed_files()
    here = [p.relative_to(ROOT).as_posix() for p in (ROOT / "ptinspect").rglob("*") if p.is_file()]
    assert [path for path in here if "__pycache__" not in path and path not in installed] == []
    assert Path("ptinspect/py.typed").as_posix() in installed
