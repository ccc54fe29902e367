"""The hooks of .pre-commit-hooks.yaml: alone, by the real pre-commit, and git's textconv."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ptinspect.cli import COMMANDS
from ptinspect.cli.pre_commit import RULES, main
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
    safe = tmp_path / "good.safetensors"
    safe.write_bytes(SAFE)
    assert main(["prefer-safetensors", str(settings), str(safe)]) == 0
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
    assert entries[1:] == [f"python -m ptinspect.cli.pre_commit {rule}" for rule in RULES]
    assert re.findall(r"^- id: (.+)$", text, re.MULTILINE) == [
        "ptinspect-scan", *(f"ptinspect-{rule}" for rule in RULES)
    ]  # fmt: skip


# --- the real tools ------------------------------------------------------------------------

GIT = shutil.which("git")
HOOKS = ("ptinspect-scan", "ptinspect-state-dict-only", "ptinspect-prefer-safetensors")
UNREACHABLE = re.compile(
    r"NewConnectionError|Failed to establish a new connection|Connect(ion)?Timeout|ReadTimeout"
    r"|Read timed out|name resolution|Name or service not known|No route to|IncompleteRead"
    r"|Network is unreachable|Connection (reset|refused|broken|aborted)|from versions: none"
)
"""What pip says where it cannot reach its index; as in .ci/run."""

HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
SAFE = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)
SECONDS = 300


def git(folder: Path, *words: str) -> str:
    assert GIT is not None
    named = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "core.hooksPath=.git/hooks"]
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [GIT, *named, *words], cwd=folder, capture_output=True, text=True, env=there
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def begun(folder: Path) -> Path:
    """A repository with what is in the folder."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "all")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if GIT is None:
        pytest.skip("needs git")
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "good.safetensors").write_bytes(SAFE)
    (folder / "settings.pkl").write_bytes(GOOD)
    (folder / "notes.md").write_text("c is a letter\nand so is d\n")
    return begun(folder)


