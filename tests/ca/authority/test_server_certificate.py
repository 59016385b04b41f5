"""The CA's own certificate: names, renewal while connections run, and TLS 1.3 alone."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509

from ca.authority.published_roots import NotPublished, PublishedRoots
from ca.authority.server_certificate import LIFETIME_S, ServerCertificate
from shared.model.errors import InputError
from shared.model.identity.identity import Workload
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import RotationKind, public_key_digest
from shared.model.trust.root_hint import format_root_hint
from shared.model.wire.messages import DirectoryEntry, Enrol, Lookup, Refusal, Resume, Welcome
from tests.ca.founded import NOW, TRUST_DOMAIN, Founded, make_rotation, opened
from tests.ca.running import FakeSidecar, ShiftedClock, make_client_context, make_registration, make_token, running_ca


def make_certificate(
    core: Founded, *, names: Sequence[str] = (), published: PublishedRoots | None = None
) -> ServerCertificate:
    return ServerCertificate(
        core.authorities,
        trust_domain=TRUST_DOMAIN,
        host="127.0.0.1",
        names=names,
        published=published or NotPublished(),
    )


async def shown(listen: str, context: ssl.SSLContext) -> x509.Certificate:
    host, _, port = listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    del reader
    return x509.load_der_x509_certificate(der)


async def test_a_renewal_is_served_at_once_and_open_streams_live_on(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        context = make_client_context(services)
        first = await shown(services.listen, context)
        services.server_certificate.renew(now=services.clock())
        second = await shown(services.listen, context)
        assert first.serial_number != second.serial_number
        assert first.public_key() != second.public_key()
        await sidecar.send(Lookup(address="198.18.0.2"))
        assert isinstance(await sidecar.receive(), DirectoryEntry)


async def test_after_a_rotation_the_new_issuer_signs_it_and_new_certificates_are_let_in(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        before = await shown(services.listen, make_client_context(services))
        await services.rotation.start(force=True)
        after = await shown(services.listen, make_client_context(services))
        assert after.issuer != before.issuer
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a")
            pem = sidecar.write_pem(tmp_path / "a.pem")
        async with FakeSidecar(services, make_client_context(services, pem)) as again:
            assert (await again.resume("a")).chain == ()


async def test_a_sidecar_shows_its_own_certificate_alone_and_one_of_a_tainted_issuer_is_told(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a")
            sidecar.chain = sidecar.chain[:1]
            pem = sidecar.write_pem(tmp_path / "a.pem")
        former = services.authorities.active.authority_id
        for force in (False, True):
            async with FakeSidecar(services, make_client_context(services, pem)) as again:
                assert (await again.resume("a")).chain == ()
            await services.rotation.start(force=force)
        await services.rotation.taint(former)
        async with FakeSidecar(services, make_client_context(services, pem)) as again:
            await again.send(Resume(registration=make_registration("a"), installed_sequence=0))
            refusal = await again.receive()
            assert isinstance(refusal, Refusal) and refusal.code == Reason.PEER_UNTRUSTED


async def test_tls_1_2_is_refused(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        context = make_client_context(services)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown(services.listen, context)


async def test_it_is_due_at_half_its_life_and_when_the_bundle_changes(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        certificate = make_certificate(core)
        assert certificate.is_due(now=NOW)
        certificate.renew(now=NOW)
        assert not certificate.is_due(now=NOW + LIFETIME_S / 2 - 60)
        assert certificate.is_due(now=NOW + LIFETIME_S / 2 + 60)


async def test_one_that_was_made_by_a_clock_that_was_ahead_is_made_anew_once_it_is_right(tmp_path: Path) -> None:
    """Nobody would take it until it begins."""
    async with opened(tmp_path / "d") as core:
        certificate = make_certificate(core)
        certificate.renew(now=NOW + 3_600.0)
        assert not certificate.is_due(now=NOW + 3_600.0 - 30.0)
        assert certificate.is_due(now=NOW)
        certificate.renew(now=NOW)
        assert not certificate.is_due(now=NOW)


async def test_a_wildcard_stands_for_the_loopback_and_names_are_added(tmp_path: Path) -> None:
    async with running_ca(tmp_path, host="0.0.0.0", names=("CA.shop.test", "198.18.0.1")) as services:
        port = services.listen.rpartition(":")[2]
        certificate = await shown(f"127.0.0.1:{port}", make_client_context(services))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "ca.shop.test"}
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1", "198.18.0.1"}
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://touchmark.local/touchmark/ca"]


async def test_a_name_that_no_certificate_can_bear_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        with pytest.raises(InputError):
            make_certificate(core, names=("bücher",))


def trust_only(root: bytes, pem: Path | None = None) -> ssl.SSLContext:
    """A client that knows one root, and the CA by its SPIFFE ID."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=root)
    if pem is not None:
        context.load_cert_chain(pem)
    return context


