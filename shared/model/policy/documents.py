"""Policies and programs as YAML, in the shape of the Kubernetes objects: read with the line and path of each fault.

Two kinds, ``apiVersion: touchmark.dev/v1alpha1``: ``MeshPolicy`` (of each namespace one named ``default``, which is in
force, and one named ``draft``, which never is) and ``Program`` (approved digests of one workload). Belongs here: their
notation and the documents' values. Doesn't: what a rule matches (``evaluate.py``), or where files come from. Pure.
Long, because each field of the documents is read here, and written back beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

import msgspec
import yaml

from shared.model.errors import InputError
from shared.model.identity.foreign import check_id_pattern
from shared.model.identity.identity import Workload, check_namespace
from shared.model.identity.loaded_code import MAX_OBJECTS, ApprovedCode, CodeCheck, LoadedObject
from shared.model.identity.program import Program, format_program, parse_program
from shared.model.policy.document_nodes import Value, read_nodes, read_plain
from shared.model.policy.host_name import MAX_HOSTS, check_host
from shared.model.policy.rules import (
    MAX_PROGRAMS,
    MAX_RULES,
    NO_SERVICES,
    Action,
    Direction,
    Mode,
    Peer,
    PortRange,
    Requirement,
    Rule,
    WorkloadMode,
    check_workload_modes,
    list_hosts,
)

API_VERSION = "touchmark.dev/v1alpha1"
POLICY_NAME = "default"
# A draft says so twice, by this name and by `spec.draft`: a reader that knows no drafts (release 0.1, or a definition
# that drops the field) knows one name alone, and refuses it.
DRAFT_NAME = "draft"
# Of lists inside a rule; a rule with more is generated and wants to be several. The API server checks peers and ports
# by expressions, whose cost it bounds by these numbers' product with MAX_OBJECT_RULES: manifests/crds says the same.
MAX_OBJECT_RULES = 1000
MAX_ENTRIES = 1000
MAX_PEERS = 250
MAX_PORTS = 100

_OBJECT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_KEY = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PORTS = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_CIDR = re.compile(r"[0-9a-fA-F:.]+/[0-9]{1,3}")
# Written by Kubernetes into objects that it hands out; of no meaning here.
_KUBERNETES_METADATA = (
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


class ModeTrial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mode that isn't to stay: from ``until`` on (seconds since the epoch, whole) ``back_to`` is in force."""

    back_to: Mode
    until: float


class MeshPolicyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="MeshPolicy"):
    """The policy of one namespace.

    Attributes:
        mode: None leaves the namespace's mode as it is.
        group_label: when not empty, the mesh group is the workload's value of this label; else the namespace.
        requires: what is asked of every connection to the namespace's workloads.
        trial: ``mode`` goes back by itself; None: it stays.
        workload_modes: of workloads with a mode of their own, by service account; None leaves them as they are.

    Raises:
        InputError: the namespace isn't one, the label isn't one, or two rules share a name.
    """

    namespace: str
    mode: Mode | None = None
    group_label: str = ""
    rules: tuple[Rule, ...] = ()
    requires: tuple[Requirement, ...] = ()
    trial: ModeTrial | None = None
    workload_modes: tuple[WorkloadMode, ...] | None = None

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_workload_modes(self.workload_modes or ())
        if self.trial is not None and self.mode is None:
            raise InputError("a trial needs the `mode` that is tried")
        check_group_label(self.group_label)
        if len(self.rules) > MAX_RULES:
            raise InputError(f"{len(self.rules)} rules; at most {MAX_RULES} are allowed")
        names: set[str] = set()
        for rule in self.rules:
            if rule.name in names:
                raise InputError(f"two rules have the name {rule.name!r}")
            names.add(rule.name)
        if (count := len(list_hosts(self.rules))) > MAX_HOSTS:
            raise InputError(f"{count} different hosts; a namespace's rules name at most {MAX_HOSTS}")


class ProgramDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="Program"):
    """Approved programs of one workload, under one name.

    Attributes:
        weak: these are interpreters or multi-call binaries, approved knowingly.
        code: what they may load; None: it isn't looked at.

    Raises:
        InputError: the name isn't one, or there is no program.
        IdentityError: the workload isn't one.
    """

    namespace: str
    name: str
    service_account: str
    programs: tuple[Program, ...]
    weak: bool = False
    code: ApprovedCode | None = None

    def __post_init__(self) -> None:
        if not _OBJECT_NAME.fullmatch(self.name):
            raise InputError(f"not an object name: {self.name[:80]!r}", hint="lower-case letters, digits, '-' and '.'")
        Workload(namespace=self.namespace, service_account=self.service_account)
        if not 1 <= len(self.programs) <= MAX_PROGRAMS:
            raise InputError(f"a Program names 1 to {MAX_PROGRAMS} digests")


class DraftDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="Draft"):
    """A ``MeshPolicy`` with ``draft: true``: what it would say if it were in force, which it isn't.

    A kind of value of its own, so that nothing takes it for a policy by forgetting to ask.

    Raises:
        InputError: it has a trial; nothing of a draft is in force.
    """

    policy: MeshPolicyDocument

    def __post_init__(self) -> None:
        if self.policy.trial is not None:
            raise InputError("a draft has no `trial`: nothing of it is in force")

    @property
    def namespace(self) -> str:
        """The namespace whose draft it is."""
        return self.policy.namespace


Document: TypeAlias = MeshPolicyDocument | DraftDocument | ProgramDocument


def check_group_label(label: str) -> str:
    """Return a mesh group's label; empty: the namespace is the group.

    Raises:
        InputError: it isn't a label's key.
    """
    if label and not _LABEL_KEY.fullmatch(label):
        raise InputError(f"not a label key: {label[:80]!r}", hint="such as team, or example.com/team")
    return label


def parse_documents(text: str, source: str = "") -> list[Document]:
    """Read a YAML stream of ``MeshPolicy`` and ``Program`` objects.

    Arguments:
        text: at most ``document_nodes.MAX_TEXT_BYTES`` bytes; several documents are separated by ``---``.
        source: named in faults, such as the file's name.

    Raises:
        DocumentError: the first fault, with line and path. Unknown fields are faults; what Kubernetes itself adds to
            ``metadata``, and ``status``, is passed over.
    """
    documents: list[Document] = []
    seen: set[tuple[str, str, str]] = set()
    for value in read_nodes(text, source):
        document = _read_document(value, max_rules=MAX_RULES)
        name = name_document(document)
        key = (type(document).__name__, document.namespace, name)
        if key in seen:
            raise value.place.fault(f"{document.namespace}/{name} is defined twice")
        seen.add(key)
        documents.append(document)
    return documents


def read_document(plain: Mapping[str, Any], source: str = "") -> Document:
    """Read one object that was parsed already, such as the API server's JSON, with at most ``MAX_OBJECT_RULES`` rules.

    Raises:
        DocumentError: the first fault, with its path.
    """
    return _read_document(read_plain(plain, source), max_rules=MAX_OBJECT_RULES)


def name_document(document: Document) -> str:
    """Return the name of a document's object."""
    if isinstance(document, ProgramDocument):
        return document.name
    return POLICY_NAME if isinstance(document, MeshPolicyDocument) else DRAFT_NAME


def format_documents(documents: Sequence[Document]) -> str:
    """Write documents as YAML that ``parse_documents`` reads back as the same values."""
    plain = make_plain(documents)
    return yaml.safe_dump_all(plain, sort_keys=False, allow_unicode=True, width=120) if plain else ""


