"""Who acts in the current task: set where a request comes in, read where its act is stored. No I/O.

It is a context variable and no argument, because between the two lie all methods that change the store: one that forgot
to pass it on would write a line with the wrong name, and the default says only what is true of any code of the CA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from shared.model.wire.admin_audit import AuditActor

THE_CA: Final = AuditActor(kind="ca")
_acting: Final[ContextVar[AuditActor]] = ContextVar("touchmark_acting", default=THE_CA)


@contextlib.contextmanager
def acting_as(actor: AuditActor) -> Iterator[None]:
    """Have the block's acts, and those of tasks that it starts, recorded as this actor's."""
    token = _acting.set(actor)
    try:
        yield
    finally:
        _acting.reset(token)


def current_actor() -> AuditActor:
    """Return who acts: the CA by itself, unless a request is being served."""
    return _acting.get()
