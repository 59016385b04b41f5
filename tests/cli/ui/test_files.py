"""The page's files: read once, all from this package, and what others wrote is what was built."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cli.ui.files import load_files
from scripts.page.build import SUMS, sum_files

STATIC = Path(__file__).parents[3] / "cli/ui/static"


def test_the_page_and_its_modules_are_there() -> None:
    files = load_files()
    assert files["/"] == files["/index.html"]
    assert files["/app.js"].media_type == "text/javascript"
    assert files["/vendor/preact.js"].content
    assert files["/style.css"].media_type == "text/css"
    assert not any(path.endswith(".txt") for path in files)


def test_the_page_fetches_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    """The policy forbids both; here they are found without a browser."""
    files = load_files()
    page = files["/"].content.decode()
    assert re.findall(r'(?:src|href)="([^"]+)"', page) == ["/icon.svg", "/style.css", "/app.js"]
    assert not re.search(r"<script(?! type=\"module\" src)|<style| style=| on\w+=", page)
    for path, file in files.items():
        if path.startswith("/vendor/"):
            continue
        text = file.content.decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", text), path
        assert not re.search(r"dangerouslySet", text), path
        for module in re.findall(r'from "([^"]+)"', text):
            assert (STATIC / path.strip("/")).parent.joinpath(module).is_file(), f"{path} imports {module}"


def test_other_peoples_code_is_what_was_built_from_the_locked_packages() -> None:
    """``python -m scripts.page.build --check`` builds it again and compares the bytes; that needs npm."""
    assert json.loads(SUMS.read_text(encoding="utf-8")) == sum_files(), "run python -m scripts.page.build"
    licences = (STATIC / "vendor/LICENSES.txt").read_text(encoding="utf-8")
    assert "The MIT License" in licences
    assert "Apache License" in licences
    lock = json.loads((SUMS.parent / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert all("resolved" not in each and each["integrity"] for name, each in lock.items() if name)
