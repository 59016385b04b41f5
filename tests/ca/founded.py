"""A CA's core for tests: a real SQLite file, real keys, and what a sidecar would send."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.authorities import Authorities
from ca.authority.kek import KekOrigin, KeyEncryptionKey
from ca.authority.published_roots import NotPublished, PublishedRoots
from ca.issuance import Issuance
from ca.rotation.gates import ActivationGate, Pace, RetirementGate
from ca.rotation.rotation import Rotation
from ca.store.records import JoinGrant
from ca.store.store import Store
from shared.model.identity.identity import Workload
from shared.model.wire.messages import Registration
from tests.ca.migrated import provide_sqlite

NOW = 1_790_000_000.0
TRUST_DOMAIN = "touchmark.local"
WEB = Workload(namespace="shop", service_account="web")
DATABASE = Workload(namespace="shop", service_account="db")
# Where a store is that a test opens by a directory: tests/ca/conftest.py puts a database in its place.
locate: Callable[[Path], str | Path] = Path
# Makes the tables there by copying them, unless a store is there.
provide: Callable[[Path], None] = provide_sqlite
KEK = KeyEncryptionKey(key=bytes(range(32)), origin=KekOrigin.FILE)


@dataclass(kw_only=True)
class Founded:
    """An open CA core."""

    store: Store
    authorities: Authorities
    issuance: Issuance


@asynccontextmanager
async def opened(
    directory: Path, *, now: float = NOW - 1, kek: KeyEncryptionKey = KEK, replica: str = ""
) -> AsyncIterator[Founded]:
    """Open, or open again, the CA core in a directory."""
    provide(directory)
    store = await Store.open(locate(directory), trust_domain=TRUST_DOMAIN, replica=replica)
    try:
        authorities = await Authorities.open(store, kek, now=now)
        yield Founded(store=store, authorities=authorities, issuance=Issuance(store, authorities))
    finally:
        await store.close()


def make_rotation(
    store: Store,
    authorities: Authorities,
    *,
    minimum_s: float = 0.0,
    delivery_s: float = 0.0,
    published: PublishedRoots | None = None,
    is_leader: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.time,
) -> Rotation:
    """Make what rotates a core's authorities; without further words nothing is published and no step waits long."""
    pace = Pace(minimum_s=minimum_s, settling_s=0.0, delivery_s=delivery_s)
    activation = ActivationGate(store, published=published or NotPublished(), pace=pace)
    return Rotation(
        store,
        authorities,
        activation=activation,
        retirement=RetirementGate(store, activation=activation),
        is_leader=is_leader,
        clock=clock,
    )


def make_csr(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Make a certificate request with a name that nobody may take from it."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "spiffe://evil/ns/a/sa/b/sidecar")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def registration(instance: str, *addresses: str) -> Registration:
    """Say what a sidecar says of itself."""
    return Registration(instance=instance, version="0.1", addresses=addresses, tunnel_port=15008, capture="listeners")


async def join(
    core: Founded, instance: str, workload: Workload = WEB, *addresses: str, key: bytes = b"key", now: float = NOW
) -> JoinGrant:
    """Join a sidecar by a token and register its addresses."""
    record, secret = await core.store.join_tokens.create(
        workload=workload, addresses=addresses, labels={}, expires=now + 600, now=now
    )
    return await spend(core.store, record.token_id, secret, instance, *addresses, key=key, now=now)


async def spend(
    store: Store, token_id: str, secret: str, instance: str, *addresses: str, key: bytes = b"key", now: float = NOW
) -> JoinGrant:
    """Spend a join token and register a sidecar, as one whose public key has this digest."""
    grant, _ = await store.enrolment.enter_by_token(
        token_id=token_id, secret=secret, key_digest=key, registration=registration(instance, *addresses), now=now
    )
    return grant
