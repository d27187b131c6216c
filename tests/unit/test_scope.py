"""What the cgroup hook asks of a container's place, and what it makes of its annotations."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import annotations, go_regexp, hierarchy, oci_hook, resources, scope, slices
from torpor.errors import DefinitionError, RuntimeFailedError, TorporError
from torpor.hooks import cgroup as hook
from torpor.oci_state import OciState
from torpor.scope import Place
from torpor.values import WrongError

SHIPPED = Path(__file__).parents[2] / "packaging/hooks.d/50-torpor-cgroup.json"
WEB = "/torpor.slice/torpor-web.slice"


def place(path: str, mount: str = "") -> Place:
    return Place(path, mount)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        (f"{WEB}/runc-web.scope", "runc-web.scope"),
        (f"{WEB}/libpod-0a1.scope/container", "libpod-0a1.scope"),
        ("/system.slice/web.service/payload", "web.service"),
        (f"{WEB}/runc-web.scope/init.scope", "runc-web.scope"),
        (f"{WEB}/web", ""),
        (f"{WEB}/web/init.scope", ""),
        (WEB, ""),
        ("/init.scope", "init.scope"),
        ("/", ""),
    ],
)
def test_the_unit_is_the_topmost_below_the_slices(path: str, unit: str) -> None:
    assert place(path).unit == unit


@pytest.mark.parametrize(
    ("path", "slice", "is_in"),
    [
        (f"{WEB}/runc-web.scope", "torpor-web.slice", True),
        (f"{WEB}/runc-web.scope", "torpor.slice", True),
        (f"{WEB}/web", "torpor-web.slice", True),
        (WEB, "torpor-web.slice", True),
        (f"{WEB}/runc-web.scope", "-.slice", True),
        ("/", "-.slice", True),
        ("/system.slice/runc-web.scope", "torpor-web.slice", False),
        ("/torpor.slice/torpor-web2.slice/a.scope", "torpor-web.slice", False),
        ("/torpor-web.slice/a.scope", "torpor-web.slice", False),
        ("/torpor.slice/torpor-web.slice.slice/a.scope", "torpor-web.slice", False),
        ("/a.scope/torpor.slice/torpor-web.slice", "torpor-web.slice", False),
        (f"/system.slice/a.service{WEB}/b.scope", "torpor-web.slice", False),
        (f"{WEB}/a.scope", "torpor-web", False),
        (f"{WEB}/a.scope", "torpor.slice/torpor-web.slice", False),
        (f"{WEB}/a.scope", "a.scope", False),
        ("/a.slice/a-.slice/a--b.slice/c.scope", "a--b.slice", False),
        ("/", "torpor.slice", False),
        ("/", "", False),
        (f"{WEB}/a.scope", "", False),
    ],
)
def test_in_a_slice_is_where_systemd_puts_it_and_below(path: str, slice: str, is_in: bool) -> None:
    assert place(path).is_in(slice) == is_in


@given(st.from_regex(r"[a-z]{1,3}(-[a-z]{1,3}){0,3}\.slice", fullmatch=True))
@cases(300)
def test_a_slices_path_is_that_of_a_definitions_slice(name: str) -> None:
    slices.validate(name)
    assert place(f"{hierarchy.slice_path(name)}/a.scope").is_in(name)


@given(st.text(alphabet="ab-/.", max_size=8), st.sampled_from(["", ".slice"]))
@cases(500)
def test_what_is_no_slices_name_holds_no_container(stem: str, suffix: str) -> None:
    name = stem + suffix
    try:
        slices.validate(name)
    except WrongError:
        assert not place(f"/{name}/a.scope").is_in(name)
        assert not place("/a.scope").is_in(name)


@pytest.mark.parametrize(
    ("content", "is_v2", "path"),
    [
        ("0::/a.slice/b.scope\n", True, "/a.slice/b.scope"),
        ("9:name=systemd:/x\n4:memory:/m\n0::/a.slice\n", True, "/a.slice"),
        ("9:name=systemd:/x:y\n4:memory:/m\n0::/\n", False, "/x:y"),
        ("4:memory:/m\n", True, ""),
        ("10::/a\n", True, ""),
        ("", True, ""),
        ("4:memory:/m\n0::/\n", False, ""),
    ],
)
def test_the_path_is_that_in_systemds_hierarchy(content: str, is_v2: bool, path: str) -> None:
    assert scope.path_in(content, is_v2=is_v2) == path


def test_a_process_that_is_gone_has_no_place() -> None:
    with pytest.raises(RuntimeFailedError, match="is in no cgroup that can be seen here: none"):
        scope.of_process((1 << 22) - 1)


def test_our_own_processes_have_no_user_namespace_of_their_own() -> None:
    assert scope.host_root(os.getpid()) is None


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    directory = tmp_path / "a.scope"
    directory.mkdir()
    for name in ("cgroup.procs", "cgroup.subtree_control", "memory.max"):
        (directory / name).touch()
    return directory


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
def test_only_what_may_be_delegated_is_handed_over(cgroup: Path) -> None:
    assert place("/a.scope", str(cgroup.parent)).hand_over(1234, 5678)
    given = {entry.name for entry in cgroup.iterdir() if entry.stat().st_uid == 1234}
    assert given == {"cgroup.procs", "cgroup.subtree_control"}
    assert (cgroup.stat().st_uid, cgroup.stat().st_gid) == (1234, 5678)
    assert cgroup.parent.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
def test_what_the_runtime_handed_over_is_left_alone(cgroup: Path) -> None:
    os.chown(cgroup, 99, -1)
    assert not place("/a.scope", str(cgroup.parent)).hand_over(1234, 5678)
    assert (cgroup / "cgroup.procs").stat().st_uid == 0


def test_without_cgroup_v2_nothing_is_handed_over() -> None:
    assert not place("/a.scope").hand_over(1234, 5678)


def test_annotations_of_others_ask_for_nothing() -> None:
    request = annotations.parse({"io.torpor.name": "web", "io.torpor.slices": "x", "run": ""})
    assert (request.slice, request.limits) == ("", {})


def test_a_slice_and_limits_are_asked_for_by_annotations() -> None:
    asked = {annotations.SLICE: "a.slice", annotations.RESOURCES + "tasks-max": "5"}
    request = annotations.parse(asked)
    assert (request.slice, request.limits) == ("a.slice", {"tasks-max": "5"})


@pytest.mark.parametrize(
    "asked", [{annotations.SLICE: ""}, {annotations.RESOURCES + "tasks-max": "5"}]
)
def test_limits_without_a_slice_are_not_passed_over(asked: dict[str, str]) -> None:
    with pytest.raises(DefinitionError, match=r"io\.torpor\.slice is missing or empty"):
        annotations.parse(asked)


def test_a_comma_separates_the_elements_of_a_list() -> None:
    asked = {"allowed-cpus": "0-1, 3", "ip-address-allow": "localhost,10.0.0.1"}
    assert resources.unit_lines(annotations.resources(asked)) == [
        "AllowedCPUs=0-1 3",
        "IPAddressAllow=localhost",
        "IPAddressAllow=10.0.0.1/32",
    ]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("memory-max", "1Q", "io.torpor.resources.memory-max: memory-max: '1Q' is not a size"),
        ("memory-max", "1G,2G", "memory-max: is a list, but must be a single value"),
        ("memory-maxx", "1G", "'memory-maxx' is unknown here"),
        ("", "1G", "io.torpor.resources.: '' is unknown here"),
        ("oom-policy", "kill", "oom-policy: systemd cannot change this"),
        ("tasks-max", "", "'' is not a number of tasks"),
        ("io-device-weight", "/dev/a\0b 5", "holds a control character"),
        ("x\n\ud800", "1", r"io.torpor.resources.x\n\ud800: 'x\n"),
    ],
)
def test_a_wrong_limit_names_its_annotation(key: str, value: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        annotations.resources({key: value})
    assert problem in caught.value.message
    assert caught.value.message.startswith("annotation io.torpor.resources.")
    assert caught.value.message.isprintable()


keys = st.sampled_from(sorted(resources.KEYS)) | st.text(max_size=6)
words = st.text(max_size=12) | st.sampled_from(
    ["5", "1G", "50%", "infinity", "idle", "0-3,8", "/dev/null 1M", "any", "10.0.0.0/8", "kill"]
)


@given(st.dictionaries(keys, st.lists(words, max_size=3).map(",".join), max_size=3))
@cases(600)
def test_whatever_is_asked_for_is_properties_or_one_message(limits: dict[str, str]) -> None:
    try:
        found = resources.bus_properties(annotations.resources(limits))
    except DefinitionError as error:
        assert error.message.isprintable() and len(error.message) < 500
    else:
        assert all("\0" not in repr(value) for _, signature, value in found if signature == "s")


def told(slice: str, pid: int = 7, id: str = "web", **limits: str) -> OciState:
    asked = {annotations.RESOURCES + key.replace("_", "-"): text for key, text in limits.items()}
    return OciState(id, "creating", pid, "/b", {annotations.SLICE: slice} | asked)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is set on which unit; the container's cgroup is WEB/runc-web.scope."""
    found: list[Any] = []
    where = {os.getpid(): "/init.scope"}
    monkeypatch.setattr(
        scope, "of_process", lambda pid: place(where.get(pid, f"{WEB}/runc-web.scope"))
    )
    monkeypatch.setattr(scope, "host_root", lambda pid: None)
    monkeypatch.setattr(scope, "set_properties", lambda *given: found.append(given))
    return found


