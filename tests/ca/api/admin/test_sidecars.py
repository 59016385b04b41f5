"""Join tokens and sidecars, asked over the real socket (``ca.api.admin.sidecars``)."""

from __future__ import annotations

from pathlib import Path

import pytest
import websockets
from cryptography import x509

from ca.runtime.compose import RunningCA
from ca.store.authority_records import note_restoration
from shared.model.trust.bundle import name_serial
from shared.model.trust.join_token import parse_join_token
from shared.model.wire import admin as api
from shared.model.wire.messages import BundleChanged, Enrol, Refusal, Resume, Welcome
from tests.ca.running import Admin, FakeSidecar, ShiftedClock, eventually, make_client_context, make_registration


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


async def test_an_evicted_sidecars_stream_ends_at_once_and_its_certificate_opens_no_other(
    services: RunningCA, admin: Admin, tmp_path: Path
) -> None:
    async with FakeSidecar(services) as evil, FakeSidecar(services) as good:
        await evil.enrol("evil", "198.18.0.2")
        await good.enrol("good", "198.18.0.3")
        pem = evil.write_pem(tmp_path / "evil.pem")
        done = await admin.ask("POST", "/v1/evictions", api.Evicted, api.EvictionRequest(whom="evil"))
        assert (done.instances, done.certificates) == (("evil",), 1)
        bundle = (await good.expect(BundleChanged)).bundle
        assert bundle.sequence == done.bundle_sequence
        assert bundle.distrusted == (name_serial(x509.load_der_x509_certificate(evil.chain[0]).serial_number),)
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                # What tells the others isn't sent to it.
                assert not isinstance(await evil.receive(), BundleChanged)
        async with FakeSidecar(services, make_client_context(services, pem)) as again:
            await again.send(Resume(registration=make_registration("evil", "198.18.0.2")))
            refusal = await again.receive()
            assert isinstance(refusal, Refusal) and refusal.code == "peer_distrusted"
            assert refusal.message == "this sidecar was evicted"
            assert "join token" in refusal.hint
    (seen,) = (one for one in (await admin.get("/v1/sidecars", api.SidecarList)).sidecars if one.instance == "evil")
    assert (seen.connected, seen.live) == (False, False) and seen.evicted is not None
    async with FakeSidecar(services) as anew:
        await anew.enrol("evil", "198.18.0.2")


async def test_a_workload_is_evicted_by_its_name_and_what_is_neither_is_refused(
    services: RunningCA, admin: Admin
) -> None:
    async with FakeSidecar(services) as first, FakeSidecar(services) as second:
        await first.enrol("a", "198.18.0.2")
        await second.enrol("b", "198.18.0.3")
        done = await admin.ask("POST", "/v1/evictions", api.Evicted, api.EvictionRequest(whom="shop/web"))
        assert done.instances == ("a", "b")
    assert (await admin.fail("POST", "/v1/evictions", 404, {"whom": "nobody"})).code == "not_found"
    for whom in ("", "a/b/c", "\x00", "/"):
        assert (await admin.fail("POST", "/v1/evictions", 400, {"whom": whom})).code in {"bad_input", "bad_identity"}


async def test_an_open_token_is_revoked_and_a_spent_one_is_not(services: RunningCA, admin: Admin) -> None:
    created = await admin.ask(
        "POST", "/v1/join-tokens", api.JoinTokenCreated, api.JoinTokenRequest(workload="shop/web"), status=201
    )
    path = f"/v1/join-tokens/{created.token_id}"
    assert (await admin.ask("DELETE", path, api.JoinTokenList)).tokens == ()
    assert (await admin.fail("DELETE", path, 404)).code == "not_found"
    async with FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
    (spent,) = (await admin.get("/v1/join-tokens", api.JoinTokenList)).tokens
    assert (await admin.fail("DELETE", f"/v1/join-tokens/{spent.token_id}", 409)).code == "conflict"


async def test_an_eviction_that_a_restore_has_undone_is_in_the_status_until_it_is_dismissed(
    services: RunningCA, admin: Admin
) -> None:
    async with services.store.database.writing() as connection:
        await note_restoration(
            services.store.database, connection, taken=1.0, now=2.0, undone_evictions=("web-1", "shop/db")
        )
    assert (await admin.get("/v1/status", api.CAStatus)).undone_evictions == ("web-1", "shop/db")
    dismissed = api.EvictionRequest(whom="shop/db", dismiss=True)
    assert (await admin.ask("POST", "/v1/evictions", api.Evicted, dismissed)).instances == ()
    assert (await admin.get("/v1/status", api.CAStatus)).undone_evictions == ("web-1",)
    assert "no restore has undone" in (await admin.fail("POST", "/v1/evictions", 404, dismissed)).message
