"""Slips about a node's way back."""

from dataclasses import replace

import pytest

from asetwin.kube import act
from asetwin.model import decide, facts, nodes, plan, power, rebalance
from sim.mutants import mutant


@mutant
def takes_a_node_back_at_once(patch: pytest.MonkeyPatch) -> None:
    """A returning node is in service without having been stable."""
    view = nodes.view

    def wrong(member, node, device, now, **rest):  # type: ignore[no-untyped-def]
        made = view(member, node, device, now, **rest)
        return made if made.returns_at is None else replace(made, returns_at=now)

    patch.setattr(nodes, "view", wrong)


@mutant
def never_gives_the_power_back(patch: pytest.MonkeyPatch) -> None:
    """A node whose power was taken away stays off, although it has been evacuated."""
    patch.setattr(facts, "_is_evacuated", lambda *args: False)


@mutant
def deletes_instead_of_evicting(patch: pytest.MonkeyPatch) -> None:
    """Pods that go back are deleted, past every disruption budget."""
    do = act.Executor._do

    async def wrong(self, step):  # type: ignore[no-untyped-def]
        if isinstance(step, plan.Evict):
            step = plan.DeletePod(step.namespace, step.name, step.uid, force=False, why=step.why)
        return await do(self, step)

    patch.setattr(act.Executor, "_do", wrong)


@mutant
def moves_all_at_once(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a replacement before the next pod has to go."""
    patch.setattr(rebalance, "MOST_IN_FLIGHT", 50)
    patch.setattr(rebalance, "_is_unsettled", lambda uid, back: False)
    patch.setattr(rebalance._Return, "in_flight", property(lambda back: []))


@mutant
def does_not_move_pods_back(patch: pytest.MonkeyPatch) -> None:
    """The way back of a node is never over, because nobody is told to go and nothing ends."""
    rule = rebalance.rule

    def wrong(*args):  # type: ignore[no-untyped-def]
        verdict = rule(*args)
        return replace(verdict, evictions=())

    patch.setattr(rebalance, "rule", wrong)


def _as_on(judged: power.Judgement) -> power.Judgement:
    return replace(judged, is_intended=False, is_off=False, is_assumed=False)


@mutant
def puts_the_node_back_while_it_is_lost(patch: pytest.MonkeyPatch) -> None:
    """Our taints go when the pods have recovered, whatever the node's health."""
    steps = decide._node_steps

    def wrong(given):  # type: ignore[no-untyped-def]
        record = given.record
        if record is not None and record.recovered_at is not None:
            given = replace(
                given,
                views=tuple(
                    replace(one, judged=_as_on(one.judged), returns_at=0.0)
                    if one.name == record.from_node
                    else one
                    for one in given.views
                ),
            )
        return steps(given)

    patch.setattr(decide, "_node_steps", wrong)
