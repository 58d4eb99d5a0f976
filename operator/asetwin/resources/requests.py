"""What a pod requests, summed as Kubernetes sums it.

Source: ``component-helpers/resource.PodRequests``, which the scheduler and
the quota evaluator share: the larger of (app containers + sidecars) and of
each init container together with the sidecars started before it; pod-level
requests replace that sum for the resources they name; overhead comes on top.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from asetwin.resources import quantities


def of_pod(spec: Mapping[str, Any]) -> dict[str, int]:
    """Millicores, bytes and pieces by resource name; a limit stands in for a missing request."""
    # The API server fills requests from limits before it stores a pod, so a stored pod has
    # them already; a manifest that has not been through it has not.
    return _total(spec, _of_container, _of_pod_level)


def limits_of_pod(spec: Mapping[str, Any]) -> dict[str, int]:
    """The limits, summed alike; a container without one adds nothing, as in a quota."""
    everyone = (spec, *(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    if not any((one.get("resources") or {}).get("limits") for one in everyone):
        return {}
    return _total(spec, _limits, lambda whole, _: _limits(whole))


def _total(
    spec: Mapping[str, Any],
    of_container: Callable[[Mapping[str, Any]], dict[str, int]],
    of_pod_level: Callable[[Mapping[str, Any], set[str]], dict[str, int]],
) -> dict[str, int]:
    running = Counter[str]()
    named = set[str]()
    for container in spec.get("containers") or ():
        own = of_container(container)
        running.update(own)
        named.update(own)
    sidecars, peak = Counter[str](), Counter[str]()
    for container in spec.get("initContainers") or ():
        own = Counter(of_container(container))
        named.update(own)
        if container.get("restartPolicy") == "Always":
            running.update(own)
            sidecars.update(own)
            peak |= sidecars
        else:
            peak |= own + sidecars
    total = Counter({**(running | peak), **of_pod_level(spec, named)})
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


def _limits(of: Mapping[str, Any]) -> dict[str, int]:
    stated = (of.get("resources") or {}).get("limits") or {}
    return {name: quantities.units(name, value) for name, value in stated.items()}