def test_limits_are_set_on_the_scope(calls: list[Any]) -> None:
    hook._confine(told("torpor-web.slice", tasks_max="5"))
    assert calls == [("runc-web.scope", [("TasksMax", "t", 5)])]


def test_limits_without_a_unit_are_refused(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "of_process", lambda pid: place(f"{WEB}/web"))
    hook._confine(told("torpor-web.slice"))
    with pytest.raises(TorporError, match="its limits have no unit to be set on"):
        hook._confine(told("torpor-web.slice", tasks_max="5"))
    assert calls == []


def test_without_limits_systemd_is_not_asked(calls: list[Any]) -> None:
    hook._confine(told("torpor-web.slice"))
    assert calls == []


def test_a_container_elsewhere_is_told_where_it_is_and_how_to_run_it(calls: list[Any]) -> None:
    with pytest.raises(TorporError) as caught:
        hook._confine(told("torpor-db.slice", tasks_max="5"))
    assert caught.value.message == (
        f"it is not in torpor-db.slice: its cgroup is {WEB}/runc-web.scope, "
        "but must be below /torpor.slice/torpor-db.slice"
    )
    assert '"torpor-db.slice:runc:web"' in caught.value.hint
    assert "--cgroup-parent=torpor-db.slice" in caught.value.hint
    assert calls == []


