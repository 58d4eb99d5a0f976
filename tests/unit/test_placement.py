"""Which pod fits which Node, and every reason why not (design 4.8), filter by filter.

The cases are the scheduler's own rules, one each; ``tests/e2e/test_oracle.py``
asks the real one about mixtures of them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin.model.placement import boards, queues
from asetwin.model.placement.boards import Board
from asetwin.resources import core
from unit.builders import ANY_SPEED, GPU, node, volume

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


def pod(name: str = "p", *, namespace: str = "default", **spec: Any) -> core.Pod:
    """A pod that waits, from its spec; ``labels``, ``node`` and ``status`` are taken out of it."""
    meta = {"namespace": namespace, "name": name, "labels": spec.pop("labels", {})}
    cpu = spec.pop("cpu", None)
    containers = [{"name": "c", "resources": {"requests": {"cpu": cpu} if cpu else {}}}]
    body = {"metadata": meta, "spec": {"containers": containers, **spec}}
    return core.Pod.read(body)


def on(name: str = "na", zone: str = "x", **fields: Any) -> core.Node:
    labels = {HOST: name, ZONE: zone} | fields.pop("labels", {})
    return node(name, labels=labels, **fields)


def board(*nodes: core.Node, **pods: list[core.Pod]) -> Board:
    """Nodes, and by their names the pods that run there."""
    return Board.of(nodes or (on(),), pods)


def reasons(one: core.Pod, given: Board, name: str = "na") -> list[str]:
    return [found.reason for found in given.misfits(one, name)]


def term(app: str = "web", key: str = HOST, **more: Any) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key, **more}


def affinity(kind: str, *terms: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


Spec = dict[str, Any]
WEB = {"app": "web"}
APART: Spec = {"affinity": affinity("podAntiAffinity", term())}
TOGETHER: Spec = {"affinity": affinity("podAffinity", term())}


def spread(**more: Any) -> dict[str, Any]:
    one = {
        "topologyKey": HOST,
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": WEB},
    }
    return {"topologySpreadConstraints": [{**one, **more}]}


# --- One Node -------------------------------------------------------------------------------------


def test_every_reason_is_told_and_the_first_filter_leads() -> None:
    given = board(on(taints=(core.Taint("k", "NoSchedule"),)))
    one = pod(cpu="9", nodeSelector={"disk": "fast"})
    found = given.misfits(one, "na")
    assert [each.reason for each in found] == ["Taint", "NodeAffinity", "Capacity"]
    assert [each.reason for each in boards.leading(found)] == ["Taint"]


@pytest.mark.parametrize(
    ("tolerations", "fits"),
    [
        pytest.param([], False, id="none"),
        pytest.param([{"operator": "Exists"}], True, id="everything"),
        pytest.param([{"key": "k", "operator": "Exists"}], True, id="key"),
        pytest.param([{"key": "k", "value": "v", "effect": "NoSchedule"}], True, id="equal"),
        pytest.param([{"key": "k", "value": "w", "effect": "NoSchedule"}], False, id="other-value"),
        pytest.param([{"key": "k", "value": "v", "effect": "NoExecute"}], False, id="other-effect"),
    ],
)
def test_a_taint_keeps_out_whoever_does_not_tolerate_it(tolerations: list[Any], fits: bool) -> None:
    given = board(on(taints=(core.Taint("k", "NoSchedule", "v"),)))
    assert given.fits(pod(tolerations=tolerations), "na") is fits


def test_a_preference_is_no_refusal() -> None:
    assert board(on(taints=(core.Taint("k", "PreferNoSchedule"),))).fits(pod(), "na")


def test_a_cordon_keeps_out_whoever_does_not_tolerate_it() -> None:
    cordoned = board(on(unschedulable=True))
    assert reasons(pod(), cordoned) == ["Taint"]
    assert cordoned.fits(pod(tolerations=[{"operator": "Exists"}]), "na")


@pytest.mark.parametrize(
    ("terms", "fits"),
    [
        pytest.param([{}], False, id="an-empty-term-selects-nothing"),
        pytest.param([], False, id="no-term-selects-nothing"),
        pytest.param(
            [{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["na"]}]}],
            True,
            id="any-term-is-enough",
        ),
        pytest.param(
            [
                {
                    "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["na"]}],
                    "matchExpressions": [{"key": ZONE, "operator": "DoesNotExist"}],
                }
            ],
            False,
            id="all-of-a-term-is-needed",
        ),
        pytest.param(
            [{"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["6"]}]}],
            True,
            id="greater",
        ),
        pytest.param(
            [{"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["old"]}]}],
            False,
            id="greater-than-a-word",
        ),
    ],
)
def test_required_node_affinity_is_read_as_kubernetes_reads_it(
    terms: list[Any], fits: bool
) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    one = pod(affinity={"nodeAffinity": required})
    assert board(on(labels={"gen": "7"})).fits(one, "na") is fits


@pytest.mark.parametrize(
    ("taken", "wanted", "fits"),
    [
        pytest.param({}, {}, False, id="same"),
        pytest.param({}, {"protocol": "UDP"}, True, id="other-protocol"),
        pytest.param({"hostIP": "10.0.0.1"}, {"hostIP": "10.0.0.2"}, True, id="other-address"),
        pytest.param({"hostIP": "10.0.0.1"}, {}, False, id="every-address"),
        pytest.param({}, {"hostPort": 81}, True, id="other-port"),
    ],
)
def test_host_ports_collide_on_an_address_in_common(
    taken: dict[str, Any], wanted: dict[str, Any], fits: bool
) -> None:
    def with_port(name: str, port: dict[str, Any]) -> core.Pod:
        ports = [{"containerPort": 80, "hostPort": 80, **port}]
        return pod(name, containers=[{"name": "c", "ports": ports}])

    given = board(na=[with_port("a", taken)])
    assert reasons(with_port("b", wanted), given) == ([] if fits else ["HostPort"])


def test_a_sidecar_takes_its_host_port_and_an_init_container_does_not() -> None:
    ports = [{"containerPort": 80, "hostPort": 80}]
    init = pod("a", initContainers=[{"name": "i", "ports": ports}])
    sidecar = replace(
        pod("b", initContainers=[{"name": "i", "ports": ports, "restartPolicy": "Always"}])
    )
    assert init.demands.host_ports == ()
    assert sidecar.demands.host_ports == (("TCP", "", 80),)


def test_with_the_hosts_network_each_port_is_the_hosts() -> None:
    one = pod(hostNetwork=True, containers=[{"name": "c", "ports": [{"containerPort": 80}]}])
    assert one.demands.host_ports == (("TCP", "", 80),)


def test_each_resource_that_is_short_is_told_with_what_is_left() -> None:
    resources = {"requests": {"cpu": "5", GPU: "1"}}
    one = pod(containers=[{"name": "c", "resources": resources}])
    found = board().misfits(one, "na")
    assert [each[:2] for each in found] == [
        ("Capacity", "needs 5 cpu, na has 4 free"),
        ("GPU", "needs 1, na has 0 free"),
    ]
    told = boards.telling(found)
    assert told is not None
    assert told.reason == "GPU"


def test_finished_pods_take_no_slot() -> None:
    """Other tools cry wolf because they count Completed pods (C16)."""
    running = [replace(pod(f"r{number}"), phase="Running") for number in range(2)]
    over = [replace(pod(f"o{number}"), phase="Succeeded") for number in range(30)]
    small = on(allocatable={"cpu": 1000, "memory": 1, "pods": 3})
    assert board(small, na=[*running, *over]).fits(pod(), "na")
    assert reasons(pod(), board(small, na=[*running, pod("last")])) == ["PodSlots"]


def test_a_volume_that_stays_with_another_node_leads() -> None:
    required = core.Requirement(HOST, "In", ("nb",))
    tied = {("default", "data"): volume(node_terms=((required,),))}
    claims = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    given = Board.of([on()], {}, tied=tied)
    found = given.misfits(pod(cpu="9", volumes=claims), "na")
    told = boards.telling(found)
    assert told is not None
    assert told[:2] == (
        "NodeLocalVolume",
        "claim data is bound to data, which stays on nb",
    )


def test_a_gated_pod_waits_for_whoever_gates_it() -> None:
    assert reasons(pod(schedulingGates=[{"name": "quota"}]), board()) == ["Gated"]


# --- Pods and other pods --------------------------------------------------------------------------


def test_anti_affinity_keeps_apart_in_both_directions() -> None:
    web, apart = pod("web", labels=WEB), pod("apart", **APART)
    assert reasons(apart, board(na=[web])) == ["PodAntiAffinity"]
    assert reasons(web, board(na=[apart])) == ["PodAntiAffinity"]


def test_anti_affinity_reaches_as_far_as_its_topology() -> None:
    web = pod("web", labels=WEB)
    apart = pod("apart", affinity=affinity("podAntiAffinity", term(key=ZONE)))
    same, other = (board(on(), on("nb", zone), nb=[web]) for zone in ("x", "y"))
    assert reasons(apart, same) == ["PodAntiAffinity"]
    assert reasons(apart, other) == []


def test_without_the_topologys_label_nobody_is_beside() -> None:
    bare = node("na")
    assert board(bare, na=[pod("web", labels=WEB)]).fits(pod("apart", **APART), "na")
    assert reasons(pod(**TOGETHER), board(bare, na=[pod("web", labels=WEB)])) == ["PodAffinity"]


def test_affinity_wants_another_pod_beside_it() -> None:
    web = pod("web", labels=WEB)
    given = board(on(), on("nb"), nb=[web])
    assert reasons(pod(**TOGETHER), given) == ["PodAffinity"]
    assert reasons(pod(**TOGETHER), given, "nb") == []


def test_the_first_of_a_group_that_wants_to_be_together_may_go_anywhere() -> None:
    assert board().fits(pod(labels=WEB, **TOGETHER), "na")
    assert reasons(pod(labels={"app": "db"}, **TOGETHER), board()) == ["PodAffinity"]


def test_all_terms_of_an_affinity_have_to_select_the_same_pod() -> None:
    terms = [term("web"), {"labelSelector": {"matchLabels": {"tier": "x"}}, "topologyKey": HOST}]
    one = pod(affinity=affinity("podAffinity", *terms))
    apart = [pod("a", labels=WEB), pod("b", labels={"tier": "x"})]
    assert reasons(one, board(na=apart)) == ["PodAffinity"]
    assert reasons(one, board(na=[pod("c", labels=WEB | {"tier": "x"})])) == []


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        pytest.param({}, True, id="its-own-namespace-only"),
        pytest.param({"namespaces": ["shop"]}, False, id="named"),
        pytest.param({"namespaceSelector": {}}, False, id="every-namespace"),
        pytest.param({"namespaceSelector": {"matchLabels": {"team": "a"}}}, False, id="selected"),
        pytest.param({"namespaceSelector": {"matchLabels": {"team": "b"}}}, True, id="other"),
        pytest.param(
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}},
            False,
            id="by-its-name",
        ),
    ],
)
def test_a_term_is_about_the_namespaces_that_it_names(more: dict[str, Any], fits: bool) -> None:
    given = Board.of(
        [on()],
        {"na": [pod("web", namespace="shop", labels=WEB)]},
        namespaces={"shop": core.Namespace("shop", {"team": "a"})},
    )
    one = pod(affinity=affinity("podAntiAffinity", term(**more)))
    assert given.fits(one, "na") is fits


def test_match_label_keys_tell_two_versions_apart() -> None:
    one = affinity("podAntiAffinity", term(matchLabelKeys=["version"]))
    given = board(na=[pod("old", labels=WEB | {"version": "1"})])
    assert given.fits(pod(labels=WEB | {"version": "2"}, affinity=one), "na")
    assert not given.fits(pod(labels=WEB | {"version": "1"}, affinity=one), "na")


def test_a_dead_node_still_counts_as_a_domain() -> None:
    """With one node lost DoNotSchedule allows maxSkew pods on the other one, and no more."""
    dead = on("nb", taints=(core.Taint("gone", "NoExecute"),), unschedulable=True)
    running = [pod("web-0", labels=WEB)]
    one = pod("web-1", labels=WEB, **spread())
    assert reasons(one, board(on(), dead, na=running)) == ["TopologySpread"]
    honored = pod("web-1", labels=WEB, **spread(nodeTaintsPolicy="Honor"))
    assert reasons(honored, board(on(), dead, na=running)) == []


def test_fewer_domains_than_wanted_count_as_an_empty_one() -> None:
    one = pod("web-1", labels=WEB, **spread(minDomains=3))
    nodes = (on(), on("nb"))
    pods = {"na": [pod("web-0", labels=WEB)], "nb": [pod("web-2", labels=WEB)]}
    assert reasons(one, Board.of(nodes, pods)) == ["TopologySpread"]
    assert reasons(pod("web-1", labels=WEB, **spread(minDomains=2)), Board.of(nodes, pods)) == []


def test_a_node_that_the_pod_excludes_itself_is_no_domain() -> None:
    pods = {"na": [pod("web-0", labels=WEB)]}
    wanted: Spec = {"nodeSelector": {HOST: "na"}}
    nodes = (on(), on("nb"))
    assert Board.of(nodes, pods).fits(pod("p", labels=WEB, **wanted, **spread()), "na")
    ignored = pod("p", labels=WEB, **wanted, **spread(nodeAffinityPolicy="Ignore"))
    assert not Board.of(nodes, pods).fits(ignored, "na")


def test_pods_that_are_ending_do_not_count_for_the_spread() -> None:
    ending = replace(pod("web-0", labels=WEB), deleting=1.0)
    assert board(on(), on("nb"), na=[ending]).fits(pod(labels=WEB, **spread()), "na")


def test_an_empty_selector_counts_the_pod_itself_and_no_other() -> None:
    one = pod(labels=WEB, **spread(labelSelector={}))
    assert board(on(), on("nb"), na=[pod("a"), pod("b")]).fits(one, "na")


def test_a_spread_needs_its_label_on_the_node() -> None:
    assert reasons(pod(labels=WEB, **spread()), board(node("na"))) == ["TopologySpread"]


def test_what_moves_does_not_stand_in_its_own_way() -> None:
    one = pod("web-0", labels=WEB, affinity=affinity("podAntiAffinity", term(key=ZONE)))
    given = board(on(), on("nb"), na=[one])
    assert set(reasons(one, given, "nb")) == {"PodAntiAffinity"}
    assert given.misfit_moved(one, "na", "nb") is None
    assert list(given.rooms["na"].pods) == ["default/web-0"]


# --- Many pods ------------------------------------------------------------------------------------


def run(given: Board, *pods: core.Pod, guarded: frozenset[str] = frozenset()) -> dict[str, str]:
    """Where each pod ends, or the reason why nowhere, by its name."""
    queue = queues.Queue(given, sorted(given.rooms), guarded=lambda: guarded)
    result = queue.run(pods)
    return {one.pod.name: one.node or (one.misfit.reason if one.misfit else "") for one in result}


def test_the_more_important_one_has_its_place_first_then_the_older_one() -> None:
    old, new = replace(pod("old", cpu="2"), created=1), replace(pod("new", cpu="2"), created=2)
    vital = replace(pod("vital", cpu="2", priority=9), created=3)
    assert run(board(), new, old, vital) == {"vital": "na", "old": "na", "new": "Capacity"}


def test_a_pod_that_waits_for_another_one_has_its_place_after_it() -> None:
    friend, web = replace(pod("friend", **TOGETHER), created=1), pod("web", labels=WEB)
    assert run(board(), friend, replace(web, created=2)) == {"friend": "na", "web": "na"}


def train(**spec: Any) -> core.Pod:
    resources = {"requests": {GPU: "1"}}
    return pod("train", containers=[{"name": "c", "resources": resources}], **spec)


def infer(**spec: Any) -> core.Pod:
    return replace(train(**spec), name="infer")


ONE_GPU = on(allocatable={"cpu": 4000, "memory": 8, "pods": 10, GPU: 1})


def test_the_more_important_one_drives_the_other_out() -> None:
    """`infer` takes the GPU of `train`, which has no place then (C18)."""
    assert run(board(ONE_GPU, na=[train()]), infer(priority=9)) == {"infer": "na", "train": "GPU"}


def test_one_that_never_preempts_drives_nobody_out() -> None:
    one = infer(priority=9, preemptionPolicy="Never")
    assert run(board(ONE_GPU, na=[train()]), one) == {"infer": "GPU"}


def test_no_more_are_driven_out_than_have_to_go() -> None:
    small = [pod(name, cpu="1", priority=rank) for name, rank in (("a", 1), ("b", 3), ("c", 2))]
    given = board(na=small)
    assert run(given, pod("big", cpu="2", priority=9)) == {"big": "na", "a": "Capacity"}


def test_a_guarded_pod_is_spared_where_another_one_will_do() -> None:
    small = [pod(name, cpu="2", priority=1) for name in "ab"]
    guarded = frozenset({"default/a"})
    result = run(board(na=small), pod("big", cpu="2", priority=9), guarded=guarded)
    assert result == {"big": "na", "b": "Capacity"}


def test_nobody_is_driven_out_where_that_does_not_help() -> None:
    given = board(na=[pod("a", cpu="1")])
    assert run(given, pod("big", cpu="5", priority=9)) == {"big": "Capacity"}
    assert list(given.rooms["na"].pods) == ["default/a"]


KINDS = st.sampled_from([{}, APART, TOGETHER, spread(), {"nodeSelector": {HOST: "na"}}])
PODS = st.lists(
    st.tuples(KINDS, st.sampled_from(["", "1", "3"]), st.sampled_from([0, 5]), st.booleans()),
    max_size=7,
)


@ANY_SPEED
@given(PODS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(wanted: list[Any], rng: Any) -> None:
    pods = [
        pod(f"p{number}", labels=WEB if is_web else {}, cpu=cpu or None, priority=rank, **kind)
        for number, (kind, cpu, rank, is_web) in enumerate(wanted)
    ]
    shuffled = list(pods)
    rng.shuffle(shuffled)
    assert run(board(on(), on("nb")), *pods) == run(board(on(), on("nb")), *shuffled)


@ANY_SPEED
@given(PODS)
def test_what_is_taken_up_again_leaves_no_trace(wanted: list[Any]) -> None:
    given = board(on(), on("nb"), na=[pod("web", labels=WEB, **APART)])
    probes = [pod("probe", **kind) for kind in (APART, TOGETHER, spread())]
    before = [reasons(one, given, name) for one in probes for name in ("na", "nb")]
    pods = [
        pod(f"p{number}", labels=WEB if is_web else {}, cpu=cpu or None, **kind)
        for number, (kind, cpu, _, is_web) in enumerate(wanted)
    ]
    for one in pods:
        given.put(one, "nb")
    for one in pods:
        given.take(one, "nb")
    assert [reasons(one, given, name) for one in probes for name in ("na", "nb")] == before
    assert not any(given.rooms["nb"].used.values())
