"""What the command shows to the CA (``cli.admin.credentials``); ``tests/ca/api/access`` has both ends."""

from __future__ import annotations

import pytest

from cli.admin.client import AdminClient
from cli.admin.credentials import Authorization, Credentials
from shared.model.errors import UnavailableError
from shared.model.trust.admin_access import CERTIFICATE_SCHEME, CHALLENGE_PATH, Challenge, encode_part, parse_proof
from shared.model.wire.admin import ErrorAnswer, Health
from tests.cli.fake_ca import FakeCA
from tests.kubernetes.harness import pki

ASKED = f"GET {CHALLENGE_PATH}"


@pytest.fixture
def own() -> Credentials:
    pair = pki.ClusterCA().issue("carl")
    return Credentials(certificate=pair.certificate, key=pair.key)


async def test_a_challenge_is_signed_once_for_several_requests(ca: FakeCA, own: Credentials) -> None:
    ca.answers[ASKED] = Challenge(challenge=encode_part(b"challenge"), expires=1.0)
    ca.answers["GET /readyz"] = Health(status="ok")
    async with AdminClient(ca.socket, credentials=own) as client:
        for _ in range(3):
            await client.get_health()
    assert len(ca.asked(ASKED)) == 1
    shown = {each.get("Authorization", "") for key, each in ca.headers if key == "GET /readyz"}
    [value] = shown
    scheme, _, text = value.partition(" ")
    assert (scheme, parse_proof(text).challenge) == (CERTIFICATE_SCHEME, b"challenge")


async def test_a_token_is_shown_as_it_is_and_needs_no_challenge(ca: FakeCA) -> None:
    ca.answers["GET /readyz"] = Health(status="ok")
    async with AdminClient(ca.socket, credentials=Credentials(authorization="Bearer t")) as client:
        await client.get_health()
    assert [(key, each["Authorization"]) for key, each in ca.headers] == [("GET /readyz", "Bearer t")]


@pytest.mark.parametrize("answer", [None, b"{}", b"<html>", Challenge(challenge="?", expires=1.0)])
async def test_a_ca_without_challenges_is_shown_nothing(ca: FakeCA, own: Credentials, answer: object) -> None:
    """One of 0.1 asks nobody who they are; a newer one refuses what shows nothing."""
    if answer is not None:
        ca.answers[ASKED] = answer
    ca.answers["GET /readyz"] = Health(status="ok")
    async with AdminClient(ca.socket, credentials=own) as client:
        assert (await client.get_health()).status == "ok"
    assert not any("Authorization" in each for _, each in ca.headers)


async def test_a_ca_that_gives_no_challenge_now_is_asked_nothing_without_it(ca: FakeCA, own: Credentials) -> None:
    ca.answers[ASKED] = [ErrorAnswer(code="unavailable", message="not now"), Challenge(challenge="YQ", expires=1.0)]
    ca.answers["GET /readyz"] = Health(status="ok")
    async with AdminClient(ca.socket, credentials=own) as client:
        with pytest.raises(UnavailableError, match=r"gave no challenge.*503"):
            await client.get_health()
        assert ca.asked("GET /readyz") == []
        assert (await client.get_health()).status == "ok", "asked again"
    assert all("Authorization" in each for key, each in ca.headers if key == "GET /readyz")


def test_secrets_do_not_show_themselves(own: Credentials) -> None:
    assert "BEGIN" not in repr(own) and "t0ken" not in repr(Credentials(authorization="Bearer t0ken"))
    assert "BEGIN" not in repr(Authorization(own))
