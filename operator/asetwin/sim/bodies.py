"""Small questions to the JSON of Kubernetes' objects, for the simulated cluster's parts."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asetwin.resources import times

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for what has none) and name."""


_PLAIN = frozenset({type(None), bool, str, int, float})


def wire_form(value: Any) -> Any:
    """A copy of what arrives after a journey as JSON; TypeError for what cannot travel."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {
            str(name): item if type(item) in _PLAIN else wire_form(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [wire_form(item) for item in value]
    raise TypeError(f"{type(value).__name__} is not JSON")


def merged(target: Any, patch: Any) -> Any:
    """The JSON merge patch (RFC 7386); neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def stamp(seconds: float) -> str:
    """A ``metav1.Time``, which has whole seconds only."""
    return times.render(math.floor(seconds)).replace(".000Z", "Z")


def micro_stamp(seconds: float) -> str:
    """A ``metav1.MicroTime``."""
    return times.render(seconds).replace("Z", "000Z")


def key(body: Json) -> Key:
    """Where an object is kept."""
    meta = body["metadata"]
    return meta.get("namespace", ""), meta["name"]


def uid(body: Json) -> str:
    """The object's uid."""
    return str(body["metadata"]["uid"])


def labels(body: Json) -> Mapping[str, str]:
    """The object's labels."""
    found: Mapping[str, str] = body["metadata"].get("labels") or {}
    return found


def annotation(body: Json, name: str, default: str = "") -> str:
    """One annotation."""
    return str((body["metadata"].get("annotations") or {}).get(name, default))


def is_deleting(body: Json) -> bool:
    """Whether somebody has asked for its end."""
    return bool(body["metadata"].get("deletionTimestamp"))


def is_over(pod: Json) -> bool:
    """Whether a pod has ended by itself."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def node_of(pod: Json) -> str:
    """The Node that a pod is bound to; empty while it is not."""
    return str(pod["spec"].get("nodeName") or "")


def has_condition(body: Json, kind: str) -> bool:
    """Whether a condition is there and True."""
    return any(
        one["type"] == kind and one["status"] == "True"
        for one in (body.get("status") or {}).get("conditions") or ()
    )


def is_ready(body: Json) -> bool:
    """Whether a pod or a Node is Ready."""
    return has_condition(body, "Ready")


def owners(body: Json) -> Iterator[Json]:
    """Its owner references."""
    yield from body["metadata"].get("ownerReferences") or ()


def controller(body: Json) -> Json | None:
    """The owner reference of its controller."""
    return next((one for one in owners(body) if one.get("controller")), None)


def owner_reference(owner: Json) -> Json:
    """The reference by which a controller owns what it creates."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def with_condition(
    conditions: Iterable[Json], kind: str, status: str, now: float, **more: str
) -> list[Json]:
    """The list of conditions with one set; its transition time moves only with its status."""
    result, moment = [], stamp(now)
    for one in conditions:
        if one["type"] != kind:
            result.append(one)
        elif one["status"] == status:
            moment = one["lastTransitionTime"]
    result.append({"type": kind, "status": status, "lastTransitionTime": moment, **more})
    return result


def selects(selector: Json | None, given: Mapping[str, str]) -> bool:
    """Whether a ``metav1.LabelSelector`` selects these labels; null selects nothing."""
    if selector is None:
        return False
    if any(given.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(requirement_holds(one, given) for one in selector.get("matchExpressions") or ())


def requirement_holds(one: Json, given: Mapping[str, str]) -> bool:
    """One ``matchExpressions`` entry of a label or node selector."""
    value = given.get(one["key"])
    values: list[str] = one.get("values") or []
    match one["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case "Lt":
            return value is not None and int(value) < int(values[0])
    raise ValueError(f"there is no operator {one['operator']}")


def tolerates(tolerations: Iterable[Json], taint: Json) -> bool:
    """Whether any of the tolerations matches the taint."""
    return any(_matches(one, taint) for one in tolerations)


def toleration_seconds(tolerations: Iterable[Json], taint: Json) -> float | None:
    """For how long a NoExecute taint is tolerated: None for not at all, infinity for ever."""
    found = [one for one in tolerations if _matches(one, taint)]
    if not found:
        return None
    stated = [float(one["tolerationSeconds"]) for one in found if "tolerationSeconds" in one]
    return min(stated, default=math.inf)


def _matches(toleration: Json, taint: Json) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    same_value = toleration.get("value", "") == taint.get("value", "")
    return bool(toleration.get("key")) and same_value
