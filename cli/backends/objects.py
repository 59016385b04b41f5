"""The objects ``MeshPolicy`` and ``Program`` as a cluster keeps them: made of our values, and read back. Pure.

Belongs here: their fields, the CA's words in ``status``, who wrote what. Doesn't: requests
(``cluster.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from cli.backends.base import ModeState
from cli.cluster.connection import MESH_POLICIES, PROGRAMS, Kind, Object
from cli.cluster.faults import OwnedElsewhereError
from shared.model.adoption.approval_name import list_names
from shared.model.errors import ConflictError, DocumentError, TouchmarkError
from shared.model.identity.program import parse_program
from shared.model.kubernetes.contract import APPROVED_BY, FIELD_MANAGER, FORCE_EXPLICIT
from shared.model.policy.documents import (
    API_VERSION,
    DRAFT_NAME,
    POLICY_NAME,
    Document,
    MeshPolicyDocument,
    ModeTrial,
    ProgramDocument,
    make_plain,
    plain_code,
    plain_trial,
    read_code,
    read_document,
)
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Mode
from shared.model.wire.admin import ProgramRequest, ProgramView

# The mode has an owner of its own, and so have workloads' modes. With one for all, a `mode` after a `policy apply`
# would drop the policy's rules: server-side apply removes what its manager no longer names.
MODE_MANAGER: Final = f"{FIELD_MANAGER}-mode"
WORKLOAD_MODES_MANAGER: Final = f"{FIELD_MANAGER}-workload-modes"
OWN_MANAGERS: Final = frozenset({FIELD_MANAGER, MODE_MANAGER, WORKLOAD_MODES_MANAGER})


def make_mode(namespace: str, mode: Mode, trial: ModeTrial | None = None) -> Object:
    """Return what ``mode`` writes: the mode alone, and whether it goes back by itself."""
    spec: dict[str, Any] = {"mode": str(mode)}
    if trial is not None:
        spec["trial"] = plain_trial(trial)
    return _make_object("MeshPolicy", namespace, POLICY_NAME, spec)


def make_workload_modes(
    namespace: str, present: Object | None, modes: Mapping[str, Mode], changed: Iterable[str]
) -> Object:
    """Return what ``mode --workload`` writes: workloads' own modes alone.

    Server-side apply removes what its manager no longer names: what it has written before is named again. What another
    tool has written isn't, so that it stays the tool's; but where nothing is written, all that is in force is.

    Arguments:
        present: the object as it is; None: there is none.
        modes: all that are wanted, by service account.
        changed: the service accounts that are meant.
    """
    written = ((present or {}).get("spec") or {}).get("workloadModes")
    kept = {*_list_own_workload_modes(present), *changed}
    named = {name: str(modes[name]) for name in sorted(modes) if not isinstance(written, dict) or name in kept}
    return _make_object("MeshPolicy", namespace, POLICY_NAME, {"workloadModes": named})


def keep_workload_modes(value: Object, present: Object | None) -> Object:
    """Return what ``policy apply`` or ``undo`` writes: where no mode of a workload stays, those that it wrote before.

    An apply that takes the last key out of a map makes ``null`` of the map if one of our managers says that it is
    empty, and the definition refuses that. So the keys stay, and go by a patch (``make_removal``).
    """
    if value["kind"] != "MeshPolicy" or value["spec"].get("workloadModes"):
        return value
    written = ((present or {}).get("spec") or {}).get("workloadModes") or {}
    kept = {name: written[name] for name in sorted(_list_own_workload_modes(present, FIELD_MANAGER) & {*written})}
    return {**value, "spec": {**value["spec"], "workloadModes": kept}} if kept else value


def list_removable(present: Object | None, service_accounts: Iterable[str]) -> list[str]:
    """Return those of the service accounts whose modes stand in the object and were written by us alone."""
    written = ((present or {}).get("spec") or {}).get("workloadModes") or {}
    managers: dict[str, set[str]] = {}
    for entry in ((present or {}).get("metadata") or {}).get("managedFields") or ():
        manager = str(entry.get("manager"))
        for name in _list_own_workload_modes(present, manager):
            managers.setdefault(name, set()).add(manager)
    return [name for name in service_accounts if name in written and managers.get(name, {""}) <= OWN_MANAGERS]


def make_removal(namespace: str, service_accounts: Iterable[str], *, name: str = POLICY_NAME) -> Object:
    """Return the merge patch that takes these workloads' own modes away."""
    return _make_object("MeshPolicy", namespace, name, {"workloadModes": dict.fromkeys(service_accounts)})


