"""A container's cgroup is its unit's, or where the definition has it; the helpers know where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import placement, preparation, slices
from torpor.errors import TorporError
from torpor.placement import CGROUPFS, NONE, SYSTEMD, UNIT, Place, Placement
from torpor.values import WrongError
from torpor.yaml_tree import Scalar

UNIT_PAYLOAD = "/torpor.slice/torpor@web.service/payload"


def parse(words: str) -> Placement:
    return placement.parse(Scalar(3, words, absent=False))


def place(wanted: Placement, slice_name: str | None = None) -> Place:
    return placement.place(wanted, "web", slice_name, UNIT_PAYLOAD)


def test_it_is_in_its_unit_unless_one_says_otherwise() -> None:
    assert parse("unit") == placement.DEFAULT == Placement(UNIT)
    assert place(placement.DEFAULT, "a.slice") == Place(UNIT_PAYLOAD)


def test_systemd_is_asked_for_a_scope_in_the_slice() -> None:
    assert parse("systemd") == Placement(SYSTEMD)
    plan = (
        (preparation.CGROUP, "/torpor.slice/torpor-web.scope"),
        (preparation.SYSTEMD, "yes"),
    )
    assert place(Placement(SYSTEMD)) == Place("torpor.slice:torpor:web", plan)
    deeper = place(Placement(SYSTEMD), "a-b.slice")
    assert deeper.cgroups_path == "a-b.slice:torpor:web"
    assert deeper.plan[0] == (preparation.CGROUP, "/a.slice/a-b.slice/torpor-web.scope")


def test_a_scope_in_the_root_slice_lies_at_the_top() -> None:
    cgroup = dict(place(Placement(SYSTEMD), slices.ROOT).plan)[preparation.CGROUP]
    assert cgroup == "/torpor-web.scope"


def test_below_a_parent_it_has_a_cgroup_of_its_own_name() -> None:
    assert parse("cgroupfs:/machines//a/") == Placement(CGROUPFS, "/machines/a")
    found = place(Placement(CGROUPFS, "/machines/a"), "x.slice")
    assert found == Place(
        "/machines/a/torpor-web", ((preparation.CGROUP, "/machines/a/torpor-web"),)
    )


def test_without_a_path_it_is_in_the_unit_under_its_own_name() -> None:
    assert parse("none") == Placement(NONE)
    assert place(Placement(NONE)) == Place("", ((preparation.CGROUP_IN_UNIT, "web"),))


def test_the_unit_is_expected_in_the_slice_that_the_definition_names() -> None:
    unit = "torpor@web.service"
    assert placement.expected(None, unit) == UNIT_PAYLOAD
    assert placement.expected("a-b.slice", unit) == f"/a.slice/a-b.slice/{unit}/payload"
    assert placement.expected(slices.ROOT, unit) == f"/{unit}/payload"


@pytest.mark.parametrize(
    "words", ["", "Unit", "unit:", "none:/a", "systemd:x", "cgroupfs", "cgroupfs:", "cgroupfs:/"]
)
def test_other_places_are_refused_in_their_line(words: str) -> None:
    with pytest.raises(WrongError) as caught:
        parse(words)
    assert caught.value.line == 3


@pytest.mark.parametrize("char", ["\t", "\n"])
def test_a_parent_that_a_plan_cannot_hold_is_refused(char: str) -> None:
    with pytest.raises(TorporError, match="tab"):
        place(parse(f"cgroupfs:/a{char}b"))


@cases(500)
@given(st.lists(st.sampled_from([*"/:.a", "unit", "cgroupfs", "none"]), max_size=6).map("".join))
def test_any_words_are_a_place_below_the_root_or_wrong(words: str) -> None:
    try:
        found = place(parse(words))
    except WrongError:
        return
    if preparation.CGROUP_IN_UNIT in dict(found.plan):
        return
    cgroup = dict(found.plan).get(preparation.CGROUP, found.cgroups_path)
    assert cgroup.startswith("/")
    assert cgroup.rpartition("/")[2] in ("payload", "torpor-web")
    assert ".." not in cgroup.split("/")


@pytest.mark.parametrize(
    ("how", "name"), [("none", "supervisor"), ("cgroupfs", "web.slice"), ("cgroupfs", "a.service")]
)
def test_a_name_that_is_somebody_elses_there_is_refused(how: str, name: str) -> None:
    with pytest.raises(WrongError):
        placement.place(Placement(how, "/torpor.slice"), name, None, "/unit/payload")
