"""Two masters never serve at once, and the highest epoch serves in the end."""

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asetwin.model import epochs
from asetwin.model.epochs import Identity, Lease, Memory, Step, Terms

ME = Identity(pod="ase-master-2", epoch=2, uid="u2")
OTHER = Identity(pod="ase-master-1", epoch=1, uid="u1")
TERMS = Terms(started_at=100.0, boot_seconds=2.0, lease_seconds=3)
MOMENT = "2026-11-25T08:00:00.000000Z"


def lease(who: Identity = OTHER, **fields: Any) -> Lease:
    """A Lease held by ``who``, unless the fields say otherwise."""
    known: dict[str, Any] = {
        "holder": who.pod,
        "holder_uid": who.uid,
        "epoch": who.epoch,
        "duration_seconds": 3,
        "version": "v1",
    }
    return Lease(**(known | fields))


def saw(seen: Lease | None, *, at: float = 100.0, memory: Memory | None = None) -> Memory:
    return (memory or Memory()).saw(ME, seen, at=at)


def took(seen: Lease | None, *, seen_at: float, sent_at: float, answered_at: float) -> Memory:
    """A memory in which ME has read one Lease and then taken it."""
    memory = saw(seen, at=seen_at)
    mine = replace(epochs.claim(ME, TERMS, memory, sent_at), version="v2")
    return memory.wrote(ME, TERMS, mine, sent_at=sent_at, answered_at=answered_at)


def judge(memory: Memory, now: float, **more: bool) -> epochs.Verdict:
    return epochs.judge(ME, TERMS, memory, now, **more)


# --- What to do -----------------------------------------------------------------------------------

HIGHER = Identity(pod="ase-master-3", epoch=3)
TWIN = Identity(pod="ase-master-2", epoch=2, uid="another")


@pytest.mark.parametrize(
    ("seen", "now", "step"),
    [
        pytest.param(None, 100.0, Step.CREATE, id="no-lease"),
        pytest.param(lease(), 100.0, Step.ACQUIRE, id="lower-epoch-at-once"),
        pytest.param(lease(holder=""), 100.0, Step.ACQUIRE, id="lower-epoch-released"),
        pytest.param(lease(HIGHER), 100.0, Step.STAND_DOWN, id="higher-epoch"),
        pytest.param(lease(HIGHER, holder=""), 100.0, Step.STAND_DOWN, id="higher-epoch-released"),
        pytest.param(lease(HIGHER), 999.0, Step.STAND_DOWN, id="higher-epoch-expired"),
        pytest.param(lease(ME), 100.0, Step.ACQUIRE, id="mine-from-before-the-restart"),
        pytest.param(lease(TWIN), 100.5, Step.WAIT, id="my-epoch-in-other-hands"),
        pytest.param(lease(TWIN), 101.0, Step.READ, id="my-epoch-in-other-hands-look-again"),
        pytest.param(lease(TWIN), 103.0, Step.ACQUIRE, id="my-epoch-in-other-hands-expired"),
        pytest.param(lease(TWIN, holder=""), 100.0, Step.ACQUIRE, id="my-epoch-released"),
    ],
)
def test_step_follows_from_the_lease_alone(seen: Lease | None, now: float, step: Step) -> None:
    verdict = judge(saw(seen), now)
    assert verdict.step is step
    assert not verdict.is_serving
    assert verdict.ask_again_at > now if step is Step.WAIT else verdict.ask_again_at == now


def test_reads_first() -> None:
    assert judge(Memory(), 100.0).step is Step.READ


def test_reads_after_a_write_without_an_answer() -> None:
    assert judge(saw(lease()).failed(), 100.0).step is Step.READ


def test_a_restarted_pod_is_told_apart_from_one_made_anew_under_its_name() -> None:
    assert lease(ME).is_held_by(ME)
    assert not lease(TWIN).is_held_by(ME)
    assert not lease(ME, epoch=1).is_held_by(ME)


# --- When to serve --------------------------------------------------------------------------------


def test_waits_for_the_predecessor_from_the_sight_of_its_last_renewal() -> None:
    memory = took(lease(), seen_at=100.0, sent_at=100.2, answered_at=100.4)
    memory = memory.wrote(ME, TERMS, lease(ME, version="v3"), sent_at=101.2, answered_at=101.3)
    assert epochs.window(TERMS, memory) == (103.0, 104.2)
    assert not judge(memory, 102.9).is_serving
    assert judge(memory, 103.0).is_serving


