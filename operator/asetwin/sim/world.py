"""A simulated cluster with the operator in it, as scenarios and tests drive it.

    world = World()
    world.apply(SAMPLES / "device.yaml", SAMPLES / "workload.yaml")
    world.run(20)
    world.apply(SAMPLES / "failures/psu-both.yaml")
    world.run_until(lambda: world.device("ase").status.state == "Online", within=60)

Two worlds that are given the same seed and are driven the same way do the
same, to the last byte of their traces.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from asetwin import constants
from asetwin.resources.devices import AseDevice
from asetwin.sim import bodies, kinds, traces
from asetwin.sim.agents import Container, PowerAgent
from asetwin.sim.apiserver import ApiServer, Change
from asetwin.sim.beats import Beats
from asetwin.sim.bodies import Json
from asetwin.sim.clock import Random, Timeline
from asetwin.sim.controllers import WORKLOADS
from asetwin.sim.janitors import (
    Disruptions,
    Garbage,
    Namespaces,
    NodeLifecycle,
    PodGarbage,
    Quotas,
    TaintEviction,
)
from asetwin.sim.kubelets import Kubelet
from asetwin.sim.masters import MasterProcess
from asetwin.sim.process import Operator, Turn
from asetwin.sim.scheduler import Scheduler
from asetwin.sim.volumes import VolumeBinder
from asetwin.sim.wire import Call

Source = Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A file, YAML text, one object or several."""

CONTROL_PLANE = "asetwin-control-plane"
WORKERS = ("asetwin-worker", "asetwin-worker2")
NAMESPACES = (
    "default",
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
    constants.SYSTEM_NAMESPACE,
)


class Stuck(Exception):
    """What was waited for did not happen in time; the message has the last of the trace."""


@dataclass(frozen=True, slots=True)
class Options:
    """The size of the cluster, and how its parts behave."""

    workers: tuple[str, ...] = WORKERS
    allocatable: Mapping[str, str] = field(
        default_factory=lambda: {"cpu": "4", "memory": "8Gi", "pods": "110"}
    )
    jitter: float = 0.0
    """By which part delays vary; 0 makes every delay what it is by default."""
    mount_refusals: float = 0.0
    """How often, 0 to 1, a kubelet is refused a pod's claim at first (model.master)."""
    is_traced: bool = True
    """Whether every turn's steps are kept in words."""
    is_quiet: bool = False
    """Leave out what changes nothing: renewals that nobody reads, turns that decide nothing new.

    A turn that the plan has not asked for is left out too, so that a rule which
    forgets to ask is found out; the real loop turns every ten seconds anyway.
    """


