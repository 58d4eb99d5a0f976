"""What can go wrong at the API server, one class per case that somebody handles."""

from typing import Any


class KubeError(Exception):
    """Any refusal by the API server; the message says what was asked and what it answered."""

    def __init__(self, message: str, *, status: int, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body or {}


class NotFound(KubeError):
    """404: the object, or the kind itself, is not there."""


class Conflict(KubeError):
    """409: somebody else wrote first, or a precondition (uid, resourceVersion) failed."""


class Outdated(Conflict):
    """What was read anew is not what was believed, and no event had told of it.

    Then more of what is believed may be wrong: all of it has to be read anew.
    """


class AlreadyExists(Conflict):
    """409 on a create: an object of that name is there."""


class Forbidden(KubeError):
    """401 or 403: RBAC, a quota or an admission plugin said no."""


class Invalid(KubeError):
    """400 or 422: the object does not pass validation; the same write will fail again."""


class TooManyRequests(KubeError):
    """429: throttled, or an eviction held back by a PodDisruptionBudget."""


class Unavailable(KubeError):
    """5xx, a time-out or no connection: the same call may pass later."""


def from_status(status: int, body: dict[str, Any], asked: str) -> KubeError:
    """The error class for an HTTP status and the API server's Status object."""
    message = f"{asked}: {body.get('message') or f'HTTP {status}'}"
    by_status: dict[int, type[KubeError]] = {
        400: Invalid,
        401: Forbidden,
        403: Forbidden,
        404: NotFound,
        409: AlreadyExists if body.get("reason") == "AlreadyExists" else Conflict,
        422: Invalid,
        429: TooManyRequests,
    }
    kind = by_status.get(status, Unavailable if status >= 500 else KubeError)
    return kind(message, status=status, body=body)


def is_transient(error: Exception) -> bool:
    """Whether asking again, unchanged or after a fresh look, can help."""
    return isinstance(error, Unavailable | Conflict | TooManyRequests)
