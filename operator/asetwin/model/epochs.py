"""Who may be master: the rule of one Lease and growing epochs (design 4.7).

:mod:`asetwin.standin.master` asks it in a loop: it tells what it read and
wrote, and :func:`judge` answers what to do next, whether to serve, and until
when the answer holds. The rule itself has no clock: all moments are seconds
on the asking process's own monotonic clock. What the Lease says about time is
for people; machines disagree about the time of day, so none of it is used.

What makes two masters impossible:

1. A master serves until (start of its last successful renewal) + (the
   duration that this renewal wrote into the Lease), and not a moment longer.
   It needs nobody to tell it, so it also holds where nobody can.
2. A successor sees that renewal after its start. When it has taken the Lease
   from the version it saw, no later renewal of the predecessor can succeed.
   So it waits the predecessor's duration, counted from when it first saw that
   version, and finds every predecessor silent.
3. A predecessor may itself have been waiting for another one. Each writes into
   the Lease how long somebody before it may still be serving; whoever reads
   that, even after a release, a restart or a further epoch, waits that long.

It relies on clocks that run at one speed; kind nodes share the host's. A Lease
that somebody deleted tells nothing about who served: whoever creates it anew
waits the longest duration that it knows of.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from asetwin.constants import (
    GROUP,
    LABEL_DEVICE,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    SYSTEM_NAMESPACE,
)

LEASE_API_VERSION = "coordination.k8s.io/v1"
DEFAULT_LEASE_SECONDS = 3
RENEWALS_PER_LEASE = 3
"""A master renews this often within one duration, so that one lost request is not its end."""

ANNOTATION_EPOCH = f"{GROUP}/epoch"
"""The epoch in decimal; also ``spec.leaseTransitions``, where kubectl shows it."""
ANNOTATION_HOLDER_UID = f"{GROUP}/holder-uid"
"""UID of the holding Pod: a Pod deleted by force and made again under its name is another."""
ANNOTATION_PREDECESSOR = f"{GROUP}/predecessor-seconds"
"""For how long after this write somebody before the holder may serve; absent means nobody."""


def lease_name(device: str) -> str:
    """The name of a device's Lease, in ``asetwin-system``."""
    return f"{device}-master"


@dataclass(frozen=True, slots=True)
class Identity:
    """One master Pod. ``uid`` may be empty where it is not known; then the name decides."""

    pod: str
    epoch: int
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a process starts with: durations, and when it started by its own clock."""

    started_at: float
    boot_seconds: float = 0.0
    lease_seconds: int = DEFAULT_LEASE_SECONDS


@dataclass(frozen=True, slots=True)
class Lease:
    """What a Lease says. An empty ``holder`` has released it."""

    holder: str
    epoch: int
    duration_seconds: int
    holder_uid: str = ""
    predecessor_seconds: float = 0.0
    version: str = ""
    """Changes with every write; what a compare-and-set compares."""

    def is_held_by(self, me: Identity) -> bool:
        """Whether it is mine, taken by this process or by an earlier one of the same Pod."""
        return (self.holder, self.holder_uid, self.epoch) == (me.pod, me.uid, me.epoch)

    @property
    def horizon_seconds(self) -> float:
        """How long after this write somebody, the holder included, may be serving."""
        if not self.holder:
            return self.predecessor_seconds
        return max(float(self.duration_seconds), self.predecessor_seconds)


@dataclass(frozen=True, slots=True)
class Sight:
    """A Lease, None where there is none, and when this version of it was first seen."""

    lease: Lease | None
    since: float


@dataclass(frozen=True, slots=True)
class Tenure:
    """The Lease is mine: I have written it myself in this process."""

    renewed_at: float
    """When the last successful renewal was sent off, not when it was answered."""
    clear_at: float
    """From here on no earlier holder can be serving."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a process remembers between two looks."""

    sight: Sight | None = None
    tenure: Tenure | None = None
    read_at: float = -math.inf
    is_doubtful: bool = False
    """The last write may or may not have happened: read before anything else."""
    longest_seconds: int = 0
    """The longest duration ever seen in this Lease."""

    def saw(self, me: Identity, lease: Lease | None, *, at: float) -> "Memory":
        """After a read that was answered ``at``; None is a clear "there is no Lease"."""
        known = self.sight
        is_same = known is not None and known.lease == lease
        is_mine = lease is not None and lease.is_held_by(me)
        return replace(
            self,
            sight=known if is_same else Sight(lease, since=at),
            tenure=self.tenure if is_mine else None,
            read_at=at,
            is_doubtful=False,
            longest_seconds=max(self.longest_seconds, lease.duration_seconds if lease else 0),
        )

    def wrote(
        self, me: Identity, terms: Terms, lease: Lease, *, sent_at: float, answered_at: float
    ) -> "Memory":
        """After a claim that succeeded; ``lease`` is what the API server answered."""
        clear_at = _clear_at(me, terms, self, now=answered_at)
        return replace(
            self.saw(me, lease, at=answered_at),
            tenure=Tenure(renewed_at=sent_at, clear_at=clear_at),
        )

    def released(self, me: Identity, lease: Lease, *, at: float) -> "Memory":
        """After a release that succeeded."""
        return self.saw(me, lease, at=at)

    def failed(self) -> "Memory":
        """After a write without a clear answer, or one that somebody else forestalled."""
        return replace(self, is_doubtful=True)


