"""The cluster as last seen, kept up to date by watch events and by our own writes.

kopf delivers events (:mod:`asetwin.operator`), :mod:`asetwin.kube.act` hands
in what its writes returned, and :meth:`Cluster.resync` lists everything anew.
The last one is not only the start: kopf tells of no deletion that happened
while a watch was broken or before it watched, so the loop resyncs whenever
kopf has listed a kind, and now and then.

An object is only ever replaced by a newer version of itself. Resource
versions are compared as numbers, which Kubernetes documents as allowed for
objects of one kind (KEP-5504, v1.35).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from asetwin import constants
from asetwin.kube import errors, paths
from asetwin.model.snapshot import Gap, Snapshot
from asetwin.resources import core, devices
from asetwin.resources.budgets import Budget

if TYPE_CHECKING:
    from asetwin.kube.client import Client

logger = logging.getLogger(__name__)

Json = dict[str, Any]

SILENCE_SECONDS = 2.0
"""A Lease that is renewed after longer than this wakes the loop: its holder is back."""
MOST_GAPS = 8
"""So many times at which no kubelet was heard are remembered; older ones do not matter."""
NEWS_SECONDS = 5.0
"""A pod that is heard of for the first time is no older than this, whatever the server says."""
JUMP_SECONDS = 1.0
"""So far the wall clock may drift before what was noted by it is set right."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind that is observed: where it is listed and how it is read."""

    plural: str
    group: str
    read: Callable[[Json], Any]
    namespaces: tuple[str, ...] = ()
    """Only these namespaces are of interest; none: all."""

    @property
    def path(self) -> str:
        """The collection to list."""
        only = self.namespaces[0] if len(self.namespaces) == 1 else None
        return paths.collection(self.group, self.plural, only)

    @property
    def is_ours(self) -> bool:
        """Whether it is one of asetwin's own kinds."""
        return self.group == constants.API_VERSION


def _workload(kind: str) -> Callable[[Json], core.Workload]:
    return partial(core.Workload.read, kind=kind)


KINDS: dict[str, Kind] = {
    one.plural: one
    for one in (
        *(Kind(plural, constants.API_VERSION, cls.read) for plural, cls in devices.KINDS.items()),
        Kind("nodes", "v1", core.Node.read),
        Kind("pods", "v1", core.Pod.read),
        Kind("namespaces", "v1", core.Namespace.read),
        Kind("resourcequotas", "v1", core.Limit.read),
        Kind("limitranges", "v1", core.Limit.read),
        Kind("services", "v1", core.Service.read, (constants.SYSTEM_NAMESPACE,)),
        Kind("persistentvolumes", "v1", core.Volume.read),
        Kind("persistentvolumeclaims", "v1", core.Claim.read),
        Kind("poddisruptionbudgets", "policy/v1", Budget.read),
        Kind("deployments", "apps/v1", _workload("Deployment")),
        Kind("replicasets", "apps/v1", _workload("ReplicaSet")),
        Kind("statefulsets", "apps/v1", _workload("StatefulSet")),
        Kind("daemonsets", "apps/v1", _workload("DaemonSet")),
        Kind("jobs", "batch/v1", _workload("Job")),
        Kind(
            "leases",
            "coordination.k8s.io/v1",
            core.Lease.read,
            (constants.SYSTEM_NAMESPACE, constants.LEASE_NAMESPACE),
        ),
    )
}


@dataclass(slots=True)
class _Shelf:
    """The objects of one kind by uid, with their versions; and who was seen to go."""

    objects: dict[str, tuple[int, Any]] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    view: Any = None
    """As the snapshot has them; None where that is not so any more."""

    def arranged(self, arrange: Callable[[Iterable[Any]], Any]) -> Any:
        """The view, arranged anew only where something has changed."""
        if self.view is None:
            self.view = arrange(value for _, value in self.objects.values())
        return self.view