def test_boots_when_the_predecessor_has_released() -> None:
    memory = took(lease(holder=""), seen_at=100.0, sent_at=100.1, answered_at=100.2)
    assert epochs.window(TERMS, memory) == (102.0, 103.1)
    assert "boots for 1.5 s more" in judge(memory, 100.5).reason


def test_a_release_does_not_hide_who_may_still_serve_before_it() -> None:
    # 1. Epoch 1 serves and is cut off. 2. Epoch 2 takes the Lease, waits, and is told to end.
    # 3. It releases. 4. Epoch 3 must not take the release for silence of epoch 1.
    memory = took(lease(duration_seconds=10), seen_at=100.0, sent_at=100.1, answered_at=100.2)
    released = epochs.release(ME, TERMS, memory, 101.0)
    assert (released.holder, released.predecessor_seconds) == ("", 9.0)
    third = Memory().saw(HIGHER, released, at=101.5)
    assert epochs.judge(HIGHER, TERMS, third, 101.5).step is Step.ACQUIRE
    mine = epochs.claim(HIGHER, TERMS, third, 101.5)
    third = third.wrote(HIGHER, TERMS, mine, sent_at=101.5, answered_at=101.6)
    assert epochs.window(TERMS, third)[0] == 110.5


def test_a_restart_does_not_forget_who_may_still_serve() -> None:
    memory = took(lease(duration_seconds=10), seen_at=100.0, sent_at=100.1, answered_at=100.2)
    left_behind = replace(epochs.claim(ME, TERMS, memory, 101.0), version="v3")
    again = saw(left_behind, at=101.5)
    again = again.wrote(ME, TERMS, left_behind, sent_at=101.5, answered_at=101.6)
    assert epochs.window(TERMS, again)[0] == 110.5


def test_a_restart_while_serving_resumes_at_once() -> None:
    terms = Terms(started_at=200.0)
    memory = saw(lease(ME), at=200.0)
    memory = memory.wrote(ME, terms, lease(ME, version="v2"), sent_at=200.1, answered_at=200.2)
    assert epochs.judge(ME, terms, memory, 200.2).is_serving


def test_a_deleted_lease_is_made_anew_and_waited_for() -> None:
    memory = took(lease(holder="", duration_seconds=7), seen_at=90, sent_at=90, answered_at=90)
    assert judge(memory, 102.0).is_serving is False
    gone = memory.saw(ME, None, at=102.0)
    assert (gone.tenure, judge(gone, 102.0).step) == (None, Step.CREATE)
    made = epochs.claim(ME, TERMS, gone, 102.0)
    assert made.predecessor_seconds == 7.0
    memory = gone.wrote(ME, TERMS, made, sent_at=102.0, answered_at=102.5)
    assert epochs.window(TERMS, memory)[0] == 109.5


def test_stops_by_itself_when_it_cannot_renew() -> None:
    memory = took(lease(holder=""), seen_at=100.0, sent_at=101.0, answered_at=102.5)
    assert judge(memory, 103.9).is_serving
    # Counted from the request: its answer took 1.5 s that a successor knows nothing of.
    ended = judge(memory, 104.0)
    assert not ended.is_serving
    assert ended.step is Step.RENEW
    assert "could not renew the Lease for 3.0 s" in ended.reason


def test_stops_when_it_sees_the_lease_in_other_hands() -> None:
    memory = took(lease(holder=""), seen_at=100.0, sent_at=102.0, answered_at=102.1)
    assert judge(memory, 102.5).is_serving
    assert not judge(saw(lease(TWIN, version="v9"), at=102.5, memory=memory), 102.5).is_serving
    superseded = judge(saw(lease(HIGHER, version="v9"), at=102.5, memory=memory), 102.5)
    assert (superseded.step, superseded.is_serving) == (Step.STAND_DOWN, False)
    assert superseded.reason == "superseded by epoch 3"


def test_renews_thrice_per_lease_and_never_waits_beyond_its_end() -> None:
    memory = took(lease(holder=""), seen_at=100.0, sent_at=100.0, answered_at=100.1)
    waiting = judge(memory, 100.2)
    assert (waiting.step, waiting.ask_again_at) == (Step.WAIT, 101.0)
    due = judge(memory, 101.0)
    assert (due.step, due.timeout_seconds) == (Step.RENEW, 2.0)
    assert judge(memory, 102.9).timeout_seconds == pytest.approx(0.1)
    assert judge(memory, 103.0).timeout_seconds == 3.0


