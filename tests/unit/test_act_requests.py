"""What exactly each step of a plan writes."""

from typing import Any

import pytest

from asetwin.kube import errors
from asetwin.kube.observe import Cluster
from asetwin.model import plan
from asetwin.model.plan import Plan, Step
from unit.acting import CALLS, STEPS, Json, act, body_of, executor, stored
from unit.builders import GPU, FakeApi


def test_every_kind_of_step_is_tested() -> None:
    assert {type(one) for one in STEPS.values()} == set(Step.__args__)


@pytest.mark.parametrize("name", CALLS)
async def test_each_step_is_one_request_to_its_object(name: str) -> None:
    api = FakeApi()
    await act(api, name)
    assert [(verb, path) for verb, path, _ in api.calls] == [CALLS[name]]


async def test_a_status_is_patched_and_that_of_the_device_under_its_version() -> None:
    assert await body_of("status") == {"status": {"state": "Down"}}
    assert await body_of("memory") == {
        "status": {"state": None},
        "metadata": {"resourceVersion": "7"},
    }


async def test_finalizers_are_replaced_as_a_whole_under_the_version() -> None:
    assert await body_of("finalizers") == {
        "metadata": {"finalizers": ["x", "asetwin.dev/cleanup"], "resourceVersion": "7"}
    }


async def test_cordon_taints_and_mark_are_one_patch_under_the_version() -> None:
    assert await body_of("node") == {
        "metadata": {
            "resourceVersion": "7",
            "annotations": {"asetwin.dev/owned": '{"device":"ase","cordon":true}'},
        },
        "spec": {
            "unschedulable": True,
            "taints": [
                {"key": "k", "effect": "NoSchedule"},
                {"key": "l", "effect": "NoExecute", "value": "v"},
            ],
        },
    }


async def test_what_goes_from_a_node_is_set_to_null() -> None:
    api = FakeApi()
    await executor(api).act(Plan(((plan.PatchNode("na", "7", False, (), None),),)))
    assert api.calls[0][2] == {
        "metadata": {"resourceVersion": "7", "annotations": {"asetwin.dev/owned": None}},
        "spec": {"unschedulable": None, "taints": None},
    }


@pytest.mark.parametrize(("gpus", "text"), [(2, "2"), (0, "0"), (None, None)])
async def test_gpus_and_their_mark_are_one_patch_of_the_status(
    gpus: int | None, text: str | None
) -> None:
    api = FakeApi()
    await executor(api).act(Plan(((plan.PatchGpus("na", "7", gpus, None),),)))
    assert api.calls == [
        (
            "patch",
            "/api/v1/nodes/na/status",
            {
                "metadata": {"resourceVersion": "7", "annotations": {"asetwin.dev/owned": None}},
                "status": {"capacity": {GPU: text}, "allocatable": {GPU: text}},
            },
        )
    ]


RECHECKS = (plan.Recheck("pinnedworkers", "wa", power="Off"), STEPS["recheck-lease"])
DEADLY = Plan((RECHECKS, (STEPS["pod-by-force"],)))


def worker_body(version: int, observed: str) -> Json:
    spec = {"aseNode": "a", "nodeName": "na"}
    return stored("wa", version, spec=spec, status={"power": {"observed": observed}})


def lease_body(version: int, renewed: str) -> Json:
    found = stored("na", version, namespace="kube-node-lease", spec={"renewTime": renewed})
    found["metadata"]["labels"] = {}
    return found


def believing() -> Cluster:
    """That the machine is off, and its kubelet long silent."""
    cluster = Cluster(clock=lambda: 0.0, monotonic=lambda: 0.0)
    cluster.apply("pinnedworkers", worker_body(3, "Off"))
    cluster.apply("leases", lease_body(4, "2026-01-01T00:00:00Z"))
    return cluster


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        pytest.param("recheck", worker_body(9, "On"), id="it-runs-again"),
        pytest.param("recheck", errors.NotFound("no", status=404), id="its-pin-is-gone"),
        pytest.param("recheck", errors.Unavailable("no", status=503), id="nobody-answers"),
    ],
)
async def test_on_an_old_view_nothing_is_taken_away(key: str, answer: Any) -> None:
    api, cluster = FakeApi({CALLS[key]: answer}), believing()
    with pytest.raises(errors.KubeError):
        await executor(api, cluster).act(DEADLY)
    assert api.asked("delete") == []
    if isinstance(answer, dict):
        power = cluster.snapshot().workers["wa"].status.power
        assert power is not None
        assert power.observed == "On"


