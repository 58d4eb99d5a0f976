"""What a pod demands of the place where it runs, apart from requests and volumes.

Read as the scheduler reads them; what the API server would have filled in or
merged (``matchLabelKeys``, host network ports) is done here too, so that a
manifest and a stored pod read the same. Only what can keep a pod from a Node
is kept: preferences and ScheduleAnyway constraints are left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

Json = Mapping[str, Any]

_WHOLE = re.compile(r"[+-]?[0-9]{1,63}")
FIELD_NAME = ".metadata.name"
"""The key under which ``matchFields`` finds a Node's name; no label can have it."""


class Taint(NamedTuple):
    """A Node's taint; it is identified by key and effect."""

    key: str
    effect: str
    value: str = ""

    @property
    def identity(self) -> str:
        """``key:effect``, as kubectl writes it."""
        return f"{self.key}:{self.effect}"


class Toleration(NamedTuple):
    """A toleration; an empty key or effect matches any."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def matches(self, taint: Taint) -> bool:
        """Whether a pod with this toleration stands that taint."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


def whole(text: str) -> int | None:
    """A whole number as Go reads it, in 64 bits; None where it is none.

    The API server takes ``Gt`` with any text, which the scheduler then matches
    with no Node. Source: strconv.ParseInt, labels.NewRequirement.
    """
    number = int(text) if _WHOLE.fullmatch(text) else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


class Requirement(NamedTuple):
    """One ``matchExpressions`` entry of a label or node selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels fulfils it."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                has, bound = whole(value or ""), whole(self.values[0])
                if has is None or bound is None:
                    return False
                return has > bound if self.operator == "Gt" else has < bound
        return False


Term = tuple[Requirement, ...]
"""One ``nodeSelectorTerms`` entry; one without requirements selects no Node."""


class Selector(NamedTuple):
    """A ``metav1.LabelSelector``; without requirements it selects everything, None nothing."""

    requirements: tuple[Requirement, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether it selects these labels."""
        for one in self.requirements:
            # The common case first: this runs for every pair of pods.
            if one.operator == "In":
                if labels.get(one.key) not in one.values:
                    return False
            elif not one.holds(labels):
                return False
        return True

    @classmethod
    def read(cls, body: Json | None) -> Self | None:
        if body is None:
            return None
        pairs = sorted((body.get("matchLabels") or {}).items())
        stated = (requirement(one) for one in body.get("matchExpressions") or ())
        return cls((*(Requirement(key, "In", (value,)) for key, value in pairs), *stated))


class PodTerm(NamedTuple):
    """One required term of pod affinity or anti-affinity."""

    topology_key: str
    selector: Selector | None
    namespaces: tuple[str, ...] = ()
    namespace_selector: Selector | None = None


class Spread(NamedTuple):
    """A topology spread constraint that says DoNotSchedule."""

    topology_key: str
    max_skew: int
    selector: Selector | None
    min_domains: int = 1
    honors_affinity: bool = True
    """Whether Nodes that the pod's own selector excludes are no domains."""
    honors_taints: bool = False


