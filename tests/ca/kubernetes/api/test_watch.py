"""A watch keeps its sink in step through pages, losses, gaps and nonsense, and says how it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from ca.kubernetes.api import client as client_module
from ca.kubernetes.api import watch as watch_module
from ca.kubernetes.api.watch import Watch
from ca.metrics import Metrics
from tests.ca.kubernetes.faking import faked
from tests.ca.running import eventually

Script = Callable[[web.StreamResponse], Awaitable[None]]


class Meta(msgspec.Struct):
    name: str = ""


class Thing(msgspec.Struct):
    metadata: Meta
    colour: str = ""


class Sink:
    """Remembers names and colours."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.replaced = 0
        self.fails = 0

    def __len__(self) -> int:
        return len(self.values)

    def replace(self, values: Sequence[tuple[str, str]]) -> None:
        self.values = dict(values)
        self.replaced += 1

    def apply(self, value: tuple[str, str]) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a fault of ours")
        self.values[value[0]] = value[1]

    def remove(self, value: tuple[str, str]) -> None:
        del self.values[value[0]]


def make(name: str, colour: str = "red", version: int = 0) -> dict[str, object]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "colour": colour}


class Collection:
    """A collection that lists what it holds, and plays one script a watch."""

    def __init__(self, *scripts: Script) -> None:
        self.objects: list[dict[str, object]] = [make("a"), make("b"), make("c")]
        self.version = 10
        self.scripts = list(scripts)
        self.queries: list[dict[str, str]] = []
        self.faults: list[int] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            if self.scripts:
                await self.scripts.pop(0)(response)
            else:
                await asyncio.sleep(30)
            return response
        if self.faults:
            code = self.faults.pop(0)
            return web.json_response({"message": "because"}, status=code)
        begin, limit = int(request.query.get("continue", "0")), int(request.query["limit"])
        more = str(begin + limit) if begin + limit < len(self.objects) else ""
        metadata = {"resourceVersion": str(self.version), "continue": more}
        return web.json_response({"metadata": metadata, "items": self.objects[begin : begin + limit] or None})

    def watches(self) -> list[dict[str, str]]:
        return [query for query in self.queries if "watch" in query]

    def lists(self) -> list[dict[str, str]]:
        return [query for query in self.queries if "watch" not in query]


def script(*events: tuple[str, dict[str, object]], stay: bool = False) -> Script:
    async def play(response: web.StreamResponse) -> None:
        for kind, body in events:
            await response.write(json.dumps({"type": kind, "object": body}).encode() + b"\n")
        if stay:
            await asyncio.sleep(30)

    return play


@contextlib.asynccontextmanager
async def following(
    tmp_path: Path,
    collection: Collection,
    fit: Callable[[], Callable[[tuple[str, str]], tuple[str, str]]] | None = None,
    trim: Callable[[Thing], tuple[str, str]] = lambda thing: (thing.metadata.name, thing.colour),
) -> AsyncIterator[tuple[Watch[Thing, tuple[str, str]], Sink]]:
    sink = Sink()
    async with faked(tmp_path, collection.handle) as client:
        watch = Watch(
            client,
            sink,
            name="things",
            path="/things",
            kind=Thing,
            trim=trim,
            metrics=Metrics(),
            query={"labelSelector": "x=y"},
            fit=fit,
        )
        task = asyncio.create_task(watch.run())
        try:
            yield watch, sink
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "FIRST_BACKOFF_S", 0.005)
    monkeypatch.setattr(watch_module, "MAX_BACKOFF_S", 0.02)


async def test_objects_that_are_huge_together_are_listed_in_smaller_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of one namespace who made them would keep the CA from reading anybody's."""
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 3_000)
    collection = Collection()
    collection.objects = [make(f"o{number}", "x" * 1_000) for number in range(9)]
    async with following(tmp_path, collection) as (watch, sink):
        await asyncio.wait_for(watch.is_synced.wait(), 60)
        assert sink.values == {f"o{number}": "x" * 1_000 for number in range(9)}
    limits = [query["limit"] for query in collection.queries if "watch" not in query]
    assert limits == ["250", "62", "15", "3", *["1"] * 9]


