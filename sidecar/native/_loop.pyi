from typing import final

WAITING: int
ENDED: int
BROKEN: int
BLOCKED: int
LIMIT: int
FAILED: int

BUDGET_BYTES: int
RECORD_BYTES: int
FILLED_BYTES: int
HEADER_BYTES: int
OVERHEAD_BYTES: int
FRAME_DATA: int
SOURCE_DIGEST: str  # Of what it was made from; `build.py` looks for it in the file.

def scan(directory: int, limit: int, /) -> tuple[int, int, bytes, bytes]:
    """Read the descriptor table behind an open ``/proc/<pid>/fd``, as many descriptors as the limit says.

    Returns:
        errno: 0, or why the table couldn't be read to its end.
        looked: descriptors looked at.
        sockets: of each socket its inode and descriptor, ``=QI4x``.
        rings: descriptors of io_uring instances, ``=I``.
    """

def find(directory: int, inodes: bytes, limit: int, /) -> tuple[int, int, bytes]:
    """Find sockets in such a table, the newest descriptors first; it isn't looked at if it has more than the limit.

    Arguments:
        inodes: ``=Q`` each, ascending, none twice.

    Returns:
        errno: as of ``scan``.
        looked: descriptors looked at, or more than the limit.
        sockets: those that were found, as of ``scan``.
    """

def look(
    descriptors: int, inode: int, hints: bytes, status: int | None, maps: int, directory: int, /
) -> tuple[int, int, int, int, tuple[int, int, int, int, int]] | None:
    """Look whether a process has a socket at one of these descriptors (``=I`` each), and then what it runs.

    Arguments:
        descriptors, status, maps, directory: open ``/proc/<pid>/fd`` and so on; no status: no tracer is looked for.

    Returns:
        None when the socket isn't there; else its descriptor, errno (EPROTO: no status), who traces the process,
        whether its memory is in use, and its executable: device, inode, size, mtime and ctime in ns. What wasn't looked
        at after an errno or a tracer is 0.
    """

def lookup(
    netlink: int, request: bytes, sequence: int, /
) -> tuple[int, int, bytes, int, bytes, int, int, int, int, int] | None:
    """Ask sock_diag for one socket.

    Arguments:
        sequence: of the request.

    Returns:
        Family, state, own address and port, peer's address and port, user, inode, cookie, bytes received or -1. None
        when 64 messages came and none of them is the answer.

    Raises:
        OSError: the kernel's error (ENOENT: there is no such socket); EBADMSG: its answer can't be read;
            BlockingIOError: there is none.
    """

def parse(reply: bytes, sequence: int, /) -> tuple[int, int, bytes, int, bytes, int, int, int, int, int] | None:
    """Read one reply as ``lookup`` does; for tests."""

@final
class Loop:
    """OpenSSL's functions by their addresses, and what is done with them. No call waits for a socket."""

    def __new__(cls, read: int, write: int, get_error: int, clear: int, /) -> Loop: ...
    def send(
        self, tls: int, source: int, epoch: int, room: int, tunnel: int, /
    ) -> tuple[int, int, int, list[bytes] | None, int, int]:
        """Read ``source`` and write DATA frames of ``epoch``, or with -1 no frames, as TLS records.

        Arguments:
            tls: address of the SSL object.
            room: bytes that may still be encrypted with this key; the record that passes it is the last.
            tunnel: the socket that TLS writes to, or -1. Where it is TCP's, several records leave it together, at the
                latest when the call returns.

        Returns:
            status: WAITING, ENDED, BROKEN (``errno``), BLOCKED, LIMIT, FAILED (``result`` of SSL_write, ``errno``).
            taken: bytes that were read; after FAILED without those that weren't written.
            used: bytes of the key, records' overhead included.
            rest: records that weren't written, after BLOCKED or LIMIT; the first one perhaps without its beginning.
        """

    def receive(
        self, tls: int, sink: int, epoch: int, room: int, /
    ) -> tuple[int, int, bytes | None, bytes | None, int, int, int]:
        """Read TLS records and write DATA frames of ``epoch``, or with -1 everything, to ``sink``.

        Returns:
            written: bytes that ``sink`` has taken.
            used: bytes of the peer's key, records' overhead included.
            rest: payload that ``sink`` didn't take.
            left: what was read behind it: another frame, or a part of one, at its beginning.
            broken: errno of ``sink``, which then got nothing of what came last; else 0.
            result: of SSL_read where that failed, with ``errno``; else 1.
        """

    def functions(self) -> tuple[int, int, int, int]:
        """Return the addresses."""

    def forward(self, source: int, sink: int, /) -> tuple[int, int, bytes | None, int, int]:
        """Read ``source`` and write to ``sink``.

        Returns:
            status: WAITING, ENDED or BROKEN (``errno``), of ``source``.
            written: bytes that ``sink`` has taken.
            rest: what it didn't.
            broken: errno of ``sink``; else 0.
        """