Port = tuple[str, str, int]
"""Protocol, host IP and port."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What a pod demands of its Node, apart from requests and volumes."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    node_terms: tuple[Term, ...] | None = None
    """Required node affinity; None where there is none."""
    tolerations: tuple[Toleration, ...] = ()
    host_ports: tuple[Port, ...] = ()
    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    spreads: tuple[Spread, ...] = ()
    priority: int = 0
    preempts: bool = True
    is_gated: bool = False
    """Whether scheduling gates keep it from the scheduler altogether."""

    @classmethod
    def read(cls, spec: Json, meta: Json | None = None) -> Self:
        """From a pod's ``spec``; ``metadata`` tells its namespace and labels."""
        affinity: Json = spec.get("affinity") or {}
        required = (affinity.get("nodeAffinity") or {}).get(_REQUIRED)
        labels: Json = (meta or {}).get("labels") or {}
        space = (meta or {}).get("namespace") or ""
        return cls(
            node_selector=spec.get("nodeSelector") or {},
            node_terms=(
                tuple(node_term(one) for one in required.get("nodeSelectorTerms") or ())
                if required is not None
                else None
            ),
            tolerations=tuple(
                Toleration(
                    one.get("key") or "",
                    one.get("operator") or "Equal",
                    one.get("value") or "",
                    one.get("effect") or "",
                )
                for one in spec.get("tolerations") or ()
            ),
            host_ports=tuple(_host_ports(spec)),
            affinity=_pod_terms(affinity.get("podAffinity"), space, labels),
            anti_affinity=_pod_terms(affinity.get("podAntiAffinity"), space, labels),
            spreads=tuple(
                _spread(one, labels)
                for one in spec.get("topologySpreadConstraints") or ()
                if one.get("whenUnsatisfiable") == "DoNotSchedule"
            ),
            priority=int(spec.get("priority") or 0),
            preempts=spec.get("preemptionPolicy") != "Never",
            is_gated=bool(spec.get("schedulingGates")),
        )


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def requirement(body: Json) -> Requirement:
    return Requirement(body["key"], body["operator"], tuple(body.get("values") or ()))


def node_term(body: Json) -> Term:
    """A ``nodeSelectorTerms`` entry; its fields are requirements on :data:`FIELD_NAME`."""
    return (
        *(requirement(one) for one in body.get("matchExpressions") or ()),
        *(requirement(one)._replace(key=f".{one['key']}") for one in body.get("matchFields") or ()),
    )


def selects_node(terms: tuple[Term, ...], name: str, labels: Mapping[str, str]) -> bool:
    """Whether one of the terms selects a Node."""
    seen = {**labels, FIELD_NAME: name}
    return any(term and all(one.holds(seen) for one in term) for term in terms)


def _host_ports(spec: Json) -> Iterator[Port]:
    """Of app containers and sidecars; with the host's network, every port is the host's."""
    # Source: the scheduler's GetHostPorts, and the API server's SetHostNetworkPorts.
    containers = [
        *(one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"),
        *(spec.get("containers") or ()),
    ]
    is_host = bool(spec.get("hostNetwork"))
    for container in containers:
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (port.get("containerPort") if is_host else 0)
            if number:
                yield port.get("protocol") or "TCP", port.get("hostIP") or "", int(number)


def _pod_terms(body: Json | None, space: str, labels: Json) -> tuple[PodTerm, ...]:
    found = []
    for one in (body or {}).get(_REQUIRED) or ():
        spaces, chosen = one.get("namespaces") or (), one.get("namespaceSelector")
        found.append(
            PodTerm(
                one["topologyKey"],
                _merged(one, labels),
                tuple(sorted(spaces)) if spaces or chosen is not None else (space,),
                Selector.read(chosen),
            )
        )
    return tuple(found)


def _spread(body: Json, labels: Json) -> Spread:
    return Spread(
        body["topologyKey"],
        int(body.get("maxSkew") or 1),
        _merged(body, labels),
        int(body.get("minDomains") or 1),
        (body.get("nodeAffinityPolicy") or "Honor") == "Honor",
        (body.get("nodeTaintsPolicy") or "Ignore") == "Honor",
    )


def _merged(body: Json, labels: Json) -> Selector | None:
    """The label selector with ``matchLabelKeys`` and ``mismatchLabelKeys`` in it.

    The API server merges them when it stores a pod; doing it twice changes nothing.
    """
    selector = Selector.read(body.get("labelSelector"))
    if selector is None:
        return None
    more = [
        Requirement(key, operator, (labels[key],))
        for part, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for key in body.get(part) or ()
        if key in labels
    ]
    kept = [one for one in more if one not in selector.requirements]
    return Selector((*selector.requirements, *kept))