async def test_news_that_an_earlier_write_has_brought_counts_as_well() -> None:
    """Our view is up to date then, but the plan was made before."""
    cluster = believing()
    cluster.apply("pinnedworkers", worker_body(9, "Isolated"))
    api = FakeApi({CALLS["recheck"]: worker_body(9, "Isolated")})
    with pytest.raises(errors.Outdated):
        await executor(api, cluster).act(DEADLY)
    assert api.asked("delete") == []


async def test_a_kubelet_that_was_heard_meanwhile_is_not_robbed() -> None:
    now = [0.0]
    cluster = Cluster(clock=lambda: now[0], monotonic=lambda: now[0])
    cluster.apply("leases", lease_body(4, "2026-01-01T00:00:00Z"))
    now[0] = 100.0
    api = FakeApi({CALLS["recheck-lease"]: lease_body(5, "2026-01-01T00:01:40Z")})
    with pytest.raises(errors.Conflict):
        await executor(api, cluster).act(DEADLY)
    assert api.asked("delete") == []
    assert cluster.snapshot().renewed == {"kube-node-lease/na": 100.0}


@pytest.mark.parametrize(
    "lease", [lease_body(4, "2026-01-01T00:00:00Z"), errors.NotFound("gone", status=404)]
)
async def test_what_is_still_so_is_acted_upon(lease: Any) -> None:
    answers = {CALLS["recheck"]: worker_body(3, "Off"), CALLS["recheck-lease"]: lease}
    api = FakeApi(answers)
    await executor(api, believing()).act(DEADLY)
    assert len(api.asked("delete")) == 1


async def test_only_the_pod_that_was_meant_is_deleted() -> None:
    assert await body_of("pod") == {"uid": "u1", "grace_seconds": None}
    assert await body_of("pod-by-force") == {"uid": "u1", "grace_seconds": 0}
    assert await body_of("delete-quota") == {"uid": "u2", "grace_seconds": None}


OUR_LABELS = {"app.kubernetes.io/managed-by": "asetwin", "asetwin.dev/device": "ase"}


async def test_only_the_pod_that_was_meant_is_evicted() -> None:
    body = await body_of("evict")
    assert body["kind"] == "Eviction"
    assert body["metadata"] == {"name": "web-1", "namespace": "shop"}
    assert body["deleteOptions"]["preconditions"] == {"uid": "u1"}
    assert "gracePeriodSeconds" not in body["deleteOptions"]


async def test_a_quota_is_created_with_our_labels() -> None:
    body = await body_of("new-quota")
    assert body["metadata"] == {
        "name": "asetwin-reserve",
        "namespace": "shop",
        "labels": OUR_LABELS,
    }
    assert body["spec"] == {"hard": {"pods": "5"}}


async def test_a_quota_is_patched_under_its_version_and_only_where_it_is_ours() -> None:
    assert await body_of("quota") == {
        "metadata": {
            "resourceVersion": "7",
            "labels": OUR_LABELS,
            "annotations": {"asetwin.dev/lifted-for": None},
        },
        "spec": {"hard": {"requests.cpu": None, "pods": "5"}},
    }


async def test_a_quota_is_lifted_by_removing_every_limit_and_saying_for_what() -> None:
    api = FakeApi()
    step = plan.WriteQuota(
        "shop", "ase", {}, stale_keys=("pods",), lifted_for="a-1", resource_version="7"
    )
    await executor(api).act(Plan(((step,),)))
    body = api.calls[0][2]
    assert body["spec"] == {"hard": {"pods": None}}
    assert body["metadata"]["annotations"] == {"asetwin.dev/lifted-for": "a-1"}


async def test_a_limit_range_states_small_default_requests() -> None:
    body = await body_of("limit-range")
    assert body["metadata"]["labels"] == OUR_LABELS
    assert body["spec"]["limits"] == [
        {"type": "Container", "defaultRequest": {"cpu": "10m", "memory": "16Mi"}}
    ]


