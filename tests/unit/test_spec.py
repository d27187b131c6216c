"""A rendered config.json is what the definition says; the rest of a bundle stays as it was."""

import copy
import json
from typing import Any

import pytest
from rendered import (
    BUNDLE,
    CGROUP,
    RUN,
    define,
    facts_with,
    made,
    made_of,
    mount_at,
    runc_spec,
)

from torpor import bundle, oci_config, oci_hook, preparation, spec
from torpor.devices import Found
from torpor.errors import DefinitionError, TorporError
from torpor.facts import Facts
from torpor.idmap import IdMap, Range
from torpor.image_config import ImageConfig
from torpor.selinux import Contexts

LABELS = Contexts("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0")
IMAGE = ImageConfig(
    digest="sha256:1",
    manifest_size_bytes=1,
    command=("/bin/app", "--default"),
    env=("PATH=/image", "FROM=image", "BOTH=image"),
    cwd="/image",
    volumes=("/var/data", "/var/log"),
    annotations=(("a", "image"), ("b", "image"), ("io.torpor.name", "image")),
)
IMAGE_TREE = "image: oci:/srv/layout:1\n"


def made_from_image(text: str = "", image: ImageConfig = IMAGE, **facts: object) -> spec.Rendered:
    found = facts_with({"root": f"{RUN}/rootfs", "image": image, **facts})
    return spec.render(define(text, IMAGE_TREE), None, found)


def planned(rendered: spec.Rendered, key: str) -> list[str]:
    return [value for name, value in rendered.plan if name == key]


def refused(text: str, **facts: object) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        made(text, **facts)
    return caught.value


def hook(stage: str, **when: object) -> oci_hook.Hook:
    said = {"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": when, "stages": [stage]}
    return oci_hook.parse("test.json", json.dumps(said).encode())


def test_the_process_is_what_the_definition_says() -> None:
    text = "cwd: /srv\nhostname: h\numask: 027\nenv: {A: 022}\n"
    config = made(text, user={"uid": 7, "gid": 8, "additionalGids": [8]}).config
    process = config["process"]
    assert (process["args"], process["cwd"], config["hostname"]) == (["/bin/app", "x"], "/srv", "h")
    assert process["user"] == {"uid": 7, "gid": 8, "additionalGids": [8], "umask": 0o27}
    assert process["env"][1:] == ["HOSTNAME=h", "container=torpor", "A=022"]


def test_there_is_no_terminal_and_no_term() -> None:
    process = made().config["process"]
    assert process["terminal"] is False
    assert not any(entry.startswith("TERM=") for entry in process["env"])


def test_env_replaces_a_default_variable_in_its_place() -> None:
    env = made("env: {PATH: /app, container: x}").config["process"]["env"]
    assert env == ["PATH=/app", "HOSTNAME=web", "container=x"]


def test_the_definitions_variables_win_over_the_images_and_those_over_the_defaults() -> None:
    env = made_from_image("env: {BOTH: mine, OWN: mine}").config["process"]["env"]
    assert env == [
        "PATH=/image",
        "HOSTNAME=web",
        "container=torpor",
        "FROM=image",
        "BOTH=mine",
        "OWN=mine",
    ]


def test_a_variable_of_a_bundle_without_a_value_stays_one() -> None:
    base = runc_spec()
    base["process"]["env"] = ["A", "B=", "C=1"]
    assert made_of(base, "env: {C: 2}").config["process"]["env"] == ["A", "B=", "C=2"]


def test_an_image_says_what_is_run_and_where() -> None:
    process = made_from_image().config["process"]
    assert (process["args"], process["cwd"]) == (["/bin/app", "--default"], "/image")


def test_the_definition_wins_over_the_image() -> None:
    process = made_from_image("command: [/bin/other]\ncwd: /mine").config["process"]
    assert (process["args"], process["cwd"]) == (["/bin/other"], "/mine")


