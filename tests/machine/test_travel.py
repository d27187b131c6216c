"""A container that goes to another host, or gets another name, goes on exactly where it was."""

import json
from collections.abc import Iterator

import pytest

import guest
from containers import Config, Container, make_bundle, make_busybox
from cycle import INIT, enter, left, settled, within
from inside import CommandFailed
from machine import Machine

IMAGE = "/srv/travel-image"
ARCHIVE = "/srv/box.tar.zst"
WATCHER = r"""
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>
int main(int count, char **words) {
    char found[4096];
    int fd = inotify_init();
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (--count) printf("watch %d\n", inotify_add_watch(fd, words[count], IN_MODIFY));
    for (;;) {
        if (read(fd, found, sizeof(found)) > 0)
            printf("changed %d\n", ((struct inotify_event *) found)->wd);
    }
}
"""
MAKE_WATCHER = "cat >/srv/w.c; gcc -static -o /srv/travel-image/bin/watcher /srv/w.c; rm /srv/w.c"
# podman has a container's root as 0555, whatever its image says, and CRIU looks at that.
MAKE_IMAGE = """
cd "$1"; mkdir -p etc/gone etc/again/old etc/moved/deep etc/mode etc/to-file var/log new run
echo image >etc/changed; echo image >etc/deleted; echo image >etc/kept; echo image >etc/to-dir
echo image >etc/gone/file; echo image >etc/again/file; echo image >etc/again/old/file
echo image >etc/moved/deep/file; echo image >etc/to-file/file
echo image >etc/linked; ln etc/linked var/log/linked; echo image >etc/apart; ln etc/apart etc/apart2
touch -d 2001-02-03 etc/kept etc/gone etc/mode
chmod 555 .
"""
# All that can become of a file of an image, and of one that is new.
CHANGE = r"""
cd /
echo more >>etc/changed; rm etc/deleted; rm -r etc/gone; rm -r etc/again; mkdir etc/again
echo new >etc/again/file; mv etc/moved etc/moved-away; chmod 2750 etc/mode; chown 7:8 etc/mode
rm -r etc/to-file; echo file >etc/to-file; rm etc/to-dir; mkdir etc/to-dir; echo in >etc/to-dir/in
echo more >>etc/linked; mv etc/apart etc/elsewhere; echo more >>etc/elsewhere
mkdir -p new/dir; echo new >new/dir/file; ln new/dir/file new/linked; ln -s /etc/changed new/link
mkfifo new/fifo; chmod 4755 new/dir/file; dd if=/dev/zero of=new/holes bs=1 count=1 seek=50000000
touch -d 2002-03-04 new/dir; echo 'two lines' >'new/a
name'; rm -r var/log; mkdir var/log; mkdir -p new/empty
echo volume >'own volume/file'; ln -s x var/tmp/link
"""
# Counts in a file of the rootfs, in one that is deleted, in /dev/shm and in a tmpfs.
COUNT = r"""
exec 3>>/new/counted 4<>/new/deleted; rm /new/deleted
echo shm >/dev/shm/kept; echo tmpfs >/run/kept; i=0
while :; do i=$((i+1)); echo $i >&3; echo $i >&4; echo count $i; sleep 0.1; done
"""
LOOK = """
import hashlib, json, os, stat, sys
found = {}
for top, _, names in os.walk(sys.argv[1]):
    for path in (top, *(f"{top}/{name}" for name in names)):
        status = os.lstat(path)
        is_file = stat.S_ISREG(status.st_mode)
        is_link = stat.S_ISLNK(status.st_mode)
        found[os.path.relpath(path, sys.argv[1])] = [
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns,
            status.st_size if is_file else 0, status.st_nlink if is_file else 0,
            status.st_blocks < 1000, os.readlink(path) if is_link else "",
            hashlib.sha256(open(path, "rb").read()).hexdigest() if is_file else "",
            {x: os.getxattr(path, x, follow_symlinks=False).hex()
             for x in os.listxattr(path, follow_symlinks=False)}]
print(json.dumps(found))
"""
WROTE = "timeout 10 sh -c 'until [ -s {} ]; do sleep 0.05; done'"


def looks(container: Container) -> dict[str, list[object]]:
    """What its root file system is like while it runs, but for what it writes, and CRIU."""
    root = f"/run/torpor/{container.name}/rootfs"
    found = json.loads(container.machine.run("python3", "-c", LOOK, root).stdout)
    return {
        path: of for path, of in found.items() if path not in ("new/counted", "new", "run", "tmp")
    }


def listing(machine: Machine) -> str:
    """All that torpor keeps."""
    script = (
        "cd /; find var/lib/torpor etc/torpor -type d -printf '%p %i %m\\n' -o "
        "-printf '%p %i %m %s %T@\\n' | sort"
    )
    return machine.run("sh", "-c", script).stdout


def refused(machine: Machine, *words: str) -> str:
    """What torpor says when it takes an archive not; nothing has changed then."""
    before = listing(machine)
    with pytest.raises(CommandFailed) as failed:
        machine.run("torpor", "import", *words)
    assert listing(machine) == before
    said = str(failed.value.stderr)
    assert "Traceback" not in said and said.startswith("torpor: "), said
    return said


