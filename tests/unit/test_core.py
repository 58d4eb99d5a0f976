"""Kubernetes' kinds as the rules read them, and what of them counts as a change."""

import copy
from typing import Any

import pytest

from asetwin import constants
from asetwin.resources.core import Lease, Limit, Namespace, Node, Owner, Pod, Taint, Workload

NODE: dict[str, Any] = {
    "metadata": {
        "name": "na",
        "uid": "u1",
        "resourceVersion": "41",
        "labels": {"zone": "x"},
        "annotations": {constants.ANNOTATION_OWNED: '{"device":"ase"}', "other": "1"},
    },
    "spec": {
        "unschedulable": True,
        "taints": [
            {"key": "k", "effect": "NoSchedule"},
            {"key": "k", "effect": "NoExecute", "value": "v", "timeAdded": "2026-01-01T00:00:00Z"},
        ],
    },
    "status": {
        "allocatable": {"cpu": "3500m", "memory": "7Gi", "pods": "110"},
        "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110", "nvidia.com/gpu": "1"},
        "conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
        ],
    },
}

POD: dict[str, Any] = {
    "metadata": {
        "namespace": "default",
        "name": "web-1",
        "uid": "u2",
        "resourceVersion": "42",
        "creationTimestamp": "1970-01-01T00:00:10Z",
        "labels": {"app": "web"},
        "ownerReferences": [
            {"kind": "Other", "name": "o", "uid": "u8"},
            {"kind": "ReplicaSet", "name": "web-rs", "uid": "u9", "controller": True},
        ],
    },
    "spec": {
        "nodeName": "na",
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}],
    },
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}


def changed(body: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    """A copy of the body with one field set; None removes it."""
    result = copy.deepcopy(body)
    place = result
    for key in path[:-1]:
        place = place.setdefault(key, {})
    if to is None:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = to
    return result


def test_reads_a_node() -> None:
    node = Node.read(NODE)
    assert (node.name, node.uid, node.resource_version) == ("na", "u1", "41")
    assert node.unschedulable
    assert node.is_ready
    assert node.taints == (Taint("k", "NoSchedule"), Taint("k", "NoExecute", "v"))
    assert node.allocatable == {"cpu": 3500, "memory": 7 * 1024**3, "pods": 110}
    assert node.capacity["nvidia.com/gpu"] == 1
    assert node.owned == '{"device":"ase"}'


def test_reads_a_node_that_has_just_registered() -> None:
    node = Node.read({"metadata": {"name": "na"}})
    assert node == Node("na", is_ready=False)


@pytest.mark.parametrize(
    ("status", "is_ready"),
    [("True", True), ("False", False), ("Unknown", False)],
)
def test_a_node_is_ready_only_when_its_kubelet_says_so(status: str, is_ready: bool) -> None:
    conditions = [{"type": "Ready", "status": status}]
    assert Node.read(changed(NODE, "status", "conditions", to=conditions)).is_ready is is_ready


def test_a_control_plane_node_is_told_by_its_label() -> None:
    label = {"node-role.kubernetes.io/control-plane": ""}
    assert Node.read(changed(NODE, "metadata", "labels", to=label)).is_control_plane
    assert not Node.read(NODE).is_control_plane


def test_a_taint_is_named_as_kubectl_writes_it() -> None:
    assert Taint("a.b/c", "NoExecute", "v").identity == "a.b/c:NoExecute"


def test_a_heartbeat_is_no_change_of_a_node() -> None:
    beat = changed(NODE, "metadata", "resourceVersion", to="43")
    beat["status"]["conditions"][1]["lastHeartbeatTime"] = "2026-01-01T00:05:00Z"
    beat["status"]["images"] = [{"names": ["x"]}]
    assert Node.read(beat) == Node.read(NODE)
    assert Node.read(beat).resource_version == "43"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(changed(NODE, "spec", "unschedulable", to=None), id="cordon"),
        pytest.param(changed(NODE, "spec", "taints", to=[]), id="taints"),
        pytest.param(changed(NODE, "metadata", "annotations", to={}), id="mark"),
        pytest.param(changed(NODE, "metadata", "uid", to="other"), id="another-node"),
        pytest.param(changed(NODE, "status", "conditions", to=[]), id="readiness"),
        pytest.param(changed(NODE, "status", "allocatable", "cpu", to="2"), id="allocatable"),
        pytest.param(changed(NODE, "status", "capacity", "nvidia.com/gpu", to="0"), id="gpus"),
    ],
)
def test_what_the_rules_look_at_is_a_change_of_a_node(body: dict[str, Any]) -> None:
    assert Node.read(body) != Node.read(NODE)


