"""Scenario files: a cluster to start with, and what happens to it when.

    start: [device.yaml, workload.yaml]
    events:
      - {at: 15, fail: [node-a/PSU1, node-a/PSU2]}
      - {at: 40, repair: [node-a/PSU1, node-a/PSU2]}
    end: 60

Moments are seconds since the start. Files are named relative to a folder that
the caller gives; wherever a file may stand, an object may stand as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from asetwin import constants
from asetwin.resources import devices
from asetwin.sim.agents import Container
from asetwin.sim.bodies import Json
from asetwin.sim.world import Options, Source, World


class ScenarioError(ValueError):
    """The file is no scenario; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens."""

    at: float
    verb: str
    what: Any


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as it was read."""

    start: tuple[Source, ...]
    events: tuple[Event, ...]
    end: float
    options: Options = field(default_factory=Options)
    setup: tuple[Event, ...] = ()
    """What happens before the start's objects are applied."""


def read(path: Path, folder: Path) -> Scenario:
    """A scenario from its file; ``folder`` is where the files that it names are."""
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, Mapping):
        raise ScenarioError(f"{path.name} is not a mapping")
    unknown = set(content) - {"start", "events", "end", "cluster", "setup"}
    if unknown:
        raise ScenarioError(f"{path.name} has unknown fields: {', '.join(sorted(unknown))}")
    events = [_event(one, folder) for one in content.get("events") or ()]
    if events != sorted(events, key=lambda one: one.at):
        raise ScenarioError(f"{path.name}: events are not in the order of their time")
    cluster = content.get("cluster") or {}
    return Scenario(
        start=tuple(_source(one, folder) for one in content.get("start") or ()),
        events=tuple(events),
        end=float(content["end"]),
        options=Options(**cluster),
        setup=tuple(_event({"at": 0, **one}, folder) for one in content.get("setup") or ()),
    )


def _event(given: Mapping[str, Any], folder: Path) -> Event:
    verbs = set(given) - {"at"}
    if len(verbs) != 1 or not verbs <= set(VERBS):
        known = ", ".join(sorted(VERBS))
        raise ScenarioError(f"an event has a moment and one of {known}; this is {given}")
    (verb,) = verbs
    what = given[verb]
    if verb in ("apply", "delete"):
        what = [_source(one, folder) for one in what]
    return Event(float(given["at"]), verb, what)


def _source(given: str | Mapping[str, Any], folder: Path) -> Source:
    return folder / given if isinstance(given, str) else given


def play(scenario: Scenario, *, prepare: Callable[[World], None] = lambda world: None) -> World:
    """Run a scenario from start to end; ``prepare`` gets the world before anything happens."""
    world = World(options=scenario.options)
    prepare(world)
    for event in scenario.setup:
        VERBS[event.verb](world, event.what)
    world.apply(*scenario.start)
    for event in scenario.events:
        world.run(event.at - world.now)
        VERBS[event.verb](world, event.what)
    world.run(scenario.end - world.now)
    return world


def failure(text: str) -> Json:
    """The HardwareFailure of ``node-a/PSU1``, named as in the samples."""
    node, _, component = text.partition("/")
    return {
        "apiVersion": constants.API_VERSION,
        "kind": "HardwareFailure",
        "metadata": {"name": node if component == "Node" else f"{node}-{component.lower()}"},
        "spec": {"node": node, "component": component},
    }


def _apply(world: World, what: Sequence[Source]) -> None:
    world.apply(*what)


def _delete(world: World, what: Sequence[Source]) -> None:
    world.delete_all(*what)


def fail(world: World, what: Sequence[str]) -> None:
    """Components fail: ``node-a/PSU1``."""
    world.apply(*(failure(one) for one in what))


def repair(world: World, what: Sequence[str]) -> None:
    """Components that have failed are repaired."""
    world.delete_all(*(failure(one) for one in what))


def reboot(world: World, node: str) -> None:
    """A device node reboots; it does so anew where a reboot of it is still stated."""
    body = failure(f"{node}/Node")
    body["metadata"]["name"] = f"{node}-reboot"
    body["spec"]["action"] = "Reboot"
    if world.server.find("hardwarefailures", body["metadata"]["name"]) is not None:
        world.delete_all(body)
    world.apply(body)


def _patch(world: World, what: Json) -> None:
    world.patch(what["kind"], what["name"], what["patch"], what.get("namespace", ""))


def _scale(world: World, what: Json) -> None:
    world.scale(what.get("kind", "Deployment"), what["name"], what["replicas"], what["namespace"])


def _operator(world: World, what: str | Json) -> None:
    if isinstance(what, Mapping):
        world.crash_after(what["crashAfter"])
    elif what == "stop":
        world.operator.stop()
    else:
        world.operator.start()


def _kubelet(world: World, what: Mapping[str, str]) -> None:
    for node, power in what.items():
        kubelet = world.kubelets[node]
        kubelet.power_on() if power == "start" else kubelet.power_off()


def _machine(act: Callable[[Container], None]) -> Callable[[World, str], None]:
    """A verb: somebody's hand on the machine of a Node."""
    return lambda world, node: act(world.machines[node])


def _agent(world: World, what: str) -> None:
    act = {"back": world.agent.start, "gone": world.agent.kill, "left": world.agent.leave}
    act[what]()


def _add_node(world: World, what: Json) -> None:
    world.add_node(**what)


def _remove_node(world: World, what: str) -> None:
    world.server.delete("nodes", what)


def _crds(world: World, what: str) -> None:
    change = world.server.install if what == "install" else world.server.uninstall
    for plural in devices.KINDS:
        change(plural)


VERBS: dict[str, Callable[[World, Any], None]] = {
    "apply": _apply,
    "delete": _delete,
    "fail": fail,
    "repair": repair,
    "patch": _patch,
    "scale": _scale,
    "operator": _operator,
    "kubelet": _kubelet,
    "stop": _machine(Container.stop),
    "start": _machine(Container.start),
    "restart": _machine(Container.restart),
    "pause": _machine(Container.pause),
    "silence": _machine(Container.silence),
    "agent": _agent,
    "addNode": _add_node,
    "removeNode": _remove_node,
    "crds": _crds,
}
