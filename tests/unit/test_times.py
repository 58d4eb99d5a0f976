"""Points in time survive the way to the API and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from asetwin.resources import times
from asetwin.resources.times import Time
from unit.builders import ANY_SPEED


class Box(BaseModel):
    """Something with a time."""

    at: Time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("1970-01-01T00:00:00Z", 0.0, id="as-kubernetes-writes-it"),
        pytest.param("1970-01-01T00:00:00.250Z", 0.25, id="milliseconds"),
        pytest.param("1970-01-01T00:00:00.123456Z", 0.123456, id="micro-time"),
        pytest.param("1970-01-01T02:00:00+02:00", 0.0, id="another-zone"),
        pytest.param("1969-12-31T23:59:59Z", -1.0, id="before-the-epoch"),
    ],
)
def test_reads_rfc_3339(text: str, seconds: float) -> None:
    assert times.parse(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("1970-01-01T00:00:00", id="no-zone"),
        pytest.param("1970-01-01", id="date-only"),
        pytest.param("", id="empty"),
        pytest.param("yesterday", id="words"),
        pytest.param("1970-13-01T00:00:00Z", id="no-such-month"),
    ],
)
def test_refuses_what_is_not_a_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"zone|isoformat|month"):
        times.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0.0, "1970-01-01T00:00:00.000Z", id="epoch"),
        pytest.param(0.9996, "1970-01-01T00:00:01.000Z", id="rounds-into-the-next-second"),
        pytest.param(1764057600.25, "2025-11-25T08:00:00.250Z", id="milliseconds"),
        pytest.param(-0.5, "1969-12-31T23:59:59.500Z", id="before-the-epoch"),
    ],
)
def test_writes_milliseconds_in_utc(seconds: float, text: str) -> None:
    assert times.render(seconds) == text


@ANY_SPEED
@given(st.integers(min_value=0, max_value=4_000_000_000_000))
def test_whole_milliseconds_read_back_as_they_were(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert times.parse(times.render(seconds)) == seconds


@ANY_SPEED
@given(st.floats(min_value=0, max_value=4e9))
def test_what_is_written_is_written_the_same_again(seconds: float) -> None:
    text = times.render(seconds)
    assert times.render(times.parse(text)) == text
    assert abs(times.parse(text) - seconds) <= 0.0006


def test_a_field_reads_texts_and_writes_texts() -> None:
    box = Box.model_validate({"at": "1970-01-01T00:00:01Z"})
    assert box.at == 1.0
    assert box.model_dump(mode="json") == {"at": "1970-01-01T00:00:01.000Z"}


def test_a_field_refuses_what_is_no_moment() -> None:
    with pytest.raises(ValidationError):
        Box.model_validate({"at": "now"})
