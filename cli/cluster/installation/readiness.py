"""Waiting until an installation's CA serves: how far it is, and what its pods say. Does I/O.

Belongs here: the Deployment's progress and the webhook's caBundle, which the CA writes. Doesn't: what else may be wrong
(``touchmark doctor -k``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cli.cluster.ca_pod import describe_state, is_ready, list_ca_pods
from cli.cluster.connection import WEBHOOKS, Cluster, Object
from cli.cluster.faults import UnreachableError
from cli.cluster.installation.bundle import DEPLOYMENTS
from cli.text.output import name_some
from shared.model.errors import NotFoundError
from shared.model.kubernetes.contract import CA_SERVICE, WEBHOOK_CONFIGURATION

POLL_S: Final = 1.0
_MAX_MESSAGE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an installation is.

    Attributes:
        wanted, updated, ready: replicas; ``updated`` and ``ready`` count those of the current template.
        former: replicas of an older template that are still there.
        has_bundle: every webhook knows the CA's roots.
        pods: what those that aren't ready say.
    """

    wanted: int
    updated: int
    ready: int
    former: int
    has_bundle: bool
    pods: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.ready >= self.wanted and self.former == 0 and self.has_bundle

    def __str__(self) -> str:
        said = f"{self.ready} of {self.wanted} replicas of the CA are ready"
        if self.former:
            said += f", {self.former} of before are still there"
        if self.ready >= self.wanted and not self.has_bundle:
            said += ", and the webhook doesn't know its roots yet"
        return said + (f" ({name_some(self.pods, most=3)})" if self.pods else "")


def read_progress(deployment: Object, webhook: Object | None, pods: Sequence[Object]) -> Progress:
    """Return how far an installation is, by its objects. Pure."""
    status, wanted = deployment.get("status") or {}, int(deployment["spec"].get("replicas", 1))
    is_seen = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 0))
    updated = int(status.get("updatedReplicas", 0)) if is_seen else 0
    ready = min(updated, int(status.get("availableReplicas", 0)))
    hooks = (webhook or {}).get("webhooks") or ()
    return Progress(
        wanted=wanted,
        updated=updated,
        ready=ready,
        former=int(status.get("replicas", 0)) - updated if is_seen else 0,
        has_bundle=bool(hooks) and all((each.get("clientConfig") or {}).get("caBundle") for each in hooks),
        pods=tuple(f"{pod['metadata']['name']}: {_describe(pod)}" for pod in pods if not is_ready(pod)),
    )


def _describe(pod: Object) -> str:
    """Say how a pod is, and of one that no node takes, why."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason', 'pending')}: {str(condition.get('message', ''))[:_MAX_MESSAGE]}"
    return describe_state(pod)


async def wait_ready(
    cluster: Cluster, namespace: str, *, timeout_s: float, tell: Callable[[str], None], poll_s: float = POLL_S
) -> bool:
    """Wait until the CA serves, and return whether it does.

    Arguments:
        timeout_s: for how long; what is reached then stays.
        tell: is told each time something has changed.

    Raises:
        TouchmarkError: these objects can't be read. A server that doesn't answer for a while is asked again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    said = ""
    while True:
        try:
            deployment = await cluster.find(DEPLOYMENTS, namespace, CA_SERVICE)
            if deployment is None:
                raise NotFoundError(
                    f"the Deployment {CA_SERVICE} is gone from namespace {namespace}", hint="who deleted it?"
                )
            webhook = await cluster.find(WEBHOOKS, "", WEBHOOK_CONFIGURATION)
            progress = read_progress(deployment, webhook, await list_ca_pods(cluster, namespace))
            is_done, now = progress.is_done, str(progress)
        except UnreachableError as error:
            is_done, now = False, error.message
        if now != said:
            said = now
            tell(now)
        if is_done or loop.time() >= deadline:
            return is_done
        await asyncio.sleep(min(poll_s, max(0.0, deadline - loop.time())))
