"""Slips about what a failure means, and when a node is proven to be off."""

from dataclasses import replace

import pytest

from asetwin.model import decide, failover, hardware, nodes
from asetwin.resources.devices import PowerState
from sim.mutants import mutant


@mutant
def skips_the_fence(patch: pytest.MonkeyPatch) -> None:
    """A lost node's pods are removed without waiting for the proof that it is off."""
    patch.setattr(nodes.View, "is_fenced", property(lambda view: view.is_lost))


@mutant
def removes_pods_of_daemon_sets(patch: pytest.MonkeyPatch) -> None:
    """The evacuation takes whatever is on the lost node."""
    patch.setattr(failover, "movable", lambda pods, workloads: list(pods))


@mutant
def takes_a_storage_port_for_harmless(patch: pytest.MonkeyPatch) -> None:
    """A node that is cut off from storage is only degraded."""
    judge = hardware.judge

    def wrong(failed, parts):  # type: ignore[no-untyped-def]
        verdict = judge(failed, parts)
        is_cut = verdict.power is PowerState.ISOLATED
        return replace(verdict, power=PowerState.ON) if is_cut else verdict

    patch.setattr(hardware, "judge", wrong)


@mutant
def leaves_the_pods_on_the_lost_node(patch: pytest.MonkeyPatch) -> None:
    """Nothing is evacuated."""
    patch.setattr(decide, "_evacuation", lambda facts: ())
