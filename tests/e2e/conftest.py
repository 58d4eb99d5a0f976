"""End-to-end tests: a real kind cluster, the operator inside it, pykube-ng as observer.

pytest-kind attaches to the cluster that ``hack/test`` brought up. Each test
gets its own namespace and a device in its steady state, and has to leave the
Nodes as it found them: the fixture looks.
"""

import re
from collections.abc import Generator, Iterator

import pytest
from pytest_kind import KindCluster

from e2e.twin import DEVICE, Twin


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.e2e)
        # Waits inside have bounds of their own; this ends a test that hangs outside of them.
        item.add_marker(pytest.mark.timeout(300))


HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    return report


@pytest.fixture(scope="session")
def cluster(kind_cluster: KindCluster, request: pytest.FixtureRequest) -> Twin:
    """The cluster, with the sample device in it."""
    name = kind_cluster.name
    if not re.fullmatch(r"asetwin-(test|dev)\S*", name):
        # These tests fail nodes and delete devices; they do that to test clusters only.
        pytest.exit(f"{name} is not a test cluster (asetwin-test…)", returncode=2)
    twin = Twin(kind_cluster)
    twin.repair_all()
    twin.apply_sample("device.yaml")
    twin.wait_steady(within=120)
    return twin


@pytest.fixture
def twin(cluster: Twin, request: pytest.FixtureRequest) -> Iterator[Twin]:
    """A device in its steady state; afterwards everything is repaired and as it was."""
    # What an earlier test that failed has left under way must not become what is "before".
    cluster.wait_steady(within=120)
    cluster.begin(request.node.name)
    cluster.wait_alone()
    before = cluster.footprint()
    yield cluster
    cluster.end(has_failed=request.node.stash.get(HAS_FAILED, False))
    cluster.wait_steady(within=60)
    try:
        cluster.wait("the Nodes as before the test", lambda: cluster.footprint() == before)
    except AssertionError as error:
        error.add_note(f"before: {before}\nnow: {cluster.footprint()}")
        raise


@pytest.fixture
def whole_reserve(twin: Twin) -> Iterator[None]:
    """More GPUs may be asked for than one node has, so that both can be in use."""
    patch = '{"spec":{"reserve":{"percent":%s}}}'
    twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", patch % "100")
    yield
    twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", patch % "null")
