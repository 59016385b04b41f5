"""What the API server says about users, and what counts as no (``ca.kubernetes.api.user_reviews``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ca.kubernetes.api.user_reviews import UserReviews
from ca.kubernetes.view import ClusterUser
from shared.model.errors import NotAllowedError, NotAuthenticatedError, TouchmarkError, UnavailableError
from tests.ca.kubernetes.faking import faked

OLGA = ClusterUser(name="olga", uid="7", groups=("dev",), extra={"scopes": ("a", "b")})
READING = {"verb": "get", "group": "view.touchmark.dev", "resource": "edges", "namespace": "shop"}


class Said:
    """Answers everything with one object, and keeps what was asked."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.answer = answer
        self.status = status
        self.asked: list[Any] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json() if request.can_read_body else request.path)
        return web.json_response(self.answer, status=self.status)


async def test_a_token_is_its_users_and_a_review_asks_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    user = {"username": "olga", "uid": "7", "groups": ["dev"], "extra": {"scopes": ["a", "b"]}}
    said = Said({"status": {"authenticated": True, "user": user, "allowed": True}})
    async with faked(tmp_path, said.handle) as client:
        reviews = UserReviews(client)
        assert await reviews.review_token("t") == OLGA
        await reviews.check_allowed(OLGA, **READING)
    assert said.asked[0]["spec"] == {"token": "t"}  # No audience: the API server's own.
    assert said.asked[1]["spec"] == {
        "user": "olga",
        "uid": "7",
        "groups": ["dev"],
        "extra": {"scopes": ["a", "b"]},
        "resourceAttributes": READING,
    }


@pytest.mark.parametrize(
    "status", [{}, {"authenticated": False}, {"authenticated": True, "user": {"username": ""}}, {"error": "expired"}]
)
async def test_a_token_without_a_user_is_nobodys(tmp_path: Path, status: dict[str, Any]) -> None:
    async with faked(tmp_path, Said({"status": status}).handle) as client:
        with pytest.raises(NotAuthenticatedError):
            await UserReviews(client).review_token("t")


@pytest.mark.parametrize("status", [{}, {"allowed": False}, {"allowed": True, "denied": True}])
async def test_anything_but_a_plain_yes_is_a_no(tmp_path: Path, status: dict[str, Any]) -> None:
    async with faked(tmp_path, Said({"status": status}).handle) as client:
        with pytest.raises(NotAllowedError, match=r"olga may not get edges\.view\.touchmark\.dev in namespace shop"):
            await UserReviews(client).check_allowed(OLGA, **READING)


@pytest.mark.parametrize("code", [401, 403, 500])
async def test_an_api_server_that_refuses_lets_nobody_in(tmp_path: Path, code: int) -> None:
    async with faked(tmp_path, Said({"message": "no"}, code).handle) as client:
        reviews = UserReviews(client)
        with pytest.raises(TouchmarkError, match=str(code)):
            await reviews.review_token("t")
        with pytest.raises(TouchmarkError, match=str(code)):
            await reviews.check_allowed(OLGA, **READING)


async def test_roots_of_client_certificates(tmp_path: Path) -> None:
    for answer, code, roots in (
        ({"data": {"client-ca-file": "PEM"}}, 200, b"PEM"),
        ({"data": None}, 200, b""),
        ({"message": "not found"}, 404, b""),
    ):
        async with faked(tmp_path, Said(answer, code).handle) as client:
            assert await UserReviews(client).read_client_roots() == roots


async def test_questions_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ca.kubernetes.api.user_reviews.MAX_WAITING", 0)
    async with faked(tmp_path, Said({}).handle) as client:
        with pytest.raises(UnavailableError, match="too many"):
            await UserReviews(client).review_token("t")
