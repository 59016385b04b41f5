"""The CA's signing process: started where there is much to sign, ended where there isn't, done without where it fails.

Belongs here: the process's life, and who signs meanwhile. Doesn't: its socket (``channel.py``), what it does
(``work.py``, ``__main__.py``).

It is there for speed: checking and signing are most of what a certificate takes, and beside the CA's event loop they
have a processor of their own. It has no part in what is decided or recorded: what it has signed is no certificate
before the CA has entered it in the ledger. So it may end at any moment: what it had before it is signed by the CA
itself, under another serial number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from cryptography import x509

from ca.authority.founding import Authority
from ca.evidence.csr import MAX_CSR_BYTES
from ca.signing.channel import Channel, ChannelLostError
from ca.signing.orders import Order
from ca.signing.signer import OwnSigner, Signed, Wanted
from ca.signing.work import make_error
from shared.model.identity.identity import format_spiffe_id

START_DEADLINE_S: Final = 30.0
# One that was ended for nothing, on a machine that was busy with something else, costs the CA some speed.
ANSWER_DEADLINE_S: Final = 5.0
# With so many certificates in a second they take a fifth of a processor; with fewer than one in a second, for so long,
# the process's memory is worth more.
MANY: Final = 200
FEW: Final = 60
FEW_FOR_S: Final = 60.0
# It isn't started again at once where it ends again and again.
MIN_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
# Of the CA's environment; the rest may hold the key-encryption key, or the database's password.
_KEPT_VARIABLES: Final = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TZ")

_log = structlog.get_logger("touchmark.ca")


class SigningProcess:
    """Signs in a process of its own while there is one, else in this one.

    Arguments:
        find_authority: returns the one that signs now.
        is_always: the process is started at once and stays; else while there is much to sign.
        note_lost: called each time that a process was lost, or couldn't be started.
        answer_deadline_s: as ``Channel`` has it.
        min_pause_s: before it is started again the first time.
        monotonic: seconds.
    """

    def __init__(
        self,
        find_authority: Callable[[], Authority],
        *,
        is_always: bool = False,
        note_lost: Callable[[], None] = lambda: None,
        answer_deadline_s: float = ANSWER_DEADLINE_S,
        min_pause_s: float = MIN_PAUSE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_authority = find_authority
        self._is_always = is_always
        self._note_lost = note_lost
        self._answer_deadline_s = answer_deadline_s
        self._min_pause_s = min_pause_s
        self._monotonic = monotonic
        self._own = OwnSigner()
        self._channel: Channel | None = None
        self._pid = 0
        self._is_wanted = asyncio.Event()
        self._signed = 0
        self._second, self._signed_before = 0, 0

    @property
    def pid(self) -> int:
        """Of the process that signs now; 0: this one does."""
        return self._pid

    async def sign(self, authority: Authority, wanted: Wanted) -> Signed:
        """Sign; errors are those of ``Signer``."""
        self._count()
        channel = self._channel
        if channel is None or len(wanted.csr_der) > MAX_CSR_BYTES:  # It is refused at once, and in no frame.
            return await self._own.sign(authority, wanted)
        serial = x509.random_serial_number()
        order = Order(
            channel.next_number(),
            wanted.csr_der,
            format_spiffe_id(wanted.identity),
            serial.to_bytes(20, "big"),
            wanted.now,
            wanted.lifetime_s,
            wanted.details.path,
            wanted.details.approved_by,
            wanted.details.instance,
        )
        try:
            answer = await channel.give(authority, order)
        except ChannelLostError:
            return await self._own.sign(authority, wanted)
        if answer.fault is not None:
            raise make_error(answer.fault)
        return Signed(serial=serial, der=answer.der, not_before=answer.not_before, not_after=answer.not_after)

    def note_authorities(self) -> None:
        """Hand over the authority that signs now, and so have the one before forgotten."""
        if self._channel is not None:
            self._channel.hand_over(self._find_authority())

    async def run(self) -> None:
        """Keep the process, as far as it is wanted, until cancelled."""
        pause_s = self._min_pause_s
        while True:
            if not self._is_always:
                await self._is_wanted.wait()
            began = self._monotonic()
            try:
                why = await self._keep()
            except (OSError, TimeoutError) as error:
                why = f"it can't be started: {error!r}"
            self._is_wanted.clear()
            if not why:
                continue
            lasted_s = self._monotonic() - began
            if lasted_s > MAX_PAUSE_S:
                pause_s = self._min_pause_s
            self._note_lost()
            _log.warning("signing_process_lost", why=why, lasted_s=round(lasted_s, 1), pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 2 * pause_s)

    async def _keep(self) -> str:
        """Start a process and have it sign; return why it doesn't any more, empty where it isn't wanted.

        Raises:
            OSError, TimeoutError: it doesn't start.
        """
        loop = asyncio.get_running_loop()
        channel = Channel(answer_deadline_s=self._answer_deadline_s)
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.callback(theirs.close)
            stack.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "ca.signing", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),), env=_make_environment(os.environ),
            )  # fmt: skip
            try:
                theirs.close()
                await loop.create_unix_connection(lambda: channel, sock=ours)
                channel.hand_over(self._find_authority())
                async with asyncio.timeout(START_DEADLINE_S):
                    outcomes: list[asyncio.Future[Any]] = [channel.ready, channel.lost]
                    await asyncio.wait(outcomes, return_when=asyncio.FIRST_COMPLETED)
                if not channel.lost.done():
                    self._channel, self._pid = channel, process.pid
                    _log.info("signing_process_started", pid=process.pid)
                return await self._wait(channel)
            finally:
                self._channel, self._pid = None, 0
                channel.end("it isn't wanted")
                await _end(process)

    async def _wait(self, channel: Channel) -> str:
        """Wait until it is lost, or isn't wanted any more."""
        while True:
            signed = self._signed
            await asyncio.wait([channel.lost], timeout=FEW_FOR_S)
            if channel.lost.done():
                return channel.lost.result()
            if not self._is_always and self._signed - signed < FEW:
                _log.info("signing_process_ended", why="little to sign")
                return ""

    def _count(self) -> None:
        """Have the process started where much is signed."""
        self._signed += 1
        if self._channel is not None or self._is_always:
            return
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._signed_before = second, self._signed
        elif self._signed - self._signed_before >= MANY:
            self._is_wanted.set()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a process, which keeps nothing, and reap it, also where this is cancelled meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    ended = asyncio.ensure_future(process.wait())
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        await ended
        raise


def _make_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what starts the same interpreter, with modules from where this process has its own and nowhere else.

    Else a CA that was started apart from its environment and working directory (``-I``, ``-P``, ``PYTHONSAFEPATH``)
    would hand its key to whatever these hold under the name of the signing process.
    """
    kept = {name: environment[name] for name in _KEPT_VARIABLES if name in environment}
    if sys.flags.ignore_environment:
        kept.pop("PYTHONHOME", None)
    if sys.flags.no_user_site:
        kept["PYTHONNOUSERSITE"] = "1"
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path)}
