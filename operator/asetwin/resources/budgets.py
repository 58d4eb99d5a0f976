"""PodDisruptionBudgets as the rules read them, with what the disruption controller has counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from asetwin.resources.devices import LabelSelector


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget."""

    namespace: str
    name: str
    uid: str = ""
    selector: LabelSelector | None = None
    """None selects nothing, an empty one every pod of the namespace."""
    allowed: int = 0
    """How many may be evicted now; 0 while the controller has not looked at this version."""
    healthy: int = 0
    needed: int = 0
    expected: int = 0

    @property
    def never_lets_go(self) -> bool:
        """Whether it allows no eviction although every pod that it expects is healthy."""
        return self.needed >= self.expected > 0 and self.healthy >= self.expected

    @property
    def message(self) -> str:
        """What it holds, in words."""
        return f"PDB {self.namespace}/{self.name} needs {self.needed} healthy, has {self.healthy}"

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        selector = spec.get("selector")
        is_current = status.get("observedGeneration", 0) >= meta.get("generation", 0)
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta.get("uid", ""),
            selector=None if selector is None else LabelSelector.model_validate(selector),
            allowed=int(status.get("disruptionsAllowed") or 0) if is_current else 0,
            healthy=int(status.get("currentHealthy") or 0),
            needed=int(status.get("desiredHealthy") or 0),
            expected=int(status.get("expectedPods") or 0),
        )
