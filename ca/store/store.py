"""The store's one door: everything that the CA remembers, in parts. I/O.

Each part has its module and its tables. A step across tables is one transaction: a method of ``enrolment``, which hands
its connection to the parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy import select

from ca.store.audit.audit_log import AuditLog
from ca.store.authority_records import AuthorityRecords
from ca.store.decision_log import DecisionLog
from ca.store.drafts.drafts import Drafts
from ca.store.edges.edge_log import EdgeLog
from ca.store.engine.database import Database
from ca.store.enrolment import Enrolment
from ca.store.evictions import Evictions
from ca.store.foreign_domains import ForeignDomains
from ca.store.join_tokens import JoinTokens
from ca.store.ledger import Ledger
from ca.store.namespace_history import NamespaceHistory
from ca.store.namespaces import Namespaces
from ca.store.programs_seen.refusals import Refusals
from ca.store.programs_seen.sightings import Sightings
from ca.store.renewal.renewal_keys import RenewalKeys
from ca.store.replicas import Replicas
from ca.store.sidecars import Sidecars
from ca.store.tables import READINESS, SIDECAR_IMAGES, TRUST_DOMAIN, settings
from shared.model.errors import ConflictError
from shared.model.identity.identity import check_trust_domain


class Store:
    """The CA's memory. Every method of its parts raises ``UnavailableError`` when the database fails.

    Attributes:
        namespaces: modes, policies, programs, vouched labels.
        history: what namespaces said before, and modes that go back by themselves.
        drafts: policies that are evaluated and not enforced.
        join_tokens: who may join outside Kubernetes.
        sidecars: who has joined, and what each has installed.
        renewal_keys: by which keys sidecars outside Kubernetes come back.
        enrolment: the transactions over these.
        authorities: keys, rotations and their journal.
        ledger: every certificate that was issued.
        decisions: what the sidecars reported.
        edges: who talked to whom, by hour.
        sightings: programs that sidecars have seen.
        refusals: programs that somebody refused.
        evictions: who was evicted, and which certificates are distrusted for it.
        foreign: other trust domains.
        audit: who did what, in chained lines.
        replicas: who else works on this database.
    """

    def __init__(self, database: Database, trust_domain: str, replica: str = "") -> None:
        self.database = database
        self.trust_domain = trust_domain
        self.replica = replica
        self.namespaces = Namespaces(database, trust_domain=trust_domain)
        self.history = NamespaceHistory(database, change=self.namespaces.change)
        self.drafts = Drafts(database, change=self.namespaces.change, trust_domain=trust_domain)
        self.join_tokens = JoinTokens(database)
        self.sidecars = Sidecars(database, replica=replica)
        self.evictions = Evictions(database)
        self.renewal_keys = RenewalKeys(database)
        self.enrolment = Enrolment(
            database,
            join_tokens=self.join_tokens,
            sidecars=self.sidecars,
            namespaces=self.namespaces,
            evictions=self.evictions,
            renewal_keys=self.renewal_keys,
        )
        self.authorities = AuthorityRecords(database)
        self.ledger = Ledger(database)
        self.edges = EdgeLog(database)
        self.decisions = DecisionLog(database, edges=self.edges)
        self.sightings = Sightings(database)
        self.refusals = Refusals(database)
        self.foreign = ForeignDomains(database, trust_domain=trust_domain)
        self.audit = AuditLog(database)
        self.replicas = Replicas(database, replica=replica)

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
        await self.ledger.close()
        await self.database.close()

    async def change_images(self, change: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, float]:
        """Replace what is remembered of sidecar images by what ``change`` makes of it, and return that."""
        async with self.database.writing() as connection:
            text = await connection.scalar(select(settings.c.value).where(settings.c.name == SIDECAR_IMAGES))
            known = change(msgspec.json.decode(text or "{}", type=dict[str, float]))
            values = {"name": SIDECAR_IMAGES, "value": msgspec.json.encode(known).decode()}
            await connection.execute(self.database.upsert(settings, values))
        return known

    async def check(self) -> None:
        """Write a row and read it again: for readiness."""
        values = {"name": READINESS, "value": repr(time.time())}
        async with self.database.writing() as connection:
            await connection.execute(self.database.upsert(settings, values))
            await connection.scalar(select(settings.c.value).where(settings.c.name == READINESS))
