"""What the demo's second act declares: pipeline, policies, deployment, alert rules, playbook.

Called by ``demo.loop``. Text, as people would write it; it must not speak to anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelplane.resources.manifest import AnyResource, read_documents

HORIZON_S = 60
"""Labels come within seconds here; quality is told over this much time."""
PRECISION_BOUND = 0.55
"""The first model's precision was 0.58 to 0.73 from April to August."""
PRECISION_ALERT, DRIFT_ALERT = "FlightPrecisionLow", "FlightsDrifted"
PLAYBOOK = TRIGGER = "retrain-flight-delay"

_POLICIES = """
apiVersion: modelplane.dev/v1
kind: ValidationPipeline
metadata: {name: flights}
spec:
  models: {names: [flight-delay]}
  stages:
  - name: accuracy
    accuracy: {dataset: flights-newest, target: late, margin: 0.02, maxRows: 4000}
  - name: security-scan
    securityScan: {}
  triggers: [on_model_push]
---
apiVersion: modelplane.dev/v1
kind: PromotionPolicy
metadata: {name: flights}
spec:
  environments: [staging, production]
  models: {names: [flight-delay]}
  pipelines: [flights]
  automatic: true
"""

_DEPLOYMENTS = """
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: flight-delay, environment: staging}
spec: {version: 1.0.0}
---
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: flight-delay, environment: production}
spec:
  version: 1.0.0
  predictions: {joinKey: id}
  labels: {task: binary, horizon: %(horizon_s)ds, maxWeight: 25}
  drift: {window: 20s, minRows: 1000}
  strategy:
    canary:
      steps: auto
      minBake: 15s
      deadline: 170s
      analysis:
        metrics: [{name: errors, margin: 0.01}, {name: accuracy, margin: 0.04}]
        interval: 3s
        onInconclusive: hold
"""

_WATCH = """
apiVersion: modelplane.dev/v1
kind: AlertRules
metadata: {name: flights}
spec:
  groups:
  - name: flights
    interval: 1s
    rules:
    - alert: FlightsDrifted
      expr: >-
        max by (environment, deployment)
        (modelplane_drift_detected{deployment="flight-delay", environment="production"}) > 0
      labels: {severity: info}
      annotations: {summary: "inputs of {{ $labels.deployment }} are not what it was trained on"}
    - alert: FlightPrecisionLow
      expr: >-
        min by (environment, deployment)
        (modelplane_quality_upper{deployment="flight-delay", environment="production",
        metric="precision", slice=""}) < %(bound)g
      for: 5s
      keep_firing_for: 20s
      labels: {severity: page}
      annotations:
        summary: "precision is below %(bound)g: its interval ends at {{ $value }}"
---
apiVersion: modelplane.dev/v1
kind: TrainingTrigger
metadata: {name: retrain-flight-delay}
spec:
  model: flight-delay
  run:
    command:
      command: %(command)s
      environment: staging
  timeout: 3m
---
apiVersion: modelplane.dev/v1
kind: Playbook
metadata: {name: retrain-flight-delay}
spec:
  matchers: ['alertname="FlightPrecisionLow"']
  steps:
  - name: train
    startTraining: {trigger: retrain-flight-delay}
    timeout: 3m
  - name: in-production
    waitFor:
      expr: >-
        modelplane_weight_ratio{environment="production", deployment="flight-delay",
        version!="1.0.0"} == 1
    timeout: 6m
  verify: {for: 5s, timeout: 2m}
  limits: {perHour: 2}
"""


def read_policies() -> list[AnyResource]:
    """Return what every version must pass, and that those which do are promoted by themselves."""
    return list(read_documents(_POLICIES, "demo"))


def read_deployments() -> list[AnyResource]:
    """Return the deployments of staging and of production."""
    return list(read_documents(_DEPLOYMENTS % {"horizon_s": HORIZON_S}, "demo"))


def read_watch(command: Sequence[str]) -> list[AnyResource]:
    """Return alert rules, training and playbook; `command` is the training's."""
    listed = "[" + ", ".join(f'"{part}"' for part in command) + "]"
    return list(read_documents(_WATCH % {"bound": PRECISION_BOUND, "command": listed}, "demo"))
