{{- define "tsfm.labels" -}}
app.kubernetes.io/name: tsfm-service
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "tsfm.name" -}}
{{ printf "%s-tsfm-service" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
