"""A pod's or a Service's name as an end of a connection: who that is, and at which port. I/O.

Belongs here: reading such names, and resolving them with the user's own rights. Doesn't: what is asked about the end
(``cli/commands/explain.py``). Resolved is by what the objects say now, as the sidecar of whoever connects would: a
Service's port leads to its pods' target port, which is the one that rules name; a headless Service's stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.cluster.connection import PODS, SERVICES, Cluster, Object
from cli.cluster.snapshot import has_sidecar
from shared.model.errors import InputError, NotFoundError

_WORDS: Final = {
    "po": "pod", "pod": "pod", "pods": "pod", "svc": "svc", "service": "svc", "services": "svc",
}  # fmt: skip
_PORT: Final = re.compile(r"[0-9a-z-]{1,15}")
_ENDED: Final = ("Succeeded", "Failed")
_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectName:
    """A pod or a Service, as a command line names it.

    Attributes:
        kind: ``pod`` or ``svc``.
        program: of what is behind it; empty: not named.
        port: a number or a Service's name of it; empty: not named.
    """

    kind: str
    namespace: str
    name: str
    program: str = ""
    port: str = ""

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.kind}/{self.namespace}/{self.name}{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEnd:
    """What a name stands for.

    Attributes:
        text: a workload, an address or a host, with the program that was named.
        port: None: none was named.
        note: the same for people.
    """

    text: str
    port: int | None
    note: str


def read_name(text: str, namespace: str = "") -> ObjectName | None:
    """Read ``pod/NAMESPACE/NAME`` or ``svc/NAMESPACE/NAME``, each with ``@PROGRAM`` and ``:PORT``; None: neither.

    Arguments:
        namespace: of names without one, which else are none of a pod's or Service's: a workload is written like that.
    """
    word, _, rest = text.partition("/")
    head, at, tail = rest.partition("@")
    program = port = ""
    if at:
        program, _, port = tail.rpartition(":")
        # The digest itself is behind a colon, and so is that of a main script.
        if not program or program == "sha256" or program.endswith("/main") or not _PORT.fullmatch(port):
            program, port = tail, ""
    else:
        head, _, port = rest.partition(":")
    names = head.split("/") if "/" in head else [namespace, head]
    if word not in _WORDS or len(names) != 2 or not all(names):
        return None
    return ObjectName(kind=_WORDS[word], namespace=names[0], name=names[1], program=program, port=port)


async def find_end(cluster: Cluster, wanted: ObjectName) -> NamedEnd:
    """Ask the API server who that is.

    Raises:
        NotFoundError: there is no such object, or nobody is behind it.
        InputError: more than one is meant, or the port isn't one of it.
        TouchmarkError: this user may not read it, or the API server doesn't answer.
    """
    if wanted.kind == "pod":
        return read_pod(await cluster.get(PODS, wanted.namespace, wanted.name), wanted)
    service = await cluster.get(SERVICES, wanted.namespace, wanted.name)
    selector: Mapping[str, str] = (service.get("spec") or {}).get("selector") or {}
    pods: Sequence[Object] = ()
    if selector:
        labels = ",".join(f"{name}={value}" for name, value in sorted(selector.items()))
        pods = await cluster.list(PODS, wanted.namespace, keep=_trim, labelSelector=labels)
    return read_service(service, pods, wanted)


def read_pod(pod: Object, wanted: ObjectName) -> NamedEnd:
    """Return who a pod is: its workload, or a stranger at its address where it has no sidecar. Raises as above."""
    text = _name_end(pod)
    if not text:
        raise NotFoundError(f"{wanted} has no sidecar and no address yet", hint="wait until it runs")
    port = _read_number(wanted) if wanted.port else None
    says = text if has_sidecar(pod) else f"{text}, without a sidecar"
    return NamedEnd(text=_add_program(text, wanted), port=port, note=f"{wanted} is {says}")


def read_service(service: Object, pods: Sequence[Object], wanted: ObjectName) -> NamedEnd:
    """Return who is behind a Service.

    Arguments:
        pods: those that its selector selects.

    Raises:
        NotFoundError, InputError: as ``find_end``.
    """
    spec: dict[str, Any] = service.get("spec") or {}
    if host := spec.get("externalName"):
        return NamedEnd(text=str(host).rstrip("."), port=_read_number(wanted), note=f"{wanted} is the host {host}")
    if not spec.get("selector"):
        raise InputError(
            f"{wanted} selects no pods: its endpoints are written by hand", hint="ask about an endpoint's address"
        )
    of_service = _choose_port(spec, wanted)
    meant: dict[tuple[str, int], int] = {}
    strangers: list[tuple[str, int]] = []
    for pod in sorted(pods, key=lambda each: str(each["metadata"].get("name"))):
        text, target = _name_end(pod), _find_target(spec, of_service, pod)
        if not text or target is None or (pod.get("status") or {}).get("phase") in _ENDED:
            continue
        if has_sidecar(pod):
            meant[text, target] = meant.get((text, target), 0) + 1
        else:
            strangers.append((text, target))
    if strangers:
        meant[strangers[0]] = len(strangers)
    if not meant:
        raise NotFoundError(f"no pod with this port is behind {wanted}", hint="ask about the workload that will be")
    if len(meant) > 1:
        named = [f"{_bracket(text)}:{port}" for text, port in meant]
        raise InputError(
            f"{len(meant)} kinds of pods are behind {wanted}: which one?",
            hint=f"ask about {' or '.join(named[:_MAX_NAMED])}{' …' if len(named) > _MAX_NAMED else ''}",
        )
    ((text, port), count) = next(iter(meant.items()))
    says = f"{text}, port {port} ({count} pod{'s' if count > 1 else ''}{' without a sidecar' if strangers else ''})"
    return NamedEnd(text=_add_program(text, wanted), port=port, note=f"{wanted} is {says}")


def _choose_port(spec: Mapping[str, Any], wanted: ObjectName) -> Mapping[str, Any]:
    ports = [each for each in spec.get("ports") or () if each.get("protocol", "TCP") == "TCP"]
    found = [each for each in ports if not wanted.port or wanted.port in (str(each.get("port")), each.get("name"))]
    if len(found) == 1:
        return dict(found[0])
    named = ", ".join(str(each.get("port")) for each in ports[:_MAX_NAMED]) or "none"
    raise InputError(
        f"{wanted} has no such TCP port" if wanted.port else f"{wanted} has {len(ports)} TCP ports: which one?",
        hint=f"it has {named}: svc/{wanted.namespace}/{wanted.name}:PORT",
    )


def _find_target(spec: Mapping[str, Any], port: Mapping[str, Any], pod: Object) -> int | None:
    target = port.get("targetPort") or port.get("port")
    if spec.get("clusterIP") == "None":
        target = port.get("port")  # Its name leads to the pods' addresses, and nobody changes the port.
    if isinstance(target, int):
        return target
    containers = [*((pod.get("spec") or {}).get("initContainers") or ()), *((pod.get("spec") or {})["containers"])]
    numbers = [each.get("containerPort") for one in containers for each in one.get("ports") or ()
               if each.get("name") == target and each.get("protocol", "TCP") == "TCP"]  # fmt: skip
    return next((each for each in numbers if isinstance(each, int)), None)


def _read_number(wanted: ObjectName) -> int:
    if not wanted.port.isdigit() or not 1 <= int(wanted.port) <= 65535:
        raise InputError(f"{wanted} names no port by number", hint=f"{wanted.kind}/NAMESPACE/NAME:5432")
    return int(wanted.port)


def _name_end(pod: Object) -> str:
    """Return a pod's workload, or the address of one without a sidecar; empty while it has none."""
    if has_sidecar(pod):
        account = (pod.get("spec") or {}).get("serviceAccountName") or "default"
        return f"{pod['metadata'].get('namespace')}/{account}"
    return str((pod.get("status") or {}).get("podIP") or "")


def _add_program(text: str, wanted: ObjectName) -> str:
    return f"{text}@{wanted.program}" if wanted.program else text


def _bracket(text: str) -> str:
    return f"[{text}]" if ":" in text else text


def _trim(pod: Object) -> Object:
    metadata, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}

    def trim(containers: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        return [{"name": each.get("name"), "ports": each.get("ports")} for each in containers or ()]

    return {
        "metadata": {"name": metadata.get("name"), "namespace": metadata.get("namespace")},
        "spec": {
            "serviceAccountName": spec.get("serviceAccountName"),
            "initContainers": trim(spec.get("initContainers")),
            "containers": trim(spec.get("containers")),
        },
        "status": {"phase": status.get("phase"), "podIP": status.get("podIP")},
    }
