"""The store's one door: everything that the CA remembers. I/O.

Its parts, each in its module: namespaces, enrolment, authorities, ledger, decisions. All are methods of one class, so
that a transaction may touch several of them and callers hold one thing.
"""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import select

from ca.store.database import Database
from ca.store.group_commit import GroupCommit
from ca.store.records import CertificateRecord
from ca.store.replicas import ReplicaTable
from ca.store.tables import READINESS, TRUST_DOMAIN, settings
from shared.model.errors import ConflictError
from shared.model.identity.identity import check_trust_domain


class Store(ReplicaTable):
    """The CA's memory. Every method raises ``UnavailableError`` when the database fails."""

    def __init__(self, database: Database, trust_domain: str, replica: str = "") -> None:
        super().__init__(database)
        self.trust_domain = trust_domain
        self.replica = replica
        self._ledger = GroupCommit(self.record_certificates)

    @classmethod
    async def open(cls, where: str | Path, *, trust_domain: str, replica: str = "") -> Store:
        """Open the store and bring its tables up to date.

        Arguments:
            where: the data directory; or a database URL (``postgresql://…``).
            replica: this process's name among those that share the database; unlike any other's.
            trust_domain: must be the one that the store was made for; the first opening decides.

        Raises:
            InputError: the directory or URL can't be used.
            ConflictError: it belongs to another trust domain or a newer version.
            UnavailableError: the database doesn't work.
        """
        check_trust_domain(trust_domain)
        database = await Database.open(where)
        try:
            async with database.writing() as connection:
                values = {"name": TRUST_DOMAIN, "value": trust_domain}
                await connection.execute(database.upsert(settings, values, update=()))
                known = await connection.scalar(select(settings.c.value).where(settings.c.name == TRUST_DOMAIN))
            if known != trust_domain:
                raise ConflictError(
                    f"this store belongs to the trust domain {known}, not {trust_domain}",
                    hint=f"start with --trust-domain {known}, or name another data directory",
                )
        except BaseException:
            await database.close()
            raise
        return cls(database, trust_domain, replica)

    async def close(self) -> None:
        """Write what waits and close every connection."""
        await self._ledger.close()
        await self.database.close()

    async def check(self) -> None:
        """Write a row and read it again: for readiness."""
        values = {"name": READINESS, "value": repr(time.time())}
        async with self.database.writing() as connection:
            await connection.execute(self.database.upsert(settings, values))
            await connection.scalar(select(settings.c.value).where(settings.c.name == READINESS))

    async def record_certificate(self, record: CertificateRecord) -> None:
        """Return once the certificate's line in the ledger is durable. Many at once share a commit.

        Raises:
            ConflictError: its authority doesn't sign any more: the certificate must not leave.
            UnavailableError: it isn't stored.
        """
        await self._ledger.add(record)
