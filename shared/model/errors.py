"""The one tree of errors, each with a stable code.

Belongs here: exceptions that cross a module's border. Doesn't: reasons of decisions (``policy/reasons.py``), which are
values and not failures. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class TouchmarkError(Exception):
    """A failure that a person may see: what happened, a stable code, and what to do next.

    Arguments:
        message: one sentence, without secrets.
        hint: what the reader can do about it; empty when there is nothing to do.

    Attributes:
        reason: what a record or an answer calls it; the code, where an error has nothing more exact.
    """

    code: ClassVar[str] = "touchmark_error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason: str = self.code


class InputError(TouchmarkError):
    """The user's input can't be used: an option, a file, a name."""

    code = "bad_input"
    exit_code = 2


class DocumentError(InputError):
    """A YAML document is invalid, at a line and a path inside it.

    Arguments:
        line: 1-based line in the source, 0 when unknown.
        path: dotted path inside the document, such as ``spec.rules[0].ports``.
    """

    code = "bad_document"

    def __init__(self, message: str, *, source: str = "", line: int = 0, path: str = "", hint: str = "") -> None:
        place = ":".join(part for part in (source, str(line) if line else "") if part)
        where = " ".join(part for part in (place, path) if part)
        super().__init__(f"{where}: {message}" if where else message, hint=hint)
        self.source = source
        self.line = line
        self.path = path


class IdentityError(TouchmarkError):
    """A SPIFFE ID, workload or program name is malformed."""

    code = "bad_identity"
    exit_code = 2


class NotFoundError(TouchmarkError):
    """A named thing doesn't exist."""

    code = "not_found"
    exit_code = 4


class ConflictError(TouchmarkError):
    """A compare-and-swap lost, or the state doesn't allow this transition now."""

    code = "conflict"
    exit_code = 5


class UnavailableError(TouchmarkError):
    """Something that this needs can't be reached or doesn't answer in time: the CA, its store, a socket."""

    code = "unavailable"
    exit_code = 6


class TooManyRequestsError(UnavailableError):
    """The CA answers as many questions as it does at once, in all or of this caller."""

    code = "too_many_requests"


class RefusedError(TouchmarkError):
    """The other side understood and refused: a join token that was spent, a certificate that policy denies."""

    code = "refused"
    exit_code = 7


class BlockedError(RefusedError):
    """Explicit mode would refuse connections that were seen, so the switch isn't made."""

    code = "blocked"


class NotAuthenticatedError(RefusedError):
    """The CA doesn't know who asks on its admin port: no credentials, or none that hold."""

    code = "not_authenticated"


class NotAllowedError(RefusedError):
    """The CA knows who asks, and that user doesn't have the role that the request needs."""

    code = "not_allowed"


class MachineError(TouchmarkError):
    """This machine lacks something: a capability, a program, a kernel feature."""

    code = "machine"
    exit_code = 8


class VerificationError(TouchmarkError):
    """A peer's certificate or evidence doesn't hold. The peer's fault, never ours.

    Arguments:
        reason: the reason code (a ``Reason`` value) that a decision records for it.
    """

    code = "verification_failed"
    exit_code = 7

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class ProtocolError(TouchmarkError):
    """A peer broke the tunnel's or the stream's protocol. The peer's fault, never ours."""

    code = "protocol_error"


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Have a refusal of an option's or a variable's value say whose value it is."""
    try:
        yield
    except (InputError, IdentityError) as error:
        # Others, such as a document's fault, are built of other parts, and say their place.
        if option in error.message or type(error) not in (InputError, IdentityError):
            raise
        raise type(error)(f"{option}: {error.message}", hint=error.hint) from error
