"""Takes the pictures of docs/how-to/adopt.md between its commands: ``python -m tests.photograph_adopt FOLDER``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import tempfile
import threading
from pathlib import Path

from cli.backends.target import Target
from cli.main import run
from tests.ca.running import DEADLINE_S
from tests.cli.ui.browser import running_browser
from tests.cli.ui.conftest import TOKEN, serving_page
from tests.test_adopt import FIVE, serve

_WIDTH, _HEIGHT = 1280, 900


async def photograph(url: str, picture: Path) -> None:
    """Take the page that says whether explicit mode is safe."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        await take(url, picture, Path(directory))


async def take(url: str, picture: Path, directory: Path) -> None:
    """Take it with a browser that keeps its files there."""
    async with running_browser(directory) as tab:
        await tab.show_as(width=_WIDTH, height=_HEIGHT, scheme="light")
        await tab.open(f"{url}#token={TOKEN}", "document.querySelector('tbody')")
        await tab.run("location.hash = '#/ns/demo?view=ready'")
        await tab.wait_for("document.querySelector('main .mark')")
        picture.write_bytes(await tab.photograph())


def type_command(command: str) -> None:
    """Run a command of the page, reviewed beforehand."""
    words = shlex.split(command.partition(" > ")[0])
    run([*words, *(["--yes"] if "--from-decisions" in words else [])])


def main(folder: Path) -> None:
    """Serve the demonstration's CA with its sidecars, and photograph it before and after the commands."""
    is_ready, is_over = threading.Event(), threading.Event()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        thread = threading.Thread(target=lambda: asyncio.run(serve(directory, is_ready, is_over)))
        thread.start()
        try:
            if not is_ready.wait(2.0 * DEADLINE_S):
                raise TimeoutError("the CA didn't start")
            socket = directory / "admin.sock"
            os.environ["TOUCHMARK_ADMIN_SOCKET"] = str(socket)
            with serving_page(socket, target=Target()) as url:
                asyncio.run(photograph(url, folder / "adopt-blocked.png"))
                written = directory / "demo.yaml"
                for command in FIVE[1:4]:
                    if " > " in command:
                        suggest(command, written)
                    else:
                        type_command(command.replace("demo.yaml", str(written)))
                asyncio.run(photograph(url, folder / "adopt-ready.png"))
        finally:
            is_over.set()
            thread.join()


def suggest(command: str, file: Path) -> None:
    """Run a command whose output is a file."""
    with file.open("w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        type_command(command)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
