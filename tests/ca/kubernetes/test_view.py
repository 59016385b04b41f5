"""Outside a cluster pods are refused, machines aren't, and every replica leads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ca.kubernetes.view import ClusterView, NoCluster
from ca.store.records import JoinGrant
from shared.model.errors import NotFoundError, RefusedError
from tests.ca.founded import WEB
from tests.ca.running import make_csr, make_registration

MACHINE = JoinGrant(workload=WEB, addresses=(), instance="web-1")


async def test_pods_are_refused_and_machines_are_not() -> None:
    cluster: ClusterView = NoCluster()
    assert cluster.check_alive(MACHINE) is MACHINE
    with pytest.raises(RefusedError, match="joined as a pod"):
        cluster.check_alive(replace(MACHINE, pod_uid="uid"))
    with pytest.raises(RefusedError, match="outside a cluster"):
        await cluster.authenticate("token", make_csr()[1], make_registration("web-1"))
    with pytest.raises(NotFoundError, match="outside a cluster"):
        await cluster.describe(())


def test_nothing_is_waited_for_and_every_replica_leads() -> None:
    cluster: ClusterView = NoCluster()
    assert cluster.is_leader and cluster.is_synced
    assert (cluster.find_entry("198.18.0.2"), cluster.check_ready()) == (None, {})
