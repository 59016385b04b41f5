"""What Helm prints once the chart is installed, made of what ``touchmark install`` prints. Pure.

Belongs here: what only who installs by Helm must be told. Doesn't: the steps (``list_next_steps``).
"""

from __future__ import annotations

from typing import Final

from cli.cluster.installation.next_steps import list_next_steps

_WHERE: Final = (
    '-k{{ if ne .Release.Namespace "touchmark-system" }} --system-namespace {{ .Release.Namespace }}{{ end }}'
)
_NOTES: Final = """\
{{- /* Made by `python -m scripts.chart` of what `touchmark install` prints: change that, not this. */ -}}
Touchmark {{ .Chart.AppVersion }} is installed in {{ .Release.Namespace }}.
{{- if eq .Values.image.repository "touchmark/ca" }}

No public registry has the image touchmark/ca. Unless your nodes have it, the CA doesn't start: build both images, and
name them by image.repository and sidecar.images (docs/how-to/kubernetes.md).
{{- end }}

Next (the command touchmark comes with the clone that this chart is in: `make setup`, then .venv/bin/touchmark):
  kubectl rollout status deployment/touchmark-ca --namespace {{ .Release.Namespace }}
@@steps

Keep a copy of the Secret touchmark-kek: without it the CA's keys are lost (docs/how-to/operate-the-ca.md).
"""


def make_notes() -> str:
    """Return the template ``NOTES.txt``."""
    return _NOTES.replace("@@steps", "\n".join(f"  {each}" for each in list_next_steps(_WHERE)))
