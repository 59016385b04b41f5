"""The page's connection to the CA: one for all requests, and a new one after it broke."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cli.admin.client import AdminClient
from cli.ui.connection import Connection
from shared.model.errors import NotAuthenticatedError, NotFoundError, UnavailableError
from shared.model.wire.admin import ErrorAnswer
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import CA


class Opened:
    """Opens clients, the first ones where nothing listens."""

    def __init__(self, ca: FakeCA, *, broken: int) -> None:
        self.ca = ca
        self.broken = broken
        self.opened = self.closed = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AdminClient]:
        self.opened += 1
        path = Path("/nowhere/admin.sock") if self.opened <= self.broken else self.ca.socket
        try:
            async with AdminClient(path) as client:
                yield client
        finally:
            self.closed += 1


async def test_all_requests_share_one_connection(ca: FakeCA) -> None:
    ca.answers["GET /v1/status"] = CA
    opened = Opened(ca, broken=0)
    async with Connection(opened.open) as connection:
        assert (await connection.ask(AdminClient.get_status)).version == CA.version
        with pytest.raises(NotFoundError):
            await connection.ask(AdminClient.list_sidecars)
        await connection.ask(AdminClient.get_status)
    assert (opened.opened, opened.closed) == (1, 1)


async def test_after_a_broken_one_the_next_request_opens_another(ca: FakeCA) -> None:
    ca.answers["GET /v1/status"] = CA
    opened = Opened(ca, broken=1)
    async with Connection(opened.open) as connection:
        with pytest.raises(UnavailableError):
            await connection.ask(AdminClient.get_status)
        await connection.ask(AdminClient.get_status)
    assert (opened.opened, opened.closed) == (2, 2)


async def test_credentials_that_have_expired_are_read_anew(ca: FakeCA) -> None:
    ca.answers["GET /v1/status"] = [ErrorAnswer(code="not_authenticated", message="expired"), CA]
    opened = Opened(ca, broken=0)
    async with Connection(opened.open) as connection:
        with pytest.raises(NotAuthenticatedError):
            await connection.ask(AdminClient.get_status)
        await connection.ask(AdminClient.get_status)
    assert (opened.opened, opened.closed) == (2, 2)