def torn(machine: Machine) -> str:
    """What is there of what was cut off."""
    words = ("-name", "*.new", "-o", "-name", "*.old")
    return machine.run("find", "/var/lib/torpor", "/etc/torpor", *words).stdout


@pytest.fixture(scope="module")
def image(machine: Machine) -> Iterator[str]:
    machine.run("sh", "-ec", MAKE_IMAGE, "sh", make_busybox(machine, IMAGE))
    yield IMAGE
    machine.run("rm", "-rf", IMAGE, ARCHIVE, "/etc/torpor/trusted", "/srv/keys")


@pytest.fixture
def box(machine: Machine, image: str) -> Iterator[Container]:
    """A container that changed all of its image, and counts."""
    container = Container(machine, "box")
    command = ["/bin/sh", "-c", f"{CHANGE}\n{COUNT}"]
    own = ["/var/tmp", "/own volume"]
    container.define(image=image, command=command, mounts=["tmpfs:/run"], volumes=own)
    container.start()
    machine.run("sh", "-c", WROTE.format("/run/torpor/box/rootfs/new/counted"))
    yield container
    container.remove()
    machine.run("rm", "-rf", ARCHIVE)


@pytest.fixture
def other(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Container]:
    """Of another name in each test: the journal stays."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40]
    container = Container(machine, name)
    yield container
    container.remove()
    assert left(container) == ""


def test_all_that_it_wrote_over_its_image_travels_and_it_goes_on(
    box: Container, other: Container
) -> None:
    machine = box.machine
    root = "/run/torpor/box/rootfs"
    machine.run("setfattr", "-n", "user.note", "-v", "0s/wABAg==", f"{root}/new/dir", check=False)
    before = looks(box)
    box.stop()
    machine.run("torpor", "export", "box", ARCHIVE)
    machine.reboot()
    machine.run("torpor", "import", "--trust", ARCHIVE, other.name)
    counted = box.numbers()[-1]
    assert other.state() == "READY"
    other.start()
    assert other.property("StatusText").startswith("restored"), other.journal()
    assert other.numbers()[0] == counted + 1
    assert looks(other) == before
    assert within(other, "cat /dev/shm/kept /run/kept; cat '/own volume/file'; ls /var/tmp") == (
        "shm\ntmpfs\nvolume\nlink\n"
    )
    other.stop()
    numbers = [str(number) for number in range(1, other.numbers()[-1] + 1)]
    assert (
        machine.read(f"/var/lib/torpor/{other.name}/storage/upper/new/counted").split() == numbers
    )
    other.start()
    assert within(other, "cat /proc/1/fd/4").split()[: len(numbers)] == numbers


# What is known of images wherever they are.
INSPECTED = ("facts", "processes", "shared_memory", "mounts", "space", "times", "size_bytes")


def test_an_archive_is_looked_into_as_what_it_was_made_of(box: Container) -> None:
    machine = box.machine
    box.stop()
    machine.run("torpor", "export", "box", ARCHIVE)
    here = json.loads(machine.run("torpor", "inspect", "--json", "box").stdout)
    there = json.loads(machine.run("torpor", "inspect", "--json", ARCHIVE).stdout)
    assert {key: there[key] for key in INSPECTED} == {key: here[key] for key in INSPECTED}
    assert (there["name"], there["generation"], there["path"]) == ("box", 1, ARCHIVE)
    assert there["verified"] is True and there["signer"] == "" and there["asleep"] is False
    text = machine.run("sh", "-c", f"cd /srv; torpor inspect - <{ARCHIVE}").stdout
    assert "as they were written" in text and "it is not signed" in text
    assert machine.run("sh", "-c", "cd /srv; torpor inspect box.tar.zst").stdout.count("box") > 1
    machine.run("sh", "-c", f"head -c 2000 {ARCHIVE} >/srv/cut.tar.zst")
    cut = machine.run("torpor", "inspect", "/srv/cut.tar.zst", check=False)
    assert cut.returncode == 1 and cut.stderr.startswith("torpor: /srv/cut.tar.zst")
    assert len(cut.stderr.splitlines()) <= 2
    machine.run("rm", "/srv/cut.tar.zst")
    assert machine.run("sh", "-c", "ls -d /var/tmp/torpor-inspect-*", check=False).stdout == ""


def test_checkpointctl_reads_it_as_podmans(box: Container) -> None:
    machine = box.machine
    box.stop()
    machine.run("torpor", "export", "--base-image=example.org/box:1", "box", ARCHIVE)
    shown = machine.run("checkpointctl", "show", ARCHIVE).stdout
    assert "box" in shown and "example.org/box:1" in shown and "Podman" in shown
    words = ("checkpointctl", "inspect", "--format=json", "--all", ARCHIVE)
    there = json.loads(machine.run(*words).stdout)[0]
    here = json.loads(machine.run("torpor", "inspect", "--json", "box").stdout)
    assert there["container_name"] == "box" and there["runtime"] == "runc"
    tree = there["process_tree"]
    processes = [tree, *tree["children"]]
    assert {(one["pid"], one["command"]) for one in processes} == {
        (one["pid"], one["name"]) for one in here["processes"]
    }
    opened = {file["path"] for file in there["file_descriptors"][0]["open_files"]}
    assert {"/new/counted", "/dev/null"} <= opened
    assert {"/proc", "/dev", "/run"} <= {one["destination"] for one in there["mounts"]}
    assert there["statistics"]["pages_written"] > 0


def test_a_moment_of_one_that_runs_travels(box: Container, other: Container) -> None:
    machine = box.machine
    said = machine.run("sh", "-c", f"torpor export --running box - >{ARCHIVE}").stderr
    assert "box: snapshot 1: " in said and "it goes on here" in said
    assert machine.run("ls", "/var/lib/torpor/box/snapshots").stdout == ""
    assert box.property("ActiveState") == "active" and box.state() == "RUNNING"
    machine.run("torpor", "import", "--trust", ARCHIVE, other.name)
    counted = f"/var/lib/torpor/{other.name}/storage/upper/new/counted"
    last = int(machine.read(counted).split()[-1])
    other.start()
    assert other.property("StatusText").startswith("restored"), other.journal()
    # The number is written before it is said.
    assert other.numbers()[0] in (last, last + 1)
    other.stop()
    numbers = [str(number) for number in range(1, other.numbers()[-1] + 1)]
    assert machine.read(counted).split() == numbers
    box.stop()
    here = machine.read("/var/lib/torpor/box/storage/upper/new/counted").split()
    assert here == [str(number) for number in range(1, len(here) + 1)] and len(here) > last


@pytest.fixture
def whole(machine: Machine) -> Iterator[Container]:
    """A container with a root file system of its own, who counts."""
    rootfs = make_busybox(machine, "/srv/whole")
    box = Container(machine, "whole").define(
        rootfs=rootfs, command=["/bin/sh", "-c", f"mkdir /new\n{COUNT}"], mounts=["tmpfs:/run"]
    )
    box.start()
    machine.run("sh", "-c", WROTE.format("/srv/whole/new/counted"))
    yield box
    box.remove()
    machine.run("rm", "-rf", rootfs, ARCHIVE)


def test_a_snapshot_travels(whole: Container, other: Container) -> None:
    machine = whole.machine
    assert "has no snapshot 1" in refused_export(machine, "--snapshot=1", "whole", ARCHIVE)
    machine.run("torpor", "snapshot", "whole")
    machine.run("torpor", "stop", "--fresh", "whole")
    words = ("--snapshot=1", "whole", ARCHIVE)
    assert "it goes on here" in machine.run("torpor", "export", *words).stderr
    assert "is not running" in refused_export(machine, "--running", "whole", "/srv/no")
    assert machine.run("ls", "/srv/no", check=False).returncode
    machine.run("torpor", "import", "--trust", ARCHIVE, other.name)
    last = int(machine.read(f"/var/lib/torpor/{other.name}/rootfs/new/counted").split()[-1])
    other.start()
    assert other.property("StatusText").startswith("restored"), other.journal()
    assert other.numbers()[0] in (last, last + 1)
    whole.define(rootfs="/srv/whole", command=["/bin/sh", "-c", COUNT])
    assert "definition of whole changed" in refused_export(machine, *words)


LAYER = """
import json, sys
top, tag = sys.argv[1:]
def blob(one): return f"{top}/blobs/{one['digest'].replace(':', '/')}"
index = json.load(open(f"{top}/index.json"))["manifests"]
names = {one["annotations"]["org.opencontainers.image.ref.name"]: one for one in index}
manifest = json.load(open(blob(names[tag])))
layer, = manifest["layers"]
print(json.dumps([sorted(names), manifest["annotations"], blob(layer)]))
"""


def test_a_cluster_is_given_an_image(box: Container, other: Container) -> None:
    machine = box.machine
    layout = "/srv/checkpoints"
    box.stop()
    words = ("export", f"--image=oci:{layout}:v1", "--base-image=docker.io/x:1", "box")
    try:
        machine.run("torpor", *words)
        machine.run("torpor", *words[:1], f"--image=oci:{layout}:v2", "box")
        names, notes, layer = json.loads(machine.run("python3", "-c", LAYER, layout, "v1").stdout)
        assert names == ["v1", "v2"]
        assert notes["io.kubernetes.cri-o.annotations.checkpoint.name"] == "box"
        assert notes["org.criu.checkpoint.container.name"] == "box"
        assert notes["org.criu.checkpoint.rootfsImageName"] == "docker.io/x:1"
        assert machine.run("stat", "-c", "%a", layout, layer).stdout.split() == ["700", "600"]
        held = machine.run("tar", "-tf", layer).stdout.split()
        assert {"config.dump", "spec.dump", "rootfs-diff.tar", "checkpoint/inventory.img"} <= {
            *held
        }
        spec = json.loads(machine.run("tar", "-xOf", layer, "spec.dump").stdout)
        assert spec["annotations"]["io.kubernetes.cri-o.Annotations"] == "{}"
        counted = box.numbers()[-1]
        machine.run("torpor", "import", "--trust", layer, other.name)
        other.start()
        assert other.property("StatusText").startswith("restored"), other.journal()
        assert other.numbers()[0] == counted + 1
        machine.run("sh", "-c", "mkdir /srv/no-layout; echo x >/srv/no-layout/x")
        assert "umoci" in refused_export(machine, "--image=oci:/srv/no-layout:v1", "box")
        assert machine.run("ls", "/srv/no-layout").stdout == "x\n"
        assert "say where to" in refused_export(machine, "box")
    finally:
        machine.run("rm", "-rf", layout, "/srv/no-layout")


def refused_export(machine: Machine, *words: str) -> str:
    done = machine.run("torpor", "export", *words, check=False)
    assert done.returncode and "Traceback" not in done.stderr
    return done.stderr


def test_a_rootfs_travels_whole_through_a_pipe(whole: Container, other: Container) -> None:
    machine = whole.machine
    whole.stop()
    pipe = f"torpor export whole - | torpor import --trust - {other.name}"
    machine.run("bash", "-o", "pipefail", "-c", pipe)
    before = machine.run("python3", "-c", LOOK, "/srv/whole").stdout
    there = f"/var/lib/torpor/{other.name}/rootfs"
    assert machine.run("python3", "-c", LOOK, there).stdout == before
    other.start()
    whole.start()
    assert other.property("StatusText").startswith("restored"), other.journal()
    assert whole.property("StatusText").startswith("restored")
    assert other.numbers()[0] in whole.numbers()


SMALL = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo count $i; sleep 0.1; done"]


@pytest.fixture
def small(machine: Machine, image: str) -> Iterator[Container]:
    """A container with an image, of whom there is an archive that nobody signed."""
    container = Container(machine, "small").define(image=image, command=SMALL)
    container.start()
    container.stop()
    machine.run("torpor", "export", "small", ARCHIVE)
    yield container
    container.remove()
    machine.run("rm", "-rf", ARCHIVE)


def test_a_container_is_replaced_only_when_that_is_said(small: Container) -> None:
    machine = small.machine
    assert "there is a container small already" in refused(machine, "--trust", ARCHIVE)
    assert "small" in refused(machine, "--trust", ARCHIVE, "small")
    small.start()
    small.settle()
    assert "is running" in refused(machine, "--trust", "--replace", ARCHIVE)
    machine.run("torpor", "stop", "--fresh", "small")
    assert small.state() == "EXITED"
    machine.run("torpor", "import", "--trust", "--replace", ARCHIVE)
    assert small.state() == "READY"
    small.start()
    assert small.property("StatusText").startswith("restored"), small.journal()
    assert torn(machine) == ""


@pytest.mark.parametrize(
    ("point", "first"),
    [("filled", "restored"), ("before definition", ""), ("after definition", "restored")],
)
def test_an_import_that_is_killed_costs_no_memory(small: Container, point: str, first: str) -> None:
    """It is the old one, or none that starts, or the new one; and the import can be repeated."""
    machine = small.machine
    words = ("import", "--trust", "--replace", ARCHIVE)
    fault = {"TORPOR_FAULT": f"{point}=kill"}
    assert machine.run("torpor", *words, env=fault, check=False).returncode
    small.systemctl("start", check=False)
    assert small.property("StatusText").startswith(first), small.journal()
    assert small.state() == ("RUNNING" if first else "READY")
    machine.run("torpor", "stop", "--fresh", "small", check=False)
    small.systemctl("stop", check=False)
    machine.run("torpor", *words)
    assert torn(machine) == ""
    small.start()
    assert small.property("StatusText").startswith("restored"), small.journal()


def test_after_an_import_a_change_counts_as_ever(small: Container, other: Container) -> None:
    machine = small.machine
    machine.run("torpor", "import", "--trust", ARCHIVE, other.name)
    other.define(image=IMAGE, command=SMALL, hostname="another")
    other.start()
    assert "the definition changed" in other.property("StatusText"), other.journal()
    machine.run("torpor", "stop", "--fresh", other.name)
    machine.run("torpor", "import", "--trust", "--replace", ARCHIVE, other.name)
    machine.run("sh", "-c", f"cd /var/lib/torpor/{other.name}/storage; mv upper old; mkdir upper")
    other.start()
    assert "the rootfs changed" in other.property("StatusText"), other.journal()


def test_only_who_is_trusted_is_believed(small: Container, other: Container) -> None:
    machine = small.machine
    make = "mkdir -p /srv/keys; for k in a b; do ssh-keygen -qN '' -t ed25519 -f /srv/keys/$k; done"
    machine.run("sh", "-c", make)
    assert "is not signed" in refused(machine, ARCHIVE, other.name)
    machine.run("torpor", "export", "--sign", "/srv/keys/b", "small", ARCHIVE)
    assert "no signer is trusted" in refused(machine, ARCHIVE, other.name)
    machine.run("sh", "-c", "echo me@there $(cat /srv/keys/a.pub) >/etc/torpor/trusted")
    assert "none of those" in refused(machine, ARCHIVE, other.name)
    machine.run("torpor", "export", "--sign", "/srv/keys/a", "small", ARCHIVE)
    said = machine.run("torpor", "import", ARCHIVE, other.name).stderr
    assert "signed by me@there" in said
    other.start()
    assert other.property("StatusText").startswith("restored"), other.journal()


REPACK = r"""
import io, json, subprocess, sys, tarfile
change, source, target = sys.argv[1:]
plain = subprocess.run(["zstd", "-dcq", source], capture_output=True, check=True).stdout
found = []
with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
    for info in tar:
        file = tar.extractfile(info)
        found.append([info.name, info, file.read() if file else b""])
