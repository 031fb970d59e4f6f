{{/* Names. Every resource's name is spelt here and nowhere else. */}}

{{- define "rootstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that the longest suffix still fits into 63 characters. */}}
{{- define "rootstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "rootstock.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "rootstock.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "rootstock.config.fullname" -}}{{ include "rootstock.fullname" . }}-config{{- end -}}
{{- define "rootstock.service.fullname" -}}{{ include "rootstock.fullname" . }}-service{{- end -}}
{{- define "rootstock.trainer.fullname" -}}{{ include "rootstock.fullname" . }}-trainer{{- end -}}
{{- define "rootstock.batches.fullname" -}}{{ include "rootstock.fullname" . }}-batches{{- end -}}
{{- define "rootstock.serving.fullname" -}}{{ include "rootstock.fullname" . }}-serving{{- end -}}
{{- define "rootstock.migrate.fullname" -}}{{ include "rootstock.fullname" . }}-migrate{{- end -}}

{{/* The ports that the processes listen on. */}}
{{- define "rootstock.service.port" -}}8000{{- end -}}
{{- define "rootstock.serving.port" -}}8001{{- end -}}

{{/* The batch worker needs a vLLM to put its lines to. */}}
{{- define "rootstock.batches.enabled" -}}
{{- if and .Values.batches.enabled (or .Values.serving.enabled .Values.settings.vllm_url) -}}true{{- end -}}
{{- end -}}

{{/* Labels. Arguments: a dict with `root` and `component`. */}}
{{- define "rootstock.selector" -}}
app.kubernetes.io/name: {{ include "rootstock.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "rootstock.labels" -}}
{{ include "rootstock.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image by digest when one is given, else by tag, else by the chart's own version. */}}
{{- define "rootstock.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* What the pods of every component have in common: Pod Security "restricted", and no environment variables made
     from the names of services, which would look like settings. */}}
{{- define "rootstock.podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "rootstock.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where the pods of a component run. */}}
{{- define "rootstock.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Environment variables from the secrets. A component gets only those that it needs. */}}
{{- define "rootstock.env.database" -}}
- name: ROOTSTOCK_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.secrets.database.existingSecret }}
      key: {{ .Values.secrets.database.urlKey }}
{{- end -}}

{{- define "rootstock.env.redis" -}}
- name: ROOTSTOCK_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.secrets.redis.existingSecret }}
      key: {{ .Values.secrets.redis.urlKey }}
{{- end -}}

{{- define "rootstock.env.s3" -}}
{{- with .Values.secrets.s3 }}
{{- if .existingSecret }}
- name: ROOTSTOCK_S3_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .accessKeyIdKey }}
- name: ROOTSTOCK_S3_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .secretAccessKeyKey }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "rootstock.env.wandb" -}}
{{- with .Values.secrets.wandb }}
{{- if .existingSecret }}
- name: ROOTSTOCK_WANDB_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .apiKeyKey }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Pods are replaced when the settings change. */}}
{{- define "rootstock.podAnnotations" -}}
checksum/config: {{ include (print .root.Template.BasePath "/config/configmap.yaml") .root | sha256sum }}
{{- with .annotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volumes of a component that holds models: a place for them, scratch space, shared memory. */}}
{{- define "rootstock.modelVolumes" -}}
- name: data
  {{- if .volume.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .volume.existingClaim }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .volume.sizeLimit }}
  {{- end }}
- name: tmp
  emptyDir: {}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ .sharedMemory }}
{{- end -}}

{{- define "rootstock.modelVolumeMounts" -}}
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
- name: shared-memory
  mountPath: /dev/shm
{{- end -}}

{{/* Network policy pieces. Argument of the second: a list of ports. */}}
{{- define "rootstock.egress.dns" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}

{{- define "rootstock.egress.ports" -}}
- ports:
    {{- range . | uniq }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{/* To our vLLM, or to those elsewhere that the settings name: the base model's, and full fine-tunes'. */}}
{{- define "rootstock.egress.vllm" -}}
{{- if .Values.serving.enabled -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "rootstock.selector" (dict "root" . "component" "serving") | nindent 10 }}
  ports:
    - {protocol: TCP, port: http}
{{- end }}
{{- if or .Values.settings.vllm_url .Values.settings.full_model_urls }}
{{ include "rootstock.egress.ports" .Values.networkPolicy.vllmPorts }}
{{- end -}}
{{- end -}}
