"""What in a cluster lacks a new root is named and waited for (``ca.kubernetes.webhook_objects.cluster_roots``)."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from ca.kubernetes.webhook_objects.admission import run_admission
from shared.model.errors import ConflictError
from shared.model.trust.bundle import RotationKind
from shared.runtime.tasks import Tasks
from tests.ca.founded import make_rotation, opened
from tests.ca.kubernetes.faking import faked
from tests.ca.kubernetes.webhook_objects.test_admission import answer_little, make
from tests.ca.running import eventually


async def test_a_new_root_waits_for_the_cluster_and_what_in_it_lacks_the_root_is_named(tmp_path: Path) -> None:
    """The API server of this test takes every patch and shows none: nothing is ever published in it."""
    tasks = Tasks(lambda _name, _error: None)
    needing: set[str] | None = None
    async with faked(tmp_path, answer_little) as client, opened(tmp_path / "d") as core:
        admission = make(client, core.authorities, list_needing=lambda: needing)
        rotation = make_rotation(core.store, core.authorities, delivery_s=7, published=admission.roots)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        async with run_admission(admission, tasks, host="127.0.0.1", port=0, context=context):
            status = await rotation.start(kind=RotationKind.ROOT)
            assert "hasn't read yet" in status.unpublished[0] and status.ready_at is None
            needing = {"shop"}
            await eventually(lambda: all(watch.is_synced.is_set() for watch in admission.watches))
            with pytest.raises(ConflictError, match="ConfigMap shop/touchmark-trust"):
                await rotation.start(kind=RotationKind.ROOT)
            needing = set()
            await rotation.advance()
            found = await rotation.status()
            assert found is not None and found.unpublished == ()
            record = await core.store.authorities.get_rotation()
            assert record is not None and record.published is not None
            assert found.ready_at == record.published + 7
