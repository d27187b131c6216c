"""Attacks by name on what is read, kept and said; those on a whole machine are in tests/machine."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from torpor import (
    annotations,
    bundle,
    cgroup_tree,
    checkpoint,
    cni,
    criu,
    definition,
    dropin,
    image_config,
    images,
    last_rendering,
    mountinfo,
    netns_status,
    oci_state,
    overlay,
    payload,
    preparation,
    record,
    runc,
    state,
    talk,
    volumes,
)
from torpor.container import Container
from torpor.definition import Definition
from torpor.errors import DefinitionError, ImageError, RecordError, TorporError
from torpor.json_shape import ShapeError
from torpor.values import WrongError

BASE = "rootfs: /srv/web\ncommand: [/bin/app]\n"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\u202e\x9b31m"
FORGED = "no\n<0>web: restored generation 9\nMAINPID=1"
SPECIAL = re.compile(r"[^ -~\n]")


def said(text: str) -> Definition:
    return definition.parse("web", "/etc/torpor/web.yaml", text.encode())


REFUSED = {
    "a-laugh-a-billion-times-repeated": "a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n",
    "an-anchor-that-holds-itself": "env: &a {A: *a}\n",
    "python-in-a-tag": "env: !!python/object/apply:os.system ['id']\n",
    "a-merge-key-of-an-alias": BASE + "<<: *a\n",
    "lists-in-lists-in-lists": BASE + "mounts: " + "[" * 20_000,
    "mappings-in-mappings": BASE + "env: " + "{a: " * 20_000,
    "keys-of-keys": "? " * 20_000,
    "a-second-document": BASE + "---\nrootfs: /\n",
    "an-escape-sequence-as-a-key": BASE + '"\\e[2J": 1\n',
    "an-escape-sequence-as-a-hostname": BASE + 'hostname: "\\e]0;x\\a"\n',
    "a-line-break-in-a-hostname": BASE + 'hostname: "a\\nb"\n',
    "a-nul-in-a-path": 'rootfs: "/srv/a\\0b"\ncommand: [x]\n',
    "a-line-break-in-a-mount-option": BASE + 'mounts: ["/srv/a:/b:ro,x\\ny"]\n',
    "the-host-as-its-root": "rootfs: /srv/..\ncommand: [x]\n",
    "an-option-as-its-root": "rootfs: --help\ncommand: [x]\n",
    "an-option-as-an-image": "image: oci:--help\n",
    "an-option-as-a-tag": "image: 'oci:/srv/i:--all'\n",
    "a-tag-that-climbs": "image: 'oci:/srv/i:../../x'\n",
    "an-option-as-a-source": BASE + "mounts: ['-o bind:/a']\n",
    "a-volume-that-climbs": BASE + "mounts: ['../../etc:/a']\n",
    "a-hidden-volume": BASE + "mounts: ['.images:/a']\n",
    "the-root-as-a-volume": BASE + "volumes: [/]\n",
    "a-volume-place-that-climbs": BASE + "volumes: [/a/../../etc]\n",
    "a-mount-place-that-climbs": BASE + "mounts: ['/srv:/a/../../etc']\n",
    "a-working-directory-that-climbs": BASE + "cwd: /a/../../etc\n",
    "a-section-in-a-slice": BASE + 'slice: "a.slice\\n[Service]\\nExecStartPre=/evil"\n',
    "a-path-as-a-slice": BASE + "slice: ../../evil.slice\n",
    "a-specifier-in-a-slice": BASE + "slice: '%n.slice'\n",
    "a-line-in-a-unit-to-wait-for": BASE + 'after: ["a.service\\nExecStartPre=/evil"]\n',
    "two-units-in-one": BASE + "after: ['a.service b.service']\n",
    "an-option-as-a-unit": BASE + "requires: ['--force']\n",
    "a-specifier-in-a-unit": BASE + "requires: ['%i.service']\n",
    "a-line-in-a-limit": BASE + 'resources: {memory-max: "1G\\nExecStartPre=/evil"}\n',
    "a-specifier-in-a-limit": BASE + "resources: {cpu-quota: '%h'}\n",
    "a-line-in-the-name-of-a-limit": BASE + 'resources: {"memory-max=1G\\nExecStartPre": /evil}\n',
    "a-climbing-cgroup": BASE + "cgroups: {cgroupfs: /a/../../b}\n",
    "an-option-as-a-bridge": BASE + "network: {bridge: --help}\n",
    "two-words-as-a-bridge": BASE + "network: {bridge: 'a type dummy'}\n",
    "a-rule-as-an-address": BASE + 'network: {bridge: a0, address: "10.0.0.1; flush ruleset"}\n',
    "a-rule-as-a-port": BASE + "network: {bridge: a0, publish: ['80:80 accept; flush ruleset']}\n",
    "a-climbing-network": BASE + "network: {cni: ../../evil}\n",
    "an-option-as-a-user": BASE + "user: --uid=0\n",
    "a-name-that-climbs-to-join": BASE + "namespaces: {ipc: {container: ../other}}\n",
    "a-device-that-is-the-memory": BASE + "devices: [/dev/../proc/kcore]\n",
    "a-label-with-options": BASE + "selinux: {process: 'a,context=b'}\n",
    "a-mega-of-control-characters": "\x01" * (1 << 20),
}


@pytest.mark.parametrize("attack", REFUSED)
def test_a_definition_is_refused_in_one_line_that_names_it(attack: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        said(REFUSED[attack])
    assert re.match(r"/etc/torpor/web\.yaml(:\d+)?: ", caught.value.message)
    assert caught.value.message.isprintable() and len(caught.value.message) < 500


def test_a_path_with_everything_in_it_stays_one_word_of_one_line_of_a_drop_in() -> None:
    text = 'rootfs: "/srv/%n \\"x\\" \\\\ \'y\'; ExecStart=/evil"\ncommand: [x]\n'
    (line,) = [
        line
        for line in dropin.text(dropin.wanted(said(text))).split("\n")
        if line.startswith("RequiresMountsFor=")
    ]
    assert line == 'RequiresMountsFor="/srv/%%n \\"x\\" \\\\ \'y\'; ExecStart=/evil"'


def test_a_path_with_a_line_break_is_in_no_drop_in() -> None:
    text = 'rootfs: "/srv/a\\nExecStartPre=/evil"\ncommand: [x]\n'
    assert "ExecStartPre" not in dropin.text(dropin.wanted(said(text)))


@pytest.mark.parametrize("place", ["/..", "/.x", "/a/..b/...", "/-x", "/a%n\tb"])
def test_a_volume_is_below_its_containers_state_directory(place: str) -> None:
    path = volumes.own(Container("web"), place)
    parent, name = os.path.split(path)
    assert parent == "/var/lib/torpor/web/volumes"
    assert name.isprintable() and name not in (".", "..") and "%" not in name


def test_a_word_of_a_plan_cannot_forge_another() -> None:
    for word in ("a\tb", "a\nbind=0\t/etc", "a\0b"):
        with pytest.raises(TorporError):
            preparation.value("0", word)


CONFIGURATIONS = {
    "a-list-for-an-object": [],
    "a-variable-without-a-name": {"config": {"Env": ["=x"]}},
    "a-nul-in-a-variable": {"config": {"Env": ["A=\0"]}},
    "half-a-surrogate-pair": {"config": {"Cmd": ["\ud800"]}},
    "the-root-as-a-volume": {"config": {"Volumes": {"/../..": {}}}},
    "too-many-volumes": {"config": {"Volumes": {f"/{n}": {} for n in range(1000)}}},
    "another-system": {"os": "windows"},
    "a-million-arguments": {"config": {"Cmd": ["x"] * 1_000_000}},
}


@pytest.mark.parametrize("attack", CONFIGURATIONS)
def test_an_images_configuration_is_refused(attack: str) -> None:
    value = CONFIGURATIONS[attack]
    with pytest.raises(ShapeError):
        config = json.loads(json.dumps(value))
        image_config.read("sha256:0", 1, {}, config if isinstance(config, dict) else {"config": 1})


def test_an_image_that_climbs_is_in_its_own_root() -> None:
    config = {"config": {"WorkingDir": "../../..", "Volumes": {"/../../etc/": {}, "a/../b": {}}}}
    found = image_config.read("sha256:0", 1, {}, config)
    assert (found.cwd, found.volumes) == ("/", ("/b", "/etc"))


@pytest.mark.parametrize(
    "name",
    [
        *("org.criu.config", "org.systemd.property.MemoryMax", "run.oci.keep_original_groups"),
        *("io.torpor.network", "io.torpor.slice"),
    ],
)
def test_an_image_instructs_no_runtime(name: str) -> None:
    manifest = {"annotations": {name: "/srv/evil", "org.example.built": "here"}}
    found = image_config.read("sha256:0", 1, manifest, {})
    assert found.annotations == (("org.example.built", "here"),)


def test_what_is_removed_is_not_what_a_link_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    (victim / "bundle").mkdir(parents=True)
    for name in ("file", "bundle/file"):
        (victim / name).write_text("the host's")
    container = Container("web")
    container.state_dir, container.run_dir = str(tmp_path / "lib"), str(tmp_path / "run")
    (tmp_path / "lib/generations").mkdir(parents=True)
    (tmp_path / "lib/generations/9").symlink_to(victim)
    images.remove(container.generation_dir(9))
    (tmp_path / "run").symlink_to(victim)
    payload._remove_run_dir(container)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/bundle").symlink_to(victim / "bundle")
    payload._remove_run_dir(container)
    assert not os.path.lexists(tmp_path / "run")
    assert os.listdir(tmp_path / "lib/generations") == []
    assert sorted(os.listdir(victim)) == ["bundle", "file"]
    assert os.listdir(victim / "bundle") == ["file"]


STATES = {
    "cut-short": '{"id": "web", "status": "crea',
    "deep": "[" * 200_000,
    "deep-objects": '{"a":' * 200_000,
    "huge": '{"id": "' + "x" * (2 << 20) + '"}',
    "a-number-of-a-million-digits": '{"pid": ' + "9" * 1_000_000 + "}",
    "two-states": '{"id":"a","status":"created","bundle":"/b"}{"id":"b"}',
    "utf-16": '{"id": "web"}'.encode("utf-16").decode("latin-1"),
    "a-negative-pid": '{"id":"web","status":"created","pid":-1,"bundle":"/b"}',
    "the-pid-of-everybody": '{"id":"web","status":"created","pid":4294967295,"bundle":"/b"}',
    "a-pid-that-is-true": '{"id":"web","status":"created","pid":true,"bundle":"/b"}',
    "a-pid-that-is-a-text": '{"id":"web","status":"created","pid":"1","bundle":"/b"}',
    "a-status-of-its-own": '{"id":"web","status":"\\u001b[2J","pid":1,"bundle":"/b"}',
    "a-bundle-that-climbs": '{"id":"web","status":"created","pid":1,"bundle":"../b"}',
    "an-annotation-that-is-no-text":
        '{"id":"web","status":"created","bundle":"/b","annotations":{"a":{}}}',
}  # fmt: skip


@pytest.mark.parametrize("attack", STATES)
def test_a_runtimes_state_is_refused_in_one_line(attack: str, tmp_path: Path) -> None:
    path = tmp_path / "stdin"
    path.write_bytes(STATES[attack].encode("utf-8", "surrogatepass"))
    with path.open("rb") as file, pytest.raises(TorporError) as caught:
        oci_state.read(file.fileno())
    assert caught.value.message.isprintable() and len(caught.value.message) < 200


BUNDLES = {
    "a-root-with-a-nul": {"root": {"path": "/srv/\0x"}},
    "a-root-that-is-half-a-surrogate-pair": {"root": {"path": "\ud800"}},
    "a-root-that-is-not-there": {"root": {"path": "../../nowhere"}},
}


@pytest.mark.parametrize("attack", BUNDLES)
def test_a_bundles_root_that_is_none_is_refused(attack: str, tmp_path: Path) -> None:
    config = {"ociVersion": "1.0.2", "process": {"args": ["x"]}, **BUNDLES[attack]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DefinitionError) as caught:
        bundle.resolve_root(str(tmp_path), bundle.load(str(tmp_path)))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("directory", ["/b\0c", "/\ud800", "/" + "x" * 5000, "/proc/self/mem"])
def test_a_bundle_directory_that_is_none_is_refused(directory: str) -> None:
    with pytest.raises(DefinitionError):
        bundle.load(directory)


KINDS = ["a-fifo", "a-directory", "a-socket", "a-device", "a-link-to-nothing", "17-megabytes"]


def make(kind: str, path: Path) -> None:
    if kind == "a-fifo":
        os.mkfifo(path)
    elif kind == "a-directory":
        path.mkdir()
    elif kind == "a-socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "a-device":
        path.symlink_to("/dev/zero")
    elif kind == "a-link-to-nothing":
        path.symlink_to("/nowhere/at/all")
    else:
        os.truncate(os.open(path, os.O_WRONLY | os.O_CREAT), 17 << 20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_that_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "config.json")
    with pytest.raises(DefinitionError):
        bundle.load(str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_that_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "web.yaml")
    with pytest.raises(DefinitionError):
        definition.load("web", str(tmp_path / "web.yaml"))


RESOURCES = {
    "a-line": "1G\nExecStartPre=/evil",
    "an-escape": "\x1b[2J",
    "a-specifier": "%n",
    "a-nul": "\0",
    "digits-of-another-script": "\u0661\u0662",
}


@pytest.mark.parametrize("attack", RESOURCES)
def test_an_annotations_limit_is_refused(attack: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        annotations.resources({"memory-max": RESOURCES[attack]})
    assert caught.value.message.isprintable()


def test_a_network_in_an_annotation_has_no_other_keys() -> None:
    for text in ("host\nrootfs: /", "{bridge: a0}\n---\n", "&a {bridge: *a}", "{cni: ../x}"):
        with pytest.raises((DefinitionError, TorporError)):
            annotations.network({annotations.NETWORK: text})


@pytest.mark.parametrize("name", ["../../tmp/evil", "/tmp/evil", ".", "..", ""])
def test_a_cni_plugin_is_in_no_other_directory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "lab", "type": name}))
    with pytest.raises(TorporError) as caught:
        cni._read(str(path))
    assert "names no plugin" in caught.value.message


@pytest.mark.parametrize("name", ["-x", "a/b", "..", "a b", "\x1b[2J", "x" * 16, "a\u00a0b"])
def test_an_interface_of_the_container_is_no_option_of_ip(name: str) -> None:
    links = [{"ifname": name, "mtu": 1500, "addr_info": []}]
    text = f"{json.dumps(links)}\n[]\n[]\n".encode()
    if name == "-x":  # the kernel allows it; netlink, not ip, is told of it
        assert netns_status.parse(text).mtus == {"-x": 1500}
        return
    with pytest.raises(TorporError):
        netns_status.parse(text)


LOG = f"(00.1) Error (criu/files.c:1): Can't open /srv/{ESCAPES}\x00\n"


def test_a_criu_log_of_gigabytes_is_read_from_its_end(tmp_path: Path) -> None:
    with (tmp_path / "dump.log").open("wb") as file:
        file.truncate(8 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + LOG.encode())
    assert criu.errors(str(tmp_path), "dump")[0].startswith("Can't open /srv/")
    criu.keep_log(str(tmp_path), "dump", str(tmp_path / "kept"))
    assert (tmp_path / "kept").stat().st_size <= 3 * criu.LOG_KEEP_BYTES


@pytest.mark.parametrize("kind", ["a-fifo", "a-directory", "a-device"])
def test_a_criu_log_that_is_no_file_says_nothing(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "dump.log")
    assert criu.errors(str(tmp_path), "dump") == []


def test_a_runc_log_too_deep_gives_no_reason(tmp_path: Path) -> None:
    container = Container("web")
    container.run_dir = str(tmp_path)
    (tmp_path / "runc.log").write_text("[" * 60_000 + "\n")
    assert runc.last_error(container) == "it gave no reason"


@pytest.mark.parametrize("words", [ESCAPES, FORGED, "\ud800", "\0", "a\u2028b"])
def test_what_others_say_moves_no_cursor_and_forges_no_line(
    words: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    talk.say(f"web: CRIU: {words}", talk.ERROR)
    talk.warn("web", [words])
    talk.report("web", TorporError(words, f"hint\n{words}"))
    talk.report("web", OSError(5, words, words))
    talk.report("web", ValueError(words))
    lines = capfd.readouterr().err.splitlines()
    assert not any(map(SPECIAL.search, lines))
    assert all(re.match("<[0-7]>(web: |  )", line) for line in lines)
    assert sum(line.startswith("<3>web: ") for line in lines) == 4


def test_what_others_say_is_one_assignment_to_systemd(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(path)
    script = f"from torpor import notify; notify.status({FORGED!r})"
    top = Path(__file__).parents[2]
    (tmp_path / "torpor").symlink_to(top / "helpers")
    environment = {"NOTIFY_SOCKET": path, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-Bc", script], env=environment, check=True)
    heard.setblocking(False)
    message = heard.recv(4096).decode()
    assert message.startswith("STATUS=no") and "\n" not in message


FIELDS = {
    **{"state": "READY", "generation": "3", "boot": "b", "since": "1.5", "attempt": "0"},
    **{"reason": "x", "inputs": "i", "rootfs": "1:2", "frozen": "0.5"},
}
CHANGES = {
    "a-generation-below-zero": ("generation", "-1"),
    "a-generation-of-another-script": ("generation", "\u00b2"),
    "a-generation-with-blanks": ("generation", " 3 "),
    "a-generation-of-5000-digits": ("generation", "9" * 5000),
    "attempts-below-zero": ("attempt", "-100"),
    "the-end-of-time": ("since", "inf"),
    "no-time": ("since", "nan"),
    "a-time-that-no-calendar-has": ("since", "1e300"),
    "frozen-for-ever": ("frozen", "inf"),
    "a-state-of-its-own": ("state", "AWAKE"),
}


def state_record(**changes: str) -> bytes:
    lines = [f"{key}={text}" for key, text in {**FIELDS, **changes}.items()]
    return "\n".join(("torpor-state=1", *lines, "")).encode()


def test_the_state_record_is_one_where_nobody_changed_it() -> None:
    assert state.parse(state_record(), "state").name == "READY"


@pytest.mark.parametrize("attack", CHANGES)
def test_a_state_record_is_not_believed(attack: str) -> None:
    key, text = CHANGES[attack]
    with pytest.raises(RecordError):
        state.parse(state_record(**{key: text}), "state")


def test_a_state_record_that_says_two_things_is_not_believed() -> None:
    with pytest.raises(RecordError):
        state.parse(state_record() + b"state=CONSUMED\n", "state")


@pytest.mark.parametrize("path", ["../../etc/shadow", "/etc/shadow", "a/../../b", ".", "", "a//b"])
def test_a_manifest_names_nothing_outside_of_its_generation(path: str) -> None:
    body = f"torpor-manifest=1\nname=web\nfile=0 1 {path}\n".encode()
    with pytest.raises(ImageError):
        images.parse_manifest(body + f"check={xxhash.xxh3_128_hexdigest(body)}\n".encode(), "m")


@pytest.mark.parametrize("line", ["file=0 -1 a", "file=0 x a", "file=0", "taken=inf", "taken=x"])
def test_a_manifest_with_impossible_numbers_is_refused(line: str) -> None:
    body = f"torpor-manifest=1\nname=web\n{line}\n".encode()
    with pytest.raises(ImageError):
        images.parse_manifest(body + f"check={xxhash.xxh3_128_hexdigest(body)}\n".encode(), "m")


@pytest.mark.parametrize(
    "line",
    [
        *("cgroup=0:0 ../../other", "cgroup=0:0 /other", "cgroup=\u00b2:0 a", "cgroup=-1:0 a"),
        *("knob=../..\tcgroup.procs\t1", "knob=/\tcgroup.procs\t1", "knob=a\t../cgroup.kill\t1"),
        *("knob=a\t..\t1", "knob=a", "knob="),
    ],
)
def test_a_record_of_cgroups_writes_to_no_other(line: str, tmp_path: Path) -> None:
    (tmp_path / "cgroups").write_text(f"torpor-cgroups=1\n{line}\n")
    with pytest.raises(RecordError):
        cgroup_tree.Saved(str(tmp_path / "cgroups"))


def test_cgroups_deeper_than_python_recurses_are_all_found(tmp_path: Path) -> None:
    depth = 1500
    inner = tmp_path
    for _ in range(depth):
        inner /= "a"
        inner.mkdir()
    try:
        found = cgroup_tree._below(str(tmp_path))
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)  # pytest recurses
    assert len(found) == depth and found[0] == "a" and found[-1] == "/".join("a" * depth)


def test_whatever_fails_in_a_commit_lets_criu_end_in_order(tmp_path: Path) -> None:
    """Were it killed instead, its code would stay in the container's processes."""

    class Held:
        def still_holds(self) -> bool:
            return True

    class Frozen:
        def write(self, file: str, value: str) -> None:
            pass

    def commit() -> None:
        raise RecursionError("too deep")

    dump = checkpoint.Dump.__new__(checkpoint.Dump)
    dump._cgroup, dump._committed = Frozen(), False  # type: ignore[assignment]
    dump._vantage = None
    assert not dump._commit(commit, Held())  # type: ignore[arg-type]
    assert isinstance(dump._refusal, RecursionError)


