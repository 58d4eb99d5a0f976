"""The view of the cluster: newer replaces older, what is gone stays gone, one bad object is one."""

import itertools
import logging
from typing import Any

import pytest

from asetwin.kube import errors
from asetwin.kube.observe import KINDS, Cluster, refresh
from asetwin.model.snapshot import Snapshot
from unit.builders import FakeApi
from unit.observing import Json, body, lists


def node(name: str = "na", version: int = 1, **spec: Any) -> Json:
    return body(name, version, namespace=None) | {"spec": spec}


def failure(name: str = "f", version: int = 1, **spec: Any) -> Json:
    return body(name, version, namespace=None) | {"spec": {"node": "a", "component": "PSU1"} | spec}


def labels(cluster: Cluster) -> dict[str, str]:
    """Version label of each pod in view."""
    return {one.name: one.labels["version"] for one in cluster.snapshot().pods}


# --- Events ---------------------------------------------------------------------------------------


def test_an_object_is_seen_as_soon_as_it_is_told_of() -> None:
    cluster = Cluster()
    assert cluster.apply("pods", body())
    assert labels(cluster) == {"p": "1"}


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_whatever_the_order_of_the_news_the_newest_wins(order: tuple[int, ...]) -> None:
    cluster = Cluster()
    newest = 0
    for version in order:
        assert cluster.apply("pods", body(version=version)) is (version > newest)
        newest = max(newest, version)
        assert labels(cluster) == {"p": str(newest)}


def test_versions_are_numbers_and_not_texts() -> None:
    cluster = Cluster()
    cluster.apply("pods", body(version=9))
    assert cluster.apply("pods", body(version=10))
    assert cluster.version("pods", "uid-p") == 10


@pytest.mark.parametrize("order", list(itertools.permutations(("one", "two", "gone"))))
def test_what_was_deleted_stays_deleted_whatever_is_still_on_its_way(
    order: tuple[str, ...],
) -> None:
    cluster = Cluster()
    for what in order:
        version = {"one": 1, "two": 2, "gone": 3}[what]
        cluster.apply("pods", body(version=version), is_gone=what == "gone")
    assert labels(cluster) == {}


def test_a_deletion_is_a_change_once() -> None:
    cluster = Cluster()
    cluster.apply("pods", body())
    assert cluster.apply("pods", body(version=2), is_gone=True)
    assert not cluster.apply("pods", body(version=2), is_gone=True)
    assert not cluster.apply("pods", body("other", version=2), is_gone=True)


def test_a_pod_made_anew_under_its_name_is_another_one() -> None:
    cluster = Cluster()
    cluster.apply("pods", body(version=1, uid="old"))
    cluster.apply("pods", body(version=3, uid="new"))
    cluster.apply("pods", body(version=2, uid="old"), is_gone=True)
    (only,) = cluster.snapshot().pods
    assert only.uid == "new"


def test_what_we_deleted_ourselves_is_gone_at_once() -> None:
    cluster = Cluster()
    cluster.apply("pods", body())
    assert cluster.forget("pods", "uid-p")
    assert labels(cluster) == {}
    assert not cluster.forget("pods", "uid-p")
    # The event of its deletion timestamp may come after the answer to our deletion.
    assert not cluster.apply("pods", body(version=5))
    assert labels(cluster) == {}


@pytest.mark.parametrize(
    ("plural", "looked_at"),
    [
        # The master's and the power agent's Lease, and the kubelets'.
        pytest.param("leases", ["asetwin-system", "kube-node-lease"], id="leases"),
        pytest.param("services", ["asetwin-system"], id="services"),
    ],
)
def test_leases_and_services_of_other_namespaces_are_not_looked_at(
    plural: str, looked_at: list[str]
) -> None:
    cluster = Cluster()
    for namespace in ("asetwin-system", "default", "kube-node-lease", "kube-system"):
        one = body(uid=f"uid-{namespace}", namespace=namespace)
        assert cluster.apply(plural, one) is (namespace in looked_at)
    seen = cluster.snapshot()
    found = [one.namespace for one in seen.leases] + [one.namespace for one in seen.services]
    assert found == looked_at


def test_an_object_without_a_uid_is_not_from_an_api_server() -> None:
    cluster = Cluster()
    assert not cluster.apply("pods", {"metadata": {"name": "p", "namespace": "default"}})
    assert labels(cluster) == {}