@pytest.fixture
def ours(tmp_path: Path, repository: Path) -> Path:
    """What pre-commit installs, in a repository of its own: as it is, committed or not."""
    pytest.importorskip("pre_commit", reason="needs pre-commit")
    folder = tmp_path / "ours"
    skipped = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "ptinspect", folder / "ptinspect", ignore=skipped)
    for name in (".pre-commit-hooks.yaml", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return begun(folder)


def pre_commit(repository: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """What it says; skips, and says why, where what it has to install cannot be had."""
    named = ("PYTHONPATH", "GIT_", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(named)}
    env |= {"PRE_COMMIT_HOME": str(repository.parent / "cache"), "PRE_COMMIT_COLOR": "never"}
    env |= {"PIP_RETRIES": "2", "PIP_TIMEOUT": "15"}
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", *map(str, words)],
        cwd=repository, capture_output=True, text=True, env=env, timeout=SECONDS,
    )  # fmt: skip
    said = done.stdout + done.stderr
    if "CalledProcessError" in said and (found := UNREACHABLE.search(said)):
        pytest.skip(f"pre-commit could not install the hooks, pip says: {found[0]}")
    assert "An error has occurred" not in said, said
    assert "An unexpected error" not in said, said
    return done


def add_bad_files(repository: Path) -> None:
    (repository / "bad.bin").write_bytes(torch_zip(BAD))
    (repository / "cut.pkl").write_bytes(torch_zip(GOOD)[:-50])
    shutil.copy(MODEL, repository / "model.pth")
    shutil.copy(STATE, repository / "weights.pt")
    git(repository, "add", "-A")


@pytest.mark.slow
def test_pre_commit_tries_the_hooks(repository: Path, ours: Path) -> None:
    """`pre-commit try-repo`, as somebody does it who wants to see what they say."""
    add_bad_files(repository)
    done = pre_commit(repository, "try-repo", ours, "--all-files", "--verbose")
    assert done.returncode == 1, done.stdout + done.stderr
    for hook in HOOKS:
        assert f"- hook id: {hook}" in done.stdout
    assert done.stdout.count("Failed") == len(HOOKS)
    assert "bad.bin: dangerous" in done.stdout
    assert "posix.system('touch x')" in done.stdout
    assert "cut.pkl: unreadable" in done.stdout
    assert "model.pth: a pickled model of class __main__.CustomModel" in done.stdout
    assert "weights.pt: tensors in a pickle" in done.stdout
    assert "good.safetensors: tensors" not in done.stdout
    assert "notes.md" not in done.stdout


@pytest.mark.slow
def test_pre_commit_guards_a_repository(repository: Path, ours: Path) -> None:
    """Installed and configured, as docs/howto/pre-commit.md says: a commit of good files is made,
    one of bad files is not; what is allowed in pyproject.toml is."""
    page = (ROOT / "docs" / "howto" / "pre-commit.md").read_text("utf-8")
    (config,) = (block for block in blocks(page, "yaml") if block.startswith("repos:"))
    assert re.findall(r"- id: (.+)", config) == list(HOOKS)
    config = config.replace("URL-OF-PTINSPECT", ours.as_uri())
    config = re.sub(r"rev: .+", f"rev: {git(ours, 'rev-parse', 'HEAD').strip()}", config)
    (repository / ".pre-commit-config.yaml").write_text(config)
    git(repository, "add", "-A")
    done = pre_commit(repository, "run", "--all-files")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == len(HOOKS)

    add_bad_files(repository)
    done = pre_commit(repository, "run")
    assert done.returncode == 1
    assert "bad.bin: dangerous" in done.stdout

    git(repository, "rm", "-qf", "bad.bin", "cut.pkl", "weights.pt")
    done = pre_commit(repository, "run", "ptinspect-scan")
    assert done.returncode == 1
    assert "needs your own class `__main__.CustomModel`" in done.stdout
    (repository / "pyproject.toml").write_text('[tool.ptinspect]\nallow = ["__main__.*"]\n')
    git(repository, "add", "-A")
    done = pre_commit(repository, "run", "ptinspect-scan")
    assert done.returncode == 0, done.stdout


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_git_diff_shows_what_changed_in_a_file(repository: Path) -> None:
    """docs/howto/what-changed.md: `ptinspect show --textconv`."""
    page = (ROOT / "docs" / "howto" / "what-changed.md").read_text("utf-8")
    assert "*.pt diff=ptinspect" in page
    assert 'git config diff.ptinspect.textconv "ptinspect show --textconv"' in page
    shutil.copy(STATE, repository / "good.pt")
    git(repository, "add", "good.pt")
    (repository / ".gitattributes").write_text("*.pt diff=ptinspect\n")
    show = f"{sys.executable} -m ptinspect show --textconv"
    git(repository, "config", "diff.ptinspect.textconv", show)
    shutil.copy(FIXTURES / "containers" / "state_dict-zip.pt", repository / "good.pt")
    changes = git(repository, "diff", "good.pt")
    assert "Binary files" not in changes
    assert re.search(r"^-.*layer\.weight", changes, re.MULTILINE)
    assert re.search(r"^\+.*\(", changes, re.MULTILINE)


def test_the_github_action_uploads_what_scan_writes() -> None:
    """docs/howto/pre-commit.md: the workflow is YAML, its commands and their options exist."""
    yaml = pytest.importorskip("yaml")
    page = (ROOT / "docs" / "howto" / "pre-commit.md").read_text("utf-8")
    (text,) = (block for block in blocks(page, "yaml") if block.startswith("name:"))
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read", "security-events": "write"}
    assert set(workflow[True]) == {"push", "pull_request"}  # "on" is a yes to YAML
    (job,) = workflow["jobs"].values()
    used = [step["uses"].partition("@") for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"v\d+", version) for _, _, version in used)
    assert [name for name, _, _ in used if "checkout" in name or "upload-sarif" in name] == [
        "actions/checkout", "github/codeql-action/upload-sarif"
    ]  # fmt: skip
    commands = [shlex.split(step["run"]) for step in job["steps"] if "run" in step]
    assert [words for words in commands if words[0] != "ptinspect"] == [
        ["pip", "install", "ptinspect"]
    ]
    ((_, name, *words),) = (words for words in commands if words[0] == "ptinspect")
    command = COMMANDS[name]()
    given = command.make_context(name, words, resilient_parsing=False).params
    assert given["output_format"] == "sarif"
    upload = job["steps"][-1]
    assert (upload["if"], upload["with"]["sarif_file"]) == ("always()", given["output"])


def test_the_pages_of_hooks_name_options_that_exist() -> None:
    pages = [ROOT / "docs" / "howto" / name for name in ("pre-commit.md", "scan-many.md")]
    for page in pages:
        for line in re.findall(r"`(ptinspect [^`]+)`", page.read_text("utf-8")):
            _, name, *words = shlex.split(line)
            COMMANDS[name]().make_context(name, [*words, "x"])


def test_python_3_10_gets_a_reader_of_pyproject_toml() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    needed = text.partition("dependencies = [")[2].partition("\n]")[0]
    assert "\"tomli>=2.0; python_version < '3.11'\"" in needed
