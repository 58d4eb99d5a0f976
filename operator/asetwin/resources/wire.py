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

    def wire(self, only: set[str] | None = None) -> dict[str, Any]:
        """The JSON form; fields without a value and empty lists are left out.

        ``only`` names the fields that are asked for, by default all.
        """
        whole = self.model_dump(mode="json", by_alias=True, include=only)
        form: dict[str, Any] = _without_empty(whole)
        return form

    def differs_from(self, other: Self) -> set[str]:
        """The names of the fields that are not the same in another one."""
        mine, others = self.__dict__, other.__dict__
        return {
            name for name, one in mine.items() if one is not others[name] and one != others[name]
        }


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {}
        for key, one in value.items():
            inner = _without_empty(one) if isinstance(one, dict | list) else one
            # An empty list in a printer column reads "[]", which looks like something.
            if inner is not None and inner != []:
                kept[key] = inner
        return kept
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
