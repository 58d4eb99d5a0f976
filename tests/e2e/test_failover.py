"""A node fails and is repaired: the main job, on real kind."""

import pytest

from e2e.twin import DEVICE, NODE_A, NODE_B, Twin, epoch, is_ready


def wait_recovered(twin: Twin, survivor: str, replicas: int = 6) -> None:
    """All replicas Ready on the survivor, and the operator says the same."""
    twin.wait(
        f"{replicas} pods Ready on {survivor}",
        lambda: len(twin.ready_on(survivor)) >= replicas,
        within=30,
    )
    twin.wait(
        "the failover to be reported as recovered",
        lambda: twin.status().get("failover", {}).get("phase") == "Recovered",
        within=30,
    )
    twin.wait_as_foretold()


def replaceable_on(twin: Twin, ase_node: str) -> list[str]:
    """The pods of all namespaces that a controller replaces elsewhere when the node goes.

    Not only the test's own: CoreDNS and the volume provisioner may be there as well.
    """
    return [
        pod["metadata"]["name"]
        for pod in twin.all("Pod")
        if pod["spec"].get("nodeName") == twin.nodes[ase_node]
        and pod["status"].get("phase") not in ("Succeeded", "Failed")
        and "deletionTimestamp" not in pod["metadata"]
        and any(
            owner.get("controller") and owner["kind"] not in ("DaemonSet", "Node")
            for owner in pod["metadata"].get("ownerReferences") or ()
        )
    ]


@pytest.mark.parametrize(
    "components",
    [
        pytest.param(("PSU1", "PSU2"), id="both-psu"),
        pytest.param(("Motherboard",), id="core-part"),
        pytest.param(("Node",), id="whole-node"),
        pytest.param(("Port3", "Port4"), id="storage-ports"),
    ],
)
def test_node_a_fails_and_its_pods_and_the_master_run_on_b(
    twin: Twin, components: tuple[str, ...]
) -> None:
    twin.bring_master_to(NODE_A)
    twin.deploy()
    displaced = {pod["metadata"]["uid"] for pod in twin.pods_on(NODE_A)}
    expected = len(replaceable_on(twin, NODE_A))
    before = twin.master()
    assert displaced
    assert before is not None

    twin.fail(NODE_A, *components)
    wait_recovered(twin, NODE_B)

    assert not twin.pods_on(NODE_A)
    assert not displaced & {pod["metadata"]["uid"] for pod in twin.pods()}
    after = twin.master()
    assert after is not None
    assert after["spec"]["nodeName"] == twin.nodes[NODE_B]
    assert epoch(after) > epoch(before)
    failover = twin.status()["failover"]
    assert failover["displaced"] == failover["recovered"] == expected
    assert twin.status("AseNode", NODE_A)["state"] == "Down"
    assert twin.status()["state"] == "NeedsAttention"
    guard = twin.footprint()[twin.nodes[NODE_A]]
    assert guard["unschedulable"]
    assert "asetwin.dev/node-down" in str(guard["taints"])
    assert _hard(twin) == {}

    twin.repair_all()
    twin.wait_steady()
    twin.wait("the reserve to be kept again", lambda: _hard(twin))
    assert twin.status()["history"][0]["phase"] == "Recovered"
    told = ["NodeLost", "NodeFenced", "PodsRemoved", "PodsReady", "FailedOver", "NodeReturned"]

    def story() -> bool:
        reasons = [one for one in twin.events("AseDevice", DEVICE) if one in told]
        return reasons[-len(told) :] == told

    twin.wait("the Events in their order", story)
    # It does not fail back unless asked (design 4.7).
    assert _master_node(twin) == twin.nodes[NODE_B]


def test_the_node_without_the_master_fails_and_the_master_stays(twin: Twin) -> None:
    twin.deploy()
    before = twin.master()
    assert before is not None
    home, other = NODE_A, NODE_B
    if before["spec"]["nodeName"] == twin.nodes[NODE_B]:
        home, other = NODE_B, NODE_A
    displaced = len(replaceable_on(twin, other))
    assert displaced

    twin.fail(other, "PSU1", "PSU2")
    wait_recovered(twin, home)

    after = twin.master()
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert twin.status()["failover"]["displaced"] == displaced
    assert not twin.pods_on(other)


