"""What a manifest says by itself: budgets, rolling updates, single replicas, requests."""

from collections.abc import Iterator

from asetwin.model.checks.findings import HINTS, Finding, Severity, Word
from asetwin.model.checks.manifests import Budget, Work, is_node_local, surge_pod
from asetwin.model.checks.scenes import Stage
from asetwin.resources.demands import Taint

ANY_TAINT = Taint("asetwin.dev/any", "NoSchedule", "any")
RECREATED = ("Deployment", "ReplicaSet", "StatefulSet")
ONE_AT_A_TIME = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})


def give(stage: Stage, stuck: set[str]) -> list[Finding]:
    """Findings that need no loss; ``stuck`` are the workloads that have worse ones already."""
    found = list[Finding]()
    for work in stage.bundle.works:
        found += _budgets(work, stage)
        found += _rollout(work, stage)
        found += _tolerates_everything(work)
        found += _host_paths(work)
        found += _requests(work)
        if work.id not in stuck:
            found += _single(work)
    return found


def _finding(work: Work, reason: str, severity: Severity, message: str, hint: str = "") -> Finding:
    hint = hint or HINTS[reason]
    return Finding(work.id, "none", reason, severity, message, hint, work.source)


# --- Disruption budgets ---------------------------------------------------------------------------


def _budgets(work: Work, stage: Stage) -> Iterator[Finding]:
    """Source: the disruption controller, and the eviction subresource for two budgets."""
    if not work.pods or work.kind == "DaemonSet":
        return
    holders = [one for one in stage.bundle.budgets if _selects(one, work)]
    if len(holders) > 1:
        names = " and ".join(sorted(one.name for one in holders))
        text = (
            f"{len(holders)} PDBs select it ({names}): the API server answers every eviction with "
            "an error, so it never leaves a node as planned"
        )
        hint = "let exactly one PodDisruptionBudget select each pod"
        yield _finding(work, Word.BUDGET, Severity.WARNING, text, hint)
        return
    for one in holders:
        works = [other for other in stage.bundle.works if _selects(one, other)]
        expected = sum(len(other.pods) for other in works if other.kind != "DaemonSet")
        is_bare = work.kind == "Pod"
        counts_by_controller = one.max_unavailable is not None or isinstance(one.min_available, str)
        needed = _needed(one, expected)
        if is_bare and counts_by_controller:
            text = (
                f"PDB {one.name} counts by controller, and this pod has none: it allows no eviction"
            )
        elif needed >= expected:
            text = (
                f"PDB {one.name} needs {needed} of {expected} pods healthy: no pod may ever be "
                "evicted, so updates and maintenance wait for it"
            )
        else:
            continue
        yield _finding(work, Word.BUDGET, Severity.WARNING, text)


def _selects(budget: Budget, work: Work) -> bool:
    if budget.namespace != work.namespace or budget.selector is None or not work.pods:
        return False
    return budget.selector.holds(work.pods[0].labels)


def _needed(budget: Budget, expected: int) -> int:
    """How many pods have to stay healthy; percentages are rounded up, both of them."""
    if budget.max_unavailable is not None:
        return max(0, expected - _share(budget.max_unavailable, expected, up=True))
    return _share(budget.min_available or 0, expected, up=True)


def _share(value: int | str, of: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    part = int(value.removesuffix("%")) * of
    return -(-part // 100) if up else part // 100


# --- Rolling updates ------------------------------------------------------------------------------


def _rollout(work: Work, stage: Stage) -> Iterator[Finding]:
    """Whether the first new pod of a rolling update would have a place beside the old ones."""
    running = [one for one in stage.placed.get(work.id, ()) if one.node]
    if work.kind != "Deployment" or not running:
        return
    strategy = work.spec.get("strategy") or {}
    if strategy.get("type") == "Recreate" or _unavailable(strategy, len(work.pods)) > 0:
        return
    pod, board = surge_pod(work), stage.board
    misfits = [board.misfit(pod, node.name) for node in stage.layout.nodes]
    start = "a rolling update starts a new pod before an old one ends, and "
    if all(misfits):
        texts = list(dict.fromkeys(one.message for one in misfits if one is not None))
        text = f"{start}it has no place: {'; '.join(texts)}"
        yield _finding(work, Word.ROLLOUT, Severity.WARNING, text)
        return
    wanted = {**pod.requests, "pods": 1}
    left = stage.budget
    short = [
        name
        for name, amount in wanted.items()
        if name in left.budget and left.used[name] + amount > left.budget[name]
    ]
    if short:
        text = f"{start}the reserve has no {short[0]} left for it"
        yield _finding(work, Word.ROLLOUT, Severity.WARNING, text)
        return
    for name in pod.claims:
        spec = stage.bundle.claims.get((work.namespace, name))
        modes = set((spec or {}).get("accessModes") or ())
        can_be_elsewhere = spec is not None and not is_node_local(spec)
        is_single = bool(modes) and modes <= ONE_AT_A_TIME
        if is_single and (can_be_elsewhere or modes == {"ReadWriteOncePod"}):
            mode = sorted(modes)[0]
            text = f"{start}it may have to wait for its claim {name}, which is {mode}"
            yield _finding(work, Word.ROLLOUT, Severity.WARNING, text)
            return


def _unavailable(strategy: dict[str, object], replicas: int) -> int:
    """How many pods a rolling update may take away first; source: ``ResolveFenceposts``."""
    rolling = strategy.get("rollingUpdate")
    given = rolling if isinstance(rolling, dict) else {}
    surge = _share(given.get("maxSurge", "25%"), replicas, up=True)
    away = _share(given.get("maxUnavailable", "25%"), replicas, up=False)
    return 1 if surge == 0 and away == 0 else away


# --- The pod itself -------------------------------------------------------------------------------


def _tolerates_everything(work: Work) -> Iterator[Finding]:
    if work.kind == "DaemonSet" or not work.pods:
        return
    if any(one.matches(ANY_TAINT) for one in work.pods[0].demands.tolerations):
        text = (
            "it tolerates every taint: after a drain or a loss the scheduler may put it straight "
            "back on the node that it came from"
        )
        yield _finding(work, "Taint", Severity.WARNING, text)


def _host_paths(work: Work) -> Iterator[Finding]:
    if work.kind == "DaemonSet":
        return
    paths = [
        one["hostPath"]["path"] for one in work.pod_spec.get("volumes") or () if one.get("hostPath")
    ]
    if paths:
        text = f"it uses {paths[0]} of whatever node it is on: the data does not move with it"
        yield _finding(work, "NodeLocalVolume", Severity.WARNING, text)


def _requests(work: Work) -> Iterator[Finding]:
    if not work.missing or not work.pods:
        return
    total = len(work.pod_spec["containers"])
    parts = [f"{count} of {total} for {name}" for name, count in sorted(work.missing.items())]
    text = (
        f"containers without requests: {', '.join(parts)}; each counts as 10m cpu and 16Mi memory, "
        "whatever it uses"
    )
    yield _finding(work, Word.NO_REQUESTS, Severity.WARNING, text)


def _single(work: Work) -> Iterator[Finding]:
    if work.kind in RECREATED and len(work.pods) == 1:
        text = "one replica: it is off from the loss of its node until its replacement is Ready"
        yield _finding(work, Word.SINGLE_REPLICA, Severity.INFO, text)
