"""A mesh for the page's tests: one namespace that is blocked, one that is ready, and records that peers wrote."""

from __future__ import annotations

import time

import msgspec

from shared.model.adoption.fixes import Fix, FixKind
from shared.model.adoption.program_queue import ImageSeen, ProgramQueue, ProgramRefusal, QueuedProgram, Sighting
from shared.model.identity.program import Program
from shared.model.policy.decision import PartyRecord, ProcessRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, NamespaceState, Peer, PolicyDraft, PortRange, Rule
from shared.model.wire.admin import (
    Acknowledgements,
    AuditEntry,
    AuditPage,
    Cause,
    CoverageList,
    DecidedOtherwise,
    DecisionList,
    DecisionView,
    DraftView,
    History,
    NamespaceList,
    PolicyList,
    PolicyView,
    ProgramList,
    Readiness,
    ReadinessVerdict,
    SidecarList,
    WorkloadCoverage,
)
from shared.model.wire.admin_audit import START, AuditActor
from shared.model.wire.admin_edges import EdgeEnd, EdgeOutcome, EdgeView, Timeline, TimelineHour
from tests.cli.edges import ALLOW, DB, DENY, TAKEN, WEB, WOULD_DENY, list_edges, make_edge
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import CA, SIDECAR
from tests.shared.model.policy.records import make_record

# What a process could call itself: markup, a terminal's escape, a change of the writing direction.
HOSTILE = "/tmp/<img src=x onerror=alert(1)>\x1b[31m\u202e</script>"
PROGRAM = "sha256:" + "ef" * 32
TELLER = EdgeEnd(workload="bank/teller", program=PROGRAM, path="/usr/local/bin/teller")
API = EdgeEnd(workload="shop/api", program="sha256:" + "12" * 32, path="/usr/bin/api")
STRANGER = EdgeEnd(address="192.0.2.7")
INTRUDER = EdgeEnd(workload="shop/cron", program="sha256:" + "99" * 32, path=HOSTILE)
UNPROVEN = EdgeEnd(listed="shop/legacy", address="198.18.0.9")
RULE = Rule(
    name="bank-teller-to-api-8080",
    action=Action.ALLOW,
    direction=Direction.INGRESS,
    workloads=("api",),
    peers=(Peer(namespace="bank", service_account="teller"),),
    ports=(PortRange(first=8080, last=8080),),
)


def _by(outcome: EdgeOutcome, reason: Reason) -> EdgeOutcome:
    return msgspec.structs.replace(outcome, reason=reason, rule="", service="")