class Cluster:
    """All objects of interest, as typed objects."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._offset = clock() - monotonic()
        self._renewed: dict[str, float] = {}
        self._unheard: set[str] = set()
        self._heard_at: float | None = None
        """When a kubelet was last heard, whichever."""
        self._gaps: deque[Gap] = deque(maxlen=MOST_GAPS)
        self._shelves = {plural: _Shelf() for plural in KINDS}
        self._snapshot: Snapshot | None = None
        self._complaints: dict[str, str] = {}
        self._ahead = 0.0
        """By how many seconds our clock was ahead of the API server's when we came."""
        self.is_synced = False

    def apply(
        self,
        plural: str,
        body: Mapping[str, Any],
        *,
        is_gone: bool = False,
        is_one_of_many: bool = False,
    ) -> bool:
        """Take in one version of one object; True if anything that the rules read has changed.

        ``is_one_of_many``: a renewal of a Lease that stands for all those since the one before.
        """
        meta = body.get("metadata") or {}
        kind, uid = KINDS[plural], str(meta.get("uid", ""))
        if kind.namespaces and meta.get("namespace") not in kind.namespaces:
            return False
        if not uid:
            return False
        shelf, version = self._shelves[plural], _version(meta)
        self._follow_clock()
        if is_gone:
            return self._remove(plural, uid, version)
        known = shelf.objects.get(uid)
        is_stale = known is not None and version < known[0]
        if is_stale or uid in shelf.gone:
            return False
        value = self._read(kind, dict(body))
        if value is None:
            return False
        if isinstance(value, core.Pod):
            value = self._dated(value, known[1] if known else None)
        shelf.objects[uid] = (version, value)
        if known == (version, value):
            return False
        # Also where only the version is new, as after a heartbeat: conditional writes carry it.
        shelf.view = self._snapshot = None
        has_spoken = False
        if plural == "leases":
            self._note_gap(value, is_none=is_one_of_many)
            has_spoken = self._hear(known[1] if known else None, value)
        return known is None or known[1] != value or has_spoken

    def _dated(self, pod: core.Pod, before: core.Pod | None) -> core.Pod:
        """The pod with the time of its creation by our clock, from when we first heard of it.

        The server's clock may be another one. What it had before we came is as
        old as it says, by its own clock.
        """
        created = pod.created
        if before is not None:
            created = before.created
        elif self.is_synced:
            now = self._clock()
            created = min(max(created, now - NEWS_SECONDS), now)
        elif self._ahead:
            created += self._ahead
        return pod if created == pod.created else replace(pod, created=created)

    def _follow_clock(self) -> None:
        """Keep the ages of what was seen where the clock was set to another time meanwhile."""
        offset = self._clock() - self._monotonic()
        moved = offset - self._offset
        if abs(moved) < JUMP_SECONDS:
            return
        logger.warning("the clock was set %+.1f s: ages are kept", moved)
        self._offset = offset
        self._renewed = {key: at + moved for key, at in self._renewed.items()}
        gaps = [Gap(one.since + moved, one.until + moved) for one in self._gaps]
        self._gaps = deque(gaps, maxlen=MOST_GAPS)
        if self._heard_at is not None:
            self._heard_at += moved
        shelf = self._shelves["pods"]
        shelf.objects = {
            uid: (version, replace(pod, created=pod.created + moved))
            for uid, (version, pod) in shelf.objects.items()
        }
        shelf.view = self._snapshot = None

    def _note_gap(self, lease: core.Lease, *, is_none: bool) -> None:
        """Note where no kubelet at all was heard for a while: then it is we who heard nothing.

        Each of them renews four times in a Lease's duration. When the API server, the watch or
        we were away, they do not come back all at once; Kubernetes' node lifecycle controller
        likewise starts to count anew for all Nodes after a "full disruption".
        """
        if lease.namespace != constants.LEASE_NAMESPACE:
            return
        now, before = self._clock(), self._heard_at
        self._heard_at = now
        if before is not None and now - before > lease.duration / 2 and not is_none:
            self._gaps.append(Gap(before, now))

    def _hear(self, before: core.Lease | None, lease: core.Lease) -> bool:
        """Note when a Lease was renewed, by our clock; True if that has ended a silence.

        The time in the Lease is its holder's, whose clock may be wrong.
        """
        if before is not None and before.renewals == lease.renewals:
            return False
        key, now = f"{lease.namespace}/{lease.name}", self._clock()
        silence = now - self._renewed.get(key, now)
        self._renewed[key] = now
        if before is None:
            # Found, not renewed: it says nothing about whether its holder is alive.
            self._unheard.add(key)
        else:
            self._unheard.discard(key)
        return silence > SILENCE_SECONDS

    def forget(self, plural: str, uid: str) -> bool:
        """Take note that an object is not there any more."""
        known = self._shelves[plural].objects.get(uid)
        return self._remove(plural, uid, known[0] if known else 0)

    def _remove(self, plural: str, uid: str, version: int) -> bool:
        shelf = self._shelves[plural]
        # A uid never comes back, but an older event of it may still be on its way.
        shelf.gone[uid] = version
        if shelf.objects.pop(uid, None) is None:
            return False
        shelf.view = self._snapshot = None
        return True

    def _read(self, kind: Kind, body: Json) -> Any:
        """The typed object; None, with one line in the log, where it cannot be read."""
        name = body["metadata"].get("name", "?")
        key = f"{kind.plural}/{body['metadata'].get('namespace', '')}/{name}"
        try:
            value = kind.read(body)
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            # One object that nobody can read must not end the view of all others.
            if self._complaints.get(key) != str(error):
                self._complaints[key] = str(error)
                logger.error("%s %s is left out: %s", kind.plural, name, error)
            return None
        self._complaints.pop(key, None)
        return value

    async def resync(self, api: "Client") -> bool:
        """List every kind anew; True if anything has changed.

        Raises KubeError where a list fails; a kind of ours that is not
        installed raises :class:`asetwin.kube.errors.NotFound`.
        """
        answers = await asyncio.gather(*(api.get(kind.path) for kind in KINDS.values()))
        if not self.is_synced:
            self._ahead = api.ahead
        changed = False
        for kind, answer in zip(KINDS.values(), answers, strict=True):
            changed = self._replace(kind, answer) or changed
        self.is_synced = True
        return changed

    def _replace(self, kind: Kind, answer: Json) -> bool:
        shelf, listed_at = self._shelves[kind.plural], _version(answer.get("metadata") or {})
        items = answer.get("items") or ()
        present = {item["metadata"]["uid"] for item in items}
        changed = False
        for item in items:
            # Nearly all of it is known in this very version, and not worth reading again.
            known = self.version(kind.plural, item["metadata"]["uid"])
            if not known or known != _version(item["metadata"]):
                changed = self.apply(kind.plural, item) or changed
        for uid, (version, _) in list(shelf.objects.items()):
            if uid not in present and version <= listed_at:
                changed = self._remove(kind.plural, uid, listed_at) or changed
        # What went before this list was made cannot be told of by an event after it.
        shelf.gone = {uid: version for uid, version in shelf.gone.items() if version > listed_at}
        return changed

    def version(self, plural: str, uid: str) -> int:
        """The version that is known of an object, 0 for none."""
        known = self._shelves[plural].objects.get(uid)
        return known[0] if known else 0

    def snapshot(self) -> Snapshot:
        """Everything at this moment; the same object as long as nothing has changed."""
        self._follow_clock()
        if self._snapshot is None:
            self._snapshot = Snapshot(
                devices=self._by_name("asedevices"),
                ase_nodes=self._by_name("asenodes"),
                workers=self._by_name("pinnedworkers"),
                failures=self._by_name("hardwarefailures"),
                updates=self._by_name("deviceupdates"),
                nodes=self._by_name("nodes"),
                pods=self._sorted("pods"),
                workloads={
                    one.uid: one
                    for plural in (
                        "daemonsets",
                        "deployments",
                        "jobs",
                        "replicasets",
                        "statefulsets",
                    )
                    for one in self._sorted(plural)
                },
                namespaces=self._by_name("namespaces"),
                quotas=self._sorted("resourcequotas"),
                limit_ranges=self._sorted("limitranges"),
                leases=self._sorted("leases"),
                services=self._sorted("services"),
                volumes=self._by_name("persistentvolumes"),
                claims=self._sorted("persistentvolumeclaims"),
                budgets=self._sorted("poddisruptionbudgets"),
                renewed=dict(sorted(self._renewed.items())),
                unheard=tuple(sorted(self._unheard)),
                gaps=tuple(self._gaps),
            )
        return self._snapshot

    def _by_name(self, plural: str) -> Mapping[str, Any]:
        def arrange(objects: Iterable[Any]) -> dict[str, Any]:
            return {one.name: one for one in sorted(objects, key=lambda one: str(one.name))}

        view: Mapping[str, Any] = self._shelves[plural].arranged(arrange)
        return view

    def _sorted(self, plural: str) -> tuple[Any, ...]:
        def arrange(objects: Iterable[Any]) -> tuple[Any, ...]:
            return tuple(sorted(objects, key=lambda one: (one.namespace, one.name)))

        view: tuple[Any, ...] = self._shelves[plural].arranged(arrange)
        return view


async def refresh(api: "Client", cluster: Cluster, plural: str, path: str) -> bool:
    """Read one object anew, after a conflict has shown that what we know of it is old."""
    try:
        body = await api.get(path)
    except errors.NotFound:
        return False
    return cluster.apply(plural, body)


def _version(meta: Mapping[str, Any]) -> int:
    text = str(meta.get("resourceVersion") or "0")
    return int(text) if text.isdecimal() else 0
