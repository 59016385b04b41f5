"""What is done to a CA's store while no CA works on it: ``python -m ca restore`` and ``python -m ca rewrap``. I/O.

Belongs here: options, the lock, the key-encryption key's file, what is printed. Doesn't: what happens in the store
(``ca/backup``, ``AuthorityRecords.reseal``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from ca.authority.chains import check_authorities
from ca.authority.founding import reseal_key
from ca.authority.kek import (
    ENVIRONMENT_VARIABLE,
    KeyEncryptionError,
    KeyEncryptionKey,
    exchange_key_files,
    load_key_encryption_key,
    make_key_file,
    name_next,
    name_sealing_key,
)
from ca.backup.loading import Loaded
from ca.backup.restore import KEPT, restore_database, restore_directory
from ca.backup.sealing import Opened
from ca.runtime.data_directory import lock_data_directory
from ca.settings.settings import SETTINGS, check_database
from ca.store.audit.acting import acting_as
from ca.store.engine.database import DATABASE_NAME, Database
from ca.store.replicas import check_unused
from ca.store.store import Store
from ca.store.tables import TRUST_DOMAIN, settings
from shared.model.errors import InputError, NotFoundError
from shared.model.wire.admin_audit import AuditActor
from shared.model.wire.backup import BackupHeader, derive_secret, parse_secret
from shared.runtime.paths import default_data_dir, default_kek_file
from shared.runtime.settings import Setting, make_parser, read_environment, read_options

_MAX_TOLD: Final = 50
_WHERE: Final = tuple(each for each in SETTINGS if each.name in ("data_dir", "kek_file", "database"))
RESTORE_SETTINGS: Final = (
    *_WHERE,
    Setting(name="key_file", options=("--key-file",), metavar="FILE", parse=Path, help="the backup's secret key"),
    Setting(
        name="passphrase_file",
        options=("--passphrase-file",),
        metavar="FILE",
        parse=Path,
        help="its passphrase instead",
    ),
    Setting(name="replace", options=("--replace",), is_flag=True, help="replace the store that is there"),
    Setting(name="check", options=("--check",), is_flag=True, help="verify only, and leave every store as it is"),
    Setting(name="json", options=("--json",), is_flag=True, help="print JSON"),
)
REWRAP_SETTINGS: Final = (
    *_WHERE,
    Setting(
        name="new_kek_file", options=("--new-kek-file",), metavar="FILE", parse=Path,
        help="the new key-encryption key; made if missing. Without it: a new one that takes --kek-file's place",
    ),
    Setting(name="json", options=("--json",), is_flag=True, help="print JSON"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the store is, and the file of its key-encryption key.

    Attributes:
        database: URL of a PostgreSQL database; empty: SQLite in ``data_dir``.
    """

    data_dir: Path
    kek_file: Path
    database: str

    def find_kek(self, sealed_by: str) -> KeyEncryptionKey:
        """Return the key that opens the store; never a new one. Raises ``KeyEncryptionError``."""
        kek = load_key_encryption_key(self.kek_file, self.data_dir, sealed_by=sealed_by or "(none)")
        if sealed_by and kek.key_id != sealed_by:
            raise KeyEncryptionError(
                f"the keys were sealed with the key-encryption key {sealed_by}, not with {kek.key_id} ({kek.source})",
                hint="name that key with --kek-file",
            )
        return kek

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the data directory; of a database the transactions see that nobody works on it."""
        with contextlib.ExitStack() as stack:
            if not self.database:
                stack.enter_context(lock_data_directory(self.data_dir))
            yield


def run_restore(arguments: Sequence[str]) -> None:
    """Restore a backup and print what it held.

    Raises:
        TouchmarkError: nothing has changed; each error says why.
    """
    file, options = _read_arguments(RESTORE_SETTINGS, "restore", arguments, takes_file=True)
    place = _find_place(options)
    find_key = _choose_key(options.get("key_file"), options.get("passphrase_file"))
    now = time.time()
    with contextlib.ExitStack() as stack:
        try:
            source = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))
        except OSError as error:
            raise InputError(f"the backup {file} can't be read: {error.strerror}") from error
        opened = Opened(source.read, find_key)
        if options.get("check"):
            # On this machine's temporary disk, as the CA's own volume may have no room.
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="touchmark-check-")))
            target = replace(place, data_dir=scratch, database="")
        else:
            target = place
        stack.enter_context(target.hold())
        stack.enter_context(acting_as(_find_self("ca restore")))
        loaded = asyncio.run(
            _restore(opened, target, place.find_kek, may_replace=bool(options.get("replace")), now=now)
        )
    if options.get("json"):
        kept = target.data_dir / KEPT
        told = {"trust_domain": loaded.trust_domain, "taken": loaded.taken, "rows": loaded.counts}
        has_kept = not target.database and kept.exists()
        lost = [{"time": each.time, "act": each.act, "subject": each.subject} for each in loaded.lost]
        told |= {"voided_tokens": loaded.voided_tokens, "lost_acts": lost}
        print(json.dumps({**told, "kept": str(kept) if has_kept else None}))
    else:
        _tell_restored(loaded, target, is_check=bool(options.get("check")))


async def _restore(
    opened: Opened, target: Place, find_kek: Callable[[str], KeyEncryptionKey], *, may_replace: bool, now: float
) -> Loaded:
    if target.database:
        return await restore_database(opened, target.database, find_kek=find_kek, may_replace=may_replace, now=now)
    return await restore_directory(opened, target.data_dir, find_kek=find_kek, may_replace=may_replace, now=now)


def run_rewrap(arguments: Sequence[str]) -> None:
    """Seal the store's keys with a new key-encryption key and print what to do with the old one.

    Killed at any step it leaves a store that one of the two keys opens, and both keys; repeated, it goes on.

    Raises:
        TouchmarkError: a key is missing, or a CA works on the store.
    """
    _, options = _read_arguments(REWRAP_SETTINGS, "rewrap", arguments, takes_file=False)
    place, given = _find_place(options), options.get("new_kek_file")
    if given is None and os.environ.get(ENVIRONMENT_VARIABLE):
        raise InputError(
            f"the key-encryption key comes from {ENVIRONMENT_VARIABLE}",
            hint="name a file for the new one: --new-kek-file",
        )
    new_file: Path = given if given is not None else name_next(place.kek_file)
    with place.hold(), acting_as(_find_self("ca rewrap")):
        new = make_key_file(new_file, place.data_dir)
        old_id = asyncio.run(rewrap(place, new))
        kept = exchange_key_files(place.kek_file, new_file, old_id=old_id) if given is None else None
    told = {"sealed_with": new.key_id, "kek_file": str(new_file if given is not None else place.kek_file)}
    if kept is not None:
        told["old_key"] = str(kept)
    if options.get("json"):
        print(json.dumps(told))
        return
    print(f"the store's keys are sealed with {new.key_id}, in {told['kek_file']}")
    if given is not None:
        print("start the CA with that key: --kek-file, TOUCHMARK_KEK, or a new Secret named by --kek-secret")
    print(f"the old key is {kept or 'where it was'}: move it away from the CA, and keep it as long as you keep backups")
    print("from before today, which nothing else opens. If it may be stolen, rotate the root as well")


async def rewrap(place: Place, new: KeyEncryptionKey) -> str:
    """Seal every key anew, in one transaction; return the former key's ID, empty when it was done already."""
    async with _open_store(place) as store:
        records = await store.authorities.list_all()
        sealed_by = next((name_sealing_key(r.sealed_key) for r in records if r.sealed_key), "")
        if not sealed_by:
            raise NotFoundError("this store holds no authorities", hint="name its --data-dir or --database")
        if sealed_by == new.key_id:
            check_authorities(records, new)
            return ""
        old = place.find_kek(sealed_by)
        check_authorities(records, old)
        sealed = {r.authority_id: reseal_key(r, old, new) for r in records if r.sealed_key}
        await store.authorities.reseal(sealed, now=time.time(), detail=f"key-encryption key {new.key_id}")
        check_authorities(await store.authorities.list_all(), new)
    return sealed_by


