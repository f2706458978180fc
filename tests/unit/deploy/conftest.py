"""The chart, rendered by Helm's own library: what `helm template` prints."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import helm_python
import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from fleet.compose import ROOT

CHART = ROOT / "deploy" / "kubernetes"

CUSTOM_KINDS = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}

CONFIGURATIONS = {
    "default": {},
    "open": yaml.safe_load((CHART / "examples" / "open.yaml").read_text()),
    "production": yaml.safe_load((CHART / "examples" / "production.yaml").read_text()),
    "keda": {"keda": {"enabled": True}},
    "keda without tokens": {"keda": {"enabled": True}, "pulsar": {"secured": False, "topicPartitions": 0}},
    "archive on a volume": {"archive": {"url": "file:///archive"}, "dlqWorker": {"replicas": 1}},
    "archive with keys": {"archive": {"optionsFile": "archive.json"}},
    "public authorities": {"ca": "", "keda": {"enabled": True}},
    "least": {"audit": {"enabled": False}, "network": {"policies": False}, "monitoring": {"podMonitor": True}},
}


class Release:
    """What a release of the chart puts into the cluster.

    Attributes:
        objects: Everything, in the order in which it is printed.
    """

    def __init__(self, values):
        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(values)
            rendered = chart.render(values, name="fleet", namespace="banking", revision=3)
        texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
        self.objects = [item for text in texts for item in yaml.load_all(text, yaml.CSafeLoader) if item]

    def of(self, kind):
        """The objects of a kind, by name."""
        return {item["metadata"]["name"]: item for item in self.objects if item["kind"] == kind}

    def pods(self):
        """The template of every pod, by component."""
        templates = [item["spec"]["template"] for kind in ("Deployment", "Job") for item in self.of(kind).values()]
        return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in templates}

    def environment(self, component):
        """A component's environment variables."""
        (container,) = self.pods()[component]["spec"]["containers"]
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names)), f"{component} sets a variable twice"
        return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.fixture(scope="session")
def release():
    """A release with some values: `release({"keda": {"enabled": True}})`."""
    return Release


@pytest.fixture(scope="session", params=CONFIGURATIONS)
def any_release(request):
    """A release in each of the ways that the chart can be installed."""
    return Release(CONFIGURATIONS[request.param])


@functools.cache
def _validator(version, kind, api_version):
    """What `kubernetes_validate.validate` does, strictly, with the schemas read once: they are megabytes."""
    if kind in CUSTOM_KINDS:
        return Draft202012Validator(json.loads((Path(__file__).parent / "custom-resources.schema.json").read_text()))
    group, _, number = api_version.rpartition("/")
    names = [kind.lower(), *filter(None, [group.partition(".")[0], number])]
    return Draft202012Validator(_schema(version, "-".join(names)), registry=_definitions(version))


@functools.cache
def _definitions(version):
    return (Resource.from_contents(_schema(version, "_definitions")) @ Registry()).crawl()


def _schema(version, name):
    return schema_contents(f"kubernetes-json-schema/v{version}.0-local-strict/{name}.json", version)


@pytest.fixture(scope="session")
def validate():
    """Validates an object against its schema of a version of Kubernetes: `validate(item, "1.37")`."""
    return lambda item, version: _validator(version, item["kind"], item["apiVersion"]).validate(item)
