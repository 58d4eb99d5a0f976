"""A plan in the making: when it asks to be asked again."""

import pytest

from asetwin.model.plan import Draft
from unit.builders import NOW


@pytest.mark.parametrize(
    ("asked", "planned"),
    [
        pytest.param((NOW + 12.0,), NOW + 12.0, id="whole"),
        pytest.param((NOW + 0.544,), NOW + 0.544, id="whole-milliseconds"),
        # A turn at this very moment would tell the time as .544, before it.
        pytest.param((NOW + 0.544043,), NOW + 0.545, id="never-before"),
        pytest.param((NOW + 3.0, None, NOW + 2.0), NOW + 2.0, id="soonest"),
        pytest.param((None,), None, id="none"),
    ],
)
def test_it_is_asked_again_at_the_soonest_moment_that_its_clock_can_tell(
    asked: tuple[float | None, ...], planned: float | None
) -> None:
    draft = Draft()
    for at in asked:
        draft.wake(at)
    assert draft.finish().wake_at == planned
