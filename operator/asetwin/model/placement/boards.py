"""A what-if of the whole cluster: ask for one pod and one Node, put pods down, take them up."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from asetwin.model import volumes
from asetwin.model.placement import rooms
from asetwin.model.placement.relations import Relations
from asetwin.model.placement.rooms import Misfit, Room
from asetwin.resources.core import Namespace, Node, Pod
from asetwin.resources.demands import PodTerm, Spread

FIT = frozenset({"Capacity", "GPU", "PodSlots"})
"""Reasons that one filter gives together; all others stop the scheduler's search."""


class Board:
    """Nodes with their pods; changed by :meth:`put` and :meth:`take` only."""

    def __init__(
        self,
        given: Iterable[Room],
        *,
        namespaces: Mapping[str, Namespace] | None = None,
        tied: volumes.Tied | None = None,
    ) -> None:
        self.rooms = {one.node.name: one for one in given}
        self.tied = dict(tied or {})
        self.relations = Relations(namespaces or {})
        for name, room in self.rooms.items():
            for pod in room.pods.values():
                if pod.demands.anti_affinity:
                    self.relations.add(pod, name)

    @classmethod
    def of(
        cls,
        nodes: Iterable[Node],
        pods: Mapping[str, Iterable[Pod]],
        *,
        titles: Mapping[str, str] | None = None,
        namespaces: Mapping[str, Namespace] | None = None,
        tied: volumes.Tied | None = None,
    ) -> "Board":
        """From Nodes and the pods that are bound to each; ``titles`` by Node are for messages."""
        titles = titles or {}
        given = [
            Room.of(node, pods.get(node.name, ()), titles.get(node.name, "")) for node in nodes
        ]
        return cls(given, namespaces=namespaces, tied=tied)

    def put(self, pod: Pod, node: str) -> None:
        """The pod runs on that Node from now on."""
        self.rooms[node].add(pod)
        self.relations.add(pod, node)

    def take(self, pod: Pod, node: str) -> None:
        """The pod is gone from that Node; KeyError where it is not there."""
        self.rooms[node].remove(pod)
        self.relations.add(pod, node, -1)

    def expect(self, pods: Iterable[Pod]) -> None:
        """Begin to count what these pods will ask about; cheaper before the first is put down."""
        for pod in pods:
            for spread in pod.demands.spreads:
                self._spread_counts(spread, pod)
            for term in pod.demands.anti_affinity:
                self._counts((term,))
            if pod.demands.affinity:
                self._counts(pod.demands.affinity)

    def misfits(self, pod: Pod, node: str) -> list[Misfit]:
        """Every reason why the pod does not fit, in the order of the scheduler's filters.

        The scheduler itself stops at the first filter that refuses:
        :func:`leading` tells what it would name.
        """
        return list(self._search(pod, self.rooms[node]))

    def misfit(self, pod: Pod, node: str) -> Misfit | None:
        """The reason to tell a person; None where the pod fits."""
        return telling(self.misfits(pod, node))

    def misfit_moved(self, pod: Pod, source: str, target: str) -> Misfit | None:
        """The reason why a pod that runs on one Node could not run on another one instead."""
        if not self._minds_others(pod):
            return self.misfit(pod, target)
        room = self.rooms[source]
        # On a copy, because the caller may be walking the Node's pods.
        kept, room.pods = room.pods, dict(room.pods)
        self.take(pod, source)
        found = self.misfit(pod, target)
        self.put(pod, source)
        room.pods = kept
        return found

    def fits(self, pod: Pod, node: str) -> bool:
        """Whether the scheduler would put the pod on the Node."""
        return next(self._search(pod, self.rooms[node]), None) is None

    def _search(self, pod: Pod, room: Room) -> Iterator[Misfit]:
        wanted, node = pod.demands, room.node
        if wanted.is_gated:
            yield Misfit("Gated", "scheduling gates keep it from the scheduler")
        # Most pods demand nothing of most kinds: what is not asked costs nothing.
        if node.taints or node.unschedulable:
            yield from rooms.taints(pod, room)
        if wanted.node_selector or wanted.node_terms is not None:
            yield from rooms.selections(pod, room)
        if wanted.host_ports:
            yield from rooms.host_ports(pod, room)
        yield from rooms.resources(pod, room)
        if pod.claims and self.tied:
            tie = volumes.explain_tie(pod, self.tied, [node])
            if tie:
                yield Misfit("NodeLocalVolume", tie)
        if wanted.spreads:
            yield from self._spreads(pod, room)
        if wanted.affinity:
            yield from self._affinity(pod, room)
        for term in wanted.anti_affinity:
            if self._is_beside(term.topology_key, room.node, self._counts((term,))):
                yield Misfit(
                    "PodAntiAffinity",
                    f"a pod that it must not share {_domain(term.topology_key)} with is "
                    f"on {room.title}",
                )
                break
        for ban in self.relations.bans_on(pod):
            if self._is_beside(ban.term.topology_key, room.node, ban.counts):
                yield Misfit(
                    "PodAntiAffinity",
                    f"a pod on {room.title} refuses to share "
                    f"{_domain(ban.term.topology_key)} with it",
                )
                break

    def _minds_others(self, pod: Pod) -> bool:
        wanted = pod.demands
        return bool(wanted.spreads or wanted.affinity or wanted.anti_affinity)

    # --- Pods and other pods ----------------------------------------------------------------------

    def _located(self) -> Iterator[tuple[str, Pod]]:
        for name, room in self.rooms.items():
            for pod in room.pods.values():
                yield name, pod

    def _counts(self, terms: tuple[PodTerm, ...]) -> Counter[str]:
        return self.relations.tally(terms, self._located(), skips_deleted=False).counts

    def _is_beside(self, key: str, node: Node, counts: Mapping[str, int]) -> bool:
        """Whether one of the counted pods is in the Node's domain; without the label none is."""
        value = node.labels.get(key)
        return value is not None and any(
            count > 0 and self.rooms[name].node.labels.get(key) == value
            for name, count in counts.items()
        )

    def _affinity(self, pod: Pod, room: Room) -> Iterator[Misfit]:
        """Source: InterPodAffinity's ``satisfyPodAffinity``."""
        terms = pod.demands.affinity
        for term in terms:
            if term.topology_key not in room.node.labels:
                text = f"{room.title} has no label {term.topology_key}, which its affinity needs"
                yield Misfit("PodAffinity", text)
                return
        counts = self._counts(terms)
        if all(self._is_beside(term.topology_key, room.node, counts) for term in terms):
            return
        # The first of a group that wants to be together may go anywhere, or none ever could.
        is_first = not any(
            count > 0 and any(term.topology_key in self.rooms[name].node.labels for term in terms)
            for name, count in counts.items()
        )
        if not (is_first and self.relations.selects_by_all(terms, pod)):
            yield Misfit("PodAffinity", f"no pod that it must run beside is on {room.title}")

    def _spread_counts(self, spread: Spread, pod: Pod) -> Counter[str]:
        # An empty selector counts nothing here, although it selects the pod itself below.
        if spread.selector is None or not spread.selector.requirements:
            return Counter()
        term = PodTerm("", spread.selector, (pod.namespace,))
        return self.relations.tally((term,), self._located(), skips_deleted=True).counts

    def _spreads(self, pod: Pod, room: Room) -> Iterator[Misfit]:
        """Source: PodTopologySpread's ``calPreFilterState`` and ``Filter``."""
        wanted, keys = pod.demands, [one.topology_key for one in pod.demands.spreads]
        for spread in wanted.spreads:
            value = room.node.labels.get(spread.topology_key)
            if value is None:
                text = f"{room.title} has no label {spread.topology_key}, which its spread needs"
                yield Misfit("TopologySpread", text)
                continue
            counts, found = self._spread_counts(spread, pod), dict[str, int]()
            for name, other in self.rooms.items():
                node = other.node
                if not all(key in node.labels for key in keys) or not _is_domain(spread, pod, node):
                    continue
                domain = node.labels[spread.topology_key]
                found[domain] = found.get(domain, 0) + counts.get(name, 0)
            least = min(found.values()) if len(found) >= spread.min_domains else 0
            itself = spread.selector is not None and spread.selector.holds(pod.labels)
            skew = found.get(value, 0) + int(itself) - least
            if skew > spread.max_skew:
                text = (
                    f"{_place(spread.topology_key, room)} would have {skew} more than the "
                    f"emptiest one, maxSkew is {spread.max_skew}"
                )
                yield Misfit("TopologySpread", text)


