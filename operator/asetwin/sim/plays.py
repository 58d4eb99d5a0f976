"""Runs a scenario file and judges it: what happened, what was expected, what was promised.

The moments of a scenario count from when its device is in service: the
master serves and the workloads' pods run. The invariants are watched from the
very beginning, whatever the file expects.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from asetwin import constants
from asetwin.kube import errors
from asetwin.resources.devices import AseDevice, Failover, FailoverRecord
from asetwin.resources.updates import DeviceUpdate
from asetwin.sim import bodies, calm, invariants, kinds, scenarios
from asetwin.sim.apiserver import Change
from asetwin.sim.bodies import Json
from asetwin.sim.clock import Random
from asetwin.sim.files import Event, Expectation, Lag, Removal, Scenario
from asetwin.sim.masters import is_master
from asetwin.sim.timelines import Row, Timeline, workload
from asetwin.sim.wire import Call, Trouble
from asetwin.sim.world import Options, World

SERVICE_SECONDS = 900.0
"""So long a device may take to be in service; then the scenario begins all the same."""
FOREIGN_TAINT = "example.com/kept"
"""A taint that a person of a scenario may have set, and takes off in the end."""
FOREIGN_QUOTA = "tight"
"""Likewise a ResourceQuota."""
FORGIVEN_SECONDS = 600.0
"""What fails from starting everything anew does not count towards a quarantine."""
GOOD_PHASES = ("Recovered",)


@dataclass(slots=True)
class Result:
    """How a scenario went; nothing to object to is a pass."""

    name: str
    file: str
    objections: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    failovers: list[Json] = field(default_factory=list)
    outages: dict[str, float] = field(default_factory=dict)
    expectations: int = 0
    device_seconds: float = 0.0
    violation: str = ""
    """The name of the invariant that was broken, if one was."""

    @property
    def passed(self) -> bool:
        """Whether everything was as it should be."""
        return not self.objections


class Serving:
    """Who serves: Ready pods on machines that run; and for how long a workload had none."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_changed = True
        self._machine_changes = 0
        self._since: dict[str, float] = {}
        self._longest: dict[str, float] = {}
        self.offline = 0.0
        self._offline_since: float | None = None
        self._zero = 0.0
        world.step_observers.append(self._look)
        world.observers.append(self._note)

    def begin(self) -> None:
        """Count from now on."""
        self._zero, self._longest, self.offline = self._world.now, {}, 0.0
        self._since = dict.fromkeys(self._since, self._zero)

    def pods(self, name: str) -> list[Json]:
        """The serving pods of a workload (``namespace/name``)."""
        return [one for one in self._serving() if workload(one) == name]

    def outages(self) -> dict[str, float]:
        """Workload → the longest time without any serving pod, in seconds."""
        found = dict(self._longest)
        for name, since in self._since.items():
            found[name] = max(found.get(name, 0.0), self._world.now - since)
        return {name: round(one, 3) for name, one in sorted(found.items())}

    def offline_seconds(self) -> float:
        """For how long a device was Offline, in all."""
        since = self._offline_since
        going = 0.0 if since is None else self._world.now - max(since, self._zero)
        return self.offline + going

    def _serving(self) -> Iterator[Json]:
        machines = self._world.machines
        for pod in self._world.server.objects("pods").values():
            machine = machines.get(bodies.node_of(pod))
            if machine is not None and machine.is_running and bodies.is_ready(pod):
                yield pod

    def _look(self) -> None:
        changes = self._world.machine_changes
        if not self._is_changed and changes == self._machine_changes:
            return
        self._is_changed, self._machine_changes = False, changes
        self._note_offline()
        up = {_group(one) for one in self._serving()} - {""}
        for name in up:
            since = self._since.pop(name, None)
            took = 0.0 if since is None else self._world.now - since
            self._longest[name] = max(self._longest.get(name, 0.0), took)
        for name in self._longest.keys() - up - self._since.keys():
            self._since[name] = self._world.now

    def _note(self, change: Change) -> None:
        self._is_changed = self._is_changed or change.plural in ("pods", "asedevices")

    def _note_offline(self) -> None:
        devices = self._world.server.objects("asedevices").values()
        is_offline = any((one.get("status") or {}).get("state") == "Offline" for one in devices)
        if is_offline and self._offline_since is None:
            self._offline_since = self._world.now
        elif not is_offline and self._offline_since is not None:
            self.offline += self._world.now - max(self._offline_since, self._zero)
            self._offline_since = None