def test_an_image_that_does_not_say_what_to_run_needs_a_command() -> None:
    empty = ImageConfig(digest="sha256:1", manifest_size_bytes=1)
    with pytest.raises(DefinitionError, match=r"^web\.yaml:1: key 'image': .* what to run"):
        made_from_image(image=empty)
    assert made_from_image("command: [/a]", empty).config["process"]["args"] == ["/a"]


def test_a_stop_signal_is_annotated_as_a_number() -> None:
    annotations = made(stop_signal=37).config["annotations"]
    assert annotations["org.opencontainers.image.stopSignal"] == "37"
    assert "org.opencontainers.image.stopSignal" not in made().config["annotations"]


def test_limits_are_runcs_unless_the_definition_has_others() -> None:
    default = {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}
    core = {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
    assert made().config["process"]["rlimits"] == [default]
    assert made("rlimits: {core: 0}").config["process"]["rlimits"] == [default, core]
    more = {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}
    assert made("rlimits: {nofile: '1:2'}").config["process"]["rlimits"] == [more]


def test_root_has_runcs_capabilities_and_another_user_has_none_at_first() -> None:
    root = made().config["process"]["capabilities"]
    other = made(user={"uid": 33, "gid": 33}).config["process"]["capabilities"]
    assert root["effective"] == ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    assert root["effective"] == root["permitted"] == root["bounding"] == other["bounding"]
    assert other["effective"] == other["permitted"] == []


def test_capabilities_of_a_bundle_stay_unless_the_definition_has_some() -> None:
    base = runc_spec()
    before = base["process"]["capabilities"]
    assert made_of(base).config["process"]["capabilities"] == before
    after = made_of(base, "capabilities: {drop: kill}").config["process"]["capabilities"]
    assert after["bounding"] == ["CAP_AUDIT_WRITE", "CAP_NET_BIND_SERVICE"]
    base["process"]["capabilities"] = []
    with pytest.raises(DefinitionError, match=r"^/srv/bundle/config\.json: .*capabilities"):
        made_of(base, "capabilities: all")


def test_the_hostname_is_the_containers_name_by_default() -> None:
    config = made().config
    assert config["hostname"] == "web"
    assert "HOSTNAME=web" in config["process"]["env"]


@pytest.mark.parametrize("how", ["host", "path:/proc/1/ns/uts"])
def test_a_uts_namespace_that_is_not_its_own_is_not_renamed(how: str) -> None:
    config = made(f"namespaces: {{uts: '{how}'}}").config
    assert "hostname" not in config
    assert not any(entry.startswith("HOSTNAME=") for entry in config["process"]["env"])


def test_with_anothers_uts_namespace_it_has_the_others_name() -> None:
    rendered = made("namespaces: {uts: 'container:db'}", hostname="db-1")
    assert "hostname" not in rendered.config
    assert "HOSTNAME=db-1" in rendered.config["process"]["env"]
    assert planned(rendered, preparation.HOSTNAME) == ["db-1"]


@pytest.mark.parametrize("how", ["host", "path:/n", "container:db"])
def test_a_hostname_needs_a_uts_namespace_of_its_own(how: str) -> None:
    peer = {"hostname": "db-1"} if how.startswith("container") else {}
    error = refused(f"namespaces: {{uts: '{how}'}}\nhostname: mine", **peer)
    assert error.message.startswith("web.yaml:4: key 'hostname': needs a uts namespace")


def test_a_bundles_hostname_stays_until_its_uts_namespace_is_another() -> None:
    assert made_of(runc_spec()).config["hostname"] == "runc"
    assert made_of(runc_spec(), "hostname: new").config["hostname"] == "new"
    for how in ("host", "path:/n"):
        assert "hostname" not in made_of(runc_spec(), f"namespaces: {{uts: '{how}'}}").config


def test_the_hostname_is_written_to_a_file_that_is_mounted() -> None:
    rendered = made("hostname: mine")
    assert planned(rendered, preparation.HOSTNAME) == ["mine"]
    mount = mount_at(rendered.config, "/etc/hostname")
    assert mount["source"] == f"{RUN}/files/hostname"
    assert "ro" not in mount["options"]


def test_a_read_only_container_has_generated_files_read_only_and_only_where_they_fit() -> None:
    rendered = made("read-only: yes")
    assert rendered.config["root"]["readonly"] is True
    assert "ro" in mount_at(rendered.config, "/etc/hostname")["options"]
    without = made("read-only: yes", mountpoints=frozenset())
    assert planned(without, preparation.HOSTNAME) == []
    assert "/etc/hostname" not in [one["destination"] for one in without.config["mounts"]]


def test_a_mount_of_ones_own_wins_over_a_generated_one_with_a_warning() -> None:
    text = "mounts: ['/srv/h:/etc/hostname:ro', 'tmpfs:/dev/shm:size=1m', 'tmpfs:/proc']"
    rendered = made(text, sources={"/srv/h": "/real/h"})
    assert mount_at(rendered.config, "/etc/hostname")["source"] == "/real/h"
    assert mount_at(rendered.config, "/dev/shm")["type"] == "tmpfs"
    assert mount_at(rendered.config, "/proc")["type"] == "tmpfs"
    places = ("/etc/hostname", "/dev/shm", "/proc")
    assert rendered.warnings == tuple(
        f"web.yaml: mounts: yours replaces that at {place}" for place in places
    )


def test_a_mount_of_ones_own_wins_over_the_bundles_with_a_warning() -> None:
    rendered = made_of(runc_spec(), "mounts: ['data:/sys']")
    assert mount_at(rendered.config, "/sys")["source"].endswith("/.volumes/data")
    assert rendered.warnings == ("web.yaml: mounts: yours replaces that at /sys",)


def test_a_mount_over_a_directory_does_not_hide_what_is_mounted_below() -> None:
    config = made("mounts: ['tmpfs:/etc', 'tmpfs:/srv/a/b', 'tmpfs:/srv/a']").config
    places = [one["destination"] for one in config["mounts"]]
    assert places.index("/etc") < places.index("/etc/hostname")
    assert places.index("/srv/a") < places.index("/srv/a/b")


def test_a_bind_source_is_where_it_really_is() -> None:
    config = made("mounts: ['/srv/link:/data']", sources={"/srv/link": "/srv/real"}).config
    assert mount_at(config, "/data")["source"] == "/srv/real"


def test_a_named_volume_is_made_before_it_is_mounted() -> None:
    rendered = made("mounts: ['files:/data:ro']")
    assert planned(rendered, preparation.VOLUME) == ["files"]
    mount = mount_at(rendered.config, "/data")
    assert mount["source"] == "/var/lib/torpor/.volumes/files"
    assert "ro" in mount["options"]


def test_volumes_of_image_and_definition_are_the_containers_own_and_filled() -> None:
    rendered = made_from_image("volumes: [/var/log, /srv/own]")
    assert planned(rendered, preparation.FILL) == ["/var/data", "/var/log", "/srv/own"]
    source = mount_at(rendered.config, "/srv/own")["source"]
    assert source == "/var/lib/torpor/web/volumes/srv-own"


def test_a_volume_whose_place_is_mounted_is_neither_made_nor_filled() -> None:
    rendered = made_from_image("mounts: ['tmpfs:/var/data']\nvolumes: [/var/data]")
    assert planned(rendered, preparation.FILL) == ["/var/log"]
    assert mount_at(rendered.config, "/var/data")["type"] == "tmpfs"
    assert rendered.warnings == ()


@pytest.mark.parametrize("char", ["\\t", "\\n"])
@pytest.mark.parametrize("text", ['volumes: ["/a{}b"]', 'mounts: ["/a{}b:/c:Z"]'])
def test_a_path_that_a_plan_cannot_hold_is_refused(text: str, char: str) -> None:
    path = json.loads(f'"/a{char}b"')
    with pytest.raises(TorporError, match="tab, a line break"):
        made(text.format(char), selinux=LABELS, sources={path: path})


def test_dev_shm_is_a_tmpfs_of_the_hosts() -> None:
    rendered = made("shm-size: 1M")
    assert planned(rendered, preparation.SHM) == ["1048576\t"]
    assert mount_at(rendered.config, "/dev/shm") == {
        "destination": "/dev/shm",
        "type": "bind",
        "source": f"{RUN}/shm",
        "options": ["bind", "nosuid", "noexec", "nodev", "rprivate"],
    }
    assert planned(made(), preparation.SHM) == ["67108864\t"]


def test_the_hosts_ipc_namespace_brings_the_hosts_dev_shm() -> None:
    rendered = made("namespaces: {ipc: host}")
    assert mount_at(rendered.config, "/dev/shm")["source"] == "/dev/shm"
    assert planned(rendered, preparation.SHM) == []


def test_anothers_ipc_namespace_brings_the_others_dev_shm() -> None:
    rendered = made("namespaces: {ipc: 'container:db'}")
    assert mount_at(rendered.config, "/dev/shm")["source"] == "/run/torpor/db/shm"
    assert planned(rendered, preparation.SHM) == []
    assert planned(rendered, preparation.JOIN) == ["ipc\tdb"]


@pytest.mark.parametrize(
    ("option", "size_bytes"),
    [
        ("size=32m", 32 << 20),
        ("size=5", 5),
        ("size=2G", 2 << 30),
        ("size=50%", 64 << 20),
        ("size=²k", 64 << 20),
        ("size=", 64 << 20),
        ("mode=1", 64 << 20),
    ],
)
def test_a_bundles_tmpfs_at_dev_shm_is_replaced_and_keeps_its_size(
    option: str, size_bytes: int
) -> None:
    base = runc_spec()
    mount_at(base, "/dev/shm")["options"] = ["nosuid", option]
    rendered = made_of(base)
    assert mount_at(rendered.config, "/dev/shm")["source"] == f"{RUN}/shm"
    assert planned(rendered, preparation.SHM) == [f"{size_bytes}\t"]
    assert planned(made_of(base, "shm-size: 1K"), preparation.SHM) == ["1024\t"]


def test_a_bundles_bind_at_dev_shm_stays() -> None:
    base = runc_spec()
    bound = {"destination": "/dev/shm", "type": "none", "source": "/x", "options": ["rbind"]}
    mount_at(base, "/dev/shm").update(bound)
    rendered = made_of(base)
    assert rendered.config["mounts"] == base["mounts"]
    assert planned(rendered, preparation.SHM) == []


def test_a_bundle_without_dev_shm_gets_none_unless_it_is_asked_for() -> None:
    base = runc_spec()
    base["mounts"] = [one for one in base["mounts"] if one["destination"] != "/dev/shm"]
    assert made_of(base).config["mounts"] == base["mounts"]
    assert mount_at(made_of(base, "shm-size: 1K").config, "/dev/shm")["source"] == f"{RUN}/shm"


def test_a_bundle_changes_only_by_what_every_service_needs() -> None:
    expected = runc_spec()
    expected["x-unknown"] = [1, {"deep": 1.5}]
    base = copy.deepcopy(expected)
    base["process"] |= {"terminal": True, "consoleSize": {"height": 1, "width": 1}}
    expected["root"]["path"] = "/srv/web"
    expected["linux"]["cgroupsPath"] = CGROUP
    expected["annotations"] = {
        "io.torpor.name": "web",
        "io.kubernetes.cri-o.Created": "2025-01-02T03:04:05Z",
    }
    rendered = made_of(base)
    shm = mount_at(expected, "/dev/shm")
    shm.clear()
    shm.update(mount_at(rendered.config, "/dev/shm"))
    assert oci_config.dumps(rendered.config) == oci_config.dumps(expected)
    assert [json.dumps(one) for one in rendered.config["mounts"]] == [
        json.dumps(one) for one in expected["mounts"]
    ]


def test_what_the_definition_says_overrides_the_bundle() -> None:
    text = "command: [new]\ncwd: /n\nhostname: new\nenv: {PATH: new, C: 1}\nread-only: no\numask: 7"
    config = made_of(runc_spec(), text, stop_signal=3, user={"uid": 33, "gid": 34}).config
    process = config["process"]
    assert (process["args"], process["cwd"], config["hostname"]) == (["new"], "/n", "new")
    assert process["env"] == ["PATH=new", "TERM=xterm", "C=1"]
    assert process["user"] == {"uid": 33, "gid": 34, "umask": 7}
    assert process["rlimits"] == runc_spec()["process"]["rlimits"]
    assert config["root"]["readonly"] is False
    assert config["annotations"]["org.opencontainers.image.stopSignal"] == "3"


EVERYTHING = """\
env: {A: b}
user: 7:8
hostname: h
mounts: ['v:/data', 'tmpfs:/dev/shm']
volumes: [/own]
namespaces: {net: host, pid: 'container:db'}
masked-paths: [/proc/x]
readonly-paths: [/proc/y]
annotations: {a: b}
seccomp: unconfined
rlimits: {core: 0}
umask: 022
capabilities: {add: all}
"""


def test_a_bundle_is_left_as_it_is() -> None:
    base = runc_spec() | {"hooks": {"prestart": [{"path": "/usr/libexec/torpor/x"}]}}
    before = copy.deepcopy(base)
    tty = Found("/dev/tty0", "c", 4, 0, 0o600, 0, 0)
    hooks = (hook("prestart", always=True),)
    made_of(base, EVERYTHING, devices=(tty,), hooks=hooks, idmap=MAP, selinux=LABELS)
    assert base == before


def test_rendering_twice_gives_equal_bytes() -> None:
    for render in (made, lambda text: made_of(runc_spec(), text)):
        first, second = render(EVERYTHING), render(EVERYTHING)
        assert oci_config.dumps(first.config) == oci_config.dumps(second.config)
        assert preparation.serialize([*first.plan]) == preparation.serialize([*second.plan])


def test_two_renderings_share_nothing_that_can_be_changed() -> None:
    first = made().config
    for part in ("mounts", "linux", "process"):
        first[part].clear()
    assert made().config["linux"]["maskedPaths"]


def test_a_terminal_is_refused_with_a_warning_and_its_absence_is_not() -> None:
    base = runc_spec()
    assert made_of(base).warnings == ()
    base["process"]["terminal"] = True
    (warning,) = made_of(base).warnings
    assert "process.terminal" in warning


def test_torpors_own_hooks_are_left_out_and_others_kept() -> None:
    own, other = {"path": "/usr/libexec//torpor/hook"}, {"path": "/usr/libexec/torpor-like/hook"}
    base = runc_spec()
    base["hooks"] = {
        "prestart": [own, other],
        "poststop": [own],
        "createRuntime": [other],
        "poststart": [],
    }
    hooks = made_of(base).config["hooks"]
    assert hooks == {"prestart": [other], "createRuntime": [other], "poststart": []}


def test_hooks_that_were_all_torpors_leave_no_trace() -> None:
    base = runc_spec() | {"hooks": {"prestart": [{"path": "/usr/libexec/torpor/hook"}]}}
    assert "hooks" not in made_of(base).config


@pytest.mark.parametrize("key", ["linux", "annotations", "hooks", "mounts"])
def test_null_is_as_good_as_absent(key: str) -> None:
    config = made_of(runc_spec() | {key: None}).config
    assert config["linux"]["cgroupsPath"] == CGROUP


@pytest.mark.parametrize(
    "part",
    [
        {"linux": []},
        {"linux": {"devices": {}}},
        {"linux": {"resources": []}},
        {"annotations": []},
        {"hooks": [1]},
        {"hooks": {"prestart": {}}},
    ],
)
def test_a_bundle_of_a_wrong_shape_is_refused_by_file(part: dict[str, Any]) -> None:
    tty = Found("/dev/tty0", "c", 4, 0, 0o600, 0, 0)
    with pytest.raises(DefinitionError, match=r"^/srv/bundle/config\.json: "):
        made_of(runc_spec() | part, devices=(tty,))


def test_a_base_and_a_bundle_belong_together() -> None:
    for definition, base in ((define(), {}), (define("", f"bundle: {BUNDLE}\n"), None)):
        with pytest.raises(ValueError):
            spec.render(definition, base, Facts(root="/r"))


def test_every_namespace_but_user_and_time_is_its_own() -> None:
    types = {namespace["type"] for namespace in made().config["linux"]["namespaces"]}
    assert types == {"pid", "network", "ipc", "uts", "mount", "cgroup"}


def test_anothers_namespaces_are_bound_where_the_configuration_has_them() -> None:
    rendered = made("namespaces: {net: 'container:db', pid: 'container:log', cgroup: host}")
    assert planned(rendered, preparation.JOIN) == ["net\tdb", "pid\tlog"]
    entries = {entry["type"]: entry for entry in rendered.config["linux"]["namespaces"]}
    assert entries["network"]["path"] == f"{RUN}/ns/net"
    assert entries["pid"]["path"] == f"{RUN}/ns/pid"
    assert "cgroup" not in entries


MAP = IdMap((Range(0, 100000, 65536),), (Range(0, 200000, 65536),))


def test_mapped_ids_bring_a_user_namespace_with_their_mappings() -> None:
    linux = made(idmap=MAP).config["linux"]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 200000, "size": 65536}]
    assert "uidMappings" not in made().config["linux"]


