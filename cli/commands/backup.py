"""``touchmark ca backup-key``, ``backup``, ``restore`` and ``rewrap``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints
from shared.model.errors import InputError

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from cli.commands.shapes import BackupFile, BackupKey
    from shared.model.wire.backup import BackupRequest

_KEY: JsonResult[BackupKey] = JsonResult()
_BACKUP: JsonResult[BackupFile] = JsonResult()

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Directory of the store.")]
KekFile = Annotated[Path | None, typer.Option("--kek-file", help="The key-encryption key.")]
Database = Annotated[str, typer.Option("--database", help="PostgreSQL database instead of a directory.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File whose first line is the passphrase.")
]


@prints(_KEY)
def backup_key(
    file: Annotated[Path, typer.Argument(help="A new file for the secret key (mode 0600).")],
    as_json: options.Json = False,
) -> None:
    """Make a key for backups: the secret half goes to FILE, the public one (the recipient) is printed.

    Keep the file where no CA and no backup is: it opens every backup that is made for this recipient.

    Example: touchmark ca backup-key backup.key
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from cli.commands.shapes import BackupKey
    from cli.machine.new_files import writing_new_file
    from cli.text.output import print_line
    from shared.model.wire.backup import format_recipient, format_secret

    key = X25519PrivateKey.generate()
    recipient = format_recipient(key.public_key())
    with writing_new_file(file) as written:
        written.write(f"# opens backups of Touchmark's CA for {recipient}\n{format_secret(key)}\n".encode())
    if as_json:
        _KEY.print(BackupKey(recipient=recipient, file=str(file)))
    else:
        print_line(recipient)


@prints(_BACKUP)
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A new file for the backup (mode 0600).")],
    recipient: Annotated[
        str, typer.Option("--recipient", help="Whom to encrypt it to, as `touchmark ca backup-key` printed it.")
    ] = "",
    passphrase_file: PassphraseFile = None,
    without_decisions: Annotated[
        bool, typer.Option("--without-decisions", help="Leave out the log of decisions, the largest part.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a backup of the CA's store, of one moment, while the CA works.

    It is encrypted to a recipient or with a passphrase; the CA never sees the secret. The key-encryption key is not in
    it: back that up separately, once. `touchmark ca restore --check FILE` tells whether a backup is whole.

    Examples: touchmark ca backup touchmark.backup --recipient RECIPIENT · touchmark ca backup touchmark.backup
    --passphrase-file passphrase --without-decisions
    """
    from cli.backends.session import ask_admin
    from cli.commands.shapes import BackupFile
    from cli.machine.new_files import writing_new_file
    from cli.text.duration import format_time
    from cli.text.output import print_line
    from shared.model.wire.backup import read_chunks, read_opening

    request = _choose_recipient(recipient, passphrase_file, decisions=not without_decisions)
    with writing_new_file(file) as written:

        async def fetch(client: AdminClient) -> None:
            async for data in client.fetch_backup(request):
                written.write(data)

        ask_admin(options.get_target(context), fetch)
        size = written.tell()
        written.seek(0)
        header = read_opening(written.read)[1]
        for _ in read_chunks(written.read):  # Before it gets its name: it isn't cut off.
            pass
    told = BackupFile(file=str(file), bytes=size, trust_domain=header.trust_domain, taken=header.taken)
    if as_json:
        _BACKUP.print(told)
    else:
        print_line(f"backup of {told.trust_domain} at {format_time(told.taken)}: {file}, {size:,} bytes")


def restore(
    file: Annotated[str, typer.Argument(help="The backup; -: standard input.")],
    key_file: Annotated[Path | None, typer.Option("--key-file", help="The backup's secret key.")] = None,
    passphrase_file: PassphraseFile = None,
    data_dir: DataDir = None,
    kek_file: KekFile = None,
    database: Database = "",
    replace: Annotated[bool, typer.Option("--replace", help="Replace the store that is there.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Read and verify everything, and leave every store as it is.")
    ] = False,
) -> None:
    """Put a backup in a store's place, whole or not at all. No CA may be running on that store.

    Verified before anything is replaced: every byte, the number of rows of each table, that the authorities belong
    together, and that the key-encryption key opens them. Run it as the CA's user.

    Examples: touchmark ca restore touchmark.backup --key-file backup.key --check · touchmark ca restore
    touchmark.backup --key-file backup.key --replace
    """
    _become(
        ["restore", file],
        {
            "--key-file": key_file,
            "--passphrase-file": passphrase_file,
            "--data-dir": data_dir,
            "--kek-file": kek_file,
            "--database": database,
        },
        {"--replace": replace, "--check": check},
    )


def rewrap(
    data_dir: DataDir = None,
    kek_file: KekFile = None,
    database: Database = "",
    new_kek_file: Annotated[
        Path | None,
        typer.Option(
            "--new-kek-file", help="The new key, made if missing. Without it a new one takes the old's place."
        ),
    ] = None,
) -> None:
    """Seal the authorities' keys with a new key-encryption key. No CA may be running on that store.

    If it is interrupted, repeat it: it goes on where it was.

    Examples: touchmark ca rewrap · touchmark ca rewrap --new-kek-file kek.new
    """
    _become(
        ["rewrap"],
        {"--data-dir": data_dir, "--kek-file": kek_file, "--database": database, "--new-kek-file": new_kek_file},
        {},
    )


def _choose_recipient(recipient: str, passphrase_file: Path | None, *, decisions: bool) -> BackupRequest:
    from shared.model.wire.backup import (
        BackupRequest,
        PassphraseSalt,
        derive_secret,
        format_recipient,
        parse_recipient,
    )

    if bool(recipient) == (passphrase_file is not None):
        raise InputError(
            "a backup needs either --recipient or --passphrase-file",
            hint="`touchmark ca backup-key FILE` makes a key and prints its recipient",
        )
    if passphrase_file is None:
        parse_recipient(recipient)
        return BackupRequest(recipient=recipient, decisions=decisions)
    try:
        passphrase = passphrase_file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the passphrase can't be read: {error}") from error
    salt = PassphraseSalt(salt=os.urandom(16))
    key = derive_secret(passphrase, salt).public_key()
    return BackupRequest(recipient=format_recipient(key), passphrase=salt, decisions=decisions)


def _become(verb: list[str], values: dict[str, Path | str | None], flags: dict[str, bool]) -> None:
    from cli.machine.component import become_component

    named = [part for option, value in values.items() if value for part in (option, str(value))]
    become_component("ca", [*verb, *named, *(flag for flag, is_set in flags.items() if is_set)])
