"""One kind of object, followed for as long as the CA runs: list in pages → watch → resume, or list again. I/O.

Belongs here: pages, resource versions, bookmarks, losses and their back-off. Doesn't: what is remembered of an object;
a *trim* function makes that value, and the raw object is dropped before the next one is read, so that memory follows
what is remembered and not what the API server sends.

Sources: Kubernetes API Concepts (efficient detection of changes, chunked lists, 410 Gone, bookmarks).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
import structlog

from ca.kubernetes.api.client import AnswerTooLargeError, ClusterClient, ExpiredError, make_error
from ca.metrics import Metrics
from shared.model.errors import TouchmarkError
from shared.model.wire.admin import WatchView

PAGE: Final = 250
LIST_DEADLINE_S: Final = 30.0
# The API server ends a watch after this time, drawn anew for each, and it is resumed at once. So short, because nothing
# else is certain to be heard: bookmarks of a quiet collection need etcd's progress notifications, which are often off.
WATCH_S: Final = (45, 75)
# A connection that is silent for longer than the API server would let it be has been lost.
IDLE_S: Final = 90.0
# What no event has told (a restored etcd, a fault of ours) is seen then at the latest.
RELIST_S: Final = 3600.0
SOON_S: Final = 600.0  # Not sooner, since whoever may edit a namespace can have it wanted again and again.
FIRST_BACKOFF_S: Final = 0.2
MAX_BACKOFF_S: Final = 10.0
# A version that can't be resumed from isn't always said to be gone (etcd restored from a backup).
_FAILURES_BEFORE_LIST: Final = 4
_SOUND_S: Final = 5.0
# A page of the largest Programs takes 1.2 s to read: the sidecars' streams have their turns in between.
_MAX_BUSY_S: Final = 0.02
# An object of this size takes 15 ms to read, the largest Program a fifth of a second: those are read in a thread.
_LARGE_BYTES: Final = 64 * 1024

_log = structlog.get_logger("touchmark.ca")
_T = TypeVar("_T")
_AnyT = TypeVar("_AnyT")
_RawT = TypeVar("_RawT")
_T_contra = TypeVar("_T_contra", contravariant=True)


class Sink(Protocol[_T_contra]):
    """Who remembers the values. Called on the event loop, one call at a time; none of it may wait."""

    def replace(self, values: Sequence[_T_contra]) -> None:
        """These are all there are; others have gone."""

    def apply(self, value: _T_contra) -> None:
        """This one is new or has changed."""

    def remove(self, value: _T_contra) -> None:
        """This one has been deleted."""

    def __len__(self) -> int: ...


class _ListMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Versioned(msgspec.Struct):
    metadata: _ListMeta


class _Status(msgspec.Struct):
    code: int = 500
    message: str = ""


_page: Final = msgspec.json.Decoder(_Page)
_event: Final = msgspec.json.Decoder(_Event)
_versioned: Final = msgspec.json.Decoder(_Versioned)
_status: Final = msgspec.json.Decoder(_Status)


class Watch(Generic[_RawT, _T]):
    """Keeps a sink in step with one collection of the API server.

    Arguments:
        name: for people and metrics: the resource, such as ``pods``.
        path: of the collection, such as ``/api/v1/pods``.
        kind: the fields to decode, a ``msgspec.Struct``.
        trim: makes the value to remember of a decoded object, and does nothing else: for a large one it is called in a
            thread.
        query: selectors.
        fit: makes, for each list, the function through which its values pass in turn: a list is remembered as a whole
            before the sink has it, and the values may be more than there is room for.

    Attributes:
        is_synced: set once the sink holds the whole collection for the first time.
    """

    def __init__(
        self,
        client: ClusterClient,
        sink: Sink[_T],
        *,
        name: str,
        path: str,
        kind: type[_RawT],
        trim: Callable[[_RawT], _T],
        metrics: Metrics,
        query: Mapping[str, str] | None = None,
        fit: Callable[[], Callable[[_T], _T]] | None = None,
    ) -> None:
        self.name = name
        self.is_synced = asyncio.Event()
        self.restarts = 0
        self.lists = 0
        self.fault = "not started"
        self._client = client
        self._sink = sink
        self._path = path
        self._object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._trim = trim
        self._metrics = metrics
        self._query = dict(query or {})
        self._fit = fit
        self._version = ""
        self._heard: float | None = None
        self._listed = 0.0
        self._is_wanted_soon = False
        self._failures = 0

    def describe(self) -> WatchView:
        """Say how it is."""
        return WatchView(
            name=self.name,
            is_synced=self.is_synced.is_set(),
            age_s=round(self.age_s(), 3) if self._heard is not None else -1.0,
            objects=len(self._sink),
            restarts=self.restarts,
            lists=self.lists,
            fault=self.fault,
        )

    def age_s(self) -> float:
        """Return for how long the API server has said nothing of it; infinite before the first list."""
        return float("inf") if self._heard is None else asyncio.get_running_loop().time() - self._heard

    def list_soon(self) -> None:
        """List anew once ``SOON_S`` have passed since the last list: an object is wanted that hasn't changed."""
        self._is_wanted_soon = True

    async def run(self) -> None:
        """Follow until cancelled. No failure ends it: each is said, counted and tried again after a while."""
        while True:
            began = asyncio.get_running_loop().time()
            try:
                relist_s = min(SOON_S, RELIST_S) if self._is_wanted_soon else RELIST_S
                if not self._version or began - self._listed > relist_s:
                    await self._list()
                await self._follow()
            except ExpiredError as error:
                self._version = ""
                self._note(error.message)
            except TouchmarkError as error:
                self._note(error.message)
            except Exception as error:
                # Ours, in a sink: what it remembers may be half of a change, and is made anew.
                self._version = ""
                self._metrics.failures.labels(where="watch").inc()
                _log.exception("watch_failed", watch=self.name)
                self._note(repr(error))
            else:
                if asyncio.get_running_loop().time() - began >= _SOUND_S:
                    self._failures = 0
                    continue  # It has ended in its time.
                self._note("ended early")
            await self._back_off()

    async def _back_off(self) -> None:
        self._failures += 1
        if self._failures % _FAILURES_BEFORE_LIST == 0:
            self._version = ""
        self.restarts += 1
        self._metrics.watch_restarts.labels(watch=self.name).inc()
        ceiling = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures, 16))
        await asyncio.sleep(ceiling * random.uniform(0.5, 1.0))

    def _note(self, fault: str) -> None:
        if not self.fault or self.fault == "not started":
            _log.warning("watch_lost", watch=self.name, message=fault)
        self.fault = fault

    async def _list(self) -> None:
        values: list[_T] = []
        fit = self._fit() if self._fit is not None else lambda value: value
        more = ""
        size = PAGE
        loop = asyncio.get_running_loop()
        paused = loop.time()
        while True:
            query = {**self._query, "limit": str(size), **({"continue": more} if more else {})}
            try:
                answer = await self._client.ask("GET", self._path, query=query, deadline_s=LIST_DEADLINE_S)
            except AnswerTooLargeError:
                if size == 1:
                    raise
                # Somebody has made many that are huge. The list must come to its end all the same: else one
                # namespace's user would keep everybody's objects from being read.
                size = max(1, size // 4)
                continue
            page = self._read(_page, answer)
            for raw in page.items or ():
                if (value := await self._read_object(raw)) is not None:
                    values.append(fit(value))
                if loop.time() - paused > _MAX_BUSY_S:
                    await asyncio.sleep(0)
                    paused = loop.time()
            more = page.metadata.more
            del answer
            if not more:
                break
        self._sink.replace(values)
        self._version = page.metadata.resource_version
        self._listed = self._heard = loop.time()
        self._is_wanted_soon = False
        self.lists += 1
        self._metrics.watch_lists.labels(watch=self.name).inc()
        if not self.is_synced.is_set():
            _log.info("watch_synced", watch=self.name, objects=len(self._sink))
            self.is_synced.set()

    async def _follow(self) -> None:
        query = {
            **self._query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*WATCH_S)),
        }
        loop = asyncio.get_running_loop()
        async with self._client.follow(self._path, query=query, idle_s=IDLE_S, deadline_s=LIST_DEADLINE_S) as lines:
            if self.fault and self._failures:
                _log.info("watch_back", watch=self.name)
            self.fault = ""
            self._heard = loop.time()
            async for line in lines:
                await self._take(self._read(_event, line))
                self._heard = loop.time()
                self._failures = 0

    async def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = self._read(_status, event.object)
            raise make_error(status.code, status.message, f"watch {self._path}")
        if event.type != "BOOKMARK":
            value = await self._read_object(event.object)
            if value is None:
                # What was remembered of it may no longer hold: the list leaves it out.
                self._version = ""
                raise make_error(500, "an object that can't be read", f"watch {self._path}")
            if event.type == "DELETED":
                self._sink.remove(value)
            else:
                self._sink.apply(value)
        self._version = self._read(_versioned, event.object).metadata.resource_version or self._version

    async def _read_object(self, raw: msgspec.Raw) -> _T | None:
        try:
            if memoryview(raw).nbytes > _LARGE_BYTES:
                return await asyncio.to_thread(self._make_value, raw)
            return self._make_value(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # One object that can't be read must not hide all others. It counts as absent: no sidecar joins by it.
            self._metrics.failures.labels(where="object").inc()
            _log.warning("object_not_read", watch=self.name, message=str(error))
            return None

    def _make_value(self, raw: msgspec.Raw) -> _T:
        return self._trim(self._object.decode(raw))

    def _read(self, decoder: msgspec.json.Decoder[_AnyT], data: bytes | msgspec.Raw) -> _AnyT:
        try:
            return decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise make_error(500, f"an answer that can't be read: {error}", f"watch {self._path}") from error