def _is_domain(spread: Spread, pod: Pod, node: Node) -> bool:
    """Whether a Node counts for a constraint: a dead one does unless taints are honored."""
    if spread.honors_affinity and not rooms.is_selected(pod.demands, node):
        return False
    return not spread.honors_taints or all(
        rooms.is_tolerated(taint, pod.demands)
        for taint in node.taints
        if taint.effect in rooms.REFUSING
    )


def _domain(key: str) -> str:
    return "a node" if key == "kubernetes.io/hostname" else f"a {key.rpartition('/')[2]}"


def _place(key: str, room: Room) -> str:
    return (
        room.title
        if key == "kubernetes.io/hostname"
        else f"the {key.rpartition('/')[2]} of {room.title}"
    )


def leading(found: list[Misfit]) -> list[Misfit]:
    """What the scheduler would name: all of the first filter that refuses."""
    if not found or found[0].reason not in FIT:
        return found[:1]
    return [one for one in found if one.reason in FIT]


_PRECEDENCE = ("NodeLocalVolume", "GPU", "Capacity")


def telling(found: list[Misfit]) -> Misfit | None:
    """The reason for a person: what can never be cured first, then what the scheduler names.

    The same precedence as :func:`asetwin.model.failover.scheduler_reason`, so that
    a prediction and what comes of it speak of one cause.
    """
    if not found:
        return None
    ties = [one for one in found if one.reason == "NodeLocalVolume"]
    named = [*ties, *leading(found)]
    rank = {reason: number for number, reason in enumerate(_PRECEDENCE)}
    return min(named, key=lambda one: rank.get(one.reason, len(rank)))
