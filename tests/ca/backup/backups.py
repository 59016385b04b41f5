"""Backups for tests: made and restored without HTTP, into a directory or a database."""

from __future__ import annotations

import io
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ca.authority.kek import KeyEncryptionKey
from ca.backup.export import export
from ca.backup.loading import Loaded
from ca.backup.restore import restore_database, restore_directory
from ca.backup.sealing import Opened, Sealer
from ca.store.store import Store
from shared.model.wire.backup import BackupHeader
from tests.ca import founded
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
LATER = NOW + 600


def make_header(*, key: X25519PrivateKey = KEY, taken: float = NOW) -> BackupHeader:
    return BackupHeader(
        recipient=key.public_key().public_bytes_raw(),
        passphrase=None,
        trust_domain=TRUST_DOMAIN,
        taken=taken,
        ca_version="test",
    )


async def take(store: Store, *, taken: float = NOW, with_decisions: bool = True) -> bytes:
    """Return a backup's whole file."""
    sealer = Sealer(make_header(taken=taken))
    parts = [sealer.opening]
    async for data in export(store, taken=taken, with_decisions=with_decisions):
        parts.append(sealer.write(data))
    return b"".join([*parts, sealer.finish()])


def open_backup(file: bytes, key: X25519PrivateKey = KEY) -> Opened:
    return Opened(io.BytesIO(file).read, lambda header: key)


async def restore(
    file: bytes, directory: Path, *, kek: KeyEncryptionKey = KEK, may_replace: bool = False, now: float = LATER
) -> Loaded:
    """Restore to where ``founded.opened`` looks for that directory's store."""
    opened, where = open_backup(file), founded.locate(directory)
    if isinstance(where, Path):
        return await restore_directory(opened, where, find_kek=lambda _: kek, may_replace=may_replace, now=now)
    return await restore_database(opened, where, find_kek=lambda _: kek, may_replace=may_replace, now=now)
