"""Other trust domains in the store: their roots, as the mesh's administrators gave them. I/O.

Belongs here: the rows and their bounds. Doesn't: what sidecars are told (``ca/distribution/foreign_trust.py``), or
reading PEM.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ca.store.audit.audit_log import append_audit
from ca.store.engine.counters import raise_counter
from ca.store.engine.database import Database
from ca.store.tables import FOREIGN_CHANGES, foreign_domains
from shared.model.errors import InputError, NotFoundError
from shared.model.identity.foreign import MAX_DOMAINS, MAX_TOTAL_BYTES, ForeignDomain
from shared.model.trust.foreign_certificate import check_roots

_roots: Final = msgspec.json.Decoder(tuple[bytes, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRecord:
    """One other trust domain, and when its roots were last changed."""

    domain: ForeignDomain
    changed: float


class ForeignDomains:
    """Which other trust domains the mesh knows.

    Arguments:
        trust_domain: our own.
    """

    def __init__(self, database: Database, *, trust_domain: str) -> None:
        self._database = database
        self._trust_domain = trust_domain

    async def list_all(self) -> list[ForeignRecord]:
        """Return every other trust domain, by name."""
        query = select(foreign_domains).order_by(foreign_domains.c.trust_domain)
        async with self._database.reading() as connection:
            return [
                ForeignRecord(
                    domain=ForeignDomain(trust_domain=row.trust_domain, roots=_roots.decode(row.roots)),
                    changed=row.changed,
                )
                for row in await connection.execute(query)
            ]

    async def put(self, domain: ForeignDomain, *, now: float) -> None:
        """Know a trust domain by these roots, in the place of those that it had.

        Raises:
            InputError: it is our own, a root is none, or there are too many domains or bytes.
        """
        if domain.trust_domain == self._trust_domain:
            raise InputError(
                f"{domain.trust_domain} is this mesh's own trust domain",
                hint="its roots are the CA's own: `touchmark ca status`",
            )
        check_roots(domain)
        roots = msgspec.json.encode(domain.roots).decode()
        async with self._database.writing() as connection:
            await raise_counter(connection, FOREIGN_CHANGES)  # First: changes take turns.
            before = await _describe(connection, domain.trust_domain)
            values = {"trust_domain": domain.trust_domain, "roots": roots, "changed": now}
            await connection.execute(self._database.upsert(foreign_domains, values))
            known = [_roots.decode(text) for text in await connection.scalars(select(foreign_domains.c.roots))]
            if len(known) > MAX_DOMAINS or sum(len(root) for each in known for root in each) > MAX_TOTAL_BYTES:
                raise InputError(
                    f"at most {MAX_DOMAINS} trust domains and {MAX_TOTAL_BYTES} bytes of roots are known",
                    hint="remove one first: `touchmark trust remove DOMAIN`",
                )
            after = await _describe(connection, domain.trust_domain)
            await append_audit(self._database, connection, "trust.put", domain.trust_domain, before=before, after=after)

    async def delete(self, trust_domain: str) -> None:
        """Forget a trust domain.

        Raises:
            NotFoundError: it isn't known.
        """
        async with self._database.writing() as connection:
            await raise_counter(connection, FOREIGN_CHANGES)  # First: changes take turns.
            before = await _describe(connection, trust_domain)
            gone = await connection.execute(
                delete(foreign_domains).where(foreign_domains.c.trust_domain == trust_domain)
            )
            if gone.rowcount != 1:
                raise NotFoundError(
                    f"the trust domain {trust_domain[:255]} isn't known", hint="`touchmark trust list` shows all"
                )
            await append_audit(self._database, connection, "trust.remove", trust_domain, before=before)


async def _describe(connection: AsyncConnection, trust_domain: str) -> object:
    """Return the SHA-256 of each root, as `touchmark trust list` shows them; None: the domain isn't known."""
    roots = await connection.scalar(
        select(foreign_domains.c.roots).where(foreign_domains.c.trust_domain == trust_domain)
    )
    return None if roots is None else {"roots": [hashlib.sha256(root).hexdigest() for root in _roots.decode(roots)]}
