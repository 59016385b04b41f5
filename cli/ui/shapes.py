"""What the page's server answers, as JSON. Pure values.

Where the admin API's own answer is enough, it is passed on; these are what the server adds: places in the picture,
words and commands. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.model.policy.rules import Mode
from shared.model.wire.admin import EdgeView, Readiness, WorkloadCoverage
from shared.model.wire.admin_edges import TimelineHour


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class ReasonWords(_Answer, frozen=True):
    """A reason explained."""

    cause: str
    fix: str


class Start(_Answer, frozen=True):
    """What the page begins with.

    Attributes:
        target: where the CA is, in words.
        options: what shown commands need to reach the same CA, such as ``-k``.
    """

    version: str
    ca_version: str
    trust_domain: str
    target: str
    options: str
    reasons: dict[str, ReasonWords]


class NamespaceRow(_Answer, frozen=True):
    """One namespace at a glance. ``mode`` in words, with those of workloads that have one of their own."""

    name: str
    mode: str
    version: int
    rules: int
    programs: int


class NamespaceRows(_Answer, frozen=True):
    """By name."""

    namespaces: tuple[NamespaceRow, ...]


class ShownFix(_Answer, frozen=True):
    """What lets a refused connection pass.

    Attributes:
        kind: ``approve``, ``rule`` or ``advice``.
        lines: as the commands print it.
        copied: the lines to paste: into a shell, or into the MeshPolicy; none of advice.
        rule: the digest of a missing rule; empty: it is no rule.
    """

    kind: str
    lines: tuple[str, ...]
    copied: tuple[str, ...] = ()
    rule: str = ""


class Command(_Answer, frozen=True):
    """The command line that does the same as a button."""

    line: str


class ShownCause(_Answer, frozen=True):
    """One thing that explicit mode would refuse. ``text``: who connected to what."""

    reason: str
    text: str
    connections: int
    last_seen: float
    is_next: bool
    source: str
    destination: str
    port: int
    fix: ShownFix


class ShownReadiness(_Answer, frozen=True):
    """Is explicit mode safe; ``readiness`` without its causes, failures and refused, which are written out."""

    readiness: Readiness
    causes: tuple[ShownCause, ...]
    failures: tuple[ShownCause, ...]
    refused: tuple[ShownCause, ...]


class ShownCoverage(_Answer, frozen=True):
    """How much was observed; ``now`` is the CA's clock's, as far as this machine knows. ``gaps``: of all workloads."""

    namespace: str
    now: float
    workloads: tuple[WorkloadCoverage, ...]
    is_truncated: bool
    gaps: tuple[str, ...] = ()


class PlacedNode(_Answer, frozen=True):
    """One end in the picture. ``neighbours``: how many others it has links with."""

    name: str
    is_proven: bool
    is_ours: bool
    column: int
    row: int
    neighbours: int


class ShownLink(_Answer, frozen=True):
    """Connections between two ends to one port, as ``cli.graph.graph.Link``, and both ends' programs.

    Attributes:
        verdict: in force, or under the draft; ``before``: in force, where the draft is shown.
        change: what the draft changes (``cli.ui.drafts``); empty: nothing.
        counted: how many connections had this verdict and of how many, as ``2 of 5+``; under a draft: how many in all.
    """

    source: str
    destination: str
    port: int
    verdict: str
    reasons: tuple[str, ...]
    services: tuple[str, ...]
    connections: int
    counted: str
    is_lossy: bool
    is_plaintext: bool
    source_programs: tuple[str, ...]
    destination_programs: tuple[str, ...]
    last: float
    before: str = ""
    change: str = ""


class ShownEdges(_Answer, frozen=True):
    """A namespace's edges: every link that matches, and a picture of them.

    Attributes:
        links: the strictest verdict first, then the most connections.
        drawn: the links of the picture, by their place in ``links``.
        hidden: names of hubs that the picture leaves out.
        undrawn: why there is no picture; empty: there is one.
        total: edges (links by program) of the namespace; ``read``: how many of them this is made of.
    """

    namespace: str
    since: float
    until: float
    links: tuple[ShownLink, ...]
    nodes: tuple[PlacedNode, ...]
    drawn: tuple[int, ...]
    hidden: tuple[str, ...]
    undrawn: str
    total: int
    read: int
    is_truncated: bool


class ShownChange(_Answer, frozen=True):
    """Equal connections that a draft decides otherwise (``shared.model.wire.admin.DecidedOtherwise``).

    Attributes:
        change: in one word or two.
        source_program, destination_program: in short; empty: none.
        fixes: what would let them pass, by the draft's rules.
    """

    change: str
    before: str
    after: str
    reason: str
    rule: str
    source: str
    source_program: str
    destination: str
    destination_program: str
    port: int
    service: str
    connections: int
    last: float
    fixes: tuple[ShownFix, ...]


class ShownDraft(_Answer, frozen=True):
    """A namespace's draft (``shared.model.wire.admin.DraftView``).

    Attributes:
        number: 0: it has none; then ``write`` are the commands that write one.
        mode: empty: the one in force.
        evaluated_since: 0: no verdict of it has come.
        settled: what it denied newly before, and allows by now.
        notes: what sidecars can't tell of it.
        is_object: it is what an object says, which alone changes it: ``drop`` is for a terminal then.
    """

    namespace: str
    number: int = 0
    mode: str = ""
    rules: int = 0
    written: float = 0.0
    evaluated_since: float = 0.0
    sidecars: int = 0
    evaluating: int = 0
    waiting: tuple[str, ...] = ()
    denied: tuple[ShownChange, ...] = ()
    allowed: tuple[ShownChange, ...] = ()
    settled: tuple[ShownChange, ...] = ()
    unchanged: int = 0
    uncounted: int = 0
    is_truncated: bool = False
    is_partly_unknown: bool = False
    is_outdated: bool = False
    is_object: bool = False
    notes: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    promote: Command = Command(line="")
    drop: Command = Command(line="")


class ShownTimeline(_Answer, frozen=True):
    """What the namespace's own sidecars decided; hours in which none reported aren't there. ``now`` as in coverage."""

    since: float
    now: float
    hours: tuple[TimelineHour, ...]


class ShownLine(_Answer, frozen=True):
    """One decision in one line; ``side``: whose sidecar decided. ``source_path``: where that sidecar says it."""

    id: int
    time: float
    verdict: str
    reason: str
    rule: str
    side: str
    source: str
    source_path: str
    destination: str
    port: int
    service: str
    count: int


class ShownDecisions(_Answer, frozen=True):
    """The newest decisions, newest first."""

    decisions: tuple[ShownLine, ...]


class ShownDecision(_Answer, frozen=True):
    """One decision; ``lines`` as ``touchmark decisions --detail`` prints them."""

    id: int
    time: float
    verdict: str
    reason: str
    lines: tuple[str, ...]


class ShownEdge(_Answer, frozen=True):
    """Everything of one link: its edges by program, its latest decisions, and what would let refused ones pass.

    Attributes:
        fixes: by reason.
        is_partial: there are more decisions in this time than were looked at.
    """

    source: str
    destination: str
    port: int
    edges: tuple[EdgeView, ...]
    decisions: tuple[ShownDecision, ...]
    fixes: tuple[tuple[str, ShownFix], ...]
    is_partial: bool


class ShownWaiting(_Answer, frozen=True):
    """A program that waits for an answer (``shared.model.adoption.program_queue``).

    Attributes:
        loaded: what it had loaded: paths, with the first digits of their digests.
        loaded_note: what else is to be known of that; may be empty.
        code_digest: of all of it; an approval names it, so that what was shown is what is approved.
        weakness: what its approval allows beyond the program itself; empty: nothing that is known of.
    """

    workload: str
    program: str
    path: str
    package: str
    images: tuple[str, ...]
    new_since: str
    parents: tuple[str, ...]
    pods: tuple[str, ...]
    loaded: tuple[str, ...]
    loaded_note: str
    code_digest: str
    first: float
    last: float
    weakness: str
    approve: Command
    refuse: Command


class ShownRefusal(_Answer, frozen=True):
    """A program that was refused."""

    workload: str
    program: str
    path: str
    refused_by: str
    refused: float
    take_back: Command


class ShownQueue(_Answer, frozen=True):
    """A namespace's queue; ``total``: how many wait, of which these were seen last."""

    waiting: tuple[ShownWaiting, ...]
    refused: tuple[ShownRefusal, ...]
    total: int