def is_draft(value: Object) -> bool:
    """Return whether an object is a MeshPolicy of which nothing is in force."""
    return bool(value["kind"] == "MeshPolicy" and value["metadata"]["name"] == DRAFT_NAME)


def empties_workload_modes(value: Object) -> bool:
    """Return whether what is to be applied says that no workload has a mode of its own."""
    return bool(value["kind"] == "MeshPolicy" and value["spec"].get("workloadModes") == {})


def read_workload_modes(value: Object) -> dict[str, Mode]:
    """Return the modes that workloads have of their own: as set; where nothing is set, as the CA says that they are."""
    spec, status = value.get("spec") or {}, value.get("status") or {}
    modes = spec.get("workloadModes")
    if not isinstance(modes, dict):
        modes = status.get("workloadModes")
    found = {str(name): _read_mode(text) for name, text in modes.items()} if isinstance(modes, dict) else {}
    return {name: mode for name, mode in found.items() if mode is not None}


def _list_own_workload_modes(value: Object | None, manager: str = WORKLOAD_MODES_MANAGER) -> set[str]:
    """Return the service accounts whose modes ``mode``, or another manager, has written."""
    own: set[str] = set()
    for entry in ((value or {}).get("metadata") or {}).get("managedFields") or ():
        if entry.get("manager") == manager and not entry.get("subresource"):
            fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
            own |= {name.removeprefix("f:") for name in fields.get("f:workloadModes") or () if name.startswith("f:")}
    return own


def has_trial(value: Object) -> bool:
    """Return whether a ``MeshPolicy`` says that its mode is on trial, be it over or not."""
    return (value.get("spec") or {}).get("trial") is not None


def force_explicit(value: Object, *, mark: str, is_inherited: bool = False) -> Object:
    """Have the CA admit a MeshPolicy that makes workloads explicit although that would refuse what was seen.

    Arguments:
        mark: a value that was never used before.
        is_inherited: some may become so because their own mode is taken away.
    """
    if value["kind"] != "MeshPolicy" or is_draft(value):
        return value
    spec = value["spec"]
    if Mode.EXPLICIT not in (spec.get("mode"), *(spec.get("workloadModes") or {}).values()) and not is_inherited:
        return value
    metadata = value["metadata"]
    annotations = {**metadata.get("annotations", {}), FORCE_EXPLICIT: mark}
    return {**value, "metadata": {**metadata, "annotations": annotations}}


def make_program(request: ProgramRequest) -> Object:
    """Return what ``program approve`` writes."""
    name = request.name or list_names(request.service_account, request.programs)[0]
    spec: dict[str, Any] = {
        "serviceAccount": request.service_account,
        "digests": [str(program) for program in request.programs],
    }
    if request.weak:
        spec["weak"] = True
    if request.code is not None:
        spec["code"] = plain_code(request.code)
    made = _make_object("Program", request.namespace, name, spec)
    if request.approved_by:
        made["metadata"]["annotations"] = {APPROVED_BY: request.approved_by}
    return made


def make_objects(documents: Sequence[Document]) -> list[tuple[Kind, Object]]:
    """Return what ``policy apply`` writes."""
    plain = make_plain(documents)
    return [
        (PROGRAMS if isinstance(document, ProgramDocument) else MESH_POLICIES, value)
        for document, value in zip(documents, plain, strict=True)
    ]


def strip(value: Object) -> Object:
    """Return an object as YAML that ``policy apply`` takes: without what Kubernetes and the CA add."""
    metadata = value.get("metadata") or {}
    return {
        "apiVersion": value.get("apiVersion") or API_VERSION,
        "kind": value.get("kind", ""),
        "metadata": {"name": metadata.get("name", ""), "namespace": metadata.get("namespace", "")},
        "spec": value.get("spec") or {},
    }


def view_program(value: Object) -> ProgramView:
    """Read a ``Program``.

    Raises:
        DocumentError: it isn't one that this version understands.
    """
    metadata, spec = value.get("metadata") or {}, value.get("spec") or {}
    name = f"Program {metadata.get('namespace')}/{metadata.get('name')}"
    try:
        return ProgramView(
            namespace=metadata["namespace"],
            name=metadata["name"],
            service_account=spec["serviceAccount"],
            programs=tuple(parse_program(text) for text in spec["digests"]),
            weak=spec.get("weak") is True,
            approved_by=(metadata.get("annotations") or {}).get(APPROVED_BY, ""),
            approved=_read_written(metadata),
            code=read_code(spec["code"], name) if "code" in spec else None,
        )
    except (KeyError, TypeError, AttributeError, TouchmarkError) as error:
        raise DocumentError(f"{name} can't be read: {error}", hint="was it written by a newer version?") from error


