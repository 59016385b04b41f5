"""Other trust domains, asked and changed over the real socket."""

from __future__ import annotations

import hashlib

import pytest

from ca.runtime.compose import RunningCA
from shared.model.policy.rules import Action, Peer, Rule
from shared.model.wire import admin as api
from tests.ca.running import Admin
from tests.sidecar.partner import Partner

PARTNER = Partner()
PATH = "/v1/foreign-domains/partner.example"


async def test_a_domain_is_put_listed_and_removed(services: RunningCA, admin: Admin) -> None:
    assert await admin.get("/v1/foreign-domains", api.ForeignDomainList) == api.ForeignDomainList(
        own="touchmark.local", own_roots=services.authorities.bundle().roots, domains=()
    )
    request = api.ForeignDomainRequest(roots=PARTNER.roots.roots)
    put = await admin.ask("PUT", PATH, api.ForeignDomainList, request)
    assert await admin.get("/v1/foreign-domains", api.ForeignDomainList) == put
    (domain,) = put.domains
    (root,) = domain.roots
    assert (domain.trust_domain, root.subject) == ("partner.example", "CN=partner root")
    assert root.fingerprint == hashlib.sha256(PARTNER.root.der).hexdigest()
    assert root.not_after == PARTNER.root.certificate.not_valid_after_utc.timestamp()
    assert list(services.foreign.domains) == [PARTNER.roots]
    assert (await admin.ask("DELETE", PATH, api.ForeignDomainList)).domains == ()
    assert list(services.foreign.domains) == []
    assert (await admin.fail("DELETE", PATH, 404)).code == "not_found"


@pytest.mark.parametrize(
    ("path", "roots", "message"),
    [
        ("/v1/foreign-domains/touchmark.local", PARTNER.roots.roots, "own trust domain"),
        ("/v1/foreign-domains/Partner.Example", PARTNER.roots.roots, "trust domain name"),
        (PATH, (), "1 to 16 roots"),
        (PATH, (b"no DER",), "can't be read"),
        (PATH, (b"x" * 9000,), "at most 8192"),
    ],
)
async def test_what_cant_be_trusted_is_refused(admin: Admin, path: str, roots: tuple[bytes, ...], message: str) -> None:
    answer = await admin.fail("PUT", path, 400, api.ForeignDomainRequest(roots=roots))
    assert message in answer.message
    assert (await admin.get("/v1/foreign-domains", api.ForeignDomainList)).domains == ()


async def test_a_rule_cant_name_one_of_our_own_as_foreign(admin: Admin) -> None:
    ours = Rule(name="r", action=Action.ALLOW, peers=(Peer(spiffe_id="spiffe://touchmark.local/*"),))
    request = api.PolicyRequest(namespace="shop", rules=(ours,))
    answer = await admin.fail("PUT", "/v1/policies", 400, request)
    assert "own trust domain" in answer.message
    theirs = Rule(name="r", action=Action.ALLOW, peers=(Peer(spiffe_id="spiffe://touchmark.local.example/*"),))
    view = await admin.ask("PUT", "/v1/policies", api.PolicyView, api.PolicyRequest(namespace="shop", rules=(theirs,)))
    assert view.rules == (theirs,)
