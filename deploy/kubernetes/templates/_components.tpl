{{/* What there is: by key of values.yaml its image, its port, and what it speaks to or reads. */}}
{{- define "fleet.components" -}}
producer: {image: producer, port: 8000, uses: [pulsar, keys]}
graphConsumer: {image: graph_consumer, port: 8001, uses: [pulsar, janusgraph]}
vectorConsumer: {image: vector_consumer, port: 8001, uses: [pulsar, opensearch]}
dlqWorker: {image: dlq_worker, port: 8001, uses: [pulsar, archive]}
{{- if .Values.audit.enabled }}
audit: {image: verify, port: 8001, uses: [pulsar, janusgraph, opensearch, archive]}
{{- end }}
{{- if .Values.pulsar.secured }}
provisioner: {image: dlq_worker, uses: [pulsar]}
{{- end }}
{{- end }}

{{/* The other templates take a component: one of those above, with its key, and the chart's scope as root. */}}
{{- define "fleet.name" -}}
{{ .root.Release.Name }}-{{ kebabcase .key }}
{{- end }}

{{- define "fleet.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ kebabcase .key }}
{{- end }}

{{- define "fleet.labels" -}}
{{ include "fleet.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "fleet.metadata" -}}
name: {{ include "fleet.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "fleet.labels" . | nindent 2 }}
{{- end }}

{{/* Something where the archive is a volume. */}}
{{- define "fleet.archiveIsVolume" -}}
{{- if hasPrefix "file:" .Values.archive.url }}true{{ end }}
{{- end }}

{{/* The label of the pods that have that volume. */}}
{{- define "fleet.archiveLabel" -}}
banking/archive: {{ .Release.Name }}
{{- end }}
