"""Telling a namespace of which there is nothing to show from one that nobody knows, such as a misspelt one.

Belongs here: what is asked once an answer was empty. Doesn't: a mode that would be in force for nothing
(``mode_switch.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.model.errors import NotFoundError, TouchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cli.backends.base import PolicyBackend
    from cli.backends.target import Target


def refuse_unknown(target: Target, namespace: str) -> None:
    """Refuse to show nothing of a namespace that nobody knows.

    Arguments:
        namespace: empty: all, which is never unknown.

    Raises:
        NotFoundError: there is no such namespace.
    """
    from cli.backends.session import work_on_policies

    if namespace:
        work_on_policies(target, lambda backend: check_known(backend, namespace))


async def check_known(backend: PolicyBackend, namespace: str) -> None:
    """Check that a namespace has a sidecar, a policy or an approved program; in a cluster, that it is there.

    Raises:
        NotFoundError: it isn't so. Where it can't be asked, nothing is raised: the question itself was answered.
    """
    try:
        state = await backend.get_mode(namespace)
        if state.version or state.total or state.wanted is not None:
            return
        known = (await backend.look_around()).namespaces
    except TouchmarkError:
        return
    if known is not None and namespace not in known:
        raise NotFoundError(
            f"there is no namespace {namespace}: nothing is known of it", hint=suggest_namespace(namespace, known)
        )


def suggest_namespace(namespace: str, known: Iterable[str]) -> str:
    """Return what a namespace's name may have been meant to be, or where names are found."""
    from difflib import get_close_matches

    close = get_close_matches(namespace, sorted(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "`touchmark status` lists those with sidecars"