def entry(name):
    return next(one for one in found if one[0] == name)
def inner(*infos):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind, link in infos:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.devmajor, info.devminor = kind, link, 8, 0
            tar.addfile(info)
    return file.getvalue()
exec(change)
import hashlib
pairs = [f"entry={hashlib.sha256(c).hexdigest()} {len(c)} {n}" for n, i, c in found
         if not i.isdir() and n != "torpor/manifest"]
entry("torpor/manifest")[2] = ("torpor-archive-manifest=1\n" + "\n".join(pairs) + "\n").encode()
with tarfile.open(target, "w") as tar:
    for name, info, content in found:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
"""
# Whole archives with a manifest that fits, as somebody makes who knows how.
ATTACKS = {
    "upwards": ("inner(('../owned', b'0', ''))", "owned"),
    "through-a-link": ("inner(('w', b'2', '/etc'), ('w/owned', b'0', ''))", "w/owned"),
    "through-a-link-of-the-image": ("inner(('bin/sh/owned', b'0', ''))", "bin/sh/owned"),
    "a-hard-link": ("inner(('owned', b'1', '/etc/passwd'))", "owned"),
    "a-disk": ("inner(('owned', b'4', ''))", "owned"),
    "no-archive": ("b'no archive at all' * 100", "rootfs-diff.tar"),
}
SPEC_ATTACKS = {
    "another-mount": ("s['mounts'].append({'destination': '/m', 'type': 'bind'})", "mounts"),
    "the-host's-network": ("s['linux']['namespaces'].pop()", "namespaces"),
    "no-spec": ("s.clear()", "mounts"),
    "hostile-mounts": ("s['mounts'] = 7", "mounts"),
}
OTHER_ATTACKS = {
    "another-definition": (
        "entry('torpor/definition.yaml')[2] = b'image: /srv/travel-image\\ncommand: [/evil]\\n'",
        "another definition",
    ),
    "the-host-as-rootfs": (
        "entry('torpor/definition.yaml')[2] = b'rootfs: /\\ncommand: [/bin/sh]\\n'",
        "root directory|another definition",
    ),
    "a-deleted-root": ("add('deleted.files', b'[\"/\"]')", "deleted.files"),
    "a-deleted-host": ("add('deleted.files', b'[\"/../etc/passwd\"]')", "deleted.files"),
    "deleted-numbers": ("add('deleted.files', b'[1]')", "deleted.files"),
    "a-cgroup-that-climbs": (
        "add('torpor/cgroups', b'torpor-cgroups=1\\ncgroup=0:0 ../../x\\n')",
        "cgroups",
    ),
    "no-generation": ("found.remove(entry('torpor/generation'))", "torpor/generation"),
    "another-machine": (
        "h = entry('torpor/header'); h[2] = h[2].replace(b'x86_64', b'sparc64')",
        "sparc64",
    ),
}
ADD = (
    "def add(name, content):\n"
    "    if any(one[0] == name for one in found): found.remove(entry(name))\n"
    "    at = found.index(entry('rootfs-diff.tar'))\n"
    "    if name != 'deleted.files': at = found.index(entry('torpor/created'))\n"
    "    found.insert(at, [name, tarfile.TarInfo(name), content])\n"
)
SPEC = "e = entry('torpor/config.json'); s = json.loads(e[2]); {}; e[2] = json.dumps(s).encode()"


def changes() -> Iterator[tuple[str, str]]:
    for change, words in ATTACKS.values():
        yield f"entry('rootfs-diff.tar')[2] = {change}", words
    for change, words in SPEC_ATTACKS.values():
        yield SPEC.format(change), words
    for change, words in OTHER_ATTACKS.values():
        yield f"{ADD}{change}", words


def test_hostile_archives_change_nothing(small: Container) -> None:
    machine = small.machine
    hostile = "/srv/hostile.tar"
    for change, words in changes():
        machine.run("python3", "-c", REPACK, change, ARCHIVE, hostile)
        said = refused(machine, "--trust", hostile, "x")
        assert any(word in said for word in words.split("|")), (change, said)
    machine.run("sh", "-c", f"head -c $(($(stat -c %s {ARCHIVE}) / 2)) {ARCHIVE} >{hostile}")
    assert "hostile.tar" in refused(machine, "--trust", hostile, "x")
    assert "is no tar archive" in refused(machine, "--trust", "/etc/passwd", "x")
    assert machine.run("sh", "-c", "ls -d /run/torpor/x /etc/owned", check=False).stdout == ""
    machine.run("rm", hostile)


def test_watches_go_on_over_a_copy_of_the_image(
    machine: Machine, image: str, other: Container
) -> None:
    """Where no inode is what it was: CRIU is to find the files by their names."""
    machine.run("sh", "-ec", MAKE_WATCHER, input=WATCHER)
    copy = "/srv/travel-copy"
    command = "echo x >/new/file; exec /bin/watcher /new/file /etc/kept"
    box = Container(machine, "watching").define(image=image, command=["/bin/sh", "-c", command])
    try:
        box.start()
        box.wait_for_line("watch 2")
        box.stop()
        machine.run("torpor", "export", "watching", ARCHIVE)
        box.remove()
        machine.run("cp", "-a", image, copy)
        machine.run("torpor", "import", "--trust", f"--image={copy}", ARCHIVE, other.name)
        other.start()
        assert other.property("StatusText").startswith("restored"), other.journal()
        for path, said in (("/etc/kept", "changed 1"), ("/new/file", "changed 2")):
            within(other, f"echo y >>{path}")
            other.wait_for_line(said)
    finally:
        box.remove()
        other.remove()
        machine.run("rm", "-rf", copy, ARCHIVE)


def test_an_address_that_is_taken_is_not_given_twice(
    machine: Machine, image: str, other: Container
) -> None:
    network = {"bridge": "tra0", "subnet": "10.77.0.0/24"}
    box = Container(machine, "box").define(image=image, command=SMALL, network=network)
    try:
        box.start()
        address = box.status()["addresses"]
        box.stop()
        machine.run("torpor", "export", "box", ARCHIVE)
        assert "is taken by box" in refused(machine, "--trust", ARCHIVE, other.name)
        machine.run("torpor", "discard", "box")
        machine.run("torpor", "import", "--trust", ARCHIVE, other.name)
        assert other.status()["addresses"] == address
        other.start()
        assert other.property("StatusText").startswith("restored"), other.journal()
        found = machine.run("ip", "-n", f"torpor-{other.name}", "-br", "addr").stdout
        assert str(address[0]) in found  # type: ignore[index]
        other.sleep_and_wake()
        assert other.property("StatusText").startswith("restored"), other.journal()
    finally:
        box.remove()
        machine.run("torpor", "stop", "--fresh", other.name, check=False)
        machine.run("rm", "-rf", ARCHIVE)


def test_mapped_ids_travel(machine: Machine, image: str, other: Container) -> None:
    box = Container(machine, "box").define(
        image=image, command=["/bin/sh", "-c", f"{CHANGE}\n{COUNT}"], idmap="0:100000:65536"
    )
    try:
        box.start()
        machine.run("sh", "-c", WROTE.format("/run/torpor/box/rootfs/new/counted"))
        before = looks(box)
        box.stop()
        machine.run("torpor", "export", "box", ARCHIVE)
        box.remove()
        machine.run("torpor", "import", "--trust", ARCHIVE, other.name)
        other.start()
        assert other.property("StatusText").startswith("restored"), other.journal()
        assert looks(other) == before
    finally:
        box.remove()
        machine.run("rm", "-rf", ARCHIVE)


def test_a_systemd_travels_with_its_services(machine: Machine, other: Container) -> None:
    box = Container(machine, "system").define(
        image=guest.PLACE, command=INIT, idmap="0:100000:65536", notify="container"
    )
    try:
        box.start()
        enter(box, "echo mine >/root/mine; systemd-run -q --unit=long sleep 10000")
        long = enter(box, "systemctl show -P MainPID long")
        box.stop()
        machine.run("torpor", "export", "system", ARCHIVE)
        box.remove()
        machine.run("torpor", "import", "--trust", ARCHIVE, other.name)
        other.start()
        assert other.property("StatusText").startswith("restored"), other.journal()
        assert settled(other) == "running"
        assert enter(other, "cat /root/mine; systemctl show -P MainPID long") == f"mine\n{long}"
        other.sleep_and_wake()
        assert other.property("StatusText").startswith("restored"), other.journal()
    finally:
        box.remove()
        other.remove()
        machine.run("rm", "-f", ARCHIVE)


MAKE_LAYOUT = """
umoci init --layout "$1"; umoci new --image "$1:v1"; umoci unpack --image "$1:v1" /srv/made
cp -a /srv/travel-image/. /srv/made/rootfs/; umoci repack --image "$1:v1" /srv/made
umoci config --image "$1:v1" --tag v2 --config.env A=b; rm -rf /srv/made
"""


def test_an_image_of_a_layout_is_the_one_or_another(
    machine: Machine, image: str, other: Container
) -> None:
    layout = "/srv/travel-layout"
    machine.run("sh", "-ec", MAKE_LAYOUT, "sh", layout)
    box = Container(machine, "layered").define(image=f"oci:{layout}:v1", command=SMALL)
    try:
        box.start()
        box.stop()
        machine.run("torpor", "export", "layered", ARCHIVE)
        words = ("--trust", f"--image=oci:{layout}:v2", ARCHIVE, other.name)
        assert "began with the image sha256:" in refused(machine, *words)
        machine.run("mv", layout, f"{layout}-moved")
        assert layout in refused(machine, "--trust", ARCHIVE, other.name)
        words = ("--trust", f"--image=oci:{layout}-moved:v1", ARCHIVE, other.name)
        assert "nobody can tell" not in machine.run("torpor", "import", *words).stderr
        other.start()
        assert other.property("StatusText").startswith("restored"), other.journal()
    finally:
        box.remove()
        other.remove()
        machine.run("rm", "-rf", ARCHIVE, layout, f"{layout}-moved", "/var/lib/torpor/.images")


PODMAN_IMAGE = """
tar -C /srv/travel-image -c . | podman import - localhost/travel:1 >/dev/null
podman image inspect --format '{{.Id}}' localhost/travel:1
"""
PODMAN_CONF = """
[containers]
pids_limit = 0
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
# conmon outlives the call, and keeps what it was given open.
PODMAN = """
systemd-run --quiet --scope --collect "$@" </dev/null >/run/podman.log 2>&1
status=$?; cat /run/podman.log; exit $status
"""
IN_PODMAN = (
    "cat /dev/shm/kept /run/kept /etc/changed; ls /etc/deleted /etc/gone 2>&1; ls /new/empty"
)


