"""kubectl's tables fit into a terminal of 100 columns, also on a bad day."""

import pytest

from asetwin.model import hardware
from asetwin.resources.devices import DeviceState, FailoverPhase, NodeState, PowerState

GAP = 3
AGE = "59m59s"


def width(*cells: str) -> int:
    """kubectl pads each column to its widest cell and puts three blanks between two."""
    return sum(map(len, cells)) + GAP * (len(cells) - 1)


def longest(words: type[DeviceState] | type[FailoverPhase] | type[NodeState]) -> str:
    return max((one.value for one in words), key=len)


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
        pytest.param(
            (
                "asenode.asetwin.dev/node-a",
                "DEVICE",
                "SLOT",
                longest(NodeState),
                "asetwin-test-worker2",
                "FAILED",
                AGE,
            ),
            id="asenodes",
        ),
        pytest.param(
            (
                "asenode.asetwin.dev/node-a",
                "DEVICE",
                "SLOT",
                NodeState.ISOLATED.value,
                "asetwin-worker2",
                hardware.in_short(("Disk1", "Port3", "Port4")),
                AGE,
            ),
            id="asenodes-isolated",
        ),
        pytest.param(
            (
                "asenode.asetwin.dev/node-a",
                "DEVICE",
                "SLOT",
                NodeState.DOWN.value,
                "asetwin-worker2",
                hardware.in_short(("Motherboard", "OSDisk", "PSU1")),
                AGE,
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
