"""What a cluster's answers mean for an installation: findings, each with a hint. Pure.

Belongs here: what can be seen before anything is installed. Doesn't: an installation's own state
(``cli/cluster/examination.py``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Final

from cli.cluster.connection import Object
from cli.cluster.examination import examine_version
from cli.cluster.membership import describe_unknown, list_images
from cli.cluster.preflight import limits
from cli.cluster.preflight.questions import Answers, find_namespace
from cli.text.findings import Finding
from cli.text.output import name_some
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import INJECT

NEEDED_ADMISSION: Final = (
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
)
# As manifests/base/network-policy.yaml lets the CA out.
API_SERVER_PORTS: Final = (443, 6443)
OLDEST_KERNEL: Final = (5, 10)
OLDEST_KUBELET: Final = (1, 29)  # Native sidecars are on by default from it on.
PRIORITY_CLASS: Final = "system-cluster-critical"
# Kubernetes takes both (component-helpers, IsDefaultAnnotation).
_DEFAULT_CLASS: Final = tuple(f"storageclass.{each}kubernetes.io/is-default-class" for each in ("", "beta."))
EXISTING: Final = "existing installation"
_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_RELEASE: Final = re.compile(r":v?(\d+)\.(\d+)\.(\d+)")


def judge(
    answers: Answers,
    *,
    own_version: str,
    with_volume: bool = True,
    storage_class: str = "",
    api_server_ports: Collection[int] = API_SERVER_PORTS,
) -> list[Finding]:
    """Return all findings, the API server's version first.

    Arguments:
        own_version: of the command, and so of what it would install.
        with_volume: the CA's store is on a volume of the default class. One that is installed already has its store.
        storage_class: of that volume, where one was named.
        api_server_ports: on which the CA may reach the API server.
    """
    is_new = answers.deployment is None
    needs_volume = with_volume and is_new
    counted = {**limits.POD, **(limits.VOLUME if needs_volume else {})} if is_new else {}
    return [
        examine_version(answers.version),
        _judge_admission(answers),
        _judge_rights(answers),
        _judge_existing(answers, own_version),
        _judge_namespace(answers),
        *_judge_limits(answers, replace(limits.CA, counted=counted)),
        _judge_priority(answers),
        _judge_storage(answers, needs_volume=needs_volume, named=storage_class),
        *_judge_nodes(answers),
        _judge_ports(answers, api_server_ports),
    ]


def _judge_admission(answers: Answers) -> Finding:
    subject = "admission API"
    if isinstance(answers.admission, TouchmarkError):
        return describe_unknown(subject, answers.admission, is_optional=False)
    missing = [name for name in NEEDED_ADMISSION if name not in answers.admission]
    return Finding(
        subject=subject,
        is_well=not missing,
        observation=f"admissionregistration.k8s.io/v1 lacks {', '.join(missing)}"
        if missing
        else f"serves {', '.join(NEEDED_ADMISSION)}",
        hint="upgrade the API server, or take them out of its --runtime-config" if missing else "",
    )


def _judge_rights(answers: Answers) -> Finding:
    subject = "your permissions"
    if isinstance(answers.missing_rights, TouchmarkError):
        return describe_unknown(subject, answers.missing_rights)
    missing = name_some(answers.missing_rights, most=10)
    return Finding(
        subject=subject,
        is_well=not missing,
        observation=f"missing: {missing}" if missing else "enough for an installation",
        hint="install as a user with the ClusterRole cluster-admin: roles can only be made by who has their rights"
        if missing
        else "",
    )


def _judge_existing(answers: Answers, own_version: str) -> Finding:
    subject = EXISTING
    for answer in (answers.webhook, answers.deployment):
        if isinstance(answer, TouchmarkError):
            return describe_unknown(subject, answer)
    assert not isinstance(answers.webhook, TouchmarkError)
    assert not isinstance(answers.deployment, TouchmarkError)
    place = find_namespace(answers.webhook) if answers.webhook is not None else ""
    if place and place != answers.namespace:
        return Finding(
            subject=subject,
            is_well=False,
            observation=f"Touchmark is installed in the namespace {place}; a cluster has one",
            hint=f"upgrade that one (--system-namespace {place}), or uninstall it first",
        )
    if answers.deployment is None:
        return Finding(
            subject=subject,
            is_well=answers.webhook is None,
            observation="none"
            if answers.webhook is None
            else "a webhook configuration, and no CA that would answer it",
            hint="" if answers.webhook is None else "kubectl delete mutatingwebhookconfiguration touchmark",
        )
    pod = (answers.deployment.get("spec") or {}).get("template") or {}
    return judge_version(subject, ", ".join(list_images(pod, ("ca",))), own_version)


def judge_version(subject: str, image: str, own_version: str) -> Finding:
    """Compare the release in an image's tag with ours: a CA is upgraded by one minor version at a time."""
    found, ours = _RELEASE.search(image), _RELEASE.search(f":{own_version}")
    if found is None or ours is None:
        return Finding(
            subject=subject,
            is_well=False,
            is_optional=True,
            observation=f"{image or 'a CA without an image'}: its release can't be read from that",
            hint="`touchmark version -k` asks it; upgrade by one minor version at a time",
        )
    there, here = tuple(map(int, found.groups())), tuple(map(int, ours.groups()))
    is_older, is_near = there > here, there[0] == here[0] and here[1] - there[1] <= 1
    return Finding(
        subject=subject,
        is_well=not is_older and is_near,
        observation=f"{image}, newer than {own_version}: an older CA can't read its store"
        if is_older
        else f"{image}; {own_version} would be " + ("the same again" if there == here else "an upgrade"),
        hint="use the command of that release"
        if is_older
        else ""
        if is_near
        else f"upgrade to {here[0]}.{there[1] + 1} first: one minor version at a time",
    )


