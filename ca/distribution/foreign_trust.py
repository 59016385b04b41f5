"""Which other trust domains sidecars are told of: read from the store, pushed to every stream after a change.

Belongs here: what is in force now. Doesn't: rows (``ca/store/foreign_domains.py``), or who may change them (the admin
API).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ca.store.store import Store
from shared.model.identity.foreign import ForeignDomain

_log = structlog.get_logger("touchmark.ca")


class ForeignTrust:
    """The other trust domains, as they are told.

    Arguments:
        on_change: called with the new ones.

    Attributes:
        domains: by name.
    """

    def __init__(
        self,
        store: Store,
        domains: tuple[ForeignDomain, ...],
        *,
        on_change: Callable[[tuple[ForeignDomain, ...]], None],
    ) -> None:
        self._store = store
        self._on_change = on_change
        self.domains = domains

    @classmethod
    async def open(cls, store: Store, *, on_change: Callable[[tuple[ForeignDomain, ...]], None]) -> ForeignTrust:
        """Read what the store holds.

        Raises:
            UnavailableError: the store fails.
        """
        return cls(store, await _read(store), on_change=on_change)

    async def put(self, domain: ForeignDomain, *, now: float) -> None:
        """Know a trust domain by these roots.

        Raises:
            InputError: it can't be.
            UnavailableError: the store fails.
        """
        await self._store.foreign.put(domain, now=now)
        _log.info("foreign_domain_put", trust_domain=domain.trust_domain, roots=len(domain.roots))
        await self.reload()

    async def remove(self, trust_domain: str) -> None:
        """Forget a trust domain.

        Raises:
            NotFoundError: it isn't known.
            UnavailableError: the store fails.
        """
        await self._store.foreign.delete(trust_domain)
        _log.info("foreign_domain_removed", trust_domain=trust_domain)
        await self.reload()

    async def reload(self) -> None:
        """Read the store again: this replica or another one has changed it.

        Raises:
            UnavailableError: the store fails.
        """
        domains = await _read(self._store)
        if domains != self.domains:
            self.domains = domains
            self._on_change(domains)


async def _read(store: Store) -> tuple[ForeignDomain, ...]:
    return tuple(record.domain for record in await store.foreign.list_all())