async def test_a_large_object_is_read_beside_the_event_loop(tmp_path: Path) -> None:
    """A Program with ten thousand digests takes a fifth of a second: nobody's stream waits for it."""
    readers: dict[str, threading.Thread] = {}
    collection = Collection(
        script(("ADDED", make("e", version=11)), ("MODIFIED", make("a", "y" * 70_000, version=12)), stay=True)
    )
    collection.objects = [make("a", "x" * 70_000), make("b")]

    def trim(thing: Thing) -> tuple[str, str]:
        readers[thing.metadata.name + thing.colour[:1]] = threading.current_thread()
        return thing.metadata.name, thing.colour

    async with following(tmp_path, collection, trim=trim) as (_, sink):
        await eventually(lambda: sink.values == {"a": "y" * 70_000, "b": "red", "e": "red"})
    assert {name for name, reader in readers.items() if reader is threading.main_thread()} == {"br", "er"}
    assert set(readers) == {"ax", "ay", "br", "er"}


async def test_it_lists_in_pages_then_watches_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "PAGE", 2)
    collection = Collection(
        script(
            ("ADDED", make("d", version=11)),
            ("MODIFIED", make("a", "blue", version=12)),
            ("DELETED", make("b", version=13)),
            stay=True,
        )
    )
    async with following(tmp_path, collection) as (watch, sink):
        assert watch.describe().age_s == -1
        assert watch.describe().fault == "not started"
        await eventually(lambda: sink.values == {"a": "blue", "c": "red", "d": "red"})
        assert watch.is_synced.is_set()
        view = watch.describe()
        assert (view.objects, view.lists, view.restarts, view.fault) == (3, 1, 0, "")
        assert 0 <= view.age_s < 5
    assert [query.get("continue") for query in collection.lists()] == [None, "2"]
    (query,) = collection.watches()
    assert (query["resourceVersion"], query["allowWatchBookmarks"]) == ("10", "true")
    assert {query["labelSelector"] for query in collection.queries} == {"x=y"}
    assert int(query["timeoutSeconds"]) in range(45, 76)


async def test_after_a_loss_it_resumes_after_the_last_event_or_bookmark(tmp_path: Path) -> None:
    collection = Collection(
        script(("ADDED", make("d", version=11))),
        script(("BOOKMARK", {"metadata": {"resourceVersion": "20"}})),
        script(("ADDED", make("e", version=21)), stay=True),
    )
    async with following(tmp_path, collection) as (watch, sink):
        await eventually(lambda: "e" in sink.values)
        assert (watch.lists, watch.restarts) == (1, 2)
    assert [query["resourceVersion"] for query in collection.watches()] == ["10", "11", "20"]


