"""How pods relate to each other across Nodes: who stands where, counted once and kept up to date.

A :class:`Tally` counts per Node the pods that certain terms select; a
:class:`Ban` counts per Node the pods that refuse those that a term selects.
:class:`Relations` keeps them while pods come and go, so that a question costs
the number of Nodes and not the number of pods.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from asetwin.resources.core import Namespace, Pod
from asetwin.resources.demands import PodTerm

T = TypeVar("T")
Labels = Mapping[str, str]
Anchor = tuple[str, str]
"""A label that whatever is selected must have; empty where a selector demands none."""
NO_ANCHOR: Anchor = ("", "")


@dataclass(slots=True)
class Tally:
    """How many pods on each Node all of these terms select."""

    terms: tuple[PodTerm, ...]
    skips_deleted: bool
    """Whether pods that are ending do not count, as for topology spread."""
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Ban:
    """On which Nodes are pods that refuse those that this term selects."""

    term: PodTerm
    counts: Counter[str] = field(default_factory=Counter)


class Relations:
    """The tallies and bans over all pods on a board."""

    def __init__(self, namespaces: Mapping[str, Namespace]) -> None:
        self._labels = {name: one.labels for name, one in namespaces.items()}
        self._tallies: dict[tuple[tuple[PodTerm, ...], bool], Tally] = {}
        self._tallies_by_anchor: dict[Anchor, list[Tally]] = defaultdict(list)
        self._bans: dict[PodTerm, Ban] = {}
        self._bans_by_anchor: dict[Anchor, list[Ban]] = defaultdict(list)
        self._index: dict[Anchor, dict[tuple[str, str], Pod]] | None = None
        """By label, then by Node and pod, from the first question on that needs it."""

    def add(self, pod: Pod, node: str, sign: int = 1) -> None:
        """Count a pod on a Node; -1 takes it away again."""
        if self._index is not None:
            _file(self._index, node, pod, sign)
        if self._tallies:
            for tally in self._anchored(pod, self._tallies_by_anchor):
                is_skipped = tally.skips_deleted and pod.deleting is not None
                if not is_skipped and self.selects_by_all(tally.terms, pod):
                    tally.counts[node] += sign
        for term in pod.demands.anti_affinity:
            if term not in self._bans:
                self._bans[term] = Ban(term)
                self._bans_by_anchor[_anchor(term)].append(self._bans[term])
            self._bans[term].counts[node] += sign

    def tally(
        self, terms: tuple[PodTerm, ...], pods: Iterable[tuple[str, Pod]], *, skips_deleted: bool
    ) -> Tally:
        """The count for some terms; ``pods`` are all with their Nodes, for the first time."""
        key = (terms, skips_deleted)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally(terms, skips_deleted)
            # One term's anchor is enough: all of them have to select a pod.
            self._tallies_by_anchor[_anchor(terms[0])].append(found)
            for (node, _), pod in self._having(_anchor(terms[0]), pods):
                is_skipped = skips_deleted and pod.deleting is not None
                if not is_skipped and self.selects_by_all(terms, pod):
                    found.counts[node] += 1
        return found

    def _having(
        self, anchor: Anchor, pods: Iterable[tuple[str, Pod]]
    ) -> Iterable[tuple[tuple[str, str], Pod]]:
        """The pods with a label: all of them where none is demanded."""
        if self._index is None:
            self._index = {NO_ANCHOR: {}}
            for node, pod in pods:
                _file(self._index, node, pod, 1)
        return self._index.get(anchor, {}).items()

    def bans_on(self, pod: Pod) -> Iterator[Ban]:
        """The anti-affinity of pods that are there and that refuses this one."""
        if self._bans:
            for ban in self._anchored(pod, self._bans_by_anchor):
                if self.selects(ban.term, pod):
                    yield ban

    def selects_by_all(self, terms: tuple[PodTerm, ...], pod: Pod) -> bool:
        """Whether every term selects the pod."""
        return all(self.selects(one, pod) for one in terms)

    def selects(self, term: PodTerm, pod: Pod) -> bool:
        """Whether a term selects a pod, by its namespace and its labels."""
        if term.selector is None or not term.selector.holds(pod.labels):
            return False
        if pod.namespace in term.namespaces:
            return True
        chosen = term.namespace_selector
        return chosen is not None and chosen.holds(self._labels_of(pod.namespace))

    def _labels_of(self, namespace: str) -> Labels:
        # Every namespace has this label, a manifest's too once it is there.
        named = {"kubernetes.io/metadata.name": namespace}
        return {**named, **self._labels.get(namespace, {})}

    @staticmethod
    def _anchored(pod: Pod, known: Mapping[Anchor, list[T]]) -> Iterator[T]:
        yield from known.get(NO_ANCHOR, ())
        for label in pod.labels.items():
            yield from known.get(label, ())


def _file(index: dict[Anchor, dict[tuple[str, str], Pod]], node: str, pod: Pod, sign: int) -> None:
    key = (node, pod.key)
    for label in (NO_ANCHOR, *pod.labels.items()):
        if sign > 0:
            index.setdefault(label, {})[key] = pod
        else:
            index[label].pop(key, None)


def _anchor(term: PodTerm) -> Anchor:
    for one in term.selector.requirements if term.selector is not None else ():
        if one.operator == "In" and len(one.values) == 1:
            return one.key, one.values[0]
    return NO_ANCHOR