def test_reads_a_pod() -> None:
    pod = Pod.read(POD)
    assert pod.key == "default/web-1"
    assert (pod.uid, pod.node, pod.phase, pod.created) == ("u2", "na", "Running", 10.0)
    assert pod.owner == Owner("ReplicaSet", "web-rs", "u9")
    assert pod.requests == {"cpu": 100}
    assert pod.labels == {"app": "web"}
    assert pod.is_serving
    assert not pod.is_mirror


def test_an_owner_that_does_not_control_is_none() -> None:
    refs = [{"kind": "Other", "name": "o", "uid": "u8"}]
    assert Pod.read(changed(POD, "metadata", "ownerReferences", to=refs)).owner is None


def test_a_pod_that_is_being_deleted_does_not_serve() -> None:
    body = changed(POD, "metadata", "deletionTimestamp", to="1970-01-01T00:01:00Z")
    pod = Pod.read(changed(body, "metadata", "deletionGracePeriodSeconds", to=30))
    assert (pod.deleting, pod.grace_seconds) == (60.0, 30)
    assert not pod.is_serving


@pytest.mark.parametrize(
    ("phase", "is_over"),
    [
        ("Pending", False),
        ("Running", False),
        ("Unknown", False),
        ("Succeeded", True),
        ("Failed", True),
    ],
)
def test_a_pod_is_over_when_it_has_ended_by_itself(phase: str, is_over: bool) -> None:
    pod = Pod.read(changed(POD, "status", "phase", to=phase))
    assert pod.is_over is is_over
    assert pod.is_serving is not is_over


@pytest.mark.parametrize(
    ("status", "is_ready"),
    [("True", True), ("False", False), ("Unknown", False)],
)
def test_a_pod_is_ready_only_when_its_condition_is_true(status: str, is_ready: bool) -> None:
    conditions = [{"type": "Ready", "status": status}]
    assert Pod.read(changed(POD, "status", "conditions", to=conditions)).is_ready is is_ready


@pytest.mark.parametrize(
    ("text", "count"),
    [(None, 0), ("2", 2), ("", 0), ("two", 0), ("-1", 0), ("²", 0), pytest.param("9" * 5000, 0)],
)
def test_how_often_a_start_was_asked_for_again_is_read(text: str | None, count: int) -> None:
    noted = {"asetwin.dev/start-retries": text} if text is not None else None
    assert Pod.read(changed(POD, "metadata", "annotations", to=noted)).start_retries == count


def test_a_static_pod_is_told_by_its_mirror_annotation() -> None:
    mark = {"kubernetes.io/config.mirror": "0123"}
    assert Pod.read(changed(POD, "metadata", "annotations", to=mark)).is_mirror


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param({"status": "False", "reason": "Unschedulable"}, "no room", id="no-place"),
        pytest.param({"status": "False", "reason": "SchedulingGated"}, "", id="gated"),
        pytest.param({"status": "True", "reason": "Unschedulable"}, "", id="scheduled"),
    ],
)
def test_keeps_the_schedulers_message_of_a_pod_without_a_place(
    condition: dict[str, str], expected: str
) -> None:
    conditions = [{"type": "PodScheduled", "message": "no room", **condition}]
    assert Pod.read(changed(POD, "status", "conditions", to=conditions)).unschedulable == expected


