"""The base of asetwin's own kinds: camelCase in the API, snake_case in Python."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from asetwin.constants import API_VERSION
from asetwin.resources.times import Time


class Wire(BaseModel):
    """A part of a custom resource: camelCase in the API, snake_case in Python."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )

    def wire(self) -> dict[str, Any]:
        """The JSON form; fields without a value and empty lists are left out."""
        form: dict[str, Any] = _without_empty(self.model_dump(mode="json", by_alias=True))
        return form


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(one) for key, one in value.items()}
        # An empty list in a printer column reads "[]", which looks like something.
        return {key: one for key, one in kept.items() if one is not None and one != []}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


class Metadata(Wire):
    """The part of an object's metadata that the rules look at."""

    name: str
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: Time = 0.0
    deletion_timestamp: Time | None = None
    finalizers: tuple[str, ...] = ()


class Resource(Wire):
    """What all kinds of ours share."""

    metadata: Metadata

    @property
    def name(self) -> str:
        """The object's name; all kinds are cluster-scoped."""
        return self.metadata.name

    @property
    def is_deleting(self) -> bool:
        """Whether somebody has asked for its deletion."""
        return self.metadata.deletion_timestamp is not None

    @classmethod
    def read(cls, body: dict[str, Any]) -> Self:
        """From the API's JSON; pydantic's ValidationError names the field that is wrong."""
        return cls.model_validate(body)

    @property
    def reference(self) -> dict[str, str]:
        """As an Event's ``involvedObject`` wants it."""
        return {
            "apiVersion": API_VERSION,
            "kind": type(self).__name__,
            "name": self.name,
            "uid": self.metadata.uid,
        }
