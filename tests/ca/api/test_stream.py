"""The sidecars' stream against a real CA: TLS 1.3 on 127.0.0.1, a real store, a real WebSocket client."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.app import run_ca
from ca.configuration import Configuration
from ca.services import Services
from shared.model.identity import Workload
from shared.model.join_token import JoinToken, format_join_token
from shared.model.messages import (
    STREAM_PATH,
    BundleChanged,
    BundleInstalled,
    CertificateIssued,
    CertificateRequest,
    DirectoryEntry,
    Enrol,
    FromCA,
    FromSidecar,
    Lookup,
    NamespaceChanged,
    Refusal,
    Registration,
    Reissue,
    Resume,
    Welcome,
    decode_from_ca,
    encode_message,
)
from shared.model.policy import Mode
from shared.model.program import Program


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    configuration = Configuration(
        data_dir=tmp_path / "data", kek_file=tmp_path / "kek", admin_socket=tmp_path / "a.sock", port=0
    )
    async with run_ca(configuration) as running:
        yield running


def make_csr() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key, csr.public_bytes(Encoding.DER)


async def make_token(services: Services, *addresses: str, account: str = "web") -> str:
    now = services.clock()
    record, secret = await services.store.create_join_token(
        workload=Workload(namespace="shop", service_account=account),
        addresses=addresses,
        labels={},
        expires=now + 60,
        now=now,
    )
    return format_join_token(
        JoinToken(
            token_id=record.token_id,
            secret=secret,
            ca=services.listen,
            trust_domain="touchmark.local",
            root_pin=services.authorities.root_pin,
            workload=f"shop/{account}",
        )
    )


def make_registration(instance: str, *addresses: str) -> Registration:
    return Registration(instance=instance, version="0", addresses=addresses, tunnel_port=15008, capture="listeners")


class Client:
    def __init__(self, services: Services, pem: bytes = b"", folder: Path | None = None) -> None:
        self._services = services
        context = ssl.create_default_context(cadata=services.authorities.bundle().roots[0])
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if pem and folder is not None:
            path = folder / "client.pem"
            path.write_bytes(pem)
            context.load_cert_chain(path)
            os.unlink(path)
        self._connect = websockets.connect(f"wss://{services.listen}{STREAM_PATH}", ssl=context, proxy=None)

    async def __aenter__(self) -> Client:
        self._stream = await self._connect.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._stream.close()

    async def send(self, message: FromSidecar) -> None:
        await self._stream.send(encode_message(message))

    async def send_raw(self, data: bytes) -> None:
        await self._stream.send(data)

    async def receive(self) -> FromCA:
        async with asyncio.timeout(10):
            data = await self._stream.recv(decode=False)
        return decode_from_ca(data)


async def test_a_sidecar_joins_gets_a_certificate_and_hears_of_changes(services: Services, tmp_path: Path) -> None:
    key, csr = make_csr()
    async with Client(services) as client:
        registration = make_registration("a", "198.18.0.2")
        await client.send(Enrol(token=await make_token(services, "198.18.0.2"), csr=csr, registration=registration))
        welcome = await client.receive()
        assert isinstance(welcome, Welcome)
        assert len(welcome.chain) == 2
        _, program_csr = make_csr()
        await client.send(CertificateRequest(request=7, csr=program_csr, program=Program(digest="ab" * 32)))
        issued = await client.receive()
        assert isinstance(issued, CertificateIssued)
        assert issued.request == 7
        await client.send(Lookup(address="198.18.0.2"))
        entry = await client.receive()
        assert isinstance(entry, DirectoryEntry)
        assert (entry.namespace, entry.service_account) == ("shop", "web")
        await services.store.set_mode("shop", Mode.EXPLICIT)
        changed = await client.receive()
        assert isinstance(changed, NamespaceChanged)
        assert changed.state.mode is Mode.EXPLICIT
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem += b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in welcome.chain)
    async with Client(services, pem, tmp_path) as client:
        await client.send(Resume(registration=registration, installed_sequence=welcome.bundle.sequence))
        again = await client.receive()
        assert isinstance(again, Welcome)
        assert again.chain == ()
        await services.rotation.start()
        bundle = await client.receive()
        assert isinstance(bundle, BundleChanged)
        await client.send(BundleInstalled(sequence=bundle.bundle.sequence))
        assert isinstance(await client.receive(), Reissue)


async def test_a_join_token_is_good_once(services: Services) -> None:
    token = await make_token(services)
    for attempt, kind in ((1, Welcome), (2, Refusal)):
        _, csr = make_csr()
        async with Client(services) as client:
            await client.send(Enrol(token=token, csr=csr, registration=make_registration(f"s{attempt}")))
            assert isinstance(await client.receive(), kind)


async def test_an_address_that_the_token_does_not_name_is_refused(services: Services) -> None:
    _, csr = make_csr()
    async with Client(services) as client:
        registration = make_registration("a", "198.18.0.9")
        await client.send(Enrol(token=await make_token(services, "198.18.0.2"), csr=csr, registration=registration))
        refusal = await client.receive()
    assert isinstance(refusal, Refusal)
    assert refusal.code == "refused"


@pytest.mark.parametrize("data", [b"{}", b'{"type":"nonsense"}', b"\xff\xfe"])
async def test_what_cannot_be_decoded_ends_the_stream_with_a_refusal(services: Services, data: bytes) -> None:
    async with Client(services) as client:
        await client.send_raw(data)
        refusal = await client.receive()
    assert isinstance(refusal, Refusal)
    assert refusal.code == "protocol_error"


async def test_resume_without_a_certificate_is_refused(services: Services) -> None:
    async with Client(services) as client:
        await client.send(Resume(registration=make_registration("a")))
        assert isinstance(await client.receive(), Refusal)
