"""What a definition mounts is there, as it was asked for, before a sleep and after it."""

import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, make_bundle, make_busybox
from cycle import cycle, left, running, within
from machine import Machine

MAKE = """
rm -rf /srv/mounts; mkdir -p /srv/mounts/one /srv/mounts/with:colon /srv/mounts/inner
mkdir -p /srv/mounts/outer /srv/mounts/secret/place; chmod 700 /srv/mounts/secret
cd /srv/mounts; ln -s one link
for place in one with:colon inner outer secret/place; do echo $place >$place/name; done
echo named >file
"""


@pytest.fixture(scope="module", autouse=True)
def sources(machine: Machine) -> Iterator[None]:
    make_busybox(machine)
    machine.run("sh", "-ec", MAKE)
    yield
    machine.run("rm", "-r", "/srv/mounts")


def test_a_path_a_mapping_a_tmpfs_and_a_volume_hold_through_a_sleep(machine: Machine) -> None:
    colon = {"source": "/srv/mounts/with:colon", "destination": "/colon", "type": "bind"}
    mounts = [
        "/srv/mounts/one:/one:ro",
        {**colon, "options": ["rbind", "noexec"]},
        "tmpfs:/scratch:size=1M,mode=1770",
        "mounted:/volume:nosuid",
    ]
    options = "grep -E ' /(one|colon|scratch|volume) ' /proc/self/mountinfo"
    with running(machine, "forms", rootfs=BUSYBOX, mounts=mounts) as container:
        within(container, "echo kept | tee /scratch/file /volume/file")
        for _ in range(2):
            files = "cat /one/name /colon/name /scratch/file /volume/file"
            assert within(container, files) == "one\nwith:colon\nkept\nkept\n"
            found = {line.split()[4]: line for line in within(container, options).splitlines()}
            assert " ro," in found["/one"]
            assert "noexec" in found["/colon"]
            assert "size=1024k" in found["/scratch"] and "mode=1770" in found["/scratch"]
            assert "nosuid" in found["/volume"]
            assert "Read-only" in within(container, "echo x 2>&1 >/one/x", check=False)
            cycle(container)
    machine.run("rm", "-r", "/var/lib/torpor/.volumes/mounted")


def test_a_mount_wins_over_a_place_of_torpors_with_a_warning(machine: Machine) -> None:
    mounts = ["/srv/mounts/one:/dev/shm", "/srv/mounts/file:/etc/hostname"]
    with running(machine, "winner", rootfs=BUSYBOX, mounts=mounts) as container:
        cycle(container)
        assert within(container, "cat /dev/shm/name /etc/hostname") == "one\nnamed\n"
        for place in ("/dev/shm", "/etc/hostname"):
            warning = f"/etc/torpor/winner.yaml: mounts: yours replaces that at {place}"
            assert warning in container.journal()


def test_a_source_that_is_a_link_survives_a_sleep(machine: Machine) -> None:
    mounts = ["/srv/mounts/link:/linked"]
    with running(machine, "linked", rootfs=BUSYBOX, mounts=mounts) as container:
        cycle(container)
        assert within(container, "cat /linked/name") == "one\n"


def test_a_deeper_mount_given_first_is_not_covered(machine: Machine) -> None:
    mounts = ["/srv/mounts/inner:/a/b", "/srv/mounts/outer:/a"]
    with running(machine, "deeper", rootfs=BUSYBOX, mounts=mounts) as container:
        cycle(container)
        assert within(container, "cat /a/name /a/b/name") == "outer\ninner\n"


def test_relabelling_is_nothing_without_selinux(machine: Machine) -> None:
    mounts = ["/srv/mounts/one:/one:z", "/srv/mounts/inner:/inner:ro,Z"]
    with running(machine, "labelled", rootfs=BUSYBOX, mounts=mounts) as container:
        cycle(container)
        assert within(container, "cat /one/name /inner/name") == "one\ninner\n"


def test_a_read_only_container_has_a_hostname_that_it_cannot_write(machine: Machine) -> None:
    rootfs = make_busybox(machine, "/srv/sealed-rootfs")
    machine.run("touch", f"{rootfs}/etc/hostname")
    mounts = ["tmpfs:/var/tmp"]
    with running(
        machine, "sealed", rootfs=rootfs, read_only="yes", hostname="fort", mounts=mounts
    ) as container:
        for _ in range(2):
            assert within(container, "cat /etc/hostname; hostname") == "fort\nfort\n"
            for path in ("/etc/hostname", "/file"):
                said = within(container, f"echo x 2>&1 >{path}", check=False)
                assert "Read-only" in said, path
            within(container, "echo x >/var/tmp/file")
            cycle(container)
    machine.run("rm", "-r", rootfs)


def test_a_hostname_file_that_the_rootfs_lacks_is_made_and_mounted(machine: Machine) -> None:
    rootfs = make_busybox(machine, "/srv/nameless")
    with running(machine, "nameless", rootfs=rootfs) as container:
        cycle(container)
        assert within(container, "cat /etc/hostname") == "nameless\n"
    assert machine.run("cat", f"{rootfs}/etc/hostname").stdout == ""
    machine.run("rm", "-r", rootfs)


