"""Challenges are for a cluster's users (``ca.api.admin.challenge``); ``tests/ca/api/access`` has them answered."""

from __future__ import annotations

from tests.ca.running import Admin


async def test_a_ca_outside_a_cluster_has_no_challenges(admin: Admin) -> None:
    assert "outside a cluster" in (await admin.fail("GET", "/v1/challenge", 404)).message
