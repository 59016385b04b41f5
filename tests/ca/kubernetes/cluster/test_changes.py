"""What has changed waits until it is taken, each key once."""

from __future__ import annotations

import asyncio

from ca.kubernetes.cluster.changes import ClusterChanges, Pending
from tests.ca.kubernetes.making import make_record, make_uid


async def test_each_key_waits_once_with_its_newest_value_and_is_taken_oldest_first() -> None:
    pending: Pending[int] = Pending()
    waiting = asyncio.ensure_future(pending.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    for key, value in (("a", 1), ("b", 2), ("c", 3), ("a", 4)):
        pending.put(key, value)
    await waiting
    assert pending.take(2) == [4, 2]
    await pending.wait()
    assert pending.take() == [3]
    assert pending.take() == []
    waiting = asyncio.ensure_future(pending.wait())
    await asyncio.sleep(0)
    assert waiting.cancel()


async def test_only_pods_with_a_sidecar_have_a_stream_to_end_and_a_record_to_forget() -> None:
    changes = ClusterChanges()
    changes.note_addresses(["198.18.0.2", "198.18.0.3", "198.18.0.2"])
    changes.note_gone(make_record("plain", uid=make_uid(1), injected=False))
    changes.note_gone(make_record("web-0", uid=make_uid(2)))
    assert changes.addresses.take() == ["198.18.0.2", "198.18.0.3"]
    assert [pod.name for pod in changes.ended.take()] == ["web-0"]
    assert changes.gone.take() == [make_uid(2)]
