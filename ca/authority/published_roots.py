"""Where else than in the trust bundle the CA's roots are named. Pure.

Belongs here: what a rotation of the root and the CA's own server certificate ask about those places, and the answer of
a CA that has none. Doesn't: the places in a cluster (``ca/kubernetes/webhook_objects/cluster_roots.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class PublishedRoots(Protocol):
    """The places outside the CA that name its roots."""

    def list_lacking(self, root: bytes) -> Sequence[str]:
        """Return the places that lack a root (DER), for people."""
        ...

    def is_known(self, root: bytes) -> bool:
        """Tell whether a TLS client that doesn't say which roots it knows can know this one (DER) by now."""
        ...


class NotPublished:
    """No such places: a CA outside a cluster, or one without the webhook."""

    def list_lacking(self, _root: bytes) -> Sequence[str]:
        """Return nothing."""
        return ()

    def is_known(self, _root: bytes) -> bool:
        """Return True: sidecars say which roots they know."""
        return True
