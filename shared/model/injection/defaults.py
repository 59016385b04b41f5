"""What a namespace's annotations say for all its pods, and where each setting of a pod comes from. Pure.

Belongs here: how a namespace's word is read, and the explanation. Doesn't: each annotation's syntax
(``settings.py``), or how a namespace is found (``ca/kubernetes/webhook_objects/admission.py``).

On a namespace the annotations have the names that they have on a pod. One that can't be used isn't applied, with a
warning, while the same on a pod refuses it: a misspelt default mustn't keep a whole namespace's pods from starting.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.model.injection.refusals import InjectionRefusedError
from shared.model.injection.settings import (
    BUILT_IN,
    KNOWN,
    LOG_FORMATS,
    LOG_LEVELS,
    MAX_CPU,
    MAX_DRAIN_S,
    MAX_MEMORY,
    MIN_MEMORY_LIMIT,
    NO_LIMIT,
    Settings,
    describe_unknown,
    read_settings,
)
from shared.model.kubernetes.contract import (
    CPU_LIMIT,
    CPU_REQUEST,
    DRAIN_SECONDS,
    EXCLUDE_INBOUND_PORTS,
    EXCLUDE_OUTBOUND_CIDRS,
    EXCLUDE_OUTBOUND_PORTS,
    GROUP,
    HOLD_CONNECTS,
    INJECT,
    INJECTED,
    LOG_FORMAT,
    LOG_LEVEL,
    MAX_WORKERS,
    MEMORY_LIMIT,
    MEMORY_REQUEST,
    MTLS_DESTINATION_PORTS,
    MTLS_PORTS,
    WORKERS,
)

# ``touchmark.dev/inject`` is a namespace's label, and no default; `touchmark doctor` reports it as an annotation.
_NO_DEFAULTS: Final = (INJECT, INJECTED)
MAX_FAULTS: Final = 8
# What a sidecar does that is told nothing of it. The model can't ask it; a test compares them.
SIDECARS_OWN: Final = {DRAIN_SECONDS: "20", WORKERS: "1", LOG_LEVEL: "info", LOG_FORMAT: "json"}
_PORTS: Final = "ports, as in 9090,9100"
TAKES: Final = {
    EXCLUDE_INBOUND_PORTS: _PORTS,
    EXCLUDE_OUTBOUND_PORTS: _PORTS,
    EXCLUDE_OUTBOUND_CIDRS: "networks, as in 10.0.0.0/8,2001:db8::/32",
    MTLS_PORTS: _PORTS,
    MTLS_DESTINATION_PORTS: _PORTS,
    HOLD_CONNECTS: "false, auto, true, or ports, as in 514,601",
    DRAIN_SECONDS: f"0 to {MAX_DRAIN_S}",
    WORKERS: f"1 to {MAX_WORKERS}",
    LOG_LEVEL: ", ".join(LOG_LEVELS),
    LOG_FORMAT: ", ".join(LOG_FORMATS),
    CPU_REQUEST: f"a quantity up to {MAX_CPU}",
    CPU_LIMIT: f"a quantity up to {MAX_CPU}, or {NO_LIMIT}",
    MEMORY_REQUEST: f"a quantity up to {MAX_MEMORY}",
    MEMORY_LIMIT: f"a quantity from {MIN_MEMORY_LIMIT} to {MAX_MEMORY}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDefaults:
    """What a namespace says for its pods.

    Attributes:
        settings: with the built-in values where it says nothing, or nothing that can be used.
        applied: the annotations that count, by name.
        faults: the annotations that don't, each with its reason; the first ``MAX_FAULTS``.
    """

    settings: Settings = BUILT_IN
    applied: Mapping[str, str]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedSetting:
    """One setting of a pod's sidecar.

    Attributes:
        annotation: its name without our prefix.
        value: as it would be written; empty for none.
        source: ``pod``, ``namespace``, ``built-in``; ``adapted`` where the default would contradict the pod's others.
        takes: what may be written there, for people.
    """

    annotation: str
    value: str
    source: str
    takes: str


def read_defaults(annotations: Mapping[str, str]) -> NamespaceDefaults:
    """Read a namespace's annotations; those of others are left alone."""
    named = [name for name in annotations if name.startswith(f"{GROUP}/") and name not in _NO_DEFAULTS]
    applied = {name: annotations[name] for name in named if name in KNOWN}
    # A namespace may have thousands of them, and each look for a name that is close takes a millisecond.
    unknown = [
        describe_unknown(name) for name in itertools.islice((each for each in named if each not in KNOWN), MAX_FAULTS)
    ]
    faults: list[InjectionRefusedError] = []
    while True:
        try:
            settings = read_settings(applied)
        except InjectionRefusedError as error:
            del applied[error.path.removeprefix('metadata.annotations["').removesuffix('"]')]  # One less each time.
            faults.append(error)
        else:
            told = tuple(f"{each.refusal}: {each.message}; {each.hint}" for each in (*faults, *unknown)[:MAX_FAULTS])
            return NamespaceDefaults(settings=settings, applied=applied, faults=told)


def explain_settings(annotations: Mapping[str, str], defaults: NamespaceDefaults) -> tuple[ExplainedSetting, ...]:
    """Return each setting that a pod's sidecar gets, and whose word it is.

    Raises:
        InjectionRefusedError: one of the pod's own annotations can't be used.
    """
    values = _write(read_settings(annotations, defaults.settings))
    inherited = _write(defaults.settings)
    explained = []
    for name in KNOWN:
        if name not in values:
            continue
        if name in annotations:
            source = "pod"
        elif values[name] != inherited[name]:
            source = "adapted"
        else:
            source = "namespace" if name in defaults.applied else "built-in"
        short = name.removeprefix(f"{GROUP}/")
        explained.append(ExplainedSetting(annotation=short, value=values[name], source=source, takes=TAKES[name]))
    return tuple(explained)


def _write(settings: Settings) -> dict[str, str]:
    hold = {"never": "false", "always": "true", "auto": "auto"}[settings.holds_connects]
    return {
        EXCLUDE_INBOUND_PORTS: _join(settings.exclude_inbound_ports),
        EXCLUDE_OUTBOUND_PORTS: _join(settings.exclude_outbound_ports),
        EXCLUDE_OUTBOUND_CIDRS: ",".join(settings.exclude_outbound_cidrs),
        MTLS_PORTS: _join(settings.mtls_ports),
        MTLS_DESTINATION_PORTS: _join(settings.mtls_destination_ports),
        HOLD_CONNECTS: _join(settings.hold_ports) or hold,
        DRAIN_SECONDS: SIDECARS_OWN[DRAIN_SECONDS] if settings.drain_s is None else str(settings.drain_s),
        WORKERS: SIDECARS_OWN[WORKERS] if settings.workers is None else str(settings.workers),
        LOG_LEVEL: settings.log_level or SIDECARS_OWN[LOG_LEVEL],
        LOG_FORMAT: settings.log_format or SIDECARS_OWN[LOG_FORMAT],
        CPU_REQUEST: settings.cpu_request,
        CPU_LIMIT: settings.cpu_limit or NO_LIMIT,
        MEMORY_REQUEST: settings.memory_request,
        MEMORY_LIMIT: settings.memory_limit,
    }


def _join(ports: tuple[int, ...]) -> str:
    return ",".join(str(port) for port in ports)
