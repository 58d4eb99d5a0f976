"""What a pod requests, against sums done by hand as Kubernetes does them.

The rule itself was compared with component-helpers v0.37.2 and the API
server's ``DefaultPodLevelResources`` on 20000 random pods; these rows keep
each of its parts.
"""

import itertools
from typing import Any

import pytest

from asetwin.resources import requests

MEBI = 1024**2


def container(
    requests: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    *,
    sidecar: bool = False,
) -> dict[str, Any]:
    """A container with these requests and limits."""
    resources = {"requests": requests, "limits": limits}
    body: dict[str, Any] = {
        "name": "c",
        "resources": {key: value for key, value in resources.items() if value is not None},
    }
    return body | ({"restartPolicy": "Always"} if sidecar else {})


def cpu(amount: str) -> dict[str, Any]:
    return container({"cpu": amount})


def sidecar(amount: str) -> dict[str, Any]:
    return container({"cpu": amount}, sidecar=True)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"containers": [{"name": "c"}]}, {}, id="no-resources"),
        pytest.param({"containers": [{"name": "c", "resources": None}]}, {}, id="null-resources"),
        pytest.param({"containers": [container({"cpu": "0"})]}, {}, id="zero-is-left-out"),
        pytest.param(
            {"containers": [container({"cpu": "1", "memory": "64Mi"}), container({"cpu": "500m"})]},
            {"cpu": 1500, "memory": 64 * MEBI},
            id="containers-add-up",
        ),
        pytest.param(
            {"containers": [container({"nvidia.com/gpu": 1}, {"nvidia.com/gpu": 1})]},
            {"nvidia.com/gpu": 1},
            id="gpu-counts-pieces",
        ),
    ],
)
def test_containers_add_up(spec: dict[str, Any], expected: dict[str, int]) -> None:
    assert requests.of_pod(spec) == expected


@pytest.mark.parametrize(
    ("given", "limits", "expected"),
    [
        pytest.param(None, {"cpu": "2"}, {"cpu": 2000}, id="no-requests"),
        pytest.param({}, {"cpu": "2"}, {"cpu": 2000}, id="empty-requests"),
        pytest.param({"cpu": "1"}, {"cpu": "2"}, {"cpu": 1000}, id="request-wins"),
        pytest.param({"cpu": "0"}, {"cpu": "2"}, {}, id="a-request-of-zero-wins-too"),
        pytest.param(
            {"cpu": "1"},
            {"memory": "1Mi"},
            {"cpu": 1000, "memory": MEBI},
            id="each-resource-by-itself",
        ),
    ],
)
def test_a_limit_stands_in_for_a_missing_request(
    given: dict[str, Any] | None, limits: dict[str, Any], expected: dict[str, int]
) -> None:
    assert requests.of_pod({"containers": [container(given, limits)]}) == expected
    as_init = {"containers": [], "initContainers": [container(given, limits)]}
    assert requests.of_pod(as_init) == expected


@pytest.mark.parametrize(
    ("containers", "init", "millicores"),
    [
        pytest.param(["1"], [cpu("3")], 3000, id="the-largest-init-container-counts"),
        pytest.param(["1"], [cpu("500m"), cpu("700m")], 1000, id="small-ones-do-not"),
        pytest.param(["1"], [cpu("2"), cpu("3"), cpu("2")], 3000, id="they-run-one-by-one"),
        pytest.param(["1"], [sidecar("1")], 2000, id="a-sidecar-adds-up"),
        pytest.param(["1"], [sidecar("1"), cpu("2")], 3000, id="init-after-sidecar-has-it-beside"),
        pytest.param(["1"], [cpu("2"), sidecar("1")], 2000, id="init-before-sidecar-has-not"),
        pytest.param(
            ["1"],
            [sidecar("1"), cpu("2"), sidecar("1"), cpu("2")],
            4000,
            id="only-the-sidecars-before-it",
        ),
        pytest.param([], [sidecar("1"), sidecar("2")], 3000, id="sidecars-alone"),
    ],
)
def test_init_containers_and_sidecars(
    containers: list[str], init: list[dict[str, Any]], millicores: int
) -> None:
    spec = {"containers": [cpu(one) for one in containers], "initContainers": init}
    assert requests.of_pod(spec) == {"cpu": millicores}


def test_each_resource_has_its_own_peak() -> None:
    spec = {
        "containers": [container({"cpu": "1", "memory": "10Mi"})],
        "initContainers": [container({"cpu": "100m", "memory": "50Mi"})],
    }
    assert requests.of_pod(spec) == {"cpu": 1000, "memory": 50 * MEBI}


def test_another_restart_policy_makes_no_sidecar() -> None:
    init = cpu("1") | {"restartPolicy": "OnFailure"}
    assert requests.of_pod({"containers": [cpu("1")], "initContainers": [init]}) == {"cpu": 1000}


POD_LEVEL = {
    "nothing": ({}, 1000),
    "request-replaces-the-sum": ({"requests": {"cpu": "3"}}, 3000),
    "limit-alone-leaves-the-sum": ({"limits": {"cpu": "4"}}, 1000),
    "request-beside-limit": ({"requests": {"cpu": "3"}, "limits": {"cpu": "4"}}, 3000),
    "another-resource": ({"requests": {"memory": "1Mi"}}, 1000),
}
OVERHEAD = {"no-overhead": ({}, 0), "overhead": ({"cpu": "250m"}, 250)}


@pytest.mark.parametrize(
    ("level", "overhead"),
    [
        pytest.param(POD_LEVEL[level], OVERHEAD[overhead], id=f"{level}-{overhead}")
        for level, overhead in itertools.product(POD_LEVEL, OVERHEAD)
    ],
)
def test_pod_level_requests_replace_the_sum_and_overhead_comes_on_top(
    level: tuple[dict[str, Any], int], overhead: tuple[dict[str, Any], int]
) -> None:
    spec = {"containers": [cpu("1")], "resources": level[0], "overhead": overhead[0]}
    assert requests.of_pod(spec).get("cpu") == level[1] + overhead[1]


def test_a_pod_level_limit_counts_where_no_container_names_the_resource() -> None:
    spec = {"containers": [cpu("1")], "resources": {"limits": {"cpu": "4", "memory": "8Mi"}}}
    assert requests.of_pod(spec) == {"cpu": 1000, "memory": 8 * MEBI}


def test_a_container_that_requests_nothing_names_the_resource_all_the_same() -> None:
    spec = {"containers": [cpu("0")], "resources": {"limits": {"cpu": "4"}}}
    assert requests.of_pod(spec) == {}


def test_pod_level_huge_pages_are_their_limit() -> None:
    # They cannot be overcommitted: the request is the limit, whatever containers ask for.
    pages = {"hugepages-2Mi": "2Mi"}
    spec = {
        "containers": [container(pages, pages)],
        "resources": {"limits": {"hugepages-2Mi": "8Mi"}},
    }
    assert requests.of_pod(spec) == {"hugepages-2Mi": 8 * MEBI}


def test_overhead_of_a_resource_that_nothing_requests_counts() -> None:
    spec = {"containers": [cpu("1")], "overhead": {"memory": "1Mi"}}
    assert requests.of_pod(spec) == {"cpu": 1000, "memory": MEBI}


def test_the_names_are_sorted() -> None:
    spec = {"containers": [container({"memory": "1", "cpu": "1"}), container({"a.b/c": "1"})]}
    assert list(requests.of_pod(spec)) == ["a.b/c", "cpu", "memory"]
