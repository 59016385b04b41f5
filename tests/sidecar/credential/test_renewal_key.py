"""A renewal key is offered, used, followed by its successor, and survives the process at every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.errors import InputError, UnavailableError
from shared.model.trust.join_token import JoinToken
from shared.model.wire.messages import Registration, Renew
from sidecar.credential.renewal_key import RenewalKey, begin_renewal_key, load_renewal_key
from sidecar.credential.state_directory import FILE, StateDirectory
from tests.sidecar.little_ca import make_authority

REGISTRATION = Registration(instance="web-1", version="0", addresses=(), tunnel_port=15008, capture="listeners")
TOKEN = JoinToken(
    token_id="t", secret="s", ca="127.0.0.1:1", trust_domain="touchmark.test", root_pin="00" * 32, workload="shop/web"
)
ROOT = make_authority("root").der


def begin(directory: StateDirectory | None) -> RenewalKey:
    return begin_renewal_key(TOKEN, instance="web-1", directory=directory)


async def renew(key: RenewalKey) -> Renew:
    return await key.renew(b"csr", REGISTRATION, nonce=bytes(32), server_certificate=b"server")


async def test_nothing_is_written_before_the_ca_has_the_key(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    key = begin(directory)
    await key.offer()
    assert load_renewal_key(directory) is None
    await key.keep(grace_s=0, roots=(ROOT,))
    assert load_renewal_key(directory) is None
    await key.offer()
    await key.keep(grace_s=60, roots=(ROOT,))
    assert key.is_known and key.grace_s == 60
    loaded = load_renewal_key(directory)
    assert loaded is not None and loaded.is_known
    assert loaded.kept == key.kept
    assert (loaded.kept.instance, loaded.kept.workload, loaded.kept.roots) == ("web-1", "shop/web", (ROOT,))
    assert "key" not in repr(loaded.kept)
    assert loaded.place == str(tmp_path / "state") and begin(None).place == "memory"
    directory.close()


async def test_a_key_that_couldnt_be_kept_isnt_offered(tmp_path: Path) -> None:
    """Else the join token is spent, and whoever starts the sidecar again has neither."""
    directory = StateDirectory(tmp_path / "state")
    in_the_way = tmp_path / "state" / "renewal.json.new"
    in_the_way.mkdir()
    key = begin(directory)
    with pytest.raises(UnavailableError, match="can't write"):
        await key.offer()
    await key.keep(grace_s=60, roots=(ROOT,))  # Nothing was asked for.
    in_the_way.rmdir()
    await key.offer()
    assert load_renewal_key(directory) is None
    directory.close()


async def test_whoever_asks_again_asks_for_the_same_successor(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    key = begin(directory)
    await key.offer()
    await key.keep(grace_s=60, roots=(ROOT,))
    first = await renew(key)
    again = load_renewal_key(directory)  # As after the end of the process, the answer not there yet.
    assert again is not None
    second = await renew(again)
    assert first.key == second.key
    assert again.kept.following == key.kept.following is not None
    successor = again.kept.following
    await again.keep(grace_s=60, roots=(ROOT,))
    assert (again.kept.key, again.kept.following) == (successor, None)
    loaded = load_renewal_key(directory)
    assert loaded is not None and loaded.kept == again.kept
    assert (await renew(loaded)).key != first.key
    directory.close()


async def test_other_roots_are_kept_and_a_resumed_stream_changes_no_key(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    key = begin(directory)
    await key.keep_roots((ROOT,))
    assert load_renewal_key(directory) is None
    await key.offer()
    await key.keep(grace_s=60, roots=(ROOT,))
    before = key.kept.key
    other = make_authority("other").der
    await key.keep_roots((ROOT, other))
    await key.keep(grace_s=0, roots=(ROOT, other))  # A resumed stream's welcome: the CA has lost the key.
    loaded = load_renewal_key(directory)
    assert loaded is not None and loaded.kept.roots == (ROOT, other) and loaded.kept.key == before
    assert not key.is_known
    directory.close()


async def test_a_successor_that_cant_be_written_isnt_offered(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    key = begin(directory)
    await key.offer()
    await key.keep(grace_s=60, roots=(ROOT,))
    (tmp_path / "state" / "renewal.json.new").mkdir()
    with pytest.raises(UnavailableError):
        await renew(key)
    assert key.kept.following is None
    directory.close()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"key":1}'])
async def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.write(damage)
    with pytest.raises(InputError, match="damaged") as fault:
        load_renewal_key(directory)
    assert FILE in fault.value.message and "join token" in fault.value.hint
    directory.close()
