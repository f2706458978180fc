"""What each container of every compose file may do, read as podman-compose reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fleet.compose import AUDIT, CASSANDRA_FILE, CLUSTER_FILE, COMPOSE_FILE, ROOT, SECURE_FILE, SERVICES
from fleet.keyring import ROLES, SERVERS, USERS

FURTHER = sorted(set(COMPOSE_FILE.parent.glob("docker-compose.*.yml")) - {COMPOSE_FILE})
# Each beside the base file, and all together that go together: a cluster is not secured.
COMBINATIONS = {
    "full": [],
    **{file.name.split(".")[1]: [file] for file in FURTHER},
    "cluster": [CASSANDRA_FILE, CLUSTER_FILE],
    "all": [file for file in FURTHER if file != CLUSTER_FILE],
}


@pytest.fixture(scope="module", params=COMBINATIONS)
def services(request):
    return read(COMPOSE_FILE, *COMBINATIONS[request.param])


def read(*files):
    options = [option for file in files for option in ("-f", str(file))]
    environment = os.environ | {"SECRETS_FOLDER": "/the/secrets"}
    result = subprocess.run(
        [str(Path(sys.prefix) / "bin" / "podman-compose"), "-p", "x", *options, "config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
        cwd=COMPOSE_FILE.parent,
    )
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)["services"]


def test_every_container_is_confined(services):
    assert {*SERVICES, AUDIT} < set(services)
    for name, service in services.items():
        assert service.get("read_only") is True, name
        assert service.get("cap_drop") == ["ALL"], name
        assert not service.get("cap_add"), name
        assert not service.get("privileged"), name
        assert service.get("security_opt") == ["no-new-privileges"], name
        assert re.fullmatch(r"\d+m", service.get("mem_limit", "")), name
        # Never the host's; the nodes of OpenSearch share one of their own.
        assert service.get("network_mode") in {None, "service:opensearch-network"}, name


def test_no_container_runs_as_root(services):
    for name, service in services.items():
        user = service.get("user")
        if user is None:  # built here
            assert service["image"].startswith("localhost/x/"), name  # of its own project
            folder = service["image"].rsplit("/", 1)[1]
            dockerfile = (ROOT / ("tools" if folder == AUDIT else "services") / folder / "Dockerfile").read_text()
            user = re.findall(r"^USER (\d+)$", dockerfile, re.MULTILINE)[-1]
        assert int(user) > 0, name


def test_ports_are_published_on_the_loopback_only(services):
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert "producer" in published
    for name, ports in published.items():
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports), (name, ports)


def test_nothing_secret_stands_in_the_environment(services):
    for name, service in services.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY", variable):
                assert variable.endswith("_FILE"), (name, variable)
                assert value.startswith("/run/secrets/"), (name, variable)


def test_the_secured_stack_mounts_each_containers_own_secrets_and_runs_it_as_their_owner():
    services = read(COMPOSE_FILE, SECURE_FILE)
    mounted = {}
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            if volume.endswith(":/run/secrets:ro"):
                mounted[name] = volume.split(":")[0]
    assert mounted == {name: f"/the/secrets/{name}" for name in {*ROLES, *SERVERS}}
    for name in mounted:
        assert int(services[name].get("user", 10001)) == USERS[name]
    assert "opensearch" not in mounted
    assert not services["opensearch"].get("ports")
    assert services["opensearch"]["networks"] == ["search"]


def test_a_cluster_has_more_than_one_of_what_can_be_more_than_one():
    services = read(COMPOSE_FILE, CASSANDRA_FILE, CLUSTER_FILE)
    nodes = {name: services[name]["environment"] for name in ("opensearch", "opensearch-2", "opensearch-3")}
    for name, environment in nodes.items():
        assert environment.get("node.name", "opensearch") == name
        assert environment["cluster.initial_cluster_manager_nodes"] == ",".join(nodes)
        assert f"127.0.0.1:{environment['transport.port']}" in environment["discovery.seed_hosts"].split(",")
    ports = [environment.get("http.port", "9200") for environment in nodes.values()]
    hosts = ",".join(f"opensearch:{port}" for port in ports)
    names = {services[name]["hostname"] for name in ("janusgraph", "janusgraph-2")}
    assert names == {"janusgraph", "janusgraph-2"}
    assert services["janusgraph-2"]["environment"]["JANUSGRAPH_AFTER"] == "janusgraph"
    for name in ("graph_consumer", "verify"):
        assert services[name]["environment"]["JANUSGRAPH_HOST"] == "janusgraph,janusgraph-2"
    for name in ("vector_consumer", "verify"):
        assert services[name]["environment"]["OPENSEARCH_HOST"] == hosts
    for name in SERVICES:
        assert services[name]["environment"]["TOPIC_PARTITIONS"] == "3"
    for name in ("graph_consumer", "vector_consumer"):
        assert services[name]["deploy"] == {"mode": "replicated", "replicas": 3}
    volumes = [volume for name in nodes for volume in services[name]["volumes"] if volume.endswith("/data")]
    assert len(set(volumes)) == len(nodes)
    megabytes = [
        int(service["mem_limit"][:-1]) * service.get("deploy", {}).get("replicas", 1) for service in services.values()
    ]
    assert sum(megabytes) < 22 * 1024
