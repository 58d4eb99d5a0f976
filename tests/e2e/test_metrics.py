"""The operator's metrics, scraped in the cluster through the API server's proxy."""

from prometheus_client.parser import text_string_to_metric_families

from e2e.twin import DEVICE, NODE_A, NODE_B, SYSTEM, Twin

Scrape = dict[tuple[str, ...], float]


def scrape(twin: Twin) -> Scrape:
    """(sample, label values in the order of their names) → value."""
    (pod,) = twin.all("Pod", SYSTEM, **{"app.kubernetes.io/component": "operator"})
    path = f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(twin.kubectl("get", "--raw", path))
        for sample in family.samples
    }


def failovers(found: Scrape) -> Scrape:
    """How many failovers were detected, and how many reached each phase."""
    return {
        key: value
        for key, value in found.items()
        if key[:2] == ("asetwin_failovers_total", DEVICE)
        or (key[0].startswith("asetwin_failover_") and key[0].endswith("_seconds_count"))
    }


def test_a_failover_is_in_the_operators_metrics_once(twin: Twin) -> None:
    twin.deploy()
    before = scrape(twin)
    assert before["asetwin_device_state", DEVICE, "Online"] == 1
    assert before["asetwin_power_agent_up",] == 1

    twin.fail(NODE_A, "PSU1", "PSU2")
    twin.wait(
        "the failover to be reported as recovered",
        lambda: twin.status().get("failover", {}).get("phase") == "Recovered",
        within=60,
    )

    def has_been_observed() -> bool:
        key = ("asetwin_failover_recovery_seconds_count", DEVICE, "PowerSupplies")
        return scrape(twin).get(key, 0) == before.get(key, 0) + 1

    twin.wait("the recovery in the metrics", has_been_observed)
    during, failover = scrape(twin), twin.status()["failover"]
    assert during["asetwin_node_state", DEVICE, NODE_A, "Down"] == 1
    assert during["asetwin_node_state", DEVICE, NODE_B, "Up"] == 1
    assert during["asetwin_failover_open", DEVICE] == 1
    assert during["asetwin_displaced_pods", DEVICE] == failover["displaced"]
    assert during["asetwin_unplaceable_pods", DEVICE] == 0
    assert during["asetwin_loop_last_turn_age_seconds", DEVICE] < 15

    twin.repair_all()
    twin.wait_steady()
    after = scrape(twin)
    assert after["asetwin_failover_open", DEVICE] == 0
    assert after["asetwin_actions_total", "DeletePod", "done"] > before.get(
        ("asetwin_actions_total", "DeletePod", "done"), 0
    )
    grown = {
        key: value - failovers(before).get(key, 0)
        for key, value in failovers(after).items()
        if value != failovers(before).get(key, 0)
    }
    phases = ("fencing", "evacuation", "pods_ready", "master_ready", "recovery")
    trigger = (DEVICE, "PowerSupplies")
    assert grown == {
        ("asetwin_failovers_total", *trigger): 1,
        **{(f"asetwin_failover_{phase}_seconds_count", *trigger): 1 for phase in phases},
    }
    assert all(len(key) == 3 for key in failovers(after)), "labelled by device and trigger alone"
