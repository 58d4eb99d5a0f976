"""A master's Lease in an API server that can be bad."""

from typing import Any

from asetwin.kube import errors
from asetwin.model import epochs

PATH = "/apis/coordination.k8s.io/v1/namespaces/asetwin-system/leases/ase-master"
WALL = 1_795_593_600.0


class Leases:
    """The API server's Leases, as far as a master sees them."""

    def __init__(self) -> None:
        self.body: dict[str, Any] | None = None
        self.calls: list[str] = []
        self._version = 0

    async def get(self, path: str) -> dict[str, Any]:
        assert path == PATH
        self.calls.append("GET")
        if self.body is None:
            raise errors.NotFound("no such Lease", status=404)
        return self.body

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == PATH.rpartition("/")[0]
        self.calls.append("POST")
        if self.body is not None:
            raise errors.AlreadyExists("exists", status=409)
        return self._store(body, uid=f"uid-{self._version}")

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == PATH
        self.calls.append("PUT")
        uid, version = (body["metadata"].get(key) for key in ("uid", "resourceVersion"))
        if self.body is None:
            # As the API server does it: without a uid the Lease would be created.
            assert uid, "a PUT without a uid revives a deleted Lease"
            raise errors.Conflict("another uid", status=409)
        old = self.body["metadata"]
        if (uid, version) != (old["uid"], old["resourceVersion"]):
            raise errors.Conflict("another version", status=409)
        return self._store(body, uid=uid)

    def put(self, holder: str, epoch: int, seconds: int = 3) -> None:
        """Somebody else writes the Lease."""
        lease = epochs.Lease(holder, epoch, seconds)
        body = epochs.render(lease, device="ase", moment="now", base=self.body)
        self._store(body, uid="uid-of-other")

    def _store(self, body: dict[str, Any], *, uid: str) -> dict[str, Any]:
        self._version += 1
        metadata = body["metadata"] | {"uid": uid, "resourceVersion": str(self._version)}
        self.body = body | {"metadata": metadata}
        return self.body

    @property
    def holder(self) -> str | None:
        return self.body["spec"]["holderIdentity"] if self.body else None