@pytest.mark.parametrize("name", ["\u00b2", "-1", "1_0", "9" * 400, "..", "1\n", " 1"])
def test_what_has_no_number_is_no_generation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = Container("web")
    container.state_dir = str(tmp_path)
    if len(name) < 255 and name != "..":
        (tmp_path / "generations" / name).mkdir(parents=True)
    (tmp_path / "generations" / "7").mkdir(parents=True)
    assert images.generations(container) == [7]


@pytest.mark.parametrize("keys", ["keep=\n", "keep=x\nstop-signal=15\nowner=0:0\n", "owner=1\n"])
def test_the_record_of_a_rendering_without_its_numbers_vouches_for_nothing(
    keys: str, tmp_path: Path
) -> None:
    container = Container("web")
    container.state_dir = str(tmp_path)
    (tmp_path / "inputs").write_text(f"torpor-inputs=1\n{keys}")
    assert last_rendering.load(container) is None


PLANTED = ["a link", "a hard link", "a FIFO", "a file of others"]


@pytest.mark.parametrize("planted", PLANTED)
def test_a_record_is_not_written_through_what_lies_in_its_place(
    planted: str, tmp_path: Path
) -> None:
    path, victim = tmp_path / "state", tmp_path / "victim"
    victim.write_text("the host's")
    new = tmp_path / "state.new"
    if planted == "a link":
        new.symlink_to(victim)
    elif planted == "a hard link":
        os.link(victim, new)
    elif planted == "a FIFO":
        os.mkfifo(new)
    else:
        new.write_text("x" * 100)
        new.chmod(0o666)
    record.write_durably(str(path), b"ours")
    assert (path.read_bytes(), victim.read_text()) == (b"ours", "the host's")
    assert stat.S_ISREG(path.lstat().st_mode) and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not os.path.lexists(new)


