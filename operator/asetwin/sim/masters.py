"""A simulated master process: the rule of :mod:`asetwin.model.epochs` without a network.

It turns as :class:`asetwin.standin.master.Master` does, reads the same
environment and writes the same Lease; only waiting is left to the timeline.
"""

import math
from collections.abc import Callable

from asetwin import constants
from asetwin.kube import errors
from asetwin.model import epochs, journals
from asetwin.model.epochs import Step
from asetwin.sim import bodies
from asetwin.sim.apiserver import SYSTEM, ApiServer, Change
from asetwin.sim.beats import Beat, Beats
from asetwin.sim.bodies import Json
from asetwin.sim.clock import Process, Timeline
from asetwin.standin import settings

RETRIES_PER_LEASE = settings.RETRIES_PER_LEASE


class MasterProcess(Process):
    """One run of the container of a master pod."""

    def __init__(
        self,
        server: ApiServer,
        timeline: Timeline,
        pod: Json,
        notify: Callable[[], None],
        shares: dict[str, list[str]],
        beats: Beats | None = None,
    ) -> None:
        super().__init__(timeline)
        self.settings = settings.read_settings(environment(pod))
        self.pod_uid = bodies.uid(pod)
        self.has_exited = False
        self.is_stopping = False
        self.is_cut_off = False
        """No way to the API server: every request fails."""
        self._server = server
        self._notify = notify
        self._journal = shares.setdefault(self.settings.journal, [])
        self._line_due_at = -math.inf
        self._was_serving = False
        self._terms = epochs.Terms(
            started_at=timeline.time(),
            boot_seconds=self.settings.boot_seconds,
            lease_seconds=self.settings.lease_seconds,
        )
        self._memory = epochs.Memory()
        self._body: Json | None = None
        self._beats = beats
        self._beat: Beat | None = None
        """There while it does nothing but renew its Lease, whatever it waits for."""
        if beats is not None:
            server.watch(self._changed)
        self.wake()

    @property
    def is_serving(self) -> bool:
        """Whether it would answer a request at this moment."""
        if self.has_exited:
            return False
        if self._beat is not None:
            # The last judgement holds until something else happens than renewals.
            return self._was_serving
        return self._judge().is_serving

    def cut_off(self, is_cut_off: bool) -> None:
        """From now on its requests fail, or do so no longer."""
        if is_cut_off != self.is_cut_off:
            self._end_beat()
            self.is_cut_off = is_cut_off
            self.wake()

    def _changed(self, change: Change) -> None:
        """Somebody else has touched its Lease."""
        if self._beat is None or change.plural != "leases" or change.body is self._body:
            return
        is_mine = change.body["metadata"]["name"] == epochs.lease_name(self.settings.device)
        if is_mine and self._beats is not None and self._beats.at is None:
            # It does not hear of that before it would have renewed.
            due = self._beat.last + self._beat.period
            self._end_beat(is_late=True)
            self.wake_at(max(due, self.timeline.time()))

    def _end_beat(self, *, is_late: bool = False) -> None:
        if self._beat is not None and self._beats is not None:
            beat, self._beat = self._beat, None
            if is_late:
                self._beats.drop(beat)
            else:
                self._beats.end(beat)

    def _renew(self, at: float) -> None:
        """A renewal in the course of a beat, and the journal's line of that moment."""
        me = self.settings.me
        lease = epochs.claim(me, self._terms, self._memory, at)
        moment = bodies.micro_stamp(at + self.timeline.wall_offset)
        body = epochs.render(lease, device=self.settings.device, moment=moment, base=self._body)
        actor, self._server.actor = self._server.actor, f"pod/{me.pod}"
        try:
            self._body = self._server.replace("leases", body, constants.SYSTEM_NAMESPACE)
        finally:
            self._server.actor = actor
        answer = epochs.read(self._body)
        self._memory = self._memory.wrote(me, self._terms, answer, sent_at=at, answered_at=at)
        if self.settings.journal and self._was_serving:
            self._write_line(at + self.timeline.wall_offset)

    def stop(self) -> None:
        """SIGTERM."""
        self._end_beat()
        self.is_stopping = True
        self.wake()

    def kill(self) -> None:
        """The container is gone."""
        self._end_beat()
        self._exit()
        self.sleep()

    def _exit(self) -> None:
        self.has_exited = True
        self._server.unwatch(self._changed)

    def tick(self) -> None:
        self._end_beat()
        while not self.has_exited:
            verdict = self._judge()
            if verdict.step in (Step.STAND_DOWN, Step.LEAVE):
                self._exit()
            elif verdict.step is Step.WAIT:
                self._keep_journal(verdict)
                if self._rest(verdict):
                    break
                self.wake_at(
                    min(verdict.ask_again_at, max(self._line_due_at, self.timeline.time()))
                )
                break
            elif not self._attempt(verdict.step):
                self.wake(self.settings.lease_seconds / RETRIES_PER_LEASE)
                break
        self._notify()

    def _rest(self, verdict: epochs.Verdict) -> bool:
        """Renew in the course of a beat, if nothing else is ahead but the end of its boot."""
        tenure, now = self._memory.tenure, self.timeline.time()
        if self._beats is None or tenure is None or self.is_cut_off or self.is_stopping:
            return False
        if self._memory.is_doubtful or tenure.renewed_at != now:
            return False
        self._was_serving = verdict.is_serving
        opens, _ = epochs.window(self._terms, self._memory)
        if opens > now:
            self.wake_at(opens)
        pause = self._terms.lease_seconds / epochs.RENEWALS_PER_LEASE
        self._beat = self._beats.add(pause, self._renew)
        return True

    def _keep_journal(self, verdict: epochs.Verdict) -> None:
        """A line a second while it serves; the disk takes no time."""
        now = self.timeline.time()
        if not self.settings.journal or not verdict.is_serving:
            self._line_due_at = math.inf
            return
        if self._line_due_at > now and not math.isinf(self._line_due_at):
            return
        self._line_due_at = self.timeline.after(journals.PERIOD_SECONDS)
        self._write_line(self._server.clock())

    def _write_line(self, moment: float) -> None:
        me = self.settings.me
        number = journals.follow("".join(self._journal[-1:]), me.epoch)
        if number is not None:
            entry = journals.Entry(me.epoch, number, moment, me.pod, self.settings.node)
            self._journal.append(journals.render(entry))

    def _judge(self) -> epochs.Verdict:
        return epochs.judge(
            self.settings.me,
            self._terms,
            self._memory,
            self.timeline.time(),
            is_stopping=self.is_stopping,
        )

    def _attempt(self, step: Step) -> bool:
        """One request; False where it is better to wait before the next one."""
        self._server.actor = f"pod/{self.settings.me.pod}"
        try:
            if self.is_cut_off:
                raise errors.Unavailable("no route to the API server", status=0)
            self._call(step)
        except errors.Conflict:
            self._memory = self._memory.failed()
        except errors.KubeError:
            self._memory = self._memory.failed()
            return False
        finally:
            self._server.actor = SYSTEM
        return True

    def _call(self, step: Step) -> None:
        me, now = self.settings.me, self.timeline.time()
        if step is Step.READ:
            name = epochs.lease_name(self.settings.device)
            self._body = self._server.find("leases", name, constants.SYSTEM_NAMESPACE)
            lease = epochs.read(self._body) if self._body is not None else None
            self._memory = self._memory.saw(me, lease, at=now)
            return
        make = epochs.release if step is Step.RELEASE else epochs.claim
        body = epochs.render(
            make(me, self._terms, self._memory, now),
            device=self.settings.device,
            moment=bodies.micro_stamp(self._server.clock()),
            base=self._body,
        )
        write = self._server.create if step is Step.CREATE else self._server.replace
        self._body = write("leases", body, constants.SYSTEM_NAMESPACE)
        answer = epochs.read(self._body)
        if step is Step.RELEASE:
            self._memory = self._memory.released(me, answer, at=now)
            return
        self._memory = self._memory.wrote(me, self._terms, answer, sent_at=now, answered_at=now)


def is_master(pod: Json) -> bool:
    """Whether a pod runs the master stand-in."""
    return bodies.labels(pod).get(constants.LABEL_ROLE) == constants.ROLE_MASTER


def environment(pod: Json) -> dict[str, str]:
    """The environment of a pod's first container, fields of the pod filled in."""
    meta = pod["metadata"]
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta.get("namespace", ""),
        "metadata.uid": meta["uid"],
        "spec.nodeName": bodies.node_of(pod),
    }
    result = {}
    for one in pod["spec"]["containers"][0].get("env") or ():
        source = (one.get("valueFrom") or {}).get("fieldRef") or {}
        result[one["name"]] = one.get("value") or fields.get(source.get("fieldPath", ""), "")
    return result
