"""What a ResourceQuota charges for a pod beside its requests, and how a quota picks its pods.

Source: the quota evaluator for pods (``pkg/quota/v1/evaluator/core/pods.go``):
``PodUsageFunc``, ``Constraints`` and ``podMatchesScopeFunc``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from asetwin.resources import quantities, requests
from asetwin.resources.demands import Requirement

Json = Mapping[str, Any]

MUST_STATE: tuple[str, ...] = ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
"""Keys whose resource every container has to state, where a quota has them."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a quota looks at in a pod, apart from its requests."""

    limits: Mapping[str, int] = field(default_factory=dict)
    unstated: tuple[str, ...] = ()
    """Those of :data:`MUST_STATE` that some container leaves open."""
    priority_class: str = ""
    has_deadline: bool = False

    @classmethod
    def read(cls, spec: Json) -> Self:
        """From a pod's ``spec``."""
        return cls(
            limits=requests.limits_of_pod(spec),
            unstated=tuple(_unstated(spec)),
            priority_class=spec.get("priorityClassName") or "",
            has_deadline=spec.get("activeDeadlineSeconds") is not None,
        )


def _unstated(spec: Json) -> Iterator[str]:
    whole = spec.get("resources") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    for key in MUST_STATE:
        part, _, name = key.partition(".")
        if name in (whole.get(part) or {}):
            continue
        for container in containers:
            own = container.get("resources") or {}
            # The API server takes a limit for a request that is missing.
            if name not in (own.get(part) or {}) and name not in (own.get("limits") or {}):
                yield key
                break


def scopes(spec: Json) -> tuple[Requirement, ...]:
    """The scopes of a quota's ``spec``, both notations; all of them have to hold for a pod."""
    selector = spec.get("scopeSelector") or {}
    return (
        *(Requirement(name, "Exists") for name in spec.get("scopes") or ()),
        *(
            Requirement(one["scopeName"], one["operator"], tuple(one.get("values") or ()))
            for one in selector.get("matchExpressions") or ()
        ),
    )


def resource_of(key: str) -> str:
    """The resource that a quota's key counts."""
    return key.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")


def units(key: str, value: str | int) -> int:
    """A quantity of a quota's ``hard``: millicores, bytes or pieces."""
    return quantities.units(resource_of(key), value)
