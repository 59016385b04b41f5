"""The key-encryption key: where it may lie, who may read it, what it opens."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ca.authority.kek import (
    ENVIRONMENT_VARIABLE,
    KekOrigin,
    KeyEncryptionError,
    KeyEncryptionKey,
    load_key_encryption_key,
    name_sealing_key,
)
from tests.ca.founded import KEK, opened


def test_a_missing_file_is_generated_for_the_owner_alone_and_says_so_ever_after(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "kek"
    first = load_key_encryption_key(path, tmp_path / "data", {}, sealed_by="")
    again = load_key_encryption_key(path, tmp_path / "data", {}, sealed_by="")
    assert path.stat().st_mode & 0o777 == 0o600
    assert first == again
    assert again.origin is KekOrigin.GENERATED
    assert again.generated_at is not None
    assert again.source == str(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_key_of_a_sealed_store_is_named_and_no_other_takes_its_place(tmp_path: Path) -> None:
    sealed_by = name_sealing_key(KEK.seal(b"secret", context=b"a"))
    assert sealed_by == KEK.key_id
    with pytest.raises(KeyEncryptionError, match=rf"kek is missing.*{sealed_by}"):
        load_key_encryption_key(tmp_path / "kek", tmp_path / "d", {}, sealed_by=sealed_by)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_wins_and_nothing_is_written(tmp_path: Path) -> None:
    environ = {ENVIRONMENT_VARIABLE: base64.b64encode(bytes(32)).decode()}
    assert (
        load_key_encryption_key(tmp_path / "kek", tmp_path / "d", environ, sealed_by="").origin is KekOrigin.ENVIRONMENT
    )
    assert not (tmp_path / "kek").exists()


def test_a_key_in_the_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyEncryptionError, match="data directory"):
        load_key_encryption_key(tmp_path / "data" / "kek", tmp_path / "data", {}, sealed_by="")


def test_a_link_into_the_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(KeyEncryptionError, match="data directory"):
        load_key_encryption_key(tmp_path / "link" / "kek", tmp_path / "data", {}, sealed_by="")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_key_encryption_key(tmp_path / "kek", tmp_path / "d", {}, sealed_by="")
    (tmp_path / "kek").chmod(0o644)
    with pytest.raises(KeyEncryptionError, match="0644"):
        load_key_encryption_key(tmp_path / "kek", tmp_path / "d", {}, sealed_by="")


@pytest.mark.parametrize("content", ["", "c2hvcnQ=", "not base64!"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "kek").write_text(content)
    (tmp_path / "kek").chmod(0o600)
    with pytest.raises(KeyEncryptionError):
        load_key_encryption_key(tmp_path / "kek", tmp_path / "d", {}, sealed_by="")


def test_what_was_sealed_opens_only_in_its_context_and_whole() -> None:
    sealed = KEK.seal(b"secret", context=b"a")
    assert KEK.open_sealed(sealed, context=b"a") == b"secret"
    with pytest.raises(KeyEncryptionError, match="tampered"):
        KEK.open_sealed(sealed, context=b"b")
    with pytest.raises(KeyEncryptionError, match="tampered"):
        KEK.open_sealed(sealed[:-1] + bytes([sealed[-1] ^ 1]), context=b"a")


async def test_a_store_opened_with_another_key_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "d"):
        pass
    other = KeyEncryptionKey(key=bytes(32), origin=KekOrigin.GENERATED)
    with pytest.raises(KeyEncryptionError, match="generated itself"):
        async with opened(tmp_path / "d", kek=other):
            pass
