"""No harmful file is clean, and nearly all are dangerous: the techniques of issue and advisories,
in every container."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ptinspect.safety.report import ScanReport
from ptinspect.safety.scan import scan
from tests.safety.corpus.malicious import RANK, samples, write
from tests.safety.corpus.sample import MARK, OWN


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScanReport]:
    folder = tmp_path_factory.mktemp("malicious")
    made = {path.name: scan(path) for path in write(folder)}
    assert not list(folder.rglob(MARK))
    return made


def test_harm_is_seen(reports: dict[str, ScanReport]) -> None:
    for sample in samples():
        report = reports[sample.name]
        chains = [finding.chain for finding in report.all_findings()]
        assert RANK[report.verdict] >= RANK[sample.least], (sample.name, chains)
        bugs = [e.message for e in report.errors if "a bug in ptinspect" in e.message]
        assert not bugs, sample.name


def test_the_corpus_is_large_and_nearly_all_of_it_is_dangerous(
    reports: dict[str, ScanReport],
) -> None:
    verdicts = Counter(report.verdict for report in reports.values())
    assert len(reports) >= 150
    assert verdicts["clean"] == verdicts["pointer"] == 0
    assert verdicts["dangerous"] >= 0.95 * len(reports), verdicts


def test_what_is_dangerous_says_where_and_why(reports: dict[str, ScanReport]) -> None:
    for report in reports.values():
        for found in report.all_findings():
            assert found.reason
            assert found.opcode is None or found.offset is not None


def test_the_list_of_what_is_published_is_whole() -> None:
    """Each source that a file of the corpus has stands in docs/security.md, and nothing there
    tells of a technique of our own."""
    page = Path(__file__).parents[3] / "docs" / "security.md"
    text = page.read_text("utf-8")
    sources = {sample.source for sample in samples()} - {OWN}
    assert sorted(source for source in sources if source.rpartition("/")[2] not in text) == []


def test_no_payload_does_more_than_touch_a_file() -> None:
    for sample in samples():
        for word in (b"rm -", b"curl ", b"/bin/sh", b"http://1", b"sudo"):
            assert word not in sample.data, sample.name


def test_a_folder_of_them_in_one_go(tmp_path: Path, reports: dict[str, ScanReport]) -> None:
    from ptinspect.safety.scan import scan_many

    write(tmp_path)
    together = {Path(report.path).name: report.verdict for report in scan_many([tmp_path])}
    assert together == {name: report.verdict for name, report in reports.items()}
