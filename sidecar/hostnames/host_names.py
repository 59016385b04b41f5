"""The host names of the own namespace's egress rules: kept resolved, and looked up afresh before a refusal.

Belongs here: which names there are, when each is asked for, which of them has an address. Doesn't: asking
(``resolver.py``), what an answer is worth (``known.py``), what a rule means (``shared/model/policy/matching.py``).

Connections that no rule allows have names asked for afresh, since a name may have got another address. Programs choose
how many such connections there are, so all of them together get no more than a few look-ups a second, of the names that
were answered longest ago.

IPv4 and IPv6 addresses are asked for, waited for and remembered each by themselves: some nameservers leave one kind
unanswered, and the addresses of the other count all the same.

Names come from the CA's rules alone: what a program asks a nameserver for adds none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Container, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from shared.model.policy.host_name import MAX_HOSTS
from shared.model.policy.rules import Direction
from sidecar.hostnames.known import KnownName, version_of
from sidecar.hostnames.resolver import VERSIONS, Resolved

if TYPE_CHECKING:
    from shared.model.policy.evaluate import NamespacePolicy
    from shared.runtime.tasks import Tasks
    from sidecar.events import Events

# A name is asked for again when its answer's TTL ends, but not sooner or later than this; sooner after a failure: a
# pod's first look-up may come before its network.
MIN_REFRESH_S: Final = 30.0
MAX_REFRESH_S: Final = 300.0
FIRST_RETRY_S: Final = 1.0
RETRY_S: Final = 10.0
# Sidecars that got the same rule at the same moment don't ask at the same moment for ever.
_LEAST_SHARE: Final = 0.8
# A connection doesn't have a name asked for that was asked for so lately; one without addresses stays so for
# ``MIN_REFRESH_S``.
AGAIN_S: Final = 1.0
# All connections together have so many names asked for afresh: at once, and in a second.
MAX_FRESH: Final = 8
FRESH_PER_S: Final = 4.0
_MAX_AT_ONCE: Final = 16  # Of each kind: one that isn't answered takes no places from the other.
_MAX_PORTS: Final = 256
_MAX_NAMES_IN_DETAIL: Final = 3

Resolve = Callable[[str, int], Awaitable[Resolved]]
_Question = tuple[str, int]  # A name, and an IP version.


class Rules(Protocol):
    """The policies in force here."""

    @property
    def own(self) -> NamespacePolicy:
        """Of the sidecar's own namespace."""


