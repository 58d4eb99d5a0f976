"""Transition times move only with the status, and a merge patch does what it says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin.model.conditions import Conditions, merge_patch
from asetwin.resources import conditions
from asetwin.resources.conditions import Condition, Reason
from unit.builders import ANY_SPEED, NOW, condition

VALUES = {"True": True, "False": False, "Unknown": None}


@pytest.mark.parametrize("before", [*VALUES, None])
@pytest.mark.parametrize("after", VALUES)
def test_the_transition_time_moves_with_the_status_alone(before: Any, after: str) -> None:
    known = [condition("Ready", before, since=5.0)] if before else []
    given = Conditions(known, generation=3, now=NOW)
    result = given.set("Ready", VALUES[after], Reason.ACCEPTED, "text")
    assert result.status == after
    assert result.last_transition_time == (5.0 if before == after else NOW)
    assert (result.reason, result.message, result.observed_generation) == ("Accepted", "text", 3)


def test_a_new_reason_or_message_keeps_the_transition_time() -> None:
    given = Conditions([condition("Ready", since=5.0, reason="Old")], generation=1, now=NOW)
    result = given.set("Ready", True, Reason.ACCEPTED, "new")
    assert (result.last_transition_time, result.reason) == (5.0, "Accepted")


def test_types_that_are_not_set_are_gone_and_the_order_is_that_of_setting() -> None:
    given = Conditions([condition("Old"), condition("B")], generation=1, now=NOW)
    given.set("C", True, Reason.ACCEPTED, "")
    given.set("B", True, Reason.ACCEPTED, "")
    assert [one.type for one in given.result()] == ["C", "B"]


def test_setting_a_type_twice_keeps_the_last_word() -> None:
    given = Conditions([condition("A", "True", since=5.0)], generation=1, now=NOW)
    given.set("A", False, Reason.ACCEPTED, "")
    given.set("A", True, Reason.ACCEPTED, "again")
    (one,) = given.result()
    assert (one.status, one.last_transition_time, one.message) == ("True", 5.0, "again")


def test_finds_by_type() -> None:
    known = [condition("A", "True"), condition("B", "False")]
    assert conditions.find(known, "B") is known[1]
    assert conditions.find(known, "C") is None
    assert conditions.is_true(known, "A")
    assert not conditions.is_true(known, "B")
    assert not conditions.is_true(known, "C")


def test_reads_and_writes_as_metav1_condition() -> None:
    wire = {
        "type": "Ready",
        "status": "True",
        "reason": "Because",
        "message": "",
        "lastTransitionTime": "1970-01-01T00:00:05.000Z",
        "observedGeneration": 2,
    }
    one = Condition.model_validate(wire)
    assert one.last_transition_time == 5.0
    assert one.model_dump(mode="json", by_alias=True) == wire


def test_every_reason_is_one_camel_case_word_and_belongs_to_one_cause() -> None:
    assert all(one.value.isalpha() and one.value[0].isupper() for one in Reason)
    # An enum's members with equal values are one member under two names: find those.
    assert len(Reason.__members__) == len(set(Reason))


# --- Merge patches --------------------------------------------------------------------------------


def apply_patch(target: Any, patch: Any) -> Any:
    """RFC 7386, as the RFC writes it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply_patch(result.get(key), value)
    return result


LEAVES = st.sampled_from([True, 2, "", "x", ["x"], [], [{"a": 2}]])
INNER = st.dictionaries(st.sampled_from("ab"), LEAVES, max_size=2)
OBJECTS = st.dictionaries(st.sampled_from("abc"), st.one_of(LEAVES, INNER), max_size=3)


@ANY_SPEED
@given(before=OBJECTS, after=OBJECTS)
def test_a_patch_turns_the_one_into_the_other(before: Any, after: Any) -> None:
    patch = merge_patch(before, after)
    assert apply_patch(before, patch) == after
    assert (patch == {}) == (
        json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    )


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        pytest.param({"a": 1}, {"a": 1}, {}, id="equal"),
        pytest.param({"a": 1}, {}, {"a": None}, id="removed"),
        pytest.param({}, {"a": {}}, {"a": {}}, id="empty-object-is-something"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}, id="nested"),
        pytest.param({"a": [1, 2]}, {"a": [1]}, {"a": [1]}, id="lists-are-replaced"),
        pytest.param({"a": {"b": 1}}, {"a": 1}, {"a": 1}, id="object-to-value"),
        pytest.param({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="value-to-object"),
    ],
)
def test_a_patch_says_only_what_changes(before: Any, after: Any, patch: Any) -> None:
    assert merge_patch(before, after) == patch