@pytest.fixture(scope="module")
def podman_image(machine: Machine, image: str) -> Iterator[str]:
    """The same image in podman's storage: its name and its ID."""
    machine.write("/etc/containers/containers.conf", PODMAN_CONF)
    # As torpor closes connections, unless it is told to keep them.
    machine.run("sh", "-c", "mkdir -p /etc/criu; cp /etc/criu/runc.conf /srv/runc.conf; true")
    machine.run("sh", "-c", "echo tcp-close >>/etc/criu/runc.conf")
    yield f"localhost/travel:1={machine.run('sh', '-ec', PODMAN_IMAGE).stdout.split()[-1]}"
    machine.run(
        "sh", "-c", "rm /etc/criu/runc.conf; mv /srv/runc.conf /etc/criu/ 2>/dev/null; true"
    )
    machine.run("podman", "system", "reset", "--force", check=False)
    machine.run("rm", "-f", "/etc/containers/containers.conf")


def test_podman_restores_what_torpor_exported(podman_image: str, box: Container) -> None:
    machine = box.machine
    box.stop()
    machine.run("torpor", "export", "--base-image", podman_image, "box", ARCHIVE)
    counted = box.numbers()[-1]
    restore = ("podman", "container", "restore", "--import", ARCHIVE)
    machine.run("sh", "-c", PODMAN, "sh", *restore)
    try:
        said = machine.run("podman", "exec", "box", "sh", "-c", IN_PODMAN).stdout
        assert said.startswith("shm\ntmpfs\nimage\nmore\n")
        assert said.count("No such file") == 2
        logged = machine.run("podman", "logs", "box").stdout.split()
        assert logged[:2] == ["count", str(counted + 1)]
    finally:
        machine.run("podman", "rm", "--force", "--time=0", "box")


