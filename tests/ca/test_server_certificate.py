"""The CA's own certificate: names, renewal while connections run, and TLS 1.3 alone."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from ca.server_certificate import LIFETIME_S, ServerCertificate
from shared.model.errors import InputError
from shared.model.messages import DirectoryEntry, Lookup
from tests.ca.founded import NOW, TRUST_DOMAIN, opened
from tests.ca.running import FakeSidecar, make_client_context, running_ca


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


async def test_tls_1_2_is_refused(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        context = make_client_context(services)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown(services.listen, context)


async def test_it_is_due_at_half_its_life_and_when_the_bundle_changes(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        certificate = ServerCertificate(core.authorities, trust_domain=TRUST_DOMAIN, host="127.0.0.1")
        assert certificate.is_due(now=NOW)
        certificate.renew(now=NOW)
        assert not certificate.is_due(now=NOW + LIFETIME_S / 2 - 60)
        assert certificate.is_due(now=NOW + LIFETIME_S / 2 + 60)


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
            ServerCertificate(core.authorities, trust_domain=TRUST_DOMAIN, host="127.0.0.1", names=("bücher",))
