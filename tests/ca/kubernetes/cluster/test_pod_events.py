"""Events on pods: of what explicit mode refused, once an hour, within bounds, and never in anybody's way."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

from ca.kubernetes.cluster import pod_events as module
from ca.kubernetes.cluster.pod_events import PodEvents
from ca.kubernetes.cluster.pods import PodRecord
from ca.metrics import Metrics
from shared.model.errors import UnavailableError
from shared.model.policy.decision import ProcessRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from tests.ca.running import eventually
from tests.shared.model.policy.records import make_record

POD = PodRecord(
    uid="0123-uid", namespace="shop", name="web-0", service_account="web", node="n", instance="web-1", addresses=(),
    created="", is_ended=False, is_terminating=False, asks="", has_sidecar=True, fault="",
)  # fmt: skip


class FakeClient:
    """Keeps what is posted; fails while it is away."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []
        self.is_away = False

    async def post(self, path: str, body: object, kind: type[Any], /) -> Any:
        self.posted.append((path, body))
        if self.is_away:
            raise UnavailableError("away")
        return kind


class Told:
    """Pod events with a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.client = FakeClient()
        self.metrics = Metrics()
        self.events = PodEvents(
            self.client,
            find_pod=lambda instance: POD if instance == POD.instance else None,
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    async def wait(self, condition: Callable[[], object]) -> None:
        task = asyncio.create_task(self.events.run())
        await eventually(condition, deadline_s=60)
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


async def test_a_refused_connection_is_told_on_the_pod_of_its_sidecar() -> None:
    told = Told()
    told.events.tell_refusals([make_record(process=ProcessRecord(pid=1, path="/usr/bin/curl"))])
    await told.wait(lambda: told.client.posted)
    [(path, event)] = told.client.posted
    assert path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert event["regarding"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web-0", "uid": "0123-uid",
    }  # fmt: skip
    assert (event["reason"], event["type"], event["eventTime"]) == (
        "ConnectionRefused",
        "Warning",
        "2027-01-15T08:00:00.000000Z",
    )
    for part in ("/usr/bin/curl", "shop/web", "5432", "program_not_approved"):
        assert part in event["note"]


async def test_one_reason_is_told_once_an_hour() -> None:
    told = Told()
    denied = make_record()
    told.events.tell_refusals([denied, denied, make_record(reason=Reason.NO_RULE)])
    told.now += module.EVERY_S - 1
    told.events.tell_refusals([denied])
    told.now += 2
    told.events.tell_refusals([denied])
    await told.wait(lambda: len(told.client.posted) == 3)


async def test_permissive_mode_and_unknown_pods_are_told_of_nothing() -> None:
    told = Told()
    told.events.tell_refusals([make_record(mode=Mode.PERMISSIVE), make_record(sidecar="machine")])
    told.events.tell(POD.instance, "RotationWaits", "x" * 5000)
    await told.wait(lambda: told.client.posted)
    [(_, event)] = told.client.posted
    assert event["reason"] == "RotationWaits"
    assert len(event["note"]) == 1024


async def test_what_cant_be_sent_or_has_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    told = Told()
    told.client.is_away = True
    for number in range(4):
        told.events.tell(POD.instance, f"Reason{number}", "")
    await told.wait(lambda: 'result="failed"} 2.0' in told.metrics.render().decode())
    assert 'touchmark_ca_pod_events_total{result="dropped"} 2.0' in told.metrics.render().decode()


async def test_a_programs_path_neither_hides_the_reason_nor_writes_to_a_terminal() -> None:
    told = Told()
    told.events.tell_refusals([make_record(process=ProcessRecord(pid=1, path="/\x1b[2J" + "a" * 4000))])
    await told.wait(lambda: told.client.posted)
    note = told.client.posted[0][1]["note"]
    assert note.isprintable()
    assert "program_not_approved" in note


async def test_a_full_table_forgets_what_is_an_hour_old_and_isnt_gone_through_for_each_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Remembered(OrderedDict[Any, float]):
        def items(self) -> Any:
            raise AssertionError("the whole table is gone through")

    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    told = Told()
    monkeypatch.setattr(told.events, "_told", Remembered())
    told.events.tell(POD.instance, "First", "")
    told.now += 10
    for number in range(4):
        told.events.tell(POD.instance, f"Reason{number}", "")
    assert 'touchmark_ca_pod_events_total{result="dropped"} 3.0' in told.metrics.render().decode()
    told.now += module.EVERY_S - 10
    told.events.tell(POD.instance, "First", "")
    told.events.tell(POD.instance, "Reason1", "")
    assert 'touchmark_ca_pod_events_total{result="dropped"} 4.0' in told.metrics.render().decode()
    await told.wait(lambda: len(told.client.posted) == 3)
    assert [event["reason"] for _, event in told.client.posted] == ["First", "Reason0", "First"]