def make_plain(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Return documents as mappings, lists and strings, in the shape of the Kubernetes objects."""
    return [_plain(each) for each in documents]


def _plain(document: Document) -> dict[str, Any]:
    if isinstance(document, ProgramDocument):
        return _plain_program(document)
    if isinstance(document, MeshPolicyDocument):
        return _plain_policy(document)
    plain = _plain_policy(document.policy)
    plain["metadata"]["name"] = DRAFT_NAME
    return {**plain, "spec": {"draft": True, **plain["spec"]}}


def plain_trial(trial: ModeTrial) -> dict[str, Any]:
    """Return a trial as an object has it."""
    until = datetime.fromtimestamp(trial.until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"backTo": str(trial.back_to), "until": until}


def parse_ports(text: str) -> PortRange:
    """Read ``8080`` or ``9000-9100``.

    Raises:
        InputError: the text is something else, or leaves 1 to 65535.
    """
    match = _PORTS.fullmatch(text)
    if not match:
        raise InputError(
            f"not a port: {text[:80]!r}", hint='write a number such as 8080, or a range such as "9000-9100"'
        )
    return PortRange(first=int(match[1]), last=int(match[2] or match[1]))


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read_document(value: Value, *, max_rules: int) -> Document:
    fields = value.fields(required=("apiVersion", "kind", "metadata", "spec"), optional=("status",))
    fields["apiVersion"].choice((API_VERSION,))
    if fields["kind"].choice(("MeshPolicy", "Program")) == "MeshPolicy":
        return _read_policy(value, fields["metadata"], fields["spec"], max_rules=max_rules)
    return _read_program(value, fields["metadata"], fields["spec"])


def _read_metadata(metadata: Value) -> tuple[Value, str]:
    fields = metadata.fields(required=("name", "namespace"), optional=_KUBERNETES_METADATA)
    namespace = fields["namespace"]
    return fields["name"], namespace.build(lambda: check_namespace(namespace.text()))


def _read_policy(
    document: Value, metadata: Value, spec: Value, *, max_rules: int
) -> MeshPolicyDocument | DraftDocument:
    name, namespace = _read_metadata(metadata)
    if name.text() not in (POLICY_NAME, DRAFT_NAME):
        raise name.place.fault(
            f"a MeshPolicy must be named {POLICY_NAME!r}, or {DRAFT_NAME!r} with `draft: true`",
            hint="there is one of each per namespace; put all its rules into it",
        )
    is_named_draft = name.text() == DRAFT_NAME
    if spec.is_null() and not is_named_draft:
        return MeshPolicyDocument(namespace=namespace)
    fields = spec.fields(optional=("draft", "mode", "trial", "workloadModes", "group", "requires", "rules"))
    is_draft = "draft" in fields and fields["draft"].flag()
    if is_draft and not is_named_draft:
        raise fields["draft"].place.fault(
            f"the MeshPolicy named {POLICY_NAME!r} is in force, and never a draft",
            hint=f"name it {DRAFT_NAME!r}: it stands beside the one in force",
        )
    if is_named_draft and not is_draft:
        raise name.place.fault(f"the MeshPolicy named {DRAFT_NAME!r} is never in force, and must say `draft: true`")
    if is_draft and "trial" in fields:
        raise fields["trial"].place.fault("a draft has no `trial`: nothing of it is in force")
    group_label = ""
    if "group" in fields:
        label = fields["group"].fields(required=("label",))["label"]
        group_label = label.text()
        if not _LABEL_KEY.fullmatch(group_label):
            raise label.place.fault(f"not a label key: {group_label[:80]!r}")
    rules: dict[str, Rule] = {}
    for item in fields["rules"].items(max_items=max_rules) if "rules" in fields else ():
        rule = _read_rule(item)
        if rule.name in rules:
            raise item.entries()["name"].place.fault(f"two rules have the name {rule.name!r}")
        rules[rule.name] = rule
    mode = Mode(fields["mode"].choice([*Mode])) if "mode" in fields else None
    trial = _read_trial(fields["trial"]) if "trial" in fields else None
    if trial is not None and mode is None:
        raise fields["trial"].place.fault("a trial needs the `mode` that is tried")
    requires = fields["requires"].items(max_items=len(Requirement)) if "requires" in fields else []
    required = tuple(Requirement(each.choice([*Requirement])) for each in requires)
    if len(set(required)) < len(required):
        raise fields["requires"].place.fault("a requirement is named twice")
    policy = document.build(
        lambda: MeshPolicyDocument(
            namespace=namespace,
            mode=mode,
            group_label=group_label,
            rules=tuple(rules.values()),
            requires=required,
            trial=trial,
            workload_modes=_read_workload_modes(fields["workloadModes"]) if "workloadModes" in fields else None,
        )
    )
    return DraftDocument(policy=policy) if is_draft else policy


def _read_workload_modes(value: Value) -> tuple[WorkloadMode, ...]:
    found = [
        each.build(partial(WorkloadMode, service_account=name, mode=Mode(each.choice([*Mode]))))
        for name, each in value.entries().items()
    ]
    modes = tuple(sorted(found, key=lambda each: each.service_account))
    value.build(partial(check_workload_modes, modes))
    return modes


def _read_trial(value: Value) -> ModeTrial:
    fields = value.fields(required=("backTo", "until"))
    back_to, until = Mode(fields["backTo"].choice([*Mode])), fields["until"].text()
    if not _MOMENT.fullmatch(until):
        raise fields["until"].place.fault(f"not a time: {until[:80]!r}", hint="in UTC, such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(until)
    except ValueError as error:
        raise fields["until"].place.fault(f"not a time: {until!r} ({error})") from error
    return ModeTrial(back_to=back_to, until=moment.timestamp())


def _read_rule(item: Value) -> Rule:
    fields = item.fields(required=("name", "action"), optional=("direction", "workloads", "programs", "peers", "ports"))
    action = Action(fields["action"].choice([*Action]))
    direction = Direction(fields["direction"].choice([*Direction])) if "direction" in fields else Direction.INGRESS
    peers = tuple(_read_peer(each) for each in _items(fields, "peers", max_items=MAX_PEERS))
    if (
        action is Action.ALLOW
        and direction is Direction.EGRESS
        and not (peers and all(p.unidentified or p.spiffe_id for p in peers))
    ):
        raise fields["direction"].place.fault(
            "an allow rule for egress is for peers outside the mesh: each must be `unidentified` or have a spiffeID",
            hint="connections inside the mesh are allowed by an ingress rule in the destination's namespace",
        )
    if action is Action.DENY or direction is Direction.INGRESS:
        for peer in _items(fields, "peers", max_items=MAX_PEERS):
            if (hosts := peer.entries().get("hosts")) is not None:
                hint = (
                    "a refusal would end where the name doesn't resolve: use `cidrs`"
                    if direction is Direction.EGRESS
                    else "a peer isn't who its address's name says: use `cidrs`"
                )
                raise hosts.place.fault("only a rule that allows egress can name hosts", hint=hint)
    name = fields["name"].text()
    return item.build(
        lambda: Rule(
            name=name,
            action=action,
            direction=direction,
            workloads=tuple(_read_service_account(each) for each in _items(fields, "workloads")),
            programs=tuple(_read_digest(each) for each in _items(fields, "programs")),
            peers=peers,
            ports=tuple(_read_ports(each) for each in _items(fields, "ports", max_items=MAX_PORTS)),
        )
    )


def _read_peer(item: Value) -> Peer:
    names = ("namespace", "serviceAccount", "program", "unidentified", "cidrs", "hosts", "spiffeID")
    fields = item.fields(optional=names, refused=NO_SERVICES)
    if "spiffeID" in fields:
        spiffe_id = fields["spiffeID"]
        spiffe_id.build(lambda: check_id_pattern(spiffe_id.text()))
    namespace = fields["namespace"].text() if "namespace" in fields else ""
    if "namespace" in fields:
        fields["namespace"].build(lambda: check_namespace(namespace))
    cidrs = _items(fields, "cidrs")
    for each in cidrs:
        if not _CIDR.fullmatch(each.text()):
            hint = "write an address, '/' and the number of its leading bits, such as 198.18.0.0/15"
            raise each.place.fault(f"not a CIDR: {each.text()[:80]!r}", hint=hint)
        with each.blame():
            Peer(unidentified=True, cidrs=(each.text(),))
    hosts = _items(fields, "hosts", max_items=MAX_HOSTS)
    for each in hosts:
        with each.blame():
            check_host(each.text())
    return item.build(
        lambda: Peer(
            namespace=namespace,
            service_account=_read_service_account(fields["serviceAccount"]) if "serviceAccount" in fields else "",
            program=_read_digest(fields["program"]) if "program" in fields else None,
            unidentified=fields["unidentified"].flag() if "unidentified" in fields else False,
            cidrs=tuple(each.text() for each in cidrs),
            spiffe_id=fields["spiffeID"].text() if "spiffeID" in fields else "",
            hosts=tuple(each.text() for each in hosts),
        )
    )


def _read_program(document: Value, metadata: Value, spec: Value) -> ProgramDocument:
    name, namespace = _read_metadata(metadata)
    if not _OBJECT_NAME.fullmatch(name.text()):
        raise name.place.fault(f"not an object name: {name.text()[:80]!r}", hint="lower-case letters, digits, '-', '.'")
    fields = spec.fields(required=("serviceAccount", "digests"), optional=("weak", "code"))
    digests = fields["digests"].items(max_items=MAX_PROGRAMS)
    if not digests:
        raise fields["digests"].place.fault("a Program names at least one digest")
    service_account = _read_service_account(fields["serviceAccount"])
    programs = tuple(_read_digest(each) for each in digests)
    weak = fields["weak"].flag() if "weak" in fields else False
    code = _read_code(fields["code"]) if "code" in fields else None
    return document.build(
        lambda: ProgramDocument(
            namespace=namespace,
            name=name.text(),
            service_account=service_account,
            programs=programs,
            weak=weak,
            code=code,
        )
    )


def _read_code(value: Value) -> ApprovedCode:
    fields = value.fields(optional=("objects", "check", "jit"))
    objects = tuple(
        _read_object(each) for each in (fields["objects"].items(max_items=MAX_OBJECTS) if "objects" in fields else ())
    )
    check = CodeCheck(fields["check"].choice([str(each) for each in CodeCheck])) if "check" in fields else None
    jit = fields["jit"].flag() if "jit" in fields else False
    return value.build(lambda: ApprovedCode(objects=objects, check=check, jit=jit))


def _read_object(value: Value) -> LoadedObject:
    fields = value.fields(required=("path", "digest"))
    path, digest = fields["path"].text(), _read_digest(fields["digest"])
    if digest.main:
        raise fields["digest"].place.fault("a loaded object has no main script")
    if not path:
        raise fields["path"].place.fault("an empty path")
    return fields["path"].build(lambda: LoadedObject(path=path, digest=digest.digest))


def _items(fields: dict[str, Value], name: str, *, max_items: int = MAX_ENTRIES) -> list[Value]:
    """Return a rule's list. An empty one would mean "any", for which the field is omitted."""
    if name not in fields:
        return []
    found = fields[name].items(max_items=max_items)
    if not found:
        raise fields[name].place.fault("an empty list", hint="omit the field to match any")
    return found


def _read_service_account(value: Value) -> str:
    name = value.text()
    value.build(lambda: Workload(namespace="default", service_account=name))
    return name


def _read_ports(value: Value) -> PortRange:
    return value.build(lambda: parse_ports(value.scalar()))


def _read_digest(value: Value) -> Program:
    text = value.text()
    if text != text.strip():
        raise value.place.fault("spaces around a digest")
    return value.build(lambda: parse_program(text))


# ---- writing ---------------------------------------------------------------------------------------------------------


def _plain_policy(document: MeshPolicyDocument) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if document.mode is not None:
        spec["mode"] = str(document.mode)
    if document.trial is not None:
        spec["trial"] = plain_trial(document.trial)
    if document.workload_modes is not None:
        spec["workloadModes"] = plain_workload_modes(document.workload_modes)
    if document.group_label:
        spec["group"] = {"label": document.group_label}
    if document.requires:
        spec["requires"] = [str(each) for each in document.requires]
    if document.rules:
        spec["rules"] = [plain_rule(rule) for rule in document.rules]
    return _plain_object("MeshPolicy", POLICY_NAME, document.namespace, spec)


def plain_workload_modes(modes: Iterable[WorkloadMode]) -> dict[str, str]:
    """Write workloads' own modes as an object has them."""
    return {each.service_account: str(each.mode) for each in modes}


def plain_rule(rule: Rule) -> dict[str, Any]:
    """Write a rule as its object has it."""
    plain: dict[str, Any] = {"name": rule.name, "action": str(rule.action), "direction": str(rule.direction)}
    if rule.workloads:
        plain["workloads"] = list(rule.workloads)
    if rule.programs:
        plain["programs"] = [format_program(each) for each in rule.programs]
    if rule.peers:
        plain["peers"] = [_plain_peer(peer) for peer in rule.peers]
    if rule.ports:
        plain["ports"] = [each.first if each.first == each.last else str(each) for each in rule.ports]
    return plain


def _plain_peer(peer: Peer) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    if peer.namespace:
        plain["namespace"] = peer.namespace
    if peer.service_account:
        plain["serviceAccount"] = peer.service_account
    if peer.program is not None:
        plain["program"] = format_program(peer.program)
    if peer.unidentified:
        plain["unidentified"] = True
        plain |= {"hosts": list(peer.hosts)} if peer.hosts else {"cidrs": list(peer.cidrs)}
    if peer.spiffe_id:
        plain["spiffeID"] = peer.spiffe_id
    return plain


def _plain_program(document: ProgramDocument) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "serviceAccount": document.service_account,
        "digests": [format_program(each) for each in document.programs],
    }
    if document.weak:
        spec["weak"] = True
    if document.code is not None:
        spec["code"] = plain_code(document.code)
    return _plain_object("Program", document.name, document.namespace, spec)


def plain_code(code: ApprovedCode) -> dict[str, Any]:
    """Write what a ``Program`` says of loaded code, as its object has it."""
    plain: dict[str, Any] = {}
    if code.check is not None:
        plain["check"] = str(code.check)
    if code.jit:
        plain["jit"] = True
    if code.objects:
        plain["objects"] = [{"path": each.path, "digest": f"sha256:{each.digest}"} for each in code.objects]
    return plain


def read_code(plain: object, source: str) -> ApprovedCode:
    """Read what ``plain_code`` writes.

    Raises:
        DocumentError: it says something else.
    """
    return _read_code(read_plain(plain, source))


def _plain_object(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
