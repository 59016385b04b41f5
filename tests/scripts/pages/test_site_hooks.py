"""The site's links: between pages as they stand there, to source files not at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from scripts.pages.site_hooks import FRONT_PAGES, ROOT, on_post_page, rewrite_links

SETTINGS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "written", "shown"),
    [
        ("docs/tutorial.md", "[reasons](reference/reasons.md#no_rule)", "[reasons](reference/reasons.md#no_rule)"),
        ("docs/how-to/a.md", "[reasons](../reference/reasons.md)", "[reasons](../reference/reasons.md)"),
        ("docs/how-to/a.md", "[here](#b)", "[here](#b)"),
        ("docs/how-to/a.md", "[`out.py`](../../sidecar/outbound.py) starts", "`out.py` starts"),
        ("docs/how-to/a.md", "[limits](../../SECURITY.md)", "[limits](../project/security.md)"),
        ("docs/how-to/a.md", "[front](../../README.md)", "[front](../index.md)"),
        ("docs/how-to/a.md", "![p](../pictures/p.svg)", "![p](../pictures/p.svg)"),
        ("docs/how-to/a.md", "[RFC](https://www.rfc-editor.org/rfc/rfc8446)", "[RFC](https://www.rfc-editor.org/rfc/rfc8446)"),
        ("SECURITY.md", "[log](CHANGELOG.md)", "[log](changelog.md)"),
        ("SECURITY.md", "[concepts](docs/explanation/concepts.md)", "[concepts](../explanation/concepts.md)"),
    ],
)  # fmt: skip
def test_a_link_leads_to_the_page_of_the_site_or_is_plain_text(source: str, written: str, shown: str) -> None:
    assert rewrite_links(written, source) == shown


def test_every_page_is_in_the_navigation_and_exists() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in pages(value)]

    listed = pages(yaml.safe_load(SETTINGS)["nav"])
    there = [str(path.relative_to(ROOT / "docs")) for path in Path(ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted([*there, *FRONT_PAGES.values()])
    assert all((ROOT / name).is_file() for name in FRONT_PAGES)


@pytest.mark.parametrize(
    "loaded", ['<script src="https://cdn.example/a.js">', "<link rel=stylesheet href=//cdn.example/a>"]
)
def test_a_page_that_loads_something_from_elsewhere_fails_the_build(loaded: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    with pytest.raises(ValueError, match="from elsewhere"):
        on_post_page(f"<html>{loaded}</html>", page=page, config=None)
    own = '<script src="a.js"></script><a href="https://semver.org">semver</a>'
    assert on_post_page(own, page=page, config=None) == own


def test_nothing_of_the_site_is_loaded_from_elsewhere() -> None:
    settings = yaml.safe_load(SETTINGS)
    assert settings["strict"] is True
    assert settings["theme"]["font"] is False
    assert "://" not in SETTINGS
