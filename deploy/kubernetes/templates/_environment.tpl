{{/* The variables that name a secret file, and the file. */}}
{{- define "fleet.files" -}}
{{- $values := .root.Values }}
{{- if $values.pulsar.secured }}
PULSAR_TOKEN_FILE: pulsar-token
{{- with $values.ca }}
PULSAR_TLS_TRUST_CERTS_FILE: {{ . }}
{{- end }}
{{- end }}
{{- if and (has "keys" .uses) $values.producer.authentication }}
API_KEYS_FILE: api-keys
{{- end }}
{{- if and (has "janusgraph" .uses) $values.janusgraph.secured }}
JANUSGRAPH_PASSWORD_FILE: janusgraph-password
{{- with $values.ca }}
JANUSGRAPH_CA_FILE: {{ . }}
{{- end }}
{{- end }}
{{- if and (has "opensearch" .uses) $values.opensearch.secured }}
OPENSEARCH_PASSWORD_FILE: opensearch-password
{{- with $values.ca }}
OPENSEARCH_CA_FILE: {{ . }}
{{- end }}
{{- end }}
{{- if and (has "archive" .uses) $values.archive.optionsFile }}
ARCHIVE_OPTIONS_FILE: {{ $values.archive.optionsFile }}
{{- end }}
{{- end }}

{{/* The variables that the chart sets. */}}
{{- define "fleet.variables" -}}
{{- $values := .root.Values }}
PULSAR_URL: {{ $values.pulsar.url }}
PULSAR_ADMIN_URL: {{ $values.pulsar.adminUrl }}
TOPIC_PARTITIONS: {{ $values.pulsar.topicPartitions | int | quote }}
{{- if .port }}
HTTP_PORT: {{ .port | int | quote }}
{{- end }}
{{- if eq .key "audit" }}
AUDIT_INTERVAL_SECONDS: {{ $values.audit.intervalSeconds | int | quote }}
{{- else if .port }}
# Where rights count the services may not; the provisioner does it.
PROVISION_TOPICS: {{ not $values.pulsar.secured | quote }}
{{- with $values.tracing.endpoint }}
TRACING_ENDPOINT: {{ . }}
TRACING_SAMPLE_RATIO: {{ $values.tracing.sampleRatio | quote }}
{{- end }}
{{- end }}
{{- if has "keys" .uses }}
API_AUTHENTICATION: {{ $values.producer.authentication | quote }}
{{- end }}
{{- if has "janusgraph" .uses }}
JANUSGRAPH_HOST: {{ join "," $values.janusgraph.hosts }}
JANUSGRAPH_PORT: {{ $values.janusgraph.port | int | quote }}
JANUSGRAPH_USE_SSL: {{ $values.janusgraph.secured | quote }}
{{- if $values.janusgraph.secured }}
JANUSGRAPH_USERNAME: {{ $values.janusgraph.username }}
{{- end }}
{{- end }}
{{- if has "opensearch" .uses }}
OPENSEARCH_HOST: {{ $values.opensearch.host }}
OPENSEARCH_PORT: {{ $values.opensearch.port | int | quote }}
OPENSEARCH_USE_SSL: {{ $values.opensearch.secured | quote }}
INDEX_SHARDS: {{ $values.opensearch.shards | int | quote }}
INDEX_REPLICAS: {{ $values.opensearch.replicas | int | quote }}
{{- if $values.opensearch.secured }}
OPENSEARCH_USER: {{ eq .key "audit" | ternary $values.audit.opensearchUser .image }}
{{- end }}
{{- end }}
{{- if has "archive" .uses }}
ARCHIVE_URL: {{ $values.archive.url }}
{{- end }}
{{- range $name, $file := include "fleet.files" . | fromYaml }}
{{ $name }}: /etc/banking/secrets/{{ $file }}
{{- end }}
{{- end }}

{{/* A container's environment: the chart's variables and the user's. */}}
{{- define "fleet.environment" -}}
{{- $values := .root.Values }}
{{- $variables := include "fleet.variables" . | fromYaml }}
{{- $settings := merge (dict) ((get $values .key).settings | default dict) $values.settings }}
{{- range $name := keys $settings | sortAlpha }}
{{- if hasKey $variables $name }}
{{- fail (printf "settings: %s has a value of its own" $name) }}
{{- end }}
{{- end }}
{{- if eq .key "audit" }}
{{- /* It reads as the services write, and embeds nothing: it has neither the model nor the key. */}}
{{- range $name, $value := merge (dict) $values.vectorConsumer.settings $values.graphConsumer.settings $values.dlqWorker.settings }}
{{- if not (or (hasPrefix "EMBED" $name) (hasKey $values.audit.settings $name)) }}
{{- $_ := set $settings $name $value }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := merge $variables $settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