def hint(*roots: bytes) -> str:
    return format_root_hint([public_key_digest(x509.load_der_x509_certificate(root)) for root in roots])


async def shown_to(listen: str, root: bytes, name: str) -> x509.Certificate:
    """The certificate that a client gets that trusts one root and says a name; it holds, or this raises."""
    host, _, port = listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trust_only(root), server_hostname=name)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    del reader
    return x509.load_der_x509_certificate(der)


async def test_while_a_root_is_rotated_each_client_is_shown_a_chain_to_a_root_that_it_knows(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        await make_token(services)  # It holds the old root.
        await services.rotation.start(kind=RotationKind.ROOT, force=True)
        old, new = services.authorities.bundle().roots
        for root, name in ((old, hint(old)), (new, hint(new)), (new, hint(old, new)), (new, "ca.example")):
            leaf = await shown_to(services.listen, root, name)
            assert leaf.issuer != x509.load_der_x509_certificate(root).subject
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown_to(services.listen, old, "ca.example")


class HalfPublished(NotPublished):
    """A root that nobody can know yet who doesn't say so."""

    def __init__(self, root: bytes) -> None:
        self._root = root

    def is_known(self, root: bytes) -> bool:
        return root != self._root


async def test_a_root_that_cannot_be_known_yet_is_shown_only_to_a_client_that_says_it_knows_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.join_tokens.create(
            workload=Workload(namespace="shop", service_account="web"),
            addresses=(),
            labels={},
            expires=NOW + 3600,  # It holds the old root.
            now=NOW,
        )
        await make_rotation(core.store, core.authorities).start(kind=RotationKind.ROOT, force=True, now=NOW)
        old, new = core.authorities.bundle().roots
        certificate = make_certificate(core, published=HalfPublished(new))
        certificate.renew(now=time.time())
        server = await asyncio.start_server(
            lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context
        )
        async with server:
            listen = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await shown_to(listen, old, "ca.example")
            await shown_to(listen, new, hint(new))
            with pytest.raises(ssl.SSLCertVerificationError):
                await shown_to(listen, new, "ca.example")


async def test_a_prepared_root_is_shown_to_nobody_but_whoever_knows_it_alone(tmp_path: Path) -> None:
    """Its join token may come from a replica that is a moment ahead of this one."""
    async with running_ca(tmp_path, rotation_minimum_wait_s=600) as services:
        await services.rotation.start(kind=RotationKind.ROOT)
        old, new = services.authorities.bundle().roots
        for name in ("ca.example", hint(old), hint(old, new)):
            await shown_to(services.listen, old, name)
        await shown_to(services.listen, new, hint(new))


async def test_a_token_and_a_certificate_of_the_old_root_open_the_door_until_it_retires(tmp_path: Path) -> None:
    clock = ShiftedClock()
    async with running_ca(tmp_path, clock=clock) as services:
        old = services.authorities.bundle().roots[0]
        token = await make_token(services)
        async with FakeSidecar(services) as away:
            await away.enrol("away")
            pem = away.write_pem(tmp_path / "away.pem")
        await services.rotation.start(kind=RotationKind.ROOT, force=True)
        name = hint(old)
        async with FakeSidecar(services, trust_only(old, pem), server_name=name) as away:
            assert len((await away.resume("away")).bundle.roots) == 2
        async with FakeSidecar(services, trust_only(old), server_name=name) as late:
            await late.send(Enrol(token=token, csr=late.csr, registration=make_registration("late")))
            welcome = await late.receive()
            assert isinstance(welcome, Welcome)
            issuer = x509.load_der_x509_certificate(welcome.chain[1])
            assert issuer.issuer == services.authorities.snapshot.root.certificate.subject
        clock.shift_s = services.issuance.leaf_lifetime_s + 100
        await services.rotation.advance(services.clock())
        assert services.authorities.bundle().roots != (old,)
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown_to(services.listen, old, name)


async def test_an_old_issuer_that_ends_takes_only_its_own_certificate_along(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        certificate = make_certificate(core)
        late = NOW + 89 * 86_400
        await core.store.join_tokens.create(
            workload=Workload(namespace="shop", service_account="web"),
            addresses=(),
            labels={},
            expires=late * 2,
            now=NOW,
        )
        await make_rotation(core.store, core.authorities).start(kind=RotationKind.ROOT, force=True, now=late)
        certificate.renew(now=late)
        assert [each.root for each in certificate._served] == [*reversed(core.authorities.bundle().roots)]
        certificate.renew(now=late + 86_400 - 30)
        assert [each.root for each in certificate._served] == [core.authorities.bundle().roots[1]]