class World:
    """One simulated cluster."""

    def __init__(self, *, seed: int = 0, options: Options | None = None) -> None:
        self.options = options or Options()
        self._seed = seed
        # What of a loop is left out there is what would do I/O.
        self.timeline = Timeline(Random(seed), jitter=self.options.jitter)  # type: ignore[abstract]
        self.server = ApiServer(self.timeline.wall)
        self.beats = Beats(self.timeline) if self.options.is_quiet else None
        if self.beats is not None:
            self.server.settle = self.beats.settle
        self.shares: dict[str, list[str]] = {}
        """What is on the shares: the lines of each file."""
        self.trace: list[tuple[float, str]] = []
        self.turns: list[tuple[float, str, list[str]]] = []
        self.observers: list[Callable[[Change], None]] = []
        """Told of every change, after the cluster's own parts; what they raise ends the run."""
        self.call_observers: list[Callable[[Call], None]] = []
        """Told of every request of the operator, before it is carried out."""
        self.step_observers: list[Callable[[], None]] = []
        """Asked after everything that happens at all."""
        self.machine_changes = 1
        """Grows with whatever happens to a machine."""
        self._build()
        self.operator = Operator(
            self.server,
            self.timeline,
            record=self._record,
            report=self._report,
            watch=self._called,
            beats=self.beats,
        )
        if self.beats is not None:
            self.beats.has_ended = self.operator.turn_soon
        self.server.watch(self._changed)
        self.operator.start(is_watching=True)

    # --- What happens ------------------------------------------------------------------------

    def apply(self, *sources: Source) -> None:
        """Create what is not there, and merge the rest into what is, as a person would."""
        for body in _documents(sources):
            kind = kinds.BY_KIND[body["kind"]]
            meta = body["metadata"]
            namespace = meta.get("namespace", "default") if kind.is_namespaced else ""
            known = self.server.find(kind.plural, meta["name"], namespace)
            if known is None:
                self.server.create(kind.plural, body, namespace)
                continue
            patch = {name: value for name, value in body.items() if name != "status"}
            self.server.patch(kind.plural, meta["name"], patch, namespace)

    def delete(
        self, kind: str, name: str, namespace: str = "", *, grace_seconds: int | None = None
    ) -> None:
        """Delete one object by its kind (``Pod``) and name."""
        found = kinds.BY_KIND[kind]
        namespace = (namespace or "default") if found.is_namespaced else ""
        self.server.delete(found.plural, name, namespace, grace_seconds=grace_seconds)

    def delete_all(self, *sources: Source) -> None:
        """Delete the objects that files or texts name, as ``kubectl delete -f``."""
        for body in _documents(sources):
            self.delete(
                body["kind"], body["metadata"]["name"], body["metadata"].get("namespace", "")
            )

    def patch(self, kind: str, name: str, patch: Json, namespace: str = "") -> None:
        """Merge something into an object, as ``kubectl patch --type merge``."""
        found = kinds.BY_KIND[kind]
        namespace = (namespace or "default") if found.is_namespaced else ""
        self.server.patch(found.plural, name, patch, namespace)

    def scale(self, kind: str, name: str, replicas: int, namespace: str) -> None:
        """As ``kubectl scale``."""
        self.patch(kind, name, {"spec": {"replicas": replicas}}, namespace)

    def crash_after(self, writes: int) -> None:
        """Kill the operator right after so many more writes; it is started again."""
        self.operator.wire.crash_after = self.operator.wire.writes + writes

    # --- Time --------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.timeline.time()

    def run(self, seconds: float) -> None:
        """Let this much time pass."""
        self.timeline.advance(self.now + seconds, stop=self.look)

    def run_until(self, predicate: Callable[[], bool], within: float) -> float:
        """Let time pass until something holds, and say how long it took; raises Stuck."""
        start, seen = self.now, -1

        def holds() -> bool:
            # Only a write can make a difference to what a predicate may look at.
            nonlocal seen
            self.look()
            if self.server.version == seen:
                return False
            seen = self.server.version
            return predicate()

        if holds() or self.timeline.advance(start + within, stop=holds):
            return self.now - start
        last = "\n".join(f"{traces.seconds(at)} {text}" for at, text in self.trace[-25:])
        raise Stuck(f"not so within {within} s; the last of the trace:\n{last}")

    # --- What is ----------------------------------------------------------------------------

    def device(self, name: str = "ase") -> AseDevice:
        """One AseDevice as it is now."""
        return AseDevice.read(self.server.read("asedevices", name))

    def masters(self) -> list[MasterProcess]:
        """Every master process that runs."""
        return [one for kubelet in self.kubelets.values() for one in kubelet.masters()]

    def pods(self, namespace: str) -> list[Json]:
        """The pods of a namespace."""
        return self.server.listed("pods", namespace)

    def picture(self) -> dict[str, Any]:
        """The cluster in short lines."""
        return traces.picture(self.server)

    # --- How --------------------------------------------------------------------------------

    def _build(self) -> None:
        server, timeline = self.server, self.timeline
        self.controllers = [kind(server, timeline) for kind in WORKLOADS]
        self.lifecycle = NodeLifecycle(server, timeline)
        self.janitors = [
            kind(server, timeline)
            for kind in (
                TaintEviction,
                Garbage,
                PodGarbage,
                Namespaces,
                Disruptions,
                Quotas,
                VolumeBinder,
            )
        ]
        self.scheduler = Scheduler(server, timeline)
        self.kubelets: dict[str, Kubelet] = {}
        self.machines: dict[str, Container] = {}
        self.agent = PowerAgent(server, timeline, self.machines, self.beats)
        """The power agent; not installed until it is started."""
        for name in NAMESPACES:
            server.create("namespaces", {"metadata": {"name": name}})
        control_plane = "node-role.kubernetes.io/control-plane"
        self.add_node(
            CONTROL_PLANE,
            labels={control_plane: ""},
            taints=[{"key": control_plane, "effect": "NoSchedule"}],
        )
        for name in self.options.workers:
            self.add_node(name)
        server.create("daemonsets", _network_agent(), "kube-system")

    def add_node(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Mapping[str, str]] = (),
        allocatable: Mapping[str, str] | None = None,
    ) -> None:
        """One more Node with its kubelet."""
        offered = {**self.options.allocatable, **(allocatable or {})}
        body = {
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name, **(labels or {})},
            },
            "spec": {"taints": list(taints)} if taints else {},
            "status": {
                "capacity": offered,
                "allocatable": offered,
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "reason": "KubeletReady",
                        "lastTransitionTime": bodies.stamp(self.timeline.wall()),
                    }
                ],
            },
        }
        self.server.create("nodes", body)
        rate = self.options.mount_refusals
        self.kubelets[name] = Kubelet(
            self.server,
            self.timeline,
            self.lifecycle,
            name,
            self.shares,
            self.beats,
            # Dice of its own, so that all else stays what it is without.
            refusals=(rate, Random(f"{self._seed}/{name}/mounts")) if rate else None,
        )
        machine = Container(self.timeline, self.kubelets[name])
        machine.is_changed = self._machine_changed
        self.machines[name] = machine

    def _record(self, turn: Turn) -> None:
        if not self.options.is_traced:
            return
        steps = [traces.describe(step, turn.snapshot) for step in turn.plan.steps]
        if steps:
            self.turns.append((turn.at, turn.device, steps))
            self.trace.extend((turn.at, f"{turn.device or 'unbound'}: {one}") for one in steps)

    def _report(self, text: str) -> None:
        self.turns.append((self.now, "operator", [text]))
        self.trace.append((self.now, f"operator: {text}"))

    def look(self) -> bool:
        """Ask the step observers; False, so that it may stand where something may end a run."""
        for observer in self.step_observers:
            observer()
        return False

    def _machine_changed(self) -> None:
        self.machine_changes += 1
        self.agent.notice()

    def _changed(self, change: Change) -> None:
        for observer in self.observers:
            observer(change)

    def _called(self, call: Call) -> None:
        for observer in self.call_observers:
            observer(call)


def _network_agent() -> Json:
    """A DaemonSet as a kind cluster has it on every node, whatever its taints or its load."""
    resources = {"requests": {"cpu": "100m", "memory": "50Mi"}}
    labels = {"app": "kindnet"}
    return {
        "metadata": {"name": "kindnet"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "kindnet", "image": "net", "resources": resources}],
                },
            },
        },
    }


def _documents(sources: Iterable[Source]) -> Iterator[Json]:
    for source in sources:
        found: Any = source
        if isinstance(source, Path):
            found = _parsed(source.read_text())
        elif isinstance(source, str):
            found = _parsed(source)
        elif isinstance(source, Mapping):
            found = [source]
        yield from (one for one in found if one)


@lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[Any, ...]:
    """The documents of a YAML text; nobody changes them."""
    return tuple(yaml.safe_load_all(text))