def _judge_namespace(answers: Answers) -> Finding:
    subject = f"namespace {answers.namespace}"
    if isinstance(answers.namespaces, TouchmarkError):
        return describe_unknown(subject, answers.namespaces)
    found = next((each for each in answers.namespaces if each["metadata"]["name"] == answers.namespace), None)
    if found is None:
        return Finding(subject=subject, is_well=True, observation="will be made, at the Pod Security level restricted")
    if found["metadata"].get("deletionTimestamp"):
        return Finding(
            subject=subject,
            is_well=False,
            observation="is being deleted",
            hint="wait until it is gone, or name another",
        )
    level = (found["metadata"].get("labels") or {}).get(_ENFORCE, "privileged")
    return Finding(
        subject=subject, is_well=True, observation=f"exists, at the Pod Security level {level}, which admits the CA"
    )


def _judge_limits(answers: Answers, ca: limits.Demand) -> Iterator[Finding]:
    """Judge LimitRanges, quotas and Pod Security levels of the CA's namespace and of those that ask for injection."""
    subject = "limits and quotas"
    for answer in (answers.limit_ranges, answers.quotas, answers.namespaces):
        if isinstance(answer, TouchmarkError):
            yield describe_unknown(subject, answer)
            return
    assert not isinstance(answers.limit_ranges, TouchmarkError)
    assert not isinstance(answers.quotas, TouchmarkError)
    assert not isinstance(answers.namespaces, TouchmarkError)
    labels = {each["metadata"]["name"]: each["metadata"].get("labels") or {} for each in answers.namespaces}
    asking = sorted(name for name, each in labels.items() if each.get(INJECT) == "true" and name != answers.namespace)
    faults = []
    for namespace, demand in [(answers.namespace, ca), *((name, limits.SIDECAR) for name in asking)]:
        faults += [
            f"{namespace} wouldn't admit {demand.what}: {fault}"
            for fault in limits.find_faults(
                demand,
                limit_ranges=_of(namespace, answers.limit_ranges),
                quotas=_of(namespace, answers.quotas),
            )
        ]
    yield Finding(
        subject=subject,
        is_well=not faults,
        observation=name_some(faults) or f"admit the CA, and sidecars in {len(asking)} namespaces that ask for them",
        hint="raise it, add a default to the LimitRange, or set resources: the CA's in its Deployment,"
        " a sidecar's by the pod's annotations touchmark.dev/sidecar-…"
        if faults
        else "",
    )
    forbidding = [f"{name} enforces {labels[name][_ENFORCE]}" for name in asking if _forbids(labels[name])]
    yield Finding(
        subject="Pod Security",
        is_well=not forbidding,
        observation=f"forbids injection: {name_some(forbidding)}"
        if forbidding
        else "no namespace that asks forbids it",
        hint=f"capture needs NET_ADMIN: kubectl label namespace NAMESPACE --overwrite {_ENFORCE}=privileged"
        if forbidding
        else "",
    )


