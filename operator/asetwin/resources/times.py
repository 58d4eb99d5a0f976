"""Points in time: seconds since the epoch inside, RFC 3339 with milliseconds outside."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer


@lru_cache(maxsize=4096)
def parse(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 text, as Kubernetes writes it.

    Raises ValueError for anything else, a time without a zone included.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.timestamp()


@lru_cache(maxsize=4096)
def render(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds: ``2026-11-25T08:00:00.250Z``."""
    # Through whole milliseconds, so that what is written reads back as what was meant.
    whole, millis = divmod(round(seconds * 1000), 1000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def _from_wire(value: Any) -> Any:
    return parse(value) if isinstance(value, str) else value


Time = Annotated[float, BeforeValidator(_from_wire), PlainSerializer(render, return_type=str)]
