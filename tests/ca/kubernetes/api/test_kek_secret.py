"""The key-encryption key's Secret is made once; whoever comes later reads the same key, and a wrong one is named."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from aiohttp import web

from ca.authority.kek import KekOrigin, KeyEncryptionError
from ca.kubernetes.api.kek_secret import load_key_secret
from shared.model.errors import RefusedError
from tests.ca.kubernetes.faking import faked

KEY = base64.b64encode(bytes(range(32))).decode()


class Secrets:
    """A namespace's Secrets, of which one replica may be faster than the one that is tested."""

    def __init__(self, *, data: dict[str, str] | None = None, faster: dict[str, str] | None = None) -> None:
        self.data = data
        self.faster = faster
        self.made: list[dict[str, object]] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            if self.faster is not None:
                self.data = self.faster
                return web.json_response({"message": "already exists"}, status=409)
            body = await request.json()
            self.made.append(body)
            self.data = body["data"]
            return web.json_response(body, status=201)
        assert request.path == "/api/v1/namespaces/touchmark-system/secrets/touchmark-kek"
        if self.data is None:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response({"data": self.data})


def encode(text: str) -> dict[str, str]:
    return {"key": base64.b64encode(text.encode()).decode()}


async def load(directory: Path, secrets: Secrets, *, sealed_by: str = "") -> tuple[bytes, KekOrigin, float | None]:
    async with faked(directory, secrets.answer) as client:
        key = await load_key_secret(
            client, namespace="touchmark-system", name="touchmark-kek", sealed_by=sealed_by, now=1_800_000_000
        )
    assert key.source == "the Secret touchmark-system/touchmark-kek"
    return key.key, key.origin, key.generated_at


async def test_the_first_replica_makes_it_and_the_next_one_reads_it(tmp_path: Path) -> None:
    secrets = Secrets()
    first = await load(tmp_path, secrets)
    assert first[1:] == (KekOrigin.GENERATED, 1_800_000_000.0)
    assert await load(tmp_path, secrets) == first
    [made] = secrets.made
    assert made["immutable"] is True


async def test_a_missing_secret_of_a_sealed_store_is_named_and_not_made_anew(tmp_path: Path) -> None:
    secrets = Secrets()
    with pytest.raises(KeyEncryptionError, match=r"touchmark-system/touchmark-kek is missing.*00ff"):
        await load(tmp_path, secrets, sealed_by="00ff")
    assert secrets.made == []


async def test_of_two_replicas_at_once_the_faster_ones_key_is_the_one(tmp_path: Path) -> None:
    secrets = Secrets(faster=encode(KEY))
    assert (await load(tmp_path, secrets))[0] == bytes(range(32))


async def test_a_key_of_the_users_own_is_taken_as_it_is(tmp_path: Path) -> None:
    assert await load(tmp_path, Secrets(data=encode(KEY + "\n"))) == (bytes(range(32)), KekOrigin.SECRET, None)


@pytest.mark.parametrize("data", [{}, {"key": "***"}, {"key": ""}, encode("short"), encode("c2hvcnQ="), encode("ключ")])
async def test_a_secret_without_a_key_is_named_and_not_shown(tmp_path: Path, data: dict[str, str]) -> None:
    with pytest.raises(KeyEncryptionError) as caught:
        await load(tmp_path, Secrets(data=data))
    assert "c2hvcnQ" not in json.dumps([str(caught.value), caught.value.hint])


async def test_a_missing_right_is_said(tmp_path: Path) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"message": "forbidden"}, status=403)

    async with faked(tmp_path, refuse) as client:
        with pytest.raises(RefusedError, match="forbidden"):
            await load_key_secret(client, namespace="touchmark-system", name="touchmark-kek", sealed_by="", now=1.0)
