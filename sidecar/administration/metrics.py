"""The sidecar's Prometheus metrics, read when they are asked for.

Belongs here: which figures there are, their names and units. Doesn't: counting (``sidecar/figures/counts.py``), the
text format (``exposition.py``), who serves them (``sidecar/probing/server.py``). Anybody who reaches the pod may read
them: no label holds an identity, an address, a path or anything else that a peer chose.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from typing import TYPE_CHECKING, Final

from shared.model.policy.rules import Direction, Mode
from shared.model.version import VERSION
from sidecar.figures.exposition import Page
from sidecar.native.engine import current_engine, current_workers
from sidecar.probing.life import Life, Serving
from sidecar.tunnel.lending import count_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.control.uplink import Uplink
    from sidecar.events import Events
    from sidecar.parts import Sidecar

_PREFIX: Final = "touchmark_sidecar_"
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """Renders the figures of one sidecar, in every stage of its life.

    Arguments:
        take_max_lag_s: by how much the event loop was late at worst since the last call.
    """

    def __init__(self, life: Life, *, uplink: Uplink, events: Events, take_max_lag_s: Callable[[], float]) -> None:
        self._life = life
        self._uplink = uplink
        self._events = events
        self._take_max_lag_s = take_max_lag_s
        self._started = time.time()

    def render(self) -> bytes:
        """Return the page in Prometheus' text format."""
        page, stage = Page(), self._life.stage
        labels = {"version": VERSION, "engine": current_engine().value}
        page.add_gauge(f"{_PREFIX}info", "The sidecar's release, and the engine that moves bytes.", [(labels, 1)])
        page.add_gauge(f"{_PREFIX}serving", "1 while connections are accepted.", int(isinstance(stage, Serving)))
        page.add_gauge(
            f"{_PREFIX}ca_stream_connected", "1 while there is a stream to the CA.", int(self._uplink.is_connected)
        )
        if self._uplink.clock_offset_s is not None:
            page.add_gauge(
                f"{_PREFIX}clock_offset_seconds",
                "By how much this machine's clock was ahead of the CA's when the stream was opened.",
                self._uplink.clock_offset_s,
            )
        page.add_counter(
            f"{_PREFIX}events_total",
            "Events, by name; ca_stream_lost counts streams to the CA that broke.",
            [({"event": event}, count) for event, count in sorted(self._events.counts.items())],
        )
        page.add_gauge(
            f"{_PREFIX}loop_lag_seconds",
            "By how much the event loop was late at worst since the last scrape.",
            self._take_max_lag_s(),
        )
        _add_workers(page)
        _add_process(page, self._started)
        if isinstance(stage, Serving):
            _add_connections(page, stage.sidecar)
            _add_steps(page, stage.sidecar)
            _add_mesh(page, stage.sidecar)
            _add_losses(page, stage.sidecar, self._events)
        return page.render()


def list_bounds(sidecar: Sidecar) -> tuple[tuple[str, int, int], ...]:
    """List each bound's name, used places and limit."""
    rooms = sidecar.rooms
    return (
        ("outbound", len(rooms.outbound), rooms.outbound.limit),
        ("strangers", len(rooms.strangers), rooms.strangers.limit),
        ("peers", len(rooms.peers), rooms.peers.limit),
        ("handshakes", len(sidecar.handshakes), sidecar.handshakes.limit),
    )


def _add_workers(page: Page) -> None:
    turns = count_turns(asyncio.get_running_loop())
    page.add_gauge(
        f"{_PREFIX}workers", "Threads that may move established connections; 0: Python moves them.", current_workers()
    )
    page.add_gauge(
        f"{_PREFIX}worker_turns",
        "Connections that a thread moves now, without the event loop.",
        [({"worker": str(number)}, count) for number, count in enumerate(turns)],
    )


def _add_connections(page: Page, sidecar: Sidecar) -> None:
    counts = sidecar.recorder.counts
    page.add_counter(
        f"{_PREFIX}decisions_total",
        "Connections that have ended, by side, verdict and reason.",
        [
            (
                {
                    "direction": direction.value,
                    "verdict": answer.value,
                    "would_deny": "true" if would_deny else "false",
                    "reason": reason.value,
                },
                count,
            )
            for (direction, answer, would_deny, reason), count in sorted(counts.decisions.items())
        ],
    )
    sent, received = dict(counts.bytes_sent), dict(counts.bytes_received)
    live = dict.fromkeys(Direction, 0)
    for connection in sidecar.connections:
        direction = connection.parties.direction
        live[direction] += 1
        sent[direction] += connection.bytes_sent
        received[direction] += connection.bytes_received
    page.add_gauge(f"{_PREFIX}connections", "Live connections.", [({"direction": d.value}, n) for d, n in live.items()])
    page.add_counter(
        f"{_PREFIX}bytes_total",
        "Bytes of connections: `sent` from the source to the destination, `received` the other way.",
        [
            ({"direction": direction.value, "flow": flow}, table[direction])
            for flow, table in (("sent", sent), ("received", received))
            for direction in Direction
        ],
    )
    bounds = list_bounds(sidecar)
    page.add_gauge(f"{_PREFIX}places_used", "Used places of each bound.", [({"bound": b}, n) for b, n, _ in bounds])
    page.add_gauge(f"{_PREFIX}places", "Each bound.", [({"bound": b}, most) for b, _, most in bounds])