def test_a_slice_that_is_none_is_the_fault(calls: list[Any]) -> None:
    with pytest.raises(DefinitionError, match=r"annotation io\.torpor\.slice: 'web' is not a name"):
        hook._confine(told("web"))


def test_a_container_without_a_process_is_at_the_wrong_stage(calls: list[Any]) -> None:
    with pytest.raises(TorporError, match="has no process"):
        hook._confine(told("torpor-web.slice", pid=0))


@pytest.mark.parametrize("handed_over", [True, False])
@pytest.mark.parametrize("delegated", [True, False])
def test_a_unit_without_delegation_that_root_of_the_container_gets_is_worth_a_warning(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, handed_over: bool, delegated: bool
) -> None:
    owners: list[tuple[int, ...]] = []

    def hand_over(self: Place, *owner: int) -> bool:
        owners.append(owner)
        return handed_over

    monkeypatch.setattr(scope, "host_root", lambda pid: (1234, 5678))
    monkeypatch.setattr(Place, "hand_over", hand_over)
    monkeypatch.setattr(Place, "has_delegation", lambda self: delegated)
    monkeypatch.setattr(hook, "_warn", calls.append)
    hook._confine(told("torpor-web.slice"))
    assert owners == [(1234, 5678)]
    assert bool(calls) == (handed_over and not delegated)


def test_the_cgroup_of_whoever_runs_the_runtime_is_not_handed_over(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "of_process", lambda pid: place(f"{WEB}/session-1.scope"))
    monkeypatch.setattr(scope, "host_root", lambda pid: (1234, 5678))
    monkeypatch.setattr(Place, "hand_over", lambda self, *owner: pytest.fail("handed over"))
    hook._confine(told("torpor-web.slice"))


def test_the_shipped_hook_file_is_for_containers_that_ask() -> None:
    found = oci_hook.parse(str(SHIPPED), SHIPPED.read_bytes())
    assert (found.path, found.stages, found.is_ours) == (
        "/usr/libexec/torpor/hooks/cgroup",
        ("createRuntime",),
        True,
    )
    ((key, value),) = found.when.annotations
    asked = [annotations.SLICE, annotations.RESOURCES + "tasks-max"]
    assert all(go_regexp.matches(key, name) for name in asked)
    assert not any(go_regexp.matches(key, name) for name in ("io.torpor.name", "xio.torpor.slice"))
    assert go_regexp.matches(value, "torpor-web.slice") and go_regexp.matches(value, "")
    assert json.loads(SHIPPED.read_text())["hook"]["timeout"] == 10
