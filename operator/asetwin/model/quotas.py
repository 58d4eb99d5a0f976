"""ResourceQuotas that nobody lifts: somebody else's, and whom they would not let in (C10).

Ours are :mod:`asetwin.model.reserve`'s and hold up no failover. A tenant's
stays as it is: :mod:`asetwin.model.losses` asks here who would be refused, and
:mod:`asetwin.model.failover` who is. Priority does not help against a quota:
it acts when a pod is created, preemption only for pods that exist.

Weighed as the quota evaluator does it (``pkg/quota/v1/evaluator/core``), from
the pods and not from the quota's status, because what counts is what will be
used once a recount has been made.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from asetwin.model import reserve
from asetwin.model.placement.rooms import Misfit
from asetwin.model.snapshot import Snapshot
from asetwin.resources import charges, quantities
from asetwin.resources.core import Limit, Pod, Requirement
from asetwin.resources.devices import AseDevice

REASON = "Quota"
OBJECTS = "count/pods"
"""The key that counts pods that have ended as well."""
REQUESTS = frozenset(key for key in charges.MUST_STATE if key.startswith("requests."))
PER_POD = frozenset({"pods", OBJECTS})
PRIORITY_CLASS = "PriorityClass"


def foreign(device: AseDevice, snapshot: Snapshot) -> tuple[Limit, ...]:
    """The quotas that a failover of this device does not lift: tenants', other devices'."""
    return tuple(
        one
        for one in snapshot.quotas
        if one.hard
        and one.device != device.name
        and (not one.device or one.device in snapshot.devices)
    )


def defaulted(snapshot: Snapshot) -> dict[str, frozenset[str]]:
    """By namespace the keys that a LimitRange may state for containers that leave them open.

    What is in somebody else's is not read, so it may state anything; ours states requests.
    """
    found: dict[str, frozenset[str]] = {}
    for one in snapshot.limit_ranges:
        keys = REQUESTS if one.device else frozenset(charges.MUST_STATE)
        found[one.namespace] = found.get(one.namespace, frozenset()) | keys
    return found


@dataclass(slots=True)
class Books:
    """What is used of some quotas; pods are let in or refused one after the other."""

    quotas: Mapping[str, Sequence[Limit]]
    """By namespace."""
    defaulted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By namespace the keys that a LimitRange states where a container does not."""
    used: dict[tuple[str, str], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter[str])
    )
    """By the quota's namespace and name, then by its key."""

    @classmethod
    def of(
        cls,
        quotas: Iterable[Limit],
        pods: Iterable[Pod],
        *,
        defaulted: Mapping[str, frozenset[str]] | None = None,
        now: float | None = None,
    ) -> "Books":
        """``pods`` are those that are there; with ``now`` those whose grace is over count less."""
        by_namespace: dict[str, list[Limit]] = defaultdict(list)
        for one in quotas:
            by_namespace[one.namespace].append(one)
        books = cls(dict(by_namespace), defaulted or {})
        if by_namespace:
            for pod in pods:
                if pod.namespace in by_namespace:
                    is_over = pod.is_over if now is None else not reserve.counts(pod, now)
                    books.count(pod, is_over=is_over)
        return books

    def count(self, pod: Pod, *, is_over: bool = False) -> None:
        """Charge a pod, whether or not there is room for it."""
        for quota in self._counting(pod):
            self.used[quota.namespace, quota.name].update(_charged(pod, quota, is_over=is_over))

    def admit(self, pod: Pod) -> Misfit | None:
        """Charge a new pod, or say which quota refuses it."""
        for quota in self._counting(pod):
            refusal = self._refusal(pod, quota)
            if refusal is not None:
                return refusal
        self.count(pod)
        return None

    def refusal_moved(self, pod: Pod) -> Misfit | None:
        """Which quota would refuse the replacement of a pod that is counted, once it is gone."""
        found = self._counting(pod)
        return next((one for quota in found if (one := self._refusal(pod, quota, -1))), None)

    def _counting(self, pod: Pod) -> list[Limit]:
        found = self.quotas.get(pod.namespace, ())
        return [one for one in found if is_counted(pod, one.scopes)]

    def _refusal(self, pod: Pod, quota: Limit, before: int = 0) -> Misfit | None:
        """Why one pod more is too many; ``before`` is -1 where it takes another one's place."""
        given = self.defaulted.get(pod.namespace, frozenset())
        for key in pod.charge.unstated:
            is_asked = key in quota.hard or key.removeprefix("requests.") in quota.hard
            if is_asked and key not in given:
                text = (
                    f"needs {key} in every container, which the ResourceQuota {quota.name} counts"
                )
                return Misfit(REASON, text, quota.name)
        used = self.used[quota.namespace, quota.name]
        for key, amount in _charged(pod, quota).items():
            hard = charges.units(key, quota.hard[key])
            left = hard - used[key] - before * amount
            if amount > left:
                name = charges.resource_of(key)
                wanted, rest, most = (
                    quantities.render(name, one) for one in (amount, max(0, left), hard)
                )
                text = (
                    f"needs {wanted} {key}, the ResourceQuota {quota.name} has {rest} of {most} "
                    "left"
                )
                return Misfit(REASON, text, quota.name)
        return None


def in_force(device: AseDevice, snapshot: Snapshot, now: float) -> Books | None:
    """The books as they stand; None where nothing is limited but by quotas of this device."""
    found = foreign(device, snapshot)
    if not found:
        return None
    return Books.of(found, snapshot.pods, defaulted=defaulted(snapshot), now=now)


def _charged(pod: Pod, quota: Limit, *, is_over: bool = False) -> dict[str, int]:
    """What the pod adds to each of the quota's keys; those to which it adds nothing are left out.

    Source: ``PodUsageFunc``; a pod that is over is an object and no more.
    """
    amounts = {key: _amount(pod, key) for key in quota.hard if key == OBJECTS or not is_over}
    return {key: amount for key, amount in amounts.items() if amount}


def _amount(pod: Pod, key: str) -> int:
    if key in PER_POD:
        return 1
    of = pod.charge.limits if key.startswith("limits.") else pod.requests
    return of.get(charges.resource_of(key), 0)


def _is_best_effort(pod: Pod) -> bool:
    amounts = (pod.requests, pod.charge.limits)
    return not any(of.get(name) for of in amounts for name in ("cpu", "memory"))


_HOLDS: Mapping[str, Callable[[Pod], bool]] = {
    "BestEffort": _is_best_effort,
    "NotBestEffort": lambda pod: not _is_best_effort(pod),
    "Terminating": lambda pod: pod.charge.has_deadline,
    "NotTerminating": lambda pod: not pod.charge.has_deadline,
}


def is_counted(pod: Pod, scopes: Iterable[Requirement]) -> bool:
    """Whether a quota with these scopes counts the pod."""
    return all(_is_in(pod, scope) for scope in scopes)


def _is_in(pod: Pod, scope: Requirement) -> bool:
    """Whether a quota with this scope counts the pod; one that we do not know counts none."""
    if scope.key == PRIORITY_CLASS:
        name = pod.charge.priority_class
        return scope.holds({PRIORITY_CLASS: name} if name else {})
    return scope.key in _HOLDS and _HOLDS[scope.key](pod)
