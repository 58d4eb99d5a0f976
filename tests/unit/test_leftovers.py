"""What a kubelet has refused on a lost node is over, and no failover that has failed (C18)."""

import pytest

from asetwin.model import failover
from asetwin.resources import core
from asetwin.resources.devices import DisplacedWorkload, Failover, PowerState
from unit.builders import NOW, cluster, deployment, failure, node, pods, replica, views, worker

RECORD = Failover(
    id="a-1",
    trigger="gone",
    from_node="a",
    to_node="b",
    detected_at=NOW - 60,
    fenced_at=NOW - 50,
    evacuated_at=NOW - 49,
    workloads=(
        DisplacedWorkload(
            namespace="default",
            kind="Deployment",
            name="infer",
            uid="uid-Deployment-infer",
            displaced=1,
            want=2,
        ),
    ),
)


@pytest.mark.parametrize(
    ("phase", "named"),
    [
        pytest.param("Failed", [], id="UnexpectedAdmissionError"),
        pytest.param("Pending", ["Taint"], id="came-straight-back"),
    ],
)
def test_only_what_still_wants_to_run_there_is_named(phase: str, named: list[str]) -> None:
    anything = core.Demands(tolerations=(core.Toleration(operator="Exists"),))
    left = replica(0, "infer", phase=phase, is_ready=False, created=NOW - 10, demands=anything)
    seen = cluster(
        *(failure(), worker("wa", power=PowerState.OFF)),
        node("na", owned='{"device":"ase","cordon":true}'),
        *deployment("infer", replicas=2),
        replica(1, "infer", node="nb", created=NOW - 1000),
        left,
    )
    after = failover.follow(RECORD, views(seen), pods(seen), is_master_ready=True, now=NOW)
    assert [one.reason for one in after.unplaceable] == named
