"""Votes of the infrastructure cluster (design 4.2).

Source: the device's clustering documentation (two nodes and a witness, a
majority of the votes that exist keeps the device running) and dynamic quorum
of Windows Server failover clustering: when the witness goes while both nodes
are up, one node's vote is dropped, so that losing the other's partner later
leaves a majority; the node that keeps the vote must then not be lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from asetwin.resources.devices import Votes, Witness

WITNESS = "witness"


@dataclass(frozen=True, slots=True)
class Member:
    """A device node as a voter."""

    name: str
    slot: str
    is_up: bool


def count(members: Iterable[Member], witness: Witness, before: Votes | None) -> Votes:
    """The votes now, given who held one before; ``before`` is the cluster's own memory."""
    nodes = sorted(members, key=lambda one: (one.slot, one.name))
    names = [one.name for one in nodes]
    has_witness = witness.type != "None" and witness.online
    up = {one.name for one in nodes if one.is_up}
    present = up | ({WITNESS} if has_witness else set())
    held = _known(before, names, witness) or _full(names, has_witness)
    has_quorum = 2 * len(present & set(held)) > len(held)
    all_up = len(up) == len(names)
    if has_quorum and all_up:
        held = _full(names, has_witness, keeper=held[0] if held[0] in names else None)
    elif has_quorum and has_witness:
        held = _full(names, has_witness)
    cast = [one for one in held if one in present]
    return Votes(
        total=len(held),
        present=len(cast),
        needed=len(held) // 2 + 1,
        holders=tuple(held),
        summary=f"{len(cast)}/{len(held)}",
    )


def is_reached(votes: Votes) -> bool:
    """Whether a majority of the votes that exist is there."""
    return votes.present >= votes.needed and votes.total > 0


def explain(votes: Votes, names: Iterable[str], witness: Witness) -> str:
    """In words: how many are there, and whose vote was dropped."""
    text = f"{votes.present} of {votes.total} votes present, {votes.needed} needed"
    dropped = sorted(set(names) - set(votes.holders))
    if dropped:
        text += f"; the vote of {', '.join(dropped)} is dropped"
    if witness.type == "None":
        text += "; no witness"
    elif not witness.online:
        text += "; the witness is offline"
    return text


def _full(names: list[str], has_witness: bool, keeper: str | None = None) -> list[str]:
    if has_witness and len(names) > 1:
        return [*names, WITNESS]
    # Two votes without a third have no majority when one goes: one of them is dropped.
    # The node in slot A keeps its vote unless the other one already holds the only one.
    return [keeper or names[0]] if names else []


def _known(before: Votes | None, names: list[str], witness: Witness) -> list[str] | None:
    """The holders remembered, if they are still members; None starts afresh."""
    if before is None or not before.holders:
        return None
    members = {*names, WITNESS} if witness.type != "None" else set(names)
    return list(before.holders) if set(before.holders) <= members else None
