"""What a container writes over its image and into its volumes survives stops, sleeps and kills."""

import json
import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, Container, make_busybox
from cycle import LOOP, cycle, left, running, within
from machine import Machine

LAYOUT = "/srv/images"
IMAGE = f"oci:{LAYOUT}:v1"
VOLUMES = "/var/lib/torpor/{}/volumes"
# Holds a file of the image open that it then deletes, and one that it changes.
HOLDER = """
exec 6>>/etc/changed 7<>/data/file
if [ -e /etc/held ]; then exec 5</etc/held; rm /etc/held; mv /etc/dir /etc/renamed; fi
echo more >&6
i=0; while :; do i=$((i+1)); echo count $i; sleep 0.1; done
"""
# Prints who it is and where; ends by the signal that the image names.
WORDS = """
trap 'echo ended by its signal; exit 0' USR1
echo $FROM $(id -u) $(id -g) $(pwd); while :; do sleep 0.1; done
"""
# A layout without skopeo and without a network: umoci makes an image of a directory.
MAKE_LAYOUT = """
rm -rf "$1" /srv/bundle; umoci init --layout "$1"; umoci new --image "$1:v1"
umoci unpack --image "$1:v1" /srv/bundle
cp -a "$2/." /srv/bundle/rootfs/
mkdir -p /srv/bundle/rootfs/data /srv/bundle/rootfs/etc/dir
chmod 2775 /srv/bundle/rootfs/data
echo seed >/srv/bundle/rootfs/data/file
echo held >/srv/bundle/rootfs/etc/held
echo first >/srv/bundle/rootfs/etc/changed
umoci repack --image "$1:v1" /srv/bundle
umoci config --image "$1:v1" --config.volume /data --config.env FROM=image \\
    --config.user 7:8 --config.workingdir /var/tmp --config.stopsignal SIGUSR1 \\
    --manifest.annotation from=image --config.entrypoint /bin/sh --config.entrypoint -c \\
    --config.cmd "$3"
rm -rf /srv/bundle
"""
WATCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
fd = libc.inotify_init()
for path in sys.argv[1:]:
    assert libc.inotify_add_watch(fd, path.encode(), 2) > 0
print('watching', flush=True)
while True:
    os.read(fd, 4096)
    print('changed', flush=True)