def test_the_plan_begins_with_what_makes_the_root_file_system() -> None:
    storage = ((preparation.OWNER, "1\t2"), (preparation.ROOTFS, "/srv/web"))
    assert made(storage=storage).plan[:2] == storage


def test_bind_sources_are_bound_where_a_mapped_root_can_reach_them() -> None:
    owned = {"storage": ((preparation.OWNER, "1\t2"),), "sources": {"/home/a": "/home/a"}}
    rendered = made("mounts: ['/home/a:/data', 'v:/own']", **owned)
    (bound, volume) = planned(rendered, preparation.BIND)
    number, _, source = bound.partition("\t")
    assert (source, volume.partition("\t")[2]) == ("/home/a", "/var/lib/torpor/.volumes/v")
    assert mount_at(rendered.config, "/data")["source"] == f"{RUN}/sources/{number}"
    assert mount_at(rendered.config, "/dev/shm")["source"] == f"{RUN}/shm"
    unmapped = made("mounts: ['/home/a:/data']", sources=owned["sources"])
    assert planned(unmapped, preparation.BIND) == []


def test_the_container_is_in_its_cgroup_and_carries_its_name() -> None:
    config = made(created="").config
    assert config["linux"]["cgroupsPath"] == CGROUP
    assert config["annotations"] == {"io.torpor.name": "web"}


