"""What `make site` does to the pages before MkDocs renders them (``hooks`` in mkdocs.yml).

The pages are written for a reader of the repository: they link to source files, and the front pages are beside docs/.
The site has no source files, so links to them become plain text, and the front pages get a folder of the site.

Belongs here: a page's place in the site, and its links. Doesn't: what a page says. ``rewrite_links`` is pure; the
hooks read the front pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# File of the repository → page of the site.
FRONT_PAGES = {
    name: f"project/{name.lower()}"
    for name in ("SECURITY.md", "CONTRIBUTING.md", "RELEASING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md")
}
_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#:\s]*)(#[^)\s]*)?\)")


def rewrite_links(markdown: str, source: str) -> str:
    """Return the page with its links as the site has them.

    Arguments:
        source: the page's file in the repository, such as ``docs/tutorial.md``.
    """
    page = _find_page(source)

    def rewrite(match: re.Match[str]) -> str:
        picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if not target:
            return match[0]
        linked = _find_page(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        if linked is None:
            return text
        return f"{picture}[{text}]({posixpath.relpath(linked, posixpath.dirname(page or '') or '.')}{anchor})"

    return _LINK.sub(rewrite, markdown)


def on_files(files: Any, *, config: Any) -> Any:
    """Add the front pages (MkDocs calls this)."""
    from mkdocs.structure.files import File

    for name, page in FRONT_PAGES.items():
        content = rewrite_links((ROOT / name).read_text(encoding="utf-8"), name)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Return the page's text as the site has it (MkDocs calls this)."""
    source = page.file.src_uri
    return markdown if source in FRONT_PAGES.values() else rewrite_links(markdown, f"docs/{source}")


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Return the rendered page as it is (MkDocs calls this).

    Raises:
        ValueError: it would load a script, style, font or picture from elsewhere.
    """
    if found := _LOADED.search(output):
        raise ValueError(f"{page.file.src_uri} loads something from elsewhere: {found[0][:200]}")
    return output


def _find_page(path: str) -> str | None:
    """Return the page of the site for a file of the repository; None where the site has none."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return "index.md" if path == "README.md" else FRONT_PAGES.get(path)
