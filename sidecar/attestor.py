"""The story of attestation: connection → socket → process → program; then, off the loop, all other holders.

Each look has two paths. The fast one runs on the event loop, never waits and costs microseconds: it recognises an
``execve`` that was measured before. Whatever it can't answer goes to worker threads.

What holds: at the moment of the look, this process held this end of the socket and ran this file. What doesn't: that it
was so a moment before, that no other process holds the socket (``check_holders``), that the process runs nothing else.

Longer than most: it is the one door to ``attest/``, whose parts share the known processes and the looks under way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from shared.model.policy.reasons import Reason
from shared.runtime.patience import Patience
from sidecar.attest.dialled import Dialling, check_dialled, find_dialled, find_dialling, kind_of, refuse_orphan
from sidecar.attest.executable import Executables
from sidecar.attest.facts import Attestation, AttestationError, ProcessFacts
from sidecar.attest.holding.caught import Caught, CaughtHolders
from sidecar.attest.holding.fellows import Fellows, has_failed
from sidecar.attest.holding.holder_check import HolderCheck
from sidecar.attest.holding.own_socket import refuse_given
from sidecar.attest.holding.owner import OwnerSearch, find_own
from sidecar.attest.holding.tables import count_descriptors, holds_any
from sidecar.attest.known import KnownProcesses
from sidecar.attest.measure import Measured, Measuring, agree
from sidecar.attest.netlink.kernel_sockets import KernelSockets
from sidecar.attest.netlink.sock_diag import LISTEN, KernelSocket, NetlinkError, covers, normalise_address
from sidecar.attest.process import Process
from sidecar.attest.program_look import ProgramLooks
from sidecar.sockets.address import Endpoint

__all__ = ["Attestation", "AttestationError", "Attestor", "ProcessFacts"]

# A table with more descriptors is searched by a worker; 256 cost the loop about 0.3 ms when the wanted one comes last.
_MAX_FAST_DESCRIPTORS = 256
_FEW_MEASURED = 2
_MAX_HOLDERS = 4
_MAX_FAST_LISTENERS = 16
_MAX_LISTENERS = 1_024
_MAX_OWN = 1_024


class Attestor:
    """Tells which program holds the application's end of a connection, or listens on a port.

    Belongs to one event loop. The sidecar's own process never counts as a holder.

    Arguments:
        max_executable_bytes: a larger file isn't hashed.
        own_pid: the sidecar's process; None means this one.
        deadline_s: how long slow looks, and searches for holders, may wait while none of their steps finishes; hashing
            1 GiB takes about a second.
        max_pending: slow looks under way at once.
        max_processes: measured processes that are held.
    """

    def __init__(
        self,
        *,
        max_executable_bytes: int = 1 << 30,
        own_pid: int | None = None,
        deadline_s: float = 30.0,
        max_pending: int = 1_024,
        max_processes: int = 256,
    ) -> None:
        self._own_pid = os.getpid() if own_pid is None else own_pid
        self._patience = Patience(deadline_s)
        self._max_pending = max_pending
        self._kernel = KernelSockets()
        self._known = KnownProcesses(max_processes=max_processes)
        self._own_listeners: set[int] = set()
        self._shared: dict[Endpoint, Attestation] = {}
        self._running: dict[int, asyncio.Task[Measured]] = {}
        self._measured = 0  # How many of them have ended, in whatever way.
        # Between ``attest_now`` and the ``attest`` that follows it.
        self._caught = CaughtHolders(own_pid=self._own_pid)
        self._fellows = Fellows()
        self._dialling = Dialling()
        self._scanners = ThreadPoolExecutor(2, thread_name_prefix="attest-look")
        # Walks over all sockets take milliseconds each, whatever they find. They have threads of their own, so that the
        # process that a burst of connections waits for is searched for and measured meanwhile.
        self._walkers = ThreadPoolExecutor(2, thread_name_prefix="attest-walk")
        self._hashers = ThreadPoolExecutor(2, thread_name_prefix="attest-hash")
        self._measuring = Measuring(Executables(self._hashers, max_bytes=max_executable_bytes), self._scanners)
        self.looks = ProgramLooks()
        self._owners = OwnerSearch(self._scanners, own_pid=self._own_pid)
        self._holder_check = HolderCheck(
            self._measuring, self._scanners, own_pid=self._own_pid, patience=Patience(deadline_s)
        )

    def close(self) -> None:
        """End the background work and close every descriptor. Call it from the event loop's thread."""
        self._holder_check.close()
        self._owners.close()
        self._fellows.close()
        for running in self._running.values():
            running.cancel()
        self._scanners.shutdown(wait=False, cancel_futures=True)
        self._walkers.shutdown(wait=False, cancel_futures=True)
        self._hashers.shutdown(wait=False, cancel_futures=True)
        self._known.close()
        self._caught.close()
        self._kernel.close()

    def attest_now(self, source: Endpoint, destination: Endpoint) -> Attestation | None:
        """Attest a connection if its program is known; never waits.

        Arguments:
            source: the application's own address and port.
            destination: what the application connected to: the *original* destination.

        Returns:
            None when only ``attest`` can tell.

        Raises:
            AttestationError: the answer is already no.
        """
        if (found := self._find(source, destination)) is None:
            return None
        check_dialled(found)
        if (kept := self._dialling.take(found)) is not None:
            return kept
        refuse_orphan(found)
        measured = self._recognise(found, kind_of(found))
        if measured is None:
            if self._caught.catch(source, destination, found, kind_of(found)):
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, self._forget, source, destination)
            return None
        return measured.attest(found)

    def attest_early(self, source: Endpoint, destination: Endpoint) -> Attestation | AttestationError | None:
        """Do what ``attest_now`` does, but return its error: before the story of the connection begins.

        A sender that exits at once may be gone by then. The story goes by the answer, in the next turn of the loop.
        """
        try:
            return self.attest_now(source, destination)
        except AttestationError as error:
            return error

    def find_dialling(self, source: Endpoint, destination: Endpoint) -> KernelSocket | None:
        """Find the socket whose ``connect()`` sent the first packet of a connection and waits; never waits itself."""
        return find_dialling(self._kernel, source, destination)

    def attest_dialling_now(self, found: KernelSocket) -> Attestation | None:
        """Attest a socket of ``find_dialling`` if its program is known; never waits.

        Returns:
            None when only ``attest_dialling`` can tell.

        Raises:
            AttestationError: the process is traced.
        """
        measured = self._recognise(found, kind_of(found))
        return None if measured is None else measured.attest(found)

    async def attest_dialling(self, found: KernelSocket) -> Attestation:
        """Attest a socket of ``find_dialling``, looking and hashing as far as it takes.

        Raises:
            AttestationError: as ``attest``.
        """
        kind = kind_of(found)
        async with self._deadline():
            if (caught := self._caught.look_at(found, kind)) is None:
                return (await self._measure(found, kind)).attest(found)
            return (await self._measure_caught(caught)).attest(found)

    def keep_dialling(self, attestation: Attestation) -> None:
        """Keep what was attested of a socket that dials, for when its connection is accepted: at most two seconds.

        By then the program may have sent what it had to send, and be gone.
        """
        self._dialling.keep(attestation)

    async def attest(self, source: Endpoint, destination: Endpoint) -> Attestation:
        """Attest a connection, looking and hashing as far as it takes; arguments as for ``attest_now``.

        Raises:
            AttestationError: ``sender_gone`` (it was closed before anybody could look), ``process_vanished`` (its
                process did something else meanwhile), ``no_owner``, ``process_traced``, ``executable_*``;
                ``deadline_exceeded`` or ``overloaded`` when our own limits were reached.
        """
        if not self._caught.has(source, destination) and (known := self.attest_now(source, destination)) is not None:
            return known
        async with self._deadline():
            try:
                if (caught := self._caught.take(source, destination)) is not None:
                    return (await self._measure_caught(caught)).attest(caught.found)
                if (fellow := await self._join(source, destination)) is not None:
                    return fellow
            except AttestationError as error:
                if error.reason is not Reason.PROCESS_VANISHED:
                    raise
            loop, measured = asyncio.get_running_loop(), self._measured
            found = await loop.run_in_executor(self._walkers, find_dialled, source, destination)
            self._patience.note_progress()
            check_dialled(found)
            refuse_orphan(found)
            try:
                met = self._recognise(found, kind_of(found)) if self._was_met_since(measured) else None
                return (met or await self._measure(found, kind_of(found))).attest(found)
            except AttestationError as error:
                if error.reason in {Reason.PROCESS_VANISHED, Reason.NO_OWNER}:
                    now = await loop.run_in_executor(self._walkers, find_dialled, source, destination)
                    refuse_orphan(now, error.process)
                raise

    def attest_listener_now(self, address: str, port: int) -> Attestation | None:
        """Attest the listeners for connections to an address and port, if each of them is known; never waits.

        One look serves all callbacks that the loop had ready when it was made: whatever they are about had arrived
        before it. The kernel walks its whole table for it, and connections come in bursts.

        Returns:
            None when only ``attest_listener`` can tell.

        Raises:
            AttestationError: nothing listens there (``no_listener``), or not one program (``listeners_differ``).
        """
        if (shared := self._shared.get((address, port))) is not None:
            return shared
        listeners = self._list_listeners(address, port)
        if len(listeners) > _MAX_FAST_LISTENERS:
            return None
        found = []
        for listener in listeners:
            if (measured := self._recognise(listener, listener.cookie)) is None:
                return None
            found.append((measured, listener))
        attestation = agree(found, port)
        if not self._shared:
            # It runs after the callbacks that are ready now and before any that becomes ready later.
            asyncio.get_running_loop().call_soon(self._shared.clear)
        self._shared[address, port] = attestation
        return attestation

    async def attest_listener(self, address: str, port: int) -> Attestation:
        """Attest the listeners for connections to an address and port: all sockets, which must run one program.

        A wildcard beside a specific address counts, though the kernel prefers the latter.

        Raises:
            AttestationError: ``no_listener``, ``listeners_differ``, or as ``attest``.
        """
        if (known := self.attest_listener_now(address, port)) is not None:
            return known
        async with self._deadline():
            loop = asyncio.get_running_loop()
            own = await loop.run_in_executor(self._scanners, find_own)
            found = []
            for listener in self._list_listeners(address, port):
                if listener.inode in own:
                    if len(self._own_listeners) >= _MAX_OWN:
                        self._own_listeners.clear()
                    self._own_listeners.add(listener.cookie)
                    continue
                measured = self._recognise(listener, listener.cookie)
                found.append((measured or await self._measure(listener, listener.cookie), listener))
            return agree(found, port)

    def find_accepted(self, application: Endpoint, local: Endpoint) -> KernelSocket | None:
        """Find the server's end of a connection of our own to an application of this pod; never waits.

        Its inode is 0 before the server has accepted it, and after it has closed it.

        Arguments:
            application: what was dialled.
            local: our own end.
        """
        return self._find(application, local)

    def has_listeners_of(self, address: str, port: int, listener: Attestation) -> bool:
        """Tell whether nothing listens on an address and port but what was attested; never waits.

        Raises:
            AttestationError: as ``attest_listener``, but none may listen any more.
        """
        try:
            listeners = self._list_listeners(address, port)
        except AttestationError as error:
            if error.reason is Reason.NO_LISTENER:
                return True
            raise
        if not (has_no_other := {one.inode for one in listeners} <= {listener.inode, *listener.others}):
            self._shared.pop((address, port), None)  # What was seen before, perhaps in this turn of the loop.
        return has_no_other

    def attest_accepted_now(self, found: KernelSocket, listener: Attestation) -> Attestation | None:
        """Attest who has accepted a connection if that program is known; never waits.

        Arguments:
            found: by ``find_accepted``.
            listener: whose program it should be; its sockets are looked at with the accepted one from now on.

        Returns:
            None when only ``attest_accepted`` can tell.

        Raises:
            AttestationError: another program has accepted it (``listeners_differ``), or it is traced.
        """
        measured = self._recognise(found, ("accepted", listener.cookie))
        return None if measured is None else self._agree_with(listener, measured, found)

    async def attest_accepted(self, found: KernelSocket, listener: Attestation) -> Attestation:
        """Attest who has accepted a connection, looking as far as it takes; arguments as for ``attest_accepted_now``.

        Raises:
            AttestationError: another program has accepted it (``listeners_differ``), or as ``attest``.
        """
        async with self._deadline():
            measured = await self._measure(found, ("accepted", listener.cookie))
        return self._agree_with(listener, measured, found)

    @staticmethod
    def _agree_with(listener: Attestation, measured: Measured, found: KernelSocket) -> Attestation:
        attestation = measured.attest(found, (listener.inode, *listener.others))
        if attestation.program != listener.program:
            process = attestation.process
            message = f"process {process.pid} accepted the connection and runs another program than the listener's"
            raise AttestationError(message, reason=Reason.LISTENERS_DIFFER, process=process)
        return attestation

    def check_holders(self, attestation: Attestation) -> asyncio.Future[None]:
        """Look for every other holder of an attested socket, in the next pass over all processes; return its answer.

        The attested process is measured again, too, if it still holds the socket. One pass serves all who wait; passes
        take a bounded share of a core: the answer may take seconds.

        Raises:
            AttestationError: ``overloaded``: too many checks wait. By the answer: a process of another program holds
                the socket, or descriptors are in flight in a Unix socket (``socket_shared``); the attested process runs
                another program (``program_changed``) or is traced; not all could be looked at (``holders_unknown``).
        """
        return self._holder_check.check(attestation)

    def is_clear(self, attestation: Attestation) -> bool:
        """Tell whether no byte of this socket has to wait for ``clear``; never waits.

        So it is where a complete pass has seen within ten seconds that nobody but its own program holds any TCP socket
        of the process, and no other program among the tasks that came since holds this one.
        """
        return self._holder_check.is_clear(attestation)

    async def clear(self, attestation: Attestation) -> None:
        """Look for every other holder of a socket before its first byte: as ``check_holders``, but at once.

        Raises:
            AttestationError: as ``check_holders``.
        """
        await self._holder_check.clear(attestation)

    async def refuse_given(self, attestation: Attestation, listener: Attestation | None = None) -> None:
        """Refuse a socket that who started the process's program may have made and may still use unseen.

        Arguments:
            attestation: of a socket that dialled, or was accepted.
            listener: of an accepted socket, what listened when it was dialled.

        Raises:
            AttestationError: ``socket_not_own``, or the process does something else by now; ``deadline_exceeded``.
        """
        loop, earlier = asyncio.get_running_loop(), None if listener is None else listener.execution
        if count_descriptors(attestation.process.pid) <= _MAX_FAST_DESCRIPTORS:  # A sender may be gone in a moment.
            refuse_given(attestation, earlier)
        else:
            async with self._deadline():
                await loop.run_in_executor(self._scanners, refuse_given, attestation, earlier)
            self._patience.note_progress()

    def look_at(self, attestation: Attestation) -> float:
        """See that an attested process still runs what was attested; return up to when that counts. Never waits.

        Returns:
            at most 50 ms from now (``time.monotonic``).

        Raises:
            AttestationError: it runs another program, has ended (``process_vanished``), or can't be inspected any more.
        """
        return self.looks.look_at(attestation)

    def has_let_go(self, attestation: Attestation) -> bool:
        """Tell whether a process that executed another program hasn't the socket any more (close-on-exec).

        Others may hold it, which ``check_holders`` sees. Never waits; counts as holding it where that can't be told.
        """
        return not holds_any(attestation.execution.pid, (attestation.inode, *attestation.others))

    def look_again(self, attestations: Sequence[Attestation]) -> Iterator[tuple[Attestation, AttestationError]]:
        """See that attested processes still run what was attested; yield those that don't. Never waits.

        Of one that has ended (``process_vanished``) others may hold the sockets, which ``check_holders`` sees.

        Arguments:
            attestations: one of each execution that has connections; what was kept of others is given up.
        """
        return self.looks.look_again(attestations)

    def _find(self, source: Endpoint, destination: Endpoint) -> KernelSocket | None:
        try:
            return self._kernel.find(source, destination)
        except (NetlinkError, OSError, ValueError):
            return None

    def _list_listeners(self, address: str, port: int) -> list[KernelSocket]:
        try:
            address = normalise_address(address)
            found = self._kernel.listeners(port)
        except (NetlinkError, OSError, ValueError) as error:
            message = f"the listeners on port {port} can't be listed"
            raise AttestationError(message, reason=Reason.NO_LISTENER) from error
        listeners = [one for one in found if covers(one, address) and one.cookie not in self._own_listeners]
        if not listeners:
            raise AttestationError(f"nothing listens on {address} port {port}", reason=Reason.NO_LISTENER)
        if len(listeners) > _MAX_LISTENERS:
            raise AttestationError(f"{len(listeners)} listeners on port {port}", reason=Reason.OVERLOADED)
        return listeners

    def _was_met_since(self, measured: int) -> bool:
        """Tell whether one of the processes measured since then may well hold a socket that waits: where there are few.

        Many belong to many senders; comparing each with each socket takes longer than a search.
        """
        return 0 < self._measured - measured <= _FEW_MEASURED

    def _recognise(self, found: KernelSocket, kind: Hashable) -> Measured | None:
        """Find the holder among the known processes, and see that it still runs what was measured.

        Raises:
            AttestationError: a known process holds the socket, and is traced.
        """
        # First where each was last seen to open one, which costs microseconds; then in the tables of a few.
        for max_descriptors in (0, _MAX_FAST_DESCRIPTORS):
            for measured, hint in self._known.candidates(kind, found.uid, is_brief=max_descriptors > 0):
                try:
                    held = self._holds(measured, found, kind, hint, max_descriptors)
                except AttestationError as error:
                    if error.reason is Reason.PROCESS_TRACED:
                        raise
                    self._known.drop(measured.process.pid)
                    continue
                if held is not None:
                    return measured if held else None
        return None

    def _holds(
        self, measured: Measured, found: KernelSocket, kind: Hashable, hint: str, max_descriptors: int
    ) -> bool | None:
        """Tell whether a process holds a socket and runs what was measured; None: it wasn't found there.

        Raises:
            AttestationError: it is traced, or has ended.
        """
        descriptor, is_current = measured.process.find_and_compare(
            found.inode, measured.key, hint=hint, max_descriptors=max_descriptors
        )
        if not descriptor:
            if max_descriptors and measured.process.has_ended():  # Else each new process would be compared with it.
                self._known.drop(measured.process.pid)
            return None
        if is_current:
            measured.process.refuse_traced_threads()
            self._known.remember(kind, measured.process.pid, descriptor if found.state == LISTEN else "")
        return is_current

    def _forget(self, source: Endpoint, destination: Endpoint) -> None:
        """Forget what was seen when a connection was accepted: its story has begun, or never will."""
        self._caught.forget(source, destination)

    async def _measure_caught(self, caught: Caught) -> Measured:
        """Measure a process that was looked at when its connection began; it may have ended since."""
        process = caught.sighting.process
        if process.pid in self._running or self._known.get(process.pid) is not None:
            caught.sighting.close()
            return await self._measure(caught.found, caught.kind)
        with self._caught.measuring(caught):
            work = self._measuring.measure_sighting(caught.sighting)
            running = asyncio.get_running_loop().create_task(work, name=f"attest-{process.pid}")
            self._running[process.pid] = running
            running.add_done_callback(partial(self._finish, process.pid))
            return await asyncio.shield(running)

    async def _join(self, source: Endpoint, destination: Endpoint) -> Attestation | None:
        """Wait for a process that is measured already and holds this socket as well: one that begins with a burst.

        It is seen to hold the socket while it runs what is measured, as by ``attest_now``; it may end while this waits.

        Returns:
            None when another process holds the socket, or none is measured: this waits for no stranger.

        Raises:
            AttestationError: as ``attest``.
        """
        found = self._find(source, destination)
        caught = None if found is None else self._caught.find_measured(kind_of(found))
        running = None if caught is None else self._running.get(caught.sighting.process.pid)
        # One that has failed has closed the process.
        if found is None or caught is None or running is None or has_failed(running) or not caught.is_fellow(found):
            return None
        check_dialled(found)
        if running.done():  # In this very turn of the event loop: it isn't among the known ones yet.
            return running.result().attest(found)
        return running.result().attest(found) if await self._fellows.wait(caught.sighting.process.pid, found) else None

    async def _measure(self, found: KernelSocket, kind: Hashable) -> Measured:
        """Find the holder of a socket and measure it; one walk over the processes serves all who wait for it.

        A process is measured once for all of its sockets that wait: a program may start with a burst of connections.
        """
        for _ in range(_MAX_HOLDERS):
            pid, began = await self._owners.find(found.inode, found.uid)
            self._patience.note_progress()
            try:
                if (measured := self._known.get(pid)) is None and pid not in self._running:
                    measured = await self._measure_process(pid, found.inode)
                    self._known.remember(kind, pid, self._find_listener(measured, found))
                    return measured
                if measured is None:
                    await self._measure_process(pid, found.inode)
                elif self._known.is_older(pid, began) and self._confirm(measured, found, kind):
                    return measured
                # Those that wait go on in the order in which they came, so each is mostly found next to the one before.
                # Another one isn't searched for again among all processes, which would take as long once more.
                measured = self._known.get(pid)
                if measured is not None and self._holds(measured, found, kind, "", _MAX_FAST_DESCRIPTORS):
                    return measured
            except AttestationError as error:
                if error.reason is not Reason.PROCESS_VANISHED:
                    raise
                self._known.drop(pid)  # A fork of it may hold the socket as well.
        message = f"who held socket {found.inode} has ended or let go of it"
        raise AttestationError(message, reason=Reason.PROCESS_VANISHED)

    async def _measure_process(self, pid: int, inode: int) -> Measured:
        """Measure a process, which holds this socket before and after if it is the first one asked about."""
        if (running := self._running.get(pid)) is None:
            if len(self._running) >= self._max_pending:
                raise AttestationError("too many attestations under way", reason=Reason.OVERLOADED)
            work = self._measuring.measure(partial(Process, pid), inode)
            running = asyncio.get_running_loop().create_task(work, name=f"attest-{pid}")
            self._running[pid] = running
            running.add_done_callback(partial(self._finish, pid))
        # Not cancelled with its first waiter: others may wait, and workers use its descriptors.
        return await asyncio.shield(running)

    @staticmethod
    def _find_listener(measured: Measured, found: KernelSocket) -> str:
        """Return the descriptor at which to look for a listener next time; connections come and go."""
        return measured.process.find_descriptor(found.inode) if found.state == LISTEN else ""

    def _confirm(self, measured: Measured, found: KernelSocket, kind: Hashable) -> bool:
        """See that a process still runs what was measured before it was seen with this socket: then that held it.

        Raises:
            AttestationError: it is traced, or has ended.
        """
        pid = measured.process.pid
        measured.process.refuse_tracer(all_threads=False)
        measured.process.refuse_traced_threads()
        if not measured.is_current():
            self._known.drop(pid)
            return False
        self._known.remember(kind, pid, self._find_listener(measured, found))
        return True

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """End the block with ``deadline_exceeded`` when attestation stands still."""
        try:
            async with self._patience.wait():
                yield
        except TimeoutError as error:
            raise AttestationError("the attestation took too long", reason=Reason.DEADLINE_EXCEEDED) from error

    def _finish(self, pid: int, done: asyncio.Task[Measured]) -> None:
        del self._running[pid]
        self._measured += 1
        self._patience.note_progress()
        # Retrieved here as well: every waiter may have been cancelled.
        if not done.cancelled() and done.exception() is None:
            self._known.add(done.result(), now=asyncio.get_running_loop().time())
        self._fellows.answer(pid)
