"""Who is at an address, as the CA last said. Addresses never grant identity: this only tells whom to expect.

Belongs here: the entries, their bound, and which of them a new stream still has to confirm. Doesn't: the stream
(``sidecar/control/``). No I/O of its own.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import lru_cache
from itertools import islice

from shared.model.errors import UnavailableError
from shared.model.identity.identity import Workload
from shared.model.wire.messages import DirectoryEntry, FromSidecar, Lookup
from sidecar.mesh.answers import MAX_QUESTIONS, Answers

# Those of a large cluster: about 40 MiB, by `python -m bench.directory`.
MAX_ENTRIES = 131_072
# Look-ups of known addresses that wait for their answers: fewer than the stream's queues hold, on both sides.
MAX_CONFIRMING = 512
# Who may go on without an answer doesn't wait for one again so soon.
_SILENCE_S = 5.0
# Strangers choose what is asked about them: the other questions are for what the pod itself dials.
MAX_STRANGERS_QUESTIONS = MAX_QUESTIONS // 2
_MAX_WORKLOADS = 8192


class DirectoryCache:
    """Entries by address, the least recently used forgotten first. The CA tells every change of what was asked.

    While there was no stream, changes were missed. A new stream therefore asks for every known address again
    (``confirm_all``), a bounded number at a time. Until the CA has answered, an entry of
    a member is used as it is: its certificate proves it. One that lists nobody isn't, since it could lead to plaintext.

    Arguments:
        ask: sends the CA a question; raises ``UnavailableError`` without a stream.
        send: queues a message to the CA; raises ``UnavailableError`` without a stream.
        is_connected: whether there is a stream now; without one, what is known is used as it is.
        timeout_s: how long ``look_up`` waits.
    """

    def __init__(
        self,
        *,
        ask: Callable[[FromSidecar], Awaitable[None]],
        send: Callable[[FromSidecar], None],
        is_connected: Callable[[], bool],
        timeout_s: float,
    ) -> None:
        self._ask_ca = ask
        self._send = send
        self._is_connected = is_connected
        self._timeout_s = timeout_s
        self._entries: OrderedDict[str, DirectoryEntry] = OrderedDict()
        self._answers: Answers[str, DirectoryEntry] = Answers()
        self._silent_until = 0.0
        # Asked for without a waiter.
        self._expected: set[str] = set()
        # While a stream has to confirm what is known: addresses to ask for (the next one last), asked for, answered.
        self._to_confirm: list[str] = []
        self._confirming: set[str] = set()
        self._confirmed: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def unconfirmed(self) -> int:
        """How many entries the CA hasn't confirmed yet on the present stream."""
        return len(self._to_confirm) + len(self._confirming)

    @property
    def is_silent(self) -> bool:
        """Whether there is no stream, and the last question wasn't answered, a few seconds ago."""
        return not self._is_connected() and time.monotonic() < self._silent_until

    def get(self, address: str) -> DirectoryEntry | None:
        """Return what is known here, or None when the CA has to be asked first."""
        entry = self._entries.get(address)
        if entry is None:
            return None
        self._entries.move_to_end(address)
        if self.unconfirmed and self._must_be_confirmed(address, entry):
            return None
        return entry

    def list_known(self, limit: int) -> list[DirectoryEntry]:
        """List known entries, the most recently used first, at most ``limit``."""
        return list(islice(reversed(self._entries.values()), limit))

    async def look_up(self, address: str, *, is_stranger: bool = False) -> DirectoryEntry:
        """Return who is at the address; ``namespace`` is empty for addresses outside the mesh.

        Arguments:
            is_stranger: the address is that of a peer which has proven nothing yet.

        Raises:
            UnavailableError: it isn't known here and the CA didn't answer in time.
        """
        if (entry := self.get(address)) is not None:
            return entry
        return await self._ask(address, most=MAX_STRANGERS_QUESTIONS if is_stranger else MAX_QUESTIONS)

    def ask_ahead(self, address: str) -> None:
        """Ask who is at an address that isn't known, without waiting; ``get`` knows it once the CA has answered."""
        if address in self._entries or address in self._expected or len(self._expected) >= MAX_CONFIRMING:
            return
        try:
            self._send(Lookup(address=address))
        except UnavailableError:
            return
        self._expected.add(address)

    async def refresh(self, address: str) -> DirectoryEntry:
        """Ask again although an entry is known: a peer turned out to be somebody else.

        Raises:
            UnavailableError: the CA didn't answer in time.
        """
        return await self._ask(address)

    def install(self, entry: DirectoryEntry) -> None:
        """Take the CA's answer or its later change."""
        address = entry.address
        is_answer = self._answers.give(address, entry) or address in self._expected
        self._expected.discard(address)
        if is_answer or address in self._entries:
            # A change of an entry isn't a use of it.
            self._entries[address] = entry
            if is_answer:
                self._entries.move_to_end(address)
            if len(self._entries) > MAX_ENTRIES:
                self._forget(next(iter(self._entries)))
        if self.unconfirmed:
            self._confirmed.add(address)
            self._confirming.discard(address)
            self._confirm_more()

    def confirm_all(self) -> None:
        """Ask a new stream for everything that is known here, and once more for what is being asked."""
        self._expected.clear()
        self._confirming.clear()
        self._confirmed.clear()
        # In the order in which they were learnt: walking 100,000 by their use takes the loop a tenth of a second.
        self._to_confirm = [*dict.keys(self._entries), *self._answers.keys()]
        self._confirm_more()

    def _must_be_confirmed(self, address: str, entry: DirectoryEntry) -> bool:
        is_nobodys = not (entry.namespace or entry.service)
        return is_nobodys and address not in self._confirmed and self._is_connected()

    def _confirm_more(self) -> None:
        while self._to_confirm and len(self._confirming) < MAX_CONFIRMING:
            address = self._to_confirm.pop()
            if address in self._confirmed or address in self._confirming:
                continue
            try:
                self._send(Lookup(address=address))
            except UnavailableError:  # The stream is gone again, or its queue is full: the next answer goes on.
                self._to_confirm.append(address)
                return
            self._confirming.add(address)
        if not self.unconfirmed:
            self._confirmed.clear()

    def _forget(self, address: str) -> None:
        del self._entries[address]
        # An answer to it is of no use any more; one that never comes would keep the others waiting.
        self._confirming.discard(address)

    async def _ask(self, address: str, *, most: int = MAX_QUESTIONS) -> DirectoryEntry:
        try:
            return await self._answers.wait(
                address, lambda: self._ask_ca(Lookup(address=address)), timeout_s=self._timeout_s, most=most
            )
        except UnavailableError:
            self._silent_until = time.monotonic() + _SILENCE_S
            raise


@lru_cache(maxsize=_MAX_WORKLOADS)
def listed_workload(entry: DirectoryEntry) -> Workload:
    """Return the workload that an entry of the mesh lists; checked once for equal entries.

    Raises:
        IdentityError: the entry lists no workload.
    """
    return Workload(namespace=entry.namespace, service_account=entry.service_account)