"""


@pytest.fixture(scope="module")
def layout(machine: Machine) -> Iterator[str]:
    """An OCI image layout with one image, v1, of a busybox."""
    rootfs = make_busybox(machine)
    machine.run("sh", "-ec", MAKE_LAYOUT, "sh", LAYOUT, rootfs, WORDS, timeout=120)
    yield LAYOUT
    machine.run("rm", "-rf", LAYOUT, "/var/lib/torpor/.images")


@pytest.fixture
def box(machine: Machine, layout: str) -> Iterator[Container]:
    container = Container(machine, "box")
    container.define(image=IMAGE, command=["/bin/sh", "-c", HOLDER], user="0")
    yield container
    container.remove()
    assert left(container) == ""
    machine.run("rm", "-rf", "/var/lib/torpor/.volumes", "/var/lib/torpor/.images")


def until(container: Container, words: str) -> None:
    """Wait until the journal of the container holds these words."""
    deadline = time.monotonic() + 5
    while words not in container.journal():
        assert time.monotonic() < deadline, container.journal()
        time.sleep(0.1)


def of_rootfs(container: Container, path: str) -> str:
    return container.machine.read(f"/run/torpor/{container.name}/rootfs{path}")


def test_an_images_own_words_are_the_default(machine: Machine, layout: str) -> None:
    with running(machine, "words", image=IMAGE, command=()) as container:
        until(container, "image 7 8 /var/tmp")
        assert machine.run("stat", "-c", "%u:%g %a", f"{VOLUMES.format('words')}/data").stdout == (
            "0:0 2775\n"
        )
        rendered = json.loads(machine.read("/var/lib/torpor/words/config.json"))
        annotations = rendered["annotations"]
        assert annotations["org.opencontainers.image.stopSignal"] == "10"
        assert annotations["from"] == "image"
        began = time.monotonic()
        machine.run("torpor", "stop", "--fresh", "words")
        assert "ended by its signal" in container.journal()
        assert time.monotonic() - began < 10


def test_a_definitions_words_win_over_those_of_its_image(machine: Machine, layout: str) -> None:
    said = ["/bin/sh", "-c", "echo $FROM $(id -u) $(pwd); while :; do sleep 1; done"]
    with running(
        machine,
        "winner",
        image=IMAGE,
        command=said,
        env={"FROM": "definition"},
        user="0",
        cwd="/etc",
        stop_signal="USR2",
    ) as container:
        until(container, "definition 0 /etc")
        rendered = json.loads(machine.read("/var/lib/torpor/winner/config.json"))
        assert rendered["annotations"]["org.opencontainers.image.stopSignal"] == "12"
        cycle(container)


def test_cleaning_the_state_removes_what_was_written_and_the_volumes(box: Container) -> None:
    box.start()
    within(box, "echo mine >/etc/mine; echo mine >/data/mine")
    box.machine.run("torpor", "stop", "--fresh", "box")
    box.machine.run("systemctl", "clean", "--what=state", box.unit)
    assert "box" not in box.machine.run("ls", "/var/lib/torpor").stdout.split()
    box.start()
    assert within(box, "ls /etc/mine /data/mine 2>&1; true").count("No such file") == 2


def test_a_tag_that_moved_is_refused_and_nothing_is_lost(box: Container) -> None:
    machine = box.machine
    box.start()
    within(box, "echo mine >/etc/mine")
    machine.run("torpor", "stop", "--fresh", "box")
    machine.run("sh", "-ec", 'cp -a "$1" "$1.kept"', "sh", LAYOUT)
    try:
        machine.run("umoci", "config", "--image", f"{LAYOUT}:v1", "--config.env", "MOVED=yes")
        assert box.systemctl("start", check=False) != 0
        said = box.journal()
        assert "belongs to another image" in said
        assert "rm -r /var/lib/torpor/box/storage" in said
        assert left(box) == ""
    finally:
        machine.run("sh", "-ec", 'rm -r "$1"; mv "$1.kept" "$1"', "sh", LAYOUT)
    box.start()
    assert of_rootfs(box, "/etc/mine") == "mine\n"


def test_a_tag_that_moved_does_not_wake_the_sleeper_for_nothing(box: Container) -> None:
    machine = box.machine
    box.start()
    box.stop()
    machine.run("sh", "-ec", 'cp -a "$1" "$1.kept"', "sh", LAYOUT)
    try:
        machine.run("umoci", "config", "--image", f"{LAYOUT}:v1", "--config.env", "MOVED=yes")
        assert box.systemctl("start", check=False) != 0
        assert box.state() == "READY"
    finally:
        machine.run("sh", "-ec", 'rm -r "$1"; mv "$1.kept" "$1"', "sh", LAYOUT)
    box.start()
    assert box.property("StatusText").startswith("restored")


def test_open_deleted_and_renamed_files_of_an_image_survive_sleeps_and_a_reboot(
    box: Container,
) -> None:
    box.start()
    cycle(box)
    box.stop()
    box.machine.reboot()
    box.start()
    assert box.property("StatusText").startswith("restored"), box.journal()
    assert of_rootfs(box, "/etc/changed") == "first\nmore\n"
    assert within(box, "cat /proc/1/fd/5") == "held\n"
    box.machine.run("test", "-d", "/run/torpor/box/rootfs/etc/renamed")
    box.machine.run("test", "!", "-e", "/run/torpor/box/rootfs/etc/held")
    [unpacked] = box.machine.run("sh", "-c", "ls -d /var/lib/torpor/.images/*").stdout.split()
    found = box.machine.run("find", unpacked, "-name", "held", "-o", "-name", "dir").stdout
    assert len(found.split()) == 2


def test_a_watch_on_a_file_of_the_image_survives_a_sleep(machine: Machine) -> None:
    """The machine's own root is the image: it has a Python."""
    machine.run("sh", "-c", "mkdir -p /srv/debian; mount --bind / /srv/debian")
    command = ["/usr/bin/python3", "-c", WATCH, "/etc", "/etc/hostname"]
    try:
        with running(machine, "watch", image="/srv/debian", command=command) as container:
            until(container, "watching")
            cycle(container)
            machine.run("sh", "-c", "echo changed >>/run/torpor/watch/rootfs/etc/hostname")
            until(container, "changed")
    finally:
        machine.run("umount", "/srv/debian")


def test_what_was_written_survives_a_fresh_start_and_a_reboot(box: Container) -> None:
    box.start()
    box.machine.run("sh", "-c", "echo kept >/run/torpor/box/rootfs/etc/mine")
    box.machine.run("torpor", "stop", "--fresh", "box")
    box.machine.reboot()
    box.start()
    assert of_rootfs(box, "/etc/mine") == "kept\n"


def test_two_containers_share_an_image_and_see_nothing_of_each_other(
    box: Container, machine: Machine
) -> None:
    other = Container(machine, "other").define(image=IMAGE, command=LOOP, user="0")
    box.start()
    other.start()
    assert of_rootfs(other, "/etc/changed") == "first\n"
    images = machine.run("ls", "/var/lib/torpor/.images").stdout.split()
    assert len(images) == 1
    other.remove()