# --- What is a change -----------------------------------------------------------------------------


def test_the_snapshot_is_the_same_object_as_long_as_nothing_has_changed() -> None:
    cluster = Cluster()
    cluster.apply("pods", body())
    before = cluster.snapshot()
    cluster.apply("pods", body())
    cluster.apply("pods", body(version=0))
    cluster.apply("leases", body(namespace="elsewhere"))
    assert cluster.snapshot() is before
    cluster.apply("pods", body(version=2))
    assert cluster.snapshot() is not before


def test_a_node_heartbeat_wakes_nobody_but_its_version_is_known() -> None:
    cluster = Cluster()
    before, beat = node(version=1), node(version=2)
    before["metadata"]["labels"] = beat["metadata"]["labels"] = {}
    beat["status"] = {"conditions": [{"type": "Ready", "lastHeartbeatTime": "x"}]}
    cluster.apply("nodes", before)
    cluster.snapshot()
    assert not cluster.apply("nodes", beat)
    # A conditional write with the older version would be refused for ever.
    assert cluster.snapshot().nodes["na"].resource_version == "2"


def test_a_lease_renewal_wakes_nobody_but_can_be_told_apart() -> None:
    cluster = Cluster()
    lease = body("ase-master", namespace="asetwin-system")
    assert cluster.apply("leases", lease | {"spec": {"renewTime": "t1"}})
    cluster.snapshot()
    lease = body("ase-master", 2, namespace="asetwin-system")
    assert not cluster.apply("leases", lease | {"spec": {"renewTime": "t2"}})
    assert cluster.snapshot().leases[0].renewals == "t2"
    lease = body("ase-master", 3, namespace="asetwin-system")
    assert cluster.apply("leases", lease | {"spec": {"renewTime": "t3", "holderIdentity": "x"}})


def test_a_change_that_the_rules_read_is_one() -> None:
    cluster = Cluster()
    cluster.apply("nodes", node(version=1))
    assert cluster.apply("nodes", node(version=2, unschedulable=True))


# --- What cannot be read --------------------------------------------------------------------------

SPOILT = {
    "wrong-type": ("hardwarefailures", failure("spoilt", durationSeconds="soon")),
    "missing-field": (
        "asenodes",
        body("spoilt", namespace=None) | {"spec": {"slot": "A"}},
    ),
    "not-a-quantity": ("nodes", node("spoilt") | {"status": {"allocatable": {"cpu": "many"}}}),
    "not-a-time": (
        "pods",
        {"metadata": {**body("spoilt")["metadata"], "creationTimestamp": "yesterday"}},
    ),
    "taint-without-a-key": ("nodes", node("spoilt", taints=[{"effect": "NoExecute"}])),
}