def test_wakes_when_it_may_start_to_serve() -> None:
    memory = took(lease(), seen_at=100.0, sent_at=102.5, answered_at=102.6)
    assert judge(memory, 102.7).ask_again_at == 103.0


def test_an_expired_lease_that_nobody_took_is_renewed_and_served_again() -> None:
    memory = took(lease(holder=""), seen_at=100.0, sent_at=100.0, answered_at=100.1)
    memory = memory.wrote(ME, TERMS, lease(ME, version="v3"), sent_at=110.0, answered_at=110.1)
    assert judge(memory, 110.1).is_serving


# --- The end of a process -------------------------------------------------------------------------


def test_stops_serving_before_it_releases() -> None:
    memory = took(lease(holder=""), seen_at=100.0, sent_at=102.0, answered_at=102.1)
    verdict = judge(memory, 102.5, is_stopping=True)
    assert (verdict.step, verdict.is_serving, verdict.reason) == (Step.RELEASE, False, "stopping")
    assert judge(memory.failed(), 102.5, is_stopping=True).step is Step.READ
    assert judge(memory, 105.0, is_stopping=True).step is Step.LEAVE
    released = memory.released(ME, epochs.release(ME, TERMS, memory, 102.5), at=102.6)
    assert judge(released, 102.6, is_stopping=True).step is Step.LEAVE


def test_has_nothing_to_release_without_a_tenure() -> None:
    assert judge(Memory(), 100.0, is_stopping=True).step is Step.LEAVE
    assert judge(saw(lease(TWIN)), 100.0, is_stopping=True).step is Step.LEAVE


# --- The Lease in the API -------------------------------------------------------------------------


def test_lease_survives_the_api() -> None:
    original = lease(ME, predecessor_seconds=1.25, version="/")
    body = epochs.render(original, device="ase", moment=MOMENT)
    assert epochs.read(body) == original
    assert body["metadata"]["name"] == "ase-master"
    assert body["metadata"]["annotations"]["asetwin.dev/epoch"] == "2"
    assert body["spec"]["leaseTransitions"] == 2


def test_a_write_keeps_what_is_foreign_and_names_what_it_replaces() -> None:
    base = {
        "metadata": {
            "uid": "abc",
            "resourceVersion": "7",
            "labels": {"team": "edge"},
            "annotations": {"note": "hands off", "asetwin.dev/predecessor-seconds": "3.000"},
            "managedFields": [{}],
        },
        "spec": {"holderIdentity": ME.pod, "acquireTime": "earlier", "strategy": "x"},
    }
    body = epochs.render(lease(ME), device="ase", moment=MOMENT, base=base)
    assert (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) == ("abc", "7")
    assert body["metadata"]["labels"]["team"] == "edge"
    assert body["metadata"]["annotations"] == {
        "note": "hands off",
        "asetwin.dev/epoch": "2",
        "asetwin.dev/holder-uid": "u2",
    }
    assert (body["spec"]["acquireTime"], body["spec"]["renewTime"]) == ("earlier", MOMENT)
    assert body["spec"]["strategy"] == "x"
    assert epochs.read(body).version == "abc/7"


def test_acquire_time_is_the_holders() -> None:
    base = {"spec": {"holderIdentity": "somebody", "acquireTime": "earlier"}}
    taken = epochs.render(lease(ME), device="ase", moment=MOMENT, base=base)
    assert taken["spec"]["acquireTime"] == MOMENT
    released = epochs.render(lease(ME, holder=""), device="ase", moment=MOMENT, base=base)
    assert released["spec"]["acquireTime"] == "earlier"


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_spoilt_annotation_makes_a_successor_wait(text: str) -> None:
    annotations = {"asetwin.dev/predecessor-seconds": text, "asetwin.dev/epoch": "x"}
    spoilt = epochs.read({"metadata": {"annotations": annotations}, "spec": {}})
    assert spoilt == Lease("", 0, 3, predecessor_seconds=3.0, version="/")


def test_rounds_up_what_a_successor_has_to_wait() -> None:
    body = epochs.render(lease(predecessor_seconds=1.00001), device="ase", moment=MOMENT)
    assert epochs.read(body).predecessor_seconds == 1.001


# --- Many masters, bad network --------------------------------------------------------------------


