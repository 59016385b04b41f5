"""Who is at an address, as the CA last said. Addresses never grant identity: this only tells whom to expect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache

from shared.model.identity.identity import Workload
from shared.model.wire.messages import DirectoryEntry, FromSidecar, Lookup
from sidecar.mesh.answers import Answers

MAX_ENTRIES = 8192


class DirectoryCache:
    """Entries by address, the least recently asked for forgotten first. The CA tells every change of what was asked.

    Arguments:
        ask: sends the CA a question; raises ``UnavailableError`` without a stream.
        timeout_s: how long ``look_up`` waits.
    """

    def __init__(self, *, ask: Callable[[FromSidecar], Awaitable[None]], timeout_s: float) -> None:
        self._ask_ca = ask
        self._timeout_s = timeout_s
        self._entries: dict[str, DirectoryEntry] = {}
        self._answers: Answers[str, DirectoryEntry] = Answers()

    def get(self, address: str) -> DirectoryEntry | None:
        """Return what is known here, or None when the address was never asked for."""
        return self._entries.get(address)

    async def look_up(self, address: str) -> DirectoryEntry:
        """Return who is at the address; ``namespace`` is empty for addresses outside the mesh.

        Raises:
            UnavailableError: it isn't known here and the CA didn't answer in time.
        """
        if (entry := self._entries.pop(address, None)) is not None:
            self._entries[address] = entry  # Asked for just now: forgotten last.
            return entry
        return await self._ask(address)

    async def refresh(self, address: str) -> DirectoryEntry:
        """Ask again although an entry is known: a peer turned out to be somebody else.

        Raises:
            UnavailableError: the CA didn't answer in time.
        """
        return await self._ask(address)

    def install(self, entry: DirectoryEntry) -> None:
        """Take the CA's answer or its later change."""
        answered = self._answers.give(entry.address, entry)
        if not answered and entry.address not in self._entries:
            return  # Forgotten here in between.
        self._entries.pop(entry.address, None)
        self._entries[entry.address] = entry
        while len(self._entries) > MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]

    def lookups(self) -> list[Lookup]:
        """Return what a new stream has to ask for again."""
        return [Lookup(address=address) for address in {*self._entries, *self._answers.keys()}]

    async def _ask(self, address: str) -> DirectoryEntry:
        return await self._answers.wait(
            address, lambda: self._ask_ca(Lookup(address=address)), timeout_s=self._timeout_s
        )


@lru_cache(maxsize=MAX_ENTRIES)
def listed_workload(entry: DirectoryEntry) -> Workload:
    """Return the workload that an entry of the mesh lists; checked once for equal entries.

    Raises:
        IdentityError: the entry lists no workload.
    """
    return Workload(namespace=entry.namespace, service_account=entry.service_account)
