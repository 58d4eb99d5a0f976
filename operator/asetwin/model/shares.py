"""The shares of a device: static PersistentVolumes, each named after its share (design 1).

A share lies on a directory that every Node sees, so what is written on one
node is read on the other. Besides those of ``spec.shares`` each device has one
of its own, ``<device>-journal``, kept for the claim through which its masters
write their journal.

The volume is only the way to the share: it is deleted with the share or with
the device, and the directory stays. One that a claim holds is not taken away
from it. When its claim is gone it is made free again, because a share on the
device is not tied to whoever mounted it first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from asetwin import constants
from asetwin.model.plan import CreateClaim, DeleteVolume, Step, WriteVolume
from asetwin.model.snapshot import Snapshot
from asetwin.resources import quantities
from asetwin.resources.conditions import Reason
from asetwin.resources.core import Binding, Claim, Volume
from asetwin.resources.devices import AseDevice, Share


def journal_name(device: str) -> str:
    """The name of the journal's share, and of the claim for it in asetwin-system."""
    return f"{device}-journal"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The steps towards the right volumes, and how the shares stand."""

    steps: tuple[Step, ...]
    is_ready: bool
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class _Finding:
    """Why one share is not as it should be."""

    reason: Reason
    text: str


def rule(device: AseDevice, snapshot: Snapshot) -> Verdict:
    """Bring a device's volumes to what its spec states."""
    steps: list[Step] = []
    findings: list[_Finding] = []
    wanted = _wanted(device)
    for share in wanted:
        step, finding = _offer(device, share, snapshot)
        steps += [step] if step is not None else []
        findings += [finding] if finding is not None else []
    for volume in snapshot.volumes.values():
        if volume.device != device.name or volume.name in {one.name for one in wanted}:
            continue
        if volume.is_bound and volume.binding is not None:
            text = f"{volume.name} is no longer stated, but {volume.binding.key} holds it"
            findings.append(_Finding(Reason.SHARE_IN_USE, text))
        elif not volume.is_deleting:
            version = volume.resource_version
            steps.append(DeleteVolume(volume.name, volume.uid, version, why="no longer stated"))
    if find_claim(device.name, snapshot) is None and _is_claimable(device.name, snapshot):
        name = journal_name(device.name)
        steps.append(CreateClaim(device.name, device.metadata.uid, name))
    return _verdict(steps, findings, wanted, snapshot)


def _wanted(device: AseDevice) -> tuple[Share, ...]:
    journal = Share(name=journal_name(device.name), capacity=constants.JOURNAL_CAPACITY)
    stated = [one for one in device.spec.shares if one.name != journal.name]
    return (*sorted(stated, key=lambda one: one.name), journal)


def _offer(
    device: AseDevice, share: Share, snapshot: Snapshot
) -> tuple[WriteVolume | None, _Finding | None]:
    """The step towards one share's volume, and what is wrong with it."""
    volume = snapshot.volumes.get(share.name)
    kept_for = _kept_for(device.name, snapshot) if share.name == journal_name(device.name) else None
    if volume is None:
        step = WriteVolume(device.name, share.name, share.capacity, share.protocol, kept_for)
        return step, _Finding(Reason.SHARE_PENDING, f"{share.name} is being offered")
    if volume.device != device.name:
        whose = f"belongs to the device {volume.device}" if volume.device else "is not ours"
        text = f"the PersistentVolume {share.name} {whose}; rename it or the share"
        return None, _Finding(Reason.FOREIGN_OBJECT, text)
    if volume.is_deleting:
        held = f": {volume.binding.key} still holds it" if volume.binding else ""
        return None, _Finding(Reason.SHARE_PENDING, f"{share.name} is on its way out{held}")
    before, after = _bytes(volume.capacity), _bytes(share.capacity)
    finding = None
    if after < before:
        text = f"{share.name} keeps its {volume.capacity}: a share only grows"
        finding = _Finding(Reason.SHARE_CANNOT_SHRINK, text)
    is_current = after <= before and volume.protocol == share.protocol
    if is_current and not volume.is_released:
        return None, finding
    step = WriteVolume(
        device=device.name,
        name=share.name,
        capacity=share.capacity if after > before else volume.capacity,
        protocol=share.protocol,
        kept_for=kept_for,
        released=volume.is_released,
        resource_version=volume.resource_version,
    )
    return step, finding


def _is_claimable(device: str, snapshot: Snapshot) -> bool:
    """Whether the journal's volume can be claimed.

    Not somebody else's volume of that name. And not before Kubernetes' volume
    binder has seen it, which the phase tells: a claim that it meets first waits
    for its next look at all claims, up to 15 seconds.
    """
    volume = snapshot.volumes.get(journal_name(device))
    return volume is not None and volume.device == device and volume.phase == "Available"


def _kept_for(device: str, snapshot: Snapshot) -> Binding:
    # With its uid where it is there: a claim that has lost its volume takes no other one back.
    claim = find_claim(device, snapshot)
    uid = claim.uid if claim is not None else ""
    return Binding(constants.SYSTEM_NAMESPACE, journal_name(device), uid)


def _bytes(capacity: str) -> int:
    return quantities.units("storage", capacity or "0")


_ORDER = (
    Reason.FOREIGN_OBJECT,
    Reason.SHARE_IN_USE,
    Reason.SHARE_CANNOT_SHRINK,
    Reason.SHARE_PENDING,
)
"""Which reason a condition shows that can show only one."""


def _verdict(
    steps: Iterable[Step],
    findings: list[_Finding],
    wanted: tuple[Share, ...],
    snapshot: Snapshot,
) -> Verdict:
    if findings:
        findings.sort(key=lambda one: _ORDER.index(one.reason))
        text = "; ".join(one.text for one in findings[:5])
        more = f"; and {len(findings) - 5} more" if len(findings) > 5 else ""
        return Verdict(tuple(steps), False, findings[0].reason, text + more)
    told = [_told(snapshot.volumes[one.name]) for one in wanted]
    limit = constants.STATUS_LIST_LIMIT
    more = f" and {len(told) - limit} more" if len(told) > limit else ""
    return Verdict(tuple(steps), True, Reason.SHARES_OFFERED, ", ".join(told[:limit]) + more)


def _told(volume: Volume) -> str:
    is_bound = volume.is_bound and volume.binding is not None
    return f"{volume.name} ({volume.binding.key if is_bound and volume.binding else 'free'})"


# --- The journal ----------------------------------------------------------------------------------


def find_claim(device: str, snapshot: Snapshot) -> Claim | None:
    """The claim for a device's journal, if it is there."""
    name = journal_name(device)
    return next(
        (
            one
            for one in snapshot.claims
            if one.namespace == constants.SYSTEM_NAMESPACE and one.name == name
        ),
        None,
    )


def has_journal(device: str, snapshot: Snapshot) -> bool:
    """Whether a master of the device could write its journal: it needs one to serve."""
    claim = find_claim(device, snapshot)
    volume = snapshot.volumes.get(journal_name(device))
    return (
        claim is not None
        and claim.is_bound
        and not claim.is_deleting
        and volume is not None
        and claim.volume == volume.name
        and volume.device == device
    )
