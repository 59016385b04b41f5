"""Who was refused is remembered, boundedly, with what is known for certain apart from what was claimed."""

from __future__ import annotations

from ca.authenticate.pod import EnrolmentRefusal, EnrolmentRefused, Subject
from ca.kubernetes.cluster.refusals import Refusals
from ca.metrics import Metrics
from shared.model.errors import UnavailableError
from shared.model.wire.admin import MAX_REFUSED_ENROLMENTS, RefusedEnrolment


def test_the_last_ones_are_remembered_newest_first_and_all_are_counted() -> None:
    metrics = Metrics()
    refusals = Refusals(metrics)
    for number in range(MAX_REFUSED_ENROLMENTS + 5):
        refusals.note(UnavailableError(f"number {number}"), claimed="x" * 200, now=float(number))
    error = EnrolmentRefused(
        EnrolmentRefusal.POD_ENDED, "it has ended", hint="so it is", subject=Subject(namespace="shop", pod="web-0")
    )
    refusals.note(error, claimed="web-0.1", now=1e9)
    newest = refusals.list_newest()
    assert newest[0] == RefusedEnrolment(
        time=1e9,
        reason="pod_ended",
        message="it has ended",
        hint="so it is",
        namespace="shop",
        pod="web-0",
        claimed="web-0.1",
    )
    assert (newest[1].reason, newest[1].claimed, newest[1].namespace) == ("unavailable", "x" * 64, "")
    assert len(newest) == len(refusals) == MAX_REFUSED_ENROLMENTS
    assert refusals.total == MAX_REFUSED_ENROLMENTS + 6
    assert 'touchmark_ca_enrolments_refused_total{reason="pod_ended"} 1.0' in metrics.render().decode()
