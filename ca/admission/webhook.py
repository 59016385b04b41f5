"""The webhook: AdmissionReview in, patch, admission or refusal out. I/O.

Belongs here: the HTTP side, its bounds, and what a failure means. Doesn't: what is done to a pod
(``shared/model/injection/patch.py``), the wire format (``review.py``), or which pods come here at all: that is decided
in the API server, by ``manifests/base/webhook.yaml``. There the webhook fails closed, and only pods that asked are
sent; so whatever goes wrong here, a pod that asked isn't created without its sidecar, and no other pod waits for us.

What this does *not* verify, unless it was given tokens: who asks. Anybody who reaches the port may, and learns what
the API server would learn; the one effect, a ConfigMap with public certificates in an existing namespace, is taken back
when nothing needs it. Never verified is which API server asks: they share a token.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web

from ca.admission.policy_review import JudgePolicy, review_policy
from ca.admission.review import Request, allow, decode_review, fail, refuse
from ca.metrics import Metrics
from ca.places import NoPlaceError, Places
from shared.model.errors import InputError, TouchmarkError
from shared.model.injection.checks import check_ephemeral_containers
from shared.model.injection.containers import InjectionOptions
from shared.model.injection.patch import inject
from shared.model.injection.refusals import InjectionRefusedError
from shared.model.kubernetes.contract import GROUP, INJECT

INJECT_PATH: Final = "/v1/inject"
# The same for pods whose namespace asks: the API server has matched its label, and no later look is as good.
INJECT_NAMESPACE_PATH: Final = "/v1/inject/namespace"
POLICY_PATH: Final = "/v1/review/policy"
# An object has at most 1.5 MiB (etcd); an update brings the old one along. The API server itself reads 3 MiB.
MAX_REVIEW_BYTES: Final = 4 * 1024 * 1024
MAX_CONCURRENT: Final = 16
# Bodies that haven't come whole. The API server sends one at once; strangers who trickle theirs take no slot.
MAX_READING: Final = 64
READ_DEADLINE_S: Final = 3.0
# Below the webhook's own timeoutSeconds (8), so that the pod's creator reads our reason and not a timeout.
DEADLINE_S: Final = 6.0
_MAX_LOGGED_CHARACTERS: Final = 253

_UNREAD: Final = "touchmark: the namespace couldn't be read in time; its defaults aren't applied"

_log = structlog.get_logger("touchmark.ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceMarks:
    """What a namespace says: what it asks for by labels, and its defaults for pods by annotations."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class InjectionWebhook:
    """Answers the API server's questions.

    Arguments:
        find_namespace: the labels and annotations of a namespace, None when they can't be had in time. The labels only
            serve an early, clearer refusal: the API server enforces Pod Security itself. Without the annotations a pod
            gets the built-in defaults, and its maker is told.
        publish_trust: puts the trust ConfigMap into a namespace unless it is there.
        judge_policy: refuses a MeshPolicy that would refuse connections that were seen.
        list_warnings: what whoever makes an injected pod is told besides.
        tokens: whoever asks has to show one of them; none: anybody may ask.
    """

    def __init__(
        self,
        *,
        options: InjectionOptions,
        find_namespace: Callable[[str], Awaitable[NamespaceMarks | None]],
        publish_trust: Callable[[str], Awaitable[None]],
        judge_policy: JudgePolicy,
        metrics: Metrics,
        list_warnings: Callable[[], Sequence[str]] = tuple,
        tokens: Sequence[str] = (),
    ) -> None:
        self._judge_policy = judge_policy
        self._options = options
        self._find_namespace = find_namespace
        self._publish_trust = publish_trust
        self._metrics = metrics
        self._list_warnings = list_warnings
        self._expected = [f"Bearer {token}".encode() for token in tokens]
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self.readers = Places(MAX_READING)

    def make_application(self) -> web.Application:
        """Make the HTTP application."""
        application = web.Application(client_max_size=MAX_REVIEW_BYTES)
        application.router.add_post(INJECT_PATH, self.serve)
        application.router.add_post(INJECT_NAMESPACE_PATH, self.serve)
        application.router.add_post(POLICY_PATH, self.serve)
        return application

    async def serve(self, request: web.Request) -> web.Response:
        """Answer one AdmissionReview."""
        if self._expected and not self._is_expected(request):
            # The API server takes this for a failing webhook, too. A stranger takes no place; its body isn't read.
            self._count("unauthenticated")
            refusal = web.json_response({"message": "the webhook's token is missing or wrong"}, status=401)
            refusal.force_close()
            return refusal
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(DEADLINE_S):
                async with self.readers.take(request.remote, deadline_s=READ_DEADLINE_S):
                    body = await request.read()
                async with self._slots:
                    review = decode_review(body)
                    if request.path == POLICY_PATH:
                        answer = await self._review_policy(review)
                    else:
                        is_asked_by_namespace = request.path == INJECT_NAMESPACE_PATH
                        answer = await self._answer(review, is_asked_by_namespace=is_asked_by_namespace)
        except InputError as error:
            # The API server takes this for a failing webhook: closed, for pods that asked.
            self._count("malformed")
            return web.json_response({"message": error.message}, status=400)
        except NoPlaceError:
            self._count("overloaded")
            return web.json_response({"message": "overloaded"}, status=503)
        except TimeoutError:
            self._count("timeout")
            return web.json_response({"message": "not answered in time"}, status=503)
        self._metrics.injection_seconds.observe(asyncio.get_running_loop().time() - began)
        return web.Response(body=answer, content_type="application/json")

    @property
    def authenticates(self) -> bool:
        """Whether a token has to be shown."""
        return bool(self._expected)

    def _is_expected(self, request: web.Request) -> bool:
        shown = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return any(hmac.compare_digest(shown, expected) for expected in self._expected)

    async def _answer(self, review: Request, *, is_asked_by_namespace: bool) -> bytes:
        try:
            if (review.kind.group, review.kind.kind) != ("", "Pod") or review.object is None:
                raise InputError(f"a {review.kind.kind[:80]} is no pod")
            if review.sub_resource == "ephemeralcontainers":
                check_ephemeral_containers(review.object, review.old_object)
                self._count("ephemeral")
                return allow(review.uid)
            if review.sub_resource or review.operation != "CREATE":
                raise InputError(f"{review.operation[:80]} {review.sub_resource[:80]} isn't ours to judge")
            return await self._inject(review, is_asked_by_namespace=is_asked_by_namespace)
        except InjectionRefusedError as error:
            self._count("refused")
            _log.info("pod_refused", code=str(error.refusal), message=error.message, **_name(review))
            return refuse(review.uid, error)
        except TouchmarkError as error:
            self._count("failed")
            _log.warning("pod_not_injected", code=error.code, message=error.message, **_name(review))
            return fail(review.uid, f"Touchmark can't inject this pod now: {error.message}")

    async def _review_policy(self, review: Request) -> bytes:
        if (review.kind.group, review.kind.kind) != (GROUP, "MeshPolicy"):
            raise InputError(f"a {review.kind.kind[:80]} is no MeshPolicy")
        try:
            return await review_policy(review, self._judge_policy)
        except TouchmarkError as error:
            _log.warning("policy_not_reviewed", code=error.code, message=error.message, namespace=review.namespace)
            return fail(review.uid, f"Touchmark can't judge this MeshPolicy now: {error.message}")

    async def _inject(self, review: Request, *, is_asked_by_namespace: bool) -> bytes:
        marks = await self._find_namespace(review.namespace)
        labels = None if marks is None else marks.labels
        if is_asked_by_namespace:
            labels = {**(labels or {}), INJECT: "true"}
        assert review.object is not None
        injection = inject(
            review.object,
            namespace=review.namespace,
            namespace_labels=labels,
            namespace_annotations=None if marks is None else marks.annotations,
            options=self._options,
        )
        if injection is None:
            self._count("not_asked")
            return allow(review.uid)
        if injection.passed_over is not None:
            self._count("passed_over")
            _log.info("pod_passed_over", code=str(injection.passed_over), dry_run=review.dry_run, **_name(review))
            return allow(review.uid, warnings=injection.warnings)
        if not review.dry_run:
            # Before the pod: its sidecar trusts no CA without it, and the kubelet would wait for the volume.
            await self._publish_trust(review.namespace)
        self._count("injected" if injection.patch else "unchanged")
        _log.info("pod_injected", operations=len(injection.patch), dry_run=review.dry_run, **_name(review))
        unread = () if marks is not None else (_UNREAD,)
        warnings = (*injection.warnings, *unread, *self._list_warnings())
        return allow(review.uid, patch=injection.patch, warnings=warnings)

    def _count(self, result: str) -> None:
        self._metrics.injections.labels(result=result).inc()


def _name(review: Request) -> dict[str, Any]:
    metadata = (review.object or {}).get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = review.name or metadata.get("name") or f"{metadata.get('generateName', '')}*"
    return {"namespace": review.namespace[:_MAX_LOGGED_CHARACTERS], "pod": str(name)[:_MAX_LOGGED_CHARACTERS]}
