"""The machines under the Nodes, and the simulated power agent that switches them.

The agent decides with the rules of the real one (:mod:`asetwin.power.rules`);
what is simulated is how it hears of things and how long they take. A machine
can also be stopped, started, paused or silenced by hand, as a person would.
"""

import math
from collections.abc import Callable, Mapping

from asetwin import constants
from asetwin.kube import errors
from asetwin.model.power import AGENT_LEASE, is_owed
from asetwin.power import rules
from asetwin.power.drivers import Command, Machine, Network, Reading
from asetwin.power.presence import DURATION_SECONDS, RENEW_SECONDS
from asetwin.resources import conditions, times
from asetwin.resources.devices import PinnedWorker, Power, PowerState
from asetwin.sim import bodies
from asetwin.sim.apiserver import SYSTEM, ApiServer, Change
from asetwin.sim.beats import Beat, Beats
from asetwin.sim.clock import Process, Timeline
from asetwin.sim.kubelets import Kubelet

METHOD = "Docker"
ACTOR = "power-agent"
HOLDER = "power-agent-1"
KILL_SECONDS = 0.2
START_SECONDS = 0.3
RESTART_SECONDS = 0.5
"""What a kubelet takes to be restarted."""
BOOT_SECONDS = 1.5
"""From the start of a machine to its kubelet's first heartbeat."""
NOTICE_SECONDS = 0.02
"""From something that happens to the agent's turn."""


class Container:
    """One machine, as the engine would tell of it."""

    def __init__(self, timeline: Timeline, kubelet: Kubelet) -> None:
        self.timeline = timeline
        self.kubelet = kubelet
        self.machine = Machine.RUNNING
        self.network = Network.OPEN
        self.started_at = timeline.host()
        self.finished_at: float | None = None
        self.is_changed: Callable[[], None] = lambda: None
        """Called after whatever happens to it: the engine's event."""
        self._run = 0
        self._is_boot_due = False
        """Whether it was frozen while it booted."""

    @property
    def is_running(self) -> bool:
        """Whether anything can run in it, be it frozen or cut off."""
        return self.machine is not Machine.STOPPED

    def reading(self) -> Reading:
        """One look at it."""
        name = self.kubelet.node
        if self.machine is Machine.STOPPED:
            detail = f"container {name} has ended"
            return Reading(self.machine, detail, Network.UNKNOWN, self.started_at, self.finished_at)
        cut = ", its network is cut" if self.network is Network.CUT else ""
        what = "runs" if self.machine is Machine.RUNNING else "is paused"
        network = self.network if self.machine is Machine.RUNNING else Network.UNKNOWN
        return Reading(self.machine, f"container {name} {what}{cut}", network, self.started_at)

    def stop(self) -> None:
        """Off at once."""
        if not self.is_running:
            return
        self._run, self._is_boot_due = self._run + 1, False
        self.machine, self.network = Machine.STOPPED, Network.OPEN
        self.finished_at = self.timeline.host()
        self.kubelet.power_off()
        self.is_changed()

    def start(self) -> None:
        """On again; thawed and heard again if it was paused or silent."""
        if not self.is_running:
            self._run += 1
            self.machine, self.started_at = Machine.RUNNING, self.timeline.host()
            self.timeline.call_later(BOOT_SECONDS, self._boot, self._run)
        else:
            self.machine = Machine.RUNNING
            if self._is_boot_due:
                self._boot(self._run)
            self._listen()
        self.is_changed()

    def restart(self) -> None:
        """It died and came back in no time; its kubelet lets hardly a renewal slip.

        One that stands still is only started.
        """
        if not self.is_running:
            self.start()
            return
        self._run, self._is_boot_due = self._run + 1, False
        self.machine, self.network = Machine.RUNNING, Network.OPEN
        self.finished_at = self.started_at = self.timeline.host()
        self.kubelet.power_off()
        self.kubelet.power_on()
        self.is_changed()

    def pause(self) -> None:
        """Frozen: alive, but nobody hears of it; what does not run cannot be frozen."""
        if self.machine is not Machine.RUNNING:
            return
        self.machine = Machine.PAUSED
        self.kubelet.silence(is_cut_off=True)
        self.is_changed()

    def silence(self) -> None:
        """Only the kubelet hangs: containers go on, and the engine sees nothing of it."""
        if self.is_running:
            self.kubelet.silence(is_cut_off=False)

    def cut(self) -> None:
        """Its network is gone; it runs on."""
        if not self.is_running:
            return
        self.network = Network.CUT
        self.kubelet.silence(is_cut_off=True)
        self.is_changed()

    def restore(self) -> None:
        """Its network is back."""
        self.network = Network.OPEN
        self._listen()
        self.is_changed()

    def _listen(self) -> None:
        if self.network is Network.OPEN and self.machine is Machine.RUNNING:
            self.kubelet.listen()

    def _boot(self, run: int) -> None:
        if run != self._run or not self.is_running:
            return
        self._is_boot_due = self.machine is Machine.PAUSED
        if not self._is_boot_due:
            self.kubelet.power_on()
            if self.network is Network.CUT:
                self.kubelet.silence(is_cut_off=True)