class Step(StrEnum):
    """What to do next."""

    READ = "Read"
    CREATE = "Create"
    ACQUIRE = "Acquire"
    RENEW = "Renew"
    RELEASE = "Release"
    WAIT = "Wait"
    LEAVE = "Leave"
    """The process was asked to end, and there is nothing left to release."""
    STAND_DOWN = "StandDown"
    """A higher epoch exists: this one is over for good."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, whether to serve meanwhile, and how long the answer holds."""

    step: Step
    is_serving: bool
    reason: str
    """In words, for people and probes."""
    ask_again_at: float
    """Before this moment nothing changes by time alone. Equals ``now`` unless WAIT."""
    timeout_seconds: float
    """How long the request that belongs to the step may take."""


def judge(
    me: Identity, terms: Terms, memory: Memory, now: float, *, is_stopping: bool = False
) -> Verdict:
    """The rule. ``is_stopping``: the process was told to end; it never serves again."""
    opens, closes = window(terms, memory)
    left = closes - now if memory.tenure else 0.0
    step, until = _step(me, terms, memory, now, is_stopping=is_stopping)
    is_over = is_stopping or step is Step.STAND_DOWN
    return Verdict(
        step=step,
        is_serving=not is_over and opens <= now < closes,
        reason="stopping" if is_stopping else _reason(me, terms, memory, now),
        ask_again_at=until,
        # A request that outlives the lease would keep the process from noticing its end.
        timeout_seconds=left if left > 0 else float(terms.lease_seconds),
    )


def window(terms: Terms, memory: Memory) -> tuple[float, float]:
    """From when until when this process may serve, as things stand; empty without a tenure."""
    if memory.tenure is None:
        return math.inf, -math.inf
    opens = max(terms.started_at + terms.boot_seconds, memory.tenure.clear_at)
    return opens, memory.tenure.renewed_at + terms.lease_seconds


def claim(me: Identity, terms: Terms, memory: Memory, now: float) -> Lease:
    """What to write, conditional on the version last seen, to create, acquire or renew."""
    return Lease(
        holder=me.pod,
        holder_uid=me.uid,
        epoch=me.epoch,
        duration_seconds=terms.lease_seconds,
        predecessor_seconds=max(0.0, _clear_at(me, terms, memory, now=now) - now),
        version=_version(memory),
    )


def release(me: Identity, terms: Terms, memory: Memory, now: float) -> Lease:
    """What to write to let go. That somebody earlier may still serve stays written."""
    return replace(claim(me, terms, memory, now), holder="", holder_uid="")


def _step(
    me: Identity, terms: Terms, memory: Memory, now: float, *, is_stopping: bool
) -> tuple[Step, float]:
    lease = memory.sight.lease if memory.sight else None
    if lease is not None and lease.epoch > me.epoch:
        return Step.STAND_DOWN, now
    if is_stopping:
        _, closes = window(terms, memory)
        # After that moment a release tells the next one nothing that it does not know.
        if now >= closes:
            return Step.LEAVE, now
        return (Step.READ if memory.is_doubtful else Step.RELEASE), now
    if memory.sight is None or memory.is_doubtful:
        return Step.READ, now
    if lease is None:
        return Step.CREATE, now
    pause = terms.lease_seconds / RENEWALS_PER_LEASE
    if lease.is_held_by(me):
        if memory.tenure is None:
            return Step.ACQUIRE, now
        return _until(terms, memory, now, memory.tenure.renewed_at + pause, Step.RENEW)
    if not lease.holder or lease.epoch < me.epoch:
        return Step.ACQUIRE, now
    # My epoch in other hands: whoever was first keeps it for as long as it renews.
    if now >= memory.sight.since + lease.horizon_seconds:
        return Step.ACQUIRE, now
    expiry = memory.sight.since + lease.horizon_seconds
    return _until(terms, memory, now, min(memory.read_at + pause, expiry), Step.READ)


def _until(terms: Terms, memory: Memory, now: float, due: float, step: Step) -> tuple[Step, float]:
    if now >= due:
        return step, now
    edges = (due, *window(terms, memory))
    return Step.WAIT, min(edge for edge in edges if edge > now)


