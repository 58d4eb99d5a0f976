"""The simulated API server is as strict as the real one where asetwin could trip."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from asetwin.kube import errors
from asetwin.sim.apiserver import ApiServer, Change
from asetwin.sim.evictions import evict

Json = dict[str, Any]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> ApiServer:
    made = ApiServer(clock)
    made.create("namespaces", {"metadata": {"name": "shop"}})
    return made


def pod(name: str = "web", *, cpu: str | None = "100m", node: str = "", **meta: Any) -> Json:
    resources = {"requests": {"cpu": cpu}} if cpu else {}
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}, **meta},
        "spec": {
            "containers": [{"name": "main", "resources": resources}],
            **({"nodeName": node} if node else {}),
        },
    }


def device() -> Json:
    return {"metadata": {"name": "ase"}, "spec": {"paused": []}, "status": {"state": "Online"}}


def quota(server: ApiServer, *, hard: Json, used: Json) -> None:
    body = {"metadata": {"name": "q", "namespace": "shop"}, "spec": {"hard": hard}}
    server.create("resourcequotas", body, "shop")
    status = {"status": {"hard": hard, "used": used}}
    server.patch("resourcequotas", "q", status, "shop", subresource="status")


def test_versions_grow_over_all_kinds(server: ApiServer) -> None:
    first = server.create("pods", pod())
    second = server.create("asedevices", device())
    third = server.patch("asedevices", "ase", {"spec": {"paused": ["x"]}})
    versions = [int(one["metadata"]["resourceVersion"]) for one in (first, second, third)]
    assert versions == sorted(set(versions))


def test_a_stale_version_is_a_conflict(server: ApiServer) -> None:
    old = server.create("asedevices", device())
    server.patch("asedevices", "ase", {"spec": {"paused": ["x"]}})
    stale = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}}
    with pytest.raises(errors.Conflict, match="has been modified"):
        server.patch("asedevices", "ase", {**stale, "status": {}}, subresource="status")
    with pytest.raises(errors.Conflict):
        server.replace("asedevices", old)


def test_a_write_that_changes_nothing_is_no_write(server: ApiServer) -> None:
    before = server.create("asedevices", device())
    seen: list[Change] = []
    server.watch(seen.append)
    after = server.patch("asedevices", "ase", {"spec": {"paused": []}, "metadata": {"labels": {}}})
    assert after == before
    assert not seen


def test_spec_and_status_are_written_apart(server: ApiServer) -> None:
    made = server.create("asedevices", device())
    assert "status" not in made
    both = {"spec": {"paused": ["x"]}, "status": {"state": "Offline"}}
    main = server.patch("asedevices", "ase", both)
    assert (main["spec"], main.get("status")) == ({"paused": ["x"]}, None)
    assert main["metadata"]["generation"] == 2
    both = {"spec": {"paused": ["y"]}, "status": {"state": "Offline"}}
    both["metadata"] = {"annotations": {"a": "b"}}
    status = server.patch("asedevices", "ase", both, subresource="status")
    assert (status["spec"], status["status"]) == ({"paused": ["x"]}, {"state": "Offline"})
    assert status["metadata"]["generation"] == 2
    assert "annotations" not in status["metadata"]


def test_a_write_to_a_nodes_status_may_annotate_it(server: ApiServer) -> None:
    server.create("nodes", {"metadata": {"name": "n"}, "spec": {}, "status": {"capacity": {}}})
    patch = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {"unschedulable": True},
        "status": {"capacity": {"nvidia.com/gpu": "1"}},
    }
    after = server.patch("nodes", "n", patch, subresource="status")
    assert after["metadata"]["annotations"] == {"a": "b"}
    assert after["status"] == {"capacity": {"nvidia.com/gpu": "1"}}
    assert after["spec"] == {}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda s: s.create("pods", pod()), errors.AlreadyExists, id="twice"),
        pytest.param(lambda s: s.read("pods", "x", "shop"), errors.NotFound, id="unknown"),
        pytest.param(lambda s: s.listed("gizmos"), errors.NotFound, id="no-such-kind"),
        pytest.param(
            lambda s: s.create("pods", pod(), "nowhere"), errors.NotFound, id="no-namespace"
        ),
        pytest.param(
            lambda s: s.create("pods", pod("y", resourceVersion="1")), errors.Invalid, id="version"
        ),
        pytest.param(
            lambda s: s.delete("pods", "web", "shop", uid="other"), errors.Conflict, id="uid"
        ),
        pytest.param(
            lambda s: s.delete("pods", "web", "shop", resource_version="1"),
            errors.Conflict,
            id="precondition",
        ),
    ],
)
def test_it_refuses(
    server: ApiServer, call: Callable[[ApiServer], object], error: type[Exception]
) -> None:
    server.create("pods", pod())
    with pytest.raises(error):
        call(server)


def test_a_finalizer_holds_a_deleted_object(server: ApiServer) -> None:
    server.create("asedevices", {**device(), "metadata": {"name": "ase", "finalizers": ["f/x"]}})
    held = server.delete("asedevices", "ase")
    assert held["metadata"]["deletionTimestamp"] == "1970-01-01T00:16:40Z"
    with pytest.raises(errors.Invalid, match="no new finalizers"):
        server.patch("asedevices", "ase", {"metadata": {"finalizers": ["f/x", "f/y"]}})
    server.patch("asedevices", "ase", {"metadata": {"finalizers": None}})
    assert server.find("asedevices", "ase") is None


def test_a_pod_is_deleted_with_grace_and_at_once_without(server: ApiServer, clock: Clock) -> None:
    server.create("pods", pod(node="n"))
    going = server.delete("pods", "web", "shop")
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    assert going["metadata"]["deletionTimestamp"] == "1970-01-01T00:17:10Z"
    clock.now += 5
    assert server.delete("pods", "web", "shop") == going, "a second deletion does not prolong it"
    gone = server.delete("pods", "web", "shop", grace_seconds=0)
    assert gone["kind"] == "Pod"
    assert server.find("pods", "web", "shop") is None


def test_a_pod_that_nobody_runs_goes_at_once(server: ApiServer) -> None:
    server.create("pods", pod())
    server.delete("pods", "web", "shop")
    assert server.find("pods", "web", "shop") is None


def test_a_forced_pod_with_a_finalizer_stays_until_it_is_released(server: ApiServer) -> None:
    server.create("pods", pod(node="n", finalizers=["batch.kubernetes.io/job-tracking"]))
    held = server.delete("pods", "web", "shop", grace_seconds=0)
    assert held["metadata"]["deletionGracePeriodSeconds"] == 0
    server.patch("pods", "web", {"metadata": {"finalizers": None}}, "shop")
    assert server.find("pods", "web", "shop") is None


def test_a_terminating_namespace_takes_nothing_new(server: ApiServer) -> None:
    server.delete("namespaces", "shop")
    with pytest.raises(errors.Forbidden, match="being terminated"):
        server.create("pods", pod())


def test_a_quota_counts_at_creation(server: ApiServer) -> None:
    quota(server, hard={"requests.cpu": "250m"}, used={"requests.cpu": "100m"})
    server.create("pods", pod("one"))
    used = server.read("resourcequotas", "q", "shop")["status"]["used"]
    assert used == {"requests.cpu": "200m"}
    with pytest.raises(errors.Forbidden, match=r"exceeded quota: q, requested: requests.cpu=100m"):
        server.create("pods", pod("two"))


def test_a_quota_on_requests_refuses_a_pod_that_states_none(server: ApiServer) -> None:
    quota(server, hard={"requests.cpu": "1"}, used={"requests.cpu": "0"})
    with pytest.raises(errors.Forbidden, match=r"must specify requests.cpu for: main"):
        server.create("pods", pod(cpu=None))


def test_a_limit_range_states_what_a_pod_does_not(server: ApiServer) -> None:
    quota(server, hard={"requests.cpu": "1"}, used={"requests.cpu": "0"})
    limits = {"limits": [{"type": "Container", "defaultRequest": {"cpu": "10m", "memory": "8Mi"}}]}
    meta = {"name": "own", "namespace": "shop"}
    server.create("limitranges", {"metadata": meta, "spec": limits}, "shop")
    made = server.create("pods", pod(cpu=None))
    requests = {"cpu": "10m", "memory": "8Mi"}
    assert made["spec"]["containers"][0]["resources"] == {"requests": requests}


def budget(name: str = "b", **spec: Any) -> Json:
    selector = {"matchLabels": {"app": "web"}}
    meta = {"name": name, "namespace": "shop"}
    return {"metadata": meta, "spec": {"selector": selector, **spec}}


def web(server: ApiServer, count: int) -> None:
    """A ReplicaSet with as many Ready pods."""
    body = {"metadata": {"name": "rs", "namespace": "shop"}, "spec": {"replicas": count}}
    owner = server.create("replicasets", body, "shop")
    ref = {"kind": "ReplicaSet", "name": "rs", "uid": owner["metadata"]["uid"], "controller": True}
    for number in range(count):
        name = f"web-{number}"
        server.create("pods", pod(name, node="n", ownerReferences=[ref]))
        status = {
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        }
        server.patch("pods", name, status, "shop", subresource="status")


@pytest.mark.parametrize(
    ("count", "spec", "allowed"),
    [
        pytest.param(1, {"minAvailable": 1}, 0, id="C02a"),
        pytest.param(3, {"minAvailable": "50%"}, 1, id="C02b"),
        pytest.param(2, {"maxUnavailable": "25%"}, 1, id="C02c"),
        pytest.param(2, {"maxUnavailable": 0}, 0, id="C02d"),
    ],
)
def test_a_budget_lets_go_as_many_as_it_can(
    server: ApiServer, count: int, spec: Json, allowed: int
) -> None:
    server.create("poddisruptionbudgets", budget(**spec), "shop")
    web(server, count)
    for number in range(allowed):
        evict(server, "shop", f"web-{number}", {})
    with pytest.raises(errors.TooManyRequests, match="disruption budget b needs"):
        evict(server, "shop", f"web-{allowed}", {})


def test_a_bare_pod_is_never_let_go_by_max_unavailable(server: ApiServer) -> None:
    server.create("poddisruptionbudgets", budget(maxUnavailable=1), "shop")
    server.create("pods", pod(node="n"))
    with pytest.raises(errors.TooManyRequests):
        evict(server, "shop", "web", {})


def test_two_budgets_are_an_error_of_their_own(server: ApiServer) -> None:
    for name in ("a", "b"):
        server.create("poddisruptionbudgets", budget(name, minAvailable=0), "shop")
    web(server, 1)
    with pytest.raises(errors.Unavailable, match="more than one PodDisruptionBudget"):
        evict(server, "shop", "web-0", {})


def test_a_body_that_was_handed_out_never_changes(server: ApiServer) -> None:
    seen: list[tuple[Json, Json]] = []
    server.watch(lambda change: seen.append((change.body, copy.deepcopy(change.body))))
    web(server, 2)
    server.patch("pods", "web-0", {"metadata": {"labels": {"app": "other"}}}, "shop")
    server.delete("pods", "web-0", "shop")
    server.delete("pods", "web-1", "shop", grace_seconds=0)
    assert len(seen) == 8
    for kept, copied in seen:
        assert kept == copied