@dataclass
class Server:
    """The API server's part: one Lease, compare-and-set."""

    lease: Lease | None = None
    versions: "itertools.count[int]" = field(default_factory=itertools.count)

    def put(self, wanted: Lease) -> Lease | None:
        """What is stored now, or None where the version was not the current one."""
        if wanted.version != (self.lease.version if self.lease else ""):
            return None
        self.lease = replace(wanted, version=f"v{next(self.versions)}")
        return self.lease


@dataclass
class Process:
    """One process of one Pod, with a clock of its own."""

    me: Identity
    terms: Terms
    offset: float
    memory: Memory = field(default_factory=Memory)
    is_stopping: bool = False
    is_dead: bool = False
    request: int = 0
    """Grows with each request; the answer to an older one is no longer waited for."""


class Network:
    """Masters, a Lease and a network under virtual time, out of one random generator."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng
        self.now = 0.0
        self.server = Server()
        self.processes: list[Process] = []
        self.served: list[tuple[float, float, Process]] = []
        self.is_healed = False
        # A deleted Lease does not tell how long its holder may serve: then all have one duration.
        self.has_deletions = rng.random() < 0.5
        self.durations = (3,) if self.has_deletions else (3, 3, 3, 5)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._looked_at = 0.0

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(moment, self.now), next(self._order), action))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            moment, _, action = heapq.heappop(self._queue)
            self._record(moment)
            self.now = moment
            action()
        self._record(until)
        self.now = until

    def start(self, pod: str, epoch: int, uid: str) -> None:
        offset = self.rng.uniform(-1e3, 1e3)
        terms = Terms(
            started_at=self.now + offset,
            boot_seconds=self.rng.choice((0.0, 0.0, 2.0)),
            lease_seconds=self.rng.choice(self.durations),
        )
        process = Process(Identity(pod, epoch, uid), terms, offset)
        self.processes.append(process)
        self.turn(process)

    def kill(self, process: Process) -> None:
        process.is_dead = True

    def turn(self, process: Process) -> None:
        """What standin.master does in one turn of its loop."""
        if process.is_dead:
            return
        now = self.now + process.offset
        verdict = epochs.judge(
            process.me, process.terms, process.memory, now, is_stopping=process.is_stopping
        )
        if verdict.step in (Step.LEAVE, Step.STAND_DOWN):
            process.is_dead = True
        elif verdict.step is Step.WAIT:
            # A little later, or the rounding of two clocks has it ask the same again for ever.
            self._turn_at(verdict.ask_again_at - process.offset + 1e-6, process)
        else:
            self._send(process, verdict)

    def _send(self, process: Process, verdict: epochs.Verdict) -> None:
        process.request += 1
        number, sent_at, step = process.request, self.now, verdict.step
        make = epochs.release if step is Step.RELEASE else epochs.claim
        wanted = make(process.me, process.terms, process.memory, sent_at + process.offset)

        def arrive() -> None:
            answer = self.server.lease if step is Step.READ else self.server.put(wanted)
            if not self._is_lost():
                self.at(
                    self.now + self._delay(),
                    lambda: self._answer(process, number, step, answer, sent_at),
                )

        if not self._is_lost():
            self.at(self.now + self._delay(), arrive)
        self.at(self.now + verdict.timeout_seconds, lambda: self._give_up(process, number))

    def _answer(
        self, process: Process, number: int, step: Step, answer: Lease | None, sent_at: float
    ) -> None:
        if process.is_dead or number != process.request:
            return
        process.request += 1
        at, me, memory = self.now + process.offset, process.me, process.memory
        if step is Step.READ:
            process.memory = memory.saw(me, answer, at=at)
        elif answer is None:
            process.memory = memory.failed()
        elif step is Step.RELEASE:
            process.memory = memory.released(me, answer, at=at)
        else:
            sent = sent_at + process.offset
            process.memory = memory.wrote(me, process.terms, answer, sent_at=sent, answered_at=at)
        self.turn(process)

    def _give_up(self, process: Process, number: int) -> None:
        if not process.is_dead and number == process.request:
            process.request += 1
            process.memory = process.memory.failed()
            self._turn_at(self.now + 0.3, process)

    def _turn_at(self, moment: float, process: Process) -> None:
        # A process that is frozen for a while turns late.
        if not self.is_healed and self.rng.random() < 0.05:
            moment += self.rng.uniform(0, 6)
        self.at(moment, lambda: self.turn(process))

    def _is_lost(self) -> bool:
        return not self.is_healed and self.rng.random() < 0.15

    def _delay(self) -> float:
        if self.is_healed or self.rng.random() < 0.7:
            return float(self.rng.uniform(0.0, 0.05))
        return float(self.rng.uniform(0.0, 4.0))

    def _record(self, until: float) -> None:
        """Who has been serving since the last event: probes look at any moment between two."""
        for process in self.processes:
            if process.is_dead or process.is_stopping:
                continue
            opens, closes = epochs.window(process.terms, process.memory)
            start = max(self._looked_at, opens - process.offset)
            end = min(until, closes - process.offset)
            if start < end:
                self.served.append((start, end, process))
        self._looked_at = until


def overlaps(network: Network) -> list[tuple[float, str, str]]:
    """Moments at which two processes served; rounding of clocks aside."""
    found = []
    served = sorted(network.served, key=lambda one: one[:2])
    for index, (_, end, process) in enumerate(served):
        for start, other_end, other in itertools.islice(served, index + 1, None):
            if start >= end - 1e-6:
                break
            if other is not process and other_end - start > 1e-6:
                found.append((start, process.me.pod, other.me.pod))
    return found


def ordeal(rng: Any) -> Network:
    """Epochs come and go in a bad network; then all is well, and the last epoch is left."""
    network = Network(rng)
    for epoch in range(1, rng.randint(2, 4) + 1):
        born = rng.uniform(0.0, 5.0) * epoch
        for uid in range(rng.choice((1, 1, 2))):
            # The second Pod of an epoch has the name of the first one in half of the cases.
            pod = f"m{epoch}" if rng.random() < 0.5 else f"m{epoch}-{uid}"
            start = born + uid * rng.uniform(0.0, 3.0)
            network.at(start, partial(network.start, pod, epoch, f"{epoch}/{uid}"))
    for moment in (rng.uniform(0.0, 20.0) for _ in range(rng.randint(0, 5))):
        network.at(moment, lambda: _strike(network, rng))
    network.run(30.0)
    network.is_healed = True
    network.start("last", 9, "9")
    # 6 s for those who are frozen or wait for an answer, then the longest lease and the boot.
    network.run(50.0)
    return network


def _strike(network: Network, rng: Any) -> None:
    living = [one for one in network.processes if not one.is_dead]
    blow = rng.choice(("stop", "crash", "restart", "delete"))
    if blow == "delete":
        network.server.lease = None if network.has_deletions else network.server.lease
    elif living:
        victim = rng.choice((living[-1], rng.choice(living)))
        if blow == "stop":
            victim.is_stopping = True
            victim.request += 1
            victim.memory = victim.memory.failed()
            network.turn(victim)
            return
        network.kill(victim)
        if blow == "restart":
            network.start(victim.me.pod, victim.me.epoch, victim.me.uid)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=True))
def test_never_two_masters_serve_and_the_highest_epoch_does_in_the_end(rng: Any) -> None:
    network = ordeal(rng)
    assert overlaps(network) == []
    last = network.processes[-1]
    assert last.me.epoch == 9
    verdict = epochs.judge(last.me, last.terms, last.memory, network.now + last.offset)
    assert verdict.is_serving, verdict.reason
    assert all(one.is_dead for one in network.processes[:-1])


@pytest.mark.parametrize(
    "bug",
    ["ignores-the-predecessor", "forgets-the-predecessors-predecessor", "counts-from-the-answer"],
)
def test_the_simulation_would_see_two_masters(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "ignores-the-predecessor":
        monkeypatch.setattr(Lease, "horizon_seconds", 0.0)
    elif bug == "forgets-the-predecessors-predecessor":
        claim = epochs.claim
        forgetful = lambda *args: replace(claim(*args), predecessor_seconds=0.0)  # noqa: E731
        monkeypatch.setattr(epochs, "claim", forgetful)
    else:
        wrote = Memory.wrote

        def late(memory: Memory, *args: Any, sent_at: float, answered_at: float) -> Memory:
            return wrote(memory, *args, sent_at=answered_at, answered_at=answered_at)

        monkeypatch.setattr(Memory, "wrote", late)
    assert any(overlaps(ordeal(Seeded(seed))) for seed in range(4000))


class Seeded:
    """A small random generator with the few methods that are used here."""

    def __init__(self, seed: int) -> None:
        self.state = seed * 2654435761 + 1

    def random(self) -> float:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 11) / 2**53

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def randint(self, low: int, high: int) -> int:
        return low + math.floor(self.random() * (high - low + 1))

    def choice(self, values: Any) -> Any:
        return values[self.randint(0, len(values) - 1)]
