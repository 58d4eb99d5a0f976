"""The eviction subresource and the accounting of PodDisruptionBudgets.

Sources: Kubernetes' pod eviction storage and disruption controller. How much
is allowed is counted at the moment of the eviction instead of read from a
status that a controller has written: there is no race to lose here.
"""

import math
from typing import TYPE_CHECKING, Any

from asetwin.kube import errors
from asetwin.sim import bodies
from asetwin.sim.bodies import Json

if TYPE_CHECKING:
    from asetwin.sim.apiserver import ApiServer

_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "ReplicaSet": "replicasets"}


def evict(server: "ApiServer", namespace: str, name: str, body: Json) -> Json:
    """Delete a pod if its budget allows it; raises TooManyRequests, or Unavailable for two."""
    pod = server.read("pods", name, namespace)
    options: dict[str, Any] = body.get("deleteOptions") or {}
    preconditions = options.get("preconditions") or {}
    if not (bodies.is_over(pod) or bodies.is_deleting(pod) or not bodies.node_of(pod)):
        _check(server, pod)
    server.delete(
        "pods",
        name,
        namespace,
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
        grace_seconds=options.get("gracePeriodSeconds"),
    )
    return {"kind": "Status", "apiVersion": "v1", "status": "Success"}


def _check(server: "ApiServer", pod: Json) -> None:
    namespace, name = bodies.key(pod)
    found = [
        one
        for one in server.listed("poddisruptionbudgets", namespace)
        if bodies.selects(one["spec"].get("selector"), bodies.labels(pod))
    ]
    asked = f"POST pods/{name}/eviction"
    if len(found) > 1:
        text = (
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does "
            "not support."
        )
        raise errors.from_status(500, {"message": text, "reason": "InternalError"}, asked)
    if not found:
        return
    healthy, needed, expected = budget(server, found[0])
    policy = found[0]["spec"].get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
    is_free = policy == "AlwaysAllow" or healthy >= needed > 0
    if not bodies.is_ready(pod) and is_free:
        return
    if healthy - needed <= 0 or not expected:
        text = (
            "Cannot evict pod as it would violate the pod's disruption budget. The disruption "
            f"budget {found[0]['metadata']['name']} needs {needed} healthy pods and has {healthy} "
            "currently"
        )
        raise errors.from_status(429, {"message": text, "reason": "TooManyRequests"}, asked)


def budget(server: "ApiServer", one: Json) -> tuple[int, int, int]:
    """How many pods a budget sees healthy, how many it needs, and how many it expects."""
    namespace, spec = one["metadata"]["namespace"], one["spec"]
    pods = [
        pod
        for pod in server.listed("pods", namespace)
        if bodies.selects(spec.get("selector"), bodies.labels(pod)) and not bodies.is_over(pod)
    ]
    healthy = sum(1 for pod in pods if bodies.is_ready(pod) and not bodies.is_deleting(pod))
    expected = _expected(server, pods)
    if spec.get("maxUnavailable") is not None:
        needed = max(0, expected - _amount(spec["maxUnavailable"], expected))
        return healthy, needed, expected
    least = spec.get("minAvailable", 1)
    if isinstance(least, str):
        return healthy, _amount(least, expected), expected
    # Source: with a number for minAvailable the controller expects as many pods as there are.
    return healthy, int(least), len(pods)


def _expected(server: "ApiServer", pods: list[Json]) -> int:
    """The sum of the replicas of the pods' controllers; bare pods count nothing."""
    seen: dict[str, int] = {}
    for pod in pods:
        owner = bodies.controller(pod)
        if owner is None or owner["kind"] not in _PLURALS:
            continue
        found = server.find(_PLURALS[owner["kind"]], owner["name"], pod["metadata"]["namespace"])
        if found is None:
            continue
        above = bodies.controller(found)
        if above is not None and above["kind"] in _PLURALS:
            found = (
                server.find(_PLURALS[above["kind"]], above["name"], pod["metadata"]["namespace"])
                or found
            )
        seen[bodies.uid(found)] = int(found["spec"].get("replicas", 1))
    return sum(seen.values())


def _amount(value: int | str, total: int) -> int:
    """A number or a percentage; both budgets round up."""
    if isinstance(value, str) and value.endswith("%"):
        return math.ceil(total * int(value[:-1]) / 100)
    return int(value)
