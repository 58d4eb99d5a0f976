"""kopf's events: what each of them does to the view and to the loop."""

from typing import Any, cast

import kopf
import pytest

from asetwin.kube.observe import KINDS
from asetwin.loop import Loop
from asetwin.operator import Operator

NODES = KINDS["nodes"]


class Listener:
    """In the loop's place; tells what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def wake(self) -> None:
        self.told.append("wake")

    def listed(self) -> None:
        self.told.append("listed")


@pytest.fixture
def operator() -> Operator:
    made = Operator(context=None, port=0)
    made._loop = cast("Loop", Listener())
    return made


def told(operator: Operator, kind: str | None, version: int = 1) -> list[str]:
    """What the loop is told of an event."""
    listener = cast("Listener", operator._loop)
    listener.told.clear()
    meta = {"name": "n", "uid": "u", "resourceVersion": str(version)}
    operator._seen(NODES, {"type": kind, "object": {"metadata": meta}})
    return listener.told


def test_what_has_changed_wakes_the_loop(operator: Operator) -> None:
    assert told(operator, "ADDED") == ["wake"]
    assert told(operator, "ADDED") == []
    assert told(operator, "DELETED", 2) == ["wake"]
    assert told(operator, "DELETED", 2) == []


def test_that_kopf_has_listed_is_told_also_where_nothing_is_new(operator: Operator) -> None:
    assert told(operator, None) == ["listed", "wake"]
    assert told(operator, None) == ["listed"]


def test_an_event_before_the_loop_is_there_is_kept(operator: Operator) -> None:
    operator._loop = None
    operator._seen(NODES, {"type": None, "object": {"metadata": {"name": "n", "uid": "u"}}})
    assert "n" in operator._cluster.snapshot().nodes


def test_every_kind_is_watched_by_events_alone(operator: Operator) -> None:
    # Handlers of another sort would put kopf's finalizer or annotations on other people's objects.
    registry: Any = operator.registry
    watched = {str(one.id) for one in registry._watching.get_all_handlers()}
    assert watched == set(KINDS)
    assert not list(registry._changing.get_all_handlers())
    assert not list(registry._spawning.get_all_handlers())
    assert isinstance(registry, kopf.OperatorRegistry)
