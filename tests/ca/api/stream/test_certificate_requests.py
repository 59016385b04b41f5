"""Certificate requests are answered, also by a refusal (``ca.api.stream.certificate_requests``)."""

from __future__ import annotations

from ca.runtime.compose import RunningCA
from shared.model.identity.program import Program
from shared.model.policy.rules import Mode
from shared.model.wire.messages import (
    CertificateIssued,
    CertificateRefused,
    CertificateRequest,
)
from tests.ca.running import FakeSidecar, make_csr


async def test_a_program_and_the_sidecar_itself_are_issued_to(services: RunningCA) -> None:
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        for number, program in enumerate((Program(digest="ab" * 32), None)):
            _, csr = make_csr()
            await client.send(CertificateRequest(request=number, csr=csr, program=program))
            issued = await client.expect(CertificateIssued)
            assert (issued.request, len(issued.chain)) == (number, 2)
    metrics = services.metrics.render().decode()
    assert 'touchmark_ca_certificates_issued_total{kind="sidecar"} 2.0' in metrics
    assert 'touchmark_ca_certificates_issued_total{kind="observed"} 1.0' in metrics


async def test_a_refusal_says_why_and_the_stream_goes_on(services: RunningCA) -> None:
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await services.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        program = Program(digest="ab" * 32)
        for number, csr, asker, reason in (
            (1, make_csr()[1], program, "program_not_approved"),
            (2, b"nothing", None, "peer_untrusted"),
        ):
            await client.send(CertificateRequest(request=number, csr=csr, program=asker))
            refused = await client.expect(CertificateRefused)
            assert (refused.request, refused.reason) == (number, reason)
        assert services.hub.get("a") is not None
