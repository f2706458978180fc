"""The chart's environment: settings that exist, all that are needed, secrets as files, and what compose says too."""

from __future__ import annotations

import re

import pytest
import yaml

from banking.streaming.settings import ServiceSettings, TombstoneSettings
from dlq_worker.settings import DlqWorkerSettings
from fleet.compose import COMPOSE_FILE, SECURE_FILE
from fleet.keyring import Keyring
from graph_consumer.settings import GraphSettings
from producer.settings import ProducerSettings
from vector_consumer.settings import VectorSettings
from verify.settings import AuditSettings

READ_BY = {
    "producer": [ProducerSettings],
    "graph-consumer": [GraphSettings],
    "vector-consumer": [VectorSettings],
    "dlq-worker": [DlqWorkerSettings],
    "audit": [GraphSettings, VectorSettings, DlqWorkerSettings, AuditSettings],
    "provisioner": [ServiceSettings],
}
COMPOSE_SERVICES = {component: component.replace("-", "_") for component in READ_BY} | {"audit": "verify"}

PULSAR = {
    "PULSAR_URL": "pulsar+ssl://pulsar-proxy.pulsar.svc:6651",
    "PULSAR_ADMIN_URL": "https://pulsar-proxy.pulsar.svc:8443",
    "PULSAR_TOKEN_FILE": "/etc/banking/secrets/pulsar-token",
    "PULSAR_TLS_TRUST_CERTS_FILE": "/etc/banking/secrets/ca.pem",
    "TOPIC_PARTITIONS": "8",
}
JANUSGRAPH = {
    "JANUSGRAPH_HOST": "janusgraph-0.janusgraph.janusgraph.svc,janusgraph-1.janusgraph.janusgraph.svc",
    "JANUSGRAPH_PORT": "8182",
    "JANUSGRAPH_USE_SSL": "true",
    "JANUSGRAPH_USERNAME": "fleet",
    "JANUSGRAPH_PASSWORD_FILE": "/etc/banking/secrets/janusgraph-password",
    "JANUSGRAPH_CA_FILE": "/etc/banking/secrets/ca.pem",
}
OPENSEARCH = {
    "OPENSEARCH_HOST": "opensearch.opensearch.svc",
    "OPENSEARCH_PORT": "9200",
    "OPENSEARCH_USE_SSL": "true",
    "OPENSEARCH_USER": "vector_consumer",
    "OPENSEARCH_PASSWORD_FILE": "/etc/banking/secrets/opensearch-password",
    "OPENSEARCH_CA_FILE": "/etc/banking/secrets/ca.pem",
    "INDEX_SHARDS": "3",
    "INDEX_REPLICAS": "1",
}
ARCHIVE = {"ARCHIVE_URL": "s3://banking-dead-letters/fleet"}
SERVICE = {"HTTP_PORT": "8001", "PROVISION_TOPICS": "false"}
TRACING = ("TRACING_ENDPOINT", "TRACING_SAMPLE_RATIO")
SERVICES = {"producer", "graph-consumer", "vector-consumer", "dlq-worker"}
BY_DEFAULT = {
    "producer": PULSAR
    | SERVICE
    | {"HTTP_PORT": "8000", "API_AUTHENTICATION": "true", "API_KEYS_FILE": "/etc/banking/secrets/api-keys"},
    "graph-consumer": PULSAR | SERVICE | JANUSGRAPH,
    "vector-consumer": PULSAR | SERVICE | OPENSEARCH,
    "dlq-worker": PULSAR | SERVICE | ARCHIVE,
    "audit": PULSAR
    | JANUSGRAPH
    | OPENSEARCH
    | ARCHIVE
    | {"HTTP_PORT": "8001", "AUDIT_INTERVAL_SECONDS": "86400", "OPENSEARCH_USER": "operator"},
    "provisioner": PULSAR,
}


def fields(settings):
    return {name.upper() for name in settings.model_fields}


