"""Kubelet probes and lifecycle hooks: redirected to the sidecar, and restored. Pure.

The kubelet asks from outside the pod, in plaintext: capture would show it to the application as an unidentified peer,
which explicit mode refuses. So each probe becomes ``GET /probe/<secret>/<container>/<kind>`` at the sidecar, with its
timings kept, and what it was becomes a ``ProbeTarget`` that the sidecar asks from inside. The secret is the pod's own:
without it anyone who reaches the pod could perform a hook of the application.

Left alone: ``exec`` and ``sleep``, which the kubelet does inside the container; a ``tcpSocket`` hook, which no kubelet
performs; what names a ``host``: the kubelet asks it from the node, whose loopback it also means, and it isn't the pod,
whose address isn't known when its spec is written (and the sidecar fetches nothing from elsewhere); and ports excluded
from capture, which the kubelet reaches directly. Source: k8s.io/api/core/v1, ``Probe`` and ``LifecycleHandler``;
k8s.io/kubernetes, ``pkg/probe``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from shared.model.errors import TouchmarkError
from shared.model.injection.pod_json import (
    Container,
    Json,
    get_number,
    get_object,
    get_objects,
    get_text,
    list_containers,
)
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.kubernetes.contract import HEALTH_PORT, MAX_PROBES, ProbeTarget

# The field that holds the handler → the kind that the sidecar knows it by.
PROBES: Final = {"livenessProbe": "liveness", "readinessProbe": "readiness", "startupProbe": "startup"}
HOOKS: Final = {"postStart": "post-start", "preStop": "pre-stop"}
_HANDLERS: Final = ("httpGet", "tcpSocket", "grpc")
MAX_ENCODED_BYTES: Final = 100_000  # One variable of the environment may have 128 KiB (execve(2), MAX_ARG_STRLEN).
SECRET: Final = re.compile(r"[0-9a-f]{32}")  # 128 random bits.
_MAX_TIMEOUT_S: Final = 3600
_DEFAULT_GRACE_S: Final = 30

Targets = Mapping[tuple[str, str], ProbeTarget]


def rewrite_probes(
    pod: Json, own_containers: Sequence[str], *, secret: str, excluded_ports: Collection[int] = ()
) -> tuple[ProbeTarget, ...]:
    """Point the pod's probes and hooks at the sidecar, in place, and return their original targets.

    Arguments:
        pod: the pod before injection; its foreign containers' probes are changed.
        own_containers: names that are left out.
        secret: of the pod's paths, as ``SECRET`` describes it.
        excluded_ports: of the pod, reached without the sidecar.

    Raises:
        InjectionRefusedError: a probe can't be performed by the sidecar, or there are too many.
    """
    grace_s = get_number(get_object(pod, "spec", "pod"), "terminationGracePeriodSeconds", "spec")
    targets: list[ProbeTarget] = []
    for kind in ("initContainers", "containers"):
        for container in list_containers(pod, kind):
            if container.name in own_containers or not container.is_long_lived:
                continue
            for field, probe_kind in PROBES.items():
                probe = get_object(container.body, field, container.path)
                timeout_s = get_number(probe, "timeoutSeconds", f"{container.path}.{field}") or 1
                target = _read_target(container, probe, f"{container.path}.{field}", probe_kind, timeout_s)
                targets += _redirect(probe, target, secret, excluded_ports)
            lifecycle = get_object(container.body, "lifecycle", container.path)
            for field, hook_kind in HOOKS.items():
                path = f"{container.path}.lifecycle"
                hook = get_object(lifecycle, field, path)
                if "tcpSocket" in hook:
                    continue
                # The kubelet waits for a hook before the stop as long as the pod's grace lasts, for one after the
                # start without an end.
                hook_s = (grace_s or _DEFAULT_GRACE_S) if hook_kind == "pre-stop" else _MAX_TIMEOUT_S
                target = _read_target(container, hook, f"{path}.{field}", hook_kind, hook_s)
                targets += _redirect(hook, target, secret, excluded_ports)
    if len(targets) > MAX_PROBES or len(encode_targets(targets)) > MAX_ENCODED_BYTES:
        raise InjectionRefusedError(
            InjectionRefusal.TOO_MANY_PROBES,
            f"{len(targets)} probes and hooks; at most {MAX_PROBES} in {MAX_ENCODED_BYTES} bytes are allowed",
            path="spec",
        )
    return tuple(targets)


def restore_probes(pod: Json, targets: Targets, own_containers: Sequence[str]) -> None:
    """Undo ``rewrite_probes``, in place: each probe that points at the sidecar gets its target back.

    Raises:
        InjectionRefusedError: a probe points at the sidecar and its original target is unknown.
    """
    for kind in ("initContainers", "containers"):
        for container in list_containers(pod, kind):
            if container.name in own_containers:
                continue
            lifecycle = get_object(container.body, "lifecycle", container.path)
            places = [(container.body, field, kind) for field, kind in PROBES.items()]
            places += [(lifecycle, field, kind) for field, kind in HOOKS.items()]
            for parent, field, probe_kind in places:
                path = container.path if parent is container.body else f"{container.path}.lifecycle"
                probe = get_object(parent, field, path)
                action = get_object(probe, "httpGet", f"{path}.{field}")
                if action.get("port") != HEALTH_PORT or not str(action.get("path", "")).startswith("/probe/"):
                    continue
                if action.get("host"):
                    continue  # It asks another host.
                target = targets.get((container.name, probe_kind))
                if target is None or action["path"] != target.request_path:
                    raise InjectionRefusedError(
                        InjectionRefusal.LOOK_ALIKE,
                        "it points at the sidecar, and its original target is unknown",
                        path=f"{path}.{field}",
                    )
                del probe["httpGet"]
                probe.update(_write_handler(target))


def encode_targets(targets: Sequence[ProbeTarget]) -> str:
    """Write targets as the value of an environment variable: JSON, in which the kubelet finds nothing to expand."""
    text = msgspec.json.encode(list(targets)).decode()
    return text.replace("$", "\\u0024")  # The kubelet would take `$(NAME)` for a variable.


def decode_targets(text: str) -> dict[tuple[str, str], ProbeTarget]:
    """Read targets by container's name and kind.

    Raises:
        InjectionRefusedError: the text isn't one that ``encode_targets`` wrote.
    """
    try:
        targets = msgspec.json.decode(text, type=list[ProbeTarget])
    except (msgspec.DecodeError, TouchmarkError) as error:
        raise InjectionRefusedError(
            InjectionRefusal.LOOK_ALIKE, "the sidecar's list of probes wasn't written by injection"
        ) from error
    return {(target.container_name, target.kind): target for target in targets}


def find_secret(targets: Targets) -> str:
    """Return the secret of a pod's paths that injection drew before; empty when there is none, or more than one."""
    secrets = {target.path_secret for target in targets.values()}
    secret = secrets.pop() if len(secrets) == 1 else ""
    return secret if SECRET.fullmatch(secret) else ""


