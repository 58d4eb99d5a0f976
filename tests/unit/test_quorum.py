"""Votes against design 4.2: exhaustively, over sequences of what is up.

The state machine is written down as a table of its own, and the sentences of
the design are checked as properties on top of it.
"""

import itertools
from typing import NamedTuple

import pytest

from asetwin.model import quorum
from asetwin.model.quorum import WITNESS, Member
from asetwin.resources.devices import Votes, Witness


class Up(NamedTuple):
    """What of the device is up."""

    a: bool = True
    b: bool = True
    witness: bool = True

    def __str__(self) -> str:
        letters = [name for name, is_up in zip("ABW", self, strict=True) if is_up]
        return "".join(letters) or "none"


ALL = [Up(*bits) for bits in itertools.product((True, False), repeat=3)]


def count(up: Up, before: Votes | None) -> Votes:
    members = [Member("a", "A", up.a), Member("b", "B", up.b)]
    return quorum.count(members, Witness(online=up.witness), before)


def holders(votes: Votes | None) -> str:
    """Who holds a vote, as letters; of a device seen for the first time, everybody."""
    if votes is None:
        return ""
    return "".join({"a": "A", "b": "B", WITNESS: "W"}[one] for one in votes.holders)


# Who holds votes before → what is up → (who holds them after, whether there is a majority).
FULL = {
    "ABW": ("ABW", True),
    "AB": ("A", True),  # the witness is gone: B's vote is dropped
    "AW": ("ABW", True),
    "BW": ("ABW", True),
    "A": ("ABW", False),  # one node and the witness at the same time
    "B": ("ABW", False),
    "W": ("ABW", False),
    "none": ("ABW", False),
}
TABLE = {
    "ABW": FULL,
    "A": {
        "ABW": ("ABW", True),  # the witness is back, and with it B's vote
        "AB": ("A", True),
        "AW": ("ABW", True),
        "BW": ("A", False),  # A holds the last vote: without it the others are no majority
        "A": ("A", True),
        "B": ("A", False),
        "W": ("A", False),
        "none": ("A", False),
    },
    # Seen for the first time: those that could have a vote have one.
    "": {
        **FULL,
        "AB": ("A", True),
        "A": ("A", True),
        "B": ("A", False),
        "none": ("A", False),
    },
}


def walk(sequence: tuple[Up, ...], votes: Votes | None, seen: set[Votes]) -> None:
    """Follow every sequence of up to four steps that starts like this one."""
    for up in ALL if len(sequence) < 4 else ():
        path = (*sequence, up)
        after, is_reached = TABLE[holders(votes)][str(up)]
        found = count(up, votes)
        assert (holders(found), quorum.is_reached(found)) == (after, is_reached), path
        seen.add(found)
        walk(path, found, seen)


def test_every_sequence_of_losses_and_returns_follows_the_table() -> None:
    seen: set[Votes] = set()
    walk((), None, seen)
    # Nothing else can be remembered: one step further leads nowhere new.
    assert {count(up, votes) for up in ALL for votes in seen} <= seen
    assert set(HISTORIES) == seen


def histories() -> list[Votes]:
    """Everything that the device can remember."""
    known: set[Votes] = set()
    new = {count(up, None) for up in ALL}
    while new - known:
        known |= new
        new = {count(up, votes) for up in ALL for votes in known}
    return sorted(known, key=repr)


HISTORIES = histories()


def test_a_repeated_turn_changes_nothing() -> None:
    for before in HISTORIES:
        for up in ALL:
            once = count(up, before)
            assert count(up, once) == once


def test_both_nodes_down_is_never_a_majority() -> None:
    for before in HISTORIES:
        for witness in (True, False):
            assert not quorum.is_reached(count(Up(False, False, witness), before))


def test_with_everything_up_there_is_always_a_majority_again() -> None:
    for before in HISTORIES:
        votes = count(Up(), before)
        assert quorum.is_reached(votes)
        assert (votes.present, votes.total, votes.needed) == (3, 3, 2)


