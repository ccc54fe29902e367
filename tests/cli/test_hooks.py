"""The hooks of .pre-commit-hooks.yaml: alone, by the real pre-commit, and git's textconv."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ptinspect.cli.hooks import RULES, main
from tests.conftest import FIXTURES, ROOT
from tests.safety.files import BAD, GOOD, torch_zip

MODEL = FIXTURES / "seed" / "model.pth"
STATE = FIXTURES / "seed" / "model_state_dict.pt"


def test_a_model_is_no_state_dict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state-dict-only", str(STATE), str(ROOT / "README.md")]) == 0
    assert capsys.readouterr().out == ""
    assert main(["state-dict-only", str(STATE), str(MODEL)]) == 1
    assert f"{MODEL}: a pickled model of class __main__.CustomModel" in capsys.readouterr().out


def test_tensors_belong_into_safetensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.pkl"
    settings.write_bytes(GOOD)
    assert main(["prefer-safetensors", str(settings)]) == 0
    assert main(["prefer-safetensors", str(STATE), str(settings)]) == 1
    assert str(STATE) in capsys.readouterr().out


def test_what_cannot_be_read_is_two(tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(MODEL.read_bytes()[:-300])
    assert main(["state-dict-only", str(cut)]) == 2
    assert main(["state-dict-only", str(cut), str(MODEL)]) == 1
    assert main(["nonsense"]) == main([]) == 2


def test_each_hook_runs_what_there_is() -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text("utf-8")
    entries = re.findall(r"^  entry: (.+)$", text, re.MULTILINE)
    assert entries[0] == "ptinspect scan"
    assert entries[1:] == [f"python -m ptinspect.cli.hooks {rule}" for rule in RULES]
    assert re.findall(r"^- id: (.+)$", text, re.MULTILINE) == [
        "ptinspect-scan", *(f"ptinspect-{rule}" for rule in RULES)
    ]  # fmt: skip


# --- the real tools ------------------------------------------------------------------------

GIT = shutil.which("git")
PRE_COMMIT = os.environ.get("PTINSPECT_PRE_COMMIT") or shutil.which("pre-commit")


def git(folder: Path, *words: str) -> str:
    assert GIT is not None
    named = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "core.hooksPath=.git/hooks"]
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [GIT, *named, *words], cwd=folder, capture_output=True, text=True, env=there
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if GIT is None:
        pytest.skip("needs git")
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    shutil.copy(STATE, folder / "good.pt")
    (folder / "notes.md").write_text("c is a letter\nand so is d\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "good")
    return folder


def tried(folder: Path, hook: str) -> subprocess.CompletedProcess[str]:
    """`pre-commit try-repo`, on all files of the repository."""
    if PRE_COMMIT is None:
        pytest.skip("needs pre-commit; PTINSPECT_PRE_COMMIT may say where it is")
    command = [PRE_COMMIT, "try-repo", str(ROOT), hook, "--all-files", "--verbose"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if "CalledProcessError" in done.stdout + done.stderr:
        pytest.skip(f"pre-commit could not install the hook: {done.stdout[-300:]}")
    return done


def test_pre_commit_lets_good_files_pass(repository: Path) -> None:
    done = tried(repository, "ptinspect-scan")
    assert done.returncode == 0, done.stdout
    assert "Passed" in done.stdout


def test_pre_commit_stops_bad_files(repository: Path) -> None:
    (repository / "bad.bin").write_bytes(torch_zip(BAD))
    shutil.copy(MODEL, repository / "model.pth")
    git(repository, "add", "-A")
    for hook, said in (
        ("ptinspect-scan", "posix.system"),
        ("ptinspect-state-dict-only", "a pickled model of class __main__.CustomModel"),
        ("ptinspect-prefer-safetensors", "good.pt: tensors in a pickle"),
    ):
        done = tried(repository, hook)
        assert done.returncode == 1, done.stdout + done.stderr
        assert said in done.stdout


def test_a_configured_run_stops_a_commit(repository: Path) -> None:
    if PRE_COMMIT is None:
        pytest.skip("needs pre-commit; PTINSPECT_PRE_COMMIT may say where it is")
    head = git(ROOT, "rev-parse", "HEAD").strip()
    (repository / ".pre-commit-config.yaml").write_text(
        f"repos:\n- repo: {ROOT}\n  rev: {head}\n  hooks:\n  - id: ptinspect-scan\n"
    )
    if ".pre-commit-hooks.yaml" not in git(ROOT, "ls-tree", "--name-only", "HEAD"):
        pytest.skip("the hooks are not committed")
    (repository / "bad.bin").write_bytes(BAD)
    git(repository, "add", "-A")
    command = [PRE_COMMIT, "run"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=600)
    if "CalledProcessError" in done.stdout + done.stderr:
        pytest.skip(f"pre-commit could not install the hook: {done.stdout[-300:]}")
    assert done.returncode == 1
    assert "bad.bin: dangerous" in done.stdout


def test_git_diff_shows_what_changed_in_a_file(repository: Path) -> None:
    """docs/howto/pre-commit.md: `ptinspect show` as textconv."""
    page = (ROOT / "docs" / "howto" / "pre-commit.md").read_text("utf-8")
    assert "*.pt diff=ptinspect" in page
    assert 'git config diff.ptinspect.textconv "ptinspect show --all"' in page
    (repository / ".gitattributes").write_text("*.pt diff=ptinspect\n")
    show = f"{sys.executable} -m ptinspect show --all"
    git(repository, "config", "diff.ptinspect.textconv", show)
    shutil.copy(FIXTURES / "containers" / "state_dict-zip.pt", repository / "good.pt")
    changes = git(repository, "diff", "good.pt")
    assert "Binary files" not in changes
    assert re.search(r"^-.*layer\.weight", changes, re.MULTILINE)
    assert re.search(r"^\+.*\(", changes, re.MULTILINE)
