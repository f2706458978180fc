"""Who may reach whom."""

from __future__ import annotations

from urllib.parse import urlsplit

DNS = {("kube-system", 53, "UDP"), ("kube-system", 53, "TCP")}
PULSAR = {("pulsar", 6651, "TCP"), ("pulsar", 8443, "TCP")}
JANUSGRAPH = {("janusgraph", 8182, "TCP")}
OPENSEARCH = {("opensearch", 9200, "TCP")}
OBJECT_STORAGE = {("0.0.0.0/0", 443, "TCP")}

EGRESS = {
    "producer": DNS | PULSAR,
    "graph-consumer": DNS | PULSAR | JANUSGRAPH,
    "vector-consumer": DNS | PULSAR | OPENSEARCH,
    "dlq-worker": DNS | PULSAR | OBJECT_STORAGE,
    "audit": DNS | PULSAR | JANUSGRAPH | OPENSEARCH | OBJECT_STORAGE,
    "provisioner": DNS | PULSAR,
}
MONITORING = "monitoring"
INGRESS = {
    "producer": {(MONITORING, 8000, "TCP"), ("this namespace", 8000, "TCP")},
    "graph-consumer": {(MONITORING, 8001, "TCP")},
    "vector-consumer": {(MONITORING, 8001, "TCP")},
    "dlq-worker": {(MONITORING, 8001, "TCP")},
    "audit": {(MONITORING, 8001, "TCP")},
    "provisioner": set(),
}


def peer_name(peer):
    match peer:
        case {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}:
            return name
        case {"ipBlock": {"cidr": block}}:
            return block
        case {"podSelector": {}}:
            return "this namespace"


def ways(rules, side):
    found = set()
    for rule in rules:
        assert rule[side], "no peers would be everybody"
        assert rule["ports"], "no ports would be all"
        for peer in rule[side]:
            found |= {(peer_name(peer), port["port"], port.get("protocol", "TCP")) for port in rule["ports"]}
    return found


def test_each_pod_reaches_what_it_uses_and_is_reached_by_who_uses_it(release):
    policies = release({}).of("NetworkPolicy")
    assert set(policies) == {f"fleet-{component}" for component in EGRESS}
    for component, egress in EGRESS.items():
        spec = policies[f"fleet-{component}"]["spec"]
        assert ways(spec["egress"], "to") == egress, component
        assert ways(spec.get("ingress", []), "from") == INGRESS[component], component


def test_every_pod_has_a_policy_that_denies_what_it_does_not_name(any_release):
    policies = any_release.of("NetworkPolicy")
    if not policies:  # switched off
        return
    assert set(policies) == {f"fleet-{component}" for component in any_release.pods()}
    for policy in policies.values():
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_ports_that_are_open_are_those_that_are_asked(release):
    installed = release({})
    environment = installed.environment("audit")
    asked = {
        urlsplit(environment["PULSAR_URL"]).port,
        urlsplit(environment["PULSAR_ADMIN_URL"]).port,
        int(environment["JANUSGRAPH_PORT"]),
        int(environment["OPENSEARCH_PORT"]),
    }
    opened = {port for _, port, protocol in EGRESS["audit"] if protocol == "TCP"}
    assert opened - {53, 443} == asked


def test_an_archive_on_a_volume_needs_no_way_out(release):
    policies = release({"archive": {"url": "file:///archive"}, "dlqWorker": {"replicas": 1}}).of("NetworkPolicy")
    assert ways(policies["fleet-dlq-worker"]["spec"]["egress"], "to") == DNS | PULSAR


def test_further_ways_are_added(release):
    rule = {"to": [{"ipBlock": {"cidr": "10.1.2.0/24"}}], "ports": [{"port": 8443}]}
    policies = release({"vectorConsumer": {"extraEgress": [rule]}}).of("NetworkPolicy")
    further = {("10.1.2.0/24", 8443, "TCP")}
    assert ways(policies["fleet-vector-consumer"]["spec"]["egress"], "to") == EGRESS["vector-consumer"] | further
    assert ways(policies["fleet-graph-consumer"]["spec"]["egress"], "to") == EGRESS["graph-consumer"]


def test_a_collector_is_reached_by_the_services_where_it_is_named(release):
    policies = release({"tracing": {"endpoint": "http://collector:4318/v1/traces"}}).of("NetworkPolicy")
    for component, egress in EGRESS.items():
        further = set() if component in {"audit", "provisioner"} else {("tracing", 4318, "TCP")}
        assert ways(policies[f"fleet-{component}"]["spec"]["egress"], "to") == egress | further, component


def test_prometheus_scrapes_by_annotation_or_by_its_operator(release):
    for component, port in {"producer": "8000", "dlq-worker": "8001"}.items():
        assert release({}).pods()[component]["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": port,
            "prometheus.io/path": "/metrics",
        }
    monitored = release({"monitoring": {"podMonitor": True}})
    assert monitored.of("PodMonitor")["fleet"]["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics"}]
    assert "annotations" not in monitored.pods()["producer"]["metadata"]
