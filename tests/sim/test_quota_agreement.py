"""What the rules say of a quota is what the simulated API server answers, case by case."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asetwin.kube import errors
from asetwin.model import quotas
from asetwin.resources import core
from asetwin.sim import bodies
from asetwin.sim.world import WORKERS, World
from unit.builders import ANY_SPEED, GPU

Json = dict[str, Any]
ASKED = st.fixed_dictionaries(
    {
        "cpu": st.sampled_from(["1m", "500m", "1"]),
        "memory": st.sampled_from(["1", "1Mi", "0.5Gi"]),
        GPU: st.sampled_from(["0", "1", "2"]),
    }
)
HARD = st.dictionaries(
    st.sampled_from(
        [
            *("pods", "count/pods", "cpu", "requests.cpu", "memory", "requests.memory"),
            *(f"requests.{GPU}", "services", "requests.storage"),
        ]
    ),
    st.sampled_from(["0", "1", "2", "3", "1500m", "1Gi", "1025Mi"]),
    min_size=1,
)


def pod(name: str, requests: Json, *, ends: bool = False, **meta: Any) -> Json:
    container = {"name": "main", "resources": {"requests": requests}}
    spec = {"containers": [container], "restartPolicy": "Never" if ends else "Always"}
    notes = {"sim.asetwin.dev/run-seconds": "1"}
    given = {"name": name, "namespace": "shop", "annotations": notes, **meta}
    return {"kind": "Pod", "metadata": given, "spec": spec}


def quota(name: str, hard: Json) -> Json:
    meta = {"name": name, "namespace": "shop"}
    return {"kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}}


def shop() -> World:
    world = World()
    world.operator.stop()
    world.apply({"kind": "Namespace", "metadata": {"name": "shop"}})
    return world


@ANY_SPEED
@given(
    there=st.lists(st.tuples(ASKED, st.booleans()), max_size=4),
    limits=st.lists(HARD, min_size=1, max_size=2),
    asked=ASKED,
)
def test_one_more_pod_is_let_in_by_both_or_by_neither(
    there: list[tuple[Json, bool]], limits: list[Json], asked: Json
) -> None:
    world = shop()
    world.apply(*(pod(f"p{n}", one, ends=ends) for n, (one, ends) in enumerate(there)))
    world.run(5)
    world.apply(*(quota(f"q{n}", hard) for n, hard in enumerate(limits)))
    world.run(1)
    kept = [core.Limit.read(one) for one in world.server.listed("resourcequotas", "shop")]
    books = quotas.Books.of(kept, [core.Pod.read(one) for one in world.pods("shop")])
    expected = books.admit(core.Pod.read(pod("new", asked)))
    answer = ""
    try:
        world.apply(pod("new", asked))
    except errors.Forbidden as error:
        answer = str(error)
    assert (expected is not None) == ("exceeded quota" in answer), (expected, answer)
    if expected is not None:
        assert f"exceeded quota: {expected.subject}," in answer


def test_a_force_deletion_that_a_finalizer_holds_up_is_off_the_bill_at_once() -> None:
    """It has no grace left, and the write that says so is what makes the controller count anew."""
    world = shop()
    held = pod("held", {"cpu": "1"}, finalizers=["example.com/hold"])
    world.apply(held, quota("own", {"pods": "1"}))
    world.run(3)
    node = bodies.node_of(world.server.read("pods", "held", "shop"))
    assert node in WORKERS
    world.kubelets[node].power_off()
    world.delete("Pod", "held", "shop")
    world.run(1)
    assert world.server.read("resourcequotas", "own", "shop")["status"]["used"]["pods"] == "1"
    world.delete("Pod", "held", "shop", grace_seconds=0)
    world.run(1)
    assert bodies.is_deleting(world.server.read("pods", "held", "shop"))
    assert world.server.read("resourcequotas", "own", "shop")["status"]["used"]["pods"] == "0"
