"""A pod's token becomes a grant only if the API server, the pod and the sidecar's word all fit.

The API server's part is played here, so that it can answer what a real one can't be made to; tests/kubernetes has the
real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ca.authenticate import pod as pod_module
from ca.authenticate.pod import EnrolmentRefusal, EnrolmentRefused, PodAuthentication, check_alive
from ca.kubernetes.cluster.pods import PodIndex
from ca.store.records import JoinGrant
from shared.model.errors import InputError, UnavailableError, VerificationError
from shared.model.identity.identity import Workload
from shared.model.wire.messages import Registration
from tests.ca.kubernetes.faking import faked
from tests.ca.kubernetes.making import CA_NAMES, IMAGE, UID, changed, make_pod_index, make_pod_json, make_record
from tests.ca.running import make_csr, make_registration

INSTANCE = "web-0.11111111"
ADDRESS = "198.18.0.2"


class Answering:
    """What the API server says."""

    def __init__(self) -> None:
        self.pod: dict[str, Any] | None = make_pod_json("web-0", ADDRESS)
        self.username = "system:serviceaccount:shop:web"
        self.extra = {
            "authentication.kubernetes.io/pod-name": ["web-0"],
            "authentication.kubernetes.io/pod-uid": [UID],
            "authentication.kubernetes.io/node-name": ["node-1"],
        }
        self.audiences: list[str] | None = ["touchmark-ca"]
        self.error = ""
        self.delay_s = 0.0
        self.reviews: list[Any] = []
        self.at_once = self.most_at_once = 0

    async def handle(self, request: web.Request) -> web.Response:
        if request.path.endswith("/tokenreviews"):
            self.reviews.append((await request.json())["spec"])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(self.delay_s)
            self.at_once -= 1
            if self.error:
                return web.json_response({"status": {"user": {}, "error": self.error}}, status=201)
            user = {"username": self.username, "extra": self.extra, "groups": ["x"]}
            status = {"authenticated": True, "user": user, "audiences": self.audiences}
            return web.json_response({"status": status}, status=201)
        assert request.path == "/api/v1/namespaces/shop/pods/web-0"
        if self.pod is None:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response(self.pod)


class Asking:
    """The authentication and its surroundings."""

    def __init__(self, answering: Answering, authentication: PodAuthentication, pods: PodIndex) -> None:
        self.answering = answering
        self.authentication = authentication
        self.pods = pods

    async def ask(
        self, *, token: str = "the.token", csr: bytes | None = None, registration: Registration | None = None
    ) -> JoinGrant:
        return await self.authentication.authenticate(
            token, csr or make_csr()[1], registration or make_registration(INSTANCE, ADDRESS)
        )

    async def refused(self, **options: Any) -> EnrolmentRefused:
        with pytest.raises(EnrolmentRefused) as caught:
            await self.ask(**options)
        return caught.value


@pytest.fixture
async def asking(tmp_path: Path) -> AsyncIterator[Asking]:
    answering = Answering()
    pods = make_pod_index()
    pods.apply(make_record("web-0", ADDRESS))
    async with faked(tmp_path, answering.handle) as client:
        yield Asking(answering, PodAuthentication(client, pods, images=(IMAGE,), ca_names=CA_NAMES), pods)


async def test_a_pod_gets_its_workload_its_addresses_and_its_one_name(asking: Asking) -> None:
    assert await asking.ask() == JoinGrant(
        workload=Workload(namespace="shop", service_account="web"),
        addresses=(ADDRESS,),
        instance=INSTANCE,
        pod_uid=UID,
    )
    assert asking.answering.reviews == [{"token": "the.token", "audiences": ["touchmark-ca"]}]
    await asking.ask()
    assert len(asking.answering.reviews) == 2  # Nothing is remembered.


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("[invalid bearer token, service account token has expired]", EnrolmentRefusal.TOKEN_EXPIRED),
        ('[invalid bearer token, token audiences ["x"] is invalid]', EnrolmentRefusal.TOKEN_AUDIENCE),
        ("[invalid bearer token, service account token has been invalidated]", EnrolmentRefusal.TOKEN_REVOKED),
        ("[pod UID (a) does not match service account pod ref claim (b)]", EnrolmentRefusal.POD_REPLACED),
        ("[invalid bearer token]", EnrolmentRefusal.TOKEN_INVALID),
    ],
)
async def test_a_token_that_the_api_server_refuses_is_refused_in_its_words(
    asking: Asking, error: str, reason: EnrolmentRefusal
) -> None:
    asking.answering.error = error
    refused = await asking.refused()
    assert refused.reason == reason
    assert error in refused.message
    assert refused.subject.pod == ""


@pytest.mark.parametrize("audiences", [None, [], ["https://kubernetes.default.svc"]])
async def test_a_token_for_whatever_audience_is_refused(asking: Asking, audiences: list[str] | None) -> None:
    asking.answering.audiences = audiences
    assert (await asking.refused()).reason == EnrolmentRefusal.TOKEN_AUDIENCE


@pytest.mark.parametrize("token", ["", "x" * 16_385, "tökén", "a\nb"])
async def test_what_can_be_no_token_is_not_even_reviewed(asking: Asking, token: str) -> None:
    assert (await asking.refused(token=token)).reason == EnrolmentRefusal.TOKEN_INVALID
    assert asking.answering.reviews == []


@pytest.mark.parametrize("what", ["a user", "no account", "no pod", "no uid", "two uids"])
async def test_a_token_that_is_not_bound_to_one_pod_is_refused(asking: Asking, what: str) -> None:
    extra = asking.answering.extra
    match what:
        case "a user":
            asking.answering.username = "shop:web"
        case "no account":
            asking.answering.username = "system:serviceaccount:shop"
        case "no pod":
            del extra["authentication.kubernetes.io/pod-name"]
        case "no uid":
            del extra["authentication.kubernetes.io/pod-uid"]
        case _:
            extra["authentication.kubernetes.io/pod-uid"] = [UID, UID]
    assert (await asking.refused()).reason == EnrolmentRefusal.TOKEN_NOT_BOUND


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("metadata.uid", "99999999-2222-4333-8444-555555555555", EnrolmentRefusal.POD_REPLACED),
        ("metadata.deletionTimestamp", "2026-11-25T11:00:00Z", EnrolmentRefusal.POD_TERMINATING),
        ("status.phase", "Succeeded", EnrolmentRefusal.POD_ENDED),
        ("status.phase", "Failed", EnrolmentRefusal.POD_ENDED),
        ("spec.serviceAccountName", "other", EnrolmentRefusal.SERVICE_ACCOUNT),
        ("spec.nodeName", "node-2", EnrolmentRefusal.POD_MOVED),
        ("spec.initContainers", [], EnrolmentRefusal.POD_NOT_INJECTED),
        ("spec.shareProcessNamespace", False, EnrolmentRefusal.POD_NOT_INJECTED),
    ],
)
async def test_the_pod_of_now_has_to_fit(asking: Asking, path: str, value: Any, reason: EnrolmentRefusal) -> None:
    assert asking.answering.pod is not None
    asking.answering.pod = changed(asking.answering.pod, path, value)
    refused = await asking.refused()
    assert refused.reason == reason
    assert (refused.subject.namespace, refused.subject.pod) == ("shop", "web-0")
    assert "shop/web-0" in refused.message


async def test_a_pod_that_is_gone_is_refused(asking: Asking) -> None:
    asking.answering.pod = None
    assert (await asking.refused()).reason == EnrolmentRefusal.POD_GONE


async def test_the_sidecar_may_claim_no_other_name_or_address(asking: Asking) -> None:
    other = await asking.refused(registration=make_registration("web-1.22222222", ADDRESS))
    assert other.reason == EnrolmentRefusal.INSTANCE
    foreign = await asking.refused(registration=make_registration(INSTANCE, ADDRESS, "198.18.0.9"))
    assert foreign.reason == EnrolmentRefusal.ADDRESS
    assert "198.18.0.9" in foreign.message
    assert (await asking.ask(registration=make_registration(INSTANCE))).addresses == (ADDRESS,)


async def test_what_costs_no_review_is_checked_first(asking: Asking) -> None:
    with pytest.raises(VerificationError):
        await asking.ask(csr=b"nonsense")
    with pytest.raises(InputError):
        await asking.ask(registration=make_registration(INSTANCE, "nowhere"))
    assert asking.answering.reviews == []


async def test_it_waits_until_the_watch_shows_the_pod_s_address(asking: Asking) -> None:
    record = make_record("web-0")
    asking.pods.replace([record])
    waiting = asyncio.create_task(asking.ask())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    asking.pods.apply(make_record("web-0", ADDRESS))
    assert (await waiting).addresses == (ADDRESS,)


@pytest.mark.parametrize(("address", "said"), [((), "has no address yet"), ((ADDRESS,), "isn't seen by our watch")])
async def test_it_does_not_wait_for_ever(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, address: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(pod_module, "POD_SEEN_DEADLINE_S", 0.05)
    asking.pods.replace([])
    asking.answering.pod = make_pod_json("web-0", *address)
    with pytest.raises(UnavailableError, match=said):
        await asking.ask()


async def test_many_at_once_wait_their_turn_and_too_many_are_told_to_come_again(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_module, "MAX_WAITING", 30)
    asking.answering.delay_s = 0.05
    results = await asyncio.gather(*(asking.ask() for _ in range(40)), return_exceptions=True)
    assert sum(isinstance(each, UnavailableError) for each in results) == 10
    assert sum(isinstance(each, JoinGrant) for each in results) == 30
    assert asking.answering.most_at_once <= pod_module.REVIEWS_AT_ONCE
    await asking.ask()


def test_a_grant_holds_while_its_pod_is_there_as_it_was() -> None:
    pods = make_pod_index()
    workload = Workload(namespace="shop", service_account="web")
    grant = JoinGrant(workload=workload, addresses=(ADDRESS,), instance=INSTANCE, pod_uid=UID)
    pods.apply(make_record("web-0", "198.18.0.7"))
    assert check_alive(pods, grant).addresses == ("198.18.0.7",)
    pods.apply(make_record("web-0", "198.18.0.7", terminating=True))
    assert check_alive(pods, grant).pod_uid == UID  # It may run on for its grace period.
    for record, reason in (
        (make_record("web-0", ADDRESS, account="other"), EnrolmentRefusal.SERVICE_ACCOUNT),
        (make_record("web-1", ADDRESS), EnrolmentRefusal.SERVICE_ACCOUNT),
        (make_record("web-0", ADDRESS, injected=False), EnrolmentRefusal.POD_NOT_INJECTED),
        (make_record("web-0", ADDRESS, image="other"), EnrolmentRefusal.POD_NOT_INJECTED),
        (make_record("web-0", ADDRESS, phase="Succeeded"), EnrolmentRefusal.POD_GONE),
    ):
        pods.apply(record)
        with contextlib.ExitStack() as stack:
            caught = stack.enter_context(pytest.raises(EnrolmentRefused))
            check_alive(pods, grant)
        assert caught.value.reason == reason
