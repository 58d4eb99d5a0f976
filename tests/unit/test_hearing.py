"""Who was heard when, by our own clock, and what of that wakes the loop."""

import pytest

from asetwin.kube.observe import MOST_GAPS, SILENCE_SECONDS, Cluster
from asetwin.model.snapshot import Gap
from unit.observing import Json, body, lists

BEAT = "kube-node-lease/na"


class Hearing:
    """A cluster that is told of one kubelet's Lease, at moments of our own clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.was_set = 0.0
        self.cluster = Cluster(clock=lambda: self.now + self.was_set, monotonic=lambda: self.now)
        self._version = 0

    def tell(
        self, at: float, renewed: str, of: str = "na", namespace: str = "kube-node-lease"
    ) -> bool:
        self.now = at
        self._version += 1
        lease = body(of, self._version, namespace=namespace)
        lease["metadata"]["labels"] = {}
        spec = {"renewTime": renewed, "leaseDurationSeconds": 4}
        return self.cluster.apply("leases", lease | {"spec": spec})

    @property
    def heard_at(self) -> float:
        return self.cluster.snapshot().renewed[BEAT]


def test_a_renewal_is_timed_by_our_clock_and_not_by_its_holders() -> None:
    hearing = Hearing()
    assert hearing.tell(100.0, "2031-01-01T00:00:00.000000Z")
    assert hearing.heard_at == 100.0
    hearing.tell(101.0, "1999-01-01T00:00:00.000000Z")
    assert hearing.heard_at == 101.0


@pytest.mark.parametrize("by", [pytest.param(90.0, id="forward"), pytest.param(-40.0, id="back")])
def test_a_clock_that_is_set_makes_nobody_silent(by: float) -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    hearing.now, hearing.was_set = 103.0, by
    assert hearing.now + hearing.was_set - hearing.heard_at == 3.0
    hearing.tell(104.0, "t2")
    assert hearing.heard_at == 104.0 + by


def test_a_clock_that_drifts_a_little_is_left_alone() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    hearing.was_set = 0.5
    assert hearing.heard_at == 100.0


def pod_created(created: str, version: int = 1) -> Json:
    given = body("p", version, namespace="shop")
    given["metadata"]["creationTimestamp"] = created
    return given | {"spec": {"containers": []}, "status": {}}


@pytest.mark.parametrize(
    ("created", "age"),
    [
        pytest.param("1970-01-01T00:01:37Z", 3.0, id="as-the-server-says"),
        pytest.param("1970-01-01T00:00:10Z", 5.0, id="server-behind"),
        pytest.param("1970-01-01T00:03:10Z", 0.0, id="server-ahead"),
    ],
)
def test_a_new_pod_is_as_old_as_the_news_of_it(created: str, age: float) -> None:
    hearing = Hearing()
    hearing.cluster.is_synced = True
    hearing.now = 100.0
    hearing.cluster.apply("pods", pod_created(created))
    (pod,) = hearing.cluster.snapshot().pods
    assert hearing.now - pod.created == age
    # It stays so when more is heard of it, and when the clock is set.
    hearing.now, hearing.was_set = 110.0, 90.0
    hearing.cluster.apply("pods", pod_created(created, version=2))
    (pod,) = hearing.cluster.snapshot().pods
    assert 200.0 - pod.created == age + 10.0


def test_a_pod_that_was_there_before_us_has_the_servers_time() -> None:
    hearing = Hearing()
    hearing.now = 100.0
    hearing.cluster.apply("pods", pod_created("1970-01-01T00:00:10Z"))
    (pod,) = hearing.cluster.snapshot().pods
    assert pod.created == 10.0


async def test_a_pod_from_before_our_start_is_as_old_as_the_servers_clock_says() -> None:
    hearing = Hearing()
    hearing.now, hearing.cluster.is_synced = 190.0, False
    api = lists(5, pods=[pod_created("1970-01-01T00:01:30Z")])
    api.ahead = 90.0
    await hearing.cluster.resync(api)
    (pod,) = hearing.cluster.snapshot().pods
    assert hearing.now - pod.created == 10.0
    # It stays so, also where the next list tells of another version.
    await hearing.cluster.resync(lists(6, pods=[pod_created("1970-01-01T00:01:30Z", version=6)]))
    (pod,) = hearing.cluster.snapshot().pods
    assert hearing.now - pod.created == 10.0


def test_a_while_in_which_no_kubelet_was_heard_is_noted() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    hearing.tell(101.0, "t1", of="nb")
    # The master is not a kubelet: that it is heard says nothing about the watch of theirs.
    hearing.tell(102.0, "t1", of="ase-master", namespace="asetwin-system")
    assert hearing.cluster.snapshot().gaps == ()
    hearing.tell(130.0, "t2", of="nb")
    hearing.tell(130.5, "t2")
    assert hearing.cluster.snapshot().gaps == (Gap(101.0, 130.0),)
    hearing.was_set = -40.0
    assert hearing.cluster.snapshot().gaps == (Gap(61.0, 90.0),)
    for number in range(20):
        hearing.tell(200.0 + 10 * number, f"u{number}")
    assert len(hearing.cluster.snapshot().gaps) == MOST_GAPS


def test_one_of_many_renewals_ends_no_gap() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    hearing.now, late = 150.0, body("na", 9, namespace="kube-node-lease")
    late |= {"spec": {"renewTime": "t2", "leaseDurationSeconds": 4}}
    hearing.cluster.apply("leases", late, is_one_of_many=True)
    assert hearing.cluster.snapshot().gaps == ()
    assert hearing.heard_at == 150.0


def test_a_lease_that_is_found_has_not_been_heard() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    assert hearing.cluster.snapshot().unheard == (BEAT,)
    hearing.tell(101.0, "t1")
    assert hearing.cluster.snapshot().unheard == (BEAT,)
    hearing.tell(102.0, "t2")
    assert hearing.cluster.snapshot().unheard == ()


def test_a_new_version_without_a_new_renewal_is_no_sign_of_life() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    assert not hearing.tell(130.0, "t1")
    assert hearing.heard_at == 100.0


def test_an_old_event_is_no_sign_of_life() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    hearing.tell(101.0, "t2")
    hearing.now, late = 150.0, body("na", 1, namespace="kube-node-lease")
    assert not hearing.cluster.apply("leases", late | {"spec": {"renewTime": "t1"}})
    assert hearing.heard_at == 101.0


async def test_a_renewal_that_only_a_list_tells_of_counts_from_then_on() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    lease = body("na", 2, namespace="kube-node-lease") | {"spec": {"renewTime": "t2"}}
    lease["metadata"]["labels"] = {}
    hearing.now = 105.0
    await hearing.cluster.resync(lists(9, leases=[lease]))
    assert hearing.heard_at == 105.0
    hearing.now = 109.0
    assert not await hearing.cluster.resync(lists(10, leases=[lease]))
    assert hearing.heard_at == 105.0


@pytest.mark.parametrize(
    ("silence", "wakes"),
    [
        pytest.param(0.1, False, id="in-time"),
        pytest.param(SILENCE_SECONDS, False, id="just-in-time"),
        pytest.param(SILENCE_SECONDS + 0.001, True, id="after-a-silence"),
        pytest.param(600.0, True, id="long-after"),
    ],
)
def test_a_renewal_wakes_only_when_it_ends_a_silence(silence: float, wakes: bool) -> None:
    hearing = Hearing()
    hearing.tell(0.0, "t0")
    assert hearing.tell(silence, "t1") is wakes
    # The one after it is nothing special any more.
    assert not hearing.tell(silence + 1.0, "t2")


def test_a_snapshot_keeps_what_was_heard_when_it_was_made() -> None:
    hearing = Hearing()
    hearing.tell(100.0, "t1")
    before = hearing.cluster.snapshot()
    hearing.tell(101.0, "t2")
    assert (before.renewed[BEAT], hearing.heard_at) == (100.0, 101.0)
