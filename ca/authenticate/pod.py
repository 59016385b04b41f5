"""Authentication by a pod's token: token → review → pod → checks → grant. I/O through the API server's client.

The token is the pod's own, projected for our audience alone. The API server says whether it holds and which pod it is
bound to; the pod is read anew, and must be the same one, alive, and have our sidecar alone with that token. Nothing
that the sidecar says of itself counts, except that it has to fit.

What this does *not* verify: that the token comes from that pod's sidecar and not from somebody to whom it was leaked
(whoever may read the sidecar's files or exec into it), nor what the sidecar will say of the pod's programs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

import msgspec

from ca.evidence.csr import check_csr
from ca.evidence.former_images import FormerImages
from ca.evidence.pod import Pod, find_fault
from ca.kubernetes.api.client import ClusterClient, quote_name
from ca.kubernetes.cluster.pods import PodIndex, PodRecord, trim_pod
from ca.store.records import JoinGrant
from shared.model.errors import NotFoundError, RefusedError, UnavailableError
from shared.model.identity.identity import Workload
from shared.model.kubernetes.contract import SIDECAR_CONTAINER, TOKEN_AUDIENCE
from shared.model.wire.messages import Registration
from shared.model.wire.registration import normalise_addresses

REVIEWS_AT_ONCE: Final = 16
MAX_WAITING: Final = 1024
REVIEW_DEADLINE_S: Final = 10.0
# The sidecar knows its address from the kubelet, which tells the API server a moment later; our watch lags as little.
POD_SEEN_DEADLINE_S: Final = 10.0
MAX_TOKEN_CHARACTERS: Final = 16_384
_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCOUNT_PREFIX: Final = "system:serviceaccount:"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"


class EnrolmentRefusal(StrEnum):
    """Why a pod's sidecar is refused. Codes are stable."""

    TOKEN_INVALID = "token_invalid"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_AUDIENCE = "token_audience"
    TOKEN_REVOKED = "token_revoked"
    TOKEN_NOT_BOUND = "token_not_bound"
    POD_GONE = "pod_gone"
    POD_REPLACED = "pod_replaced"
    POD_TERMINATING = "pod_terminating"
    POD_ENDED = "pod_ended"
    POD_MOVED = "pod_moved"
    POD_NOT_INJECTED = "pod_not_injected"
    SERVICE_ACCOUNT = "service_account"
    INSTANCE = "instance"
    ADDRESS = "address"


