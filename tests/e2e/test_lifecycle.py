"""The operator comes and goes, and so do the objects, in any order (C28)."""

from typing import Any

from e2e import engine
from e2e.twin import DEVICE, NODE_A, NODE_B, SYSTEM, Twin


def test_a_failure_that_is_deleted_while_the_operator_is_away_is_repaired_on_its_return(
    twin: Twin,
) -> None:
    before, node = twin.footprint(), twin.nodes[NODE_A]
    twin.fail(NODE_A, "Node", unforetold="the operator goes in the middle")
    twin.wait("the node to go", lambda: "node-down" in str(twin.footprint()[node]))
    twin.scale_operator(0)
    try:
        twin.repair_all()
        assert "node-down" in str(twin.footprint()[node]), "nobody else takes it off"
    finally:
        twin.scale_operator(1)
    twin.wait_steady()
    twin.wait("the Nodes as before", lambda: twin.footprint() == before)
    assert engine.is_running(node)
    assert twin.status()["history"][0]["from"] == NODE_A


def test_nothing_of_ours_or_of_kopf_holds_what_is_not_ours(twin: Twin) -> None:
    """C28 a: without the operator a workload namespace still goes; kopf marks no Node."""
    twin.deploy(replicas=2)
    twin.fail(NODE_B, "Node", unforetold="the operator goes, and the namespace with it")
    twin.wait("the failover", lambda: twin.status().get("failover", {}).get("fencedAt"))
    twin.scale_operator(0)
    try:
        for kind in ("Node", "Pod", "Namespace", "ResourceQuota", "LimitRange"):
            for one in twin.all(kind):
                meta = one["metadata"]
                assert "kopf." not in str(meta.get("annotations")), (kind, meta["name"])
                assert "kopf." not in str(meta.get("finalizers")), (kind, meta["name"])
                assert "asetwin" not in str(meta.get("finalizers")), (kind, meta["name"])
        twin.kubectl("delete", "namespace", twin.namespace, "--timeout=60s")
    finally:
        twin.scale_operator(1)


def test_deleting_the_device_undoes_what_is_ours_and_nothing_else(twin: Twin) -> None:
    node = twin.nodes[NODE_B]
    twin.deploy()
    twin.kubectl("taint", "node", node, "theirs=x:NoSchedule")
    try:
        twin.fail(NODE_A, "PSU1", "PSU2", unforetold="the device is deleted in the middle")
        twin.wait("the failover", lambda: twin.status().get("failover", {}).get("evacuatedAt"))
        twin.kubectl("delete", "ased", DEVICE, "--timeout=60s")

        for name in twin.nodes.values():
            left = twin.footprint()[name]
            assert not left["unschedulable"]
            assert left["annotations"] == {}
            assert left["gpus"] is None
            assert "asetwin.dev" not in str(left["taints"])
            assert "out-of-service" not in str(left["taints"])
        assert "theirs" in str(twin.footprint()[node]["taints"])
        ours = {"app.kubernetes.io/managed-by": "asetwin"}
        assert not twin.all("ResourceQuota", **ours)
        assert not twin.all("LimitRange", **ours)
        assert not twin.all("Pod", SYSTEM, **{"asetwin.dev/role": "master"})
        assert twin.find("Service", f"{DEVICE}-master", SYSTEM) is None
        assert twin.find("Lease", f"{DEVICE}-master", SYSTEM) is None
        twin.wait(
            "the AseNodes to say that their device is gone",
            lambda: twin.condition("AseNode", NODE_A, "Accepted").get("reason") == "DeviceNotFound",
        )
    finally:
        twin.repair_all()
        twin.kubectl("taint", "node", node, "theirs-")
        twin.apply_sample("device.yaml")
        twin.wait_steady()


def test_a_device_goes_even_when_its_nodes_have_gone_before(twin: Twin) -> None:
    objects: list[dict[str, Any]] = [
        {"kind": "AseDevice", "metadata": {"name": "second"}},
        {
            "kind": "AseNode",
            "metadata": {"name": "second-a"},
            "spec": {"device": "second", "slot": "A"},
        },
        {
            "kind": "PinnedWorker",
            "metadata": {"name": "second-worker"},
            "spec": {"aseNode": "second-a", "nodeName": "gone-for-good"},
        },
    ]
    twin.apply(*objects)
    twin.wait(
        "our finalizer",
        lambda: "asetwin.dev/cleanup" in str(twin.get("AseDevice", "second")["metadata"]),
    )
    twin.kubectl("delete", "asen", "second-a", "--timeout=30s")
    twin.kubectl("delete", "ased", "second", "--timeout=30s")
    twin.kubectl("delete", "pw", "second-worker", "--timeout=30s")
    assert not any(one["metadata"]["name"].startswith("second") for one in twin.all("AseDevice"))
    assert twin.find("AseNode", "second-a") is None
    assert twin.find("PinnedWorker", "second-worker") is None


def test_a_pin_that_goes_while_its_node_is_down_gives_the_node_back(twin: Twin) -> None:
    node = twin.nodes[NODE_A]
    twin.fail(NODE_A, "Node", unforetold="the node is given back in the middle")
    twin.wait("the node to go", lambda: "node-down" in str(twin.footprint()[node]))
    twin.kubectl("delete", "pw", "worker-a", "--timeout=30s")
    try:
        twin.wait("the Node to be given back", lambda: twin.footprint()[node]["annotations"] == {})
        assert not twin.footprint()[node]["unschedulable"]
        twin.wait(
            "a node without a worker",
            lambda: twin.status("AseNode", NODE_A)["state"] == "Unknown",
        )
    finally:
        twin.repair_all()
        twin.apply_sample("device.yaml")
        twin.wait_steady()


def test_a_paused_device_is_left_alone(twin: Twin) -> None:
    twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", '{"spec":{"paused":["a test"]}}')
    try:
        twin.wait("maintenance", lambda: twin.status()["state"] == "Maintenance")
        before = twin.footprint()
        twin.fail(NODE_A, "Node", unforetold="a device that is paused fails nothing over")
        twin.wait(
            "the failure to be seen", lambda: twin.status("AseNode", NODE_A)["state"] == "Down"
        )
        assert twin.footprint() == before
        twin.repair_all()
    finally:
        twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", '{"spec":{"paused":null}}')