def test_without_a_cgroup_path_there_is_none() -> None:
    base = runc_spec()
    base["linux"]["cgroupsPath"] = "/elsewhere"
    assert "cgroupsPath" not in made_of(base, cgroup_path="").config["linux"]


def test_the_definitions_annotations_win_over_the_images_and_the_name_over_all() -> None:
    text = "annotations: {a: mine, io.torpor.name: mine}"
    annotations = made_from_image(text, stop_signal=9).config["annotations"]
    assert annotations == {
        "a": "mine",
        "b": "image",
        "io.torpor.name": "web",
        "org.opencontainers.image.stopSignal": "9",
    }


def test_a_bundles_annotations_stay_and_so_does_when_it_was_made() -> None:
    base = runc_spec() | {"annotations": {"a": "b", "io.kubernetes.cri-o.Created": "then"}}
    annotations = made_of(base, "annotations: {c: d}").config["annotations"]
    assert annotations == {
        "a": "b",
        "c": "d",
        "io.kubernetes.cri-o.Created": "then",
        "io.torpor.name": "web",
    }


def test_a_hook_is_injected_where_its_annotation_is() -> None:
    hooks = (hook("poststop", annotations={"^trace$": "^yes$"}),)
    config = made("annotations: {trace: 'yes'}", hooks=hooks).config
    assert config["hooks"] == {"poststop": [{"path": "/bin/true"}]}
    assert "hooks" not in made("annotations: {trace: 'no'}", hooks=hooks).config


