"""A sidecar's certificate requests answered: for itself, and for its programs. I/O: the store.

Belongs here: who asks is still who joined, and what the sidecar is told. Doesn't: what is signed (``ca/issuance.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from ca.allowance import LineAllowance
from ca.distribution.session import Session
from ca.evidence.process import check_process
from ca.issuance import Issuance, IssuedChain
from ca.kubernetes.view import ClusterView
from ca.metrics import Metrics
from ca.observation.programs_seen import ProgramsSeen
from ca.store.store import Store
from ca.tracing import Tracer, step
from shared.model.errors import RefusedError, TouchmarkError, UnavailableError
from shared.model.identity.identity import Identity, IdentityKind
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import CertificateIssued, CertificateRefused, CertificateRequest

_log = structlog.get_logger("touchmark.ca")


class CertificateRequests:
    """Answers certificate requests.

    Arguments:
        clock: seconds since the epoch.
        check_clock: raises ``UnavailableError`` while nothing is issued by it.
    """

    def __init__(
        self,
        *,
        store: Store,
        issuance: Issuance,
        cluster: ClusterView,
        programs: ProgramsSeen,
        metrics: Metrics,
        tracer: Tracer,
        clock: Callable[[], float],
        check_clock: Callable[[], None] = lambda: None,
    ) -> None:
        self._lines = LineAllowance()
        self._store = store
        self._issuance = issuance
        self._cluster = cluster
        self._programs = programs
        self._metrics = metrics
        self._tracer = tracer
        self._clock = clock
        self.check_clock = check_clock

    async def answer(self, session: Session, request: CertificateRequest) -> CertificateIssued | CertificateRefused:
        """Return the certificate, or why there is none."""
        begin = time.perf_counter()
        try:
            with self._tracer.begin("issue certificate") as traced:
                if traced is not None:
                    traced.note(touchmark_workload=str(session.workload), touchmark_sidecar=session.instance)
                    traced.note(touchmark_program="" if request.program is None else str(request.program))
                issued = await self._issue(session, request)
        except TouchmarkError as error:
            reason = str(Reason.CA_UNAVAILABLE if isinstance(error, UnavailableError) else error.reason)
            self._metrics.issue_refused.labels(reason=reason).inc()
            if self._lines.take(session.instance):
                _log.info("certificate_refused", instance=session.instance, reason=reason, message=error.message)
            return CertificateRefused(request=request.request, reason=reason, message=error.message)
        self._metrics.issued.labels(kind=issued.record.identity.kind.value).inc()
        self._metrics.issue_seconds.observe(time.perf_counter() - begin)
        return CertificateIssued(request=request.request, chain=issued.chain)

    async def _issue(self, session: Session, request: CertificateRequest) -> IssuedChain:
        now = self._clock()
        if request.program is None:
            with step("authenticate"):
                record = await self._store.sidecars.get(session.instance)
                if record is None:
                    raise RefusedError("this sidecar is no longer known", hint="join with a new join token")
                grant = self._cluster.check_alive(record.grant)
            return await self._issuance.issue_sidecar(grant, request.csr, now)
        with step("authenticate"):
            if session.grant is not None:
                self._cluster.check_alive(session.grant)
            check_process(request.evidence)
        self._programs.note_request(
            request.program, request.evidence, instance=session.instance, workload=session.workload
        )
        sidecar = Identity(trust_domain=self._store.trust_domain, workload=session.workload, kind=IdentityKind.SIDECAR)
        return await self._issuance.issue_program(
            sidecar, request.csr, request.program, request.evidence, now, instance=session.instance
        )