@pytest.mark.parametrize("kind", ["a-fifo", "a-directory", "a-socket", "17-megabytes"])
def test_a_record_that_is_no_file_is_one_fault(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "state")
    with pytest.raises((RecordError, OSError)):
        state.parse(record.read_bytes(str(tmp_path / "state")) or b"", "state")


def test_a_record_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(state_record())
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError):
        record.read_bytes(str(tmp_path / "state"))


def test_a_record_that_nobody_could_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        record.write_durably(str(tmp_path / "netns"), bytes((16 << 20) + 1))
    assert not list(tmp_path.iterdir())


def test_a_storage_record_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image").write_text("torpor-storage=1\nimage=x\nimage2=y\n")
    with pytest.raises(RecordError):
        overlay._recorded(str(tmp_path))


BLANKS = "\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\u00a0\u2000\u2028\u3000"


@pytest.mark.parametrize("blank", BLANKS)
def test_a_blank_that_the_kernel_does_not_escape_moves_no_field(blank: str) -> None:
    line = f"40 22 8:1 /srv/a{blank}b /run/torpor/web/sources/0 rw - ext4 /dev/x rw\n"
    assert mountinfo.fields(line)[3:6] == [f"/srv/a{blank}b", "/run/torpor/web/sources/0", "rw"]


def test_a_mounts_place_is_what_it_is_called() -> None:
    line = "36 22 0:32 / /mnt/a\\040b\\011c\\012d\\134e\\134040 rw - tmpfs none rw,x=\\9\n"
    assert mountinfo.fields(line)[4] == "/mnt/a b\tc\nd\\e\\040"
    assert mountinfo.fields(line)[-1] == "rw,x=\\9"


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "-x", "a\nb", "a%n", ".x", "a\0", "x" * 65, "\u00e9"]
)
def test_a_name_is_no_path_no_option_and_no_specifier(name: str) -> None:
    with pytest.raises(TorporError) as caught:
        Container(name)
    assert caught.value.message.isprintable()
    with pytest.raises(WrongError):
        volumes.named(name)
