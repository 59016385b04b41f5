"""What the CA asks of tables that grow, each question by its name: searches, counts, and what is to be forgotten. I/O.

Belongs here: the questions, in the store's own words. Each changes little, so that it can be asked again. Doesn't: the
rows (``rows.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ca.store.records import DecisionFilter, LedgerFilter
from ca.store.store import Store
from shared.model.identity.identity import Identity, IdentityKind, Workload
from shared.model.identity.program import Program, parse_program
from shared.model.policy.reasons import Reason

_WEB = Workload(namespace="ns7", service_account="web")
_W7 = Workload(namespace="ns7", service_account="w7")
_NOBODYS = "sha256:" + "ff" * 32
# As they are filled: of namespace 7 each workload has 256, one after another.
_SEEN = [(f"w{i}", parse_program(f"sha256:{5120 * i + 7 + 20 * j:064d}")) for i in range(50) for j in range(2)]
Question = Callable[[Store], Awaitable[object]]


def list_questions(*, now: float) -> Mapping[str, Question]:
    """Return the questions, as of a store that was filled ``now`` (seconds since the epoch)."""
    old, hour = now - 2e6, 3600.0
    return {
        **_ask_ledger(now, old, hour),
        **_ask_decisions(now, old),
        **_ask_edges(now),
        **_ask_others(now, old),
        **_ask_sidecars(now),
    }


def _ask_ledger(now: float, old: float, hour: float) -> Mapping[str, Question]:
    return {
        "ledger: the newest": lambda s: s.ledger.list_lines(),
        "ledger: what is alive": lambda s: s.ledger.list_lines(LedgerFilter(alive_at=now)),
        "ledger: a serial's beginning": lambda s: s.ledger.list_lines(LedgerFilter(serial=f"{500_000:032d}")),
        "ledger: a digest": lambda s: s.ledger.list_lines(LedgerFilter(digest=f"{7:064d}")),
        "ledger: an authority": lambda s: s.ledger.list_lines(LedgerFilter(authority_id="a2")),
        "ledger: an authority, an hour": lambda s: s.ledger.list_lines(
            LedgerFilter(authority_id="a2", since=now - 1e5, until=now - 1e5 + hour)
        ),
        "ledger: a sidecar": lambda s: s.ledger.list_lines(LedgerFilter(instance="s8")),
        "ledger: a sidecar, an hour": lambda s: s.ledger.list_lines(
            LedgerFilter(instance="s8", since=old, until=old + hour)
        ),
        "ledger: a sidecar, what is alive": lambda s: s.ledger.list_lines(LedgerFilter(instance="s8", alive_at=now)),
        "ledger: a workload": lambda s: s.ledger.list_lines(LedgerFilter(workload=_WEB)),
        "ledger: a workload, what is alive": lambda s: s.ledger.list_lines(LedgerFilter(workload=_WEB, alive_at=now)),
        "ledger: a digest, since": lambda s: s.ledger.list_lines(LedgerFilter(digest=f"{7:064d}", since=now - hour)),
        "ledger: a workload, nobody's digest": lambda s: s.ledger.list_lines(
            LedgerFilter(workload=_WEB, digest=_NOBODYS.removeprefix("sha256:"))
        ),
        "ledger: whether a workload ever had a program": lambda s: s.ledger.has_any(
            _WEB, [_identify(parse_program(_NOBODYS))]
        ),
        "ledger: an hour": lambda s: s.ledger.list_lines(LedgerFilter(since=old, until=old + hour)),
        "ledger: one number": lambda s: s.ledger.get(7),
        "ledger: the number that is alive": lambda s: s.ledger.count_alive(now=now),
        "ledger: forget": lambda s: s.ledger.prune(expired_before=now - 1e9),
    }


def _identify(program: Program) -> Identity:
    return Identity(trust_domain="touchmark.local", workload=_WEB, kind=IdentityKind.PROGRAM, program=program)


def _ask_decisions(now: float, old: float) -> Mapping[str, Question]:
    def ask(**wanted: object) -> Question:
        # What no index has as a whole is looked for portion by portion, each of which is a question.
        wanted_is = DecisionFilter(**wanted)  # type: ignore[arg-type]  # Of its own fields.

        async def look(s: Store) -> object:
            return (await s.decisions.look(wanted_is)).found

        return look

    return {
        "decisions: the newest": ask(),
        "decisions: denied": ask(denied=True),
        "decisions: allowed": ask(denied=False),
        "decisions: would be denied": ask(would_deny=True),
        "decisions: draft differs": ask(draft_differs=True),
        "decisions: draft doesn't differ": ask(draft_differs=False),
        "decisions: a namespace": ask(namespace="ns7"),
        "decisions: nobody's namespace": ask(namespace="nobody"),
        "decisions: a namespace, denied": ask(namespace="ns0", denied=True),
        "decisions: a namespace, would be denied": ask(namespace="ns1", would_deny=True),
        "decisions: a namespace, draft differs": ask(namespace="ns5", draft_differs=True),
        "decisions: a workload": ask(workload="ns7/w7"),
        "decisions: a workload, denied": ask(workload="ns7/w7", denied=True),
        "decisions: nobody's workload": ask(workload="nobody/nobody"),
        "decisions: a program": ask(program=f"sha256:{7:064d}"),
        "decisions: a program's beginning": ask(program="sha256:0000"),
        "decisions: nobody's program": ask(program=_NOBODYS),
        "decisions: a reason": ask(reason=Reason.NO_RULE),
        "decisions: a reason that nothing has": ask(reason=Reason.SOCKET_SHARED),
        "decisions: a reason to allow that nothing has": ask(reason=Reason.SAME_GROUP),
        "decisions: since": ask(since=now - 60),
        "decisions: until": ask(until=now - 4e5),
        "decisions: an hour, nothing denied": ask(since=now - 3600, until=now, would_deny=True, namespace="ns9"),
        "decisions: following": ask(after_id=500_000),
        "decisions: following what is denied": ask(after_id=500_000, denied=True),
        "decisions: following a reason that nothing has": ask(after_id=1, reason=Reason.SOCKET_SHARED),
        "decisions: following nobody's workload": ask(after_id=1, workload="nobody/nobody"),
        "decisions: refusals": lambda s: s.decisions.list_refusals("ns0", since=old, limit=10_000),
        "decisions: who reported": lambda s: s.decisions.list_reporting_sidecars("ns7", since=now - 86_400),
        "decisions: the last one": lambda s: s.decisions.get_last_id(),
        "decisions: their size": lambda s: s.decisions.estimate_size(),
        "decisions: forget": lambda s: s.decisions.prune(max_age_s=1e9, max_rows=10**9, now=now),
    }


def _ask_edges(now: float) -> Mapping[str, Question]:
    return {
        "edges: a namespace, a day": lambda s: s.edges.list_edges("ns7", since=now - 86_400),
        "edges: a namespace, a day long ago": lambda s: s.edges.list_edges(
            "ns7", since=now - 20 * 86_400, until=now - 19 * 86_400
        ),
        "edges: a namespace's reports, a day": lambda s: s.edges.list_reports("ns7", since=now - 86_400),
        "edges: a namespace's hours, a day": lambda s: s.edges.list_timeline("ns7", since=now - 86_400, until=now),
        "edges: what a draft said": lambda s: s.edges.list_drafted("ns7", 1, written=now - 2e6),
        "edges: their size": lambda s: s.edges.estimate_bytes(),
        "edges: forget": lambda s: s.edges.prune(max_age_s=1e9, max_bytes=2**50, now=now),
    }


def _ask_others(now: float, old: float) -> Mapping[str, Question]:
    return {
        "audit: the newest": lambda s: s.audit.list_lines(newest=True),
        "audit: from the first on": lambda s: s.audit.list_lines(),
        "audit: an hour": lambda s: s.audit.list_lines(since=now - 5e5, until=now - 5e5 + 3600),
        "audit: the newest of long ago": lambda s: s.audit.list_lines(newest=True, until=now - 9e5),
        "audit: going on within a window": lambda s: s.audit.list_lines(after=500_000, since=now - 9e5),
        "audit: nothing since": lambda s: s.audit.list_lines(since=now + 60),
        "journal: the newest": lambda s: s.authorities.list_journal(),
        "journal: long ago": lambda s: s.authorities.list_journal(since=now - 9e5, until=now - 9e5 + 60),
        "join tokens: one": lambda s: s.join_tokens.get(f"{7:016d}"),
        "join tokens: open for a root": lambda s: s.join_tokens.list_open("nobody's", now=now),
        "join tokens: forget": lambda s: s.join_tokens.prune(expired_before=now - 1e9),
        "renewal keys: one": lambda s: s.renewal_keys.has("s7"),
        "renewal keys: forget": lambda s: s.renewal_keys.prune(spent_before=now - 1e9),
        "programs seen: a namespace": lambda s: s.sightings.list_newest("ns7"),
        "programs seen: all": lambda s: s.sightings.list_newest(),
        "programs seen: a hundred of fifty workloads": lambda s: s.sightings.list_of("ns7", _SEEN),
        "programs seen: forget": lambda s: s.sightings.prune(now=now - 1e9),
        "programs refused: a namespace": lambda s: s.refusals.list_all("ns7"),
        "programs refused: all": lambda s: s.refusals.list_all(),
        "generations: a namespace": lambda s: s.history.list_generations("ns7", limit=20),
        "replicas: what has changed": lambda s: s.replicas.read_marks(),
    }


def _ask_sidecars(now: float) -> Mapping[str, Question]:
    return {
        "sidecars: those that are alive": lambda s: s.sidecars.list_live(now=now),
        "sidecars: all": lambda s: s.sidecars.list_all(),
        "sidecars: names of those that are alive": lambda s: s.sidecars.list_live_instances(now=now),
        "sidecars: one": lambda s: s.sidecars.get("s7"),
        "sidecars: forget": lambda s: s.sidecars.delete_silent(silent_since=now - 1e9, now=now),
        "sidecars: renewable": lambda s: s.sidecars.list_renewable(grace_s=60),
        "evictions: what is distrusted": lambda s: s.evictions.list_distrusted(),
        "evictions: forget": lambda s: s.evictions.prune(now=now - 1e9),
    }
