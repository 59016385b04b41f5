"""Faults that a real API server can't be made to show; the rest is tests/kubernetes/test_admission_objects.py."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from ca.kubernetes.webhook_objects import trust_config
from ca.kubernetes.webhook_objects.trust_config import (
    GRACE_S,
    OWNER_PATH,
    ConfigMap,
    TrustConfigMaps,
    TrustRecord,
    trim_trust,
)
from ca.metrics import Metrics
from shared.model.errors import RefusedError, UnavailableError
from tests.ca.kubernetes.faking import faked
from tests.ca.running import eventually


class Namespaces:
    """An API server's ConfigMaps, with faults by namespace."""

    def __init__(self) -> None:
        self.data: dict[str, dict[str, str]] = {}
        self.faults: dict[str, int] = {}
        self.asked: list[str] = []
        self.owner_uid = "first"
        self.owners: dict[str, str] = {}
        self.before_answer: Callable[[], None] = lambda: None
        self.before_fault: Callable[[], None] = lambda: None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path == OWNER_PATH:
            if not self.owner_uid:
                return web.json_response({"message": "not found"}, status=404)
            return web.json_response({"metadata": {"uid": self.owner_uid}})
        namespace = request.path.split("/")[4]
        self.asked.append(f"{request.method} {namespace}")
        if (fault := self.faults.get(namespace)) is not None:
            self.before_fault()
            return web.json_response({"message": "no"}, status=fault)
        if request.method == "DELETE":
            found = self.data.pop(namespace, None)
            return web.json_response({}, status=200 if found is not None else 404)
        body = await request.json()
        for owner in body.get("metadata", {}).get("ownerReferences", ()):
            self.owners[namespace] = owner["uid"]
        data = self.data.setdefault(namespace, {})
        data |= {name: text for name, text in body["data"].items() if text is not None}
        for name in [name for name, text in body["data"].items() if text is None]:
            data.pop(name)
        self.before_answer()
        return web.json_response({"metadata": {"namespace": namespace}, "data": data})


class Keeper:
    """A keeper with everything in the test's hand."""

    def __init__(self) -> None:
        self.api = Namespaces()
        self.needing: set[str] | None = set()
        self.leads = True
        self.roots = "one"
        self.now = 1000.0
        self.metrics = Metrics()
        self.trust: TrustConfigMaps


@pytest.fixture
async def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keeper]:
    monkeypatch.setattr(trust_config, "CHECK_INTERVAL_S", 0.02)
    keeper = Keeper()
    async with faked(tmp_path, keeper.api.serve) as client:
        keeper.trust = TrustConfigMaps(
            client,
            read_roots=lambda: keeper.roots,
            list_needing=lambda: keeper.needing,
            is_leader=lambda: keeper.leads,
            metrics=keeper.metrics,
            clock=lambda: keeper.now,
        )
        task = asyncio.create_task(keeper.trust.run())
        yield keeper
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_one_that_is_there_costs_no_call(keeper: Keeper) -> None:
    keeper.trust.replace([TrustRecord("shop", "one")])
    await keeper.trust.publish("shop")
    assert keeper.api.asked == []


async def test_a_refusal_reaches_the_webhook(keeper: Keeper) -> None:
    keeper.leads = False
    keeper.api.faults = {"shop": 403, "bank": 500}
    with pytest.raises(RefusedError):
        await keeper.trust.publish("shop")
    with pytest.raises(UnavailableError):
        await keeper.trust.publish("bank")


async def test_a_namespace_where_it_fails_holds_up_no_other_and_is_tried_again_later(keeper: Keeper) -> None:
    keeper.api.faults = {"shop": 403}
    keeper.needing = {"shop", "bank"}
    await eventually(lambda: keeper.api.data == {"bank": {"roots.pem": "one"}})
    await asyncio.sleep(0.2)
    assert keeper.api.asked.count("PATCH shop") == 1, "not again at once"
    keeper.api.faults = {}
    keeper.now += trust_config.RETRY_S + 1
    await eventually(lambda: "shop" in keeper.api.data)


async def test_a_change_of_the_bundle_waits_for_no_retry(keeper: Keeper) -> None:
    keeper.api.faults = {"shop": 403}
    keeper.needing = {"shop"}
    await eventually(lambda: "PATCH shop" in keeper.api.asked)
    keeper.api.faults = {}
    keeper.roots = "two"
    keeper.trust.note_bundle()
    await eventually(lambda: keeper.api.data == {"shop": {"roots.pem": "two"}})


