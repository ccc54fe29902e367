"""mkdocs.yml: each page is in the site's navigation, and nothing of the site is another host's.
`.ci/run` builds it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.conftest import ROOT

SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def pages(nav: object) -> list[str]:
    """The paths in it, in order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    assert isinstance(parts, list | type({}.values()))
    return [page for part in parts for page in pages(part)]


def test_each_page_is_in_the_navigation_once() -> None:
    there = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages(SITE["nav"])) == sorted(there)
    assert pages(SITE["nav"])[:2] == ["index.md", "tutorial.md"]


def test_it_is_built_strictly_of_what_is_here() -> None:
    assert SITE["theme"]["name"] == "material"
    assert SITE["theme"]["font"] is False
    assert not {"extra_css", "extra_javascript", "repo_url"} & set(SITE)
    assert set(SITE["validation"]["links"].values()) == {"warn"}
    text = (ROOT / ".ci/run").read_text("utf-8")
    (build,) = re.findall(r"mkdocs\" build (.+?) &&", text)
    assert "--strict" in build
    # with it no warning is seen, and so none is an error
    assert not re.search(r"(^| )(-q|--quiet)\b", build)