def test_podman_gives_it_the_address_that_it_had(machine: Machine, podman_image: str) -> None:
    network = {"bridge": "tra1", "subnet": "10.76.0.0/24"}
    box = Container(machine, "bridged").define(image=IMAGE, command=SMALL, network=network)
    try:
        box.start()
        address = str(box.status()["addresses"]).strip("[']")
        mac = machine.run("ip", "-n", "torpor-bridged", "-br", "link", "show", "eth0").stdout
        box.stop()
        machine.run("torpor", "export", "--base-image", podman_image, "bridged", ARCHIVE)
        machine.run("torpor", "discard", "bridged")
        machine.run("podman", "network", "create", "--subnet=10.76.0.0/24", "tra1")
        restore = ("podman", "container", "restore", "--import", ARCHIVE)
        machine.run("sh", "-c", PODMAN, "sh", *restore)
        found = machine.run("podman", "exec", "bridged", "busybox", "ip", "addr").stdout
        assert f"inet {address} " in found and mac.split()[2] in found
    finally:
        machine.run("podman", "rm", "--force", "--time=0", "bridged", check=False)
        machine.run("podman", "network", "rm", "tra1", check=False)
        box.remove()
        machine.run("rm", "-f", ARCHIVE)


def test_torpor_wakes_what_podman_dumped(
    machine: Machine, podman_image: str, other: Container
) -> None:
    command = f"rm /etc/deleted; echo new >/etc/new; echo shm >/dev/shm/kept; {SMALL[2]}"
    run = ("podman", "run", "--detach", "--name=pod", "--network=none", "localhost/travel:1")
    try:
        machine.run("sh", "-c", PODMAN, "sh", *run, "/bin/sh", "-c", command)
        machine.run("sh", "-c", "until podman logs pod | grep -q count; do sleep 0.1; done")
        machine.run("podman", "container", "checkpoint", f"--export={ARCHIVE}", "pod")
        counted = machine.run("podman", "logs", "pod").stdout.split()[-1]
    finally:
        machine.run("podman", "rm", "--force", "--time=0", "pod")
    inspected = json.loads(machine.run("torpor", "inspect", "--json", ARCHIVE).stdout)
    assert [one["name"] for one in inspected["processes"]][:1] == ["sh"]
    assert inspected["verified"] is None
    assert "of podman" in machine.run("torpor", "inspect", ARCHIVE).stdout
    assert "which does not say where" in refused(machine, "--trust", ARCHIVE, other.name)
    assert "is not signed" in refused(machine, f"--image={IMAGE}", ARCHIVE, other.name)
    words = ("--trust", f"--image={IMAGE}", ARCHIVE, other.name)
    said = machine.run("torpor", "import", *words).stderr
    assert "podman leaves out" in said
    other.start()
    assert other.property("StatusText").startswith("restored"), other.journal()
    assert other.numbers()[0] == int(counted) + 1
    assert within(other, "cat /etc/new /dev/shm/kept; ls /etc/deleted 2>&1; true").startswith(
        "new\nshm\nls: /etc/deleted: No such"
    )
    other.sleep_and_wake()
    assert other.property("StatusText").startswith("restored"), other.journal()