def _find_self(verb: str) -> AuditActor:
    """Return whose process this is: nobody else says who does it."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # A container's user often has no name.
        name = ""
    return AuditActor(kind="process", name=name, origin=verb, uid=uid, gid=os.getgid(), pid=os.getpid())


@contextlib.asynccontextmanager
async def _open_store(place: Place) -> AsyncIterator[Store]:
    """Open a store that is there, whatever its trust domain; refuse one on which a CA works."""
    if not place.database and not (place.data_dir / DATABASE_NAME).exists():
        raise NotFoundError(f"no store in {place.data_dir}", hint="name its --data-dir")
    database = await Database.open(place.database or place.data_dir)
    try:
        async with database.reading() as connection:
            await check_unused(database, connection)
            domain = await connection.scalar(select(settings.c.value).where(settings.c.name == TRUST_DOMAIN))
        yield Store(database, domain or "")
    finally:
        await database.close()


def _read_arguments(
    table: tuple[Setting, ...], verb: str, arguments: Sequence[str], *, takes_file: bool
) -> tuple[str, dict[str, Any]]:
    parser = make_parser(table, prog=f"python -m ca {verb}", description="On a CA that doesn't run.")
    given = list(arguments)
    file = ""
    if takes_file and "--help" not in given:
        if not given or (given[0].startswith("-") and given[0] != "-"):
            raise InputError("which backup?", hint=f"`touchmark ca {verb} FILE`")
        file = given.pop(0)
    options = read_options(table, parser, given)
    if not options.get("database"):
        options.pop("database", None)
    check_database(options.get("database", ""))
    return file, read_environment(table, os.environ) | options


def _find_place(options: dict[str, Any]) -> Place:
    return Place(
        data_dir=options.get("data_dir") or default_data_dir(),
        kek_file=options.get("kek_file") or default_kek_file(),
        database=options.get("database", ""),
    )


def _choose_key(key_file: Path | None, passphrase_file: Path | None) -> Callable[[BackupHeader], X25519PrivateKey]:
    def find(header: BackupHeader) -> X25519PrivateKey:
        if header.passphrase is None:
            if key_file is None:
                raise InputError("this backup is encrypted to a key", hint="name its file with --key-file")
            return parse_secret(_read_text(key_file))
        if passphrase_file is None:
            raise InputError("this backup is encrypted with a passphrase", hint="name its file with --passphrase-file")
        return derive_secret(_read_text(passphrase_file).rstrip("\r\n"), header.passphrase)

    return find


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}") from error


def _write_time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _show(text: str) -> str:
    """Return a text of the store that was there as a terminal may have it."""
    return text if text.isprintable() else repr(text)


def _tell_restored(loaded: Loaded, place: Place, *, is_check: bool) -> None:
    taken = _write_time(loaded.taken)
    rows = ", ".join(f"{count} {name}" for name, count in sorted(loaded.counts.items()) if count)
    what = f"the CA of {loaded.trust_domain} as it was at {taken}: {rows}"
    if is_check:
        print(f"the backup is whole: {what}")
        return
    print(f"restored {what}")
    print(f"open join tokens are void, since one may have been used after that: {loaded.voided_tokens}")
    if loaded.lost:
        print("what was done after that in the store that was there is undone; repeat what still counts:")
        for each in loaded.lost[-_MAX_TOLD:]:
            print(f"  {_write_time(each.time)}  {_show(each.act)}  {_show(each.subject)}")
        if len(loaded.lost) > _MAX_TOLD:
            print(f"  and {len(loaded.lost) - _MAX_TOLD} before these")
    else:
        print("repeat what was done after that: taints, evictions, policies, withdrawn approvals, rotations")
    kept = place.data_dir / KEPT
    if not place.database and kept.exists():
        print(f"what was there is kept as {kept}: delete it when all is well")
