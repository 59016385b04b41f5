"""Join tokens and sidecars, asked over the real socket (``ca.api.admin.sidecars``)."""

from __future__ import annotations

import pytest

from ca.runtime.compose import RunningCA
from shared.model.trust.join_token import parse_join_token
from shared.model.wire import admin as api
from shared.model.wire.messages import Enrol, Welcome
from tests.ca.running import Admin, FakeSidecar, ShiftedClock, eventually, make_registration


async def test_a_token_made_here_joins_a_sidecar_and_is_listed_without_its_secret(
    services: RunningCA, admin: Admin
) -> None:
    wanted = api.JoinTokenRequest(workload="shop/web", addresses=("198.18.0.2",), labels={"tier": "front"}, ttl_s=60)
    created = await admin.ask("POST", "/v1/join-tokens", api.JoinTokenCreated, wanted, status=201)
    token = parse_join_token(created.token)
    assert (token.ca, token.workload, token.root_pin) == (services.listen, "shop/web", services.authorities.root_pin)
    listed = await admin.get("/v1/join-tokens", api.JoinTokenList)
    assert [(one.token_id, one.state) for one in listed.tokens] == [(created.token_id, "open")]
    async with FakeSidecar(services) as sidecar:
        registration = make_registration("a", "198.18.0.2")
        await sidecar.send(Enrol(token=created.token, csr=sidecar.csr, registration=registration))
        assert isinstance(await sidecar.receive(), Welcome)
        (seen,) = (await admin.get("/v1/sidecars", api.SidecarList)).sidecars
        assert (seen.instance, seen.workload, seen.addresses) == ("a", "shop/web", ("198.18.0.2",))
        assert seen.connected and seen.live
        assert seen.labels == {"tier": "front"}

    async def has_left() -> bool:
        (gone,) = (await admin.get("/v1/sidecars", api.SidecarList)).sidecars
        return (gone.connected, gone.live) == (False, True)  # Its certificate lives on, so it is still in the mesh.

    await eventually(has_left)
    (spent,) = (await admin.get("/v1/join-tokens", api.JoinTokenList)).tokens
    assert (spent.state, spent.instance) == ("spent", "a")


async def test_a_token_that_has_run_out_says_so(admin: Admin, clock: ShiftedClock) -> None:
    await admin.ask(
        "POST", "/v1/join-tokens", api.JoinTokenCreated, api.JoinTokenRequest(workload="shop/web", ttl_s=1), status=201
    )
    clock.shift_s = 2
    (token,) = (await admin.get("/v1/join-tokens", api.JoinTokenList)).tokens
    assert token.state == "expired"


@pytest.mark.parametrize(
    "body",
    [
        api.JoinTokenRequest(workload="shop"),
        api.JoinTokenRequest(workload="shop/web", addresses=("nowhere",)),
        api.JoinTokenRequest(workload="shop/web", ttl_s=0),
        api.JoinTokenRequest(workload="shop/web", ttl_s=1e9),
        api.JoinTokenRequest(workload="shop/web", ca="nowhere"),
        api.JoinTokenRequest(workload="shop/web", labels={"": "x"}),
        {"workload": "shop/web", "colour": "red"},
        b"[",
        b'{"workload":"\xff"}',
        b"",
    ],
    ids=repr,
)
async def test_a_token_that_cannot_be_is_refused_and_none_is_made(admin: Admin, body: object) -> None:
    assert (await admin.fail("POST", "/v1/join-tokens", 400, body)).code in {"bad_input", "bad_identity"}
    assert (await admin.get("/v1/join-tokens", api.JoinTokenList)).tokens == ()
