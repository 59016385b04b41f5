"""Steps that stories share: without the CA's answer nothing is guessed."""

from __future__ import annotations

import pytest

from shared.model.policy.reasons import Reason
from sidecar.connection.connection import Refused
from sidecar.steps import dial_application, look_up, look_up_workload, obtain_policy
from tests.sidecar.pair import CLIENT, SERVER, running_pair
from tests.sidecar.test_outbound import closed_port, echo


async def test_an_address_of_which_nothing_is_known_is_no_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_pair(echo) as pair:
        assert await look_up_workload(pair.client.sidecar, "127.0.0.1") == SERVER
        assert await look_up_workload(pair.client.sidecar, "198.18.0.9") is None
        monkeypatch.setattr(pair.client.directory, "get", lambda _: None)
        with pytest.raises(Refused, match=r"who is at 198\.18\.0\.9 isn't known") as caught:
            await look_up(pair.client.sidecar, "198.18.0.9")
        assert caught.value.reason is Reason.CA_UNAVAILABLE


async def test_a_namespace_whose_policy_cant_be_had_is_refused_and_the_own_one_never_asked_for() -> None:
    async with running_pair(echo) as pair:
        await obtain_policy(pair.client.sidecar, CLIENT.namespace)
        with pytest.raises(Refused, match="the policy of elsewhere isn't known") as caught:
            await obtain_policy(pair.client.sidecar, "elsewhere")
        assert caught.value.reason is Reason.CA_UNAVAILABLE


async def test_an_application_that_isnt_there_is_unreachable() -> None:
    async with running_pair(echo) as pair:
        with pytest.raises(Refused) as caught:
            await dial_application(pair.server.sidecar, closed_port("127.0.0.1"))
        assert caught.value.reason is Reason.APPLICATION_UNREACHABLE
