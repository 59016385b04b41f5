"""Takes the documentation's pictures of the page, in Chromium: ``python -m tests.cli.ui.photograph docs/pictures``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shared.model.wire.admin_edges import EdgeView
from tests.cli.fake_ca import FakeCA, running_ca
from tests.cli.ui.browser import running_browser
from tests.cli.ui.conftest import TOKEN, served_page
from tests.cli.ui.world import EDGES, HOSTILE, fill

_WIDTH, _HEIGHT = 1280, 760


def _be_kind(edge: EdgeView) -> EdgeView:
    """Return the edge with an ordinary name in the place of what no reader would understand."""
    if edge.source.path != HOSTILE:
        return edge
    return msgspec.structs.replace(edge, source=msgspec.structs.replace(edge.source, path="/tmp/curl"))


async def photograph(url: str, folder: Path, directory: Path) -> None:
    """Take the namespace's page in both schemes, and under its draft."""
    async with running_browser(directory) as tab:
        for scheme in ("light", "dark"):
            await tab.show_as(width=_WIDTH, height=_HEIGHT, scheme=scheme)
            await tab.open(f"{url}#token={TOKEN}", "document.querySelector('tbody')")
            await tab.run("location.hash = '#/ns/shop?show=all'")
            await tab.wait_for("document.querySelector('.picture') && document.querySelector('.where')")
            (folder / f"ui-{scheme}.png").write_bytes(await tab.photograph())
        await tab.show_as(width=_WIDTH, height=_HEIGHT + 300, scheme="light")
        await tab.run("location.hash = '#/ns/shop?show=all&rules=draft'")
        await tab.wait_for(
            "document.querySelector('.picture .broken') && document.querySelector('.draft .buttons button')"
        )
        (folder / "ui-draft.png").write_bytes(await tab.photograph())


@contextmanager
def world(directory: Path) -> Iterator[FakeCA]:
    """Run a CA with the mesh that the pictures show."""
    with running_ca(directory) as ca:
        fill(ca, *map(_be_kind, EDGES))
        yield ca


def main(folder: Path) -> None:
    """Serve the tests' mesh and photograph it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with world(directory) as ca, served_page(ca) as served:
            asyncio.run(photograph(served.url, folder, directory))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