class EnrolmentRefused(RefusedError):
    """A pod's sidecar is refused.

    Arguments:
        subject: the pod, as far as the API server has vouched for it.
    """

    def __init__(
        self, reason: EnrolmentRefusal, message: str, *, hint: str = "", subject: Subject | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason.value
        self.subject = subject or Subject()


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whose token it is, by the API server's word."""

    namespace: str = ""
    service_account: str = ""
    pod: str = ""
    uid: str = ""
    node: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


class _User(msgspec.Struct):
    username: str = ""
    extra: dict[str, list[str]] | None = None


class _ReviewStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: list[str] | None = None
    error: str = ""


class _Review(msgspec.Struct):
    status: _ReviewStatus = msgspec.field(default_factory=_ReviewStatus)


class PodAuthentication:
    """Turns pods' tokens into grants.

    Arguments:
        images: of sidecars that may join.
        ca_names: host names and addresses to which a sidecar of ours is sent.
        former: images that were taken out of ``images``, whose pods stay for a grace.
    """

    def __init__(
        self,
        client: ClusterClient,
        pods: PodIndex,
        *,
        images: tuple[str, ...],
        ca_names: Iterable[str],
        former: FormerImages | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._pods = pods
        self._images = images
        self._ca_names = frozenset(ca_names)
        self._former = former or FormerImages()
        self._clock = clock
        self._turn = asyncio.Semaphore(REVIEWS_AT_ONCE)
        self._waiting = 0

    async def authenticate(self, token: str, csr_der: bytes, registration: Registration) -> JoinGrant:
        """Return what the pod's sidecar is granted. Nothing of it is remembered: each attempt is reviewed anew.

        Raises:
            EnrolmentRefused: the token, the pod or the registration doesn't hold; each with its reason.
            VerificationError: the certificate request doesn't hold.
            InputError: the registration can't be.
            UnavailableError: the API server doesn't answer, too many ask at once, or the pod has no address yet.
        """
        check_csr(csr_der)
        addresses = normalise_addresses(registration.addresses)
        if self._waiting >= MAX_WAITING:
            raise UnavailableError("too many pods join at once", hint="the sidecar tries again by itself")
        self._waiting += 1
        try:
            return await self._authenticate(token, registration.instance, addresses)
        finally:
            self._waiting -= 1

    async def _authenticate(self, token: str, instance: str, addresses: tuple[str, ...]) -> JoinGrant:
        async with self._turn:
            subject = await self._review(token)
            pod = await self._read_pod(subject)
        self._check_pod(pod, subject)
        record = trim_pod(pod, images=self._images, ca_names=self._ca_names, former=self._former)
        check_image(record, self._former, now=self._clock(), subject=subject)
        if instance != record.instance:
            raise EnrolmentRefused(
                EnrolmentRefusal.INSTANCE,
                f"the sidecar of {subject} is called {record.instance}, not {instance[:80]}",
                hint="a token of another pod was shown",
                subject=subject,
            )
        known = await self._wait_for_addresses(record)
        if foreign := sorted(set(addresses) - set(known.addresses)):
            raise EnrolmentRefused(
                EnrolmentRefusal.ADDRESS,
                f"{subject} has the addresses {', '.join(known.addresses)}, not {', '.join(foreign)}",
                subject=subject,
            )
        return JoinGrant(
            workload=Workload(namespace=subject.namespace, service_account=subject.service_account),
            addresses=known.addresses,
            instance=record.instance,
            pod_uid=record.uid,
        )

    async def _review(self, token: str) -> Subject:
        if not token or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable():
            raise EnrolmentRefused(EnrolmentRefusal.TOKEN_INVALID, "that is no service account's token")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [TOKEN_AUDIENCE]},
        }
        status = (await self._client.post(_REVIEWS, body, _Review, deadline_s=REVIEW_DEADLINE_S)).status
        if not status.authenticated:
            raise _refuse_token(status.error)
        # An authenticator that knows no audiences answers none; then the token may be anybody's for anything.
        if TOKEN_AUDIENCE not in (status.audiences or ()):
            raise EnrolmentRefused(
                EnrolmentRefusal.TOKEN_AUDIENCE,
                f"the API server doesn't vouch that the token is meant for {TOKEN_AUDIENCE}",
                hint="the API server needs --service-account-issuer, as every cluster of today has it",
            )
        extra = status.user.extra or {}
        namespace, _, account = status.user.username.removeprefix(_ACCOUNT_PREFIX).partition(":")
        subject = Subject(
            namespace=namespace,
            service_account=account,
            pod=_only(extra.get(_POD_NAME)),
            uid=_only(extra.get(_POD_UID)),
            node=_only(extra.get(_NODE_NAME)),
        )
        if not status.user.username.startswith(_ACCOUNT_PREFIX) or not (account and subject.pod and subject.uid):
            raise EnrolmentRefused(
                EnrolmentRefusal.TOKEN_NOT_BOUND,
                f"the token of {status.user.username[:200]} isn't bound to a pod",
                hint="only a token that the kubelet projects into a pod will do",
            )
        return subject

    async def _read_pod(self, subject: Subject) -> Pod:
        path = f"/api/v1/namespaces/{quote_name(subject.namespace)}/pods/{quote_name(subject.pod)}"
        try:
            return await self._client.get(path, Pod, deadline_s=REVIEW_DEADLINE_S)
        except NotFoundError as error:
            raise EnrolmentRefused(
                EnrolmentRefusal.POD_GONE, f"there is no pod {subject} any more", subject=subject
            ) from error

    def _check_pod(self, pod: Pod, subject: Subject) -> None:
        if pod.metadata.uid != subject.uid:
            raise EnrolmentRefused(
                EnrolmentRefusal.POD_REPLACED,
                f"the token is for an earlier pod of the name {subject}",
                subject=subject,
            )
        if pod.spec.service_account_name != subject.service_account:
            raise EnrolmentRefused(
                EnrolmentRefusal.SERVICE_ACCOUNT,
                f"{subject} runs as {pod.spec.service_account_name}, the token is of {subject.service_account}",
                subject=subject,
            )
        if subject.node and pod.spec.node_name != subject.node:
            raise EnrolmentRefused(
                EnrolmentRefusal.POD_MOVED,
                f"{subject} runs on the node {pod.spec.node_name or '(none)'}, the token was given to {subject.node}",
                subject=subject,
            )
        if pod.is_ended:
            raise EnrolmentRefused(EnrolmentRefusal.POD_ENDED, f"the pod {subject} has ended", subject=subject)
        if pod.is_terminating:
            raise EnrolmentRefused(
                EnrolmentRefusal.POD_TERMINATING, f"the pod {subject} is being deleted", subject=subject
            )
        leaving = self._former.list_for(pod.metadata.creation_timestamp or "")
        if fault := find_fault(pod, images=(*self._images, *leaving), ca_names=self._ca_names):
            raise EnrolmentRefused(
                EnrolmentRefusal.POD_NOT_INJECTED,
                f"the pod {subject} {fault}",
                hint=f"only a pod as injection makes it joins, with {SIDECAR_CONTAINER} from one of --sidecar-image",
                subject=subject,
            )

    async def _wait_for_addresses(self, record: PodRecord) -> PodRecord:
        """Wait until our own watch shows the pod with its addresses: from then on it tells us when the pod is gone."""
        try:
            async with asyncio.timeout(POD_SEEN_DEADLINE_S):
                return await self._pods.wait_for_addresses(record.uid)
        except TimeoutError as error:
            what = "has no address yet" if record.uid and not record.addresses else "isn't seen by our watch yet"
            raise UnavailableError(
                f"the pod {record.namespace}/{record.name} {what}", hint="the sidecar tries again by itself"
            ) from error


