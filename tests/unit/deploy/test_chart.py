"""What the chart installs: valid, confined, complete and closed, in every way that it can be installed."""

from __future__ import annotations

import tomllib

import helm_python
import pytest
from jsonschema import ValidationError

from fleet.compose import ROOT

CHART = ROOT / "deploy" / "kubernetes"
OLDEST, NEWEST = "1.31", "1.37"  # of Kubernetes: what the chart asks for, and the last one whose schemas are here

SERVICES = {"producer": 8000, "graph-consumer": 8001, "vector-consumer": 8001, "dlq-worker": 8001}
SERVING = SERVICES | {"audit": 8001}
SIGNALS_AND_REQUESTS_SECONDS = 20 + 20 + 5  # DRAIN_SECONDS, the open requests of `service.py`, the producer's preStop


def test_helm_finds_nothing_to_say():
    report = helm_python.lint(CHART, {}, strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_fits_its_schema(any_release, validate, version):
    assert any_release.objects
    for item in any_release.objects:
        validate(item, version)


def test_the_schemas_do_notice(release, validate):
    deployment = release({}).of("Deployment")["fleet-producer"]
    deployment["spec"]["replica"] = 1
    with pytest.raises(ValidationError, match="replica"):
        validate(deployment, NEWEST)
    scaled = release({"keda": {"enabled": True}}).of("ScaledObject")["fleet-graph-consumer"]
    scaled["spec"]["triggers"][0]["metadata"]["msgBacklogThreshold"] = 20000  # KEDA takes texts alone
    with pytest.raises(ValidationError):
        validate(scaled, NEWEST)


def test_names_are_unique_and_in_the_release_s_namespace(any_release):
    names = [(item["kind"], item["metadata"]["name"]) for item in any_release.objects]
    assert len(names) == len(set(names))
    assert {item["metadata"]["namespace"] for item in any_release.objects} == {"banking"}


def test_what_is_installed_by_default(release):
    kinds = ["Deployment", "Job", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"]
    services = {"fleet-producer", "fleet-graph-consumer", "fleet-vector-consumer", "fleet-dlq-worker"}
    assert {kind: set(release({}).of(kind)) for kind in kinds} == {
        "Deployment": services | {"fleet-audit"},
        "Job": {"fleet-provisioner-3"},
        "Service": {"fleet-producer"},
        "PodDisruptionBudget": services,
        "HorizontalPodAutoscaler": services - {"fleet-dlq-worker"},
    }


def test_every_pod_meets_the_restricted_profile(any_release):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and more."""
    for component, template in any_release.pods().items():
        pod = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys(), component
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001, "the user of the images"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim", "ephemeral"}, component
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all("hostPort" not in port for port in container.get("ports", ()))


def test_selectors_choose_their_own_pods_and_no_others(any_release):
    labels = {component: template["metadata"]["labels"] for component, template in any_release.pods().items()}
    kinds = ("Deployment", "PodDisruptionBudget", "NetworkPolicy", "Service")
    for item in (item for kind in kinds for item in any_release.of(kind).values()):
        selector = item["spec"].get("selector", item["spec"].get("podSelector"))
        wanted = selector.get("matchLabels", selector).items()
        chosen = [component for component, own in labels.items() if wanted <= own.items()]
        assert chosen == [item["metadata"]["labels"]["app.kubernetes.io/component"]], item["kind"]
        assert item["metadata"]["name"] == f"fleet-{chosen[0]}"


def test_every_pod_has_its_service_account(any_release):
    accounts = any_release.of("ServiceAccount")
    for component, template in any_release.pods().items():
        assert template["spec"]["serviceAccountName"] == f"fleet-{component}"
        assert accounts[f"fleet-{component}"]["automountServiceAccountToken"] is False


def test_probes_ask_where_the_service_answers(any_release):
    for component, port in SERVING.items():
        if component not in any_release.pods():  # the audit can be left out
            continue
        (container,) = any_release.pods()[component]["spec"]["containers"]
        assert container["ports"] == [{"name": "http", "containerPort": port}]
        assert any_release.environment(component)["HTTP_PORT"] == str(port)
        probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert probes == {
            "startupProbe": {"path": "/health/live", "port": "http"},
            "livenessProbe": {"path": "/health/live", "port": "http"},
            "readinessProbe": {"path": "/health/ready", "port": "http"},
        }


def test_a_service_may_take_longer_to_end_than_it_takes(any_release):
    for component in SERVICES:
        grace = any_release.pods()[component]["spec"]["terminationGracePeriodSeconds"]
        assert grace > SIGNALS_AND_REQUESTS_SECONDS


def test_replicas_are_spread_and_a_leg_that_waits_holds_up_no_node(any_release):
    for component in SERVICES:
        spread = any_release.pods()[component]["spec"]["topologySpreadConstraints"]
        assert [item["topologyKey"] for item in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        budget = any_release.of("PodDisruptionBudget")[f"fleet-{component}"]["spec"]
        assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_a_release_can_be_called_anything_and_stand_beside_another(release):
    with helm_python.Chart.load(CHART) as chart:
        rendered = "".join(chart.render({}, name="second", namespace="other").values())
    assert "name: second-producer" in rendered
    assert "fleet-" not in rendered.replace("banking-event-fleet-", "")


def test_the_chart_is_of_the_project_s_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with helm_python.Chart.load(CHART) as chart:
        assert chart.version == chart.metadata["appVersion"] == project["version"]


REFUSED = {
    "several writers of one volume": ({"archive": {"url": "file:///archive"}}, "dlqWorker.replicas: expected 1"),
    "a password as a variable": ({"settings": {"OPENSEARCH_PASSWORD": "x"}}, "OPENSEARCH_PASSWORD"),
    "a variable that the chart sets": ({"graphConsumer": {"settings": {"HTTP_PORT": "9000"}}}, "HTTP_PORT has a value"),
    "a number as a setting": ({"settings": {"BULK_MAX_BYTES": 8388608}}, "BULK_MAX_BYTES"),
    "a value that does not exist": ({"graphConsumer": {"replica": 3}}, "replica"),
    "no clients, which would be everybody": ({"network": {"clients": []}}, "clients"),
    "a broker without a scheme": ({"pulsar": {"url": "pulsar:6650"}}, "url"),
    "an archive that the images have no folder for": ({"archive": {"url": "file:///data"}}, "url"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused(release, case):
    values, message = REFUSED[case]
    with pytest.raises(helm_python.HelmError, match=message):
        release(values)
