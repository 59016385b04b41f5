from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp import ClientSession, web

from ca.admission import webhook as webhook_module
from ca.admission.webhook import (
    INJECT_NAMESPACE_PATH,
    INJECT_PATH,
    MAX_REVIEW_BYTES,
    POLICY_PATH,
    InjectionWebhook,
    NamespaceMarks,
)
from ca.evidence import pod
from ca.evidence.pod import Pod, find_fault
from ca.metrics import Metrics
from ca.places import Places
from shared.model.errors import BlockedError, UnavailableError
from shared.model.injection import checks as injection_checks
from shared.model.injection.containers import find_ca_host
from shared.model.policy.documents import MeshPolicyDocument
from tests.ca.admission.reviews import Json, apply_response, make_review, read_response
from tests.ca.running import eventually
from tests.shared.model.injection.golden_injection import FILES, OPTIONS
from tests.shared.model.injection.pods import default, make_pod
from tests.shared.model.policy.object_cases import policy


class Hook:
    """The webhook on 127.0.0.1, with what it asks for in the test's hand."""

    def __init__(self, *, tokens: tuple[str, ...] = ()) -> None:
        self.metrics = Metrics()
        self.labels: Mapping[str, str] | None = {}
        self.annotations: dict[str, str] = {}
        self.published: list[str] = []
        self.fault: Exception | None = None
        self.delay_s = 0.0
        self.webhook = InjectionWebhook(
            options=OPTIONS,
            find_namespace=self._find_namespace,
            publish_trust=self._publish,
            judge_policy=self._judge,
            metrics=self.metrics,
            tokens=tokens,
        )
        self.url = ""
        self.session: ClientSession

    async def _find_namespace(self, _namespace: str) -> NamespaceMarks | None:
        return None if self.labels is None else NamespaceMarks(labels=self.labels, annotations=self.annotations)

    async def _publish(self, namespace: str) -> None:
        await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            raise self.fault
        self.published.append(namespace)

    async def _judge(self, document: MeshPolicyDocument) -> object:
        raise self.fault or BlockedError(f"{document.namespace} is unchanged")

    async def post(self, body: bytes | io.BytesIO, path: str = INJECT_PATH) -> tuple[int, bytes]:
        async with self.session.post(self.url + path, data=body) as response:
            return response.status, await response.read()

    async def ask(self, pod: Json | None, path: str = INJECT_PATH, **changes: Any) -> Json:
        status, body = await self.post(json.dumps(make_review(pod, **changes)).encode(), path)
        assert status == 200
        response = read_response(body)
        assert response["uid"] == "705ab4f5-6393-11e8-b7cc-42010a800002"
        return response

    def count(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("touchmark_ca_injections_total", {"result": result}) or 0.0


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    async with serving(Hook()) as hook:
        yield hook


@contextlib.asynccontextmanager
async def serving(hook: Hook) -> AsyncIterator[Hook]:
    runner = web.AppRunner(hook.webhook.make_application(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with ClientSession() as hook.session:
        yield hook
    await runner.cleanup()


async def test_a_pod_that_asks_is_patched_and_its_namespace_has_the_roots_first(hook: Hook) -> None:
    response = await hook.ask(make_pod())
    assert response["allowed"]
    assert len(apply_response(make_pod(), response)["spec"]["initContainers"]) == 2
    assert hook.published == ["shop"]
    assert hook.count("injected") == 1


@pytest.mark.parametrize("case", ["plain", "probes", "annotations", "look_alike_repaired"])
async def test_the_sidecar_of_what_it_makes_may_join(hook: Hook, case: str) -> None:
    """What injection writes and what the CA asks of a pod that joins are two lists: they have to agree."""
    given = yaml.safe_load((FILES / f"{case}.in.yaml").read_text(encoding="utf-8"))
    injected = default(apply_response(given, await hook.ask(given)))
    names = [find_ca_host(OPTIONS)]
    assert find_fault(msgspec.convert(injected, Pod), images=[OPTIONS.sidecar_image], ca_names=names) == ""


async def test_a_namespaces_word_needs_no_look_at_its_labels(hook: Hook) -> None:
    hook.labels = None
    silent = {**make_pod(), "metadata": {}}
    assert "patch" in await hook.ask(silent, INJECT_NAMESPACE_PATH)
    assert "patch" not in await hook.ask(silent)
    assert hook.count("not_asked") == 1
    no = {**make_pod(), "metadata": {"annotations": {"touchmark.dev/inject": "false"}}}
    assert "patch" not in await hook.ask(no, INJECT_NAMESPACE_PATH)


async def test_a_namespaces_annotations_are_defaults_and_one_that_cannot_be_used_is_a_warning(hook: Hook) -> None:
    hook.annotations = {"touchmark.dev/drain-seconds": "7", "touchmark.dev/log-level": "loud"}
    response = await hook.ask(make_pod())
    _, sidecar = apply_response(make_pod(), response)["spec"]["initContainers"]
    assert ("--drain-seconds", "7") in itertools.pairwise(sidecar["args"])
    assert "--log-level" not in sidecar["args"]
    [warning] = response["warnings"]
    assert warning.startswith("touchmark: not applied from the namespace shop: bad_annotation:")
    own = {
        **make_pod(),
        "metadata": {"annotations": {"touchmark.dev/inject": "true", "touchmark.dev/drain-seconds": "9"}},
    }
    _, sidecar = apply_response(own, await hook.ask(own))["spec"]["initContainers"]
    assert ("--drain-seconds", "9") in itertools.pairwise(sidecar["args"])


async def test_the_sidecar_with_its_namespaces_defaults_may_join(hook: Hook) -> None:
    hook.annotations = {
        "touchmark.dev/exclude-outbound-ports": "53",
        "touchmark.dev/hold-connects": "auto",
        "touchmark.dev/drain-seconds": "7",
        "touchmark.dev/log-level": "debug",
    }
    injected = default(apply_response(make_pod(), await hook.ask(make_pod())))
    names = [find_ca_host(OPTIONS)]
    assert find_fault(msgspec.convert(injected, Pod), images=[OPTIONS.sidecar_image], ca_names=names) == ""


async def test_whoever_makes_a_pod_reads_that_the_namespaces_defaults_are_unknown(hook: Hook) -> None:
    hook.labels = None
    [warning] = (await hook.ask(make_pod()))["warnings"]
    assert "its defaults aren't applied" in warning


async def test_a_pod_of_the_nodes_own_in_a_namespace_that_asks_passes_with_a_warning(hook: Hook) -> None:
    exporter = {**make_pod(hostNetwork=True), "metadata": {"name": "exporter"}}
    response = await hook.ask(exporter, INJECT_NAMESPACE_PATH)
    assert response["allowed"] and "patch" not in response
    assert "host_network" in response["warnings"][0]
    assert hook.published == []
    assert hook.count("passed_over") == 1


async def test_a_dry_run_has_no_side_effect(hook: Hook) -> None:
    assert "patch" in await hook.ask(make_pod(), dryRun=True)
    assert hook.published == []


async def test_what_is_injected_already_passes_as_it_is(hook: Hook) -> None:
    injected = apply_response(make_pod(), await hook.ask(make_pod()))
    assert "patch" not in await hook.ask(injected)
    assert hook.count("unchanged") == 1


async def test_a_refusal_says_why(hook: Hook) -> None:
    response = await hook.ask(make_pod(hostNetwork=True))
    assert not response["allowed"]
    assert response["status"]["message"].startswith("host_network: spec.hostNetwork")
    assert hook.published == []
    hook.labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    assert "pod_security" in (await hook.ask(make_pod()))["status"]["message"]
    assert hook.count("refused") == 2


async def test_without_the_roots_there_is_no_pod(hook: Hook) -> None:
    hook.fault = UnavailableError("the API server doesn't answer")
    response = await hook.ask(make_pod())
    assert not response["allowed"]
    assert response["status"]["code"] == 503
    assert hook.count("failed") == 1


async def test_ephemeral_containers_of_injected_pods_are_judged(hook: Hook) -> None:
    injected = apply_response(make_pod(), await hook.ask(make_pod()))
    injected["spec"]["ephemeralContainers"] = [{"name": "d", "securityContext": {"privileged": True}}]
    what = {"subResource": "ephemeralcontainers", "operation": "UPDATE"}
    assert not (await hook.ask(injected, **what))["allowed"]
    assert (await hook.ask(injected, oldObject=injected, **what))["allowed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"operation": "DELETE"},
        {"subResource": "status"},
        {"object": None},
    ],
    ids=str,
)
async def test_what_is_not_ours_to_judge_is_not_let_through(hook: Hook, changes: Json) -> None:
    assert not (await hook.ask(make_pod(), **changes))["allowed"]


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[]"])
async def test_a_malformed_question_is_an_error_which_the_api_server_takes_as_closed(hook: Hook, body: bytes) -> None:
    status, text = await hook.post(body)
    assert status == 400
    assert b"AdmissionReview" in text
    assert hook.count("malformed") == 1


async def test_a_body_has_a_bound(hook: Hook) -> None:
    assert (await hook.post(io.BytesIO(b" " * (MAX_REVIEW_BYTES + 1))))[0] == 413


async def test_an_answer_has_a_deadline(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "DEADLINE_S", 0.1)
    hook.delay_s = 5.0
    status, _ = await hook.post(json.dumps(make_review(make_pod())).encode())
    assert status == 503
    assert hook.count("timeout") == 1


async def test_only_posts_to_its_paths_are_answered(hook: Hook) -> None:
    async with hook.session.get(hook.url + INJECT_PATH) as response:
        assert response.status == 405
    assert (await hook.post(b"{}", "/v1/other"))[0] == 404


async def test_pods_made_from_one_template_are_named_by_it(hook: Hook, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_pod()
    del made["metadata"]["name"]
    made["metadata"]["generateName"] = "web-5d9c-"
    await hook.ask(made)
    assert "web-5d9c-*" in capsys.readouterr().out


def test_the_capabilities_that_injection_refuses_are_those_that_keep_a_pod_from_joining() -> None:
    assert injection_checks.DANGEROUS_CAPABILITIES == pod.DANGEROUS_CAPABILITIES


async def test_bodies_that_trickle_in_take_no_slot(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server's questions are answered while strangers hold as many connections as there are slots, and more."""
    host, port = hook.url.removeprefix("http://").split(":")
    head = f"POST {INJECT_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2 * webhook_module.MAX_CONCURRENT):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(head)
        await eventually(lambda: len(hook.webhook.readers) == 2 * webhook_module.MAX_CONCURRENT)
        assert (await hook.ask(make_pod()))["allowed"] is True


async def test_a_body_that_does_not_come_whole_has_a_deadline(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "READ_DEADLINE_S", 0.05)
    host, port = hook.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {INJECT_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
    assert b" 503 " in await reader.readline()
    writer.close()
    assert hook.count("timeout") == 1


async def test_a_policy_is_judged_and_what_is_no_policy_or_cannot_be_judged_fails(hook: Hook) -> None:
    """The API server passes over a review that fails (``failurePolicy: Ignore``)."""
    kind = {"group": "touchmark.dev", "version": "v1alpha1", "kind": "MeshPolicy"}
    explicit = policy({"mode": "explicit"})
    refused = await hook.ask(explicit, POLICY_PATH, kind=kind)
    assert refused["status"]["message"].startswith("blocked: ")
    hook.fault = UnavailableError("the store is away")
    assert (await hook.ask(explicit, POLICY_PATH, kind=kind))["status"]["code"] == 503
    status, _ = await hook.post(json.dumps(make_review(make_pod())).encode(), POLICY_PATH)
    assert status == 400


async def test_with_tokens_only_who_shows_one_is_answered() -> None:
    async with serving(Hook(tokens=("n" * 32, "o" * 32))) as hook:
        hook.webhook.readers = Places(0)  # A stranger needs none.
        body = json.dumps(make_review(make_pod())).encode()
        for shown in (
            None,
            "",
            "Bearer",
            "Bearer ",
            "n" * 32,
            f"bearer {'n' * 32}",
            f"Bearer {'n' * 31}",
            "Bearer \u00e9",
        ):
            headers = {} if shown is None else {"Authorization": shown}
            for path in (INJECT_PATH, INJECT_NAMESPACE_PATH, POLICY_PATH):
                async with hook.session.post(hook.url + path, data=body, headers=headers) as response:
                    assert response.status == 401
                    assert response.headers["Connection"] == "close"
        assert hook.count("unauthenticated") == 8 * 3
        assert not hook.published
        hook.webhook.readers = Places(1)
        for token in ("n" * 32, "o" * 32):
            hook.session.headers["Authorization"] = f"Bearer {token}"
            assert (await hook.ask(make_pod()))["allowed"]
        assert hook.published == ["shop", "shop"]
