"""Foreign SPIFFE IDs, the patterns by which rules name them, and other domains' roots as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import IdentityError, InputError, TouchmarkError
from shared.model.identity.foreign import (
    MAX_ID_BYTES,
    MAX_PATTERN_BYTES,
    MAX_ROOT_BYTES,
    MAX_ROOTS,
    ForeignDomain,
    ForeignIdentity,
    check_id_pattern,
    is_matched,
    parse_foreign_id,
    pattern_domain,
)
from shared.model.identity.identity import format_spiffe_id, parse_spiffe_id

PARTNER = ForeignIdentity(trust_domain="partner.example", path="/ns/pay/sa/billing")
segments = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True).filter(lambda text: text not in (".", ".."))
identities = st.builds(
    lambda domain, parts: ForeignIdentity(trust_domain=domain, path="/" + "/".join(parts)),
    st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True),
    st.lists(segments, min_size=1, max_size=5),
)


@given(identities)
def test_an_id_is_read_back_as_it_is_written(identity: ForeignIdentity) -> None:
    assert parse_foreign_id(str(identity)) == identity


@given(st.one_of(st.text(max_size=80), st.text(max_size=80).map(lambda text: f"spiffe://a.b/{text}")))
def test_any_text_is_an_id_in_its_one_spelling_or_refused(text: str) -> None:
    try:
        identity = parse_foreign_id(text)
    except IdentityError:
        return
    assert str(identity) == text


@given(st.one_of(st.text(max_size=80), st.text(max_size=80).map(lambda text: f"spiffe://a.b/{text}")))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        check_id_pattern(text)
    except InputError:
        return
    assert pattern_domain(text)
    assert is_matched(text, parse_foreign_id(text.removesuffix("*") + ("x" if text.endswith("/*") else "")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///a",
        "spiffe://partner.example",
        "spiffe://partner.example/",
        "spiffe://partner.example/a/",
        "spiffe://partner.example//a",
        "spiffe://partner.example/a/../b",
        "spiffe://partner.example/./b",
        "spiffe://partner.example/a%2Fb",
        "spiffe://partner.example/a?b",
        "spiffe://partner.example/a#b",
        "spiffe://partner.example/ä",
        "spiffe://user@partner.example/a",
        "spiffe://partner.example:8443/a",
        "spiffe://Partner.example/a",
        "spiffe://partner.example/a\n",
        "SPIFFE://partner.example/a",
        "https://partner.example/a",
        "spiffe://partner.example/" + "a" * MAX_ID_BYTES,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_foreign_id(text)


@pytest.mark.parametrize(
    ("pattern", "is_meant"),
    [
        ("spiffe://partner.example/ns/pay/sa/billing", True),
        ("spiffe://partner.example/ns/pay/sa/*", True),
        ("spiffe://partner.example/*", True),
        ("spiffe://partner.example/ns/pay/sa/bill", False),
        ("spiffe://partner.example/ns/pay/sa/billing/*", False),
        ("spiffe://partner.example/ns/pa/*", False),
        ("spiffe://partner.example/NS/*", False),
        ("spiffe://artner.example/*", False),
        ("spiffe://other.example/*", False),
    ],
)
def test_a_pattern_means_one_id_or_all_below_a_segment(pattern: str, is_meant: bool) -> None:
    assert is_matched(check_id_pattern(pattern), PARTNER) is is_meant


@given(identities, identities)
def test_an_exact_pattern_matches_no_other_identity(one: ForeignIdentity, other: ForeignIdentity) -> None:
    assert is_matched(str(one), other) is (one == other)
    assert is_matched(f"spiffe://{one.trust_domain}/*", other) is (one.trust_domain == other.trust_domain)


@pytest.mark.parametrize(
    "text", ["spiffe://a/b*", "spiffe://a/*/b", "spiffe://*/b", "spiffe://*", "*", "spiffe://a/**"]
)
def test_a_star_stands_for_whole_segments_at_the_end_only(text: str) -> None:
    with pytest.raises(InputError):
        check_id_pattern(text)


def test_a_pattern_has_a_bound() -> None:
    longest = "spiffe://a/" + "x" * (MAX_PATTERN_BYTES - 11)
    assert check_id_pattern(longest) == longest
    with pytest.raises(InputError):
        check_id_pattern(longest + "x")


def test_one_of_our_own_ids_is_one_in_the_general_spelling_too() -> None:
    ours = "spiffe://touchmark.local/ns/shop/sa/web/sha256/" + "a" * 64
    assert str(parse_foreign_id(ours)) == format_spiffe_id(parse_spiffe_id(ours)) == ours


@pytest.mark.parametrize("roots", [(), (b"x",) * (MAX_ROOTS + 1), (b"x" * (MAX_ROOT_BYTES + 1),)])
def test_a_domain_has_some_roots_but_not_any_number(roots: tuple[bytes, ...]) -> None:
    with pytest.raises(InputError):
        ForeignDomain(trust_domain="partner.example", roots=roots)


def test_a_domain_has_a_trust_domains_name() -> None:
    with pytest.raises(TouchmarkError):
        ForeignDomain(trust_domain="not a name", roots=(b"x",))