class HostNames:
    """What the names in the egress rules for one workload resolve to.

    Arguments:
        service_account: the workload's; rules for others aren't its concern.
        resolve: asks the nameservers for one kind of addresses.
        tasks: where look-ups run.
    """

    def __init__(
        self, rules: Rules, *, service_account: str, resolve: Resolve, tasks: Tasks, events: Events | None = None
    ) -> None:
        self._rules = rules
        self._service_account = service_account
        self._resolve = resolve
        self._tasks = tasks
        self._events = events
        self._policy: NamespacePolicy | None = None
        self._wanted: frozenset[str] = frozenset()
        self._by_port: dict[int, tuple[str, ...]] = {}
        self._known: dict[str, KnownName] = {}
        self._asking: dict[_Question, asyncio.Task[None]] = {}
        self._asked_at: dict[_Question, float] = {}
        self._due: dict[_Question, float] = {}
        self._places = {version: asyncio.Semaphore(_MAX_AT_ONCE) for version in VERSIONS}
        self._fresh = float(MAX_FRESH)
        self._fresh_at = 0.0
        self._woken = asyncio.Event()

    # ---- which names ------------------------------------------------------------------------------------------------

    def list_names(self) -> frozenset[str]:
        """Return the names in the rules for this workload, at most ``MAX_HOSTS``."""
        self._read_rules()
        return self._wanted

    def list_candidates(self, port: int) -> tuple[str, ...]:
        """Return the names in rules that could match a connection of this workload to a port."""
        self._read_rules()
        if not self._wanted:
            return ()
        found = self._by_port.get(port)
        if found is None:
            if len(self._by_port) >= _MAX_PORTS:
                self._by_port.clear()
            found = self._by_port[port] = tuple(sorted(self._find_names(port) & self._wanted))
        return found

    def _read_rules(self) -> None:
        own = self._rules.own
        if own is not self._policy:
            self._policy = own
            self._by_port = {}
            self._wanted = frozenset(sorted(self._find_names(None))[:MAX_HOSTS])
            for name in [name for name in self._known if name not in self._wanted]:
                del self._known[name]
                for version in VERSIONS:
                    self._due.pop((name, version), None)
                    self._asked_at.pop((name, version), None)

    def _find_names(self, port: int | None) -> set[str]:
        policy = self._policy
        if policy is None:
            return set()
        return {
            host
            for rule in policy.allows[Direction.EGRESS].naming_hosts
            if not rule.workloads or self._service_account in rule.workloads
            if port is None or not rule.rule.ports or any(each.first <= port <= each.last for each in rule.rule.ports)
            for peer in rule.peers
            for host in peer.peer.hosts
        }

    # ---- what they resolve to ---------------------------------------------------------------------------------------

    def find(self, address: str, *, first: Container[str] = ()) -> tuple[str, ...]:
        """Return the names that have an address now, sorted; never waits.

        Arguments:
            first: which of them come before the others: a record has no room for many.
        """
        self._read_rules()
        if not self._known:
            return ()
        now = asyncio.get_running_loop().time()
        found = [name for name, known in self._known.items() if known.holds(address, now)]
        return tuple(sorted(found, key=lambda name: (name not in first, name)))

    async def look_up(self, names: Iterable[str], address: str, *, timeout_s: float) -> frozenset[str]:
        """Have names asked afresh for addresses of one's kind, and wait; return those without an answer by then."""
        asked = self.ask_afresh(names, address)
        if asked:
            await asyncio.wait(asked.values(), timeout=timeout_s)
        return frozenset(name for name, task in asked.items() if not task.done())

    def ask_afresh(self, names: Iterable[str], address: str) -> dict[str, asyncio.Task[None]]:
        """Have the names asked for that are due, as far as there is room, and return the look-ups worth waiting for.

        That are also those under way; not where that kind of addresses has failed: who waits for a nameserver that is
        silent waits again and again.

        Arguments:
            address: of the kind that is asked for.
        """
        now, version = asyncio.get_running_loop().time(), version_of(address)
        asked, due = {}, []
        for name in names:
            known = self._known.get(name)
            if known is None or not known.was_asked(version):
                asked[name] = self._ask(name, version)
            elif version in known.failures:
                continue
            elif (task := self._asking.get((name, version))) is not None:
                asked[name] = task
            elif now - self._asked_at[name, version] >= (MIN_REFRESH_S if known.found_nothing else AGAIN_S):
                due.append(name)
        due.sort(key=lambda name: self._asked_at[name, version])
        for name in due[: self._take_room(len(due), now)]:
            asked[name] = self._ask(name, version)
        return asked

    def _take_room(self, wanted: int, now: float) -> int:
        """Return how many of the names that connections want may be asked for now."""
        self._fresh = min(float(MAX_FRESH), self._fresh + (now - self._fresh_at) * FRESH_PER_S)
        self._fresh_at = now
        taken = min(wanted, int(self._fresh))
        self._fresh -= taken
        return taken

    def describe_failures(self, names: Iterable[str], address: str, *, late: Container[str] = ()) -> str:
        """Say which names couldn't be asked for an address of this kind, and why; empty when all could.

        A name that doesn't exist was answered.

        Arguments:
            late: names that were waited for in vain.
        """
        version = version_of(address)
        failed = []
        for name in names:
            known = self._known.get(name)
            failure = "" if known is None else known.failures.get(version, "")
            if not failure and (known is None or not known.was_asked(version) or name in late):
                failure = "no answer in time"
            if failure:
                failed.append(f"{name} ({failure})")
        more = len(failed) - _MAX_NAMES_IN_DETAIL
        shown = ", ".join(failed[:_MAX_NAMES_IN_DETAIL])
        return f"{shown} and {more} more" if more > 0 else shown

    def wake(self) -> None:
        """The rules have changed: ask for new names now, and let go of the rules that were."""
        self._read_rules()
        self._woken.set()

    async def run(self) -> None:
        """Keep all names resolved, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            now = loop.time()
            questions = [(name, version) for name in self.list_names() for version in VERSIONS]
            for name, version in questions:
                if self._due.get((name, version), now) <= now:
                    self._ask(name, version)
            ends = [self._due[each] for each in questions if each in self._due and each not in self._asking]
            try:
                async with asyncio.timeout(max(0.0, min(ends) - now) if ends else MIN_REFRESH_S):
                    await self._woken.wait()
            except TimeoutError:
                pass

    def _ask(self, name: str, version: int) -> asyncio.Task[None]:
        """Ask for a name's addresses of one kind, or join who is asking."""
        task = self._asking.get((name, version))
        if task is None:
            task = self._asking[name, version] = self._tasks.spawn(self._ask_now(name, version), name="host name")
        return task

    async def _ask_now(self, name: str, version: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._places[version]:
                resolved = await self._resolve(name, version)
        finally:
            self._asking.pop((name, version), None)
        if name not in self.list_names():
            return  # The rule has gone meanwhile.
        now = loop.time()
        known = self._known.setdefault(name, KnownName())
        before = dict(known.failures)
        known.take(resolved, now)
        self._asked_at[name, version] = now
        if resolved.failure:
            self._due[name, version] = now + min(RETRY_S, FIRST_RETRY_S * 2 ** (known.count_failures(version) - 1))
        else:
            lasts_s = min(max(float(resolved.ttl_s), MIN_REFRESH_S), MAX_REFRESH_S)
            self._due[name, version] = now + lasts_s * random.uniform(_LEAST_SHARE, 1.0)
        self._woken.set()
        if self._events is not None and bool(before) is not bool(known.failures):
            if known.failures:
                self._events.emit("host_unresolved", host=name, message="; ".join(known.failures.values())[:500])
            else:
                self._events.emit("host_resolved", host=name)