def _add_steps(page: Page, sidecar: Sidecar) -> None:
    counts, stories, connector = sidecar.recorder.counts, sidecar.counts, sidecar.connector
    page.add_histogram(
        f"{_PREFIX}attestation_seconds", "Attestations of programs that succeeded.", stories.attestations
    )
    page.add_counter(
        f"{_PREFIX}attestations_failed_total",
        "Attestations that gave no program.",
        [({"reason": reason.value}, count) for reason, count in sorted(stories.attestations_failed.items())],
    )
    page.add_histogram(
        f"{_PREFIX}handshake_seconds", "Handshakes of peers that arrived, from their ClientHello.", stories.handshakes
    )
    page.add_counter(
        f"{_PREFIX}handshakes_failed_total",
        "Handshakes of peers that arrived and failed.",
        [({"reason": reason.value}, count) for reason, count in sorted(stories.handshakes_failed.items())],
    )
    page.add_counter(
        f"{_PREFIX}tunnel_handshakes_total",
        "Tunnels' handshakes that held: whole ones, and those that rest on an earlier one.",
        [
            ({"role": role, "kind": kind}, count)
            for role, secrets in (("initiator", connector.secrets), ("responder", sidecar.secrets))
            for kind, count in (("full", secrets.full), ("resumed", secrets.resumed))
        ],
    )
    page.add_counter(
        f"{_PREFIX}tunnels_total",
        "Tunnels that connections asked for: taken from the pool, opened, or not had.",
        [
            ({"outcome": "reused"}, connector.reused),
            ({"outcome": "opened"}, connector.opened),
            ({"outcome": "failed"}, connector.failed),
        ],
    )
    if stories.holds_connects is not None:
        page.add_gauge(
            f"{_PREFIX}connects_held",
            "1 while programs' connect() waits for the look at them; 0 while the queue is away.",
            int(stories.holds_connects),
        )
    page.add_gauge(f"{_PREFIX}idle_tunnels", "Tunnels in the pool.", len(connector))
    page.add_counter(
        f"{_PREFIX}peers_elsewhere_total",
        "Certificates shown from an address that the directory lists for another workload.",
        counts.peers_elsewhere,
    )


def _add_mesh(page: Page, sidecar: Sidecar) -> None:
    now, held = time.time(), sidecar.credentials.list_held()
    lives = [({"of": "sidecar"}, sidecar.credentials.own.not_after - now)]
    lives += [({"of": "programs"}, min(each.not_after for each in held) - now)] if held else []
    page.add_gauge(
        f"{_PREFIX}credential_remaining_seconds",
        "Until the sidecar's own certificate ends, and the first of its programs'; negative after it.",
        lives,
    )
    page.add_gauge(f"{_PREFIX}credentials", "Certificates held for programs.", len(held))
    page.add_gauge(f"{_PREFIX}bundle_sequence", "Of the trust bundle in force.", sidecar.trust.bundle.sequence)
    own = sidecar.policies.own.state
    page.add_gauge(f"{_PREFIX}policy_version", "Of the own namespace's policy in force.", own.version)
    is_explicit = sidecar.policies.mode is Mode.EXPLICIT
    page.add_gauge(f"{_PREFIX}explicit", "1 where the own workload is explicit.", int(is_explicit))
    page.add_gauge(f"{_PREFIX}directory_entries", "Known addresses.", len(sidecar.directory))


def _add_losses(page: Page, sidecar: Sidecar, events: Events) -> None:
    recorder = sidecar.recorder
    page.add_counter(
        f"{_PREFIX}records_lost_total",
        "Lost lines of the local log and its events, and records that the CA doesn't get.",
        [({"at": "log"}, recorder.lost_lines), ({"at": "ca"}, recorder.lost_total), ({"at": "events"}, events.lost)],
    )
    page.add_gauge(f"{_PREFIX}records_waiting", "Records that the CA hasn't acknowledged.", recorder.waiting)


def _add_process(page: Page, started: float) -> None:
    """Add what every Prometheus client library says of its process (proc(5))."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    page.add_counter("process_cpu_seconds_total", "CPU time, user and system.", usage.ru_utime + usage.ru_stime)
    page.add_gauge("process_start_time_seconds", "Since the epoch.", round(started, 3))
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            page.add_gauge(
                "process_resident_memory_bytes", "Resident memory.", int(file.read().split()[1]) * _PAGE_BYTES
            )
        page.add_gauge("process_open_fds", "Open descriptors.", len(os.listdir("/proc/self/fd")) - 1)
    except OSError:
        pass  # No /proc, or not ours to read: Prometheus' own libraries leave it out as well.
    page.add_gauge("process_max_fds", "Limit on open descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