def test_a_hook_comes_behind_those_of_the_bundle() -> None:
    base = runc_spec() | {"hooks": {"createRuntime": [{"path": "/first"}]}}
    config = made_of(base, hooks=(hook("prestart", always=True),)).config
    assert config["hooks"] == {"createRuntime": [{"path": "/first"}, {"path": "/bin/true"}]}


def test_a_precreate_hook_is_handed_back_when_its_conditions_hold() -> None:
    hooks = (hook("precreate", always=True), hook("precreate", always=False))
    rendered = made(hooks=hooks)
    assert rendered.precreate == hooks[:1]
    assert "hooks" not in rendered.config


def test_only_bind_mounts_that_somebody_asked_for_call_a_hook() -> None:
    hooks = (hook("poststop", hasBindMounts=True),)
    bound = {"destination": "/d", "type": "bind", "source": "/s", "options": ["rbind"]}
    base = runc_spec()
    assert "hooks" not in made(hooks=hooks).config
    assert "hooks" not in made_of(base, hooks=hooks).config
    assert "hooks" in made("mounts: ['/s:/d']", hooks=hooks, sources={"/s": "/s"}).config
    base["mounts"].append(bound)
    assert "hooks" in made_of(base, hooks=hooks).config


def test_masked_and_read_only_paths_replace_the_default() -> None:
    linux = made("masked-paths: [/proc/x]\nreadonly-paths: []").config["linux"]
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == (["/proc/x"], [])


