"""Identities: what is written is read back, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import IdentityError
from shared.model.identity.identity import (
    Identity,
    IdentityKind,
    Workload,
    check_namespace,
    check_trust_domain,
    format_ca_id,
    format_spiffe_id,
    parse_spiffe_id,
    parse_workload,
)
from shared.model.identity.program import Program

A, B = "a" * 64, "b" * 64
BASE = "spiffe://touchmark.local/ns/shop/sa/web"

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
programs = st.builds(Program, digest=digests, main=st.one_of(st.just(""), st.just("none"), digests))
workloads = st.builds(Workload, namespace=labels, service_account=labels)


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    kind = draw(st.sampled_from(IdentityKind))
    return Identity(
        trust_domain=draw(labels),
        workload=draw(workloads),
        kind=kind,
        program=None if kind is IdentityKind.SIDECAR else draw(programs),
    )


@given(identities())
def test_every_identity_is_read_back_as_it_was_written(identity: Identity) -> None:
    assert parse_spiffe_id(format_spiffe_id(identity)) == identity
    assert str(identity) == format_spiffe_id(identity)


@given(identities(), identities())
def test_two_identities_never_share_a_spelling(one: Identity, other: Identity) -> None:
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "kind", "program"),
    [
        (f"{BASE}/sidecar", IdentityKind.SIDECAR, None),
        (f"{BASE}/sha256/{A}", IdentityKind.PROGRAM, Program(digest=A)),
        (f"{BASE}/sha256/{A}/main/none", IdentityKind.PROGRAM, Program(digest=A, main="none")),
        (f"{BASE}/sha256/{A}/main/{B}", IdentityKind.PROGRAM, Program(digest=A, main=B)),
        (f"{BASE}/observed/sha256/{A}", IdentityKind.OBSERVED, Program(digest=A)),
        (f"{BASE}/observed/sha256/{A}/main/{B}", IdentityKind.OBSERVED, Program(digest=A, main=B)),
    ],
)
def test_the_documented_spellings_are_read(text: str, kind: IdentityKind, program: Program | None) -> None:
    identity = parse_spiffe_id(text)
    assert identity.kind is kind
    assert identity.program == program
    assert identity.workload == Workload(namespace="shop", service_account="web")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "https://touchmark.local/ns/shop/sa/web/sidecar",
        "SPIFFE://touchmark.local/ns/shop/sa/web/sidecar",
        "spiffe://Touchmark.local/ns/shop/sa/web/sidecar",
        "spiffe://touchmark.local:443/ns/shop/sa/web/sidecar",
        "spiffe://user@touchmark.local/ns/shop/sa/web/sidecar",
        f"{BASE}",
        f"{BASE}/sidecar/",
        f"{BASE}//sidecar",
        f"{BASE}/sidecar?x=1",
        f"{BASE}/sidecar#x",
        f"{BASE}/sidecar\n",
        f"{BASE}/sidecar/sha256/{A}",
        f"{BASE}/observed",
        f"{BASE}/sha256/{A.upper()}",
        f"{BASE}/sha256/{A[:-1]}",
        f"{BASE}/sha256/{A}/main/",
        f"{BASE}/sha256/{A}/main",
        f"{BASE}/sha256/{A}/main/NONE",
        f"spiffe://touchmark.local/ns/sh%6fp/sa/web/sha256/{A}",
        f"spiffe://touchmark.local/ns/../sa/web/sha256/{A}",
        f"spiffe://touchmark.local/ns/shop/sa/../sha256/{A}",
        f"spiffe://touchmark.local/ns/shop/sa/web/x/sha256/{A}",
        "spiffe://touchmark.local/touchmark/ca",
        f"{BASE}/" + "x" * 3000,
    ],
)
def test_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_spiffe_id(text)


@given(st.text(max_size=200))
def test_arbitrary_text_is_read_or_refused_but_never_anything_else(text: str) -> None:
    for candidate in (text, f"spiffe://{text}", f"{BASE}/{text}"):
        try:
            identity = parse_spiffe_id(candidate)
        except IdentityError:
            continue
        assert format_spiffe_id(identity) == candidate


def test_kind_and_program_must_agree() -> None:
    workload = Workload(namespace="shop", service_account="web")
    with pytest.raises(IdentityError, match="names none"):
        Identity(trust_domain="td", workload=workload, kind=IdentityKind.SIDECAR, program=Program(digest=A))
    with pytest.raises(IdentityError, match="names a program"):
        Identity(trust_domain="td", workload=workload, kind=IdentityKind.PROGRAM)


@pytest.mark.parametrize("name", ["", "Shop", "-shop", "shop-", "sh.op", "s" * 64, "shop\n", "sh/op", "ß"])
def test_a_namespace_is_a_dns_label(name: str) -> None:
    with pytest.raises(IdentityError):
        check_namespace(name)
    with pytest.raises(IdentityError):
        Workload(namespace=name, service_account="web")


@pytest.mark.parametrize("name", ["", "Web", "web..x", ".web", "web.", "a" * 64, "a." * 126 + "aa", "web\n"])
def test_a_service_account_is_a_dns_subdomain(name: str) -> None:
    with pytest.raises(IdentityError):
        Workload(namespace="shop", service_account=name)


def test_a_dotted_service_account_is_one() -> None:
    assert str(parse_workload("shop/web.v2")) == "shop/web.v2"


def test_a_workload_needs_its_slash() -> None:
    with pytest.raises(IdentityError, match="not a workload") as caught:
        parse_workload("shop")
    assert "NAMESPACE/SERVICE-ACCOUNT" in caught.value.hint


def test_the_ca_has_an_id_that_no_peer_can_have() -> None:
    assert format_ca_id("touchmark.local") == "spiffe://touchmark.local/touchmark/ca"
    with pytest.raises(IdentityError):
        format_ca_id("no/slash")
    with pytest.raises(IdentityError):
        check_trust_domain("UPPER")