# In place of sync(1): what there was to be synced, and whether the container was still there.
SYNC = r"""#!/bin/sh
pid=$(cat /run/podman.pid)
{ echo "$*"; ls "$2/" | grep -c '\.img$'; cat "/proc/$pid/comm"; } >>/run/synced
[ -e /run/sync-fails ] && exit 1
exec /usr/bin/sync.real "$@"
"""
WITH_SYNC = """
mv /usr/bin/sync /usr/bin/sync.real; cp /run/sync /usr/bin/sync; chmod 755 /usr/bin/sync
"""


def test_podmans_checkpoints_are_durable_before_their_containers_end(
    machine: Machine, podman_image: str
) -> None:
    conf = "org.criu.config=/usr/share/torpor/criu-sync.conf"
    run = ("podman", "run", "--detach", "--name=pod", "--network=none", "--annotation", conf)
    machine.write("/run/sync", SYNC)
    machine.run("sh", "-ec", WITH_SYNC)
    try:
        machine.run("sh", "-c", PODMAN, "sh", *run, "localhost/travel:1", *SMALL)
        machine.run("sh", "-c", "podman inspect -f '{{.State.Pid}}' pod >/run/podman.pid")
        machine.run("touch", "/run/sync-fails")
        assert machine.run("podman", "container", "checkpoint", "pod", check=False).returncode
        state = ("podman", "inspect", "--format={{.State.Status}}", "pod")
        assert machine.run(*state).stdout == "running\n"
        machine.run("rm", "/run/sync-fails", "/run/synced")
        machine.run("podman", "container", "checkpoint", "pod")
        what, images, comm = machine.read("/run/synced").splitlines()
        assert what.startswith("--file-system /proc/")
        assert int(images) > 10 and comm == "sh"
        assert machine.run(*state).stdout == "exited\n"
    finally:
        machine.run("mv", "/usr/bin/sync.real", "/usr/bin/sync")
        machine.run("podman", "rm", "--force", "--time=0", "pod", check=False)


