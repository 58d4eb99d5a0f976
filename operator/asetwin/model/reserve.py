"""The 50 % reserve: what workloads may request so that one node can carry them (design 4.8).

Source: the device's sizing documentation (at most half of each node's
capacity may be used on a two-node device). Kept by a ResourceQuota in every
workload namespace. A quota counts per namespace, the budget is the device's:
so each quota is what its namespace uses plus the headroom left for all,
computed anew at every change.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from asetwin import constants
from asetwin.model.nodes import View
from asetwin.model.plan import CreateLimitRange, DeleteLimit, Step, WriteQuota
from asetwin.model.snapshot import Snapshot
from asetwin.resources import quantities
from asetwin.resources.core import Limit, Namespace, Pod
from asetwin.resources.devices import (
    AseDevice,
    LabelSelector,
    Reserve,
    ReserveRow,
    ReserveStatus,
)

RESOURCES = ("cpu", "memory", "pods", constants.GPU_RESOURCE)
QUOTA_KEYS = {
    "cpu": "requests.cpu",
    "memory": "requests.memory",
    "pods": "pods",
    constants.GPU_RESOURCE: f"requests.{constants.GPU_RESOURCE}",
}
Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Balance:
    """The device's budget and what is requested of it."""

    capacity: Amounts
    budget: Amounts
    used: Amounts
    used_by_namespace: Mapping[str, Amounts]

    @property
    def headroom(self) -> dict[str, int]:
        """What is left for all workload namespaces together."""
        return {name: max(0, self.budget[name] - self.used.get(name, 0)) for name in self.budget}

    @property
    def excess(self) -> dict[str, int]:
        """By how much the requests are above the budget; empty where they are not."""
        over = {name: self.used.get(name, 0) - self.budget[name] for name in self.budget}
        return {name: amount for name, amount in over.items() if amount > 0}


def counts(pod: Pod, now: float) -> bool:
    """Whether a ResourceQuota counts the pod.

    Source: the quota evaluator's ``QuotaV1Pod``: pods that have ended do not
    count; deleted ones do until their grace period is over, and then for one
    more, because the deletion timestamp has the grace period in it already.
    """
    if pod.is_over:
        return False
    if pod.deleting is None or pod.grace_seconds is None:
        return True
    return now <= pod.deleting + pod.grace_seconds


