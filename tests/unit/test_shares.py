"""Shares are volumes of their own name; who holds one keeps it; a lost node keeps its volumes."""

from typing import Any

import pytest

from asetwin.model import cleanup, shares, volumes
from asetwin.model.plan import CreateClaim, DeleteSystemObject, DeleteVolume, SetFinalizers
from asetwin.model.plan import WriteVolume as Write
from asetwin.model.shares import Verdict
from asetwin.resources import core
from asetwin.resources.conditions import Reason
from asetwin.resources.demands import FIELD_NAME
from unit.builders import claim, cluster, device, journal, node, pod, volume

OURS = core.Binding("asetwin-system", "ase-journal")
HELD = core.Binding("shop", "data", "uid-9")
DATA = {"name": "data", "capacity": "10Gi"}
JOURNAL = journal()


def rule(*objects: Any, stated: Any = (DATA,), without: tuple[str, ...] = ()) -> Verdict:
    """The rule on the standard device with these shares stated."""
    seen = cluster(device(spec={"shares": list(stated)}), *objects, without=without)
    return shares.rule(seen.devices["ase"], seen)


# --- Offered --------------------------------------------------------------------------------------


def test_a_share_and_the_journal_are_created_where_they_are_missing() -> None:
    found = rule(without=("ase-journal",))
    assert found.steps == (
        Write("ase", "data", "10Gi", "NFS"),
        Write("ase", "ase-journal", "64Mi", "NFS", OURS),
    )
    assert (found.is_ready, found.reason) == (False, Reason.SHARE_PENDING)


def test_the_journal_is_claimed_when_the_volume_binder_has_seen_its_volume() -> None:
    made = volume("ase-journal", capacity="64Mi", binding=OURS, phase="")
    assert rule(made, stated=(), without=("ase-journal",)).steps == ()
    seen = volume("ase-journal", capacity="64Mi", binding=OURS)
    found = rule(seen, stated=(), without=("ase-journal",))
    assert found.steps == (CreateClaim("ase", "uid-ase", "ase-journal"),)


def test_there_is_nothing_to_do_where_all_is_as_stated() -> None:
    found = rule(volume("data", phase="Bound", binding=HELD))
    assert found.steps == ()
    assert found == Verdict(
        (),
        True,
        Reason.SHARES_OFFERED,
        "data (shop/data), ase-journal (asetwin-system/ase-journal)",
    )
    assert "data (free)" in rule(volume("data")).message


def test_a_capacity_that_reads_differently_is_the_same() -> None:
    assert rule(volume("data", capacity="10240Mi")).steps == ()


@pytest.mark.parametrize(
    ("stated", "capacity", "protocol"),
    [
        pytest.param({"capacity": "20Gi"}, "20Gi", "NFS", id="grows"),
        pytest.param({"protocol": "SMB"}, "10Gi", "SMB", id="other-protocol"),
    ],
)
def test_a_change_is_applied_under_the_version(
    stated: dict[str, str], capacity: str, protocol: str
) -> None:
    found = rule(volume("data"), stated=({**DATA, **stated},))
    assert found.steps == (Write("ase", "data", capacity, protocol, resource_version="7"),)
    assert found.is_ready


def test_a_share_does_not_shrink_and_the_condition_says_so() -> None:
    found = rule(volume("data"), stated=({**DATA, "capacity": "1Gi"},))
    assert (found.steps, found.reason) == ((), Reason.SHARE_CANNOT_SHRINK)
    assert found.message == "data keeps its 10Gi: a share only grows"


def test_a_released_share_is_made_free_for_the_next_claim() -> None:
    found = rule(volume("data", phase="Released", binding=HELD))
    (step,) = found.steps
    assert step == Write("ase", "data", "10Gi", "NFS", released=True, resource_version="7")


def test_a_released_journal_stays_kept_for_its_own_claim() -> None:
    gone = volume("ase-journal", capacity="64Mi", phase="Released", binding=HELD)
    (step,) = rule(gone, stated=(), without=("ase-journal",)).steps
    assert isinstance(step, Write)
    assert (step.released, step.kept_for) == (True, OURS)


def test_a_journal_whose_volume_was_lost_goes_back_to_its_claim() -> None:
    lost = claim("ase-journal", namespace="asetwin-system", is_bound=False)
    (step,) = rule(lost, stated=(), without=("ase-journal",)).steps
    assert isinstance(step, Write)
    assert step.kept_for == core.Binding("asetwin-system", "ase-journal", lost.uid)


