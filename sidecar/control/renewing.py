"""How a sidecar outside Kubernetes proves itself: by a join token, then by its renewal key. I/O: its file.

Belongs here: which of both. Doesn't: the key (``sidecar/credential/renewal_key.py``), the stream (``feed.py``). A new
join token wins over a key that is kept: somebody has decided anew.
"""

from __future__ import annotations

import time
from typing import ClassVar

from shared.model.errors import UnavailableError
from shared.model.identity.identity import Workload, parse_workload
from shared.model.trust.join_token import JoinToken, format_join_token
from shared.model.trust.renewal import parse_nonce
from shared.model.wire.messages import Enrol, Registration, Renew, Welcome
from sidecar.control.ca_dial import fetch_pinned_root
from sidecar.control.joining import Greeting
from sidecar.credential.credential import check_chain_time
from sidecar.credential.renewal_key import RenewalKey

_FIRST_PROTOCOL_WITH_RENEWAL = 2


class ByRenewal:
    """A join token until the CA has this sidecar's renewal key, that key from then on.

    Arguments:
        token: None where the key is known to the CA.
    """

    is_repeatable: ClassVar[bool] = False

    def __init__(self, renewal: RenewalKey, token: JoinToken | None) -> None:
        self.renewal = renewal
        self._token = token

    @property
    def can_heal(self) -> bool:
        """Tell whether the CA has the key."""
        return self.renewal.is_known

    @property
    def trust_domain(self) -> str:
        """The one that the sidecar joined."""
        return self.renewal.kept.trust_domain

    @property
    def workload(self) -> Workload:
        """The one that the join token named."""
        return parse_workload(self.renewal.kept.workload)

    async def find_roots(
        self, ca: tuple[str, int], installed: tuple[bytes, ...], *, mark: int, timeout_s: float
    ) -> tuple[bytes, ...]:
        """Return the bundle's roots, as they were kept; before there is a bundle, the one that the token pins."""
        roots = installed or self.renewal.kept.roots
        if roots or self._token is None:
            return roots
        return (await fetch_pinned_root(ca, self._token.root_pin, mark=mark, timeout_s=timeout_s),)

    async def introduce(self, csr: bytes, registration: Registration, greeting: Greeting) -> Enrol | Renew:
        """Use the key where the CA has it; else send the token, and offer the key."""
        if not self.renewal.is_known and self._token is not None:
            return Enrol(
                token=format_join_token(self._token),
                csr=csr,
                registration=registration,
                renewal=await self.renewal.offer() if greeting.protocol >= _FIRST_PROTOCOL_WITH_RENEWAL else None,
            )
        if greeting.protocol < _FIRST_PROTOCOL_WITH_RENEWAL:
            raise UnavailableError("the CA is of release 0.1 and knows no renewal keys", hint="upgrade the CA")
        return await self.renewal.renew(
            csr, registration, nonce=parse_nonce(greeting.nonce), server_certificate=greeting.server_certificate
        )

    async def keep(self, welcome: Welcome) -> None:
        """Take the welcome's roots, and whether the CA has the key.

        Raises:
            UnavailableError: as ``Joining.keep``.
            CredentialError: a renewal's certificate isn't valid by this machine's clock, or can't be read. The same
                key asks again, however long it takes: else each try would use up another one.
        """
        if self.renewal.is_renewing:
            check_chain_time(welcome.chain, time.time())
        # The one that answers a resumption brings no certificate.
        await self.renewal.keep(grace_s=welcome.grace_s, roots=welcome.bundle.roots, has_joined=bool(welcome.chain))

    async def keep_roots(self, roots: tuple[bytes, ...]) -> None:
        """Take the roots of another trust bundle."""
        await self.renewal.keep_roots(roots)
