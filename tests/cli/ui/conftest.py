"""The page's server over a fake CA, in a thread of its own, as the command runs it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.admin.client import AdminClient
from cli.backends.target import Target
from cli.commands.ui import make_actions, make_answers
from cli.ui.connection import Connection
from cli.ui.files import load_files
from cli.ui.server import Page, serving
from tests.cli.fake_ca import FakeCA, running_ca
from tests.cli.ui.world import fill

TOKEN = "a-token-of-the-tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The page's server: its URL, and the CA behind it."""

    url: str
    ca: FakeCA

    @property
    def port(self) -> int:
        """The port that the kernel chose."""
        return int(self.url.rstrip("/").rpartition(":")[2])


@contextmanager
def served_page(ca: FakeCA) -> Iterator[Served]:
    """Serve the page of a fake CA."""
    with serving_page(ca.socket) as url:
        yield Served(url=url, ca=ca)


@contextmanager
def serving_page(socket: Path, *, target: Target | None = None) -> Iterator[str]:
    """Serve the page of the CA behind a socket, in a thread; gives its URL.

    Arguments:
        target: what shown commands are written for; None: this socket.
    """
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    urls: list[str] = []
    target = target or Target(admin_socket=socket)

    async def serve() -> None:
        async with Connection(lambda: AdminClient(socket)) as connection:
            actions = make_actions(target)
            routes = {**make_answers(connection, target).routes(), **actions.questions()}
            page = Page(load_files(), routes, token=TOKEN, act=actions.act)
            async with serving(page) as url:
                urls.append(url)
                ready.set()
                await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(120), "the server didn't start"
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def shared_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for a module's tests."""
    with running_ca(tmp_path_factory.mktemp("ca")) as ca, served_page(ca) as served:
        yield served


@pytest.fixture
def page(shared_page: Served) -> Served:
    """The module's server, with the CA as it is at the beginning."""
    shared_page.ca.answers.clear()
    shared_page.ca.requests.clear()
    fill(shared_page.ca)
    return shared_page
