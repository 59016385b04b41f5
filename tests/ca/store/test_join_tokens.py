"""Join tokens: made for IP addresses, listed by the root that they pin, refused without telling why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.store.join_tokens import JoinTokens
from shared.model.errors import ConflictError, InputError, NotFoundError, RefusedError
from tests.ca.founded import NOW, WEB, opened, spend


@pytest.mark.parametrize("address", ["300.1.1.1", "host.test", ""])
async def test_a_token_names_ip_addresses_only(tmp_path: Path, address: str) -> None:
    async with opened(tmp_path / "d") as core:
        assert isinstance(core.store.join_tokens, JoinTokens)
        with pytest.raises(InputError):
            await core.store.join_tokens.create(workload=WEB, addresses=[address], labels={}, expires=NOW + 60, now=NOW)


async def test_open_tokens_are_listed_by_the_root_that_they_pin(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        pin, store = core.authorities.root_pin, core.store
        spent, secret = await store.join_tokens.create(workload=WEB, addresses=[], labels={}, expires=NOW + 60, now=NOW)
        late, _ = await store.join_tokens.create(workload=WEB, addresses=[], labels={}, expires=NOW + 90, now=NOW)
        early, _ = await store.join_tokens.create(workload=WEB, addresses=[], labels={}, expires=NOW + 30, now=NOW)
        assert late.root_pin == pin
        await spend(store, spent.token_id, secret, "a", now=NOW)
        assert [each.token_id for each in await store.join_tokens.list_open(pin, now=NOW)] == [
            early.token_id,
            late.token_id,
        ]
        assert await store.join_tokens.list_open(pin, now=NOW + 30) == [late]
        assert await store.join_tokens.list_open("0" * 64, now=NOW) == []


async def test_unknown_and_wrong_are_told_alike_and_spend_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        record, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=[], labels={}, expires=NOW + 60, now=NOW
        )
        messages = []
        for token_id, wrong in ((record.token_id, "x" * 43), ("0" * 16, secret)):
            with pytest.raises(RefusedError) as caught:
                await spend(core.store, token_id, wrong, "a", now=NOW)
            messages.append(caught.value.message)
            with pytest.raises(RefusedError) as caught:
                await core.store.join_tokens.check(token_id, wrong)
            messages.append(caught.value.message)
        assert len(set(messages)) == 1
        await core.store.join_tokens.check(record.token_id, secret)
        with pytest.raises(RefusedError, match="expired"):
            await spend(core.store, record.token_id, secret, "a", now=NOW + 60)
        await spend(core.store, record.token_id, secret, "a", now=NOW)


async def test_a_revoked_token_lets_nothing_join_and_a_spent_one_names_its_sidecar(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        create, revoke = core.store.join_tokens.create, core.store.join_tokens.revoke
        token, secret = await create(workload=WEB, addresses=(), labels={}, expires=NOW + 60, now=NOW)
        await revoke(token.token_id, now=NOW)
        with pytest.raises(RefusedError):
            await spend(core.store, token.token_id, secret, "a")
        with pytest.raises(NotFoundError):
            await revoke(token.token_id, now=NOW)
        spent, secret = await create(workload=WEB, addresses=(), labels={}, expires=NOW + 60, now=NOW)
        await spend(core.store, spent.token_id, secret, "a")
        with pytest.raises(ConflictError, match="sidecar a"):
            await revoke(spent.token_id, now=NOW)
        ended, _ = await create(workload=WEB, addresses=(), labels={}, expires=NOW + 60, now=NOW)
        with pytest.raises(ConflictError, match="expired"):
            await revoke(ended.token_id, now=NOW + 60)