# --- Not ours, not wanted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whose", "told"),
    [
        pytest.param("", "is not ours", id="foreign"),
        pytest.param("other", "belongs to the device other", id="of-another-device"),
    ],
)
def test_a_volume_that_is_not_ours_is_named_and_left_alone(whose: str, told: str) -> None:
    found = rule(volume("data", device=whose, capacity="1Gi", phase="Released", binding=HELD))
    assert (found.steps, found.reason) == ((), Reason.FOREIGN_OBJECT)
    assert found.message == f"the PersistentVolume data {told}; rename it or the share"


def test_somebody_elses_volume_with_the_journals_name_is_not_claimed() -> None:
    taken = volume("ase-journal", device="")
    seen = cluster(device(), taken, without=("ase-journal",))
    assert shares.rule(seen.devices["ase"], seen).steps == ()
    assert not shares.has_journal("ase", seen)


def test_a_share_that_is_no_longer_stated_goes_under_its_version() -> None:
    found = rule(volume("data"), stated=())
    assert found.steps == (DeleteVolume("data", "uid-data", "7", why="no longer stated"),)
    assert found.is_ready


def test_a_share_that_is_no_longer_stated_stays_while_a_claim_holds_it() -> None:
    found = rule(volume("data", phase="Bound", binding=HELD), stated=())
    assert (found.steps, found.reason) == ((), Reason.SHARE_IN_USE)
    assert found.message == "data is no longer stated, but shop/data holds it"


def test_a_share_whose_claim_is_gone_goes() -> None:
    found = rule(volume("data", phase="Released", binding=HELD), stated=())
    assert [type(one) for one in found.steps] == [DeleteVolume]


def test_a_volume_on_its_way_out_is_waited_for() -> None:
    found = rule(volume("data", phase="Bound", binding=HELD, is_deleting=True))
    assert (found.steps, found.reason) == ((), Reason.SHARE_PENDING)
    assert found.message == "data is on its way out: shop/data still holds it"
    assert rule(volume("data", is_deleting=True), stated=()).steps == ()


def test_the_worst_is_told_first_and_the_rest_after_it() -> None:
    stated = [{"name": f"s{number}"} for number in range(7)]
    found = rule(volume("s6", device=""), stated=stated)
    assert found.reason is Reason.FOREIGN_OBJECT
    assert found.message.startswith("the PersistentVolume s6 is not ours")
    assert found.message.endswith("; and 2 more")
    assert len(found.steps) == 6


# --- The journal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "is_there"),
    [
        pytest.param((), True, id="bound"),
        pytest.param((claim("ase-journal", namespace="asetwin-system", volume=""),), False, id="x"),
        pytest.param(
            (claim("ase-journal", namespace="asetwin-system", is_bound=False),), False, id="pending"
        ),
        pytest.param(
            (claim("ase-journal", namespace="asetwin-system", is_deleting=True),), False, id="going"
        ),
        pytest.param((claim("ase-journal", namespace="shop"),), False, id="elsewhere"),
        pytest.param((volume("ase-journal", device=""),), False, id="foreign"),
    ],
)
def test_a_master_has_a_journal_only_where_its_claim_is_bound(
    objects: tuple[Any, ...], is_there: bool
) -> None:
    assert shares.has_journal("ase", cluster(device(), *objects)) is is_there


# --- The end of a device --------------------------------------------------------------------------


def test_volumes_go_with_their_device_also_those_that_a_claim_holds() -> None:
    gone = device(deleting=True, finalizers=["asetwin.dev/cleanup"])
    held, foreign = volume("data", phase="Bound", binding=HELD), volume("theirs", device="")
    seen = cluster(gone, held, foreign)
    assert cleanup.clean_up(gone, seen, 0.0).steps == (
        DeleteSystemObject("persistentvolumeclaims", "ase-journal"),
        DeleteVolume("ase-journal", "uid-ase-journal", why="its AseDevice is gone"),
        DeleteVolume("data", "uid-data", why="its AseDevice is gone"),
    )


def test_nobody_waits_for_a_claim_that_holds_a_volume_of_a_device_that_goes() -> None:
    gone = device(deleting=True, finalizers=["asetwin.dev/cleanup"])
    leaving = volume("data", phase="Bound", binding=HELD, is_deleting=True)
    seen = cluster(gone, leaving, without=("ase-journal",))
    (step,) = cleanup.clean_up(gone, seen, 0.0).steps
    assert isinstance(step, SetFinalizers)


