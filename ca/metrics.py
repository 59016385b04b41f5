"""The CA's Prometheus metrics, in a registry of their own. Counts only; no I/O.

Cardinality is bounded: labels are our own enumerations, but for workloads in ``connections``, which have a bound.
"""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# An alert asks by how much an incident's count has grown. A series that first appears with its first incident has grown
# by nothing, and nobody would be told: these are served as 0 from the start.
SECOND_SIDECARS = ("enrol", "enrol_pod", "renew", "resume")
FAILURES = (
    "admin",
    "decisions",
    "following",
    "issuance",
    "mode_notes",
    "object",
    "programs_seen",
    "signing",
    "trust_config",
    "upkeep",
    "watch",
    "webhook_config",
)

_LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """All of the CA's metrics. One object a CA, so that tests don't share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.streams = Gauge("touchmark_ca_streams", "Open sidecar streams.", registry=r)
        self.streams_opened = Counter("touchmark_ca_streams_opened", "Streams authenticated.", ["how"], registry=r)
        self.streams_refused = Counter("touchmark_ca_streams_refused", "Streams refused.", ["code"], registry=r)
        self.streams_closed = Counter("touchmark_ca_streams_closed", "Streams ended by the CA.", ["why"], registry=r)
        self.second_sidecars = Counter(
            "touchmark_ca_second_sidecars",
            "Sidecars refused because one of their name was alive: an incident.",
            ["how"],
            registry=r,
        )
        self.issued = Counter("touchmark_ca_certificates_issued", "Certificates issued.", ["kind"], registry=r)
        self.issue_refused = Counter("touchmark_ca_certificates_refused", "Requests refused.", ["reason"], registry=r)
        self.issue_seconds = Histogram(
            "touchmark_ca_issue_seconds", "From request to answer.", buckets=_LATENCY_BUCKETS_S, registry=r
        )
        self.pushes = Counter("touchmark_ca_pushes", "Messages pushed to subscribers.", ["kind"], registry=r)
        self.decisions_stored = Counter("touchmark_ca_decisions_stored", "Decisions stored.", registry=r)
        self.decisions_lost = Counter("touchmark_ca_decisions_lost", "Decisions that sidecars dropped.", registry=r)
        self.decisions_over_quota = Counter(
            "touchmark_ca_decisions_over_quota",
            "Decisions that only count in the edges: their sidecar has sent more than its share.",
            registry=r,
        )
        self.decisions_corrected = Counter(
            "touchmark_ca_decisions_corrected", "Decisions that named another sidecar than their sender.", registry=r
        )
        # Its labels are bounded by ``ca/observation/edge_counts.py``.
        self.connections = Counter(
            "touchmark_ca_connections",
            "Connections that ended, as reported by the side of the direction.",
            ["source", "destination", "direction", "verdict"],
            registry=r,
        )
        self.forwarded = Counter(
            "touchmark_ca_forwarded", "Decisions or spans that a target has taken.", ["target"], registry=r
        )
        self.forwarding_lost = Counter(
            "touchmark_ca_forwarding_lost", "Decisions or spans that a target never got.", ["target"], registry=r
        )
        self.forwarding_waiting = Gauge(
            "touchmark_ca_forwarding_waiting", "Decisions or spans that wait for a target.", ["target"], registry=r
        )
        self.forwarding_up = Gauge(
            "touchmark_ca_forwarding_up", "1 if the target took the last batch, else 0.", ["target"], registry=r
        )
        self.decisions_pruned = Counter("touchmark_ca_decisions_pruned", "Decisions deleted by retention.", registry=r)
        self.store_free_bytes = Gauge(
            "touchmark_ca_store_free_bytes",
            "Room on the disk under SQLite's file, and inside it; NaN where that isn't known, as with PostgreSQL.",
            registry=r,
        )
        self.store_free_bytes.set(math.nan)  # A 0 would be a full disk.
        self.clock_offset = Gauge(
            "touchmark_ca_clock_offset_seconds",
            "By how much this CA's clock is ahead of its database's; NaN with SQLite.",
            registry=r,
        )
        self.clock_offset.set(math.nan)
        self.bundle_sequence = Gauge("touchmark_ca_bundle_sequence", "Sequence of the trust bundle.", registry=r)
        self.rotation_laggards = Gauge(
            "touchmark_ca_rotation_laggards", "Sidecars that a prepared rotation waits for.", registry=r
        )
        self.rotation_step = Gauge(
            "touchmark_ca_rotation_step", "1 for the step in which the last rotation is.", ["step"], registry=r
        )
        self.rotation_changed = Gauge(
            "touchmark_ca_rotation_changed_seconds", "When the last rotation came to its step.", registry=r
        )
        self.store_up = Gauge("touchmark_ca_store_up", "1 if a row could be written lately, else 0.", registry=r)
        self.store_seconds = Histogram(
            "touchmark_ca_store_seconds",
            "To write a row and read the audit log's end, every 15 seconds.",
            buckets=_LATENCY_BUCKETS_S,
            registry=r,
        )
        self.ledger_waiting = Gauge(
            "touchmark_ca_ledger_waiting", "Certificates that wait to be entered in the ledger.", registry=r
        )
        self.stream_messages_waiting = Gauge(
            "touchmark_ca_stream_messages_waiting", "Messages that wait to be sent to sidecars.", registry=r
        )
        self.audit_lines = Gauge("touchmark_ca_audit_lines", "Number of the audit log's last line.", registry=r)
        self.issuer_not_after = Gauge(
            "touchmark_ca_issuer_not_after_seconds", "End of the active issuing authority.", registry=r
        )
        self.root_not_after = Gauge("touchmark_ca_root_not_after_seconds", "End of the active root.", registry=r)
        self.server_not_after = Gauge(
            "touchmark_ca_server_not_after_seconds", "End of the CA's own server certificate.", registry=r
        )
        self.admin_requests = Counter("touchmark_ca_admin_requests", "Admin requests.", ["status"], registry=r)
        self.admin_connections_closed = Counter(
            "touchmark_ca_admin_connections_closed", "Admin connections closed to make room for others.", registry=r
        )
        self.injections = Counter("touchmark_ca_injections", "Pods that asked the webhook.", ["result"], registry=r)
        self.injection_seconds = Histogram(
            "touchmark_ca_injection_seconds", "From review to answer.", buckets=_LATENCY_BUCKETS_S, registry=r
        )
        # In a cluster only; there the labels come from our own enumerations, too.
        self.watch_restarts = Counter("touchmark_ca_watch_restarts", "Watches that were lost.", ["watch"], registry=r)
        self.watch_lists = Counter("touchmark_ca_watch_lists", "Full lists.", ["watch"], registry=r)
        self.watched = Gauge("touchmark_ca_watched_objects", "Objects remembered.", ["watch"], registry=r)
        self.pod_events = Counter("touchmark_ca_pod_events", "Events about pods.", ["result"], registry=r)
        self.enrolments_refused = Counter(
            "touchmark_ca_enrolments_refused", "Pods' sidecars refused.", ["reason"], registry=r
        )
        self.failures = Counter("touchmark_ca_failures", "Failures of the CA itself.", ["where"], registry=r)
        for how in SECOND_SIDECARS:
            self.second_sidecars.labels(how=how)
        for where in FAILURES:
            self.failures.labels(where=where)

    def render(self) -> bytes:
        """Return the Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)
