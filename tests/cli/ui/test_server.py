"""The page's server, asked as a browser, a stranger and another page would."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import quote, urlencode

import pytest

from cli.ui import server
from cli.ui.guard import HEADERS, TOKEN_HEADER
from cli.ui.server import MAX_CONNECTIONS, Page, serving
from shared.model.errors import UnavailableError
from tests.cli.ui.conftest import TOKEN, Served


@contextmanager
def ask(page: Served, path: str, method: str = "GET", **headers: str) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        yield connection.getresponse()


SESSION = {TOKEN_HEADER: TOKEN}


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/start", "/api/nothing", "/nothing"])
def test_every_answer_has_the_policy(page: Served, path: str) -> None:
    with ask(page, path, **SESSION) as response:
        assert {name: response.headers[name] for name in HEADERS} == dict(HEADERS)
        assert response.headers["Set-Cookie"] is None
        assert response.headers["Access-Control-Allow-Origin"] is None
        assert "charset=utf-8" in response.headers["Content-Type"]


def test_files_are_for_everybody_and_answers_for_the_session(page: Served) -> None:
    with ask(page, "/") as response:
        assert response.status == 200
        assert TOKEN.encode() not in response.read()
    with ask(page, "/api/namespaces") as response:
        assert response.status == 403
        assert json.load(response)["code"] == "refused"
    with ask(page, "/api/namespaces", **SESSION) as response:
        assert response.status == 200
        assert [row["name"] for row in json.load(response)["namespaces"]] == ["bank", "shop"]
    with ask(page, f"/api/namespaces?{urlencode({TOKEN_HEADER: TOKEN})}", Cookie=f"{TOKEN_HEADER}={TOKEN}") as response:
        assert response.status == 403, "only the header counts"


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/api/start"])
def test_another_page_gets_nothing_even_with_the_token(page: Served, path: str, headers: dict[str, str]) -> None:
    with ask(page, path, **SESSION, **headers) as response:
        assert response.status == 403
    assert page.ca.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_but_reading_is_answered(page: Served, method: str) -> None:
    with ask(page, "/api/start", method, **SESSION) as response:
        assert response.status == 400
    assert page.ca.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/../answers.py", "/%2e%2e/answers.py", "/vendor/../../answers.py", "//etc/passwd", "/static/app.js",
        "/v1/status", "/api/v1/status", "/api", "/api/", "/vendor/LICENSES.txt", "/" + quote("\x00"),
    ],
)  # fmt: skip
def test_only_listed_paths_are_there(page: Served, path: str) -> None:
    with ask(page, path, **SESSION) as response:
        assert response.status == 404
    assert page.ca.requests == []


def test_the_ca_s_own_errors_are_passed_on(page: Served) -> None:
    del page.ca.answers["GET /v1/namespaces/shop/readiness"]
    with ask(page, "/api/readiness?namespace=shop", **SESSION) as response:
        assert response.status == 404
        assert json.load(response)["message"] == "nothing at GET /v1/namespaces/shop/readiness"


def test_a_header_without_an_end_is_refused(page: Served) -> None:
    with ask(page, "/", X_Long="x" * 100_000) as response:
        assert response.status == 400


def test_connections_are_bounded_and_places_come_free(page: Served) -> None:
    held: list[socket.socket] = []
    try:
        # Whoever is refused is closed; whoever has a place is kept.
        while len(held) < 3 * MAX_CONNECTIONS:
            try:
                connection = socket.create_connection(("127.0.0.1", page.port), timeout=60)
            except ConnectionResetError:  # Refused before this thread has noticed that it is connected.
                continue
            held.append(connection)
            connection.settimeout(0.0)
        refused = 0
        for connection in held[MAX_CONNECTIONS:]:
            connection.settimeout(60)
            try:
                refused += connection.recv(1) == b""
            except ConnectionResetError:
                refused += 1
        assert refused == 2 * MAX_CONNECTIONS
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with ask(page, "/") as response:
                assert response.status == 200
                return
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.01)
    pytest.fail("no place came free")


def test_who_connects_and_asks_nothing_is_left(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_DEADLINE_S", 0.1)
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UnavailableError, match="can't listen on port") as caught:
            async with serving(Page({}, {}, token=TOKEN), port=other.getsockname()[1]):
                pass
    assert "--port" in caught.value.hint


async def test_many_that_come_at_once_are_bounded_as_well() -> None:
    """They are connected before the server's loop has accepted one of them."""
    async with serving(Page({}, {}, token=TOKEN)) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        sockets = [socket.socket() for _ in range(MAX_CONNECTIONS + 20)]
        try:
            for each in sockets:
                each.setblocking(False)
                with suppress(BlockingIOError):
                    each.connect(("127.0.0.1", port))
            loop = asyncio.get_running_loop()
            waiting = [loop.create_task(_ask_for_nothing(each)) for each in sockets]
            async with asyncio.timeout(60):
                answered = await asyncio.gather(*waiting)
            assert sum(answered) <= MAX_CONNECTIONS
        finally:
            for each in sockets:
                each.close()


async def _ask_for_nothing(connection: socket.socket) -> bool:
    """Tell whether a request is answered: who is refused reads an end or a reset."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(connection, b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return bool(await loop.sock_recv(connection, 1))
    except (ConnectionError, OSError):
        return False