def test_volumes_of_a_device_that_went_unseen_are_found() -> None:
    assert cleanup.gone_devices(cluster(volume("data", device="old"))) == {"old"}


# --- Volumes that stay with their node ------------------------------------------------------------

ON_A = ((core.Requirement("kubernetes.io/hostname", "In", ("na",)),),)
NA = node("na", labels={"kubernetes.io/hostname": "na", "rack": "7"})
NB = node("nb", labels={"kubernetes.io/hostname": "nb"})


def tie(*objects: Any, nodes: tuple[core.Node, ...] = (NB,)) -> str:
    """What holds the pod ``p`` with the claim ``data`` back from these Nodes."""
    seen = cluster(*objects)
    return volumes.explain_tie(pod(claims=("data",)), volumes.find_tied(seen), nodes)


def test_a_pod_is_held_back_by_a_volume_on_another_node() -> None:
    local = volume("data", device="", node_terms=ON_A)
    text = "claim data is bound to data, which stays on na"
    assert tie(local, claim()) == text
    assert tie(local, claim(), nodes=()) == text
    assert tie(local, claim(), nodes=(NA, NB)) == ""


def test_other_volumes_hold_nobody_back() -> None:
    local = volume("data", device="", node_terms=ON_A)
    assert tie(volume("data"), claim()) == "", "a share is everywhere"
    assert tie(local) == "", "the claim is not there"
    assert tie(local, claim(volume="")) == "", "nothing is bound yet"
    assert tie(local, claim(namespace="other")) == ""


@pytest.mark.parametrize(
    ("requirement", "holds"),
    [
        pytest.param(("rack", "In", ("7", "8")), True, id="in"),
        pytest.param(("rack", "NotIn", ("7",)), False, id="not-in"),
        pytest.param(("zone", "NotIn", ("7",)), True, id="not-in-absent"),
        pytest.param(("rack", "Exists"), True, id="exists"),
        pytest.param(("rack", "DoesNotExist"), False, id="does-not-exist"),
        pytest.param(("rack", "Gt", ("6",)), True, id="gt"),
        pytest.param(("rack", "Lt", ("7",)), False, id="lt"),
        pytest.param(("zone", "Gt", ("6",)), False, id="gt-absent"),
        pytest.param(("rack", "Gt", ("+6",)), True, id="gt-signed"),
        pytest.param(("rack", "Gt", ("old",)), False, id="gt-a-word"),
        pytest.param(("rack", "Gt", ("6.5",)), False, id="gt-a-fraction"),
        pytest.param(("rack", "Lt", ("9" * 19,)), False, id="lt-more-than-64-bits"),
        pytest.param(("rack", "Lt", ("9" * 5000,)), False, id="lt-more-than-python-reads"),
        pytest.param((FIELD_NAME, "Gt", ("6",)), False, id="gt-of-a-word"),
        pytest.param((FIELD_NAME, "In", ("na",)), True, id="field"),
        pytest.param(("metadata.name", "In", ("na",)), False, id="label-like-the-field"),
        pytest.param(("rack", "Near", ("7",)), False, id="unheard-of"),
    ],
)
def test_node_affinity_is_read_as_kubernetes_reads_it(
    requirement: tuple[Any, ...], holds: bool
) -> None:
    one = volume(node_terms=((core.Requirement(*requirement),),))
    assert one.is_reachable_from(NA) is holds


# --- Reading --------------------------------------------------------------------------------------


def test_a_volume_is_read_with_its_mark_its_claim_and_its_place() -> None:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["na"]}
    body: dict[str, Any] = {
        "metadata": {
            "name": "data",
            "uid": "u",
            "resourceVersion": "9",
            "labels": {
                "app.kubernetes.io/managed-by": "asetwin",
                "asetwin.dev/device": "ase",
                "asetwin.dev/protocol": "SMB",
            },
        },
        "spec": {
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "shop", "name": "data", "uid": "uid-9"},
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
            },
        },
        "status": {"phase": "Bound"},
    }
    assert core.Volume.read(body) == core.Volume(
        "data", "u", "9", "ase", "SMB", "1Gi", "Bound", HELD, False, ON_A
    )
    body["metadata"]["labels"].pop("app.kubernetes.io/managed-by")
    assert core.Volume.read(body).device == ""


def test_a_pods_claims_are_read_ephemeral_ones_too() -> None:
    spec = {
        "containers": [],
        "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {}},
            {"name": "c", "emptyDir": {}},
        ],
    }
    read = core.Pod.read({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec})
    assert read.claims == ("data", "p-b")