def test_a_restarted_container_is_no_change_of_a_pod() -> None:
    body = changed(POD, "status", "containerStatuses", to=[{"name": "c", "restartCount": 7}])
    assert Pod.read(changed(body, "metadata", "resourceVersion", to="99")) == Pod.read(POD)


@pytest.mark.parametrize(
    ("spec", "replicas"),
    [
        pytest.param({"replicas": 3}, 3, id="stated"),
        pytest.param({"replicas": 0}, 0, id="scaled-to-zero"),
        pytest.param({}, 1, id="default"),
    ],
)
def test_reads_a_workload(spec: dict[str, int], replicas: int) -> None:
    body = {"metadata": {"namespace": "n", "name": "web", "uid": "u"}, "spec": spec}
    assert Workload.read(body, "Deployment") == Workload("Deployment", "n", "web", "u", replicas)


@pytest.mark.parametrize(
    ("body", "is_terminating"),
    [
        pytest.param({"status": {"phase": "Active"}}, False, id="active"),
        pytest.param({"status": {"phase": "Terminating"}}, True, id="phase"),
        pytest.param({"metadata": {"deletionTimestamp": "x"}}, True, id="deletion-timestamp"),
    ],
)
def test_a_namespace_that_goes_is_terminating(body: dict[str, Any], is_terminating: bool) -> None:
    meta = {"name": "n", **body.get("metadata", {})}
    assert Namespace.read({**body, "metadata": meta}).is_terminating is is_terminating


OURS = {constants.LABEL_MANAGED_BY: constants.MANAGED_BY, constants.LABEL_DEVICE: "ase"}


@pytest.mark.parametrize(
    ("labels", "whose"),
    [
        pytest.param(OURS, "ase", id="ours"),
        pytest.param({}, "", id="no-labels"),
        pytest.param({constants.LABEL_DEVICE: "ase"}, "", id="device-label-alone"),
        pytest.param({**OURS, constants.LABEL_MANAGED_BY: "Helm"}, "", id="managed-by-another"),
    ],
)
def test_a_limit_is_ours_only_with_both_labels(labels: dict[str, str], whose: str) -> None:
    body = {"metadata": {"namespace": "n", "name": "q", "labels": labels}}
    assert Limit.read(body).device == whose


def test_reads_what_a_quota_limits_and_for_which_failover_it_is_lifted() -> None:
    body = {
        "metadata": {
            "namespace": "n",
            "name": "q",
            "uid": "u",
            "resourceVersion": "5",
            "annotations": {constants.ANNOTATION_LIFTED: "a-1"},
        },
        "spec": {"hard": {"pods": "7"}},
    }
    limit = Limit.read(body)
    assert (limit.uid, limit.resource_version) == ("u", "5")
    assert (dict(limit.hard), limit.lifted_for) == ({"pods": "7"}, "a-1")


def test_what_a_quota_has_used_is_no_change_of_it() -> None:
    body = {"metadata": {"namespace": "n", "name": "q", "resourceVersion": "5"}}
    later = changed(body, "metadata", "resourceVersion", to="6") | {"status": {"used": {"a": "1"}}}
    assert Limit.read(later) == Limit.read(body)


def test_a_renewal_is_no_change_of_a_lease() -> None:
    body = {
        "metadata": {"namespace": "n", "name": "l"},
        "spec": {"holderIdentity": "p", "leaseTransitions": 3, "renewTime": "t1"},
    }
    before, after = Lease.read(body), Lease.read(changed(body, "spec", "renewTime", to="t2"))
    assert before == after
    assert (before.holder, before.epoch) == ("p", 3)
    assert (before.renewals, after.renewals) == ("t1", "t2")


def test_a_released_lease_has_no_holder() -> None:
    assert Lease.read({"metadata": {"namespace": "n", "name": "l"}, "spec": {}}).holder == ""
