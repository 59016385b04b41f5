"""Every failure of a handler is one JSON answer with a stable code."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ca.api.admin.answers import answer, check_query, error_middleware, read_body, read_flag, read_number
from ca.metrics import Metrics
from shared.model import errors
from shared.model.wire.admin import ErrorAnswer, ModeRequest, to_error


def make_client(handler: object, metrics: Metrics | None = None) -> TestClient[web.Request, web.Application]:
    application = web.Application(middlewares=[error_middleware(metrics or Metrics())])
    application.router.add_route("*", "/x", handler)  # type: ignore[arg-type]
    return TestClient(TestServer(application))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InputError("no", hint="do"), 400),
        (errors.IdentityError("no", hint="do"), 400),
        (errors.RefusedError("no", hint="do"), 403),
        (errors.NotFoundError("no", hint="do"), 404),
        (errors.ConflictError("no", hint="do"), 409),
        (errors.UnavailableError("no", hint="do"), 503),
        (errors.MachineError("no", hint="do"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_of_ours_crosses_the_wire_as_what_it_is(
    error: errors.TouchmarkError, status: int, method: str
) -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise error

    async with make_client(handler) as client, client.request(method, "/x") as response:
        assert response.status == status
        told = await response.json()
    again = to_error(ErrorAnswer(**told))
    assert (type(again), again.message, again.hint) == (type(error), "no", "do")


async def test_a_bug_is_counted_and_shows_nothing_of_its_inside() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise RuntimeError("secret")

    metrics = Metrics()
    async with make_client(handler, metrics) as client, client.get("/x") as response:
        assert response.status == 500
        assert "secret" not in await response.text()
    text = metrics.render().decode()
    assert 'touchmark_ca_failures_total{where="admin"} 1.0' in text
    assert 'touchmark_ca_admin_requests_total{status="500"} 1.0' in text


async def test_what_is_not_there_or_not_allowed_is_answered_in_the_same_shape() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return answer(ErrorAnswer(code="c", message="m"), status=201)

    async with make_client(handler) as client:
        async with client.get("/nowhere") as response:
            assert (response.status, (await response.json())["code"]) == (404, "not_found")
        async with client.get("/x") as response:
            assert response.status == 201
            assert response.content_type == "application/json"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"mode":"\xff"}', b'{"mode":"explicit","x":1}', b"", b"[" * 100_000, b'{"mode":' + b"[" * 100_000],
    ids=lambda body: repr(body)[:30],
)
async def test_a_body_that_is_no_such_value_is_the_askers_fault(body: bytes) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer(await read_body(request, ModeRequest))

    async with make_client(handler) as client, client.put("/x", data=body) as response:
        assert (response.status, (await response.json())["code"]) == (400, "bad_input")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [5.0, None]),
        ("n=1&f=true", [1.0, True]),
        ("n=10&f=0", [10.0, False]),
        ("f=1", [5.0, True]),
        ("f=false", [5.0, False]),
        ("n=0.5", None),
        ("n=11", None),
        ("n=nan", None),
        ("n=", None),
        ("f=yes", None),
        ("m=1", None),
    ],
)
async def test_the_query_is_read_within_its_limits(query: str, found: list[object] | None) -> None:
    async def handler(request: web.Request) -> web.Response:
        check_query(request, "n", "f")
        return web.json_response([read_number(request, "n", default=5, low=1, high=10), read_flag(request, "f")])

    async with make_client(handler) as client, client.get(f"/x?{query}") as response:
        if found is None:
            assert (response.status, (await response.json())["code"]) == (400, "bad_input")
        else:
            assert await response.json() == found
