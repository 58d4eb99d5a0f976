"""Types of the fields that the check reads, and what is wrong with a document that breaks them.

Only these fields are looked at: the API server validates the rest better. A
schema is a dict of fields (one with ``!`` is required), a list of one schema,
a tuple of the words that are allowed, or one of the classes here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from asetwin.resources import quantities

Path = tuple[str | int, ...]


class Fault(NamedTuple):
    """A field that is not what it has to be."""

    path: Path
    message: str

    @property
    def field(self) -> str:
        """As kubectl writes it: ``spec.containers[0].name``."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return text


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, with what it has to be in words."""

    wanted: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with any keys."""

    of: Any


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_quantity(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return quantities.parse(value) >= 0
    except ValueError:
        return False


def _is_share(value: Any) -> bool:
    if isinstance(value, str):
        return value.endswith("%") and value[:-1].isdecimal()
    return _is_int(value) and value >= 0


STR = Scalar(
    "a string; put it in quotes if it looks like a number, or like yes or no",
    lambda value: isinstance(value, str),
)
INT = Scalar("a whole number", _is_int)
COUNT = Scalar("a whole number, 0 or more", lambda value: _is_int(value) and value >= 0)
BOOL = Scalar("true or false", lambda value: isinstance(value, bool))
PORT = Scalar("a port from 1 to 65535", lambda value: _is_int(value) and 0 < value < 65536)
QUANTITY = Scalar("a quantity such as 500m, 2 or 1.5Gi", _is_quantity)
SHARE = Scalar('a whole number or a percentage such as "25%"', _is_share)

_REQUIREMENT = {
    "key!": STR,
    "operator!": ("In", "NotIn", "Exists", "DoesNotExist"),
    "values": [STR],
}
_SELECTOR = {"matchLabels": MapOf(STR), "matchExpressions": [_REQUIREMENT]}
_NODE_REQUIREMENT = {
    "key!": STR,
    "operator!": ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    "values": [STR],
}
_NODE_TERM = {"matchExpressions": [_NODE_REQUIREMENT], "matchFields": [_NODE_REQUIREMENT]}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_POD_TERMS = {
    _REQUIRED: [
        {
            "topologyKey!": STR,
            "labelSelector": _SELECTOR,
            "namespaces": [STR],
            "namespaceSelector": _SELECTOR,
            "matchLabelKeys": [STR],
            "mismatchLabelKeys": [STR],
        }
    ]
}
_RESOURCES = {"requests": MapOf(QUANTITY), "limits": MapOf(QUANTITY)}
_CONTAINER = {
    "name!": STR,
    "resources": _RESOURCES,
    "restartPolicy": STR,
    "ports": [
        {
            "containerPort": PORT,
            "hostPort": PORT,
            "protocol": ("TCP", "UDP", "SCTP"),
            "hostIP": STR,
        }
    ],
}
_META = {
    "name!": STR,
    "namespace": STR,
    "labels": MapOf(STR),
    "annotations": MapOf(STR),
}
_CLAIM_SPEC = {
    "storageClassName": STR,
    "volumeName": STR,
    "accessModes": [STR],
    "resources": _RESOURCES,
}
_POD_SPEC = {
    "containers!": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "nodeName": STR,
    "nodeSelector": MapOf(STR),
    "affinity": {
        "nodeAffinity": {_REQUIRED: {"nodeSelectorTerms!": [_NODE_TERM]}},
        "podAffinity": _POD_TERMS,
        "podAntiAffinity": _POD_TERMS,
    },
    "tolerations": [
        {
            "key": STR,
            "operator": ("Exists", "Equal"),
            "value": STR,
            "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute", ""),
        }
    ],
    "topologySpreadConstraints": [
        {
            "maxSkew!": INT,
            "topologyKey!": STR,
            "whenUnsatisfiable!": ("DoNotSchedule", "ScheduleAnyway"),
            "labelSelector": _SELECTOR,
            "minDomains": INT,
            "nodeAffinityPolicy": ("Honor", "Ignore"),
            "nodeTaintsPolicy": ("Honor", "Ignore"),
            "matchLabelKeys": [STR],
        }
    ],
    "volumes": [
        {
            "name!": STR,
            "persistentVolumeClaim": {"claimName!": STR},
            "hostPath": {"path!": STR},
            "ephemeral": {"volumeClaimTemplate": {"spec": _CLAIM_SPEC}},
        }
    ],
    "schedulingGates": [{"name!": STR}],
    "hostNetwork": BOOL,
    "overhead": MapOf(QUANTITY),
    "resources": _RESOURCES,
    "priority": INT,
    "priorityClassName": STR,
    "preemptionPolicy": ("Never", "PreemptLowerPriority"),
}
_TEMPLATE_META = {name.rstrip("!"): value for name, value in _META.items()}
_TEMPLATE = {"metadata": _TEMPLATE_META, "spec!": _POD_SPEC}
_SCALED = {"replicas": COUNT, "selector": _SELECTOR, "template!": _TEMPLATE}
_JOB_SPEC = {"parallelism": COUNT, "completions": COUNT, "template!": _TEMPLATE}
_CLAIM = {"metadata": _TEMPLATE_META, "spec!": _CLAIM_SPEC}

