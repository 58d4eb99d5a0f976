"""Deployments, budgets and where their pods are: what several end-to-end tests need."""

from typing import Any

from e2e.twin import Json, Twin, is_ready

HOSTNAME = "kubernetes.io/hostname"
GPU = "nvidia.com/gpu"


def on(node: str) -> list[Json]:
    """The expressions of a node affinity to one Node."""
    return [{"key": HOSTNAME, "operator": "In", "values": [node]}]


def required(node: str) -> Json:
    terms = [{"matchExpressions": on(node)}]
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    }


def preferred(node: str) -> Json:
    wish = {"weight": 100, "preference": {"matchExpressions": on(node)}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}


def deployment(twin: Twin, name: str, replicas: int, **pod_spec: Any) -> Json:
    """The sample's Deployment under another name and label."""
    (one,) = [one for one in twin.sample("workload.yaml") if one["kind"] == "Deployment"]
    labels = {"app": name}
    one["metadata"].update(name=name, namespace=twin.namespace, labels=labels)
    one["spec"].update(replicas=replicas, selector={"matchLabels": labels})
    one["spec"]["template"]["metadata"]["labels"] = labels
    spec = one["spec"]["template"]["spec"]
    spec["topologySpreadConstraints"][0]["labelSelector"] = {"matchLabels": labels}
    spec.update(pod_spec)
    return one


def budget(twin: Twin, name: str, app: str, **spec: Any) -> Json:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": twin.namespace},
        "spec": {"selector": {"matchLabels": {"app": app}}, **spec},
    }


def with_gpu(twin: Twin, name: str, replicas: int = 1, **pod_spec: Any) -> Json:
    one = deployment(twin, name, replicas, **pod_spec)
    one["spec"]["strategy"] = {"type": "Recreate"}
    one["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] = {GPU: 1}
    return one


def of(twin: Twin, app: str) -> list[Json]:
    """The pods of one Deployment, those that end included."""
    return [pod for pod in twin.pods() if pod["metadata"]["labels"].get("app") == app]


def places(twin: Twin, app: str) -> list[str]:
    """Where the Ready pods of one Deployment are, by AseNode."""
    names = {node: name for name, node in twin.nodes.items()}
    return sorted(names[pod["spec"]["nodeName"]] for pod in of(twin, app) if is_ready(pod))


def uids(twin: Twin, app: str) -> set[str]:
    """The pods of one Deployment that nobody has asked to end."""
    return {
        pod["metadata"]["uid"]
        for pod in of(twin, app)
        if "deletionTimestamp" not in pod["metadata"]
    }


def wait_moved_to(twin: Twin, survivor: str, **replicas: int) -> None:
    twin.wait(
        f"{replicas} on {survivor}",
        lambda: all(places(twin, app) == [survivor] * n for app, n in replicas.items()),
        within=60,
    )
    twin.wait(
        "the failover to be over",
        lambda: str(twin.status().get("failover", {}).get("phase")).startswith("Recovered"),
        within=60,
    )
    twin.wait_as_foretold()
