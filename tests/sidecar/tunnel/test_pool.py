"""The pool: what it gives out, what it hands back to be closed, and its bounds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from msgspec.structs import replace

from shared.model.identity.identity import Workload
from sidecar.tunnel.pool import PoolLimits, TunnelKey, TunnelPool
from sidecar.tunnel.tunnel import Tunnel

KEY = TunnelKey(
    identity="spiffe://td/ns/shop/sa/web/sidecar",
    generation=1,
    destination=("198.18.0.2", 5432),
    workload=Workload(namespace="shop", service_account="db"),
)


@dataclass(eq=False)
class FakeTunnel:
    is_reusable: bool = True
    opened_at: float = 0.0
    not_after: float = 10_000.0


def tunnel(**changes: object) -> Tunnel:
    return cast("Tunnel", dataclasses.replace(FakeTunnel(), **changes))  # type: ignore[arg-type]


def test_the_last_used_tunnel_is_taken_first_and_only_once() -> None:
    pool, first, second = TunnelPool(), tunnel(), tunnel()
    pool.give_back(KEY, first, now=1)
    pool.give_back(KEY, second, now=2)
    assert [pool.take(KEY, now=3, wall=3)[0] for _ in range(3)] == [second, first, None]


def test_another_generation_identity_destination_or_workload_is_another_key() -> None:
    pool = TunnelPool()
    pool.give_back(KEY, tunnel(), now=1)
    for other in (
        replace(KEY, generation=2),
        replace(KEY, identity="x"),
        replace(KEY, destination=("198.18.0.2", 5433)),
        replace(KEY, workload=Workload(namespace="shop", service_account="cache")),
    ):
        assert pool.take(other, now=2, wall=2) == (None, [])


def test_what_ended_aged_or_expired_is_handed_over_to_be_closed() -> None:
    pool = TunnelPool(PoolLimits(age_s=100))
    expired, aged = tunnel(not_after=50.0, opened_at=90.0), tunnel(opened_at=0.0)
    ended = FakeTunnel(opened_at=90.0)
    for each in (expired, aged, cast("Tunnel", ended)):
        assert pool.give_back(KEY, each, now=95) == []
    ended.is_reusable = False
    taken, unusable = pool.take(KEY, now=101, wall=101)
    assert taken is None
    assert set(unusable) == {expired, aged, ended}
    assert len(pool) == 0


def test_a_tunnel_that_cannot_be_reused_is_not_taken_back() -> None:
    pool, broken = TunnelPool(), tunnel(is_reusable=False)
    assert pool.give_back(KEY, broken, now=1) == [broken]
    assert len(pool) == 0


def test_both_bounds_hold_and_the_oldest_goes() -> None:
    pool = TunnelPool(PoolLimits(max_idle=3, max_idle_per_key=2))
    tunnels = [tunnel() for _ in range(3)]
    assert [pool.give_back(KEY, each, now=1) for each in tunnels] == [[], [], [tunnels[0]]]
    other = replace(KEY, generation=2)
    assert pool.give_back(other, tunnel(), now=2) == []
    assert pool.give_back(other, tunnel(), now=3) == [tunnels[1]]
    assert len(pool) == 3


def test_idle_tunnels_are_reaped_and_lost_ones_forgotten() -> None:
    pool = TunnelPool(PoolLimits(idle_s=60))
    old, lost, young = tunnel(), tunnel(), tunnel()
    pool.give_back(KEY, old, now=0)
    pool.give_back(KEY, lost, now=0)
    pool.give_back(KEY, young, now=50)
    pool.discard(lost)
    pool.discard(lost)
    assert pool.reap(now=60) == [old]
    assert pool.drain() == [young]
    assert len(pool) == 0
