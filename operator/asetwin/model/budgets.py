"""Which PodDisruptionBudget holds a pod, and whether an eviction is worth asking for.

The API server has the last word (429, and 500 where two budgets select one
pod). Asking only where the budget's own status allows it spares refusals, and
lets a status say what blocks: the loop has no memory for answers.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from asetwin.model import reserve
from asetwin.resources.budgets import Budget
from asetwin.resources.core import Pod

REASON = "Budget"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod may not be evicted now; ``is_final`` where waiting cannot help."""

    message: str
    is_final: bool


@dataclass(slots=True)
class Budgets:
    """The budgets of a snapshot, less what has been asked of them already."""

    known: Iterable[Budget]
    _spent: Counter[str] = field(default_factory=Counter)

    def of(self, pod: Pod) -> list[Budget]:
        """The budgets that select a pod."""
        return [
            one
            for one in self.known
            if one.namespace == pod.namespace
            and one.selector is not None
            and reserve.matches(one.selector, pod.labels)
        ]

    def refusal(self, pod: Pod) -> Refusal | None:
        """Why the pod may not be evicted; None where it may."""
        found = self.of(pod)
        if len(found) > 1:
            names = " and ".join(f"{one.namespace}/{one.name}" for one in found)
            return Refusal(f"{len(found)} PDBs select it, which no eviction passes: {names}", True)
        for one in found:
            if one.allowed - self._spent[one.uid] <= 0:
                return Refusal(one.message, is_final=one.never_lets_go)
        return None

    def spend(self, pod: Pod) -> None:
        """Count an eviction that was asked for and that no budget's status shows yet."""
        for one in self.of(pod):
            self._spent[one.uid] += 1