@pytest.mark.parametrize("moment", ["filled", "bound", "layered"])
def test_a_start_killed_at_any_step_is_cleaned_up_by_the_next(box: Container, moment: str) -> None:
    machine = box.machine
    machine.run("rm", "-rf", "/var/lib/torpor/.images")
    mark = "/run/storage-fault"
    environment = f'"TORPOR_FAULT={moment}=stop" "TORPOR_FAULT_FILE={mark}"'
    drop_in = box.drop_in("fault", f"Environment={environment}")
    machine.run("systemctl", "start", "--no-block", box.unit)
    machine.run("timeout", "20", "sh", "-c", f"until [ -s {mark} ]; do sleep 0.02; done")
    machine.run("sh", "-c", f"rm {drop_in}; systemctl daemon-reload")
    machine.run("sh", "-c", f"kill -KILL $(cut -d' ' -f2 {mark}); rm {mark}")
    box.wait_for("failed")
    assert left(box) == ""
    box.start()
    until(box, "count 1")
    assert of_rootfs(box, "/etc/changed") == "first\nmore\n"
    halves = machine.run("find", "/var/lib/torpor", "-maxdepth", "3", "-name", "*.new").stdout
    assert halves == ""


def test_an_images_volume_is_filled_once_and_outlives_the_rootfs(box: Container) -> None:
    box.start()
    volume = "/var/lib/torpor/box/volumes/data"
    assert box.machine.read(f"{volume}/file") == "seed\n"
    box.machine.run("sh", "-c", f"echo mine >{volume}/file")
    box.machine.run("torpor", "stop", "--fresh", "box")
    box.machine.run("rm", "-r", "/var/lib/torpor/box/storage")
    box.start()
    assert box.machine.read(f"{volume}/file") == "mine\n"


def test_a_named_volume_is_shared_and_survives_the_sleep_of_both(
    machine: Machine, layout: str
) -> None:
    with (
        running(machine, "writer", image=IMAGE, user="0", mounts=["db:/db"]) as writer,
        running(machine, "reader", image=IMAGE, user="0", mounts=["db:/db"]) as reader,
    ):
        within(writer, "echo shared >/db/file")
        cycle(reader)
        assert within(reader, "cat /db/file") == "shared\n"
        cycle(writer)
        within(reader, "echo answer >>/db/file")
        assert within(writer, "cat /db/file") == "shared\nanswer\n"
    assert machine.read("/var/lib/torpor/.volumes/db/file") == "shared\nanswer\n"
    machine.run("rm", "-r", "/var/lib/torpor/.volumes/db")


def test_an_upper_layer_of_another_image_is_refused(box: Container, machine: Machine) -> None:
    box.start()
    box.machine.run("torpor", "stop", "--fresh", "box")
    box.define(image=BUSYBOX, command=LOOP)
    assert box.systemctl("start", check=False) != 0
    assert "belongs to another image" in box.journal()
    assert "Traceback" not in box.journal()


def test_an_image_unpacked_again_keeps_what_was_written(box: Container) -> None:
    box.start()
    box.machine.run("torpor", "stop", "--fresh", "box")
    box.machine.run("rm", "-r", "/var/lib/torpor/.images")
    box.start()
    assert within(box, "sleep 0.3; cat /etc/changed") == "first\nmore\nmore\n"
    box.machine.run("test", "-d", "/run/torpor/box/rootfs/etc/renamed")


def test_files_of_an_image_belong_to_the_containers_root(machine: Machine, layout: str) -> None:
    # Without a cgroup mount: the machine cannot restore one for another user.
    with running(
        machine,
        "owned",
        image=IMAGE,
        command=["/bin/sh", "-c", HOLDER],
        user="0",
        idmap="0:100000:65536",
        mounts=["tmpfs:/sys/fs/cgroup"],
    ) as container:
        stat = ("stat", "-c", "%u:%g")
        for path in ("/", "/etc/changed", "/bin/busybox"):
            owner = machine.run(*stat, f"/run/torpor/owned/rootfs{path}").stdout
            assert owner == "100000:100000\n", path
        volume = "/var/lib/torpor/owned/volumes/data"
        assert machine.run(*stat, f"{volume}/file").stdout == "100000:100000\n"
        cycle(container)


def test_a_damaged_layer_starts_nothing_and_leaves_nothing(machine: Machine, layout: str) -> None:
    machine.run("sh", "-ec", 'rm -rf "$1x"; cp -a "$1" "$1x"', "sh", layout)
    index = json.loads(machine.read(f"{layout}x/index.json"))
    digest = index["manifests"][0]["digest"]
    manifest = json.loads(machine.read(f"{layout}x/blobs/{digest.replace(':', '/')}"))
    layer = manifest["layers"][0]["digest"].replace(":", "/")
    damage = f"printf XXXX | dd of={layout}x/blobs/{layer} bs=1 seek=5000 conv=notrunc"
    machine.run("sh", "-c", f"rm -rf /var/lib/torpor/.images; {damage}")
    container = Container(machine, "damaged").define(image=f"oci:{layout}x:v1")
    assert container.systemctl("start", check=False) != 0
    assert "umoci" in container.journal()
    assert machine.run("ls", "-A", "/var/lib/torpor/.images").stdout == ""
    container.remove()
