"""What a ``Program`` object is called when nobody names it: no approval replaces one of other programs. Pure.

Belongs here: the name, and which one is free. Doesn't: who writes the object (the CA, or a command in a cluster).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from shared.model.errors import ConflictError
from shared.model.identity.program import Program

_MAX_CHARACTERS = 253
_DIGITS = 12


def choose_name(
    service_account: str, programs: Sequence[Program], kept: Mapping[str, tuple[str, Sequence[Program]]]
) -> str:
    """Return the name of the object that approves these programs.

    One program without a main script gives its digest's first digits; else they are of a digest of all of them. Where
    an object of the first name approves something else as well (0.1 named it after one of its programs), it is left.

    Arguments:
        kept: service account and programs of the namespace's objects, by name.

    Raises:
        ConflictError: objects of both names approve something else.
    """
    names = list_names(service_account, programs)
    for name in names:
        account, approved = kept.get(name, (service_account, ()))
        if account == service_account and set(approved) <= set(programs):
            return name
    raise ConflictError(
        f"Program {names[-1]} approves other programs, which would lose their approval", hint="give --name"
    )


def list_names(service_account: str, programs: Sequence[Program]) -> list[str]:
    """Return the names that ``choose_name`` chooses from, the first choice first."""
    text = "\n".join([service_account, *sorted({str(program) for program in programs})])
    names = [_join(service_account, hashlib.sha256(text.encode()).hexdigest())]
    if len(programs) == 1 and not programs[0].main:
        names.insert(0, _join(service_account, programs[0].digest))
    return names


def _join(service_account: str, digits: str) -> str:
    return f"{service_account[: _MAX_CHARACTERS - 1 - _DIGITS]}-{digits[:_DIGITS]}"