def _forbids(labels: dict[str, str]) -> bool:
    return labels.get(_ENFORCE, "privileged") != "privileged"


def _of(namespace: str, documents: list[Object]) -> list[Object]:
    return [each for each in documents if each["metadata"]["namespace"] == namespace]


def _judge_priority(answers: Answers) -> Finding:
    subject = "priority class"
    if isinstance(answers.priority_classes, TouchmarkError):
        return describe_unknown(subject, answers.priority_classes)
    has_it = any(each["metadata"]["name"] == PRIORITY_CLASS for each in answers.priority_classes)
    return Finding(
        subject=subject,
        is_well=has_it,
        is_optional=True,
        observation=f"{PRIORITY_CLASS} can be given to the CA, so that it isn't evicted for others"
        if has_it
        else f"there is no {PRIORITY_CLASS}: the CA is evicted like any other pod",
        hint=""
        if has_it
        else "make a PriorityClass, and name it: `touchmark install --priority-class`, priorityClassName of the chart",
    )


def _judge_storage(answers: Answers, *, needs_volume: bool, named: str) -> Finding:
    subject = "storage class"
    if isinstance(answers.storage_classes, TouchmarkError):
        return describe_unknown(subject, answers.storage_classes)
    if named:
        known = sorted(each["metadata"]["name"] for each in answers.storage_classes)
        has_it = named in known
        return Finding(
            subject=subject,
            is_well=has_it,
            observation=f"{named} is there" if has_it else f"there is no {named}: the CA's volume would stay pending",
            hint=""
            if has_it
            else (f"there {'are' if len(known) > 1 else 'is'} {name_some(known)}; " if known else "")
            + "--force goes on where a volume of that class was made by hand",
        )
    default = [
        each["metadata"]["name"]
        for each in answers.storage_classes
        if any((each["metadata"].get("annotations") or {}).get(key) == "true" for key in _DEFAULT_CLASS)
    ]
    return Finding(
        subject=subject,
        is_well=bool(default),
        is_optional=not needs_volume,
        observation=f"{default[0]} is the default" if default else "no default: a CA's new volume would stay pending",
        hint=""
        if default
        else "name a class (`touchmark install --storage-class`, storage.className of the chart), or use PostgreSQL;"
        " then `doctor --pre --no-volume`",
    )


def _judge_nodes(answers: Answers) -> Iterator[Finding]:
    if isinstance(answers.nodes, TouchmarkError):
        yield describe_unknown("nodes", answers.nodes)
        return
    linux = [node for node in answers.nodes if node["nodeInfo"].get("operatingSystem", "linux") == "linux"]
    faults = [
        f"{node['metadata']['name']} has {what} {version}"
        for node in linux
        for what, version, oldest in (
            ("Linux", str(node["nodeInfo"].get("kernelVersion", "")), OLDEST_KERNEL),
            ("kubelet", str(node["nodeInfo"].get("kubeletVersion", "")), OLDEST_KUBELET),
        )
        if _is_older(version, oldest)
    ]
    yield Finding(
        subject="nodes",
        is_well=bool(linux) and not faults,
        is_optional=bool(linux),
        observation=f"too old for injected pods: {name_some(faults)}"
        if faults
        else f"{len(linux)} with Linux"
        if linux
        else "none with Linux",
        hint="Linux 5.10 and kubelet 1.29 or newer; keep injected pods off the others by a node selector"
        if faults or not linux
        else "",
    )


def _is_older(version: str, oldest: tuple[int, int]) -> bool:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < oldest


def _judge_ports(answers: Answers, allowed: Collection[int]) -> Finding:
    subject = "API server's port"
    if isinstance(answers.slices, TouchmarkError):
        return describe_unknown(subject, answers.slices)
    ports: set[Any] = {port.get("port") for each in answers.slices for port in each.get("ports") or ()}
    other = sorted(port for port in ports if isinstance(port, int) and port not in allowed)
    named = ", ".join(map(str, other))
    return Finding(
        subject=subject,
        is_well=not other,
        observation=f"{named}, where the CA's NetworkPolicy lets nothing out"
        if other
        else f"{', '.join(str(port) for port in sorted(filter(None, ports))) or 'unknown'}; the CA may reach it",
        hint=f"`touchmark install --api-server-port {other[0]}`, networkPolicy.apiServerPorts={{443,{other[0]}}} of the"
        " chart, or patch the NetworkPolicy touchmark-ca"
        if other
        else "",
    )
