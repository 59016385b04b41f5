"""Evictions and join tokens on the admin API (``shared.model.wire.admin_joining``)."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.wire.admin_joining import Evicted, EvictionRequest


def test_an_eviction_names_whom_and_nothing_else() -> None:
    assert msgspec.json.decode(b'{"whom":"web-1"}', type=EvictionRequest) == EvictionRequest(whom="web-1")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"whom":"web-1","force":true}', type=EvictionRequest)


def test_an_answer_of_a_later_release_is_read() -> None:
    done = Evicted(instances=("a",), certificates=1, ends=2.0, tokens=(), bundle_sequence=3)
    assert msgspec.json.decode(msgspec.json.encode(done)[:-1] + b',"more":1}', type=Evicted) == done
