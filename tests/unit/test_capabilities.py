"""A process has the capabilities that its definition says, and keeps them over an execve(2)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import capabilities, yaml_tree
from torpor.capabilities import DEFAULT, NAMES, Capabilities
from torpor.errors import DefinitionError
from torpor.values import WrongError

ROOT_SETS = {"bounding", "effective", "permitted"}
ALL_SETS = ROOT_SETS | {"inheritable", "ambient"}


def parsed(text: str) -> Capabilities:
    return capabilities.parse(yaml_tree.read("web.yaml", f"k: {text}".encode()).entries["k"][1])


def from_rootfs(text: str, uid: int = 0) -> dict[str, list[str]]:
    return capabilities.section(None, parsed(text), uid)


def test_root_of_a_rootfs_has_the_set_of_runc_spec() -> None:
    expected = {name: list(DEFAULT) for name in ROOT_SETS}
    assert capabilities.section(None, None, 0) == expected


def test_another_user_of_a_rootfs_is_only_bounded_by_it() -> None:
    found = capabilities.section(None, None, 33)
    assert found == {"bounding": list(DEFAULT), "effective": [], "permitted": []}


def test_a_list_is_all_that_root_has() -> None:
    found = from_rootfs("[chown, CAP_KILL]")
    assert found == {name: ["CAP_CHOWN", "CAP_KILL"] for name in ROOT_SETS}


def test_an_empty_list_is_none() -> None:
    assert from_rootfs("[]") == {name: [] for name in ROOT_SETS}


def test_another_user_can_use_what_is_listed_because_it_is_ambient() -> None:
    found = from_rootfs("[net_bind_service]", uid=33)
    assert found == {name: ["CAP_NET_BIND_SERVICE"] for name in ALL_SETS}


def test_what_is_added_for_another_user_is_ambient_and_the_base_is_not() -> None:
    found = from_rootfs("{add: sys_nice}", uid=33)
    assert found["bounding"] == sorted([*DEFAULT, "CAP_SYS_NICE"])
    assert found["ambient"] == found["inheritable"] == found["effective"] == ["CAP_SYS_NICE"]


def test_what_is_dropped_is_in_no_set() -> None:
    base = {name: ["CAP_KILL", "CAP_CHOWN"] for name in ALL_SETS}
    found = capabilities.section(base, parsed("{drop: [KILL]}"), 0)
    assert found == {name: ["CAP_CHOWN"] for name in ALL_SETS}


def test_a_bundle_that_the_definition_does_not_change_keeps_its_sets() -> None:
    base = {"bounding": ["CAP_KILL"], "ambient": ["CAP_FUTURE"], "effective": None}
    found = capabilities.section(base, None, 0)
    assert found == {
        "bounding": ["CAP_KILL"],
        "effective": [],
        "permitted": [],
        "ambient": ["CAP_FUTURE"],
    }


def test_root_of_a_bundle_gains_what_is_added_but_not_as_ambient() -> None:
    base = {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}
    found = capabilities.section(base, parsed("{add: [chown]}"), 0)
    assert found == {name: ["CAP_CHOWN", "CAP_KILL"] for name in ROOT_SETS}


def test_drop_all_and_add_some_is_a_list_of_some() -> None:
    assert parsed("{drop: all, add: [chown]}") == parsed("[CHOWN]")


def test_all_but_some_is_what_the_machine_has_but_some() -> None:
    wanted = parsed("{add: ALL, drop: [sys_admin]}")
    found = capabilities.section(None, wanted, 0, {"CAP_SYS_ADMIN", "CAP_BPF"})
    assert found["bounding"] == sorted({*DEFAULT, "CAP_BPF"})


def test_a_list_of_all_is_no_more_than_the_machine_has() -> None:
    found = capabilities.section(None, parsed("ALL"), 0, {"CAP_BPF"})
    assert found == {name: ["CAP_BPF"] for name in ROOT_SETS}


def test_drop_all_takes_names_that_only_the_bundle_knows() -> None:
    found = capabilities.section({"bounding": ["CAP_FUTURE"]}, parsed("{drop: [ALL]}"), 0)
    assert found["bounding"] == []


@pytest.mark.parametrize(
    "base", [{"bounding": "CAP_KILL"}, {"ambient": [1]}, {"effective": {}}, "CAP_KILL", []]
)
def test_what_are_no_sets_of_names_is_refused(base: Any) -> None:  # noqa: ANN401
    with pytest.raises(WrongError, match=r"process.capabilities.* is not"):
        capabilities.section(base, None, 0)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[net_admn]", "Did you mean 'net_admin'?"),
        ("[SYSADMIN]", "Did you mean 'sys_admin'?"),
        ("[zzz]", "Known: chown, "),
        ("{ad: [chown]}", "Did you mean 'add'?"),
        ("{add: [chown], drop: [CAP_CHOWN]}", "Remove one."),
        ("{add: all, drop: ALL}", "Remove one."),
        ("[[chown]]", ""),
        ("{add: {}}", ""),
        ("", "Remove the key"),
        ("[CAP_]", "Known: "),
    ],
)
def test_what_could_not_be_meant_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(WrongError) as caught:
        parsed(text)
    assert hint in caught.value.hint


def test_the_bits_of_a_mask_are_numbered_as_in_the_kernel() -> None:
    expected = {"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"}
    assert capabilities.named(1 | 1 << 21 | 1 << 40 | 1 << 63) == expected


def test_the_bounding_set_of_this_process_is_one() -> None:
    assert capabilities.bounding_set() <= set(NAMES)


pieces = [
    *("all", "chown", "CAP_KILL", "net_admni", "add: ", "drop: ", "[", "]", "{", "}", ", ", ": "),
    *("add: [all]", "drop: [chown]", "add: bpf", "drop: ALL", "[all]", "é", '""'),
]


@cases(800)
@given(st.lists(st.sampled_from(pieces), max_size=6).map("".join), st.sampled_from([0, 33]))
def test_whatever_is_written_is_sound_sets_or_one_clear_error(text: str, uid: int) -> None:
    try:
        wanted = parsed("{" + text + "}")
    except (WrongError, DefinitionError) as error:
        assert str(error).isprintable()
        return
    sets = {name: set(found) for name, found in capabilities.section(None, wanted, uid).items()}
    # else capset(2) or prctl(2) refuses them
    assert sets["effective"] <= sets["permitted"] <= sets["bounding"] <= set(NAMES)
    assert sets.get("ambient", set()) <= sets["permitted"] & sets.get("inheritable", set())
    assert not sets["bounding"] & wanted.drop


json_values: list[object] = [
    None,
    True,
    1,
    "CAP_KILL",
    [],
    ["CAP_KILL"],
    [1],
    [None],
    {},
    {"a": []},
    [["a"]],
]


@cases(300)
@given(st.dictionaries(st.sampled_from(sorted(ALL_SETS)), st.sampled_from(json_values)))
def test_whatever_a_bundle_holds_is_sets_or_one_clear_error(base: dict[str, Any]) -> None:
    try:
        assert set(capabilities.section(base, None, 0)) >= ROOT_SETS
    except WrongError as error:
        assert str(error).isprintable()
