"""A limit is what setrlimit(2) takes; what it would refuse is refused while it can be explained."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import rlimits, yaml_tree
from torpor.errors import DefinitionError
from torpor.rlimits import INFINITY, Rlimit
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node, Scalar


def node(text: str) -> Node:
    return yaml_tree.read("web.yaml", f"key: {text}".encode()).entries["key"][1]


def parsed(text: str) -> tuple[Rlimit, ...]:
    return rlimits.parse(node(text))


def test_one_number_is_both_limits() -> None:
    assert parsed("{nofile: 1024}") == (Rlimit("RLIMIT_NOFILE", 1024, 1024),)


@pytest.mark.parametrize("name", ["core", "CORE", "RLIMIT_CORE", "rlimit_core"])
def test_a_name_is_that_of_the_manual_in_any_case(name: str) -> None:
    assert parsed(f"{{{name}: 0:unlimited}}") == (Rlimit("RLIMIT_CORE", 0, INFINITY),)


@pytest.mark.parametrize("word", ["unlimited", "infinity", "Infinity", str(INFINITY)])
def test_no_limit_is_the_largest_number_of_64_bits(word: str) -> None:
    assert parsed(f"{{memlock: {word}}}") == (Rlimit("RLIMIT_MEMLOCK", INFINITY, INFINITY),)


def test_the_order_in_which_limits_are_written_changes_nothing() -> None:
    assert parsed("{stack: 1, as: 2}") == parsed("{as: 2, stack: 1}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{nofil: 1}", "Did you mean 'nofile'?"),
        ("{memlock: 64M}", "SOFT:HARD"),
        ("{memlock: -1}", "unlimited"),
        ("{memlock: '1:'}", "SOFT:HARD"),
        ("{memlock: ':1'}", "SOFT:HARD"),
        ("{memlock: '1:2:3'}", "SOFT:HARD"),
        (f"{{memlock: {INFINITY + 1}}}", "SOFT:HARD"),
        ("{memlock: ٣}", "SOFT:HARD"),
        ("{core: 2:1}", "soft limit first"),
        ("{core: unlimited:1}", "soft limit first"),
        ("{core: 1, RLIMIT_CORE: 1}", "Remove one"),
        ("{nofile: 1:unlimited}", "/proc/sys/fs/nr_open"),
        ("nofile", "NAME: VALUE"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_with_a_way_out(text: str, words: str) -> None:
    with pytest.raises(WrongError) as caught:
        parsed(text)
    assert words in caught.value.hint


def test_a_limit_replaces_the_bundles_of_its_type_and_leaves_the_others() -> None:
    base: list[Any] = [
        {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1},
        {"type": "RLIMIT_CORE", "soft": 2, "hard": 2},
        "odd",
        {"type": []},
    ]
    assert rlimits.section(base, parsed("{nofile: 5:6}")) == [
        *base[1:],
        {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
    ]


def test_the_default_of_a_rootfs_is_that_of_runc_spec() -> None:
    expected = [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}]
    assert rlimits.section([], rlimits.DEFAULT) == expected


@pytest.mark.parametrize(
    ("text", "value"), [("022", 18), ("0022", 18), ("22", 18), ("0", 0), ("777", 511)]
)
def test_a_umask_is_octal(text: str, value: int) -> None:
    assert rlimits.umask(node(text)) == value


@pytest.mark.parametrize("text", ["8", "1000", "01777", "-1", "''", "0o22", "u=rwx", "[22]", "~"])
def test_what_is_no_umask_is_refused(text: str) -> None:
    with pytest.raises(WrongError):
        rlimits.umask(node(text))


pieces = ["nofile", "core", "RLIMIT_AS", ": ", ":", ", ", "0", "7", "unlimited", "{", "}", "-", "é"]
limits = ["1", "7", ":", "unlimited", "infinity", "18446744073709551615", "9", "-", " ", "٣", "M"]


@cases(600)
@given(st.lists(st.sampled_from(pieces), max_size=10).map("".join))
def test_whatever_is_written_is_limits_or_one_clear_error(text: str) -> None:
    try:
        found = parsed("{" + text + "}")
    except (WrongError, DefinitionError) as error:
        assert str(error).isprintable()
    else:
        assert len({limit.type for limit in found}) == len(found)


@cases(600)
@given(st.lists(st.sampled_from(limits), max_size=5).map("".join))
def test_whatever_amount_is_written_is_a_sound_limit_or_one_clear_error(text: str) -> None:
    entries: dict[str, tuple[int, Node]] = {"as": (1, Scalar(1, text, absent=not text))}
    try:
        (found,) = rlimits.parse(Mapping(1, entries))
    except WrongError as error:
        assert str(error).isprintable()
    else:
        assert 0 <= found.soft <= found.hard <= INFINITY


@cases(300)
@given(st.lists(st.sampled_from("0123456789x -é٣"), max_size=6).map("".join))
def test_whatever_is_written_is_a_umask_or_one_clear_error(text: str) -> None:
    try:
        assert 0 <= rlimits.umask(Scalar(1, text, absent=False)) <= 0o777
    except WrongError as error:
        assert str(error).isprintable()
