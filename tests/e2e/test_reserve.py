"""The 50 % reserve as the API server keeps it for us."""

import subprocess

import pytest

from asetwin import constants
from asetwin.resources import quantities, requests
from e2e.twin import NODE_A, NODE_B, Twin


def cpu_budget(twin: Twin) -> int:
    """The device's budget in millicores, once nothing takes from it but what stays on its nodes.

    Pods of an earlier test counted as the system's while its namespace ended; the
    operator may not have looked again since they went.
    """
    workers = list(twin.nodes.values())
    offered = [twin.get("Node", one)["status"]["allocatable"]["cpu"] for one in workers]
    half = sum(quantities.units("cpu", one) for one in offered) // 2

    def settled() -> int | None:
        system = [
            one["spec"]
            for one in twin.all("Pod")
            if one["spec"].get("nodeName") in workers
            and one["metadata"]["namespace"] in constants.RESERVED_NAMESPACES
            and one["status"].get("phase") not in ("Succeeded", "Failed")
        ]
        rows = twin.status()["reserve"]["resources"]
        found = quantities.units(
            "cpu", next(row["budget"] for row in rows if row["resource"] == "cpu")
        )
        taken = sum(requests.of_pod(one).get("cpu", 0) for one in system)
        return found if found == half - taken else None

    budget: int = twin.wait("the budget of a device that carries only its own", settled)
    return budget


def pod(name: str, namespace: str, cpu: str | None) -> dict[str, object]:
    """A pod that asks for so much and that no Node takes; the quota counts it all the same."""
    resources = {"requests": {"cpu": cpu, "memory": "1Mi"}} if cpu else {}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeSelector": {"no-such": "node"},
            "containers": [{"name": "c", "image": "none", "resources": resources}],
        },
    }


def test_requests_beyond_half_of_the_device_are_refused_by_the_api_server(twin: Twin) -> None:
    budget = cpu_budget(twin)
    twin.wait("a quota in the namespace", lambda: hard_cpu(twin, twin.namespace))
    twin.apply(pod("half", twin.namespace, f"{budget // 2}m"))
    twin.wait(
        "the reserve to count it",
        lambda: (
            "cpu 5" in twin.status()["reserve"]["summary"]
            or "cpu 4" in twin.status()["reserve"]["summary"]
        ),
    )

    with pytest.raises(subprocess.CalledProcessError) as refused:
        twin.apply_quietly(pod("too-much", twin.namespace, f"{budget * 2 // 3}m"))
    assert "exceeded quota: asetwin-reserve" in refused.value.stderr
    assert "requests.cpu" in refused.value.stderr


def test_what_one_namespace_uses_is_not_left_for_another(twin: Twin) -> None:
    budget = cpu_budget(twin)
    other = f"{twin.namespace}-b"
    twin.apply({"kind": "Namespace", "metadata": {"name": other}})
    try:
        twin.wait("a quota there", lambda: hard_cpu(twin, other))
        twin.apply(pod("most", twin.namespace, f"{budget * 3 // 4}m"))
        twin.wait("the other's quota to shrink", lambda: 0 < hard_cpu(twin, other) < budget // 3)
        with pytest.raises(subprocess.CalledProcessError) as refused:
            twin.apply_quietly(pod("too-much", other, f"{budget // 2}m"))
        assert "exceeded quota" in refused.value.stderr
    finally:
        twin.delete("Namespace", other)


def hard_cpu(twin: Twin, namespace: str) -> int:
    """A namespace's limit in millicores as the API server holds to it; 0 before there is one.

    Admission goes by the quota's status, which follows its spec.
    """
    quota = twin.find("ResourceQuota", "asetwin-reserve", namespace) or {}
    text = ((quota.get("status") or {}).get("hard") or {}).get("requests.cpu", "0")
    return int(text[:-1]) if text.endswith("m") else int(text) * 1000


def test_a_pod_without_requests_gets_small_ones_and_passes(twin: Twin) -> None:
    twin.wait(
        "a LimitRange in the namespace",
        lambda: twin.find("LimitRange", "asetwin-defaults", twin.namespace),
    )
    twin.apply(pod("silent", twin.namespace, None))
    spec = twin.get("Pod", "silent", twin.namespace)["spec"]
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "10m", "memory": "16Mi"}


def test_a_reserved_namespace_is_never_limited(twin: Twin) -> None:
    limited = {one["metadata"]["namespace"] for one in twin.all("ResourceQuota")}
    assert not limited & {"kube-system", "asetwin-system", "local-path-storage", "kube-node-lease"}
    assert "default" in limited


def test_a_full_reserve_does_not_hold_up_the_failover(twin: Twin) -> None:
    """C07: a Terminating pod and its replacement are both counted, and the reserve is full."""
    budget = cpu_budget(twin)
    twin.deploy(replicas=4)
    used = 4 * 50
    twin.apply(pod("filler", twin.namespace, f"{budget - used - 10}m"))
    twin.wait("a full reserve", lambda: "cpu 99%" in twin.status()["reserve"]["summary"])
    displaced = len(twin.pods_on(NODE_A))
    assert displaced

    twin.fail(NODE_A, "Motherboard")
    twin.wait("all pods on B", lambda: len(twin.ready_on(NODE_B)) >= 4)
    twin.repair_all()
    twin.wait_steady()
    twin.wait("the quota to be back", lambda: hard_cpu(twin, twin.namespace) >= budget - 20)
