"""The check itself: place everything, lose A, lose B, look at each workload."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from asetwin.model import losses
from asetwin.model.checks import advice, scenes
from asetwin.model.checks.findings import HINTS, Finding, Severity, Word, in_order
from asetwin.model.checks.manifests import Bundle, Work
from asetwin.model.checks.scenes import Layout, Stage
from asetwin.model.placement.rooms import Misfit
from asetwin.resources import core, quantities

SLOTS = "AB"
WAITING = frozenset(
    {"HostPort", "NodeAffinity", "NodeLocalVolume", "PodAntiAffinity", "TopologySpread"}
)
"""Reasons for which pods wait by design, as long as others of their workload serve."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a check."""

    findings: tuple[Finding, ...]
    summary: dict[str, Any]

    @property
    def word(self) -> str:
        """``pass``, or ``findings`` where one of them is more than information."""
        return "findings" if any(one.fails for one in self.findings) else "pass"


def judge(bundle: Bundle, layout: Layout) -> Verdict:
    """Whether the workloads would survive the loss of either node of the device."""
    stage = scenes.build(layout, bundle)
    found = [*_refused(stage), *_kept_out(stage), *_without_place(stage)]
    nodes = stage.layout.nodes
    if len(nodes) > 1:
        for slot, node in zip(SLOTS, nodes, strict=False):
            found += _lost(stage, slot, node)
    stuck = {one.workload for one in found}
    found += advice.give(stage, stuck)
    return Verdict(tuple(in_order(found)), _summary(stage, found))


def _finding(
    work: Work, loss_of: str, reason: str, severity: Severity, message: str, hint: str = ""
) -> Finding:
    hint = hint or HINTS[reason]
    return Finding(work.id, loss_of, reason, severity, message, hint, work.source)


def _refused(stage: Stage) -> list[Finding]:
    """Pods that the reserve's ResourceQuota does not let in."""
    found = []
    for work in stage.bundle.works:
        short = stage.refused.get(work.id)
        if not short:
            continue
        name = short[0]
        is_gpu = name == "nvidia.com/gpu"
        wanted = work.pods[0].requests.get(name, 1)
        used, budget = stage.budget.used[name], stage.budget.budget[name]
        amounts = [quantities.render(name, one) for one in (wanted, used, budget)]
        text = (
            f"{_of(len(short), len(work.pods))} would be refused by the ResourceQuota of the "
            f"reserve: {name} of {amounts[0]} each, {amounts[1]} of {amounts[2]} taken"
        )
        hint = HINTS["GPU"] if is_gpu else HINTS[Word.OVER_RESERVE]
        reason = "GPU" if is_gpu else Word.OVER_RESERVE.value
        found.append(_finding(work, "none", reason, Severity.ERROR, text, hint))
    return found


def _kept_out(stage: Stage) -> list[Finding]:
    """Pods that a ResourceQuota of their namespace does not let in."""
    works = {work.id: work for work in stage.bundle.works}
    found = []
    for name, refusals in stage.kept_out.items():
        text = f"{_of(len(refusals), len(works[name].pods))} would be refused: "
        text += refusals[0].message
        found.append(_finding(works[name], "none", Word.QUOTA, Severity.ERROR, text))
    return found


def _without_place(stage: Stage) -> list[Finding]:
    """Pods that have no place although both nodes are there."""
    found = []
    for work in stage.bundle.works:
        stuck = [one for one in stage.placed.get(work.id, ()) if not one.node]
        by_reason: dict[str, list[str]] = defaultdict(list)
        for one in stuck:
            if one.misfit is not None:
                by_reason[one.misfit.reason].append(_causes(one.all_misfits, one.misfit))
        for reason, messages in by_reason.items():
            text = f"{_of(len(messages), len(work.pods))} would not run at all: {messages[0]}"
            found.append(_finding(work, "none", reason, Severity.ERROR, text))
    return found


def _causes(everything: tuple[Misfit, ...], told: Misfit) -> str:
    """What the nodes say, each once, of the reason that is told."""
    texts = [one.message for one in everything if one.reason == told.reason]
    return "; ".join(dict.fromkeys(texts)) or told.message


def _lost(stage: Stage, slot: str, node: core.Node) -> list[Finding]:
    scene = losses.Scene(
        nodes={name: room.node for name, room in stage.board.rooms.items()},
        pods=stage.pods,
        workloads=stage.workloads,
        titles=stage.layout.titles,
        namespaces={**stage.layout.namespaces, **stage.bundle.namespaces},
        tied=stage.tied,
        quotas=stage.quotas,
        defaulted=stage.bundle.defaulted,
    )
    survivors = [one.name for one in stage.layout.nodes if one.name != node.name]
    loss = losses.foresee(scene, node.name, survivors)
    groups: dict[tuple[str, str], list[losses.Victim]] = defaultdict(list)
    gone: dict[str, int] = defaultdict(int)
    for one in loss.victims:
        work = stage.work_of.get(one.pod.key)
        if work is not None:
            groups[work.id, one.misfit.reason].append(one)
            gone[work.id] += 1
    works = {work.id: work for work in stage.bundle.works}
    found = []
    for (name, reason), victims in groups.items():
        work = works[name]
        running = sum(1 for one in stage.placed.get(name, ()) if one.node)
        left = running - gone[name]
        severity = Severity.WARNING if left > 0 and reason in WAITING else Severity.ERROR
        rest = f"; {left} of its pods would serve" if left > 0 else ""
        text = f"{_of(len(victims), running)} would not run: {victims[0].misfit.message}{rest}"
        if reason == "NoController":
            text = "the pod would be lost: nothing recreates it"
        found.append(_finding(work, slot, reason, severity, text))
    return found


def _of(some: int, all_of_them: int) -> str:
    if all_of_them == 1:
        return "its pod"
    return f"{some} of {all_of_them} pods"


def _summary(stage: Stage, found: list[Finding]) -> dict[str, Any]:
    bundle, budget = stage.bundle, stage.budget
    on_device = [node.name for node in stage.layout.nodes]
    return {
        "documents": bundle.documents,
        "workloads": len(bundle.works),
        "pods": len(stage.work_of),
        "placed": {
            slot: sum(1 for key in stage.board.rooms[name].pods if key in stage.work_of)
            for slot, name in zip(SLOTS, on_device, strict=False)
        },
        "skipped": dict(sorted(bundle.skipped.items())),
        "reserve": {
            name: {
                "used": quantities.render(name, budget.used[name]),
                "budget": quantities.render(name, amount),
            }
            for name, amount in budget.budget.items()
        },
        "findings": {
            one.value: sum(1 for each in found if each.severity is one) for one in Severity
        },
    }
