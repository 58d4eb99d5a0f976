"""Reads tests/failure_matrix.yaml, for the unit tests and for those on a real cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MATRIX: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "failure_matrix.yaml").read_text())
WELL = "well"
LONG_SECONDS = 600
"""How long a reboot of the matrix takes: until it is repaired."""
WORDS = {one["says"] for one in MATRIX["groups"].values() if "says" in one}
"""The networks, as a node's summary names them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One HardwareFailure to apply to one node, given by its slot."""

    slot: str
    component: str
    is_reboot: bool = False

    def spec(self, node: str) -> dict[str, Any]:
        """Its ``spec``, for the AseNode of this name."""
        spec: dict[str, Any] = {"node": node, "component": self.component}
        if self.is_reboot:
            spec |= {"action": "Reboot", "durationSeconds": LONG_SECONDS}
        return spec

    def name(self, node: str) -> str:
        """Its ``metadata.name``."""
        return f"{node}-{self.component.lower()}{'-reboot' if self.is_reboot else ''}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination, with what has to come of it."""

    witness: str
    a: str
    b: str
    outcome: dict[str, Any]

    @property
    def id(self) -> str:
        """As pytest and people call it."""
        return f"{self.witness}-{self.a}-{self.b}"

    @property
    def groups(self) -> dict[str, str]:
        """Slot → group."""
        return {"A": self.a, "B": self.b}

    def state(self, slot: str) -> str:
        """The state of a node, by what of it has failed."""
        return node_state(self.groups[slot])

    def failures(self) -> list[Failure]:
        """The first way in which the groups fail."""
        return [one for slot, group in self.groups.items() for one in ways(slot, group)[0]]


def node_state(group: str) -> str:
    """The state of a node of which this group has failed."""
    return str(MATRIX["groups"][group]["node"]) if group != WELL else "Up"


def ways(slot: str, group: str) -> list[list[Failure]]:
    """Every way in which a group of a node can fail; one way without a failure for ``well``."""
    if group == WELL:
        return [[]]
    known = MATRIX["groups"][group]
    is_reboot = known.get("action") == "Reboot"
    return [
        [Failure(slot, component, is_reboot) for component in way.split("+")]
        for way in known["fails"]
    ]


def cell(witness: str, a: str, b: str) -> Cell:
    """One cell of the tables of two nodes."""
    table = MATRIX["witness"][witness]
    letter = table[a][table["columns"].index(b)]
    return Cell(witness, a, b, MATRIX["outcomes"][letter])


def cells() -> Iterator[Cell]:
    """All cells of two nodes."""
    for witness, table in MATRIX["witness"].items():
        for a in (name for name in table if name != "columns"):
            for b in table["columns"]:
                yield cell(witness, a, b)


def pairs() -> Iterator[tuple[str, str, str]]:
    """Two groups of one node, and the group to which both amount."""
    table = MATRIX["same_node"]
    for first in (name for name in table if name != "columns"):
        for second, both in zip(table["columns"], table[first], strict=True):
            if both != ".":
                yield first, second, both


def written(text: str) -> list[Failure]:
    """``A core B PSU1``: the failures that a step of ``in_order`` names."""
    words = text.split()
    found: list[Failure] = []
    for slot, what in zip(words[::2], words[1::2], strict=True):
        found += ways(slot, what)[0] if what in MATRIX["groups"] else [Failure(slot, what)]
    return found
