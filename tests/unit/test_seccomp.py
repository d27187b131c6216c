"""A profile in either form becomes what runc reads; a wrong one is named with its key."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import seccomp, yaml_tree
from torpor.errors import DefinitionError
from torpor.seccomp import Facts, Seccomp
from torpor.values import WrongError

MACHINE = Facts("x86_64", (6, 1), frozenset({"CAP_KILL"}))
RULE = {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}
DENY = {"defaultAction": "SCMP_ACT_ERRNO"}


def parsed(text: str) -> Seccomp:
    return seccomp.parse(yaml_tree.read("web.yaml", f"k: {text}".encode()).entries["k"][1])


def rendered(profile: object, machine: Facts = MACHINE) -> dict[str, Any]:
    return seccomp.section("/p.json", json.dumps(profile).encode(), machine)


def refused(content: bytes) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        seccomp.section("/p.json", content, MACHINE)
    assert caught.value.message.startswith("/p.json: ")
    assert caught.value.exit_code == os.EX_CONFIG
    return caught.value


def applies(machine: Facts = MACHINE, **conditions: object) -> bool:
    return "syscalls" in rendered(DENY | {"syscalls": [RULE | conditions]}, machine)


def test_a_definition_names_a_profile_or_none() -> None:
    assert parsed("unconfined") == Seccomp(None)
    assert parsed("/etc//p.json") == Seccomp("/etc/p.json")


@pytest.mark.parametrize("text", ["p.json", "Unconfined", "''", "[/p]", "/a/../p", ""])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(WrongError):
        parsed(text)


def test_the_form_of_the_specification_stays_as_it_is() -> None:
    argument = {"index": 0, "value": 1 << 63, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "listenerPath": "/run/listener",
        "listenerMetadata": "x",
        "syscalls": [RULE, RULE | {"errnoRet": 1, "args": [argument]}],
    }
    assert rendered(profile) == profile


def test_no_flags_are_not_the_default_flags() -> None:
    assert rendered(DENY | {"flags": []}) == DENY | {"flags": []}
    assert rendered(DENY | {"flags": None}) == DENY


def test_of_an_architecture_map_the_machines_entry_is_taken() -> None:
    arch_map = [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None},
        {"architecture": "SCMP_ARCH_PARISC64", "subArchitectures": ["SCMP_ARCH_PARISC"]},
    ]
    profile = DENY | {"archMap": arch_map}
    assert rendered(profile)["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert rendered(profile, Facts("riscv64", (6, 1), ()))["architectures"] == ["SCMP_ARCH_RISCV64"]
    assert "architectures" not in rendered(profile, Facts("s390x", (6, 1), ()))


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("armv6l", "arm"), ("armv7l", "arm"), ("i586", "x86"), ("mips64el", "mipsel64")],
)
def test_a_machine_has_libseccomps_name(machine: str, arch: str) -> None:
    assert applies(Facts(machine, (6, 1), ()), includes={"arches": [arch]})


def test_a_rule_for_other_machines_is_left_out() -> None:
    assert applies(includes={"arches": ["arm64", "amd64"]})
    assert not applies(includes={"arches": ["arm64"]})
    assert not applies(excludes={"arches": ["amd64"]})


def test_a_rule_needs_all_capabilities_that_it_includes_and_none_that_it_excludes() -> None:
    assert applies(includes={"caps": ["CAP_KILL"]})
    assert not applies(includes={"caps": ["CAP_KILL", "CAP_CHOWN"]})
    assert applies(excludes={"caps": ["CAP_CHOWN"]})
    assert not applies(excludes={"caps": ["CAP_CHOWN", "CAP_KILL"]})


@pytest.mark.parametrize(("version", "is_met"), [("4.8", True), ("6.1", True), ("6.10", False)])
def test_a_rule_for_newer_kernels_is_left_out(version: str, is_met: bool) -> None:
    assert applies(includes={"minKernel": version}) is is_met
    assert applies(excludes={"minKernel": version}) is not is_met


@pytest.mark.parametrize(
    ("said", "number"),
    [({"errno": "EPERM"}, 1), ({"errno": "38"}, 38), ({"errnoRet": 5}, 5)],
)
def test_an_error_is_a_name_or_a_number(said: dict[str, object], number: int) -> None:
    (rule,) = rendered(DENY | {"syscalls": [RULE | said]})["syscalls"]
    assert rule["errnoRet"] == number
    assert "errno" not in rule


def test_the_name_of_an_error_wins_over_its_number() -> None:
    profile = DENY | {"defaultErrno": "ENOSYS", "defaultErrnoRet": 1}
    assert rendered(profile)["defaultErrnoRet"] == 38


def test_the_old_spelling_of_a_rule_is_understood() -> None:
    rule = {"name": "read", "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}}
    expected = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    assert rendered(DENY | {"syscalls": [rule]})["syscalls"] == [expected]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"defaultAction": "SCMP_ACT_EXPLODE"}, "defaultAction is 'SCMP_ACT_EXPLODE'"),
        ({"defaultAction": None}, "defaultAction is missing"),
        ({"defaultErrno": "ENOPE"}, "defaultErrno is 'ENOPE'"),
        ({"defaultErrno": "errorcode"}, "defaultErrno is 'errorcode'"),
        ({"defaultErrnoRet": True}, "defaultErrnoRet is not a whole number"),
        ({"architectures": ["SCMP_ARCH_X68"]}, "architectures[0] is 'SCMP_ARCH_X68'"),
        ({"architectures": [7]}, "architectures[0] is not text"),
        (
            {"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["x"]}]},
            "archMap[0].subArchitectures[0] is 'x'",
        ),
        ({"flags": "x"}, "flags is not a list"),
        ({"syscals": []}, "syscals is unknown"),
        ({"syscalls": [RULE, {"names": ["a"]}]}, "syscalls[1].action is missing"),
        ({"syscalls": [{"action": "SCMP_ACT_LOG"}]}, "syscalls[0].names is missing"),
        ({"syscalls": [RULE | {"name": "a"}]}, "syscalls[0].name and names exclude"),
        ({"syscalls": [RULE | {"names": [""]}]}, "syscalls[0].names[0] is not text"),
        ({"syscalls": [RULE | {"exclude": {}}]}, "syscalls[0].exclude is unknown"),
        ({"syscalls": ["read"]}, "syscalls[0] is not an object"),
        (
            {"syscalls": [RULE | {"args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]},
            "syscalls[0].args[0].index is not a whole number from 0 to 5",
        ),
        (
            {"syscalls": [RULE | {"args": [{"index": 0, "value": 1.5, "op": "SCMP_CMP_EQ"}]}]},
            "syscalls[0].args[0].value is not",
        ),
        (
            {"syscalls": [RULE | {"args": [{"index": 0, "op": "SCMP_CMP_EQ"}]}]},
            "syscalls[0].args[0].value is missing",
        ),
        (
            {"syscalls": [RULE | {"includes": {"minKernel": "4"}}]},
            "syscalls[0].includes.minKernel is '4'",
        ),
        (
            {
                "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}],
            },
            "archMap and architectures exclude",
        ),
    ],
)
def test_a_wrong_profile_is_refused_with_its_key(change: dict[str, Any], problem: str) -> None:
    error = refused(json.dumps(DENY | change).encode())
    assert error.message.startswith(f"/p.json: {problem}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_LOG"}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": NaN}',
        b'{"defaultErrnoRet": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a\\u0000b": 1}',
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(content: bytes) -> None:
    assert refused(content).message.isprintable()


def test_a_rule_is_checked_even_where_it_does_not_apply() -> None:
    rule = RULE | {"includes": {"arches": ["arm64"]}, "errno": "ENOPE"}
    assert "ENOPE" in refused(json.dumps(DENY | {"syscalls": [rule]}).encode()).message


@pytest.mark.parametrize("kind", ["missing", "fifo", "directory", "large"])
def test_a_profile_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        path.write_bytes(b" " * (seccomp.SIZE_LIMIT_BYTES + 1))
    with pytest.raises(DefinitionError) as caught:
        seccomp.read(str(path))
    assert caught.value.message.startswith(f"{path}: cannot read the seccomp profile: ")


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.12.3-amd64", (6, 12)), ("5.4", (5, 4)), ("6.1-rc1+", (6, 1)), ("plan9", (0, 0))],
)
def test_a_kernel_has_the_version_of_its_release(release: str, version: tuple[int, int]) -> None:
    assert seccomp.kernel_version(release) == version


def test_this_machine_is_one_that_profiles_can_ask_about() -> None:
    machine = seccomp.facts(("CAP_KILL",))
    assert machine.kernel > (2, 6)
    assert machine.capabilities == ("CAP_KILL",)


KEYS = (*seccomp._PROFILE_KEYS, *seccomp._RULE_KEYS, *seccomp._CONDITION_KEYS)
tokens = [
    *(f'"{key}": ' for key in KEYS),
    *('"SCMP_ACT_ALLOW"', '"EPERM"', '"4.8"', "null", "1", "-1", "1.5", "true", "[]", "{}"),
    *("[", "]", "{", "}", ", ", '"syscalls": [', '{"names": ["read"], ', '"\\ud800"'),
]


@cases(800)
@given(st.lists(st.sampled_from(tokens), max_size=10).map("".join))
def test_whatever_a_file_holds_is_a_profile_or_one_clear_error(text: str) -> None:
    content = '{"defaultAction": "SCMP_ACT_LOG", ' + text + "}"
    try:
        found = seccomp.section("/p.json", content.encode(), MACHINE)
    except DefinitionError as error:
        assert error.message.isprintable()
    else:
        assert found["defaultAction"] == "SCMP_ACT_LOG"


wrong: list[object] = [
    *(None, True, -1, 1 << 64, 0.5, "", "x", "\ud800"),
    *([], [1], [""], ["x"], [[]], {}, {"a": 1}),
]


@cases(500)
@given(st.sampled_from(KEYS), st.sampled_from(wrong), st.booleans())
def test_whatever_a_key_holds_is_a_profile_or_one_clear_error(
    key: str, value: object, in_rule: bool
) -> None:
    rule: dict[str, Any] = {**RULE, "includes": {}, "args": []}
    change = {"syscalls": [rule | {key: value, "excludes": {key: value}}]}
    try:
        rendered(DENY | (change if in_rule else {key: value}))
    except DefinitionError as error:
        assert error.message.isprintable()