@pytest.mark.parametrize("component", BY_DEFAULT)
def test_the_environment_by_default(release, component):
    assert release({}).environment(component) == BY_DEFAULT[component]


def test_the_environment_of_open_servers(release):
    values = {name: {"secured": False} for name in ("pulsar", "janusgraph", "opensearch")}
    opened = release(values | {"producer": {"authentication": False}})
    assert set(opened.pods()) == {"producer", "graph-consumer", "vector-consumer", "dlq-worker", "audit"}
    for component in opened.pods():
        environment = opened.environment(component)
        assert not [name for name in environment if re.search("_FILE$|USER", name)], component
        assert "secrets" not in {volume["name"] for volume in opened.pods()[component]["spec"]["volumes"]}
        if component != "audit":
            assert environment["PROVISION_TOPICS"] == "true"
    assert opened.environment("producer")["API_AUTHENTICATION"] == "false"
    assert opened.environment("graph-consumer")["JANUSGRAPH_USE_SSL"] == "false"
    assert opened.environment("vector-consumer")["OPENSEARCH_USE_SSL"] == "false"


def test_every_variable_is_a_setting(any_release):
    of_the_cloud = {"AWS_REGION"}  # the production example's
    known = set().union(*(fields(settings) for kinds in READ_BY.values() for settings in kinds))
    for component in any_release.pods():
        assert set(any_release.environment(component)) <= known | of_the_cloud, component


def test_every_service_accepts_its_environment_and_finds_its_secrets(release, tmp_path, monkeypatch):
    """With the folders that `make certs` lays out, whose files the Secrets are made of."""
    Keyring(tmp_path, give=lambda _user, _files: None).ensure()
    secured = release({})
    for component, kinds in READ_BY.items():
        with monkeypatch.context() as context:
            for name, value in secured.environment(component).items():
                folder = tmp_path / COMPOSE_SERVICES[component]
                context.setenv(name, value.replace("/etc/banking/secrets", str(folder)))
            for settings in (kind() for kind in kinds):
                named = {name for name in type(settings).model_fields if name.endswith("_file")}
                files = [path for name in named if (path := getattr(settings, name)) is not None]
                assert files, component
                assert all(path.is_file() for path in files), component


def test_each_pod_has_its_own_secrets_as_files_and_none_in_a_value(any_release):
    for component, template in any_release.pods().items():
        secrets = [volume["secret"] for volume in template["spec"]["volumes"] if "secret" in volume]
        assert secrets in ([], [{"secretName": f"fleet-{component}", "defaultMode": 0o440}]), component
        (container,) = template["spec"]["containers"]
        assert not {"envFrom"} & container.keys()
        assert all(variable.keys() == {"name", "value"} for variable in container["env"])
        for name, value in any_release.environment(component).items():
            if re.search("PASSWORD|TOKEN|SECRET|_KEY|CA_FILE", name):
                assert name.endswith("_FILE"), (component, name)
                assert value.startswith("/etc/banking/secrets/")
                assert secrets
    assert not any_release.of("Secret")


def test_settings_are_for_all_or_for_one(release):
    changed = release(
        {
            "settings": {"LOG_LEVEL": "DEBUG", "TOMBSTONE_RETENTION_DAYS": "90"},
            "graphConsumer": {"settings": {"LOG_LEVEL": "ERROR", "BATCH_MAX_BYTES": "16777216"}},
            "vectorConsumer": {"settings": {"INDEX_PREFIX": "bank", "EMBEDDER": "sentence-transformers"}},
            "opensearch": {"port": 443},
        }
    )
    assert changed.environment("producer")["LOG_LEVEL"] == "DEBUG"
    assert changed.environment("graph-consumer")["LOG_LEVEL"] == "ERROR"
    assert changed.environment("graph-consumer")["BATCH_MAX_BYTES"] == "16777216"
    assert changed.environment("vector-consumer")["OPENSEARCH_PORT"] == "443"
    audit = changed.environment("audit")
    assert {name: audit[name] for name in ("TOMBSTONE_RETENTION_DAYS", "INDEX_PREFIX", "BATCH_MAX_BYTES")} == {
        "TOMBSTONE_RETENTION_DAYS": "90",
        "INDEX_PREFIX": "bank",
        "BATCH_MAX_BYTES": "16777216",
    }
    assert "EMBEDDER" not in audit  # its image has no model


