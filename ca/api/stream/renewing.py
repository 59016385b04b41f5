"""A sidecar that comes back by its renewal key: proof → one transaction; a key used twice is an incident. I/O.

Belongs here: that order, and what follows from a copied key. Doesn't: the signature
(``ca/authenticate/renewal_key.py``), which keys count (``ca/store/renewal``), or opening the session (``joining.py``).

A key is used once: its successor comes with the same request. If it comes a second time with another successor, two
hold it, and which of them is genuine the CA can't tell. Whoever came first has a certificate by now, so both are
evicted: only a join token lets one of them in again.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ca.api.stream.second_sidecar import SecondSidecars
from ca.authenticate.join_token import digest_key
from ca.authenticate.renewal_key import Channel, digest_renewal_key, verify_renewal
from ca.authority.authorities import Authorities
from ca.distribution.hub import Hub
from ca.store.records import JoinGrant, SidecarRecord
from ca.store.renewal.renewal_keys import RenewalRefusedError, RenewalReusedError
from ca.store.store import Store
from shared.model.errors import ProtocolError, TouchmarkError
from shared.model.wire.messages import Renew
from shared.model.wire.registration import check_instance

_log = structlog.get_logger("touchmark.ca")


class Renewing:
    """Lets sidecars in by their renewal keys.

    Arguments:
        grace_s: for how long after its last certificate's end a sidecar may come back; 0: never.
    """

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        seconds: SecondSidecars,
        hub: Hub,
        grace_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._seconds = seconds
        self._hub = hub
        self._grace_s = grace_s
        self._clock = clock

    def digest_offer(self, renewal: bytes | None) -> bytes | None:
        """Return the digest of the key that a joining sidecar will come back by; None: it may not, or doesn't want to.

        Raises:
            VerificationError: the request doesn't hold.
        """
        return None if renewal is None or self._grace_s <= 0 else digest_key(renewal)

    def tell_grace(self, *, has_key: bool) -> int:
        """Return for how many seconds after its certificate's end a sidecar may come back; 0: it may not."""
        return int(self._grace_s) if has_key and self._grace_s > 0 else 0

    async def check(self, message: Renew, channel: Channel | None) -> None:
        """Check the proof, before anybody waits for the sidecar's turn.

        Raises:
            RenewalRefusedError: renewal keys don't count here, or there was no such key of this sidecar.
            VerificationError: the sender doesn't hold the key.
            ProtocolError: the stream has no nonce.
        """
        if self._grace_s <= 0:
            raise RenewalRefusedError("this CA takes no renewal keys (--renewal-grace-s 0)", reason="renewal_off")
        if channel is None:
            raise ProtocolError("no renewal on a stream without a nonce")
        instance = check_instance(message.registration.instance)
        await self._store.renewal_keys.check(digest_renewal_key(message.key), instance=instance)
        verify_renewal(message, channel, trust_domain=self._store.trust_domain)

    async def enter(self, message: Renew, *, origin: str) -> tuple[JoinGrant, SidecarRecord]:
        """Enter a sidecar whose proof was checked, in its instance's turn; use its key up.

        Raises:
            TouchmarkError: as ``Enrolment.enter_by_renewal``. After a ``RenewalReusedError`` the sidecar is evicted.
        """
        registration = message.registration

        async def enter(replaces: float | None) -> tuple[JoinGrant, SidecarRecord]:
            return await self._store.enrolment.enter_by_renewal(
                renewal_digest=digest_renewal_key(message.key),
                following_digest=digest_key(message.following),
                key_digest=digest_key(message.csr),
                registration=registration,
                grace_s=self._grace_s,
                now=self._clock(),
                replaces=replaces,
            )

        try:
            return await self._seconds.enter(registration.instance, enter, how="renew", origin=origin)
        except RenewalReusedError:
            await self._lock_out(registration.instance, origin=origin)
            raise

    async def _lock_out(self, instance: str, *, origin: str) -> None:
        await self._seconds.note(instance, how="renew", origin=origin)
        try:
            eviction = await self._store.evictions.evict(instance, now=self._clock())
        except TouchmarkError as error:
            # It is refused all the same, and whoever comes again by the key is refused anew.
            _log.error("renewal_reused_not_evicted", instance=instance, code=error.code, message=error.message)
            return
        self._hub.end_evicted(eviction.instances)
        await self._authorities.reload()  # Its listeners push the bundle.
        _log.warning("renewal_reused", instance=instance, origin=origin, certificates=eviction.certificates)
