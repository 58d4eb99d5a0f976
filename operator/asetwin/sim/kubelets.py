"""The simulated kubelets: pods start after a while, and end when they are told to.

How a pod behaves can be stated in its annotations; a pod that says nothing
is Ready a second after it was bound and ends half a second after SIGTERM.
"""

import math
from dataclasses import dataclass

from asetwin import constants
from asetwin.kube import errors
from asetwin.sim import bodies, volumes
from asetwin.sim.apiserver import DELETED, ApiServer, Change
from asetwin.sim.beats import Beat, Beats
from asetwin.sim.bodies import Json, Key
from asetwin.sim.clock import Process, Random, Timeline
from asetwin.sim.janitors import NodeLifecycle, set_node_ready
from asetwin.sim.masters import MasterProcess, is_master

ANNOTATION_START = "sim.asetwin.dev/start-seconds"
"""From being bound to Ready; ``never`` for a pod that does not become Ready."""
ANNOTATION_RUN = "sim.asetwin.dev/run-seconds"
"""How long a pod runs that is not restarted; then it has succeeded."""
ANNOTATION_STOP = "sim.asetwin.dev/stop-seconds"
"""From SIGTERM to the end, if its grace period is not over before."""

START_SECONDS = 1.0
STOP_SECONDS = 0.5
RUN_SECONDS = 5.0
PROBE_SECONDS = 1.0
MOUNT_RETRY_SECONDS = 0.1
REFUSED_SECONDS = (10.0, 15.0)
"""So long a pod waits whose claim was refused, unless its annotations change before."""
DELAY_SECONDS = 0.01
LEASE_SECONDS = 4
"""As in the twin's kind cluster."""
BEAT_SECONDS = 1.0
"""A kubelet renews its Lease four times in its duration."""


@dataclass(slots=True)
class Run:
    """What a kubelet knows of a pod that it runs."""

    key: Key
    starts_at: float
    is_started: bool = False
    ends_at: float = math.inf
    stops_at: float = math.inf
    master: MasterProcess | None = None
    probe_at: float = math.inf
    is_stopping: bool = False
    refused: Json | None = None
    """The annotations that it had when its claim was refused; it waits while they stay so."""

    @property
    def due(self) -> float:
        """When there is something to do about it next."""
        if self.is_stopping:
            return self.stops_at
        return min(math.inf if self.is_started else self.starts_at, self.ends_at, self.probe_at)


class Heart(Process):
    """Renews the Lease of one kubelet's Node, for as long as it may."""

    def __init__(
        self, server: ApiServer, timeline: Timeline, node: str, beats: Beats | None
    ) -> None:
        super().__init__(timeline)
        self._node = node
        self._server = server
        self._beats = beats
        self._beat: Beat | None = None
        self.wake()

    def sleep(self) -> None:
        if self._beats is not None and self._beat is not None:
            self._beats.end(self._beat)
            self._beat = None
        super().sleep()

    def tick(self) -> None:
        if self._beats is None:
            self._renew(self.timeline.time())
            self.wake(self.timeline.varied(BEAT_SECONDS))
            return
        if self._beat is not None:
            self._beats.end(self._beat)
        self._renew(self.timeline.time())
        self._beat = self._beats.add(BEAT_SECONDS, self._renew)

    def _renew(self, at: float) -> None:
        namespace = constants.LEASE_NAMESPACE
        moment = bodies.micro_stamp(at + self.timeline.wall_offset)
        known = self._server.find("leases", self._node, namespace)
        if self._server.find("nodes", self._node) is None:
            # The Lease belongs to the Node; the garbage collector takes it along.
            if known is not None:
                self._server.delete("leases", self._node, namespace)
        elif known is not None:
            self._server.patch("leases", self._node, {"spec": {"renewTime": moment}}, namespace)
        else:
            spec = {"holderIdentity": self._node, "leaseDurationSeconds": LEASE_SECONDS}
            body = {"metadata": {"name": self._node}, "spec": {**spec, "renewTime": moment}}
            self._server.create("leases", body, namespace)