@pytest.mark.parametrize("how", ["event", "status"])
async def test_a_version_that_is_gone_means_listing_anew(tmp_path: Path, how: str) -> None:
    collection = Collection(
        script(("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})),
        script(stay=True),
    )
    if how == "status":
        collection.scripts.pop(0)
    real = collection.handle

    async def handle(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query and not collection.watches():
            # What it lists anew is there before it is told to.
            collection.objects, collection.version = [make("z")], 99
            if how == "status":
                collection.queries.append(dict(request.query))
                return web.json_response({"message": "gone"}, status=410)
        return await real(request)

    collection.handle = handle  # type: ignore[method-assign]
    async with following(tmp_path, collection) as (watch, sink):
        await eventually(lambda: sink.values == {"z": "red"})
        assert watch.lists == 2
        await eventually(lambda: watch.describe().fault == "")
    assert collection.watches()[-1]["resourceVersion"] == "99"


async def test_a_page_that_is_gone_means_listing_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "PAGE", 2)
    collection = Collection()
    real = collection.handle
    is_first = True

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal is_first
        if is_first and request.query.get("continue"):
            is_first = False
            return web.json_response({"message": "the page is gone"}, status=410)
        return await real(request)

    collection.handle = handle  # type: ignore[method-assign]
    async with following(tmp_path, collection) as (watch, sink):
        await asyncio.wait_for(watch.is_synced.wait(), 5)
        assert set(sink.values) == {"a", "b", "c"}
        assert sink.replaced == 1


async def test_until_the_first_list_it_tries_again_and_says_why(tmp_path: Path) -> None:
    collection = Collection(script(stay=True))
    collection.faults = [503, 429, 403]
    async with following(tmp_path, collection) as (watch, _):
        await eventually(lambda: "because" in watch.describe().fault)
        await asyncio.wait_for(watch.is_synced.wait(), 5)
        assert watch.restarts == 3
        await eventually(lambda: watch.describe().fault == "")


async def test_after_many_losses_without_a_word_it_lists_anew(tmp_path: Path) -> None:
    """An etcd restored from a backup knows our version's future only."""
    collection = Collection(*[script() for _ in range(4)], script(stay=True))
    async with following(tmp_path, collection) as (watch, _):
        await eventually(lambda: watch.lists == 2)
        assert watch.restarts == 4


async def test_a_fault_of_ours_is_said_and_made_good_by_a_list(tmp_path: Path) -> None:
    collection = Collection(script(("ADDED", make("d", version=11)), stay=True), script(stay=True))
    async with following(tmp_path, collection) as (watch, sink):
        sink.fails = 1
        collection.objects.append(make("d"))
        await eventually(lambda: sink.replaced == 2)
        assert "d" in sink.values
        assert watch.lists == 2


async def test_one_object_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    broken: dict[str, object] = {"metadata": {"name": 7, "resourceVersion": "12"}}
    collection = Collection(
        script(("ADDED", make("d", version=11)), ("MODIFIED", broken), stay=True),
        script(("ADDED", make("e", version=13)), stay=True),
    )
    collection.objects.append(broken)
    async with following(tmp_path, collection) as (watch, sink):
        await eventually(lambda: "e" in sink.values)
        assert watch.lists == 2  # What was known of it might no longer hold.


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"type": "ADDED"}\n', b'{"type": "ERROR", "object": {}}\n'])
async def test_nonsense_is_a_loss(tmp_path: Path, line: bytes) -> None:
    async def play(response: web.StreamResponse) -> None:
        await response.write(line)

    collection = Collection(play, script(("ADDED", make("e", version=13)), stay=True))
    async with following(tmp_path, collection) as (watch, sink):
        await eventually(lambda: "e" in sink.values)
        assert watch.restarts == 1


async def test_silence_beyond_the_watch_s_end_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "IDLE_S", 0.05)
    # A busy machine takes longer with the next one, too: some of those that follow say it again.
    collection = Collection(script(stay=True), *[script(("ADDED", make("e", version=13)), stay=True)] * 100)
    async with following(tmp_path, collection) as (_, sink):
        await eventually(lambda: "e" in sink.values)


async def test_a_watch_that_ended_in_its_time_is_opened_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_SOUND_S", 0.0)
    monkeypatch.setattr(watch_module, "MAX_BACKOFF_S", 30.0)
    monkeypatch.setattr(watch_module, "FIRST_BACKOFF_S", 30.0)
    collection = Collection(script(), script(("ADDED", make("e", version=13)), stay=True))
    async with following(tmp_path, collection) as (watch, sink):
        await eventually(lambda: "e" in sink.values)
        assert watch.restarts == 0


async def test_now_and_then_it_lists_anew_whatever_it_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "RELIST_S", 0.0)
    monkeypatch.setattr(watch_module, "_SOUND_S", 0.0)
    collection = Collection(script(), script(stay=True))
    async with following(tmp_path, collection) as (watch, _):
        await eventually(lambda: watch.lists == 2)


async def test_an_object_is_wanted_that_has_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one at a time, so that a page that takes long to read keeps nobody waiting."""
    monkeypatch.setattr(watch_module, "SOON_S", 0.0)
    monkeypatch.setattr(watch_module, "_SOUND_S", 0.0)
    monkeypatch.setattr(watch_module, "_MAX_BUSY_S", -1.0)
    released = asyncio.Event()

    async def play(_: web.StreamResponse) -> None:
        await released.wait()

    fitted: list[list[str]] = []

    def fit() -> Callable[[tuple[str, str]], tuple[str, str]]:
        fitted.append([])

        def note(value: tuple[str, str]) -> tuple[str, str]:
            fitted[-1].append(value[0])
            return value

        return note

    async with following(tmp_path, Collection(play, script(stay=True)), fit) as (watch, _):
        await eventually(lambda: watch.lists == 1)
        watch.list_soon()
        released.set()
        await eventually(lambda: watch.lists == 2)
    assert fitted == [["a", "b", "c"]] * 2, "a function of its own for each list"