def test_a_device_is_a_node_and_a_rule_behind_the_others() -> None:
    tty = Found("/dev/tty0", "c", 4, 0, 0o600, 1, 2, "rw")
    linux = made(devices=(tty,)).config["linux"]
    (node,) = linux["devices"]
    assert (node["path"], node["major"], node["minor"], node["uid"]) == ("/dev/tty0", 4, 0, 1)
    denied, allowed = linux["resources"]["devices"]
    assert denied == {"allow": False, "access": "rwm"}
    assert allowed == {"allow": True, "type": "c", "major": 4, "minor": 0, "access": "rw"}


def test_a_seccomp_profile_is_that_of_the_definition() -> None:
    profile = b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}'
    text = "seccomp: /etc/profile.json"
    linux = made(text, seccomp_profile=profile, machine="x86_64", kernel=(6, 1)).config["linux"]
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
    base = runc_spec()
    base["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
    assert made_of(base).config["linux"]["seccomp"] == base["linux"]["seccomp"]
    assert "seccomp" not in made_of(base, "seccomp: unconfined").config["linux"]


def test_what_criu_cannot_save_is_withheld_where_nobody_says_otherwise() -> None:
    able: dict[str, Any] = {"may_filter": True, "machine": "x86_64", "kernel": (6, 12)}
    found = made(**able).config["linux"]["seccomp"]
    assert found["defaultAction"] == "SCMP_ACT_ALLOW"
    assert found["architectures"][0] == "SCMP_ARCH_X86_64"
    calls = {name: rule["errnoRet"] for rule in found["syscalls"] for name in rule["names"]}
    assert calls == {"io_uring_setup": 38, "memfd_secret": 38, "socket": 93}
    (argument,) = found["syscalls"][1]["args"]
    assert (argument["index"], argument["value"], argument["op"]) == (2, 262, "SCMP_CMP_EQ")
    for text in ("seccomp: unconfined", "checkpoint: {on: []}"):
        assert "seccomp" not in made(text, **able).config["linux"]
    assert "seccomp" not in made(**able | {"may_filter": False}).config["linux"]
    assert "seccomp" not in made_of(runc_spec(), **able).config["linux"]


def test_processes_and_mounts_have_labels_where_there_is_selinux() -> None:
    labelled = made(selinux=LABELS)
    config = labelled.config
    assert config["process"]["selinuxLabel"].startswith("system_u:system_r:container_t:s0:c")
    assert config["linux"]["mountLabel"].startswith("system_u:object_r:container_file_t:s0:c")
    size, _, context = planned(labelled, preparation.SHM)[0].partition("\t")
    assert (size, context) == ("67108864", f'context="{config["linux"]["mountLabel"]}"')
    assert "selinuxLabel" not in made().config["process"]
    assert "selinuxLabel" not in made("selinux: disabled", selinux=LABELS).config["process"]


def test_a_bundles_labels_stay_where_there_is_selinux_and_the_definition_has_none() -> None:
    base = runc_spec()
    base["process"]["selinuxLabel"] = "a:b:c:s0"
    assert made_of(base, selinux=LABELS).config["process"]["selinuxLabel"] == "a:b:c:s0"
    assert "selinuxLabel" not in made_of(base).config["process"]
    text = "selinux: {process-label: 'u:r:t:s0'}"
    assert made_of(base, text, selinux=LABELS).config["process"]["selinuxLabel"] == "u:r:t:s0"


@pytest.mark.parametrize(("option", "how"), [("Z", "private"), ("z", "shared")])
def test_files_are_relabelled_where_there_is_selinux(option: str, how: str) -> None:
    text = f"mounts: ['/srv/a:/a:{option},ro', 'v:/v:{option}']"
    labelled = made(text, sources={"/srv/a": "/real/a"}, selinux=LABELS)
    label = labelled.config["linux"]["mountLabel"]
    assert planned(labelled, preparation.RELABEL) == [
        f"{how}\t{label}\t/real/a",
        f"{how}\t{label}\t/var/lib/torpor/.volumes/v",
    ]
    assert mount_at(labelled.config, "/a")["options"] == ["rbind", "ro", "rprivate"]
    plain = made(text, sources={"/srv/a": "/real/a"})
    assert planned(plain, preparation.RELABEL) == []
    assert mount_at(plain.config, "/a")["options"] == ["rbind", "ro", "rprivate"]


def test_a_directory_of_the_host_is_not_relabelled() -> None:
    text = "mounts:\n- tmpfs:/t\n- /srv/link:/a:Z\n"
    error = refused(text, sources={"/srv/link": "/usr"}, selinux=LABELS)
    assert error.message.startswith("web.yaml:5: key 'mounts': /usr belongs to the host")


def test_a_mount_is_relabelled_one_way_or_the_other() -> None:
    error = refused("mounts: ['/srv/a:/a:z,Z']", sources={"/srv/a": "/srv/a"})
    assert "exclude each other" in error.message


def test_equal_configurations_give_equal_bytes() -> None:
    config = runc_spec()
    shuffled = dict(reversed(config.items()))
    assert oci_config.dumps(config) == oci_config.dumps(shuffled)
    assert json.loads(oci_config.dumps(config)) == config


def test_the_bytes_are_ascii_and_end_a_line() -> None:
    assert oci_config.dumps({"a": "é\ud800"}) == b'{"a":"\\u00e9\\ud800"}\n'


def test_a_rendering_from_scratch_has_a_shape_that_a_bundle_could_have() -> None:
    bundle.require_shape(made(EVERYTHING).config)


def test_a_namespace_by_path_must_be_there_before_a_start() -> None:
    text = "namespaces: {net: 'path:/run/netns/x', ipc: 'container:db', uts: host}"
    assert planned(made(text), preparation.NAMESPACE) == ["network\t/run/netns/x"]
    base = runc_spec()
    base["linux"]["namespaces"] = [{"type": "ipc", "path": "/run/ipc"}, {"type": "pid"}]
    assert planned(made_of(base), preparation.NAMESPACE) == ["ipc\t/run/ipc"]
