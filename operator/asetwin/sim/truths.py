"""What is so in a simulated world, whatever anybody says of it."""

import math

from asetwin import constants
from asetwin.resources import times
from asetwin.sim.apiserver import Change
from asetwin.sim.world import World

HEARING_SECONDS = 0.05
"""From an event to the turn that has heard of it, while its watches are whole."""
NEWS_SECONDS = 0.5
"""An operator may act on what was so a moment ago."""
REACTION_SECONDS = 5.0
"""Within this an operator that hears well has seen what has happened, also after a retry."""
SHORTEST_SILENCE_SECONDS = 3.0
"""Of the heartbeat time-outs that a device may have with the simulation's Leases."""
FAILED, OFF = "failed", "off"
_FATAL = {"Motherboard", "DIMM", "OSDisk", "Node", "Port3", "Port4"}


class Lately:
    """What is so, or was a moment ago: the news of its end may still be on its way."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._until: dict[str, float] = {}
        """Infinite while it is so."""

    def note(self, what: str, *, is_so: bool) -> None:
        """Take note of how it is now."""
        if is_so:
            self._until[what] = math.inf
        elif math.isinf(self._until.get(what, 0.0)):
            self._until[what] = self._world.now

    def holds(self, what: str) -> bool:
        """Whether somebody may act on it."""
        return self._world.now - self._until.get(what, -math.inf) < NEWS_SECONDS


class Truth:
    """What is so in the world, and since when: told by machines and failures, not by statuses."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fatal: dict[str, float] = {}
        """AseNode → since when its failed components leave it without power or storage."""
        self.fine: dict[str, float] = {}
        """AseNode → since when nothing of the kind is stated, where something was."""
        self.well: dict[str, float] = {}
        """The same without failures of which the operator could not hear while they lasted."""
        self.off: dict[str, float] = {}
        """Kubernetes Node → since when its machine stands still."""
        self.on: dict[str, float] = {}
        """Kubernetes Node → since when its machine runs, where it stood still before."""
        self.back: dict[str, float] = {}
        """The same without stops of which it could not hear, and which no agent has told of."""
        self._well_before: dict[str, float | None] = {}
        self._heard: set[tuple[str, str]] = set()
        """What has failed or stands still, and has done so while the operator could hear of it."""
        self._machine_changes = 0
        world.observers.append(self._changed)
        world.step_observers.append(self._look)

    def is_blind(self) -> bool:
        """Whether the operator cannot know: it is away, hears nothing, or hears late."""
        return not self.world.operator.hears_well(for_seconds=REACTION_SECONDS)

    def node_of(self, ase_node: str) -> str:
        """The Kubernetes Node of a device node; empty where it has none."""
        for one in self.world.server.objects("pinnedworkers").values():
            if one["spec"]["aseNode"] == ase_node:
                return str(one["spec"]["nodeName"])
        return ""

    def is_renewing(self, node: str) -> bool:
        """Whether anybody could see that the kubelet is there; one that has just come is not."""
        lease = self.world.server.find("leases", node, constants.LEASE_NAMESPACE)
        renewed = ((lease or {}).get("spec") or {}).get("renewTime")
        age = self.world.timeline.wall() - times.parse(renewed) if renewed else math.inf
        return age < SHORTEST_SILENCE_SECONDS

    def _changed(self, change: Change) -> None:
        if change.plural not in ("hardwarefailures", "asenodes"):
            return
        failed: dict[str, set[str]] = {}
        for one in self.world.server.objects("hardwarefailures").values():
            spec = one["spec"]
            if spec.get("action", "Fail") == "Fail" and not spec.get("durationSeconds"):
                failed.setdefault(spec["node"], set()).add(spec["component"])
        for node in {*failed, *self.fatal}:
            parts = failed.get(node, set())
            is_fatal = bool(parts & _FATAL) or {"PSU1", "PSU2"} <= parts
            if is_fatal and node not in self.fatal:
                self._heard.discard((FAILED, node))
                self.fatal[node] = self.world.now
                self.fine.pop(node, None)
                self._well_before[node] = self.well.pop(node, None)
            elif not is_fatal and node in self.fatal:
                self._mend(node)

    def _mend(self, node: str) -> None:
        before = self._well_before.pop(node, None)
        self._listen()
        del self.fatal[node]
        self.fine[node] = self.world.now
        if (FAILED, node) in self._heard:
            self.well[node] = self.world.now
        elif before is not None:
            self.well[node] = before

    def _listen(self) -> None:
        """Take note of what lasts, and of which the operator could have heard by now."""
        for kind, lasting in ((FAILED, self.fatal), (OFF, self.off)):
            for name, since in lasting.items():
                lasts = self.world.now - since > NEWS_SECONDS
                if lasts and self.world.operator.hears_well(for_seconds=NEWS_SECONDS):
                    self._heard.add((kind, name))

    def _look(self) -> None:
        if self.fatal or self.off:
            self._listen()
        if self.world.machine_changes == self._machine_changes:
            return
        self._machine_changes = self.world.machine_changes
        for node, machine in self.world.machines.items():
            if machine.is_running:
                if self.off.pop(node, None) is not None:
                    self.on[node] = self.world.now
                    if (OFF, node) in self._heard or self.world.agent.is_running:
                        self.back[node] = self.world.now
            elif node not in self.off:
                self._heard.discard((OFF, node))
                self.off[node] = self.world.now
                self.on.pop(node, None)