def read_mode(namespace: str, value: Object) -> ModeState:
    """Read a ``MeshPolicy``'s mode and what the CA says of it."""
    spec, status = value.get("spec") or {}, value.get("status") or {}
    wanted = _read_mode(spec.get("mode"))
    return ModeState(
        namespace=namespace,
        wanted=wanted,
        mode=_read_mode(status.get("mode")),
        version=int(status.get("version") or 0),
        installed=int(status.get("installed") or 0),
        total=int(status.get("sidecars") or 0),
        waiting=tuple(str(instance) for instance in status.get("waiting") or ()),
        is_observed=is_observed(value),
        fault=read_fault(value),
        workload_modes=make_modes(read_workload_modes(value)),
        **_read_trial(spec, status),
    )


def _read_trial(spec: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mode on trial goes back to, and when; nothing where none is, or where it is over."""
    trial = spec.get("trial") or {}
    back_to = _read_mode(trial.get("backTo"))
    if back_to is None or status.get("mode") == back_to:
        return {}
    try:
        return {"back_to": back_to, "until": datetime.fromisoformat(str(trial.get("until"))).timestamp()}
    except ValueError:
        return {}


def is_observed(value: Object) -> bool:
    """Return whether the CA has seen this generation of an object."""
    generation = (value.get("metadata") or {}).get("generation") or 0
    return int((value.get("status") or {}).get("observedGeneration") or -1) >= int(generation)


def read_fault(value: Object) -> str:
    """Return why the CA refuses an object; empty when it doesn't, or hasn't looked yet."""
    if not is_observed(value):
        return ""
    for condition in (value.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Accepted" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no reason given")
    return ""


def is_accepted(value: Object) -> bool:
    """Return whether the CA has put this generation of an object in force."""
    conditions = (value.get("status") or {}).get("conditions") or ()
    accepted = any(each.get("type") == "Accepted" and each.get("status") == "True" for each in conditions)
    return accepted and is_observed(value)


def describe_strangers(kept: Object, written: Object) -> str:
    """Say which rules a policy has that what was written doesn't name; empty when there are none.

    Server-side apply leaves what other managers wrote.
    """

    def names(value: Object) -> list[str]:
        return [
            str(rule.get("name")) for rule in (value.get("spec") or {}).get("rules") or () if isinstance(rule, dict)
        ]

    others = [name for name in names(kept) if name not in names(written)]
    return f"it also has rules of another tool: {', '.join(others)}" if others else ""


def refuse_leftovers(tried: Object, written: Object) -> None:
    """Refuse to put a draft in force where what another tool wrote would stay in force beside it, as no draft said.

    Arguments:
        tried: the policy as it would be.
        written: the draft as a policy.

    Raises:
        ConflictError: something would stay.
    """
    kept, wanted = (read_document({**written, "spec": value.get("spec") or {}}) for value in (tried, written))
    if not isinstance(kept, MeshPolicyDocument) or not isinstance(wanted, MeshPolicyDocument):
        raise TypeError("a policy is tried")
    left = [f"rule {rule.name}" for rule in kept.rules if rule not in wanted.rules]
    left += [f"requirement {each}" for each in kept.requires if each not in wanted.requires]
    if kept.group_label not in ("", wanted.group_label):
        left.append("group")
    if wanted.workload_modes is not None:
        named = {each.service_account for each in wanted.workload_modes}
        others = [each.service_account for each in kept.workload_modes or () if each.service_account not in named]
        left += [f"mode of {name}" for name in others if name not in list_removable(tried, others)]
    if left:
        name = f"MeshPolicy {wanted.namespace}/{POLICY_NAME}"
        raise ConflictError(
            f"nothing is put in force: another tool wrote what would stay in {name}, though the draft doesn't say it:"
            f" {', '.join(left)}",
            hint=f"write the draft's content into {name} with that tool; `touchmark policy draft {wanted.namespace}"
            " --yaml -k` prints it",
        )


def _make_object(kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec),
    }


def _read_mode(text: object) -> Mode | None:
    return Mode(text) if isinstance(text, str) and text in list(Mode) else None


def _read_written(metadata: Mapping[str, Any]) -> float:
    """Return when the object's fields were last written (not its status), in seconds since the epoch."""
    times = [
        str(entry.get("time"))
        for entry in metadata.get("managedFields") or ()
        if not entry.get("subresource") and entry.get("time")
    ]
    text = max(times, default=str(metadata.get("creationTimestamp") or ""))
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def refuse_others(error: OwnedElsewhereError) -> None:
    """Raise the error unless only commands of ours own the fields that it is about."""
    if set(error.owners) - OWN_MANAGERS:
        raise error
