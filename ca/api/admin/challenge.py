"""The admin endpoint that gives owners of client certificates a challenge to sign. No I/O."""

from __future__ import annotations

from aiohttp import web

from ca.api.admin.answers import answer
from ca.authenticate.user_certificate import UserCertificates
from shared.model.errors import NotFoundError
from shared.model.trust.admin_access import CHALLENGE_PATH


class ChallengeAdmin:
    """The handler. It is open to anyone: a challenge says nothing about the CA, and is stored nowhere.

    Arguments:
        certificates: None: no user has one here.
    """

    def __init__(self, certificates: UserCertificates | None) -> None:
        self._certificates = certificates

    def routes(self) -> list[web.RouteDef]:
        """Return the route."""
        return [web.get(CHALLENGE_PATH, self.challenge)]

    async def challenge(self, _request: web.Request) -> web.Response:
        """Answer a new challenge."""
        if self._certificates is None:
            raise NotFoundError("this CA works outside a cluster", hint="use the admin socket")
        return answer(self._certificates.make_challenge())