def balance(
    device: AseDevice, views: Sequence[View], snapshot: Snapshot, workload: set[str], now: float
) -> Balance:
    """Weigh the requests of the workload namespaces against the budget."""
    names = {one.node.name for one in views if one.node is not None}
    capacity = Counter[str]()
    for view in views:
        capacity.update(_capacity(view))
    reserved = Counter[str]()
    by_namespace: dict[str, Counter[str]] = defaultdict(Counter)
    for pod in snapshot.pods:
        if not counts(pod, now):
            continue
        amounts = {**pod.requests, "pods": 1}
        if pod.namespace in workload:
            by_namespace[pod.namespace].update(amounts)
        elif pod.node in names:
            reserved.update(amounts)
    percent = device.spec.reserve.percent
    budget = {
        name: max(0, capacity[name] * percent // 100 - reserved[name])
        for name in RESOURCES
        if capacity[name]
    }
    used = Counter[str]()
    for own in by_namespace.values():
        used.update(own)
    return Balance(capacity, budget, used, by_namespace)


def _capacity(view: View) -> dict[str, int]:
    """What a node offers, capped by the size of its worker VM; its GPUs by what works."""
    if view.node is None or view.member.worker is None:
        return {}
    offered = {name: view.node.allocatable.get(name, 0) for name in RESOURCES}
    size = view.member.worker.spec.size
    for name, limit in (("cpu", size and size.cpu), ("memory", size and size.memory)):
        if limit:
            offered[name] = min(offered[name], quantities.units(name, limit))
    return offered


def workload_namespaces(reserve: Reserve, namespaces: Iterable[Namespace]) -> set[str]:
    """The namespaces that the reserve limits."""
    excluded = constants.RESERVED_NAMESPACES | set(reserve.excluded_namespaces)
    return {
        one.name
        for one in namespaces
        if one.name not in excluded
        and not one.is_terminating
        and (reserve.namespace_selector is None or matches(reserve.namespace_selector, one.labels))
    }


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects these labels, as Kubernetes decides it."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    for one in selector.match_expressions:
        value = labels.get(one.key)
        verdict = {
            "In": value in one.values,
            "NotIn": value not in one.values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[one.operator]
        if not verdict:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The steps towards the right quotas, and what stands in the way."""

    quotas: tuple[Step, ...]
    limit_ranges: tuple[Step, ...]
    foreign: tuple[str, ...]
    """Namespaces where a foreign object bears our quota's name."""
    others: tuple[str, ...]
    """Namespaces that another device limits."""
    is_lifted: bool
    """Whether every quota of ours is lifted, as the cluster shows it."""


def rule(
    device: AseDevice,
    snapshot: Snapshot,
    weighed: Balance,
    workload: set[str],
    *,
    lifted_for: str,
) -> Verdict:
    """Bring our quotas and LimitRanges to what they should be.

    ``lifted_for`` is the id of an open failover, during which nothing is
    limited: a full quota counts a dead pod and its replacement twice and must
    not block the failover that it exists for.
    """
    quotas, foreign, others = _by_owner(device, snapshot.quotas, constants.QUOTA_NAME, snapshot)
    wanted = workload - set(foreign) - set(others)
    steps: list[Step] = [
        step
        for namespace in sorted(wanted)
        if (step := _quota(device, namespace, quotas.get(namespace), weighed, lifted_for))
    ]
    steps.extend(
        DeleteLimit("resourcequotas", name, one.name, one.uid)
        for name, one in sorted(quotas.items())
        if name not in workload
    )
    ours = [one for name, one in quotas.items() if name in wanted]
    return Verdict(
        quotas=tuple(steps),
        limit_ranges=_limit_ranges(device, snapshot, wanted),
        foreign=tuple(foreign),
        others=tuple(others),
        is_lifted=bool(lifted_for) and all(one.lifted_for and not one.hard for one in ours),
    )


def _by_owner(
    device: AseDevice, limits: Iterable[Limit], name: str, snapshot: Snapshot
) -> tuple[dict[str, Limit], list[str], list[str]]:
    ours: dict[str, Limit] = {}
    foreign: list[str] = []
    others: list[str] = []
    for one in limits:
        if one.name != name:
            continue
        if one.device == device.name:
            ours[one.namespace] = one
        elif one.device and one.device in snapshot.devices:
            others.append(one.namespace)
        elif one.device:
            # A device that is gone left it behind: whoever limits the namespace now takes it over.
            ours[one.namespace] = one
        else:
            foreign.append(one.namespace)
    return ours, sorted(foreign), sorted(others)


def _quota(
    device: AseDevice, namespace: str, existing: Limit | None, weighed: Balance, lifted_for: str
) -> WriteQuota | None:
    hard = {} if lifted_for else _hard(namespace, weighed)
    if existing is None and lifted_for:
        return None
    if existing is not None:
        is_same = _amounts(existing.hard) == _amounts(hard)
        if is_same and existing.lifted_for == lifted_for and existing.device == device.name:
            return None
    return WriteQuota(
        namespace=namespace,
        device=device.name,
        hard=hard,
        stale_keys=tuple(sorted(set(existing.hard) - set(hard))) if existing else (),
        lifted_for=lifted_for,
        resource_version=existing.resource_version if existing else None,
    )


def _hard(namespace: str, weighed: Balance) -> dict[str, str]:
    used = weighed.used_by_namespace.get(namespace, {})
    return {
        QUOTA_KEYS[name]: quantities.render(name, used.get(name, 0) + left)
        for name, left in weighed.headroom.items()
    }


def _amounts(hard: Mapping[str, str]) -> dict[str, int]:
    # The API server stores quantities in its own canonical form; compare what they mean.
    names = {key: name for name, key in QUOTA_KEYS.items()}
    return {key: quantities.units(names.get(key, key), value) for key, value in hard.items()}


def _limit_ranges(device: AseDevice, snapshot: Snapshot, wanted: set[str]) -> tuple[Step, ...]:
    """Ours goes in where a namespace has none of its own, and out where it has one."""
    ours: dict[str, Limit] = {}
    has_own: set[str] = set()
    for one in snapshot.limit_ranges:
        is_ours = one.name == constants.LIMIT_RANGE_NAME and bool(one.device)
        if is_ours and (one.device == device.name or one.device not in snapshot.devices):
            ours[one.namespace] = one
        else:
            has_own.add(one.namespace)
    needed = wanted - has_own
    return (
        *(CreateLimitRange(name, device.name) for name in sorted(needed - set(ours))),
        *(
            DeleteLimit("limitranges", name, one.name, one.uid)
            for name, one in sorted(ours.items())
            if name not in needed
        ),
    )


def status(device: AseDevice, weighed: Balance) -> ReserveStatus:
    """The reserve as the AseDevice's status shows it."""
    rows = tuple(
        row(name, weighed.used.get(name, 0), amount, weighed.capacity[name])
        for name, amount in weighed.budget.items()
    )
    # The scarcest one: a column has room for no more, and the rows have all of them.
    shares = [
        (weighed.used.get(name, 0) * 100 // amount, name)
        for name, amount in weighed.budget.items()
        if amount
    ]
    share, name = max(shares, key=lambda one: one[0], default=(0, ""))
    summary = f"{name.rpartition('/')[2]} {share}%" if name else ""
    return ReserveStatus(percent=device.spec.reserve.percent, summary=summary, resources=rows)


@lru_cache(maxsize=4096)
def row(resource: str, used: int, budget: int, capacity: int) -> ReserveRow:
    """One resource as a status shows it; amounts are as :func:`~quantities.units` counts them."""
    return ReserveRow(
        resource=resource,
        used=quantities.render(resource, used),
        budget=quantities.render(resource, budget),
        capacity=quantities.render(resource, capacity),
    )


def excess_message(weighed: Balance, limit: int = 5) -> str:
    """Which resource is over the budget, and who uses most of it."""
    parts = []
    for name in weighed.excess:
        users = sorted(
            ((own.get(name, 0), space) for space, own in weighed.used_by_namespace.items()),
            key=lambda one: (-one[0], one[1]),
        )
        top = ", ".join(
            f"{space} {quantities.render(name, amount)}"
            for amount, space in users[:limit]
            if amount
        )
        parts.append(
            f"{name}: {quantities.render(name, weighed.used[name])} requested, "
            f"{quantities.render(name, weighed.budget[name])} allowed ({top})"
        )
    return "; ".join(parts)
