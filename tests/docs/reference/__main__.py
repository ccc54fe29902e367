"""`python -m tests.docs.reference`: writes the pages anew, and says which have changed."""

from __future__ import annotations

from tests.docs.reference import PAGES, REFERENCE, renewed

for name in PAGES:
    page, text = REFERENCE / name, renewed(name)
    if page.read_text("utf-8") != text:
        page.write_text(text, "utf-8")
        print(f"wrote docs/reference/{name}")
