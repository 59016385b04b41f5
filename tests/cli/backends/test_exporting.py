"""What an export asks for: every namespace's state, and pods where there is a cluster."""

from __future__ import annotations

import asyncio

import pytest

from cli.backends.exporting import read_sources
from cli.backends.target import Target
from shared.model.errors import NotFoundError
from shared.model.wire.admin import ErrorAnswer, NamespaceList
from tests.cli.export.world import SHOP, STATES
from tests.cli.fake_ca import FakeCA

ALL = NamespaceList(namespaces=tuple(STATES.values()))


def make_target(ca: FakeCA) -> Target:
    return Target(in_cluster=False, admin_socket=ca.socket)


def test_all_states_are_read_although_one_namespace_is_exported(ca: FakeCA) -> None:
    ca.answers["GET /v1/namespaces"] = ALL
    found = asyncio.run(read_sources(make_target(ca), "shop"))
    assert set(found.states) == set(STATES)
    assert (found.pods, found.notes) == ((), ())


def test_who_may_read_one_namespace_alone_is_told_what_is_missing(ca: FakeCA) -> None:
    ca.answers["GET /v1/namespaces"] = ErrorAnswer(code="forbidden", message="not you")
    ca.answers["GET /v1/namespaces/shop"] = SHOP
    found = asyncio.run(read_sources(make_target(ca), "shop"))
    assert found.states == {"shop": SHOP}
    assert "not you" in found.notes[0]


def test_a_namespace_that_the_ca_doesnt_know_is_refused(ca: FakeCA) -> None:
    ca.answers["GET /v1/namespaces"] = ALL
    with pytest.raises(NotFoundError):
        asyncio.run(read_sources(make_target(ca), "shoop"))