def test_services_are_traced_where_a_collector_is_named(release):
    traced = release({"tracing": {"endpoint": "http://collector:4318/v1/traces", "sampleRatio": 0.05}})
    for component in traced.pods():
        found = {name: traced.environment(component).get(name) for name in TRACING}
        expected = ("http://collector:4318/v1/traces", "0.05")
        assert tuple(found.values()) == (expected if component in SERVICES else (None, None)), component


def test_the_archive_with_keys(release):
    with_keys = release({"archive": {"optionsFile": "archive.json"}})
    for component in with_keys.pods():
        found = with_keys.environment(component).get("ARCHIVE_OPTIONS_FILE")
        assert found == ("/etc/banking/secrets/archive.json" if component in {"dlq-worker", "audit"} else None)


def test_the_archive_on_a_volume(release):
    with_volume = release({"archive": {"url": "file:///archive"}, "dlqWorker": {"replicas": 1}})
    assert with_volume.of("PersistentVolumeClaim")["fleet-archive"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "20Gi"}},
    }
    assert with_volume.of("Deployment")["fleet-dlq-worker"]["spec"]["strategy"] == {"type": "Recreate"}
    mounts = {
        component: mount["readOnly"]
        for component, template in with_volume.pods().items()
        for mount in template["spec"]["containers"][0]["volumeMounts"]
        if mount["mountPath"] == "/archive"
    }
    assert mounts == {"dlq-worker": False, "audit": True}
    # Whoever has the volume is where the others are, whichever came first.
    for component, template in with_volume.pods().items():
        label = template["metadata"]["labels"].get("banking/archive")
        affinity = template["spec"].get("affinity", {}).get("podAffinity", {})
        terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
        chosen = [term["labelSelector"]["matchLabels"] for term in terms]
        expected = ("fleet", [{"banking/archive": "fleet"}]) if component in mounts else (None, [])
        assert (label, chosen) == expected, component
    assert not release({}).of("PersistentVolumeClaim")


class Loader(yaml.SafeLoader):
    """Reads compose files."""


Loader.add_constructor("!reset", lambda _loader, _node: None)


def compose(file):
    return yaml.load(file.read_text(), Loader)["services"]


def test_memory_limits_and_images_are_those_of_the_compose_files(release):
    services = compose(SECURE_FILE) | compose(COMPOSE_FILE)
    for component, template in release({}).pods().items():
        service = services[COMPOSE_SERVICES[component]]
        (container,) = template["spec"]["containers"]
        assert container["resources"]["limits"] == {"memory": f"{service['mem_limit'].removesuffix('m')}Mi"}
        assert container["image"] == f"registry.example.com/banking/{service['image'].rsplit('/', 1)[1]}:0.2.0"
        # Kubernetes' args are compose's command where the image has an entrypoint.
        assert container.get("args", container.get("command")) == service.get("command")


def test_what_compose_sets_the_chart_sets_too(release):
    left_to_settings = {"LOG_LEVEL", *(fields(TombstoneSettings) - fields(ServiceSettings))}
    full, secure = compose(COMPOSE_FILE), compose(SECURE_FILE)
    traced = release({"tracing": {"endpoint": "http://collector:4318/v1/traces"}})
    for component, service in COMPOSE_SERVICES.items():
        named = {name for file in (full, secure) for name in file.get(service, {}).get("environment", {})}
        if component == "audit":
            named -= set(TRACING)  # it traces nothing
        assert named - left_to_settings <= set(traced.environment(component)), component