def check_image(record: PodRecord, former: FormerImages, *, now: float, subject: Subject) -> None:
    """Check that the grace of a pod's sidecar image isn't over.

    Raises:
        EnrolmentRefused: it is.
    """
    if record.former_image and now >= former.end_of(record.former_image):
        raise EnrolmentRefused(
            EnrolmentRefusal.POD_NOT_INJECTED,
            f"the pod {subject} has a sidecar of an image whose grace is over: {record.former_image[:200]}",
            hint="recreate the pod, or name the image in --sidecar-image again",
            subject=subject,
        )


def check_alive(pods: PodIndex, grant: JoinGrant) -> JoinGrant:
    """Return the grant as it is now: of a pod that is still there, still ours, at the addresses it has now.

    A pod that is being deleted is alive until it has ended: what still runs in its grace period may need a certificate.

    Raises:
        EnrolmentRefused: its pod is gone or is no longer one whose sidecar may join.
    """
    known = pods.get(grant.pod_uid)
    subject = Subject(namespace=grant.workload.namespace, service_account=grant.workload.service_account)
    if known is None:
        raise EnrolmentRefused(
            EnrolmentRefusal.POD_GONE, f"the pod of {grant.instance} is gone", hint="or it has ended", subject=subject
        )
    subject = msgspec.structs.replace(subject, pod=known.name, uid=known.uid)
    if (known.namespace, known.service_account, known.instance) != (
        grant.workload.namespace,
        grant.workload.service_account,
        grant.instance,
    ):
        raise EnrolmentRefused(
            EnrolmentRefusal.SERVICE_ACCOUNT, f"{grant.instance} isn't the sidecar of {subject}", subject=subject
        )
    if known.fault:
        raise EnrolmentRefused(EnrolmentRefusal.POD_NOT_INJECTED, f"the pod {subject} {known.fault}", subject=subject)
    return JoinGrant(
        workload=grant.workload,
        addresses=known.addresses or grant.addresses,
        labels=grant.labels,
        instance=grant.instance,
        pod_uid=grant.pod_uid,
    )


def _refuse_token(error: str) -> EnrolmentRefused:
    # The API server's own words, which name no secret; they tell an expired token from one of another cluster.
    text = f"the API server refuses the token: {error[:300] or 'no reason given'}"
    for word, reason, hint in (
        ("audience", EnrolmentRefusal.TOKEN_AUDIENCE, f"it must be projected for the audience {TOKEN_AUDIENCE}"),
        ("expired", EnrolmentRefusal.TOKEN_EXPIRED, "the kubelet renews it: read the file anew; compare the clocks"),
        ("does not match", EnrolmentRefusal.POD_REPLACED, "it is of an earlier pod of that name"),
        ("invalidated", EnrolmentRefusal.TOKEN_REVOKED, "its pod or service account is gone"),
    ):
        if word in error:
            return EnrolmentRefused(reason, text, hint=hint)
    return EnrolmentRefused(EnrolmentRefusal.TOKEN_INVALID, text, hint="is it a token of this cluster?")


def _only(values: list[str] | None) -> str:
    return values[0] if values is not None and len(values) == 1 else ""
