"""What a pod requests, summed as Kubernetes sums it.

Source: ``component-helpers/resource.PodRequests``, which the scheduler and
the quota evaluator share: the larger of (app containers + sidecars) and of
each init container together with the sidecars started before it; pod-level
requests replace that sum for the resources they name; overhead comes on top.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from asetwin.resources import quantities


def of_pod(spec: Mapping[str, Any]) -> dict[str, int]:
    """Millicores, bytes and pieces by resource name; a limit stands in for a missing request."""
    # The API server fills requests from limits before it stores a pod, so a stored pod has
    # them already; a manifest that has not been through it has not.
    running = Counter[str]()
    named = set[str]()
    for container in spec.get("containers") or ():
        running.update(_of_container(container))
        named.update(_of_container(container))
    sidecars, peak = Counter[str](), Counter[str]()
    for container in spec.get("initContainers") or ():
        own = Counter(_of_container(container))
        named.update(own)
        if container.get("restartPolicy") == "Always":
            running.update(own)
            sidecars.update(own)
            peak |= sidecars
        else:
            peak |= own + sidecars
    total = Counter({**(running | peak), **_of_pod_level(spec, named)})
    for name, value in (spec.get("overhead") or {}).items():
        total[name] += quantities.units(name, value)
    return {name: amount for name, amount in sorted(total.items()) if amount}


def _of_pod_level(spec: Mapping[str, Any], named: set[str]) -> dict[str, int]:
    """What the pod as a whole states; its limits count where no container names the resource.

    Source: the API server's ``DefaultPodLevelResources``.
    """
    resources = spec.get("resources") or {}
    limits = {
        name: value
        for name, value in (resources.get("limits") or {}).items()
        if name not in named or name.startswith("hugepages-")
    }
    stated = {**limits, **(resources.get("requests") or {})}
    return {name: quantities.units(name, value) for name, value in stated.items()}


def _of_container(container: Mapping[str, Any]) -> dict[str, int]:
    resources = container.get("resources") or {}
    stated = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantities.units(name, value) for name, value in stated.items()}