SCHEMAS: dict[str, Any] = {
    "Deployment": {
        "spec!": {
            **_SCALED,
            "strategy": {
                "type": ("Recreate", "RollingUpdate"),
                "rollingUpdate": {"maxSurge": SHARE, "maxUnavailable": SHARE},
            },
        }
    },
    "ReplicaSet": {"spec!": _SCALED},
    "StatefulSet": {"spec!": {**_SCALED, "volumeClaimTemplates": [_CLAIM]}},
    "DaemonSet": {"spec!": {"selector": _SELECTOR, "template!": _TEMPLATE}},
    "Job": {"spec!": _JOB_SPEC},
    "CronJob": {"spec!": {"schedule": STR, "jobTemplate!": {"spec!": _JOB_SPEC}}},
    "Pod": {"spec!": _POD_SPEC},
    "PersistentVolumeClaim": {"spec!": _CLAIM_SPEC},
    "PersistentVolume": {
        "spec!": {"nodeAffinity": {"required": {"nodeSelectorTerms!": [_NODE_TERM]}}}
    },
    "PodDisruptionBudget": {
        "spec": {"selector": _SELECTOR, "minAvailable": SHARE, "maxUnavailable": SHARE}
    },
    "PriorityClass": {"value!": INT, "globalDefault": BOOL, "preemptionPolicy": STR},
    "ResourceQuota": {
        "spec": {
            "hard": MapOf(QUANTITY),
            "scopes": [STR],
            "scopeSelector": {
                "matchExpressions": [{"scopeName!": STR, "operator!": STR, "values": [STR]}]
            },
        }
    },
    "LimitRange": {
        "spec!": {
            "limits": [
                {"type!": STR, "default": MapOf(QUANTITY), "defaultRequest": MapOf(QUANTITY)}
            ]
        }
    },
    "Namespace": {},
}
"""By kind, without what every object has."""


def faults(kind: str, body: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with a document of one of these kinds; empty where nothing is."""
    return list(_walk(body, {"metadata!": _META, **SCHEMAS[kind]}, ()))


def _walk(value: Any, schema: Any, path: Path) -> Iterator[Fault]:
    if isinstance(schema, Scalar):
        if not schema.accepts(value):
            yield Fault(path, f"must be {schema.wanted}; it is {_shown(value)}")
    elif isinstance(schema, tuple):
        if value not in schema:
            words = " or ".join(one for one in schema if one)
            yield Fault(path, f"must be {words}; it is {_shown(value)}")
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield Fault(path, f"must be a list; it is {_shown(value)}")
        else:
            for number, one in enumerate(value):
                yield from _walk(one, schema[0], (*path, number))
    elif not isinstance(value, dict):
        yield Fault(path, f"must be an object with fields; it is {_shown(value)}")
    elif isinstance(schema, MapOf):
        for name, one in value.items():
            yield from _walk(one, schema.of, (*path, name))
    else:
        yield from _fields(value, schema, path)


def _fields(value: dict[str, Any], schema: dict[str, Any], path: Path) -> Iterator[Fault]:
    for name, inner in schema.items():
        key = name.rstrip("!")
        found = value.get(key)
        if found is not None:
            yield from _walk(found, inner, (*path, key))
        if key != name and found in (None, []):
            yield Fault((*path, key), "is missing")
    if schema is _NODE_REQUIREMENT and value.get("operator") in ("Gt", "Lt"):
        values = value.get("values")
        is_number = isinstance(values, list) and len(values) == 1 and _is_whole(values[0])
        if not is_number:
            yield Fault(
                (*path, "values"), f"must be one whole number in quotes for {value['operator']}"
            )


def _is_whole(value: Any) -> bool:
    return isinstance(value, str) and value.removeprefix("-").isdecimal()


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "true" if value is True else "false" if value is False else repr(value)[:60]