@final
class Proof:
    """That a process still runs what was attested: looked at again by the mover's thread once the last look is old.

    Arguments:
        memory: who owns the descriptors.
        maps, directory: open ``/proc/<pid>/maps`` and ``/proc/<pid>``.
        device, inode: of the executable.
        max_age_ns: for so long a look counts.
    """

    def __new__(
        cls, memory: object, maps: int, directory: int, device: int, inode: int, max_age_ns: int, /
    ) -> Proof: ...

@final
class Mover:
    """A thread that moves the bytes of connections that are lent to it. Everything is called by one thread.

    Arguments:
        read, write, get_error, clear: as of ``Loop``.
        take_error: ``ERR_get_error``.

    Raises:
        OSError: no thread, or no descriptor.
    """

    def __new__(cls, read: int, write: int, get_error: int, clear: int, take_error: int, /) -> Mover: ...
    def allow(self, duration_ns: int, /) -> None:
        """Let the thread move bytes for so long from now; after that everything comes back when it could be moved."""

    def lend(
        self, tls: int, application: int, tunnel: int, epoch: int, send_room: int, receive_room: int,
        proof: Proof | None, is_held: bool, /,
    ) -> int:  # fmt: skip
        """Have the thread do for both directions what ``Loop.send`` and ``Loop.receive`` do; return the stay's number.

        Until ``recall`` nobody else may use the sockets and the TLS object, which stay open.

        Arguments:
            proof: is looked at before each budget; None: nothing is.
            is_held: the application isn't read: once it can be, or has ended, the connection comes back.

        Raises:
            OSError: the kernel doesn't wait for one more, or there is no memory.
        """

    def recall(
        self, number: int, /
    ) -> tuple[
        int, int, int, int,
        tuple[int, list[bytes] | None, int, int, int] | None,
        tuple[bytes | None, bytes | None, int, int, int, int] | None,
    ]:  # fmt: skip
        """End a stay, at the latest after the budget that is being moved.

        Returns:
            taken, send_used: bytes from the application, and of this end's key.
            written, receive_used: bytes that the application has taken, and of the peer's key.
            upward: if that direction ended the stay, or waits for the tunnel (BLOCKED), as of ``Loop.send``: status,
                rest, result, errno, OpenSSL's error.
            downward: likewise, as of ``Loop.receive``: rest, left, broken, result, errno, OpenSSL's error. What only
                waits for the application is the rest alone.

        Raises:
            MemoryError: bytes are lost.
            ValueError: no such stay.
        """

    def counts(self, number: int, /) -> tuple[int, int]:
        """Return the bytes taken and written so far; waits for the budget that is being moved."""

    def collect(self) -> list[int]:
        """Return which connections have come back by themselves since the last call; each one is to be recalled."""

    def fileno(self) -> int:
        """Return a descriptor that can be read when there are some."""

    def stop(self) -> None:
        """End the thread; what is lent moves no more, and can be recalled.

        Raises:
            OSError: it doesn't end.
        """