async def test_a_master_pod_is_bound_to_its_node_and_knows_its_epoch() -> None:
    body = await body_of("master")
    assert body["metadata"]["name"] == "ase-master-3"
    assert (
        body["metadata"]["labels"].items()
        >= {
            "asetwin.dev/role": "master",
            "asetwin.dev/epoch": "3",
            "asetwin.dev/device": "ase",
        }.items()
    )
    assert body["spec"]["nodeName"] == "na"
    (container,) = body["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert (container["image"], env["ASETWIN_EPOCH"], env["ASETWIN_NODE"]) == ("img", "3", "a")


async def test_a_start_that_is_asked_for_again_changes_one_annotation_and_nothing_else() -> None:
    # The kubelet looks at a pod at once whose annotations change; none of the others is touched.
    body = await body_of("retry")
    assert body == {"metadata": {"annotations": {"asetwin.dev/start-retries": "2"}}}


async def test_the_masters_service_selects_whichever_pod_is_ready() -> None:
    body = await body_of("service")
    assert body["spec"]["selector"] == {"asetwin.dev/device": "ase", "asetwin.dev/role": "master"}


async def test_a_share_is_a_volume_on_the_directory_that_every_node_has() -> None:
    body = await body_of("new-volume")
    assert body["metadata"] == {
        "name": "data",
        "labels": {**OUR_LABELS, "asetwin.dev/protocol": "SMB"},
    }
    assert body["spec"] == {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "volumeMode": "Filesystem",
        "hostPath": {"path": "/var/lib/asetwin/shares/data", "type": "DirectoryOrCreate"},
    }


async def test_the_journals_volume_is_kept_for_its_claim() -> None:
    reference = (await body_of("new-journal"))["spec"]["claimRef"]
    assert reference == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "asetwin-system",
        "name": "ase-journal",
        "uid": "u3",
    }
    assert (await body_of("claim"))["spec"]["volumeName"] == "ase-journal"


async def test_a_volume_is_changed_and_freed_under_its_version() -> None:
    labels = {**OUR_LABELS, "asetwin.dev/protocol": "NFS"}
    meta = {"resourceVersion": "7", "labels": labels}
    assert await body_of("volume") == {
        "metadata": meta,
        "spec": {"capacity": {"storage": "2Gi"}},
    }
    assert await body_of("freed-volume") == {
        "metadata": meta,
        "spec": {"capacity": {"storage": "1Gi"}, "claimRef": None},
    }
    freed = await body_of("freed-journal")
    assert freed["spec"]["claimRef"] == {"uid": None, "resourceVersion": None}


async def test_a_volume_that_a_claim_holds_is_seen_to_be_on_its_way_out() -> None:
    cluster = Cluster()
    cluster.apply("persistentvolumes", stored("data", 7) | {"metadata": VOLUME})
    leaving = {**VOLUME, "resourceVersion": "8", "deletionTimestamp": "2027-01-15T08:00:00Z"}
    answer = {"kind": "PersistentVolume", "metadata": leaving}
    await act(FakeApi({CALLS["delete-volume"]: answer}), "delete-volume", cluster=cluster)
    assert cluster.snapshot().volumes["data"].is_deleting
    await act(FakeApi(), "delete-volume", cluster=cluster)
    assert not cluster.snapshot().volumes


VOLUME = {"name": "data", "uid": "u4", "resourceVersion": "7"}


async def test_the_master_writes_its_journal_on_its_share() -> None:
    spec = (await body_of("master"))["spec"]
    (container,) = spec["containers"]
    (mount,), (volume,) = container["volumeMounts"], spec["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "ase-journal"}
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/journal")
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["ASETWIN_JOURNAL"] == "/journal/ase-u-ase.log"


async def test_an_event_has_the_name_of_its_key() -> None:
    first, second = await body_of("event"), await body_of("event")
    assert first["metadata"] == second["metadata"]
    assert first["metadata"]["namespace"] == "default"
    assert (first["reason"], first["message"], first["type"]) == ("NodeLost", "gone", "Normal")
    assert first["reportingInstance"] == "op-1"