EDGES = (
    make_edge(WEB, DB),
    make_edge(WEB, API, ALLOW, TAKEN, port=8080, connections=9210),
    make_edge(API, DB, ALLOW, TAKEN, connections=811),
    make_edge(TELLER, API, _by(WOULD_DENY, Reason.NO_RULE), port=8080, connections=42),
    make_edge(INTRUDER, DB, _by(DENY, Reason.PROGRAM_NOT_APPROVED), connections=3, is_lossy=True),
    make_edge(API, STRANGER, _by(WOULD_DENY, Reason.EGRESS_NOT_ALLOWED), port=443, connections=17),
    make_edge(UNPROVEN, WEB, _by(WOULD_DENY, Reason.PEER_UNIDENTIFIED), port=8080, connections=5),
)
CAUSES = (
    Cause(
        reason=Reason.NO_RULE, source_workload="bank/teller", destination_workload="shop/api", source_program=PROGRAM,
        destination_program=API.program, port=8080, connections=42, last_seen=ALLOW.last, side="ingress",
        fix=Fix(kind=FixKind.RULE, namespace="shop", rule=RULE), service="shop/api:8080",
    ),
    Cause(
        reason=Reason.PROGRAM_NOT_APPROVED, source_workload="shop/cron", destination_workload="shop/db",
        source_program=INTRUDER.program, destination_program=DB.program, port=5432, connections=3,
        last_seen=ALLOW.last, path=HOSTILE, detail=HOSTILE, side="egress",
        fix=Fix(kind=FixKind.APPROVE, workload="shop/cron", program=INTRUDER.program),
    ),
)  # fmt: skip
READINESS = Readiness(
    namespace="shop", mode=Mode.PERMISSIVE, version=7, since=0.0, causes=CAUSES, settled=1, is_truncated=False,
    sidecars_reported=3, sidecars_total=4, silent=("web-2",), is_safe=False, verdict=ReadinessVerdict.BLOCKED,
    unknowns=("web-2 is silent",),
    failures=(
        msgspec.structs.replace(
            CAUSES[0], reason=Reason.NO_LISTENER, connections=2, fix=Fix(kind=FixKind.ADVICE, advice="Start it.")
        ),
    ),
)  # fmt: skip
READINESS = msgspec.structs.replace(
    READINESS,
    refused=(
        msgspec.structs.replace(
            CAUSES[1], connections=5, fix=Fix(kind=FixKind.ADVICE, advice="alice has refused this program")
        ),
    ),
)
READY = msgspec.structs.replace(
    READINESS, namespace="bank", mode=Mode.EXPLICIT, causes=(), unknowns=(), failures=(), is_safe=True,
    verdict=ReadinessVerdict.READY, sidecars_reported=4, silent=(),
)  # fmt: skip
DENIAL = DecisionView(
    id=4711,
    record=make_record(
        namespace="shop",
        sidecar="cron-1",
        reason=Reason.PROGRAM_NOT_APPROVED,
        source=PartyRecord(workload="shop/cron", program=INTRUDER.program, address="198.18.0.4:40000"),
        destination=PartyRecord(address="198.18.0.2:5432", listed="shop/db"),
        process=ProcessRecord(pid=7, uid=0, path=HOSTILE, digest="99" * 32),
        port=5432,
        detail=HOSTILE,
    ),
)
COVERAGE = WorkloadCoverage(
    workload="shop/web", pods=2, from_start=1, silent=1, restarts=0, records=9_217, lost=3, lossy_hours=1,
    hours_seen=20, hours_of_day=tuple(range(20)), weekdays=(5,), newest=ALLOW.last, gaps=("seen on Saturdays only",),
)  # fmt: skip
_HOUR = int(time.time() // 3600) * 3600.0
TIMELINE = Timeline(
    namespace="shop",
    hours=tuple(
        TimelineHour(
            start=_HOUR - 3600 * hour, sidecars=4, lost=int(hour % 7 == 3), allowed=9000 - 350 * hour,
            would_deny=40 if hour < 5 else 0, denied=3 if hour in (1, 2) else 0,
        )
        for hour in range(20, -1, -1)
        if hour not in (11, 12)
    ),
)  # fmt: skip
# A rule has the missing one's name already.
POLICY = PolicyView(
    namespace="shop",
    mode=Mode.PERMISSIVE,
    group_label="team",
    rules=(msgspec.structs.replace(RULE, ports=()),),
    version=7,
)
# What the draft changes: web may no longer reach api, api is denied by a rule, teller is allowed.
WEB_TO_API = msgspec.structs.replace(
    RULE, name="shop-web-to-api-8080", peers=(Peer(namespace="shop", service_account="web"),)
)
_NEWLY_DENIED = DecidedOtherwise(
    before="allow", after="deny", side=Direction.INGRESS, reason=Reason.NO_RULE, rule="", source="shop/web",
    source_program=WEB.program, destination="shop/api", destination_program=API.program, port=8080,
    service="shop/api:8080", path=HOSTILE, connections=9210, last_seen=ALLOW.last,
    fixes=(Fix(kind=FixKind.RULE, namespace="shop", rule=WEB_TO_API),),
)  # fmt: skip
DRAFT = DraftView(
    namespace="shop", draft=PolicyDraft(number=7, mode=Mode.EXPLICIT, rules=(RULE,)), written=ALLOW.first - 60,
    sidecars=4, evaluating=3, waiting=("web-2",), unchanged=311, evaluated_since=ALLOW.first,
    denied=(
        _NEWLY_DENIED,
        msgspec.structs.replace(
            _NEWLY_DENIED, reason=Reason.DENY_RULE, rule="shop/closed", source="shop/api", source_program=API.program,
            destination="shop/db", destination_program=DB.program, port=5432, service="", connections=811,
            fixes=(Fix(kind=FixKind.ADVICE, advice="The rule shop/closed denies it."),),
        ),
    ),
    allowed=(
        msgspec.structs.replace(
            _NEWLY_DENIED, before="would deny", after="allow", reason=Reason.ALLOW_RULE, rule=f"shop/{RULE.name}",
            source="bank/teller", source_program=PROGRAM, path="", connections=42, fixes=(),
        ),
    ),
)  # fmt: skip
ACT = AuditEntry(
    sequence=1, previous=START.digest, time=ALLOW.last, act="mode.set", subject="shop",
    actor=AuditActor(kind="socket", name=HOSTILE, uid=0),
)  # fmt: skip


QUEUE = ProgramQueue(
    waiting=(
        QueuedProgram(
            seen=Sighting(
                namespace="shop", service_account="web", program=Program(digest="1a" * 32), path="/usr/sbin/nginx",
                package="nginx 1.22.1-9 (dpkg)",
                images=(ImageSeen(image="registry.example/shop/web:2", first=1.0, last=2.0),),
                pods=("web-0",), parents=("/usr/bin/dumb-init",), first=ALLOW.first, last=ALLOW.last,
            ),
            new_since="registry.example/shop/web:1",
        ),
        QueuedProgram(
            seen=Sighting(
                namespace="shop", service_account="web", program=Program(digest="2b" * 32, main="none"),
                path="/usr/bin/python3.11", package=HOSTILE, first=ALLOW.first, last=ALLOW.last,
            )
        ),
    ),
    refused=(
        ProgramRefusal(
            namespace="shop", service_account="db", program=Program(digest="3c" * 32), refused_by="alice",
            refused=ALLOW.last, path="/tmp/miner",
        ),
    ),
)  # fmt: skip


def _describe_mode(namespace: str, version: int) -> dict[str, msgspec.Struct]:
    path = f"GET /v1/namespaces/{namespace}"
    return {
        path: NamespaceState(namespace=namespace, version=version),
        f"{path}/acknowledgements": Acknowledgements(
            namespace=namespace, version=version, installed=1, total=1, waiting=()
        ),
        f"{path}/history": History(namespace=namespace, generations=()),
    }


def fill(ca: FakeCA, *edges: EdgeView) -> None:
    """Give a fake CA this mesh; with these edges in ``shop`` instead."""
    ca.answers.update(
        {
            "GET /v1/status": CA,
            "GET /v1/namespaces": NamespaceList(
                namespaces=(
                    NamespaceState(namespace="bank", version=2, mode=Mode.EXPLICIT),
                    NamespaceState(namespace="shop", version=7, rules=(RULE,)),
                )
            ),
            "GET /v1/namespaces/shop/readiness": READINESS,
            "GET /v1/namespaces/bank/readiness": READY,
            "GET /v1/namespaces/shop/edges": list_edges(*(edges or EDGES)),
            "GET /v1/namespaces/shop/coverage": CoverageList(namespace="shop", since=0.0, workloads=(COVERAGE,)),
            "GET /v1/namespaces/shop/timeline": TIMELINE,
            **_describe_mode("shop", 7),
            **_describe_mode("bank", 2),
            "GET /v1/policies": PolicyList(policies=(POLICY,)),
            "GET /v1/programs": ProgramList(programs=()),
            "GET /v1/decisions": DecisionList(decisions=(DENIAL,)),
            "GET /v1/programs/queue": QUEUE,
            "GET /v1/namespaces/shop/draft": DRAFT,
            "DELETE /v1/namespaces/shop/draft": NamespaceState(namespace="shop", version=8),
            "POST /v1/namespaces/shop/draft/promote": POLICY,
            "POST /v1/namespaces/shop/refusals": QUEUE,
            "GET /v1/sidecars": SidecarList(sidecars=(SIDECAR,)),
            "GET /v1/audit": AuditPage(
                lines=(msgspec.json.encode(ACT).decode(),), anchor=START, head=START, is_last=True
            ),
        }
    )


def make_many() -> list[EdgeView]:
    """Make 3,000 edges between 300 workloads."""
    kinds = (ALLOW, WOULD_DENY, DENY)
    ends = [EdgeEnd(workload=f"shop/w{number:03}") for number in range(300)]
    return [
        make_edge(ends[number % 300], ends[(number * 7 + number // 300 + 1) % 300], kinds[number % 3], port=1 + number)
        for number in range(3000)
    ]
