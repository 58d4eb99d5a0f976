"""Building the next list of conditions from the last one."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from asetwin.resources import conditions
from asetwin.resources.conditions import Condition, Reason


@dataclass(slots=True)
class Conditions:
    """The conditions of one object; a transition time moves only with the status.

    Types that are not set in a turn are gone in the next status.
    """

    before: Iterable[Condition]
    generation: int
    now: float
    _set: dict[str, Condition] = field(default_factory=dict)

    def set(self, kind: str, value: bool | None, reason: Reason, message: str) -> Condition:
        """State one condition; None is Unknown."""
        status: conditions.Status = "Unknown"
        if value is not None:
            status = "True" if value else "False"
        old = conditions.find(self.before, kind)
        is_same = old is not None and old.status == status
        if (
            old is not None
            and is_same
            and old.reason == reason
            and old.message == message
            and old.observed_generation == self.generation
        ):
            # The same object: then it is seen at a glance that the status is what it was.
            self._set[kind] = old
            return old
        self._set[kind] = Condition(
            type=kind,
            status=status,
            reason=reason.value,
            message=message,
            last_transition_time=old.last_transition_time if old and is_same else self.now,
            observed_generation=self.generation,
        )
        return self._set[kind]

    def result(self) -> tuple[Condition, ...]:
        """In the order in which they were set."""
        return tuple(self._set.values())


def merge_patch(before: object, after: object) -> dict[str, object]:
    """The JSON merge patch from one JSON object to another; empty where they are equal."""
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    patch: dict[str, object] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            inner = merge_patch(old, value)
            if inner:
                patch[key] = inner
        elif old != value or key not in before:
            patch[key] = value
    return patch