class Kubelet(Process):
    """Runs the pods of one Node."""

    def __init__(
        self,
        server: ApiServer,
        timeline: Timeline,
        lifecycle: NodeLifecycle,
        node: str,
        shares: dict[str, list[str]],
        beats: Beats | None = None,
        refusals: tuple[float, Random] | None = None,
    ) -> None:
        super().__init__(timeline)
        self.node = node
        self._beats = beats
        self._refusals = refusals
        """How often a pod's claims are refused at first, 0 to 1, and the dice for it."""
        self._known: set[str] = set()
        """The pods of which the node authorizer has heard, so that their claims may be read."""
        self.is_on = True
        self.is_silent = False
        """It runs, but does not talk to the API server, nor listen."""
        self._heart = Heart(server, timeline, node, beats)
        self._shares = shares
        self._server = server
        self._lifecycle = lifecycle
        self._runs: dict[str, Run] = {}
        self._masters: list[MasterProcess] = []
        server.watch(self._changed)

    def masters(self) -> list[MasterProcess]:
        """The master processes that run here."""
        if any(one.has_exited for one in self._masters):
            self._masters = [one for one in self._masters if not one.has_exited]
        return self._masters

    def power_off(self) -> None:
        """Every container dies, and the API server hears no more of this Node."""
        self.is_on = self.is_silent = False
        self.sleep()
        self._heart.sleep()
        for run in self._runs.values():
            if run.master is not None:
                run.master.kill()
        self._runs.clear()
        self._lifecycle.silent(self.node)

    def power_on(self) -> None:
        """Containers start anew, under the same pods."""
        self.is_on, self.is_silent = True, False
        self._heart.wake()
        set_node_ready(self._server, self.node, "True", "KubeletReady")
        self._lifecycle.heard(self.node)
        self.wake(DELAY_SECONDS)

    def silence(self, *, is_cut_off: bool) -> None:
        """Its containers go on, but nobody hears of it; nor of them, if they are cut off too."""
        if not self.is_on:
            return
        self.is_silent = True
        self.sleep()
        self._heart.sleep()
        for one in self.masters():
            one.cut_off(is_cut_off)
        self._lifecycle.silent(self.node)

    def listen(self) -> None:
        """The end of a silence: what should not run here any more ends now."""
        if not self.is_silent:
            return
        self.is_silent = False
        for one in self.masters():
            one.cut_off(False)
        self._heart.wake()
        if self._server.find("nodes", self.node) is not None:
            set_node_ready(self._server, self.node, "True", "KubeletReady")
        self._lifecycle.heard(self.node)
        for pod in self._server.pods_on(self.node):
            run = self._runs.get(bodies.uid(pod))
            is_running = run is not None and run.is_started and run.master is None
            if is_running and not bodies.is_over(pod) and not bodies.is_ready(pod):
                # It was given up for lost meanwhile, and runs all the same.
                self._write(pod, "Running", is_ready=True)
        self.wake(DELAY_SECONDS)

    def _changed(self, change: Change) -> None:
        if change.plural != "pods" or not self.is_on or bodies.node_of(change.body) != self.node:
            return
        before = change.before
        is_news = (
            before is None
            or change.type == DELETED
            or bodies.node_of(before) != self.node
            or bodies.is_deleting(before) != bodies.is_deleting(change.body)
        )
        run = self._runs.get(bodies.uid(change.body))
        if run is not None and run.refused is not None:
            is_news = is_news or run.refused != _annotations(change.body)
        if is_news:
            self.wake(self.timeline.varied(DELAY_SECONDS))

    def tick(self) -> None:
        if self.is_silent:
            return
        now = self.timeline.time()
        pods = {bodies.uid(pod): pod for pod in self._server.pods_on(self.node)}
        for uid in [uid for uid in self._runs if uid not in pods]:
            run = self._runs.pop(uid)
            if run.master is not None:
                run.master.kill()
        for uid, pod in pods.items():
            if uid not in self._runs and not bodies.is_over(pod):
                start = _seconds(pod, ANNOTATION_START, START_SECONDS)
                delay = self.timeline.varied(start)
                self._runs[uid] = Run(bodies.key(pod), starts_at=self.timeline.after(delay))
            run_or_none = self._runs.get(uid)
            if run_or_none is not None:
                self._look(run_or_none, pod, now)
        due = min((run.due for run in self._runs.values()), default=math.inf)
        if not math.isinf(due):
            self.wake_at(due)

    def _look(self, run: Run, pod: Json, now: float) -> None:
        if bodies.is_deleting(pod):
            self._end(run, pod, now)
        elif not run.is_started and (now >= run.starts_at or self._is_asked_for(run, pod)):
            if not volumes.are_bound(self._server, pod):
                run.starts_at = self.timeline.after(MOUNT_RETRY_SECONDS)
            elif self._is_refused(pod):
                assert self._refusals is not None
                run.refused = _annotations(pod)
                run.starts_at = self.timeline.after(self._refusals[1].uniform(*REFUSED_SECONDS))
            else:
                self._start(run, pod, now)
        elif run.master is not None:
            self._probe(run, pod, now)
        elif now >= run.ends_at:
            run.ends_at = math.inf
            self._write(pod, "Succeeded", is_ready=False)

    def _is_asked_for(self, run: Run, pod: Json) -> bool:
        return run.refused is not None and run.refused != _annotations(pod)

    def _is_refused(self, pod: Json) -> bool:
        """A race of Kubernetes: it asks for a pod's claim before the API server knows why."""
        if self._refusals is None or bodies.uid(pod) in self._known or not volumes.claims_of(pod):
            return False
        self._known.add(bodies.uid(pod))
        rate, dice = self._refusals
        return dice.random() < rate

    def _start(self, run: Run, pod: Json, now: float) -> None:
        run.is_started, run.refused = True, None
        if is_master(pod):
            run.master = MasterProcess(
                self._server, self.timeline, pod, self.wake, self._shares, self._beats
            )
            self._masters.append(run.master)
            self._write(pod, "Running", is_ready=False)
            return
        if pod["spec"].get("restartPolicy") != "Always":
            run.ends_at = self.timeline.after(_seconds(pod, ANNOTATION_RUN, RUN_SECONDS))
        self._write(pod, "Running", is_ready=True)

    def _probe(self, run: Run, pod: Json, now: float) -> None:
        """Readiness is looked at once a second, so it follows the process with a delay."""
        assert run.master is not None
        if run.master.has_exited:
            run.probe_at = math.inf
            if not bodies.is_over(pod):
                # restartPolicy OnFailure, and a master exits with success.
                self._write(pod, "Succeeded", is_ready=False)
            return
        is_ready = run.master.is_serving
        if is_ready == bodies.is_ready(pod):
            run.probe_at = math.inf
        elif now >= run.probe_at:
            run.probe_at = math.inf
            self._write(pod, "Running", is_ready=is_ready)
        elif math.isinf(run.probe_at):
            turns = math.floor((now - run.starts_at) / PROBE_SECONDS) + 1
            run.probe_at = run.starts_at + turns * PROBE_SECONDS

    def _end(self, run: Run, pod: Json, now: float) -> None:
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        if not run.is_stopping:
            run.is_stopping = True
            stop = self.timeline.varied(_seconds(pod, ANNOTATION_STOP, STOP_SECONDS))
            run.stops_at = self.timeline.after(min(stop, grace))
            if run.master is not None:
                run.master.stop()
        if now >= run.stops_at:
            if run.master is not None:
                run.master.kill()
            run.stops_at = math.inf
            namespace, name = run.key
            if not bodies.is_over(pod):
                # A master exits with success after SIGTERM; most programs just die of it.
                phase = "Failed" if run.master is None else "Succeeded"
                pod = self._write(pod, phase, is_ready=False)
            try:
                self._server.delete("pods", name, namespace, uid=bodies.uid(pod), grace_seconds=0)
            except errors.NotFound:
                # Its finalizer went in the meantime.
                return

    def _write(self, pod: Json, phase: str, *, is_ready: bool) -> Json:
        namespace, name = bodies.key(pod)
        conditions = (pod.get("status") or {}).get("conditions") or ()
        now, word = self._server.clock(), "True" if is_ready else "False"
        for kind in ("ContainersReady", "Ready"):
            conditions = bodies.with_condition(conditions, kind, word, now)
        patch = {"status": {"phase": phase, "conditions": conditions}}
        return self._server.patch("pods", name, patch, namespace, subresource="status")


def _annotations(pod: Json) -> Json:
    found: Json = pod["metadata"].get("annotations") or {}
    return found


def _seconds(pod: Json, name: str, default: float) -> float:
    text = bodies.annotation(pod, name)
    if text == "never":
        return math.inf
    return float(text) if text else default
