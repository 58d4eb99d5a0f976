"""FailoverReady before a failover against what did not run after it (design 4.8)."""

import json

import pytest

from e2e.twin import DEVICE, NODE_A, NODE_B, Json, Twin
from e2e.workloads import GPU, deployment, of, places, preferred, required, with_gpu

HOSTNAME = "kubernetes.io/hostname"


def named(problems: list[Json]) -> set[tuple[str, str]]:
    """Workload and reason; the pods themselves are others afterwards."""
    return {(one["pod"].rsplit("-", 1)[0], one["reason"]) for one in problems}


def if_lost(twin: Twin, ase_node: str) -> Json:
    found: Json = twin.status("AseNode", ase_node).get("ifLost") or {}
    return found


def on_port(one: Json, port: int) -> Json:
    container = one["spec"]["template"]["spec"]["containers"][0]
    container["ports"] = [{"name": "http", "containerPort": 8080, "hostPort": port}]
    return one


def spread(one: Json) -> Json:
    """Never more than one pod more than on the emptiest Node, the control plane counted."""
    (constraint,) = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
    constraint["whenUnsatisfiable"] = "DoNotSchedule"
    return one


def apart(app: str) -> Json:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": HOSTNAME}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


@pytest.mark.usefixtures("whole_reserve")
def test_what_was_predicted_not_to_run_is_what_does_not_run(twin: Twin) -> None:
    a, b = twin.nodes[NODE_A], twin.nodes[NODE_B]
    counts = {"web": 4, "pinned": 1, "infer": 1, "train": 1, "edge": 2, "even": 2, "apart": 2}
    twin.apply(
        deployment(twin, "web", 4),
        deployment(twin, "pinned", 1, affinity=required(a)),
        with_gpu(twin, "infer", affinity=preferred(a)),
        with_gpu(twin, "train", affinity=preferred(b)),
        on_port(deployment(twin, "edge", 2), 18080),
        spread(deployment(twin, "even", 2)),
        deployment(twin, "apart", 2, affinity=apart("apart")),
    )
    twin.wait(
        "all pods", lambda: all(len(places(twin, app)) == n for app, n in counts.items()), within=90
    )
    assert places(twin, "infer") == [NODE_A]
    assert twin.get("Node", b)["status"]["allocatable"][GPU] == "1"
    expected = {
        ("pinned", "NodeAffinity"),
        ("infer", "GPU"),
        ("edge", "HostPort"),
        ("even", "TopologySpread"),
        ("apart", "PodAntiAffinity"),
    }

    def predicted() -> set[tuple[str, str]]:
        return {
            (workload.partition("/")[2].rsplit("-", 1)[0], reason)
            for workload, reason in named(if_lost(twin, NODE_A).get("problems") or [])
            if workload.startswith(twin.namespace)
        }

    twin.wait("the prediction", lambda: predicted() == expected)
    assert twin.condition("AseNode", NODE_A, "FailoverReady")["status"] == "False"
    twin.wait(
        "the device to say so, too",
        lambda: twin.condition("AseDevice", DEVICE, "FailoverReady")["status"] == "False",
    )
    before = if_lost(twin, NODE_A)

    twin.fail(NODE_A, "Node")

    def unplaceable() -> list[Json]:
        return list((twin.status().get("failover") or {}).get("unplaceable") or ())

    twin.wait(
        "what does not run to be named, and the rest to run",
        lambda: (
            named(unplaceable()) == named(before["problems"])
            and twin.status()["failover"]["phase"] == "RecoveredInPart"
        ),
        within=60,
    )
    failover = twin.status()["failover"]
    assert failover["unplaceableCount"] == before["problemCount"]
    waiting = {
        pod["metadata"]["labels"]["app"]
        for app in counts
        for pod in of(twin, app)
        if not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]
    }
    assert waiting == {app for app, _ in expected}
    # And counted by who owns them, as after every failover of these tests.
    twin.wait_as_foretold()
    # The same when it is asked of Kubernetes itself.
    told = json.loads(twin.kubectl("-n", twin.namespace, "get", "pods", "-o", "json"))["items"]
    assert sum(1 for pod in told if pod["status"]["phase"] == "Pending") == before["problemCount"]