def _group(pod: Json) -> str:
    """Whose outage it is: a workload's, the master's, or nobody's (the cluster's own pods)."""
    if is_master(pod):
        return "master"
    is_own = pod["metadata"]["namespace"] in constants.RESERVED_NAMESPACES
    return "" if is_own else workload(pod)


class Play:
    """One run of one scenario."""

    def __init__(
        self,
        scenario: Scenario,
        prepare: Callable[[World], None] | None = None,
        *,
        is_quiet: bool = True,
        is_refusal_wrong: bool = True,
    ) -> None:
        self.is_refusal_wrong = is_refusal_wrong
        """Whether an event that the API server refuses is to be objected to."""
        self.scenario = scenario
        self.result = Result(scenario.name, str(scenario.path))
        content = scenario.content
        options = Options(
            workers=(),
            jitter=content.jitter,
            mount_refusals=content.mount_refusals,
            is_quiet=is_quiet,
            is_traced=False,
        )
        self.world = World(seed=content.seed, options=options)
        self.pins = dict(scenario.pins)
        self.timeline = Timeline(self.world, self.pins)
        self.serving = Serving(self.world)
        self._rng = Random(content.seed)
        self._wrote_at = 0.0
        self._displaced: dict[str, set[str]] = {}
        """Device node → the workloads that had pods on it when something of it failed last."""
        self.world.call_observers.append(self._called)
        (prepare or invariants.watch)(self.world)
        for node, size in scenario.sizes.items():
            self.world.add_node(node, allocatable=size.model_dump())
        if content.power_agent:
            self.world.agent.start()

    def run(self) -> Result:
        """From nothing to the end, or to the first broken promise."""
        try:
            self._run()
        except invariants.Violation as violation:
            name, _, _ = str(violation).partition(" at ")
            self.result.violation = name
            self.result.objections.append(f"a promise was broken: {violation}")
        except Exception as error:
            # The rules of the operator run in here: whatever they raise is a finding, too.
            self.result.violation = type(error).__name__
            self.result.objections.append(f"it broke down at {self.world.now:.3f} s: {error!r}")
        self.result.rows = self.timeline.rows
        self.result.outages = self.serving.outages()
        self.result.failovers = [self._failover(one) for one in self._failovers()]
        self.result.device_seconds = self.world.now
        return self.result

    def _called(self, call: Call) -> None:
        if call.is_write:
            self._wrote_at = self.world.now

    def _run(self) -> None:
        world, content = self.world, self.scenario.content
        world.apply(*self.scenario.objects)
        self._wait_for_service()
        self.timeline.begin()
        self.serving.begin()
        agenda: list[tuple[float, int, int, Event | Expectation]] = [
            (one.at, 0, number, one)
            for number, one in enumerate(content.expect)
            if one.at is not None
        ]
        agenda += [(one.at, 1, number, one) for number, one in enumerate(content.events)]
        for at, _, number, one in sorted(agenda, key=lambda entry: entry[:3]):
            world.run(self.timeline.zero + at - world.now)
            if isinstance(one, Event):
                self._do(one, number)
            else:
                self._check(one, number)
        world.run(self.timeline.zero + self.scenario.end - world.now)
        for number, expectation in enumerate(content.expect):
            if expectation.at is None:
                self._check(expectation, number)

    def _wait_for_service(self) -> None:
        world, seen = self.world, -1
        deadline = world.now + SERVICE_SECONDS

        def is_in_service() -> bool:
            nonlocal seen
            world.look()
            if seen == world.server.version:
                return False
            seen = world.server.version
            devices = world.server.objects("asedevices").values()
            masters = [(one.get("status") or {}).get("master") or {} for one in devices]
            pods = world.server.objects("pods").values()
            return all(one.get("phase") == "Serving" for one in masters) and all(
                bodies.is_ready(one) or bodies.is_over(one) for one in pods
            )

        if not world.timeline.advance(deadline, stop=is_in_service):
            text = f"the device is not in service after {SERVICE_SECONDS:.0f} s"
            self.timeline.tell("scenario", text)
            self.result.objections.append(text)

    # --- Events -------------------------------------------------------------------------------

    def _do(self, event: Event, number: int) -> None:
        (verb,) = event.verbs()
        given = getattr(event, verb)
        try:
            for about, text, act in self._acts(verb, given):
                self.timeline.tell(about, text, by_scenario=True)
                act()
        except errors.KubeError as error:
            objection = f"events[{number}].{verb}: refused: {error}"
            self.timeline.tell("scenario", f"refused: {error}", by_scenario=True)
            if self.is_refusal_wrong:
                self.result.objections.append(objection)

    def _acts(self, verb: str, given: Any) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """What an event is called in the timeline, and how it is done."""
        world, patch = self.world, Json()
        match verb:
            case "fail":
                for one in given:
                    node, _, component = one.partition("/")
                    pods = world.server.pods_on(self.pins[node])
                    self._displaced[node] = {workload(pod) for pod in pods}
                    yield node, f"{component} fails", partial(scenarios.fail, world, [one])
            case "repair":
                for one in given:
                    node, _, part = one.partition("/")
                    about = "device" if one == "all" else node
                    text = f"{part or 'everything'} is repaired"
                    yield about, text, partial(self._repair, one)
            case "reboot":
                for one in given:
                    yield one, "reboots", partial(scenarios.reboot, world, one)
            case "update":
                for device in self._devices():
                    text = f"{given.type.value} update of {device} is asked for"
                    yield given.object_name, text, partial(world.apply, given.body(device))
            case "witness":
                patch = {"spec": {"witness": {"online": given == "online"}}}
                for name in self._devices():
                    yield name, f"witness goes {given}", self._patcher("AseDevice", name, patch)
            case "apply" | "delete":
                for body in self._bodies(given):
                    meta = body["metadata"]
                    about = f"{body['kind']} {meta.get('namespace', '')}/{meta['name']}"
                    act = world.apply if verb == "apply" else world.delete_all
                    text = "is applied" if verb == "apply" else "is deleted"
                    yield about.replace(" /", " "), text, partial(act, body)
            case "scale":
                namespace, _, name = given.name.partition("/")
                text = f"is scaled to {given.replicas}"
                patch = {"spec": {"replicas": given.replicas}}
                yield given.name, text, self._patcher(given.kind, name, patch, namespace)
            case "patch":
                patch_it = self._patcher(given.kind, given.name, given.patch, given.namespace)
                yield f"{given.kind} {given.name}", f"is patched: {given.patch}", patch_it
            case "stop" | "start" | "restart" | "pause" | "silence":
                machine = world.machines[self.pins.get(given, given)]
                done = {"stop": "stopped", "start": "started", "restart": "restarted"}
                done |= {"pause": "paused", "silence": "silenced"}
                yield given, f"its machine is {done[verb]} by hand", getattr(machine, verb)
            case "forgive":
                until = bodies.stamp(world.timeline.wall())
                patch = {"spec": {"failuresForgivenUntil": until}}
                yield given, "its failures are forgiven", self._patcher("AseNode", given, patch)
            case "delete_pods":
                text = "loses pods by hand" + (", by force" if given.force else "")
                yield given.workload, text, partial(self._delete_pods, given)
            case "heal":
                yield "scenario", "everything is put right", self._heal
            case _:
                yield from self._faults(verb, given)

    def _faults(self, verb: str, given: Any) -> Iterator[tuple[str, str, Callable[[], None]]]:
        world, operator = self.world, self.world.operator
        match verb:
            case "agent":
                acts = {"gone": world.agent.kill, "back": world.agent.start}
                acts |= {"left": world.agent.leave}
                said = {"gone": "dies", "back": "starts", "left": "leaves"}
                yield "power agent", said[given], acts[given]
            case "operator" if not isinstance(given, str):
                count = given.crash_after
                text = f"will die after {count} more writes"
                yield "operator", text, lambda: world.crash_after(count)
            case "operator":
                is_stop = given == "stop"
                do = operator.stop if is_stop else operator.start
                yield "operator", "is stopped" if is_stop else "is started", do
            case "watch" if not isinstance(given, str):
                text = f"hears of things up to {given.delay:g} s late for {given.seconds:g} s"
                yield "operator", text, partial(self._lag, given)
            case "watch":
                is_deaf = given == "deaf"
                text = "hears of nothing any more" if is_deaf else "hears again"
                yield "operator", text, lambda: operator.listen(is_deaf=is_deaf)
            case "clock":
                yield "wall clock", f"jumps by {given:+g} s", lambda: self._jump(given)
            case "faults":
                text = f"{given.rate:.0%} of its requests fail for {given.seconds:g} s"
                yield "operator", text, lambda: self._trouble(given.rate, given.seconds)

    def _repair(self, text: str) -> None:
        node, _, component = text.partition("/")
        if component:
            scenarios.repair(self.world, [text])
            return
        for body in self.world.server.listed("hardwarefailures"):
            if node in ("all", body["spec"]["node"]):
                self.world.delete("HardwareFailure", body["metadata"]["name"])

    def _delete_pods(self, given: Removal) -> None:
        pods = [one for one in self.world.server.listed("pods") if workload(one) == given.workload]
        for pod in pods[: given.count]:
            namespace, name = bodies.key(pod)
            grace = 0 if given.force else None
            self.world.delete("Pod", name, namespace, grace_seconds=grace)

    def _lag(self, given: Lag) -> None:
        self.world.operator.lag(given.delay, given.twice, until=self.world.now + given.seconds)

    def _heal(self) -> None:
        """As after a service call: whatever a scenario may have broken is whole."""
        world = self.world
        world.operator.befall(lambda call: None)
        world.operator.lag(0.0, 0.0, until=0.0)
        world.operator.listen(is_deaf=False)
        self._jump(-world.timeline.skew)
        if not world.operator.is_running:
            world.operator.start()
        if self.scenario.content.power_agent and not world.agent.is_running:
            world.agent.start()
        for machine in world.machines.values():
            machine.start()
        self._repair("all")
        for body in world.server.listed("deviceupdates"):
            if not DeviceUpdate.read(body).is_finished:
                # Also one that waits for ever, as for a budget: a node must not stay away.
                world.delete("DeviceUpdate", body["metadata"]["name"])
        for body in world.server.listed("nodes"):
            owned = json.loads(bodies.annotation(body, constants.ANNOTATION_OWNED, "{}"))
            taints = [t for t in body["spec"].get("taints") or () if t["key"] != FOREIGN_TAINT]
            patch: Json = {"spec": {"taints": taints or None}}
            if not owned.get("cordon"):
                patch["spec"]["unschedulable"] = None
            world.patch("Node", body["metadata"]["name"], patch)
        for body in world.server.listed("resourcequotas"):
            if body["metadata"]["name"] == FOREIGN_QUOTA:
                world.delete("ResourceQuota", FOREIGN_QUOTA, body["metadata"]["namespace"])
        for one in self.scenario.objects:
            # What is on its way out has to be gone before it can be there again.
            meta = one["metadata"]
            plural = kinds.BY_KIND[one["kind"]].plural
            if world.server.find(plural, meta["name"], meta.get("namespace", "")) is None:
                world.apply(one)
        for name in self._devices():
            patch = {"spec": {"paused": [], "witness": {"online": True}}}
            world.patch("AseDevice", name, patch)
        until = bodies.stamp(world.timeline.wall() + FORGIVEN_SECONDS)
        for node in self.pins:
            if world.server.find("asenodes", node) is not None:
                world.patch("AseNode", node, {"spec": {"failuresForgivenUntil": until}})

    def _devices(self) -> list[str]:
        return [one["metadata"]["name"] for one in self.world.server.listed("asedevices")]

    def _bodies(self, given: tuple[str | Json, ...]) -> Iterator[Json]:
        for one in given:
            yield from self.scenario.loaded[one] if isinstance(one, str) else (one,)

    def _patcher(
        self, kind: str, name: str, patch: Json, namespace: str = ""
    ) -> Callable[[], None]:
        return lambda: self.world.patch(kind, name, patch, namespace)

    def _jump(self, by: float) -> None:
        self.world.timeline.jump(by)
        self.world.operator.turn_soon()

    def _trouble(self, rate: float, seconds: float) -> None:
        until, kinds = self.world.now + seconds, list(Trouble)

        def trouble(call: Call) -> Trouble | None:
            if self.world.now >= until or self._rng.random() > rate:
                return None
            return self._rng.choice(kinds)

        self.world.operator.befall(trouble)

    # --- Expectations -------------------------------------------------------------------------

    def _check(self, one: Expectation, number: int) -> None:
        self.result.expectations += 1
        when = "" if one.at is None else f"at {one.at:g} s "
        found = [f"{when}{text}" for text in (*self._state(one), *self._whole(one))]
        self.result.objections += [f"expect[{number}]: {text}" for text in found]
        for text in found:
            self.timeline.tell("expected", text, by_scenario=True)

    def _state(self, one: Expectation) -> Iterator[str]:
        """What is not as expected at this moment."""
        for name in self._devices() if one.device is not None else ():
            state = self.world.device(name).status.state
            if state != one.device:
                yield f"the device is {state}, not {one.device}"
        for name, wanted in (one.nodes or {}).items():
            body = self.world.server.find("asenodes", name) or {}
            state = (body.get("status") or {}).get("state")
            if state != wanted:
                yield f"{name} is {state}, not {wanted}"
        if one.master is not None:
            names = {node: name for name, node in self.pins.items()}
            serving = [m.settings.node for m in self.world.masters() if m.is_serving]
            where = ", ".join(names.get(node, node) for node in serving) or "none"
            if where != one.master:
                yield f"the master serves from {where}, not from {one.master}"
        for name, count in (one.ready or {}).items():
            ready = len(self.serving.pods(name))
            if ready != count:
                yield f"{name} has {ready} Ready pods, not {count}"
        for name, counts in (one.placed or {}).items():
            pods = self.serving.pods(name)
            for node, count in counts.items():
                there = sum(1 for pod in pods if bodies.node_of(pod) == self.pins[node])
                if there != count:
                    yield f"{name} has {there} Ready pods on {node}, not {count}"
        for name, phase in (one.updates or {}).items():
            body = self.world.server.find("deviceupdates", name) or {}
            found = (body.get("status") or {}).get("phase")
            if found != phase:
                yield f"update {name} is {found}, not {phase}"
        if one.failovers is not None and len(self._failovers()) != one.failovers:
            yield f"there were {len(self._failovers())} failovers, not {one.failovers}"
        if one.calm:
            yield from calm.problems(self.world, self._wrote_at)
        if one.evacuated is not None:
            yield from calm.left_on(self.world, self.pins[one.evacuated])
        if one.balanced is not None:
            yield from self._unbalanced(one.balanced)
        yield from self._unplaceable(one)

    def _unbalanced(self, node: str) -> Iterator[str]:
        """Deployments that the node had pods of, and that are two pods fuller elsewhere now."""
        for body in self.world.server.listed("deployments"):
            namespace, name = bodies.key(body)
            about = f"{namespace}/{name}"
            has_budget = self.world.server.listed("poddisruptionbudgets", namespace)
            if has_budget or about not in self._displaced.get(node, set()):
                continue
            pods = self.serving.pods(about)
            there = sum(1 for pod in pods if bodies.node_of(pod) == self.pins[node])
            if len(pods) - there > there + 1:
                yield f"{about} has {there} of {len(pods)} pods on {node}, which is back"

    def _unplaceable(self, one: Expectation) -> Iterator[str]:
        problems = {
            (row.pod, str(row.reason))
            for failover in self._failovers()
            if isinstance(failover, Failover)
            for row in failover.unplaceable
        }
        for name, reason in (one.unplaceable or {}).items():
            # What a quota refuses has no pod; its workload stands there.
            found = sorted({why for pod, why in problems if f"{pod}-".startswith(f"{name}-")})
            if reason not in found:
                said = " and ".join(found) or "nothing"
                yield f"{name} is said to be held by {said}, not by {reason}"

    def _whole(self, one: Expectation) -> Iterator[str]:
        """What was not as expected over the whole run."""
        for failover in self._failovers() if one.recovered is not None else ():
            phase = failover.came_to if isinstance(failover, Failover) else failover.phase
            if failover.recovered_at is None or phase not in GOOD_PHASES:
                yield f"the failover from {failover.from_node} came to {phase}, not to Recovered"
                continue
            took = failover.recovered_at - failover.detected_at
            if one.recovered is not None and took > one.recovered:
                yield f"the failover took {took:.1f} s, more than {one.recovered:g} s"
        outages = self.serving.outages()
        for name, most in (one.outage or {}).items():
            if name not in outages:
                yield f"{name} never had a Ready pod"
            elif outages[name] > most:
                yield f"{name} had no Ready pod for {outages[name]:.1f} s, more than {most:g} s"
        offline = self.serving.offline_seconds()
        if one.offline is not None and offline > one.offline:
            yield f"the device was Offline for {offline:.1f} s, more than {one.offline:g} s"

    # --- Failovers ----------------------------------------------------------------------------

    def _failovers(self) -> list[Failover | FailoverRecord]:
        """All of them, oldest first."""
        found: list[Failover | FailoverRecord] = []
        for name in self._devices():
            status = AseDevice.read(self.world.server.read("asedevices", name)).status
            found += [*status.history, *([status.failover] if status.failover else ())]
        return sorted(found, key=lambda one: one.detected_at)

    def _failover(self, one: Failover | FailoverRecord) -> Json:
        zero = self.timeline.zero + self.world.timeline.wall_offset
        phase = one.came_to if isinstance(one, Failover) else one.phase
        moments = {
            f"{name}Seconds": None if at is None else round(at - one.detected_at, 3)
            for name, at in (
                ("fenced", one.fenced_at),
                ("podsReady", one.pods_ready_at),
                ("masterReady", one.master_ready_at),
                ("recovered", one.recovered_at),
            )
        }
        return {
            "from": one.from_node,
            "to": one.to_node,
            "phase": str(phase),
            "detectedAt": round(one.detected_at - zero, 3),
            **moments,
            "displaced": one.displaced,
            "recovered": one.recovered,
            "lost": one.lost,
        }


def play(scenario: Scenario) -> Result:
    """Run one scenario."""
    return Play(scenario).run()
