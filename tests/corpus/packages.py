"""Real files that nobody here wrote: members of packages, fetched by pip into a cache.

The cache lies outside the repository: `$PTINSPECT_CORPUS`, else `ptinspect/corpus` in the user's
cache folder. What is wanted of each package stands in models.json; only those members are kept,
each with the SHA-256 that is pinned there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

MODELS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("models.json").read_text())

# The same wheel everywhere, whatever this Python and this machine are.
PLATFORM = [
    "--platform=manylinux2014_x86_64",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--abi=abi3",
    "--abi=none",
]
PATIENCE = 300
"""Seconds to wait for another process that fetches the same package."""


def folder() -> Path:
    """Where the members are kept."""
    named = os.environ.get("PTINSPECT_CORPUS")
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ptinspect" / "corpus"


def file_of(model: dict[str, Any]) -> Path:
    """The member, fetched if it is not there yet. Skips the test, with pip's reason, where the
    package cannot be had; fails it where the member is not the one that was pinned."""
    place = folder() / f"{model['package']}-{model['version']}" / str(model["member"])
    if not place.exists():
        reason = fetch(model["package"], model["version"])
        if reason:
            pytest.skip(f"{model['package']}=={model['version']} cannot be downloaded: {reason}")
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    if digest != model["sha256"]:
        pytest.fail(f"{place} has the sha256 {digest}, not {model['sha256']}: remove it to retry")
    return place


@cache
def fetch(package: str, version: str) -> str:
    """Fetches a package's members into the cache; why not, or an empty string."""
    home = folder() / f"{package}-{version}"
    home.mkdir(parents=True, exist_ok=True)
    members = [
        model["member"]
        for model in MODELS
        if (model["package"], model["version"]) == (package, version)
    ]
    with locked(home / "lock"), tempfile.TemporaryDirectory(dir=home) as scratch:
        if all((home / member).exists() for member in members):
            return ""  # another process was faster
        reason = download(f"{package}=={version}", scratch)
        if reason:
            return reason
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as held:
            for member in members:
                unpacked = held.extract(member, scratch)
                (home / member).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(unpacked, home / member)
    return ""


def download(requirement: str, target: str) -> str:
    """Runs pip; the last line of what it had to say, where it failed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--retries=2", "--timeout=30"]
    try:
        done = subprocess.run(
            [*command, *PLATFORM, "--dest", target, requirement],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"pip was not done after {PATIENCE} s"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines() or ["pip said nothing"]
    # Newer pips draw below the last ERROR where in a requirement they stumbled.
    return next((line for line in reversed(said) if line.startswith("ERROR:")), said[-1])


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Lets one process in at a time. A lock that is older than any download is a dead one's."""
    while True:
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > PATIENCE:
                    file.unlink()
            time.sleep(0.2)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