def _clear_at(me: Identity, terms: Terms, memory: Memory, *, now: float) -> float:
    """From when nobody before me serves, given that my write succeeds on what I last saw.

    ``now`` matters for a new Lease only: whoever held the deleted one may
    have renewed it up to the moment of the write.
    """
    if memory.tenure is not None:
        return memory.tenure.clear_at
    if memory.sight is None or memory.sight.lease is None:
        return now + max(terms.lease_seconds, memory.longest_seconds)
    lease = memory.sight.lease
    # The earlier process of my own Pod is dead, so that only its predecessors count.
    seconds = lease.predecessor_seconds if lease.is_held_by(me) else lease.horizon_seconds
    return memory.sight.since + seconds


def _version(memory: Memory) -> str:
    return memory.sight.lease.version if memory.sight and memory.sight.lease else ""


def _reason(me: Identity, terms: Terms, memory: Memory, now: float) -> str:
    if memory.sight is None:
        return "has not read the Lease yet"
    lease = memory.sight.lease
    if lease is None:
        return "the Lease is not there yet"
    if lease.epoch > me.epoch:
        return f"superseded by epoch {lease.epoch}"
    if memory.tenure is None:
        if lease.is_held_by(me) or not lease.holder:
            return f"takes the Lease for epoch {me.epoch}"
        return f"the Lease is held by {lease.holder} under epoch {lease.epoch}"
    opens, closes = window(terms, memory)
    if now >= closes:
        return f"could not renew the Lease for {now - memory.tenure.renewed_at:.1f} s"
    if now < memory.tenure.clear_at:
        return f"an earlier master may serve for {memory.tenure.clear_at - now:.1f} s more"
    if now < opens:
        return f"boots for {opens - now:.1f} s more"
    return f"serves under epoch {me.epoch}"


# --- The Lease in the API -------------------------------------------------------------------------


def read(body: Mapping[str, Any], *, default_seconds: int = DEFAULT_LEASE_SECONDS) -> Lease:
    """A Lease from the API's JSON.

    Never fails: what is missing or spoilt by hand is read so that a successor
    waits rather than hurries. Without a readable epoch it is 0, lower than
    any master's.
    """
    metadata = body.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    spec = body.get("spec") or {}
    duration = max(_whole(spec.get("leaseDurationSeconds")), 0) or default_seconds
    return Lease(
        holder=spec.get("holderIdentity") or "",
        holder_uid=annotations.get(ANNOTATION_HOLDER_UID, ""),
        epoch=max(_whole(annotations.get(ANNOTATION_EPOCH)), _whole(spec.get("leaseTransitions"))),
        duration_seconds=duration,
        predecessor_seconds=_seconds(annotations.get(ANNOTATION_PREDECESSOR), duration),
        version=f"{metadata.get('uid', '')}/{metadata.get('resourceVersion', '')}",
    )


def render(
    lease: Lease, *, device: str, moment: str, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The API's JSON for a write at ``moment``, an RFC 3339 text with microseconds.

    ``base`` is the body last read: its uid and resourceVersion make the write
    conditional, and what is foreign in it stays. Without it the Lease is new.
    """
    # NB: the uid matters. A PUT of a Lease creates it where it is gone, whatever resourceVersion
    # it carries, so that a master could revive a deleted Lease with a stale claim; with the uid
    # the API server refuses.
    old = base or {}
    metadata = dict(old.get("metadata") or {})
    metadata.pop("managedFields", None)
    metadata |= {"name": lease_name(device), "namespace": SYSTEM_NAMESPACE}
    stated = {
        ANNOTATION_EPOCH: str(lease.epoch),
        ANNOTATION_HOLDER_UID: lease.holder_uid,
        ANNOTATION_PREDECESSOR: _render_seconds(lease.predecessor_seconds),
    }
    annotations = dict(metadata.get("annotations") or {}) | stated
    metadata["annotations"] = {key: text for key, text in annotations.items() if text}
    labels = {LABEL_DEVICE: device, LABEL_MANAGED_BY: MANAGED_BY}
    metadata["labels"] = dict(metadata.get("labels") or {}) | labels
    before = old.get("spec") or {}
    is_renewal = before.get("holderIdentity") == lease.holder
    acquired = before.get("acquireTime") if is_renewal or not lease.holder else None
    return {
        "apiVersion": LEASE_API_VERSION,
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            **before,
            "holderIdentity": lease.holder,
            "leaseDurationSeconds": lease.duration_seconds,
            "leaseTransitions": lease.epoch,
            "acquireTime": acquired or moment,
            "renewTime": moment,
        },
    }


def _whole(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        return 0


def _seconds(text: str | None, otherwise: float) -> float:
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        return float(otherwise)
    return seconds if math.isfinite(seconds) and seconds >= 0 else float(otherwise)


def _render_seconds(seconds: float) -> str:
    # Rounded up: a moment too long is safe, a moment too short is not.
    return f"{math.ceil(seconds * 1000) / 1000:.3f}" if seconds > 0 else ""
