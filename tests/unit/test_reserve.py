"""The reserve: what workloads may request, and the quotas that keep it."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin import constants
from asetwin.model import decide, marks, reserve
from asetwin.model.plan import CreateLimitRange, DeleteLimit, WriteQuota
from asetwin.model.reserve import Balance
from asetwin.model.snapshot import Snapshot
from asetwin.resources import quantities
from asetwin.resources.core import Limit, Namespace, Pod
from asetwin.resources.devices import LabelSelector, Reserve
from unit.builders import ANY_SPEED, GIBI, GPU, NOW, cluster, device, node, pod, views, worker


def weigh(seen: Snapshot, *, now: float = NOW) -> Balance:
    """The balance of the standard device."""
    one = seen.devices["ase"]
    workload = reserve.workload_namespaces(one.spec.reserve, seen.namespaces.values())
    return reserve.balance(one, views(seen), seen, workload, now)


def rule(seen: Snapshot, *, lifted_for: str = "") -> reserve.Verdict:
    """The rule on the standard device."""
    one = seen.devices["ase"]
    workload = reserve.workload_namespaces(one.spec.reserve, seen.namespaces.values())
    return reserve.rule(one, seen, weigh(seen), workload, lifted_for=lifted_for)


def written(verdict: reserve.Verdict) -> list[WriteQuota]:
    """The quotas that are to be written."""
    return [step for step in verdict.quotas if isinstance(step, WriteQuota)]


def quota(namespace: str = "default", **fields: Any) -> Limit:
    """Our ResourceQuota for the standard device."""
    return Limit(
        **{
            "namespace": namespace,
            "name": constants.QUOTA_NAME,
            "uid": f"q-{namespace}",
            "resource_version": "5",
            "device": "ase",
        }
        | fields
    )


def limit_range(namespace: str = "default", **fields: Any) -> Limit:
    """Our LimitRange for the standard device."""
    return quota(
        namespace, **{"name": constants.LIMIT_RANGE_NAME, "uid": f"l-{namespace}"} | fields
    )


def spaces(*names: str) -> list[Namespace]:
    return [Namespace(name) for name in names]


# --- The budget -----------------------------------------------------------------------------------


def test_the_budget_is_the_percentage_of_what_the_workers_can_allocate() -> None:
    weighed = weigh(cluster())
    assert weighed.capacity == {"cpu": 8000, "memory": 16 * GIBI, "pods": 220, GPU: 0}
    assert weighed.budget == {"cpu": 4000, "memory": 8 * GIBI, "pods": 110}
    assert weighed.headroom == weighed.budget


@pytest.mark.parametrize(("percent", "millicores"), [(0, 0), (1, 80), (33, 2640), (100, 8000)])
def test_the_percentage_is_the_devices(percent: int, millicores: int) -> None:
    seen = cluster(device(spec={"reserve": {"percent": percent}}))
    assert weigh(seen).budget["cpu"] == millicores


@pytest.mark.parametrize(
    ("given", "used", "reserved"),
    [
        pytest.param(pod(requests={"cpu": 500}), 500, 0, id="workload"),
        pytest.param(pod(requests={"cpu": 500}, node=""), 500, 0, id="pending-workload"),
        pytest.param(pod(requests={"cpu": 500}, node="cp"), 500, 0, id="workload-elsewhere"),
        pytest.param(
            pod(requests={"cpu": 500}, namespace="kube-system"), 0, 500, id="reserved-namespace"
        ),
        pytest.param(
            pod(requests={"cpu": 500}, namespace="kube-system", node="cp"), 0, 0, id="not-ours"
        ),
        pytest.param(
            pod(requests={"cpu": 500}, namespace="kube-system", node=""), 0, 0, id="not-placed"
        ),
        pytest.param(pod(requests={"cpu": 500}, phase="Succeeded"), 0, 0, id="ended"),
        pytest.param(pod(requests={"cpu": 500}, phase="Failed"), 0, 0, id="failed"),
    ],
)
def test_who_is_counted_on_which_side(given: Pod, used: int, reserved: int) -> None:
    weighed = weigh(cluster(given, *spaces("kube-system")))
    assert weighed.used.get("cpu", 0) == used
    assert weighed.budget["cpu"] == 4000 - reserved
    assert weighed.used.get("pods", 0) == (1 if used else 0)


def test_what_reserved_namespaces_use_never_makes_the_budget_negative() -> None:
    greedy = pod(requests={"cpu": 9000}, namespace="kube-system")
    weighed = weigh(cluster(greedy, *spaces("kube-system")))
    assert (weighed.budget["cpu"], weighed.headroom["cpu"]) == (0, 0)


@pytest.mark.parametrize(
    ("size", "millicores", "memory"),
    [
        pytest.param({}, 4000, 8 * GIBI, id="no-size"),
        pytest.param({"cpu": "1"}, 1000, 8 * GIBI, id="cpu"),
        pytest.param({"memory": "2Gi"}, 4000, 2 * GIBI, id="memory"),
        pytest.param({"cpu": "64", "memory": "64Gi"}, 4000, 8 * GIBI, id="larger-than-the-node"),
    ],
)
def test_the_size_of_the_worker_caps_what_its_node_counts(
    size: Mapping[str, str], millicores: int, memory: int
) -> None:
    seen = cluster(worker("wa", spec={"size": dict(size)}), without=["b", "wb", "nb"])
    capacity = weigh(seen).capacity
    assert (capacity["cpu"], capacity["memory"]) == (millicores, memory)


def test_a_node_without_an_accepted_worker_adds_nothing() -> None:
    assert weigh(cluster(without=["wb"])).capacity["cpu"] == 4000
    assert weigh(cluster(without=["nb"])).capacity["cpu"] == 4000


def test_a_resource_that_no_node_has_is_not_limited() -> None:
    assert GPU not in weigh(cluster()).budget
    one_gpu = node("na", allocatable={"cpu": 4000, "memory": GIBI, "pods": 110, GPU: 1})
    assert weigh(cluster(one_gpu)).budget[GPU] == 0


# --- Pods that are being deleted (case C07) -------------------------------------------------------


@pytest.mark.parametrize(
    ("deleting", "grace", "is_counted"),
    [
        pytest.param(None, None, True, id="not-deleted"),
        pytest.param(NOW + 30, 30, True, id="ending"),
        pytest.param(NOW - 1, 30, True, id="its-grace-is-over"),
        pytest.param(NOW - 30, 30, True, id="twice-its-grace-is-just-over"),
        pytest.param(NOW - 30.001, 30, False, id="twice-its-grace-is-over"),
        pytest.param(NOW - 0.001, 0, False, id="by-force"),
        pytest.param(NOW - 9999, None, True, id="without-a-grace-period"),
    ],
)
def test_a_deleted_pod_is_charged_for_twice_its_grace(
    deleting: float | None, grace: int | None, is_counted: bool
) -> None:
    # The deletion timestamp is the request plus the grace period already, and the quota
    # evaluator adds the grace period once more.
    assert reserve.counts(pod(deleting=deleting, grace_seconds=grace), NOW) is is_counted


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_not_charged_whatever_else(phase: str) -> None:
    assert not reserve.counts(pod(phase=phase), NOW)
    assert not reserve.counts(pod(phase=phase, deleting=NOW + 9, grace_seconds=30), NOW)


# --- Workload namespaces --------------------------------------------------------------------------


def test_reserved_excluded_and_terminating_namespaces_are_not_limited() -> None:
    given = [
        *spaces("default", "shop", "lab", *constants.RESERVED_NAMESPACES),
        Namespace("going", is_terminating=True),
    ]
    found = reserve.workload_namespaces(Reserve(excluded_namespaces=("lab",)), given)
    assert found == {"default", "shop"}


def test_a_selector_narrows_the_workload_namespaces() -> None:
    given = [Namespace("a", {"tier": "x"}), Namespace("b"), Namespace("kube-system", {"tier": "x"})]
    chosen = Reserve(namespace_selector=LabelSelector(match_labels={"tier": "x"}))
    assert reserve.workload_namespaces(chosen, given) == {"a"}
    everything = Reserve(namespace_selector=LabelSelector())
    assert reserve.workload_namespaces(everything, given) == {"a", "b"}


OPERATORS: dict[str, tuple[tuple[str, ...], dict[str | None, bool]]] = {
    "In": (("x", "y"), {"x": True, "y": True, "z": False, None: False}),
    # A label that is not there is not in the list either.
    "NotIn": (("x", "y"), {"x": False, "y": False, "z": True, None: True}),
    "Exists": ((), {"x": True, "": True, None: False}),
    "DoesNotExist": ((), {"x": False, "": False, None: True}),
}


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        pytest.param(operator, value, expected, id=f"{operator}-{value}")
        for operator, (_, rows) in OPERATORS.items()
        for value, expected in rows.items()
    ],
)
def test_a_selector_decides_as_kubernetes_does(
    operator: str, value: str | None, expected: bool
) -> None:
    requirement = {"key": "k", "operator": operator, "values": OPERATORS[operator][0]}
    selector = LabelSelector.model_validate({"matchExpressions": [requirement]})
    assert reserve.matches(selector, {} if value is None else {"k": value}) is expected


def test_all_requirements_of_a_selector_must_hold() -> None:
    selector = LabelSelector.model_validate(
        {
            "matchLabels": {"a": "1"},
            "matchExpressions": [
                {"key": "b", "operator": "Exists"},
                {"key": "c", "operator": "DoesNotExist"},
            ],
        }
    )
    for a, b, c in itertools.product((True, False), repeat=3):
        labels = {"a": "1"} if a else {"a": "2"}
        labels |= {"b": ""} if b else {}
        labels |= {"c": ""} if c else {}
        assert reserve.matches(selector, labels) is (a and b and not c)


# --- Headroom -------------------------------------------------------------------------------------

USES = st.dictionaries(
    st.sampled_from(["n1", "n2", "n3", "n4"]),
    st.fixed_dictionaries(
        {
            "cpu": st.integers(0, 3000),
            "memory": st.integers(0, 6 * GIBI),
            "pods": st.integers(1, 60),
        }
    ),
    min_size=1,
)


def hard(step: WriteQuota) -> dict[str, int]:
    """The limits of a WriteQuota by resource, in whole units."""
    names = {key: name for name, key in reserve.QUOTA_KEYS.items()}
    return {names[key]: quantities.units(names[key], value) for key, value in step.hard.items()}


def balance_of(uses: Mapping[str, Mapping[str, int]]) -> Balance:
    total: dict[str, int] = {}
    for own in uses.values():
        for name, amount in own.items():
            total[name] = total.get(name, 0) + amount
    budget = {"cpu": 4000, "memory": 8 * GIBI, "pods": 110}
    return Balance({name: 2 * one for name, one in budget.items()}, budget, total, uses)


@ANY_SPEED
@given(uses=USES, idle=st.integers(0, 3))
def test_any_one_namespace_can_fill_the_budget_and_not_more(
    uses: Mapping[str, Mapping[str, int]], idle: int
) -> None:
    names = {*uses, *(f"idle{number}" for number in range(idle))}
    weighed = balance_of(uses)
    seen = cluster()
    verdict = reserve.rule(seen.devices["ase"], seen, weighed, names, lifted_for="")
    limits = {step.namespace: hard(step) for step in written(verdict)}
    assert set(limits) == names
    for namespace, own in limits.items():
        for resource, amount in own.items():
            used = uses.get(namespace, {}).get(resource, 0)
            others = weighed.used.get(resource, 0) - used
            # What is used stays allowed; everything that is left goes to whoever is first.
            assert amount >= used
            assert others + amount == max(weighed.budget[resource], weighed.used.get(resource, 0))


@ANY_SPEED
@given(uses=USES, first=st.sampled_from(["n1", "n2", "n3", "n4"]))
def test_when_one_namespace_has_taken_all_that_was_left_nobody_gets_more(
    uses: Mapping[str, Mapping[str, int]], first: str
) -> None:
    before = balance_of(uses)
    own = dict(uses.get(first, {}))
    taken = {name: own.get(name, 0) + left for name, left in before.headroom.items()}
    after = balance_of({**uses, first: taken})
    assert after.headroom == dict.fromkeys(after.budget, 0)
    assert after.excess == before.excess


def test_a_namespace_above_the_budget_keeps_what_it_uses_and_is_reported() -> None:
    greedy = pod(requests={"cpu": 5000, "memory": GIBI})
    seen = cluster(greedy, pod("small", namespace="shop", requests={"cpu": 100}), *spaces("shop"))
    weighed = weigh(seen)
    assert weighed.excess == {"cpu": 1100}
    limits = {step.namespace: hard(step) for step in written(rule(seen))}
    assert limits["default"]["cpu"] == 5000
    assert limits["shop"]["cpu"] == 100
    message = reserve.excess_message(weighed)
    assert message == "cpu: 5100m requested, 4 allowed (default 5, shop 100m)"


def test_names_those_who_use_most_first_and_not_all() -> None:
    users = [pod(f"p{n}", namespace=f"n{n}", requests={"cpu": 1000 + n}) for n in range(8)]
    weighed = weigh(cluster(*users, *spaces(*(f"n{n}" for n in range(8)))))
    assert "(n7 1007m, n6 1006m, n5 1005m)" in reserve.excess_message(weighed, limit=3)


# --- Quotas ---------------------------------------------------------------------------------------

FULL = {"requests.cpu": "4", "requests.memory": "8Gi", "pods": "110"}


def test_a_workload_namespace_gets_our_quota() -> None:
    (step,) = rule(cluster()).quotas
    assert step == WriteQuota(namespace="default", device="ase", hard=FULL)


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(FULL, id="as-written"),
        pytest.param(
            {"requests.cpu": "4000m", "requests.memory": "8589934592", "pods": "110"},
            id="in-another-form",
        ),
    ],
)
def test_a_quota_that_is_right_is_left_alone(same: Mapping[str, str]) -> None:
    assert rule(cluster(quotas=(quota(hard=same),))).quotas == ()


@pytest.mark.parametrize(
    ("existing", "stale"),
    [
        pytest.param(quota(hard={}), (), id="empty"),
        pytest.param(quota(hard={**FULL, "requests.cpu": "3"}), (), id="outdated"),
        pytest.param(
            quota(hard={**FULL, "requests.nvidia.com/gpu": "1"}),
            ("requests.nvidia.com/gpu",),
            id="limits-what-is-gone",
        ),
        pytest.param(quota(hard={}, lifted_for="a-1"), (), id="lifted"),
        pytest.param(quota(hard=FULL, device="gone"), (), id="left-behind-by-a-device"),
    ],
)
def test_a_quota_that_is_wrong_is_set_right_under_its_version(
    existing: Limit, stale: tuple[str, ...]
) -> None:
    (step,) = rule(cluster(quotas=(existing,))).quotas
    assert step == WriteQuota("default", "ase", FULL, stale_keys=stale, resource_version="5")


def test_a_failover_lifts_every_quota_and_says_for_which() -> None:
    seen = cluster(*spaces("shop"), quotas=(quota(hard=FULL), quota("shop", hard=FULL)))
    verdict = rule(seen, lifted_for="a-1")
    assert [step.namespace for step in written(verdict)] == ["default", "shop"]
    for step in written(verdict):
        assert (step.hard, step.lifted_for) == ({}, "a-1")
        assert step.stale_keys == ("pods", "requests.cpu", "requests.memory")
    assert not verdict.is_lifted


def test_quotas_that_are_lifted_stay_so_and_none_is_made_meanwhile() -> None:
    lifted = quota(hard={}, lifted_for="a-1")
    verdict = rule(cluster(*spaces("new"), quotas=(lifted,)), lifted_for="a-1")
    assert verdict.quotas == ()
    assert verdict.is_lifted


def test_a_quota_that_was_lifted_for_an_earlier_failover_is_lifted_anew() -> None:
    verdict = rule(cluster(quotas=(quota(hard={}, lifted_for="a-1"),)), lifted_for="a-2")
    (step,) = verdict.quotas
    assert isinstance(step, WriteQuota)
    assert step.lifted_for == "a-2"


OUT = tuple(one.identity for one in marks.GUARDS[1:])


@pytest.mark.parametrize(
    ("mark", "is_lifted"),
    [
        (marks.Mark("ase", cordon=True, taints=OUT), True),
        (marks.Mark("ase", taints=(marks.STEERING.identity,)), False),
        (marks.Mark("other", cordon=True, taints=OUT), False),
        (marks.Mark("ase", gpus=1), False),
    ],
    ids=["out", "steered", "of-another-device", "gpus"],
)
def test_a_node_that_is_held_out_without_a_failover_keeps_the_reserve_lifted(
    mark: marks.Mark, is_lifted: bool
) -> None:
    """Its pin was deleted and made again before the marks were off its Node."""
    held = node("na", unschedulable=mark.cordon, owned=mark.render() or "")
    ours = device(finalizers=[constants.FINALIZER])
    seen = cluster(ours, held, quotas=(quota(hard=FULL),))
    written = [one for one in decide.decide(seen, "ase", NOW).steps if isinstance(one, WriteQuota)]
    assert [one.lifted_for for one in written if not one.hard] == (["a"] if is_lifted else [])


def test_in_regular_operation_nothing_is_lifted() -> None:
    assert not rule(cluster(quotas=(quota(hard=FULL),))).is_lifted


def test_a_foreign_quota_of_our_name_is_told_of_and_left_alone() -> None:
    verdict = rule(cluster(quotas=(quota(device="", hard={"pods": "1"}),)))
    assert (verdict.quotas, verdict.limit_ranges) == ((), ())
    assert verdict.foreign == ("default",)


def test_a_foreign_quota_of_another_name_is_none_of_our_business() -> None:
    (step,) = rule(cluster(quotas=(quota(device="", name="theirs"),))).quotas
    assert isinstance(step, WriteQuota)
    assert step.resource_version is None


def test_a_namespace_that_another_device_limits_is_left_to_it() -> None:
    other = quota(device="other", hard={"pods": "1"})
    verdict = rule(cluster(device("other"), quotas=(other,)))
    assert (verdict.quotas, verdict.limit_ranges) == ((), ())
    assert verdict.others == ("default",)


@pytest.mark.parametrize("lifted_for", ["", "a-1"])
def test_our_quota_goes_where_nothing_is_limited_any_more(lifted_for: str) -> None:
    old = (quota("kube-system", hard=FULL), quota("gone", hard=FULL))
    verdict = rule(cluster(*spaces("kube-system"), quotas=old), lifted_for=lifted_for)
    gone = [one for one in verdict.quotas if isinstance(one, DeleteLimit)]
    assert gone == [
        DeleteLimit("resourcequotas", "gone", constants.QUOTA_NAME, "q-gone"),
        DeleteLimit("resourcequotas", "kube-system", constants.QUOTA_NAME, "q-kube-system"),
    ]


def test_writing_what_the_rule_wants_leaves_nothing_to_do() -> None:
    seen = cluster(pod(requests={"cpu": 1234, "memory": 5}), *spaces("shop"))
    verdict = rule(seen)
    quotas = [quota(step.namespace, hard=step.hard) for step in written(verdict)]
    made = [
        limit_range(step.namespace)
        for step in verdict.limit_ranges
        if isinstance(step, CreateLimitRange)
    ]
    again = rule(replace(seen, quotas=tuple(quotas), limit_ranges=tuple(made)))
    assert (again.quotas, again.limit_ranges) == ((), ())


# --- LimitRanges ----------------------------------------------------------------------------------

THEIRS = limit_range(name="theirs", device="")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        pytest.param([], "create", id="none"),
        pytest.param([limit_range()], None, id="ours"),
        pytest.param([THEIRS], None, id="theirs"),
        pytest.param([limit_range(), THEIRS], "delete", id="ours-and-theirs"),
        pytest.param([limit_range(device="")], None, id="theirs-under-our-name"),
        pytest.param([limit_range(device="gone")], None, id="left-behind-by-a-device"),
    ],
)
def test_our_limit_range_is_there_exactly_where_a_namespace_has_none(
    there: Iterable[Limit], expected: str | None
) -> None:
    steps = rule(cluster(limit_ranges=tuple(there))).limit_ranges
    wanted = {
        None: (),
        "create": (CreateLimitRange("default", "ase"),),
        "delete": (DeleteLimit("limitranges", "default", constants.LIMIT_RANGE_NAME, "l-default"),),
    }
    assert steps == wanted[expected]


def test_our_limit_range_goes_with_the_quota() -> None:
    seen = cluster(*spaces("kube-system"), limit_ranges=(limit_range("kube-system"), limit_range()))
    (step,) = rule(seen).limit_ranges
    assert isinstance(step, DeleteLimit)
    assert step.namespace == "kube-system"


# --- Status ---------------------------------------------------------------------------------------


def test_the_status_shows_used_budget_and_capacity_of_each_resource() -> None:
    seen = cluster(pod(requests={"cpu": 1000, "memory": 2 * GIBI}))
    status = reserve.status(seen.devices["ase"], weigh(seen))
    rows = {one.resource: (one.used, one.budget, one.capacity) for one in status.resources}
    assert rows == {
        "cpu": ("1", "4", "8"),
        "memory": ("2Gi", "8Gi", "16Gi"),
        "pods": ("1", "110", "220"),
    }
    assert (status.percent, status.summary) == (50, "cpu 25%")


def test_a_budget_of_nothing_is_not_divided_by() -> None:
    seen = cluster(device(spec={"reserve": {"percent": 0}}), pod(requests={"cpu": 1000}))
    assert reserve.status(seen.devices["ase"], weigh(seen)).summary == ""
