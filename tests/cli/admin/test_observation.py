"""Everything is asked once; a CA outside a cluster isn't asked about one."""

from __future__ import annotations

from cli.admin.client import AdminClient
from cli.admin.observation import observe
from tests.cli.commands.test_status import answer_all
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import CLUSTER


async def test_a_cluster_s_status_is_asked_for_in_a_cluster_only(ca: FakeCA) -> None:
    answer_all(ca)
    ca.answers["GET /v1/cluster"] = CLUSTER
    async with AdminClient(ca.socket) as client:
        assert (await observe(client, is_in_cluster=True)).cluster == CLUSTER
        assert (await observe(client, is_in_cluster=False)).cluster is None


async def test_a_ca_that_doesn_t_know_the_question_is_still_observed(ca: FakeCA) -> None:
    answer_all(ca)
    ca.answers.pop("GET /v1/cluster", None)
    async with AdminClient(ca.socket) as client:
        assert (await observe(client, is_in_cluster=True)).cluster is None
