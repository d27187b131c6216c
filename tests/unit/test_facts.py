"""What a rendering is told of the machine: looked up in the container's files, and nowhere else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendered import runc_spec

from fuzz import cases
from torpor import bundle, container, facts, hooks_d, oci_config, preparation, selinux, spec
from torpor.container import Container
from torpor.definition import Definition, parse
from torpor.errors import DefinitionError, TorporError
from torpor.facts import Facts, Storage
from torpor.idmap import IdMap, Range
from torpor.image_config import ImageConfig

PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/false\nbig:x:4294967295:0::/:\nshort:x\n"
)
GROUP = "root:x:0:\nweb:x:34:web\nstaff:x:50:web,other\nlogs:x:4:web\nbad:x:many:\n"


class AsUser:
    """The module os for somebody with these ids, for one module only."""

    def __init__(self, uid: int, gid: int) -> None:
        self._ids = {"geteuid": uid, "getegid": gid}

    def __getattr__(self, name: str) -> object:
        return (lambda: self._ids[name]) if name in self._ids else getattr(os, name)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without hooks, SELinux and other containers, as root sees it."""
    monkeypatch.setattr(facts, "os", AsUser(0, 0))
    monkeypatch.setattr(hooks_d, "read", list)
    monkeypatch.setattr(selinux, "contexts", lambda: None)
    monkeypatch.setattr(container, "STATE_ROOT", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


def define(tmp_path: Path, text: str = "", tree: str = "rootfs") -> Definition:
    if tree == "rootfs":
        text = f"command: [/bin/app]\n{text}"
    return parse("web", "web.yaml", f"{tree}: {json.dumps(f'{tmp_path}/{tree}')}\n{text}".encode())


def stored(definition: Definition, base: dict[str, Any] | None = None) -> Storage:
    return facts.storage(definition, base, facts.id_map(definition))


def gathered(
    definition: Definition, base: dict[str, Any] | None = None, image: ImageConfig | None = None
) -> Facts:
    ids = facts.id_map(definition)
    where = facts.storage(definition, base, ids)
    where = Storage(where.root, where.lower, where.plan, image)
    return facts.gather(definition, base, where, ids, where.lower, "/cgroup")


def user(tmp_path: Path, text: str) -> dict[str, Any]:
    return dict(gathered(define(tmp_path, text)).user)


def refused(tmp_path: Path, text: str) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        gathered(define(tmp_path, text))
    return caught.value


def test_a_rootfs_is_named_by_its_real_path(tmp_path: Path, rootfs: Path) -> None:
    rootfs.rename(tmp_path / "real")
    rootfs.symlink_to("real")
    real = str(tmp_path / "real")
    assert stored(define(tmp_path)) == Storage(real, real, ((preparation.ROOTFS, real),))


def test_a_link_to_the_root_of_the_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rootfs").symlink_to("/")
    with pytest.raises(DefinitionError, match=r"web\.yaml:1: key 'rootfs': .*own root"):
        stored(define(tmp_path))


def test_a_rootfs_that_is_gone_is_refused_in_its_line(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"^web\.yaml:1: key 'rootfs': "):
        stored(define(tmp_path))


@pytest.mark.parametrize("char", ["\t", "\n"])
def test_a_rootfs_that_a_plan_cannot_hold_is_refused(tmp_path: Path, char: str) -> None:
    parent = tmp_path / f"a{char}b"
    (parent / "rootfs").mkdir(parents=True)
    with pytest.raises(TorporError, match="holds a tab, a line break"):
        stored(define(parent))


def test_mapped_ids_map_a_rootfs_that_belongs_to_another(tmp_path: Path, rootfs: Path) -> None:
    found = stored(define(tmp_path, "idmap: 0:100000:65536"))
    assert found.root == "/run/torpor/web/rootfs"
    assert found.lower == str(rootfs)
    assert found.plan == (
        (preparation.OWNER, "100000\t100000"),
        (preparation.MAPPED, f"u:0:100000:65536 g:0:100000:65536\t{rootfs}"),
    )


def test_a_rootfs_of_the_mapped_root_is_taken_as_it_is(tmp_path: Path, rootfs: Path) -> None:
    uid = rootfs.stat().st_uid
    found = stored(define(tmp_path, f"idmap: {{uids: '0:{uid}:10', gids: 0:7:10}}"))
    assert found.root == found.lower == str(rootfs)
    assert found.plan[-1] == (preparation.ROOTFS, str(rootfs))
    assert dict(found.plan)[preparation.OWNER] == f"{uid}\t7"


def test_the_owner_is_the_containers_root_on_the_host() -> None:
    linux: dict[str, Any] = {
        "uidMappings": [
            {"containerID": 5, "hostID": 1, "size": 1},
            {"containerID": 0, "hostID": 7, "size": 1},
        ],
        "gidMappings": [{"containerID": 0, "hostID": 8, "size": 1}],
    }
    assert facts.owner({"linux": linux}) == (7, 8)
    for empty in ({}, {"linux": None}, {"linux": {"uidMappings": None}}):
        assert facts.owner(empty) == (0, 0)


def test_a_directory_of_an_image_is_what_the_container_writes_over(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    found = stored(define(tmp_path, "command: [/a]", "image"))
    assert (found.root, found.lower) == ("/run/torpor/web/rootfs", str(tmp_path / "image"))
    assert found.plan == ((preparation.OVERLAY, f"\t\t{tmp_path}/image"),)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("web", {"uid": 33, "gid": 34, "additionalGids": [4, 34, 50]}),
        ("web:staff", {"uid": 33, "gid": 50, "additionalGids": [50]}),
        ("web:7", {"uid": 33, "gid": 7, "additionalGids": [7]}),
        ("33", {"uid": 33, "gid": 34, "additionalGids": [4, 34, 50]}),
        ("33:0", {"uid": 33, "gid": 0, "additionalGids": [0]}),
        ("1234", {"uid": 1234, "gid": 0, "additionalGids": [0]}),
        ("1234:staff", {"uid": 1234, "gid": 50, "additionalGids": [50]}),
        ("root", {"uid": 0, "gid": 0, "additionalGids": [0]}),
    ],
)
def test_a_user_is_looked_up_in_the_containers_files(
    tmp_path: Path, rootfs: Path, said: str, expected: dict[str, Any]
) -> None:
    assert user(tmp_path, f"user: {said}") == expected


