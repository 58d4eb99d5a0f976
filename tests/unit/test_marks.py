"""What is ours on a Node goes, what is foreign stays, and each write says which is which."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin import constants
from asetwin.model import marks
from asetwin.model.marks import Mark
from asetwin.model.plan import PatchGpus, PatchNode
from asetwin.resources.core import Node, Taint
from unit.builders import ANY_SPEED, GPU, node

DOWN = Taint(constants.TAINT_NODE_DOWN, "NoExecute")
OUT = Taint(constants.TAINT_OUT_OF_SERVICE, "NoExecute", "nodeshutdown")

FOREIGN_TAINTS = (
    DOWN,
    DOWN._replace(value="theirs"),
    DOWN._replace(effect="NoSchedule"),
    OUT,
    OUT._replace(effect="PreferNoSchedule"),
    Taint("example.com/maintenance", "NoExecute"),
    Taint("example.com/maintenance", "NoSchedule", "x"),
)
UNREADABLE = ("{", "null", "[]", '"ase"', "7", '{"cordon":true}', '{"device":7}', "\x00", '{"a')


def applied(to: Node, step: PatchNode | PatchGpus | None) -> Node:
    """The Node as the API server has it after the write."""
    if step is None:
        return to
    assert step.resource_version == to.resource_version
    after = replace(to, owned=step.owned or "", resource_version=to.resource_version + "1")
    if isinstance(step, PatchNode):
        return replace(after, unschedulable=step.unschedulable, taints=step.taints)
    capacity = {key: value for key, value in to.capacity.items() if key != GPU}
    return replace(after, capacity=capacity | ({} if step.gpus is None else {GPU: step.gpus}))


def foreign_taints() -> st.SearchStrategy[tuple[Taint, ...]]:
    """Taints of others; of one key and effect there can be only one."""
    chosen = st.lists(st.sampled_from(FOREIGN_TAINTS), unique_by=lambda one: one.identity)
    return chosen.map(tuple)


NODES = st.builds(
    node,
    unschedulable=st.booleans(),
    taints=foreign_taints(),
    owned=st.sampled_from(["", *UNREADABLE]),
    capacity=st.sampled_from([{"cpu": 4000}, {"cpu": 4000, GPU: 2}]),
)


@ANY_SPEED
@given(before=NODES, tainted=st.lists(st.booleans(), min_size=1, max_size=3))
def test_put_out_and_put_back_leave_a_node_as_it_was(before: Node, tainted: list[bool]) -> None:
    after = before
    for one in tainted:
        after = applied(after, marks.put_out(after, "ase", tainted=one))
        assert after.unschedulable
    wanted = {DOWN.identity, OUT.identity} if any(tainted) else set()
    assert wanted <= {one.identity for one in after.taints}
    after = applied(after, marks.put_back(after))
    assert (after.unschedulable, after.taints) == (before.unschedulable, before.taints)
    # An annotation that nobody can read may be replaced; nothing of ours is left in it.
    assert marks.read(after) is None


@ANY_SPEED
@given(before=NODES, gpus=st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_advertised_gpus_go_again_and_foreign_ones_stay(before: Node, gpus: list[int]) -> None:
    after = before
    for count in gpus:
        after = applied(after, marks.advertise(after, "ase", count))
        assert after.capacity.get(GPU) == before.capacity.get(GPU, count)
    after = applied(after, marks.advertise(after, "ase", None))
    assert dict(after.capacity) == dict(before.capacity)
    assert marks.read(after) is None


@ANY_SPEED
@given(before=NODES)
def test_cordon_taints_and_gpus_share_one_mark_without_losing_each_other(before: Node) -> None:
    after = applied(before, marks.advertise(before, "ase", 1))
    after = applied(after, marks.put_out(after, "ase", tainted=True))
    after = applied(after, marks.advertise(after, "ase", 0))
    after = applied(after, marks.put_back(after))
    assert (after.unschedulable, after.taints) == (before.unschedulable, before.taints)
    after = applied(after, marks.advertise(after, "ase", None))
    assert replace(after, owned="") == replace(before, owned="")


@ANY_SPEED
@given(before=NODES, tainted=st.booleans())
def test_every_step_is_done_once(before: Node, tainted: bool) -> None:
    after = applied(before, marks.put_out(before, "ase", tainted=tainted))
    assert marks.put_out(after, "ase", tainted=tainted) is None
    after = applied(after, marks.advertise(after, "ase", 1))
    assert marks.advertise(after, "ase", 1) is None
    after = applied(after, marks.put_back(after))
    assert marks.put_back(after) is None


def test_a_cordon_and_its_mark_are_one_write() -> None:
    step = marks.put_out(node(resource_version="9"), "ase", tainted=False, why="psu")
    assert step == PatchNode("na", "9", True, (), '{"device":"ase","cordon":true}', "psu")


def test_taints_and_their_mark_are_one_write() -> None:
    step = marks.put_out(node(), "ase", tainted=True)
    assert step is not None
    assert step.taints == (DOWN, OUT)
    assert json.loads(step.owned or "") == {
        "device": "ase",
        "cordon": True,
        "taints": [DOWN.identity, OUT.identity],
    }


def test_a_cordon_that_an_admin_set_stays_when_the_node_comes_back() -> None:
    # Case C23: an admin cordons, then the hardware fails and is repaired.
    after = applied(
        node(unschedulable=True), marks.put_out(node(unschedulable=True), "ase", tainted=True)
    )
    assert marks.has_foreign_cordon(after)
    back = applied(after, marks.put_back(after))
    assert (back.unschedulable, back.taints, back.owned) == (True, (), "")


def test_a_cordon_of_ours_that_an_admin_lifted_is_set_again_and_is_ours() -> None:
    after = applied(node(), marks.put_out(node(), "ase", tainted=False))
    lifted = replace(after, unschedulable=False)
    again = marks.put_out(lifted, "ase", tainted=False)
    assert again is not None
    cordoned = applied(lifted, again)
    assert not applied(cordoned, marks.put_back(cordoned)).unschedulable


def test_a_taint_of_ours_that_an_admin_took_away_is_set_again_and_marked_once() -> None:
    after = applied(node(), marks.put_out(node(), "ase", tainted=True))
    bare = replace(after, taints=(OUT,))
    again = marks.put_out(bare, "ase", tainted=True)
    assert again is not None
    assert set(again.taints) == {DOWN, OUT}
    assert json.loads(again.owned or "")["taints"] == [DOWN.identity, OUT.identity]


def test_a_foreign_taint_of_our_key_with_another_effect_is_not_ours() -> None:
    theirs = DOWN._replace(effect="NoSchedule")
    after = applied(
        node(taints=(theirs,)), marks.put_out(node(taints=(theirs,)), "ase", tainted=True)
    )
    assert set(after.taints) == {theirs, DOWN, OUT}
    assert applied(after, marks.put_back(after)).taints == (theirs,)


def test_a_foreign_taint_of_our_key_and_effect_was_there_first_and_stays() -> None:
    theirs = OUT._replace(value="theirs")
    after = applied(
        node(taints=(theirs,)), marks.put_out(node(taints=(theirs,)), "ase", tainted=True)
    )
    assert set(after.taints) == {theirs, DOWN}
    assert applied(after, marks.put_back(after)).taints == (theirs,)


def test_a_node_that_nobody_marked_needs_no_putting_back() -> None:
    assert marks.put_back(node(unschedulable=True, taints=(DOWN,))) is None


def test_a_mark_for_gpus_alone_needs_no_putting_back() -> None:
    assert marks.put_back(node(owned=Mark("ase", gpus=1).render() or "")) is None


@pytest.mark.parametrize("text", UNREADABLE, ids=repr)
def test_without_a_readable_mark_nothing_is_known_to_be_ours(text: str) -> None:
    spoilt = node(unschedulable=True, taints=(DOWN, OUT), owned=text)
    assert marks.read(spoilt) is None
    assert marks.put_back(spoilt) is None
    assert marks.has_foreign_cordon(spoilt)
    assert not marks.is_out_of_service(spoilt, "ase")


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        pytest.param('{"device":"ase"}', Mark("ase"), id="device-alone"),
        pytest.param('{"device":"ase","gpus":"1"}', Mark("ase"), id="gpus-not-a-number"),
        pytest.param('{"device":"ase","cordon":"yes"}', Mark("ase"), id="cordon-not-true"),
        pytest.param('{"device":"ase","taints":null}', Mark("ase"), id="null-taints"),
        pytest.param('{"device":"ase","later":1}', Mark("ase"), id="from-a-later-version"),
        pytest.param(
            '{"device":"ase","cordon":true,"taints":["k:E"],"gpus":2}',
            Mark("ase", cordon=True, taints=("k:E",), gpus=2),
            id="everything",
        ),
    ],
)
def test_reads_what_can_be_read(text: str, mark: Mark) -> None:
    assert marks.read(node(owned=text)) == mark


@pytest.mark.parametrize(
    "mark",
    [
        Mark("ase", cordon=True),
        Mark("ase", taints=("k:E", "l:F")),
        Mark("ase", gpus=0),
        Mark("ase", cordon=True, taints=("k:E",), gpus=3),
    ],
    ids=["cordon", "taints", "no-gpus", "all"],
)
def test_a_mark_reads_back_as_written(mark: Mark) -> None:
    assert marks.read(node(owned=mark.render() or "")) == mark


def test_an_empty_mark_is_no_annotation() -> None:
    assert Mark("ase").is_empty
    assert Mark("ase").render() is None
    assert not Mark("ase", gpus=0).is_empty


@pytest.mark.parametrize(
    ("mark", "is_out"),
    [
        pytest.param(Mark("ase", cordon=True), True, id="cordon"),
        pytest.param(Mark("ase", taints=(DOWN.identity,)), True, id="taints"),
        pytest.param(Mark("ase", gpus=1), False, id="gpus-alone"),
        pytest.param(Mark("other", cordon=True), False, id="another-device"),
    ],
)
def test_a_node_is_out_of_service_by_the_devices_own_mark(mark: Mark, is_out: bool) -> None:
    assert marks.is_out_of_service(node(owned=mark.render() or ""), "ase") is is_out


@pytest.mark.parametrize(
    ("unschedulable", "owned", "is_foreign"),
    [
        pytest.param(False, "", False, id="no-cordon"),
        pytest.param(True, "", True, id="unmarked"),
        pytest.param(True, Mark("ase", cordon=True).render(), False, id="ours"),
        pytest.param(True, Mark("ase", taints=("k:E",)).render(), True, id="only-taints-ours"),
    ],
)
def test_a_cordon_is_foreign_unless_a_mark_claims_it(
    unschedulable: bool, owned: str, is_foreign: bool
) -> None:
    assert marks.has_foreign_cordon(node(unschedulable=unschedulable, owned=owned)) is is_foreign


def test_gpus_that_a_device_plugin_offers_are_left_alone() -> None:
    for count in (None, 0, 1, 2, 5):
        assert marks.advertise(node(capacity={GPU: 2}), "ase", count) is None


def test_gpus_that_a_restarted_kubelet_has_forgotten_are_advertised_again() -> None:
    forgotten = node(owned=Mark("ase", gpus=1).render() or "", capacity={GPU: 0})
    assert marks.advertise(forgotten, "ase", 1) == PatchGpus(
        "na", "7", 1, '{"device":"ase","gpus":1}'
    )


def test_a_failed_gpu_leaves_the_node() -> None:
    offered = node(owned=Mark("ase", gpus=2).render() or "", capacity={GPU: 2})
    step = marks.advertise(offered, "ase", 1)
    assert step is not None
    assert (step.gpus, step.owned) == (1, '{"device":"ase","gpus":1}')


def test_stops_advertising_without_touching_the_cordon() -> None:
    mark = Mark("ase", cordon=True, gpus=1)
    step = marks.advertise(node(owned=mark.render() or "", capacity={GPU: 1}), "ase", None)
    assert step is not None
    assert (step.gpus, step.owned) == (None, '{"device":"ase","cordon":true}')


# --- Steering -------------------------------------------------------------------------------------


def test_a_steered_node_stays_in_service_and_loses_nothing_of_its_mark() -> None:
    before = node(owned=Mark("ase", gpus=1).render() or "", taints=FOREIGN_TAINTS)
    after = applied(before, marks.steer(before, "ase", wanted=True))
    assert marks.is_steered(after, "ase")
    assert not marks.is_out_of_service(after, "ase")
    assert marks.steer(after, "ase", wanted=True) is None
    assert applied(after, marks.steer(after, "ase", wanted=False)).taints == before.taints
    assert marks.read(applied(after, marks.steer(after, "ase", wanted=False))) == marks.read(before)


def test_a_steering_taint_of_somebody_else_is_left_alone() -> None:
    before = node(taints=(marks.STEERING,))
    assert marks.steer(before, "ase", wanted=True) is None
    assert marks.steer(before, "ase", wanted=False) is None
    assert not marks.is_steered(before, "ase")


def test_a_steering_taint_that_an_admin_took_away_is_set_again() -> None:
    before = node(owned=Mark("ase", taints=(marks.STEERING.identity,)).render() or "")
    assert not marks.is_steered(before, "ase")
    assert marks.is_steered(applied(before, marks.steer(before, "ase", wanted=True)), "ase")
    assert applied(before, marks.steer(before, "ase", wanted=False)).owned == ""


def test_a_steered_node_that_is_lost_and_comes_back_is_not_steered_any_more() -> None:
    before = node()
    steered = applied(before, marks.steer(before, "ase", wanted=True))
    out = applied(steered, marks.put_out(steered, "ase", tainted=True))
    assert marks.is_out_of_service(out, "ase")
    back = applied(out, marks.put_back(out))
    assert (back.taints, back.owned) == ((), "")


def test_gpus_that_are_in_the_capacity_but_not_yet_allocatable_are_not_written_again() -> None:
    before = node(owned=Mark("ase", gpus=1).render() or "", capacity={GPU: 1}, allocatable={GPU: 0})
    assert marks.advertise(before, "ase", 1) is None