def _read_target(container: Container, probe: Json, path: str, kind: str, timeout_s: int) -> ProbeTarget | None:
    """Read what a probe or hook asks of the pod; None where the sidecar doesn't perform it."""
    handler = next((name for name in _HANDLERS if probe.get(name) is not None), None)
    if handler is None:
        return None
    action = get_object(probe, handler, path)
    if get_text(action, "host", f"{path}.{handler}"):
        return None
    return _read_handler(container, handler, action, f"{path}.{handler}", kind, timeout_s)


def _redirect(
    probe: Json, target: ProbeTarget | None, secret: str, excluded_ports: Collection[int]
) -> list[ProbeTarget]:
    """Point a probe at the sidecar, in place, and return its target with the secret; nothing where it stays."""
    if target is None or target.port in excluded_ports:
        return []
    del probe[next(name for name in _HANDLERS if probe.get(name) is not None)]
    hidden = msgspec.structs.replace(target, container=f"{secret}/{target.container}")
    probe["httpGet"] = {"path": hidden.request_path, "port": HEALTH_PORT, "scheme": "HTTP"}
    return [hidden]


def _read_handler(
    container: Container, handler: str, action: Json, path: str, kind: str, timeout_s: int
) -> ProbeTarget:
    scheme, request = "HTTP", "/"
    headers: tuple[tuple[str, str], ...] = ()
    if handler == "httpGet":
        scheme = get_text(action, "scheme", path).upper() or "HTTP"
        request = _normalise_path(get_text(action, "path", path))
        headers = tuple(_read_header(each, path) for each in get_objects(action, "httpHeaders", path))
    try:
        return ProbeTarget(
            container=container.name,
            kind=kind,
            handler={"httpGet": "http", "tcpSocket": "tcp", "grpc": "grpc"}[handler],
            port=_resolve_port(container, action, path),
            scheme=scheme,
            path=request,
            headers=headers,
            service=get_text(action, "service", path),
            timeout_s=min(max(timeout_s, 1), _MAX_TIMEOUT_S),
        )
    except InjectionRefusedError:
        raise
    except TouchmarkError as error:
        raise InjectionRefusedError(InjectionRefusal.MALFORMED_POD, error.message, path=path) from error


def _normalise_path(path: str) -> str:
    """Write a path as the kubelet's HTTP client sends it: from the root, without a fragment, as printable ASCII."""
    path = path.partition("#")[0]
    return "".join(
        letter if 0x20 < ord(letter) < 0x7F else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "replace"))
        for letter in (path if path.startswith("/") else f"/{path}")
    )


def _read_header(header: Json, path: str) -> tuple[str, str]:
    name, value = get_text(header, "name", path), get_text(header, "value", path)
    if not name or any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in name + value):
        raise InjectionRefusedError(
            InjectionRefusal.MALFORMED_POD, f"not a header: {name[:80]!r}", path=f"{path}.httpHeaders"
        )
    return name, value


def _resolve_port(container: Container, action: Json, path: str) -> int:
    """Find the number of a port that may be given by name, as the kubelet does (``probe.ResolveContainerPort``)."""
    port = action.get("port")
    if isinstance(port, int) and not isinstance(port, bool):
        return port
    name = get_text(action, "port", path)
    for index, entry in enumerate(get_objects(container.body, "ports", container.path)):
        if name and entry.get("name") == name:
            number = get_number(entry, "containerPort", f"{container.path}.ports[{index}]")
            if number is not None:
                return number
    if name.isascii() and name.isdigit() and len(name) <= 5:
        return int(name)
    raise InjectionRefusedError(
        InjectionRefusal.PROBE_PORT_UNKNOWN, f"the container has no port named {name[:80]!r}", path=f"{path}.port"
    )


def _write_handler(target: ProbeTarget) -> Json:
    if target.handler == "grpc":
        return {"grpc": {"port": target.port, **({"service": target.service} if target.service else {})}}
    action: Json = {"port": target.port, **({"host": target.host} if target.host else {})}
    if target.handler == "tcp":
        return {"tcpSocket": action}
    action |= {"path": target.path, "scheme": target.scheme}
    if target.headers:
        action["httpHeaders"] = [{"name": name, "value": value} for name, value in target.headers]
    return {"httpGet": action}
