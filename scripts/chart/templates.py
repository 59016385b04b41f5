"""Kustomize's objects as templates of a Helm chart. Pure.

Belongs here: which of an object's values the chart's user chooses, and how they stand in a template. Doesn't: the
values' defaults (``manifests/chart/values.yaml``, written by hand), or files (``__main__.py``).

An object that is the same with SQLite and with PostgreSQL becomes one template; one that differs stands in both
branches of an `if`. So whatever changes in a manifest comes through without a word here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

Json = dict[str, Any]

SYSTEM_NAMESPACE: Final = "touchmark-system"
CLUSTER_SCOPED: Final = frozenset(
    {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
)
HEAD: Final = "# Made from manifests/ by `python -m scripts.chart`: change those, not this.\n"
SETTINGS: Final = re.compile(r"touchmark-settings-[a-z0-9]{10}")
_POSTGRESQL: Final = "{{- if .Values.database.secret }}\n"
_PREFIX: Final = "@@"

# What stands in the place of a scalar.
_SCALARS: Final = {
    "namespace": "{{ .Release.Namespace }}",
    "settings": '{{ include "touchmark.settingsName" . }}',
    "sidecar-images": '{{ join "," .Values.sidecar.images | quote }}',
    "trust-domain": "{{ .Values.trustDomain | quote }}",
    "image": '{{ include "touchmark.image" . | quote }}',
    "replicas": "{{ .Values.database.replicas }}",
    "database-secret": "{{ .Values.database.secret | quote }}",
    "storage": "{{ .Values.storage.size | quote }}",
}
_NAMES: Final = {
    SYSTEM_NAMESPACE: f"{_PREFIX}namespace",
    "touchmark-settings": f"{_PREFIX}settings",
    "touchmark-database": f"{_PREFIX}database-secret",
}
# What stands in the place of a line `'@@name': null`, indented by as much.
_BLOCKS: Final = {
    "pod": """\
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent %(deep)d }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent %(deep)d }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent %(deep)d }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent %(deep)d }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
""",
    "resources": "resources: {{- toYaml .Values.resources | nindent %(deep)d }}\n",
    "image-pull-policy": "{{- with .Values.image.pullPolicy }}\nimagePullPolicy: {{ . }}\n{{- end }}\n",
    "storage-class": "{{- with .Values.storage.className }}\nstorageClassName: {{ . | quote }}\n{{- end }}\n",
    "keep": '{{- if .Values.crds.keep }}\nannotations: {"helm.sh/resource-policy": keep}\n{{- end }}\n',
    "keep-store": '{{- if .Values.storage.keep }}\nannotations: {"helm.sh/resource-policy": keep}\n{{- end }}\n',
}
# What stands in the place of an item `- '@@name'` of a list.
_ITEMS: Final = {
    "api-server-ports": """\
{{- range .Values.networkPolicy.apiServerPorts }}
- {port: {{ . }}, protocol: TCP}
{{- end }}
""",
    "database-port": "- {port: {{ .Values.database.port }}, protocol: TCP}\n",
    "pull-policy": """\
{{- if ne .Values.sidecar.pullPolicy "IfNotPresent" }}
- --sidecar-pull-policy={{ .Values.sidecar.pullPolicy }}
{{- end }}
""",
    "extra-arguments": "{{- range .Values.extraArguments }}\n- {{ . | quote }}\n{{- end }}\n",
}
_API_SERVER_PORTS: Final = (443, 6443)
_DATABASE_PORT: Final = 5432


def make_templates(single: Iterable[Json], several: Iterable[Json], openshift: Iterable[Json]) -> dict[str, str]:
    """Return each template's text by its file's name.

    Arguments:
        single, several: what Kustomize builds of the overlays with SQLite and with PostgreSQL.
        openshift: of ``manifests/openshift``.

    Raises:
        ValueError: an object's text would be taken for a template's action.
    """
    alone, shared = _by_name(single), _by_name(several)
    templates = {}
    for name in sorted(alone.keys() | shared.keys()):
        one, other = alone.get(name), shared.get(name)
        if one == other:
            assert one is not None
            text = _write(one)
        elif other is None:
            text = _POSTGRESQL.replace("if", "if not") + _write(_required(one)) + "{{- end }}\n"
        elif one is None:
            text = _POSTGRESQL + _write(other) + "{{- end }}\n"
        else:
            text = _POSTGRESQL + _write(other) + "{{- else }}\n" + _write(one) + "{{- end }}\n"
        if name.startswith("customresourcedefinition"):
            text = "{{- if .Values.crds.install }}\n" + text + "{{- end }}\n"
        templates[f"{name}.yaml"] = HEAD + text
    for name, each in _by_name(openshift).items():
        text = "{{- if .Values.openshift }}\n" + _write(each) + "{{- end }}\n"
        templates[f"openshift-{name}.yaml"] = HEAD + text
    return templates


def normalise(document: Json) -> Json:
    """Return an object as Helm and Kustomize agree on it: no namespace where there is none, no hash in a name."""
    document = copy.deepcopy(document)
    if document["kind"] in CLUSTER_SCOPED:
        document["metadata"].pop("namespace", None)
    text = SETTINGS.sub("touchmark-settings", yaml.safe_dump(document))
    found: Json = yaml.safe_load(text)
    return found


def _required(document: Json | None) -> Json:
    assert document is not None
    return document


def _by_name(documents: Iterable[Json]) -> dict[str, Json]:
    """Return objects by kind and name, without the namespace itself: Helm has made it, or it was there."""
    named = {}
    for document in documents:
        if document["kind"] != "Namespace":
            document = normalise(document)
            name = document["metadata"]["name"].removesuffix(".touchmark.dev")
            named[f"{document['kind'].lower()}-{name}"] = document
    return named


def _write(document: Json) -> str:
    """Write one object as a template."""
    document = copy.deepcopy(document)
    if "{{" in yaml.safe_dump(document):
        raise ValueError(f"{document['kind']} {document['metadata']['name']} has braces of a template")
    if "namespace" in document["metadata"]:
        document["metadata"]["namespace"] = f"{_PREFIX}namespace"
    choose = _CHOICES.get(document["kind"])
    if choose is not None:
        choose(document)
    return _fill(yaml.safe_dump(_replace_names(document), sort_keys=False, width=1000))


def _replace_names(value: Any) -> Any:
    """Put what the release names in the places of our own namespace, settings and Secret."""
    if isinstance(value, Mapping):
        return {key: _replace_names(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_replace_names(each) for each in value]
    return _NAMES.get(value, value) if isinstance(value, str) else value


def _choose_deployment(document: Json) -> None:
    if document["spec"]["replicas"] > 1:  # SQLite's volume has one user.
        document["spec"]["replicas"] = f"{_PREFIX}replicas"
    pod = document["spec"]["template"]["spec"]
    [container] = pod["containers"]
    container["image"] = f"{_PREFIX}image"
    container["args"] += [f"{_PREFIX}pull-policy", f"{_PREFIX}extra-arguments"]
    container[f"{_PREFIX}image-pull-policy"] = None
    del container["resources"]
    container[f"{_PREFIX}resources"] = None
    pod[f"{_PREFIX}pod"] = None


def _choose_settings(document: Json) -> None:
    document["data"] |= {
        "TOUCHMARK_SIDECAR_IMAGE": f"{_PREFIX}sidecar-images",
        "TOUCHMARK_TRUST_DOMAIN": f"{_PREFIX}trust-domain",
    }


def _choose_claim(document: Json) -> None:
    document["spec"]["resources"]["requests"]["storage"] = f"{_PREFIX}storage"
    document["spec"][f"{_PREFIX}storage-class"] = None
    assert "annotations" not in document["metadata"]
    document["metadata"][f"{_PREFIX}keep-store"] = None


def _choose_network(document: Json) -> None:
    for rule in document["spec"].get("egress") or ():
        ports = rule["ports"]
        if {each["port"] for each in ports}.issuperset(_API_SERVER_PORTS):
            kept = [each for each in ports if each["port"] not in (*_API_SERVER_PORTS, _DATABASE_PORT)]
            has_database = any(each["port"] == _DATABASE_PORT for each in ports)
            rule["ports"] = [*kept, f"{_PREFIX}api-server-ports", *[f"{_PREFIX}database-port"] * has_database]


def _choose_definition(document: Json) -> None:
    assert "annotations" not in document["metadata"]
    document["metadata"][f"{_PREFIX}keep"] = None


_CHOICES: Final = {
    "Deployment": _choose_deployment,
    "ConfigMap": _choose_settings,
    "PersistentVolumeClaim": _choose_claim,
    "NetworkPolicy": _choose_network,
    "CustomResourceDefinition": _choose_definition,
}


def _fill(text: str) -> str:
    """Put the actions in the places that `_CHOICES` have marked."""
    lines = []
    for line in text.splitlines(keepends=True):
        if (found := re.fullmatch(r"( *)'@@([a-z-]+)': null\n", line)) is not None:
            lines.append(_indent(_BLOCKS[found[2]], found[1]))
        elif (found := re.fullmatch(r"( *)- '@@([a-z-]+)'\n", line)) is not None and found[2] in _ITEMS:
            lines.append(_indent(_ITEMS[found[2]], found[1]))
        else:
            lines.append(re.sub(r"'@@([a-z-]+)'", lambda found: _SCALARS[found[1]], line))
    return "".join(lines)


def _indent(text: str, indent: str) -> str:
    """Indent a block; an action alone on its line takes none, since it takes the space before it away."""
    filled = text.replace("%(deep)d", str(len(indent) + 2))
    return "".join(line if line.startswith("{{-") else indent + line for line in filled.splitlines(keepends=True))
