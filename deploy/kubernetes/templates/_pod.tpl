{{/* The pod of a component, as the profile "restricted" wants it; `container` adds to its one container. */}}
{{- define "fleet.pod" -}}
{{- $values := .root.Values }}
{{- $hasSecrets := include "fleet.files" . | fromYaml }}
{{- $hasArchive := and (has "archive" .uses) (include "fleet.archiveIsVolume" .root) -}}
serviceAccountName: {{ include "fleet.name" . }}
automountServiceAccountToken: false
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds | int }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  # The group that may read the secrets and write to the archive's volume.
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
containers:
  - name: {{ kebabcase .key }}
    image: {{ $values.image.registry }}/{{ .image }}:{{ $values.image.tag | default .root.Chart.AppVersion }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    {{- with .container }}
    {{- . | nindent 4 }}
    {{- end }}
    env:
      {{- include "fleet.environment" . | trim | nindent 6 }}
    resources:
      {{- toYaml (get $values .key).resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if $hasSecrets }}
      # Not at /run/secrets as in the compose files: below that, clouds mount the identity that they give a pod.
      - {name: secrets, mountPath: /etc/banking/secrets, readOnly: true}
      {{- end }}
      {{- if $hasArchive }}
      - {name: archive, mountPath: /archive, readOnly: {{ ne .key "dlqWorker" }}}
      {{- end }}
      {{- if eq .key "audit" }}
      - {name: work, mountPath: /work}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- if $hasSecrets }}
  - name: secrets
    secret: {secretName: {{ include "fleet.name" . }}, defaultMode: 0440}
  {{- end }}
  {{- if $hasArchive }}
  - name: archive
    persistentVolumeClaim: {claimName: {{ .root.Release.Name }}-archive}
  {{- end }}
  {{- if eq .key "audit" }}
  - name: work
    ephemeral:
      volumeClaimTemplate:
        spec:
          accessModes: [ReadWriteOnce]
          resources: {requests: {storage: {{ $values.audit.workSize }}}}
  {{- end }}
{{- end }}

{{/* What a container that serves health and metrics has beside the others. */}}
{{- define "fleet.serving" -}}
{{- if eq .key "audit" }}
args: [watch]
{{- end }}
ports:
  - {name: http, containerPort: {{ .port | int }}}
# A service serves health before anything else, but imports its libraries first.
startupProbe:
  httpGet: {path: /health/live, port: http}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health/live, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /health/ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
{{- if has "keys" .uses }}
# New requests still come until every node has heard that this pod ends.
lifecycle:
  preStop:
    exec: {command: [sleep, "5"]}
{{- end }}
{{- end }}
