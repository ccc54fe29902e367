"""`check resume` on a training in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume import check_resume
from ptinspect.proofs.resume_report import ResumeReport
from tests.proofs.trainings import NET, Training


def run(workers: Workers, given: dict[str, Any], **more: Any) -> ResumeReport:
    return check_resume(given.pop("path"), **given, **{"steps": 3, **more}, workers=workers)


def fails(workers: Workers, given: dict[str, Any], **more: Any) -> PtInspectError:
    with pytest.raises(PtInspectError) as caught:
        run(workers, given, **more)
    return caught.value


def net(tmp_path: Path, first: str = "", last: str = "") -> dict[str, Any]:
    """A sound checkpoint; the model's file does something else as well."""
    training = Training(tmp_path)
    return training.save(training.parts(), f"{first}\n{NET}\n{last}\n")
