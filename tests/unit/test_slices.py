"""A slice's name is one that systemd and runc take, or the reason why not is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import hierarchy, slices
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Scalar, Sequence


def parsed(words: str) -> str:
    return slices.parse_slice(Scalar(1, words, absent=False))


def refused(words: str) -> WrongError:
    with pytest.raises(WrongError) as caught:
        parsed(words)
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "a.slice",
        "torpor-web.slice",
        "a.b:c_d.slice",
        r"a\x2db.slice",
        "-.slice",
        "x" * 249 + ".slice",
    ],
)
def test_a_name_that_systemd_takes_is_taken_as_it_is(name: str) -> None:
    assert parsed(name) == name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("/a.slice/a-b.slice", "a-b.slice"),
        ("a.slice/a-b.slice", "a-b.slice"),
        ("/a.slice/", "a.slice"),
        ("/a.slice", "a.slice"),
    ],
)
def test_of_a_cgroup_path_the_last_part_counts(words: str, name: str) -> None:
    assert parsed(words) == name


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "ends in .slice"),
        ("/", "ends in .slice"),
        ("web", "ends in .slice"),
        (".slice", "ends in .slice"),
        ("web.service", "ends in .slice"),
        ("a--b.slice", "dash"),
        ("-a.slice", "dash"),
        ("a-.slice", "dash"),
        ("--.slice", "dash"),
        ("a b.slice", "holds ' '"),
        ("a@b.slice", "holds '@'"),
        ("a%i.slice", "holds '%'"),
        ("ä.slice", "holds 'ä'"),
        ("a\nb.slice", r"holds '\n'"),
        ("a\\b.slice", "no escape"),
        ("x" * 250 + ".slice", "256 bytes"),
        ("/b.slice/a.slice", "not where systemd puts"),
        ("/a-b.slice", "not where systemd puts"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_reason(words: str, reason: str) -> None:
    wrong = refused(words)
    assert reason in wrong.problem
    assert wrong.hint


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.slice", "/a.slice"),
        ("a-b.slice", "/a.slice/a-b.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", "/"),
    ],
)
def test_each_dash_is_a_level_of_the_cgroup_tree(name: str, path: str) -> None:
    assert hierarchy.slice_path(name) == path


@pytest.mark.parametrize("node", [Sequence(1, []), Mapping(1, {}), Scalar(1, "", absent=True)])
def test_only_a_single_value_is_a_slice(node: Mapping | Sequence | Scalar) -> None:
    with pytest.raises(WrongError):
        slices.parse_slice(node)


WORDS = st.text(st.sampled_from("ab-_.\\x2d/@ \n%ä")) | st.text()


@cases(800)
@given(WORDS, st.booleans())
def test_any_text_is_a_good_name_or_refused_with_one_line(words: str, suffixed: bool) -> None:
    try:
        name = parsed(words + ".slice" * suffixed)
    except WrongError as wrong:
        assert "\n" not in wrong.problem + wrong.hint
        return
    assert hierarchy.slice_path(name).startswith("/")
    assert parsed(hierarchy.slice_path(name) if name != slices.ROOT else name) == name
    assert not set(name) & set("/ \n%@")