def test_a_bundle_travels_without_its_hooks(machine: Machine, other: Container) -> None:
    rootfs = make_busybox(machine, "/srv/whole")

    def change(config: Config) -> None:
        config["process"]["args"] = ["/bin/sh", "-c", "echo me >/tmp/me; " + SMALL[2]]
        config["hooks"] = {"poststop": [{"path": "/bin/touch", "args": ["touch", "/srv/hooked"]}]}
        config["annotations"] = {"org.criu.config": "/etc/criu/evil.conf", "mine": "yes"}
        config["root"]["readonly"] = False

    bundle = make_bundle(machine, "/srv/bundle-of-box", rootfs, change)
    box = Container(machine, "bundled").define(bundle=bundle)
    try:
        box.start()
        box.stop()
        machine.run("torpor", "export", "bundled", ARCHIVE)
        box.remove()
        machine.run("rm", "-rf", bundle, rootfs, "/srv/hooked")
        said = machine.run("torpor", "import", "--trust", ARCHIVE, other.name).stderr
        assert "hooks of its bundle stay behind" in said
        other.start()
        assert other.property("StatusText").startswith("restored"), other.journal()
        assert within(other, "cat /tmp/me") == "me\n"
        config = json.loads(machine.read(f"/var/lib/torpor/{other.name}/bundle/config.json"))
        assert "hooks" not in config and config["annotations"] == {"mine": "yes"}
        machine.run("torpor", "stop", "--fresh", other.name)
        machine.run("test", "!", "-e", "/srv/hooked")
    finally:
        box.remove()
        machine.run("rm", "-rf", bundle, rootfs, ARCHIVE)
