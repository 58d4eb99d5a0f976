"""kubectl's tables fit into a terminal of 100 columns, also on a bad day."""

import pytest

from asetwin.model.hardware import in_short
from asetwin.resources.devices import DeviceState, FailoverPhase, NodeState, PowerState

GAP = 3
AGE = "59m59s"


def width(*cells: str) -> int:
    """kubectl pads each column to its widest cell and puts three blanks between two."""
    return sum(map(len, cells)) + GAP * (len(cells) - 1)


def longest(words: type[DeviceState] | type[FailoverPhase] | type[NodeState]) -> str:
    return max((one.value for one in words), key=len)


def ase_node(state: str, node: str, failed: str) -> tuple[str, ...]:
    return ("asenode.asetwin.dev/node-a", "DEVICE", "SLOT", state, node, failed, AGE)


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(
            (
                "asedevice.asetwin.dev/ase",
                longest(DeviceState),
                "node-a",
                "VOTES",
                "memory 100%",
                longest(FailoverPhase),
                AGE,
            ),
            id="asedevices",
        ),
        pytest.param(ase_node(longest(NodeState), "asetwin-test-worker2", "FAILED"), id="asenodes"),
        pytest.param(
            ase_node(NodeState.ISOLATED, "asetwin-worker2", in_short(("Disk1", "Port3", "Port4"))),
            id="asenodes-isolated",
        ),
        pytest.param(
            ase_node(
                NodeState.DOWN, "asetwin-worker2", in_short(("Motherboard", "OSDisk", "PSU1"))
            ),
            id="asenodes-down",
        ),
        pytest.param(
            (
                "pinnedworker.asetwin.dev/worker-a",
                "ASENODE",
                "asetwin-test-worker2",
                max((one.value for one in PowerState), key=len),
                "ACCEPTED",
                AGE,
            ),
            id="pinnedworkers",
        ),
    ],
)
def test_a_row_of_the_sample_device_fits_into_100_columns(cells: tuple[str, ...]) -> None:
    assert width(*cells) <= 100
