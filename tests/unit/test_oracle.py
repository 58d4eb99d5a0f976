"""The oracle's own parts: its cases, how a message is read, and what counts as agreement."""

from typing import Any

import pytest

from asetwin.model.placement import rooms
from asetwin.resources import core
from asetwin.resources.demands import Port
from e2e import oracle, oracle_cases
from e2e.oracle import Answer
from e2e.oracle_cases import Maker


@pytest.mark.parametrize(
    ("message", "reasons"),
    [
        pytest.param(
            "0/5 nodes are available: 1 Insufficient cpu, 1 Insufficient nvidia.com/gpu, 1 node(s) "
            "didn't have free ports for the requested pod ports, 3 node(s) didn't satisfy "
            "plugin(s) [NodeAffinity]. preemption: 0/5 nodes are available: 2 No preemption "
            "victims found for incoming pod, 3 Preemption is not helpful for scheduling.",
            (("Capacity", 1), ("GPU", 1), ("HostPort", 1)),
            id="several",
        ),
        pytest.param(
            "0/3 nodes are available: 2 node(s) had untolerated taint(s), 1 Too many pods.",
            (("PodSlots", 1), ("Taint", 2)),
            id="counted",
        ),
        pytest.param(
            "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints "
            "(missing required label), 1 node(s) didn't satisfy existing pods anti-affinity rules.",
            (("PodAntiAffinity", 1), ("TopologySpread", 1)),
            id="long-ones",
        ),
    ],
)
def test_a_message_is_read_node_by_node(message: str, reasons: Any) -> None:
    assert oracle.parse(message) == reasons


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        pytest.param(Answer(frozenset("ab")), Answer(frozenset("a")), True, id="one-of-ours"),
        pytest.param(Answer(frozenset("b")), Answer(frozenset("a")), False, id="another-node"),
        pytest.param(Answer(frozenset("b")), Answer(), False, id="fits-nowhere-after-all"),
        pytest.param(
            Answer(reasons=(("GPU", 1),)), Answer(reasons=(("GPU", 2),)), False, id="other-count"
        ),
        pytest.param(Answer(reasons=(("GPU", 1),)), Answer(frozenset("a")), False, id="fits"),
        pytest.param(
            Answer(frozenset("a"), victims=frozenset("x")),
            Answer(frozenset("a"), victims=frozenset("y")),
            False,
            id="another-victim",
        ),
    ],
)
def test_agreement_is_exact(ours: Answer, theirs: Answer, agree: bool) -> None:
    assert ours.agrees(theirs) is agree


def test_a_seed_makes_the_same_case_again() -> None:
    assert Maker(3, 14).make() == Maker(3, 14).make()
    assert Maker(3, 14).make() != Maker(4, 14).make()


def test_another_number_changes_names_and_nothing_else() -> None:
    # Their numbers are also pod slots, processors and GPUs.
    for number in (1, 2, 4, 8):
        case = Maker(3, number).make()
        other = oracle_cases.renumbered(case, 77)
        text, changed = case.as_yaml(), other.as_yaml()
        assert changed == text.replace(f"case{number}", "case77")
        assert f"case{number}" not in changed
        assert oracle_cases.renumbered(other, number) == case


def test_no_two_pods_that_are_there_have_a_host_port_in_common_on_a_node() -> None:
    owners = 0
    for number in range(400):
        taken: dict[str, list[Port]] = {}
        for pod in map(core.Pod.read, Maker(2, number).make().before):
            others = taken.setdefault(pod.node, [])
            mine = pod.demands.host_ports
            assert not any(rooms.collides(port, one) for port in mine for one in others)
            others.extend(mine)
            owners += bool(mine)
    assert owners > 100, "hardly any pod has a host port"