def test_what_others_set_on_a_node_and_in_a_namespace_stays(twin: Twin) -> None:
    node = twin.nodes[NODE_A]
    namespace = twin.namespace
    twin.deploy()
    quota = {
        "kind": "ResourceQuota",
        "metadata": {"name": "tenant", "namespace": namespace},
        "spec": {"hard": {"pods": "40", "count/configmaps": "30"}},
    }
    limits = {
        "kind": "LimitRange",
        "metadata": {"name": "tenant", "namespace": namespace},
        "spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "20m"}}]},
    }
    twin.apply(quota, limits)
    twin.wait("our LimitRange to go", lambda: _limit_ranges(twin) == ["tenant"])
    twin.kubectl("cordon", node)
    twin.kubectl("taint", "node", node, "asetwin.dev/node-down=theirs:NoSchedule", "x=y:NoSchedule")
    try:
        foreign = twin.footprint()[node]
        spec = twin.get("ResourceQuota", "tenant", namespace)["spec"]

        twin.fail(NODE_A, "Node")
        wait_recovered(twin, NODE_B)
        assert twin.get("ResourceQuota", "tenant", namespace)["spec"] == spec
        twin.repair_all()
        twin.wait("the node to be taken back", lambda: "failover" not in twin.status())

        twin.wait("the Node as it was", lambda: twin.footprint()[node] == foreign)
        assert twin.get("ResourceQuota", "tenant", namespace)["spec"] == spec
        assert _limit_ranges(twin) == ["tenant"]
        twin.wait(
            "the node to say what keeps it out of service",
            lambda: twin.condition("AseNode", NODE_A, "InService").get("reason") == "ForeignCordon",
        )
    finally:
        twin.kubectl("uncordon", node)
        twin.kubectl("taint", "node", node, "asetwin.dev/node-down:NoSchedule-", "x-")


def test_a_bare_pod_is_reported_lost_and_a_daemon_set_stays(twin: Twin) -> None:
    (deployment,) = [one for one in twin.sample("workload.yaml") if one["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    del spec["topologySpreadConstraints"]
    bare = {
        "kind": "Pod",
        "metadata": {"name": "bare", "namespace": twin.namespace},
        "spec": {**spec, "nodeName": twin.nodes[NODE_A]},
    }
    daemon = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": twin.namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {
                "metadata": {"labels": {"app": "agent"}},
                "spec": {**spec, "tolerations": [{"operator": "Exists", "effect": "NoExecute"}]},
            },
        },
    }
    twin.apply(bare, daemon)
    twin.wait("three pods", lambda: len(twin.ready_on(NODE_A)) == 2 and twin.ready_on(NODE_B))
    uids = {
        pod["metadata"]["uid"]
        for pod in twin.pods()
        if (pod["metadata"].get("labels") or {}).get("app") == "agent"
    }

    twin.fail(NODE_A, "DIMM")
    twin.wait("the bare pod to go", lambda: twin.find("Pod", "bare", twin.namespace) is None)
    failover = twin.wait(
        "the end of the failover",
        lambda: (
            twin.status().get("failover")
            if twin.status().get("failover", {}).get("phase") == "Recovered"
            else None
        ),
    )

    assert f"{twin.namespace}/bare" in failover["lostPods"]
    assert uids == {pod["metadata"]["uid"] for pod in twin.pods()}
    twin.wait_told("AseDevice", DEVICE, "PodsLost")


def _master_node(twin: Twin) -> str | None:
    master = twin.master()
    return master["spec"]["nodeName"] if master is not None and is_ready(master) else None


def _hard(twin: Twin) -> dict[str, str]:
    quota = twin.find("ResourceQuota", "asetwin-reserve", twin.namespace) or {}
    hard: dict[str, str] = (quota.get("spec") or {}).get("hard") or {}
    return hard


def _limit_ranges(twin: Twin) -> list[str]:
    return [one["metadata"]["name"] for one in twin.all("LimitRange", twin.namespace)]
