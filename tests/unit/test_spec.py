"""A rendered config.json is what the definition says; the rest of a bundle stays as it was."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor import spec
from torpor.definition import Definition, parse
from torpor.errors import DefinitionError

FACTS = spec.Facts(cgroup_path="/system.slice/torpor@web.service/payload")
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/false\nbig:x:4294967295:0::/:\nshort:x\n"
)
quick = settings(
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
GROUP = "root:x:0:\nweb:x:34:web\nstaff:x:50:web,other\nlogs:x:4:web\nbad:x:many:\n"


def bundle_config() -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": True,
            "consoleSize": {"height": 1, "width": 1},
            "user": {"uid": 5, "gid": 5, "umask": 18},
            "args": ["/bin/old"],
            "env": ["PATH=/bin", "A=old", "B=kept"],
            "cwd": "/old",
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 7, "soft": 7}],
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "old",
        "annotations": {"org.example": "kept"},
        "linux": {"cgroupsPath": "/elsewhere", "namespaces": [{"type": "pid"}]},
        "x-unknown": [1, {"deep": 1.5}],
    }


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


def define(tmp_path: Path, text: str = "", tree: str = "rootfs") -> Definition:
    if tree == "bundle":
        text = f"bundle: {tmp_path}\n{text}"
    else:
        text = f"rootfs: {tmp_path}/rootfs\ncommand: [/bin/app, x]\n{text}"
    return parse("web", "web.yaml", text.encode())


def from_rootfs(tmp_path: Path, text: str = "") -> dict[str, Any]:
    return spec.render(define(tmp_path, text), None, FACTS).config


def from_bundle(tmp_path: Path, base: dict[str, Any], text: str = "") -> dict[str, Any]:
    return spec.render(define(tmp_path, text, "bundle"), base, FACTS).config


def write_bundle(tmp_path: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "config.json").write_bytes(raw)


def test_a_rootfs_is_named_by_its_real_path_and_is_writable(tmp_path: Path, rootfs: Path) -> None:
    rootfs.rename(tmp_path / "real")
    rootfs.symlink_to("real")
    assert from_rootfs(tmp_path)["root"] == {"path": str(tmp_path / "real"), "readonly": False}


def test_a_link_to_the_root_of_the_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rootfs").symlink_to("/")
    with pytest.raises(DefinitionError, match=r"web\.yaml:1: key 'rootfs': .*root directory"):
        from_rootfs(tmp_path)


def test_a_rootfs_that_is_gone_is_refused_in_its_line(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"^web\.yaml:1: key 'rootfs': "):
        from_rootfs(tmp_path)


def test_the_process_is_what_the_definition_says(tmp_path: Path, rootfs: Path) -> None:
    config = from_rootfs(tmp_path, "cwd: /srv\nhostname: h\nuser: 7:8\nenv: {A: 022}\n")
    process = config["process"]
    assert (process["args"], process["cwd"], config["hostname"]) == (["/bin/app", "x"], "/srv", "h")
    assert process["user"] == {"uid": 7, "gid": 8}
    assert process["env"][1:] == ["HOSTNAME=h", "container=torpor", "A=022"]


def test_there_is_no_terminal_and_no_term(tmp_path: Path, rootfs: Path) -> None:
    process = from_rootfs(tmp_path)["process"]
    assert process["terminal"] is False
    assert not any(entry.startswith("TERM=") for entry in process["env"])


def test_the_limits_of_the_unit_are_not_overridden(tmp_path: Path, rootfs: Path) -> None:
    assert "rlimits" not in from_rootfs(tmp_path)["process"]


def test_env_replaces_a_default_variable_in_its_place(tmp_path: Path, rootfs: Path) -> None:
    env = from_rootfs(tmp_path, "env: {PATH: /app, container: x}")["process"]["env"]
    assert env == ["PATH=/app", "HOSTNAME=web", "container=x"]


def test_the_hostname_is_the_containers_name_by_default(tmp_path: Path, rootfs: Path) -> None:
    assert from_rootfs(tmp_path)["hostname"] == "web"


def test_the_container_is_in_the_units_cgroup_and_carries_its_name(
    tmp_path: Path, rootfs: Path
) -> None:
    config = from_rootfs(tmp_path)
    assert config["linux"]["cgroupsPath"] == FACTS.cgroup_path
    assert config["annotations"] == {"io.torpor.name": "web"}


def test_a_stop_signal_is_annotated_as_a_number(tmp_path: Path, rootfs: Path) -> None:
    annotations = from_rootfs(tmp_path, "stop-signal: RTMIN+3")["annotations"]
    assert annotations["org.opencontainers.image.stopSignal"] == "37"


def test_every_namespace_but_user_and_time_is_its_own(tmp_path: Path, rootfs: Path) -> None:
    types = {namespace["type"] for namespace in from_rootfs(tmp_path)["linux"]["namespaces"]}
    assert types == {"pid", "network", "ipc", "uts", "mount", "cgroup"}


def test_root_has_podmans_capabilities_and_another_user_has_none_at_first(
    tmp_path: Path, rootfs: Path
) -> None:
    root = from_rootfs(tmp_path)["process"]["capabilities"]
    other = from_rootfs(tmp_path, "user: 33:33")["process"]["capabilities"]
    assert len(root["effective"]) == 11
    assert root["effective"] == root["permitted"] == root["bounding"] == other["bounding"]
    assert other["effective"] == other["permitted"] == []


def test_two_renderings_share_nothing_that_can_be_changed(tmp_path: Path, rootfs: Path) -> None:
    first = from_rootfs(tmp_path)
    for part in ("mounts", "linux", "process"):
        first[part].clear()
    assert from_rootfs(tmp_path)["linux"]["maskedPaths"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("web", {"uid": 33, "gid": 34, "additionalGids": [4, 50]}),
        ("web:staff", {"uid": 33, "gid": 50}),
        ("web:7", {"uid": 33, "gid": 7}),
        ("33", {"uid": 33, "gid": 34, "additionalGids": [4, 50]}),
        ("33:0", {"uid": 33, "gid": 0}),
        ("1234", {"uid": 1234, "gid": 0}),
        ("1234:staff", {"uid": 1234, "gid": 50}),
        ("root", {"uid": 0, "gid": 0}),
    ],
)
def test_a_user_is_looked_up_in_the_containers_files(
    tmp_path: Path, rootfs: Path, user: str, expected: dict[str, Any]
) -> None:
    assert from_rootfs(tmp_path, f"user: {user}")["process"]["user"] == expected


@pytest.mark.parametrize("user", ["nobody-here", "web:none", "big", "short", "1:bad", "staff"])
def test_a_user_without_a_usable_account_is_refused_in_its_line(
    tmp_path: Path, rootfs: Path, user: str
) -> None:
    with pytest.raises(DefinitionError, match=r"^web\.yaml:4: key 'user': "):
        from_rootfs(tmp_path, f"cwd: /\nuser: {user}")


def test_a_number_needs_no_account_files(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    assert from_rootfs(tmp_path, "user: 1000")["process"]["user"] == {"uid": 1000, "gid": 0}


def test_the_hosts_users_are_not_the_containers(tmp_path: Path, rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to("/../../../../../../etc/group/../passwd")
    with pytest.raises(DefinitionError, match="key 'user'"):
        from_rootfs(tmp_path, "user: root")


def test_an_account_file_that_is_a_fifo_is_refused_without_waiting(
    tmp_path: Path, rootfs: Path
) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    with pytest.raises(DefinitionError, match="not a regular file"):
        from_rootfs(tmp_path, "user: root")


@settings(
    database=None,
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_account_file_ends_in_anything_but_a_definition_error(
    tmp_path: Path, rootfs: Path, passwd: bytes, group: bytes
) -> None:
    (rootfs / "etc/passwd").write_bytes(b"a:" + passwd + b"\n" + passwd.replace(b"\0", b":"))
    (rootfs / "etc/group").write_bytes(b"b:" + group + b"\n" + group.replace(b"\0", b":"))
    for user in ("a", "0", "a:b"):
        try:
            spec.dumps({"user": from_rootfs(tmp_path, f"user: {user}")["process"]["user"]})
        except DefinitionError:
            continue


def test_a_bundle_changes_only_by_what_every_service_needs(tmp_path: Path, rootfs: Path) -> None:
    expected = bundle_config()
    expected["root"]["path"] = str(rootfs)
    expected["process"]["terminal"] = False
    del expected["process"]["consoleSize"]
    expected["linux"]["cgroupsPath"] = FACTS.cgroup_path
    expected["annotations"]["io.torpor.name"] = "web"
    assert from_bundle(tmp_path, bundle_config()) == expected


def test_what_the_definition_says_overrides_the_bundle(tmp_path: Path, rootfs: Path) -> None:
    text = "command: [new]\ncwd: /n\nhostname: new\nuser: web\nenv: {A: new, C: 1}\nstop-signal: 3"
    config = from_bundle(tmp_path, bundle_config(), text)
    process = config["process"]
    assert (process["args"], process["cwd"], config["hostname"]) == (["new"], "/n", "new")
    assert process["env"] == ["PATH=/bin", "A=new", "B=kept", "C=1"]
    assert process["user"] == {"uid": 33, "gid": 34, "additionalGids": [4, 50]}
    assert process["rlimits"] == bundle_config()["process"]["rlimits"]
    assert config["annotations"]["org.opencontainers.image.stopSignal"] == "3"


def test_the_base_is_left_as_it_is(tmp_path: Path, rootfs: Path) -> None:
    base = bundle_config() | {"hooks": {"prestart": [{"path": "/usr/libexec/torpor/x"}]}}
    before = copy.deepcopy(base)
    from_bundle(tmp_path, base, "env: {A: new}")
    assert base == before


def test_a_terminal_is_refused_with_a_warning_and_its_absence_is_not(
    tmp_path: Path, rootfs: Path
) -> None:
    base = bundle_config()
    definition = define(tmp_path, tree="bundle")
    (warning,) = spec.render(definition, base, FACTS).warnings
    assert "process.terminal" in warning
    base["process"]["terminal"] = False
    assert spec.render(definition, base, FACTS).warnings == ()


def test_an_absolute_root_path_is_taken_as_it_is_but_for_links(
    tmp_path: Path, rootfs: Path
) -> None:
    (tmp_path / "link").symlink_to("rootfs")
    base = bundle_config()
    base["root"]["path"] = str(tmp_path / "link")
    assert from_bundle(tmp_path, base)["root"]["path"] == str(rootfs)


@pytest.mark.parametrize("path", ["none", "a\0b", "", 5])
def test_a_root_path_that_is_none_is_refused(tmp_path: Path, rootfs: Path, path: object) -> None:
    base = bundle_config()
    base["root"]["path"] = path
    with pytest.raises(DefinitionError, match=r"root\.path"):
        from_bundle(tmp_path, base)


def test_torpors_own_hooks_are_left_out_and_others_kept(tmp_path: Path, rootfs: Path) -> None:
    own, other = {"path": "/usr/libexec//torpor/hook"}, {"path": "/usr/libexec/torpor-like/hook"}
    base = bundle_config()
    base["hooks"] = {
        "prestart": [own, other],
        "poststop": [own],
        "createRuntime": [other],
        "poststart": [],
    }
    hooks = from_bundle(tmp_path, base)["hooks"]
    assert hooks == {"prestart": [other], "createRuntime": [other], "poststart": []}


def test_hooks_that_were_all_torpors_leave_no_trace(tmp_path: Path, rootfs: Path) -> None:
    base = bundle_config() | {"hooks": {"prestart": [{"path": "/usr/libexec/torpor/hook"}]}}
    assert "hooks" not in from_bundle(tmp_path, base)


@pytest.mark.parametrize("key", ["linux", "annotations", "hooks"])
def test_null_is_as_good_as_absent(tmp_path: Path, rootfs: Path, key: str) -> None:
    config = from_bundle(tmp_path, bundle_config() | {key: None})
    assert config["linux"]["cgroupsPath"] == FACTS.cgroup_path


@pytest.mark.parametrize("key", ["linux", "annotations", "hooks", "process", "root"])
def test_a_bundle_of_a_wrong_shape_is_refused_by_name(
    tmp_path: Path, rootfs: Path, key: str
) -> None:
    with pytest.raises(DefinitionError, match=key):
        from_bundle(tmp_path, bundle_config() | {key: ["wrong"]})


def test_a_bundle_is_read_as_it_is(tmp_path: Path) -> None:
    write_bundle(tmp_path, json.dumps(bundle_config()))
    assert spec.load_bundle(str(tmp_path)) == bundle_config()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{", "not JSON"),
        ('{"a": 1, "a": 2}', "given twice"),
        ('{"a": NaN}', "not a number"),
        ('{"a": 1e999}', "not a number"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 80 + "1" + "}" * 80, "nested too deeply"),
        (b'{"a": "\xff"}', "not JSON"),
        ('{"ociVersion": "1.0.2"}', "no root.path"),
        ('{"root": {"path": "r"}}', "no ociVersion"),
        ('{"ociVersion": "1", "root": {"path": "r"}, "process": []}', "no process.args"),
        ('{"ociVersion": "1", "root": {"path": "r"}, "process": {"args": [1]}}', "no process.args"),
    ],
)
def test_a_config_that_is_no_bundles_is_refused_by_file(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    write_bundle(tmp_path, content)
    with pytest.raises(DefinitionError) as caught:
        spec.load_bundle(str(tmp_path))
    assert caught.value.message.startswith(f"{tmp_path}/config.json: ")
    assert problem in caught.value.message


def test_a_bundle_without_a_config_a_fifo_or_a_giant_is_refused(tmp_path: Path) -> None:
    for prepare in (lambda path: None, os.mkfifo, os.mkdir):
        path = tmp_path / prepare.__name__.strip("<>")
        path.mkdir()
        prepare(path / "config.json")
        with pytest.raises(DefinitionError, match=r"config\.json: cannot read"):
            spec.load_bundle(str(path))
    write_bundle(tmp_path, b"{}")
    os.truncate(tmp_path / "config.json", spec.BUNDLE_CONFIG_LIMIT_BYTES + 1)
    with pytest.raises(DefinitionError, match="larger than"):
        spec.load_bundle(str(tmp_path))


@settings(
    database=None,
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=80) | st.text(alphabet='{}[]",:0eN\\u', max_size=40).map(str.encode))
def test_no_bytes_end_in_anything_but_a_definition_error(tmp_path: Path, content: bytes) -> None:
    write_bundle(tmp_path, content)
    with pytest.raises(DefinitionError):
        spec.load_bundle(str(tmp_path))


def test_equal_configurations_give_equal_bytes(tmp_path: Path) -> None:
    config = bundle_config()
    shuffled = dict(reversed(config.items()))
    assert spec.dumps(config) == spec.dumps(shuffled)
    assert json.loads(spec.dumps(config)) == config


def test_the_bytes_are_ascii_and_end_a_line() -> None:
    assert spec.dumps({"a": "é\ud800"}) == b'{"a":"\\u00e9\\ud800"}\n'