class ShownRules(_Answer, frozen=True):
    """The rules that a namespace's policy lacks: by digest, the lines of the command that writes each."""

    rules: dict[str, tuple[str, ...]]


class ActKind(StrEnum):
    """What is done."""

    APPROVE = "approve"
    REFUSE = "refuse"
    TAKE_BACK = "take_back"
    MODE = "mode"
    RULE = "rule"
    PROMOTE = "promote"
    DROP = "drop"


class ActRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user has confirmed.

    Attributes:
        workload, program: of an answer about a program.
        code_digest: of what the program to approve had loaded, as it was shown.
        mode: to switch to.
        rule: the digest of a missing rule; ``since``: how far back it was looked for, such as ``24h``.
        draft: the number of the draft that was shown.
        accepts: also what needs a word of its own: a weak approval, a switch although too little was seen, a draft that
            takes a newer policy back.
    """

    act: ActKind
    namespace: str
    workload: str = ""
    program: str = ""
    code_digest: str = ""
    mode: Mode | None = None
    rule: str = ""
    since: str = ""
    draft: int = 0
    accepts: bool = False


class Done(_Answer, frozen=True):
    """What was done, for people."""

    text: str


class AuditRow(_Answer, frozen=True):
    """One administrative act."""

    sequence: int
    time: float
    act: str
    subject: str
    actor: str


class AuditRows(_Answer, frozen=True):
    """The newest acts, newest first."""

    acts: tuple[AuditRow, ...]


class Failure(_Answer, frozen=True):
    """What went wrong, as the admin API says it."""

    code: str
    message: str
    hint: str = ""