async def test_a_change_of_the_bundle_while_the_write_of_the_older_one_fails_waits_for_no_retry(keeper: Keeper) -> None:
    def change() -> None:
        keeper.api.before_fault = lambda: None
        keeper.api.faults = {}
        keeper.roots = "two"
        keeper.trust.note_bundle()

    keeper.api.before_fault = change
    keeper.api.faults = {"shop": 403}
    keeper.needing = {"shop"}
    await eventually(lambda: keeper.api.data == {"shop": {"roots.pem": "two"}})
    assert keeper.api.asked.count("PATCH shop") == 2


async def test_a_further_key_is_taken_out(keeper: Keeper) -> None:
    keeper.api.data = {"shop": {"other": "x"}}
    await keeper.trust.publish("shop")
    assert keeper.api.data == {"shop": {"roots.pem": "one"}}


async def test_its_owner_is_the_role_of_now(keeper: Keeper) -> None:
    """A role that was deleted and made again is another one, and the ConfigMap went with the old."""
    await keeper.trust.publish("shop")
    assert keeper.api.owners == {"shop": "first"}
    keeper.api.owner_uid = "second"
    keeper.trust.remove(TrustRecord("shop", "one"))
    await eventually(lambda: keeper.api.owners == {"shop": "second"})


async def test_one_that_is_deleted_before_the_answer_to_its_write_is_made_again(keeper: Keeper) -> None:
    """The watch has told both changes by then: the answer is older."""

    def delete() -> None:
        keeper.api.before_answer = lambda: None
        del keeper.api.data["shop"]
        keeper.trust.apply(TrustRecord("shop", "one"))
        keeper.trust.remove(TrustRecord("shop", "one"))

    keeper.api.before_answer = delete
    await keeper.trust.publish("shop")
    await eventually(lambda: keeper.api.data == {"shop": {"roots.pem": "one"}})


async def test_without_its_owner_none_is_written(keeper: Keeper) -> None:
    """While Touchmark is being uninstalled: nobody would take it away."""
    keeper.api.owner_uid = ""
    with pytest.raises(UnavailableError, match="ClusterRole touchmark-ca"):
        await keeper.trust.publish("shop")
    assert keeper.api.data == {}


async def test_one_that_is_gone_already_is_forgotten_with_its_namespace(keeper: Keeper) -> None:
    keeper.trust.replace([TrustRecord("shop", "one")])
    await eventually(lambda: "shop" in keeper.trust._needed)  # Counted from when it was first seen.
    keeper.now += GRACE_S + 1
    await eventually(lambda: "DELETE shop" in keeper.api.asked and len(keeper.trust) == 0)


async def test_namespaces_are_bounded(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_config, "MAX_NAMESPACES", 2)
    keeper.leads = False
    for name in ("a", "b", "c"):
        await keeper.trust.publish(name)
    assert list(keeper.trust._needed) == ["b", "c"]


@pytest.mark.parametrize(
    ("data", "roots"),
    [({"roots.pem": "x"}, "x"), ({"roots.pem": "x", "other": "y"}, ""), ({"other": "y"}, ""), (None, "")],
)
def test_a_config_map_with_other_keys_is_another(data: dict[str, str] | None, roots: str) -> None:
    assert trim_trust(make_found(data, "ClusterRole")) == TrustRecord("shop", roots)


def test_a_config_map_that_would_stay_is_another() -> None:
    """Somebody took its owner away, or an older CA made it."""
    for kind in ("", "Role"):
        assert trim_trust(make_found({"roots.pem": "x"}, kind)) == TrustRecord("shop", "")


def make_found(data: dict[str, str] | None, owner_kind: str) -> ConfigMap:
    owners = (trust_config._Reference(owner_kind, "touchmark-ca"),) if owner_kind else ()
    return ConfigMap(metadata=trust_config._Metadata("shop", owners), data=data)


async def test_namespaces_that_lack_a_root_are_named(keeper: Keeper) -> None:
    keeper.leads = False
    old, new = (ssl.DER_cert_to_PEM_cert(root) for root in (b"old", b"new"))
    keeper.needing = {"bank", "shop"}
    keeper.trust.replace([TrustRecord("shop", old), TrustRecord("left", old), TrustRecord("whole", old + new)])
    assert keeper.trust.list_without(b"new") == ["bank", "left", "shop"]
    assert keeper.trust.list_without(b"old") == ["bank"]
    keeper.needing = None
    assert keeper.trust.list_without(b"old") == []
