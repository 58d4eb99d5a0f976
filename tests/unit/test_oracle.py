"""The oracle's own words: how the scheduler's message is read, and what counts as agreement."""

from typing import Any

import pytest

from e2e import oracle
from e2e.oracle import Answer


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
    assert oracle.Maker(3, 14).make() == oracle.Maker(3, 14).make()
    assert oracle.Maker(3, 14).make() != oracle.Maker(4, 14).make()