def test_two_halves_that_do_not_see_each_other_never_both_have_a_majority() -> None:
    for before in HISTORIES:
        for up in ALL:
            other = Up(*(not one for one in up))
            both = [quorum.is_reached(count(one, before)) for one in (up, other)]
            assert both != [True, True], (before, up)


@pytest.mark.parametrize("lost", ["a", "b"])
def test_with_a_witness_one_node_may_fail(lost: str) -> None:
    votes = count(Up()._replace(**{lost: False}), count(Up(), None))
    assert quorum.is_reached(votes)
    assert votes.summary == "2/3"


@pytest.mark.parametrize("lost", ["a", "b"])
def test_one_node_and_the_witness_at_the_same_time_is_too_much(lost: str) -> None:
    votes = count(Up(witness=False)._replace(**{lost: False}), count(Up(), None))
    assert not quorum.is_reached(votes)
    assert (votes.present, votes.needed) == (1, 2)


def test_without_the_witness_only_the_holder_of_the_last_vote_must_stay() -> None:
    alone = count(Up(witness=False), count(Up(), None))
    assert (alone.holders, alone.summary) == (("a",), "1/1")
    assert quorum.is_reached(count(Up(True, False, False), alone))
    assert not quorum.is_reached(count(Up(False, True, False), alone))


def test_the_node_that_holds_the_last_vote_keeps_it() -> None:
    # B was alone when A joined, so that B's vote is the one that there was.
    alone = quorum.count([Member("b", "B", True)], Witness(type="None"), None)
    joined = quorum.count(
        [Member("a", "A", True), Member("b", "B", True)], Witness(type="None"), alone
    )
    assert joined.holders == ("b",)


def test_the_order_of_the_members_does_not_matter() -> None:
    members = [Member("z", "A", True), Member("y", "B", False)]
    forth = quorum.count(members, Witness(), None)
    assert quorum.count(reversed(members), Witness(), None) == forth
    assert forth.holders == ("z", "y", WITNESS)


@pytest.mark.parametrize("witness", [Witness(), Witness(online=False), Witness(type="None")])
@pytest.mark.parametrize("is_up", [True, False])
def test_a_device_of_one_node_is_online_exactly_while_that_is_up(
    witness: Witness, is_up: bool
) -> None:
    votes = quorum.count([Member("a", "A", is_up)], witness, None)
    assert quorum.is_reached(votes) is is_up
    assert votes.total == 1


def test_a_device_without_nodes_has_no_votes_and_no_majority() -> None:
    votes = quorum.count([], Witness(), None)
    assert (votes.total, quorum.is_reached(votes)) == (0, False)


def test_a_witness_of_type_none_has_no_vote_although_it_is_called_online() -> None:
    members = [Member("a", "A", True), Member("b", "B", True)]
    assert quorum.count(members, Witness(type="None", online=True), None).holders == ("a",)


def test_votes_of_members_that_are_gone_are_counted_afresh() -> None:
    before = quorum.count([Member("a", "A", True), Member("old", "B", True)], Witness(), None)
    votes = quorum.count([Member("a", "A", True), Member("new", "B", False)], Witness(), before)
    assert votes.holders == ("a", "new", WITNESS)
    assert quorum.is_reached(votes)


@pytest.mark.parametrize(
    ("up", "witness", "text"),
    [
        pytest.param(Up(), Witness(), "3 of 3 votes present, 2 needed", id="all"),
        pytest.param(
            Up(witness=False),
            Witness(online=False),
            "1 of 1 votes present, 1 needed; the vote of b is dropped; the witness is offline",
            id="whose-vote-is-dropped",
        ),
        pytest.param(
            Up(),
            Witness(type="None"),
            "1 of 1 votes present, 1 needed; the vote of b is dropped; no witness",
            id="no-witness",
        ),
    ],
)
def test_explains_itself(up: Up, witness: Witness, text: str) -> None:
    votes = quorum.count([Member("a", "A", up.a), Member("b", "B", up.b)], witness, None)
    assert quorum.explain(votes, ["a", "b"], witness) == text
