"""For how long a workload had no Ready pod at all while an update went on (design 4.9).

Seen in snapshots, between the turns: what comes and goes between two of them
is not counted, and a pod that is on its way out serves nobody any more. Only
workloads count that had pods on a node that left, and the master.
"""

from asetwin import constants
from asetwin.model import master
from asetwin.model.facts import Facts
from asetwin.resources.devices import Failover
from asetwin.resources.updates import DeviceUpdateStatus, Outage

COUNTED = frozenset({"Deployment", "ReplicaSet", "StatefulSet"})
MASTER = "Master"


def follow(
    before: DeviceUpdateStatus, facts: Facts, moves: master.Verdict, record: Failover | None
) -> DeviceUpdateStatus:
    """The status with its outages brought up to date; the rest of it stays as it is."""
    known = {one.uid: one for one in before.outages}
    rows = {one.uid: one for one in _rows(facts, record)}
    count = before.outage_count
    for uid in sorted({*known, *rows}):
        row = known.get(uid) or rows[uid]
        is_out = not moves.is_serving if row.kind == MASTER else _is_out(uid, facts)
        if is_out and row.since is None:
            count += uid not in known
            known[uid] = row.model_copy(update={"since": facts.now})
        elif not is_out and row.since is not None:
            took = round((facts.now - row.since) * 1000)
            ended = {"since": None, "milliseconds": row.milliseconds + took}
            known[uid] = row.model_copy(update=ended)
    found = sorted(known.values(), key=lambda one: (one.since is None, -one.milliseconds, one.uid))
    kept = tuple(found[: constants.STATUS_LIST_LIMIT])
    return before.model_copy(update={"outages": kept, "outage_count": count})


def _rows(facts: Facts, record: Failover | None) -> list[Outage]:
    """Whom to look at, apart from those that are known already."""
    device = facts.device
    rows = [Outage(namespace="", kind=MASTER, name=device.name, uid=device.metadata.uid)]
    for one in record.workloads if record is not None else ():
        if one.kind in COUNTED and one.want:
            names = {"namespace": one.namespace, "kind": one.kind, "name": one.name}
            rows.append(Outage(**names, uid=one.uid))
    return rows


def _is_out(uid: str, facts: Facts) -> bool:
    known = facts.pods.workloads.get(uid)
    if known is None or not known.replicas:
        # Deleted or scaled down by somebody: nobody misses it.
        return False
    namespace = facts.snapshot.namespaces.get(known.namespace)
    if namespace is not None and namespace.is_terminating:
        return False
    off = {one.node.name for one in facts.views if one.node is not None and one.is_lost}
    own = facts.pods.by_owner.get(uid, ())
    return not any(one.is_serving and one.node not in off for one in own)