@pytest.mark.parametrize("said", ["nobody-here", "web:none", "big", "short", "1:bad", "staff"])
def test_a_user_without_a_usable_account_is_refused_in_its_line(
    tmp_path: Path, rootfs: Path, said: str
) -> None:
    error = refused(tmp_path, f"cwd: /\nuser: {said}")
    assert error.message.startswith("web.yaml:4: key 'user': ")


def test_a_number_needs_no_account_files(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    assert user(tmp_path, "user: 1000") == {"uid": 1000, "gid": 0, "additionalGids": [0]}


def test_the_hosts_users_are_not_the_containers(tmp_path: Path, rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to("/../../../../../../etc/group/../passwd")
    assert "key 'user'" in refused(tmp_path, "user: root").message


def test_an_account_file_that_is_a_fifo_is_refused_without_waiting(
    tmp_path: Path, rootfs: Path
) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    assert "not a regular file" in refused(tmp_path, "user: root").message


@cases(20)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_account_file_ends_in_anything_but_a_definition_error(
    tmp_path: Path, rootfs: Path, passwd: bytes, group: bytes
) -> None:
    (rootfs / "etc/passwd").write_bytes(b"a:" + passwd + b"\n" + passwd.replace(b"\0", b":"))
    (rootfs / "etc/group").write_bytes(b"b:" + group + b"\n" + group.replace(b"\0", b":"))
    for name in ("a", "0", "a:b"):
        try:
            oci_config.dumps(user(tmp_path, f"user: {name}"))
        except DefinitionError:
            continue


def test_a_user_must_be_mapped_and_groups_that_are_not_are_left_out(
    tmp_path: Path, rootfs: Path
) -> None:
    error = refused(tmp_path, "user: 10:0\nidmap: 0:1000:10")
    assert error.message.startswith("web.yaml:3: key 'user': uid 10 is not mapped")
    assert "gid 10 is not mapped" in refused(tmp_path, "user: 0:10\nidmap: 0:1000:10").message
    found = user(tmp_path, "user: web\nidmap: 0:1000:40")
    assert found == {"uid": 33, "gid": 34, "additionalGids": [4, 34]}


def test_a_bundles_user_stays_unless_groups_are_added_to_it(tmp_path: Path, rootfs: Path) -> None:
    base = runc_spec()
    base["process"]["user"] = {"uid": 5, "gid": 6}
    base["root"]["path"] = str(rootfs)
    (tmp_path / "bundle").mkdir()
    assert gathered(define(tmp_path, "", "bundle"), base).user == {}
    found = gathered(define(tmp_path, "groups: staff", "bundle"), base).user
    assert found == {"uid": 5, "gid": 6, "additionalGids": [6, 50]}
    base["process"]["user"] = {"uid": None, "gid": 6, "additionalGids": [7]}
    found = gathered(define(tmp_path, "groups: staff", "bundle"), base).user
    assert found["additionalGids"] == [6, 7, 50]


def test_without_root_ones_own_ids_are_the_containers_root(
    tmp_path: Path, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "os", AsUser(1000, 1001))
    found = gathered(define(tmp_path))
    assert found.idmap == IdMap((Range(0, 1000, 1),), (Range(0, 1001, 1),))
    assert found.root == str(rootfs)
    assert (found.user, found.cgroup_path, found.hooks) == ({"uid": 0, "gid": 0}, "", ())


IMAGE = ImageConfig("sha256:1", 1, user="web", stop_signal="SIGQUIT")


def test_an_image_says_who_runs_and_what_stops_it(tmp_path: Path, rootfs: Path) -> None:
    found = gathered(define(tmp_path), image=IMAGE)
    assert found.user == {"uid": 33, "gid": 34, "additionalGids": [4, 34, 50]}
    assert found.stop_signal == 3


def test_the_definition_wins_over_the_image(tmp_path: Path, rootfs: Path) -> None:
    found = gathered(define(tmp_path, "user: 0\nstop-signal: 9"), image=IMAGE)
    assert (found.user["uid"], found.stop_signal) == (0, 9)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (ImageConfig("sha256:1", 1, user="a b"), "the image's user"),
        (ImageConfig("sha256:1", 1, stop_signal="SIGNOPE\n"), r"stop signal 'SIGNOPE\n' is none"),
    ],
)
def test_an_image_that_says_nonsense_is_refused(
    tmp_path: Path, rootfs: Path, image: ImageConfig, problem: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        gathered(define(tmp_path), image=image)
    assert problem in caught.value.message
    assert caught.value.message.startswith("web.yaml:1: key 'image': ")


def test_a_bind_source_is_resolved_and_must_be_there(tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    link = f"{tmp_path}/link"
    found = gathered(define(tmp_path, f"mounts: ['{link}:/a', 'volume:/b', 'tmpfs:/c']"))
    assert found.sources == {link: f"{tmp_path}/real"}
    error = refused(tmp_path, "mounts:\n- tmpfs:/a\n- /nowhere/at/all:/b\n")
    assert error.message.startswith("web.yaml:5: key 'mounts': /nowhere/at/all: No such file")


def test_a_device_must_be_there(tmp_path: Path, rootfs: Path) -> None:
    (null,) = gathered(define(tmp_path, "devices: /dev/null")).devices
    assert (null.type, null.major, null.minor) == ("c", 1, 3)
    error = refused(tmp_path, "devices:\n- /dev/null\n- /dev/nope\n")
    assert error.message.startswith("web.yaml:5: key 'devices': /dev/nope: ")


def test_anothers_hostname_is_that_of_its_configuration(tmp_path: Path, rootfs: Path) -> None:
    definition = define(tmp_path, "namespaces: {uts: 'container:db'}")
    assert gathered(definition).hostname == "db"
    rendered = Path(Container("db").rendered_path)
    rendered.parent.mkdir()
    for content, name in (('{"hostname": "h"}', "h"), ("{}", "db"), ("[]", "db")):
        rendered.write_text(content)
        assert gathered(definition).hostname == name
    rendered.write_text("{")
    with pytest.raises(DefinitionError, match=r"key 'namespaces': .*is not JSON"):
        gathered(definition)


def test_a_read_only_rootfs_has_a_place_for_a_file_or_has_none(
    tmp_path: Path, rootfs: Path
) -> None:
    read_only = define(tmp_path, "read-only: yes")
    assert gathered(define(tmp_path)).mountpoints == set(facts.GENERATED_FILES)
    assert gathered(read_only).mountpoints == frozenset()
    (rootfs / "etc/hostname").touch()
    assert gathered(read_only).mountpoints == {"/etc/hostname"}
    (rootfs / "etc/hostname").unlink()
    (rootfs / "etc/hostname").symlink_to("/proc/self/status")
    assert gathered(read_only).mountpoints == frozenset()


@pytest.mark.parametrize("text", ["", "read-only: no\n", "read-only: yes\n"])
def test_a_bundle_says_whether_its_rootfs_is_read_only_unless_the_definition_does(
    tmp_path: Path, rootfs: Path, text: str
) -> None:
    (rootfs / "etc/hosts").touch()
    definition = define(tmp_path, text, "bundle")
    base = runc_spec()
    base["root"]["path"] = str(rootfs)
    every = frozenset(facts.GENERATED_FILES)
    found = {"read-only: no\n": every}.get(text, frozenset({"/etc/hosts"}))
    assert gathered(definition, base).mountpoints == found
    base["root"]["readonly"] = False
    found = {"read-only: yes\n": frozenset({"/etc/hosts"})}.get(text, every)
    assert gathered(definition, base).mountpoints == found


def test_when_a_container_was_made_is_said_once(tmp_path: Path, rootfs: Path) -> None:
    assert gathered(define(tmp_path)).created.endswith("Z")
    created = Path(Container("web").created_path)
    created.parent.mkdir()
    created.write_bytes(b"then\xff\n")
    assert gathered(define(tmp_path)).created == "then\ufffd"


def test_what_was_read_calls_for_a_new_rendering_when_it_changes(
    tmp_path: Path, rootfs: Path
) -> None:
    text = (
        "devices: /dev/null\nseccomp: /etc/s.json\nuserns: root\n"
        "namespaces: {uts: 'container:db'}\n"
    )
    definition = define(tmp_path, text)
    where = Storage(str(rootfs), str(rootfs), ())
    assert {
        f"{rootfs}/etc/passwd",
        f"{rootfs}/etc/group",
        "/etc/subuid",
        "/etc/subgid",
        "/etc/s.json",
        "/dev/null",
        Container("db").rendered_path,
        "/etc/selinux/config",
    } <= set(facts.stamp_paths(definition, None, where))


def test_what_was_seen_for_a_systemd_calls_for_a_new_rendering_when_it_changes(
    tmp_path: Path, rootfs: Path
) -> None:
    (rootfs / "var").symlink_to("/data")
    where = Storage(str(rootfs), str(rootfs), ())
    definition = define(tmp_path, "systemd: always\n")
    assert {f"{rootfs}/etc/machine-id", f"{rootfs}/var/lib/dbus/machine-id"} <= set(
        facts.stamp_paths(definition, None, where)
    )
    (rootfs / "data/log").mkdir(parents=True)
    assert {f"{rootfs}/tmp", f"{rootfs}/data/log/journal"} <= set(
        facts.directories(definition, None, where)
    )
    other = define(tmp_path, "systemd: never\n")
    assert not facts.directories(other, None, where)
    assert f"{rootfs}/etc/machine-id" not in facts.stamp_paths(other, None, where)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1 << 33) | st.text("a/\t\n\0²:", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["type", "path", "options", "source", "destination", "hostID", "uid", "a"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)
DEFINITIONS = (
    "",
    "groups: staff\nnamespaces: {net: host, uts: own}\nhostname: h\n",
    "mounts: ['tmpfs:/dev/shm', 'v:/data']\ncapabilities: {add: kill}\nrlimits: {core: 0}\n"
    "devices: /dev/null\nseccomp: unconfined\n",
    "namespaces: {ipc: host, pid: 'container:db'}\nidmap: 0:100000:65536\numask: 1\n",
)


Json = Any


def places(value: object, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The way to each part of a JSON value."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [here, *(way for key, part in inner for way in places(part, (*here, key)))]


SEED = runc_spec() | {
    "hooks": {"prestart": [{"path": "/bin/true"}]},
    "annotations": {"a": "b"},
}
SEED["linux"] |= {
    "uidMappings": [{"containerID": 0, "hostID": 5, "size": 1}],
    "gidMappings": [{"containerID": 0, "hostID": 5, "size": 1}],
    "devices": [{"path": "/dev/x", "type": "c"}],
    "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
    "mountLabel": "a:b:c",
}
SEED["mounts"].append(
    {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]}
)
WAYS = [way for way in places(SEED) if way]


def changed(value: Json, way: tuple[str | int, ...], new: object) -> Json:
    """A copy of value with new at the end of way, as far as that leads."""
    if not way:
        return new
    if isinstance(value, dict):
        return {**value, way[0]: changed(value.get(way[0]), way[1:], new)}
    if isinstance(value, list) and isinstance(way[0], int) and way[0] < len(value):
        return [*value[: way[0]], changed(value[way[0]], way[1:], new), *value[way[0] + 1 :]]
    return value


@cases(200)
@given(
    st.lists(st.tuples(st.sampled_from(WAYS), json_values), min_size=1, max_size=3),
    st.sampled_from(DEFINITIONS),
)
def test_any_bundle_is_rendered_or_refused(
    tmp_path: Path, rootfs: Path, changes: list[tuple[tuple[str | int, ...], object]], text: str
) -> None:
    directory = tmp_path / "bundle"
    directory.mkdir(exist_ok=True)
    config = changed(SEED, ("root", "path"), str(rootfs))
    for way, new in changes:
        config = changed(config, way, new)
    (directory / "config.json").write_text(json.dumps(config))
    definition = define(tmp_path, text, "bundle")
    try:
        base = bundle.load(str(directory))
        before = oci_config.dumps(base)
        rendered = spec.render(definition, base, gathered(definition, base))
    except TorporError as error:
        assert error.message.startswith(str(directory)) or "key '" in error.message, error.message
    else:
        bundle.require_shape(rendered.config)
        oci_config.dumps(rendered.config)
        assert preparation.serialize([*rendered.plan]).count(b"\n") == len(rendered.plan) + 1
        assert oci_config.dumps(base) == before


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_account_files_that_would_block_runc_are_refused_whoever_the_user_is(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / name)
    definition = parse("web", "web.yaml", f"{{rootfs: {tmp_path}, command: /bin/app}}".encode())
    where = facts.storage(definition, None, None)
    with pytest.raises(DefinitionError, match=f"etc/{name}: it is not a regular file"):
        facts.gather(definition, None, where, None, where.lower, "/payload")
