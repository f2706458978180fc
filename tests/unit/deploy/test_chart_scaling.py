"""Who scales what, and by what."""

from __future__ import annotations

from collections import Counter

from banking.streaming.sink import Leg
from banking.streaming.topics import ENTITY_TOPICS, LEG_SUBSCRIPTIONS, full_name


def scaled_by(release):
    """The names of the deployments that something scales."""
    targets = [
        *release.of("HorizontalPodAutoscaler").values(),
        *release.of("ScaledObject").values(),
    ]
    return Counter(item["spec"]["scaleTargetRef"]["name"] for item in targets)


def test_nothing_is_scaled_by_two_and_what_is_scaled_names_no_replicas(any_release):
    scaled = scaled_by(any_release)
    assert all(number == 1 for number in scaled.values())
    for name, deployment in any_release.of("Deployment").items():
        assert ("replicas" in deployment["spec"]) == (name not in scaled)
    assert "fleet-dlq-worker" not in scaled


def test_without_keda_cpu_decides(release):
    plain = release({"graphConsumer": {"replicas": 3, "autoscaling": {"maxReplicas": 9, "cpuUtilization": 60}}})
    assert not plain.of("ScaledObject")
    assert plain.of("HorizontalPodAutoscaler")["fleet-graph-consumer"]["spec"] == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "fleet-graph-consumer"},
        "minReplicas": 3,
        "maxReplicas": 9,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
            }
        ],
    }
    for component in ("producer", "graph-consumer", "vector-consumer"):  # a share of nothing is nothing
        assert plain.pods()[component]["spec"]["containers"][0]["resources"]["requests"]["cpu"]


def test_with_keda_the_backlog_of_each_leg_decides(release):
    scaled = release({"keda": {"enabled": True}, "graphConsumer": {"autoscaling": {"backlog": 20000000}}})
    assert set(scaled.of("HorizontalPodAutoscaler")) == {"fleet-producer"}
    assert set(scaled.of("ScaledObject")) == {"fleet-graph-consumer", "fleet-vector-consumer"}
    spec = scaled.of("ScaledObject")["fleet-graph-consumer"]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 6)
    assert spec["fallback"] == {"failureThreshold": 5, "replicas": 2}
    assert spec["triggers"][0] == {
        "type": "pulsar",
        "metadata": {
            "adminURL": "https://pulsar-proxy.pulsar.svc:8443",
            "topic": "persistent://public/banking/persons-events",
            "isPartitionedTopic": "true",
            "subscription": "graph-consumer",
            "msgBacklogThreshold": "20000000",
            "authModes": "bearer",
        },
        "authenticationRef": {"name": "fleet-graph-consumer"},
    }
    for leg in Leg:
        triggers = scaled.of("ScaledObject")[f"fleet-{leg}-consumer"]["spec"]["triggers"]
        asked = {(trigger["metadata"]["topic"], trigger["metadata"]["subscription"]) for trigger in triggers}
        assert asked == {(full_name(topic), LEG_SUBSCRIPTIONS[leg]) for topic in ENTITY_TOPICS.values()}


def test_keda_asks_with_the_leg_s_own_token(release):
    scaled = release({"keda": {"enabled": True}})
    assert scaled.of("TriggerAuthentication")["fleet-vector-consumer"]["spec"]["secretTargetRef"] == [
        {"parameter": "bearerToken", "name": "fleet-vector-consumer", "key": "pulsar-token"},
        {"parameter": "ca", "name": "fleet-vector-consumer", "key": "ca.pem"},
    ]


def test_keda_asks_an_open_pulsar_without_one_and_topics_without_partitions_as_such(release):
    opened = release({"keda": {"enabled": True}, "pulsar": {"secured": False, "topicPartitions": 0}})
    assert not opened.of("TriggerAuthentication")
    (metadata,) = {
        (trigger["metadata"]["isPartitionedTopic"], "authModes" in trigger["metadata"], "authenticationRef" in trigger)
        for item in opened.of("ScaledObject").values()
        for trigger in item["spec"]["triggers"]
    }
    assert metadata == ("false", False, False)