def test_a_user_namespace_reaches_a_source_in_a_directory_that_is_roots_alone(
    machine: Machine,
) -> None:
    bundle = make_bundle(machine, "/srv/reaching", BUSYBOX)
    mounts = ["/srv/mounts/secret/place:/place", "/srv/mounts/file:/file"]
    with running(
        machine, "reaching", bundle=bundle, idmap="0:100000:65536", mounts=mounts
    ) as container:
        for _ in range(2):
            assert within(container, "cat /place/name /file") == "secret/place\nnamed\n"
            cycle(container)
    machine.run("rm", "-r", bundle)


def test_files_that_are_missing_at_a_wake_cost_no_memory(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/srv/source")
    keys = {"mounts": ["/srv/source:/source", "lost:/lost"], "volumes": ["/data"]}
    places = (
        "/srv/source",
        "/var/lib/torpor/.volumes/lost",
        "/var/lib/torpor/missing/volumes/data",
    )
    with running(machine, "missing", rootfs=BUSYBOX, **keys) as container:
        container.stop()
        for place in places:
            machine.run("mv", place, f"{place}.kept")
            assert container.systemctl("start", check=False) != 0
            assert f"{place}: No such file or directory" in container.journal()
            assert container.state() == "READY"
            assert left(container) == ""
            machine.run("mv", f"{place}.kept", place)
        container.start()
        assert container.property("StatusText").startswith("restored"), container.journal()
        container.stop()
        machine.run("sh", "-c", f"rm -r {places[2]}; mkdir {places[2]}")
        container.start()
        assert "the volumes changed after generation 2 was taken" in container.journal()
    machine.run("rm", "-rf", "/srv/source", "/var/lib/torpor/.volumes")


def test_what_a_killed_start_mounted_is_removed_and_not_what_it_is_a_copy_of(
    machine: Machine,
) -> None:
    make = (
        "mkdir -p $1 $2; mount -t tmpfs tree $1; mkdir $1/sub; mount -t tmpfs sub $1/sub; "
        "mount --make-rshared $1; mount --rbind $1 $2"
    )  # as if mount(8) had been killed before it made the copy private
    copy = "/run/torpor/cut-off/sources/0"
    machine.run("sh", "-ec", make, "sh", "/srv/tree", copy)
    try:
        assert copy in machine.run("findmnt", "-rno", "TARGET").stdout
        with running(machine, "cut-off", rootfs=BUSYBOX):
            found = machine.run("findmnt", "-rno", "TARGET").stdout.splitlines()
            assert copy not in found
            assert {"/srv/tree", "/srv/tree/sub"} <= set(found)
    finally:
        machine.run("umount", "-R", "/srv/tree")


_NEST = """
unshare -m /bin/busybox sh -c '/bin/busybox mount --bind /a /inner
    /bin/busybox mount -o remount,bind,ro,nosuid /inner
    while :; do sleep 0.1; done' &
while :; do sleep 0.1; done
"""
# Of each mount namespace of its processes, which its place sorts.
_FLAGS = """
for pid in $(cat $(find /sys/fs/cgroup -path "*torpor@$1.service/payload*" -name cgroup.procs)); do
    echo $(readlink /proc/$pid/ns/mnt) $pid
done | sort -u -k 1,1 | while read -r _ pid; do cut -d' ' -f5,6 /proc/$pid/mountinfo; done | sort
"""


def test_a_mount_from_inside_another_has_its_flags_after_a_wake(machine: Machine) -> None:
    """CRIU mounts them without: what was read-only could be written."""
    rootfs = make_busybox(machine, "/srv/guarded")
    machine.run(
        "sh", "-ec", 'cd "$1"; mkdir -p inner own; ln -sf busybox bin/unshare', "sh", rootfs
    )
    mounts = [
        *("/srv/mounts:/a:ro", "/srv/mounts:/b:ro", "/srv/mounts/one:/c:ro"),
        "/srv/mounts/inner:/d:ro,nosuid,nodev,noexec",
        "/srv/mounts:/e:ro,nosuid,nodev,noexec",
        f"{rootfs}/own:/own:ro",
    ]
    keys = {"read_only": True, "capabilities": {"add": ["sys_admin"]}}
    command = ["/bin/sh", "-c", _NEST]
    with running(
        machine, "guarded", rootfs=rootfs, command=command, mounts=mounts, **keys
    ) as container:
        time.sleep(0.5)
        before = machine.run("sh", "-c", _FLAGS, "sh", "guarded").stdout
        assert "/inner ro,nosuid" in before
        for _ in range(2):
            cycle(container)
            assert machine.run("sh", "-c", _FLAGS, "sh", "guarded").stdout == before
            for place in ("/a", "/b", "/c", "/d", "/own"):
                said = within(container, f"echo x 2>&1 >{place}/x", check=False)
                assert "Read-only" in said, place
    machine.run("rm", "-r", rootfs)