class PowerAgent(Process):
    """The process; it does nothing until it is started."""

    def __init__(
        self,
        server: ApiServer,
        timeline: Timeline,
        machines: Mapping[str, Container],
        beats: Beats | None = None,
    ) -> None:
        super().__init__(timeline)
        self.is_running = False
        self.is_installed = False
        """Whether its Lease has a holder, be it alive or not."""
        self._server = server
        self._machines = machines
        self._killed: set[str] = set()
        self._busy: set[str] = set()
        self._renew_at = 0.0
        self._beats = beats
        self._beat: Beat | None = None
        server.watch(self._changed)

    def start(self) -> None:
        """A new process: it knows only what is in the statuses."""
        self._end_beat()
        self.is_running = self.is_installed = True
        self._killed, self._busy, self._renew_at = set(), set(), self.timeline.time()
        self.wake()

    def kill(self) -> None:
        """Gone without a word: its Lease runs out."""
        self._end_beat()
        self.is_running = False
        self.sleep()

    def leave(self) -> None:
        """Gone in order: its Lease has no holder any more."""
        self.kill()
        self.is_installed = False
        self._hold("")

    def notice(self) -> None:
        """Something has happened to a machine."""
        if self.is_running:
            self.wake(self.timeline.varied(NOTICE_SECONDS))

    def _changed(self, change: Change) -> None:
        if change.plural != "pinnedworkers" or change.actor == ACTOR:
            return
        if change.type == "DELETED" and self.is_running:
            self._release(PinnedWorker.read(change.body))
        self.notice()

    def tick(self) -> None:
        if not self.is_running:
            return
        self._server.actor = ACTOR
        try:
            for body in self._server.listed("pinnedworkers"):
                self._keep(PinnedWorker.read(body))
        finally:
            self._server.actor = SYSTEM
        now = self.timeline.time()
        if now >= self._renew_at:
            self._hold(HOLDER)
            if self._beats is not None:
                self._renew_at = math.inf
                self._beat = self._beats.add(RENEW_SECONDS, lambda at: self._hold(HOLDER, at))
                return
            self._renew_at = self.timeline.after(RENEW_SECONDS)
        if not math.isinf(self._renew_at):
            self.wake_at(self._renew_at)

    def _end_beat(self) -> None:
        if self._beats is not None and self._beat is not None:
            self._beats.end(self._beat)
            self._beat = None

    def _keep(self, worker: PinnedWorker) -> None:
        node, last = worker.spec.node_name, worker.status.power or Power()
        machine = self._machines.get(node)
        is_accepted = conditions.is_true(worker.status.conditions, "Accepted")
        is_idle = not is_accepted and not is_owed(last)
        if machine is None or is_idle or node in self._busy:
            return
        verdict = rules.judge(
            last.desired if is_accepted else PowerState.ON,
            machine.reading(),
            last,
            method=METHOD,
            now=self.timeline.host(),
            has_killed=node in self._killed,
        )
        self._killed.discard(node)
        if verdict.changes:
            patch = {"status": {"power": verdict.changes}}
            self._server.patch("pinnedworkers", worker.name, patch, subresource="status")
        restart = worker.status.kubelet
        is_asked = restart is not None and restart.asked not in (None, restart.done)
        is_idle = verdict.command is None and machine.machine is Machine.RUNNING
        if is_accepted and is_asked and is_idle and restart is not None:
            self._busy.add(node)
            self.timeline.call_later(
                RESTART_SECONDS, self._restarted, node, worker.name, restart.asked
            )
        if verdict.command is not None:
            self._busy.add(node)
            if verdict.command is Command.KILL and machine.machine is Machine.PAUSED:
                # The engine thaws what it has to kill: its kubelet may say a last word.
                machine.start()
            takes = START_SECONDS if verdict.command is Command.START else KILL_SECONDS
            delay = self.timeline.varied(takes)
            self.timeline.call_later(delay, self._carry_out, node, verdict.command)

    def _restarted(self, node: str, worker: str, asked: str | None) -> None:
        """The kubelet is back after a moment; its containers have never stopped."""
        self._busy.discard(node)
        if not self.is_running or self._server.find("pinnedworkers", worker) is None:
            return
        self._server.actor = ACTOR
        try:
            done = {"done": asked, "doneAt": times.render(self.timeline.wall())}
            patch = {"status": {"kubelet": done}}
            self._server.patch("pinnedworkers", worker, patch, subresource="status")
        finally:
            self._server.actor = SYSTEM
        self.notice()

    def _release(self, worker: PinnedWorker) -> None:
        """Give back to a machine whose PinnedWorker is gone what was taken from it."""
        machine, last = self._machines.get(worker.spec.node_name), worker.status.power or Power()
        if machine is None:
            return
        now = self.timeline.wall()
        found = rules.judge(PowerState.ON, machine.reading(), last, method=METHOD, now=now)
        if found.command is not None:
            self._busy.add(worker.spec.node_name)
            self.timeline.call_later(
                START_SECONDS, self._carry_out, worker.spec.node_name, found.command
            )

    def _carry_out(self, node: str, command: Command) -> None:
        machine = self._machines[node]
        self._busy.discard(node)
        if command is Command.KILL:
            self._killed.add(node)
            machine.stop()
        elif command is Command.START:
            machine.start()
        elif command is Command.CUT:
            machine.cut()
        else:
            machine.restore()
        self.notice()

    def _hold(self, holder: str, at: float | None = None) -> None:
        wall = (
            self.timeline.host()
            if at is None
            else at + self.timeline.wall_offset + self.timeline.skew
        )
        now = times.render(wall)
        spec = {"holderIdentity": holder, "leaseDurationSeconds": DURATION_SECONDS}
        spec |= {"renewTime": bodies.micro_stamp(wall), "acquireTime": now}
        body = {"metadata": {"name": AGENT_LEASE}, "spec": spec}
        namespace = constants.SYSTEM_NAMESPACE
        try:
            self._server.patch("leases", AGENT_LEASE, {"spec": spec}, namespace)
        except errors.NotFound:
            self._server.create("leases", body, namespace)
