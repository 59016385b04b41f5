"""Other trust domains in the store: bounded, checked, never our own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ca.store import foreign_domains
from ca.store.foreign_domains import ForeignRecord
from shared.model.errors import InputError, NotFoundError
from shared.model.identity.foreign import ForeignDomain
from tests.ca.founded import NOW, TRUST_DOMAIN, opened
from tests.sidecar.partner import Partner

PARTNER, OTHER = Partner().roots, Partner(domain="other.example").roots


async def test_domains_are_kept_by_name_and_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.foreign.put(PARTNER, now=NOW)
        await core.store.foreign.put(OTHER, now=NOW)
        newer = msgspec.structs.replace(PARTNER, roots=(*PARTNER.roots, *OTHER.roots))
        await core.store.foreign.put(newer, now=NOW + 1)
    async with opened(tmp_path / "d") as core:
        assert await core.store.foreign.list_all() == [
            ForeignRecord(domain=OTHER, changed=NOW),
            ForeignRecord(domain=newer, changed=NOW + 1),
        ]
        await core.store.foreign.delete("other.example")
        with pytest.raises(NotFoundError):
            await core.store.foreign.delete("other.example")
        assert [record.domain for record in await core.store.foreign.list_all()] == [newer]


async def test_our_own_domain_and_what_is_no_root_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        for domain in (
            msgspec.structs.replace(PARTNER, trust_domain=TRUST_DOMAIN),
            ForeignDomain(trust_domain="x.example", roots=(b"no DER",)),
            ForeignDomain(trust_domain="x.example", roots=(Partner().issue().chain[0].public_bytes(Encoding.DER),)),
        ):
            with pytest.raises(InputError):
                await core.store.foreign.put(domain, now=NOW)
        assert await core.store.foreign.list_all() == []


@pytest.mark.parametrize(("bound", "value"), [("MAX_DOMAINS", 1), ("MAX_TOTAL_BYTES", 600)])
async def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int) -> None:
    monkeypatch.setattr(foreign_domains, bound, value)
    async with opened(tmp_path / "d") as core:
        await core.store.foreign.put(PARTNER, now=NOW)
        with pytest.raises(InputError, match="at most"):
            await core.store.foreign.put(OTHER, now=NOW)
        await core.store.foreign.put(PARTNER, now=NOW + 1)  # It takes no more than before.
        assert [record.domain for record in await core.store.foreign.list_all()] == [PARTNER]
