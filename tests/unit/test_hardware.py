"""Failed components against the table of design 4.1, over all their subsets."""

import itertools
from collections.abc import Iterable, Iterator

import pytest

from asetwin.model import hardware
from asetwin.resources.devices import Hardware, PowerState

STANDARD = Hardware()
OFF_AT_ONCE = {"Motherboard", "DIMM", "OSDisk", "Node"}
STORAGE_PORTS = {"Port3", "Port4"}
SAMPLE = (
    "PSU1",
    "PSU2",
    "Port1",
    "Port3",
    "Port4",
    "Port5",
    "Motherboard",
    "DIMM",
    "OSDisk",
    "Node",
    "Disk1",
    "GPU1",
)
"""One of every kind of component, and all that matter in pairs."""


def subsets(components: Iterable[str]) -> Iterator[tuple[str, ...]]:
    names = tuple(components)
    for size in range(len(names) + 1):
        yield from itertools.combinations(names, size)


def power_left(failed: set[str]) -> PowerState:
    """Design 4.1, read off its table for the standard hardware."""
    if failed & OFF_AT_ONCE or {"PSU1", "PSU2"} <= failed:
        return PowerState.OFF
    if failed & STORAGE_PORTS:
        return PowerState.ISOLATED
    return PowerState.ON


def test_every_subset_leaves_the_power_that_the_table_says() -> None:
    for failed in subsets(SAMPLE):
        verdict = hardware.judge(failed, STANDARD)
        assert verdict.power is power_left(set(failed)), failed
        assert verdict.is_lost is (verdict.power is not PowerState.ON), failed


def test_every_subset_names_each_failed_component_once_and_in_order() -> None:
    order = hardware.components(STANDARD)
    for failed in subsets(SAMPLE):
        verdict = hardware.judge(failed, STANDARD)
        assert verdict.failed == tuple(one for one in order if one in failed)
        text = verdict.summary
        assert bool(text) is bool(failed)
        both_supplies = {"PSU1", "PSU2"} <= set(failed)
        named_otherwise = {"Node"} | ({"PSU1", "PSU2"} if both_supplies else set())
        for one in set(failed) - named_otherwise:
            assert text.count(one) == 1, (one, text)
        assert ("whole node" in text) is ("Node" in failed)
        assert ("both power supplies" in text) is both_supplies


def test_the_order_and_repetition_of_failures_do_not_matter() -> None:
    names = ("PSU2", "Disk3", "Port4", "Node", "GPU1")
    expected = hardware.judge(names, STANDARD)
    for order in itertools.permutations(names):
        assert hardware.judge((*order, *order), STANDARD) == expected


def test_every_single_failure_that_the_table_does_not_list_as_fatal_only_degrades() -> None:
    fatal = OFF_AT_ONCE | STORAGE_PORTS
    for one in hardware.components(STANDARD):
        assert hardware.judge([one], STANDARD).is_lost is (one in fatal), one


def test_no_failure_leaves_nothing_to_say() -> None:
    assert hardware.judge([], STANDARD) == hardware.Verdict()


def test_components_that_the_node_has_not_do_nothing() -> None:
    assert hardware.judge(["PSU3", "Disk9", "Port7", "Fan"], STANDARD) == hardware.Verdict()


@pytest.mark.parametrize(
    ("component", "words"),
    [
        pytest.param("PSU1", "running on the other supply", id="one-supply"),
        pytest.param("Port1", "management network", id="port1"),
        pytest.param("Port2", "management network", id="port2"),
        pytest.param("Port3", "cut off from storage and heartbeat", id="port3"),
        pytest.param("Port4", "cut off from storage and heartbeat", id="port4"),
        pytest.param("Port5", "workload network", id="port5"),
        pytest.param("Port6", "workload network", id="port6"),
        pytest.param("Disk2", "storage rebuilds", id="disk"),
        pytest.param("GPU1", "no longer offered to pods", id="gpu"),
    ],
)
def test_says_what_a_failure_means(component: str, words: str) -> None:
    verdict = hardware.judge([component], STANDARD)
    assert component in verdict.summary
    assert words in verdict.summary


def test_says_the_worst_first() -> None:
    verdict = hardware.judge(["GPU1", "Disk1", "Port1", "Port3", "PSU1", "DIMM"], STANDARD)
    words = ["DIMM", "PSU1", "Port3", "Port1", "Disk1", "GPU1"]
    places = [verdict.summary.index(one) for one in words]
    assert places == sorted(places)


def test_counts_failed_disks_and_gpus() -> None:
    verdict = hardware.judge(["Disk1", "Disk5", "GPU2"], Hardware(gpus=2))
    assert (verdict.failed_disks, verdict.failed_gpus) == (2, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_power_is_gone_with_the_last_supply(count: int) -> None:
    supplies = [f"PSU{n}" for n in range(1, count + 1)]
    parts = Hardware(power_supplies=count)
    assert hardware.judge(supplies, parts).power is PowerState.OFF
    assert hardware.judge(supplies[1:], parts).power is PowerState.ON


def test_a_node_without_supplies_in_its_description_is_not_without_power() -> None:
    assert hardware.judge([], Hardware(power_supplies=0)).power is PowerState.ON


def test_lists_every_component_that_a_node_has() -> None:
    parts = Hardware(power_supplies=1, ports=2, data_disks=0, gpus=2)
    assert hardware.components(parts) == (
        "PSU1",
        "Port1",
        "Port2",
        "GPU1",
        "GPU2",
        "Motherboard",
        "DIMM",
        "OSDisk",
        "Node",
    )


@pytest.mark.parametrize("component", hardware.components(STANDARD))
def test_does_not_refuse_a_component_that_the_node_has(component: str) -> None:
    assert hardware.refusal(component, STANDARD) is None


@pytest.mark.parametrize(
    ("component", "text"),
    [
        pytest.param("PSU3", "the node has no PSU3: it has PSU1, PSU2", id="too-high"),
        pytest.param("Disk6", "it has Disk1, Disk2, Disk3, Disk4, Disk5", id="names-its-kind-only"),
        pytest.param("GPU2", "the node has no GPU2: it has GPU1", id="gpu"),
        pytest.param("PSU0", "there is no component PSU0", id="numbers-start-at-one"),
        pytest.param("PSU01", "there is no component PSU01", id="no-leading-zero"),
        pytest.param("PSU", "there is no component PSU", id="no-number"),
        pytest.param("psu1", "there is no component psu1", id="case-matters"),
        pytest.param("Fan1", "there is no component Fan1", id="unknown-kind"),
        pytest.param("", "there is no component ", id="empty"),
    ],
)
def test_a_refusal_says_what_there_is_instead(component: str, text: str) -> None:
    assert text in (hardware.refusal(component, STANDARD) or "")


def test_a_refusal_says_when_there_is_none_of_that_kind() -> None:
    assert hardware.refusal("GPU1", Hardware(gpus=0)) == "the node has no GPU1: it has no GPU"


@pytest.mark.parametrize(
    ("failed", "text"),
    [
        pytest.param((), "", id="none"),
        pytest.param(("PSU1",), "PSU1", id="one"),
        pytest.param(("PSU1", "PSU2"), "PSU1,PSU2", id="two"),
        pytest.param(("DIMM", "Disk1", "Disk2", "PSU1", "PSU2"), "DIMM,Disk1 +3", id="more"),
    ],
)
def test_a_column_names_two_components_and_counts_the_rest(
    failed: tuple[str, ...], text: str
) -> None:
    assert hardware.in_short(failed) == text