@pytest.mark.parametrize(("plural", "spoilt"), SPOILT.values(), ids=SPOILT)
def test_an_object_that_nobody_can_read_is_left_out_and_named_once(
    plural: str, spoilt: Json, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    cluster.apply("nodes", node("good"))
    with caplog.at_level(logging.ERROR):
        assert not cluster.apply(plural, spoilt)
        assert not cluster.apply(plural, spoilt)
    (record,) = caplog.records
    assert f"{plural} spoilt is left out" in record.getMessage()
    seen = cluster.snapshot()
    assert list(seen.nodes) == ["good"]
    assert (seen.failures, seen.ase_nodes, seen.pods) == ({}, {}, ())


def test_it_is_named_again_when_it_was_readable_in_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster()
    with caplog.at_level(logging.ERROR):
        cluster.apply("hardwarefailures", failure(version=1, durationSeconds="soon"))
        assert cluster.apply("hardwarefailures", failure(version=2, durationSeconds=5))
        cluster.apply("hardwarefailures", failure(version=3, durationSeconds="soon"))
    assert len(caplog.records) == 2


# --- Listing anew ---------------------------------------------------------------------------------


async def test_the_first_list_makes_the_view_complete() -> None:
    cluster = Cluster()
    assert not cluster.is_synced
    api = lists(10, pods=[body("b"), body("a")], nodes=[node()])
    assert await cluster.resync(api)
    assert cluster.is_synced
    assert labels(cluster) == {"a": "1", "b": "1"}
    assert {path for _, path, _ in api.calls} == {kind.path for kind in KINDS.values()}


async def test_a_list_without_news_changes_nothing() -> None:
    cluster = Cluster()
    api = lists(10, pods=[body()], nodes=[node()])
    await cluster.resync(api)
    before = cluster.snapshot()
    assert not await cluster.resync(api)
    assert cluster.snapshot() is before


async def test_a_list_tells_of_a_deletion_that_no_event_has_told_of() -> None:
    # kopf tells of no deletion that happened while a watch was broken.
    cluster = Cluster()
    await cluster.resync(lists(10, pods=[body("stays"), body("goes")]))
    assert await cluster.resync(lists(20, pods=[body("stays")]))
    assert labels(cluster) == {"stays": "1"}


async def test_a_list_tells_of_changes_that_no_event_has_told_of() -> None:
    cluster = Cluster()
    await cluster.resync(lists(10, pods=[body(version=3)]))
    assert await cluster.resync(lists(20, pods=[body(version=15), body("new", 17)]))
    assert labels(cluster) == {"p": "15", "new": "17"}


async def test_what_is_newer_than_the_list_stays() -> None:
    # 1. The list is made at version 10. 2. Events tell of a later pod, and of a later version.
    # 3. The list's answer arrives.
    cluster = Cluster()
    cluster.apply("pods", body("later", 12))
    cluster.apply("pods", body("p", 11))
    await cluster.resync(lists(10, pods=[body("p", 5)]))
    assert labels(cluster) == {"later": "12", "p": "11"}


async def test_what_was_deleted_after_the_list_was_made_does_not_come_back() -> None:
    cluster = Cluster()
    cluster.apply("pods", body(version=5))
    cluster.apply("pods", body(version=12), is_gone=True)
    await cluster.resync(lists(10, pods=[body(version=5)]))
    assert labels(cluster) == {}


async def test_a_deletion_is_remembered_only_until_a_list_confirms_it() -> None:
    cluster = Cluster()
    cluster.apply("pods", body(version=5))
    cluster.apply("pods", body(version=8), is_gone=True)
    await cluster.resync(lists(10))
    shelf = cluster._shelves["pods"]
    assert (shelf.objects, shelf.gone) == ({}, {})


async def test_an_object_that_nobody_can_read_does_not_spoil_the_list() -> None:
    cluster = Cluster()
    await cluster.resync(lists(10, hardwarefailures=[failure("x", durationSeconds="?"), failure()]))
    assert list(cluster.snapshot().failures) == ["f"]


@pytest.mark.parametrize(
    "error",
    [errors.NotFound("no CRD", status=404), errors.Unavailable("no connection", status=0)],
    ids=["not-installed", "unavailable"],
)
async def test_a_list_that_fails_changes_nothing_and_is_told(error: errors.KubeError) -> None:
    cluster = Cluster()
    await cluster.resync(lists(10, pods=[body()]))
    before = cluster.snapshot()
    failing = lists(20)
    failing.answers["get", KINDS["asedevices"].path] = error
    with pytest.raises(type(error)):
        await cluster.resync(failing)
    assert cluster.snapshot() is before


async def test_a_first_list_that_fails_leaves_the_view_incomplete() -> None:
    cluster = Cluster()
    failing = lists(20, pods=[body()])
    failing.answers["get", KINDS["pods"].path] = errors.Unavailable("gone", status=503)
    with pytest.raises(errors.Unavailable):
        await cluster.resync(failing)
    assert not cluster.is_synced


# --- One object anew ------------------------------------------------------------------------------


async def test_reads_one_object_anew_after_a_conflict() -> None:
    cluster = Cluster()
    cluster.apply("nodes", node(version=1))
    api = FakeApi({("get", "/api/v1/nodes/na"): node(version=4, unschedulable=True)})
    assert await refresh(api, cluster, "nodes", "/api/v1/nodes/na")
    assert cluster.version("nodes", "uid-na") == 4


async def test_reading_anew_what_is_gone_is_no_error() -> None:
    api = FakeApi({("get", "/api/v1/nodes/na"): errors.NotFound("gone", status=404)})
    assert not await refresh(api, Cluster(), "nodes", "/api/v1/nodes/na")


# --- The snapshot ---------------------------------------------------------------------------------

EVERYTHING: dict[str, list[Json]] = {
    "asedevices": [body(name, namespace=None) for name in ("b", "a")],
    "asenodes": [
        body(name, namespace=None) | {"spec": {"device": "a", "slot": "A"}} for name in ("b", "a")
    ],
    "pinnedworkers": [
        body(name, namespace=None) | {"spec": {"aseNode": "a", "nodeName": "n"}}
        for name in ("b", "a")
    ],
    "hardwarefailures": [failure(name) for name in ("b", "a")],
    "deviceupdates": [
        body(name, namespace=None) | {"spec": {"device": "a", "type": "Kubernetes"}}
        for name in ("b", "a")
    ],
    "nodes": [node(name) for name in ("b", "a")],
    "namespaces": [body(name, namespace=None) for name in ("b", "a")],
    "pods": [body("b"), body("a"), body("c", namespace="aa")],
    "resourcequotas": [body("b"), body("a"), body("c", namespace="aa")],
    "limitranges": [body("b"), body("a"), body("c", namespace="aa")],
    "services": [body(name, namespace="asetwin-system") for name in ("b", "a")],
    "leases": [body(name, namespace="asetwin-system") for name in ("b", "a")],
    "persistentvolumes": [body(name, namespace=None) for name in ("b", "a")],
    "persistentvolumeclaims": [body("b"), body("a"), body("c", namespace="aa")],
    "poddisruptionbudgets": [body("b"), body("a"), body("c", namespace="aa")],
    "deployments": [body("d", uid="d")],
    "replicasets": [body("r", uid="r")],
    "statefulsets": [body("s", uid="s")],
    "daemonsets": [body("x", uid="x")],
    "jobs": [body("j", uid="j")],
}


def view(order: int) -> Snapshot:
    cluster = Cluster(clock=lambda: 5.0)
    for plural in sorted(EVERYTHING, reverse=bool(order)):
        for one in EVERYTHING[plural][:: -1 if order else 1]:
            assert cluster.apply(plural, one)
    return cluster.snapshot()


def test_every_kind_has_its_place_and_every_sequence_is_sorted() -> None:
    assert set(EVERYTHING) == set(KINDS)
    seen = view(0)
    for mapping in (
        seen.devices,
        seen.ase_nodes,
        seen.workers,
        seen.failures,
        seen.updates,
        seen.nodes,
        seen.namespaces,
        seen.volumes,
    ):
        assert list(mapping) == ["a", "b"]
    for sequence in (seen.pods, seen.quotas, seen.limit_ranges, seen.claims, seen.budgets):
        assert [(one.namespace, one.name) for one in sequence] == [
            ("aa", "c"),
            ("default", "a"),
            ("default", "b"),
        ]
    assert [one.name for one in seen.services] == [one.name for one in seen.leases] == ["a", "b"]
    assert seen.renewed == {"asetwin-system/a": 5.0, "asetwin-system/b": 5.0}
    assert {one.uid: one.kind for one in seen.workloads.values()} == {
        "x": "DaemonSet",
        "d": "Deployment",
        "j": "Job",
        "r": "ReplicaSet",
        "s": "StatefulSet",
    }


def test_the_snapshot_does_not_depend_on_the_order_of_the_events() -> None:
    forth, back = view(0), view(1)
    assert forth == back
    assert repr(forth) == repr(back)


def test_our_kinds_and_no_others_are_ours() -> None:
    ours = {plural for plural, kind in KINDS.items() if kind.is_ours}
    assert ours == {
        "asedevices",
        "asenodes",
        "deviceupdates",
        "hardwarefailures",
        "pinnedworkers",
    }
    assert KINDS["pods"].path == "/api/v1/pods"
    assert KINDS["deployments"].path == "/apis/apps/v1/deployments"
    assert KINDS["asedevices"].path == "/apis/asetwin.dev/v1alpha1/asedevices"
    # One namespace is listed alone; of several all are listed, and the rest is left out.
    assert KINDS["services"].path == "/api/v1/namespaces/asetwin-system/services"
    assert KINDS["leases"].path == "/apis/coordination.k8s.io/v1/leases"
    assert set(KINDS["leases"].namespaces) == {"asetwin-system", "kube-node-lease"}
