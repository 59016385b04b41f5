{{- /* The settings' name changes with them, as Kustomize's does, so that the CA's pods are made anew. */ -}}
{{- define "touchmark.settingsName" -}}
touchmark-settings-{{ printf "%s %s" (join "," .Values.sidecar.images) .Values.trustDomain | sha256sum | trunc 10 }}
{{- end -}}

{{- define "touchmark.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end -}}
