"""The directory's watches are those that its wholeness is judged by."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ca.kubernetes.cluster.cluster_services import ServiceIndex
from ca.kubernetes.cluster.pods import NamespaceIndex, trim_pod
from ca.kubernetes.cluster.watches import DIRECTORY_WATCHES, make_directory_watches
from ca.metrics import Metrics
from tests.ca.kubernetes.faked_cluster import FakeCluster
from tests.ca.kubernetes.faking import faked
from tests.ca.kubernetes.making import CA_NAMES, IMAGE, make_pod_index


async def test_each_watch_of_the_directory_is_made(tmp_path: Path) -> None:
    async with faked(tmp_path, FakeCluster().handle) as client:
        watches = make_directory_watches(
            client,
            make_pod_index(),
            NamespaceIndex(on_labels=lambda: None),
            ServiceIndex(on_addresses=lambda _addresses: None),
            trim_pod=partial(trim_pod, images=[IMAGE], ca_names=CA_NAMES),
            metrics=Metrics(),
        )
    assert tuple(watches) == DIRECTORY_WATCHES
    assert [watch.name for watch in watches.values()] == list(DIRECTORY_WATCHES)
