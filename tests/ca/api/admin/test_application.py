"""The admin application serves every route that ``shared.model.wire.admin`` lists, and nothing unbounded."""

from __future__ import annotations

import io
import re
import stat

import aiohttp

from ca.runtime.compose import RunningCA
from shared.model.wire import admin as api
from tests.ca.running import Admin

ROUTES = [
    (row.split()[0], re.sub(r"\{\w+\}", "shop", row.split()[1].partition("?")[0].rstrip(",")))
    for row in (api.__doc__ or "").splitlines()
    if row.startswith(("GET ", "POST ", "PUT ", "DELETE ")) and "follow" not in row
]


async def test_each_route_of_the_table_is_served(admin: Admin) -> None:
    assert len(ROUTES) > 20
    for method, path in [*ROUTES, ("GET", "/readyz")]:
        async with admin.session.request(method, path) as response:
            text = await response.text()
        # A route that isn't there answers with the path; a thing that isn't there with its name.
        assert response.status < 500, path
        assert f": {path}" not in text


async def test_the_socket_is_the_owners_only(services: RunningCA) -> None:
    assert stat.S_IMODE(services.configuration.admin_socket.stat().st_mode) == 0o600


async def test_a_body_that_is_too_large_is_refused(admin: Admin) -> None:
    body = io.BytesIO(b" " * (api.MAX_ADMIN_BODY_BYTES + 1))
    async with admin.session.put("/v1/policies", data=body) as response:
        assert (response.status, (await response.json())["code"]) == (413, "bad_input")


async def test_the_sidecars_door_has_no_admin_routes(services: RunningCA) -> None:
    context = services.server_certificate.context
    assert context is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://{services.listen}/v1/status", ssl=False) as response,
    ):
        assert response.status == 404
