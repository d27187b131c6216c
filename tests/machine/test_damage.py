"""Images that are not what was sealed are never restored."""

import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, bind, make_bundle, make_busybox
from machine import Machine

FLIP = "f=open({path!r},'r+b'); f.seek({at}); b=f.read(1)[0]; f.seek({at}); f.write(bytes([b^1]))"


@pytest.fixture
def asleep(machine: Machine) -> Iterator[Container]:
    """A sleeping counter, which may start fresh."""
    make_busybox(machine)
    container = Container(machine, f"damaged{time.monotonic_ns()}")
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER])
    container.start()
    time.sleep(0.3)
    container.stop()
    yield container
    container.remove()


def images(container: Container, generation: int = 1) -> str:
    return f"/var/lib/torpor/{container.name}/generations/{generation}"


def flip(container: Container, file: str, at: int = 100) -> None:
    path = f"{images(container)}/{file}"
    container.machine.run("python3", "-c", FLIP.format(path=path, at=at))


def assert_started_fresh(container: Container, why: str) -> None:
    container.start()
    time.sleep(0.3)
    numbers = container.numbers()
    second = numbers.index(1, 1)
    assert numbers[second:] == list(range(1, len(numbers) - second + 1))
    text = container.journal()
    assert why in text
    assert "Traceback" not in text
    aside = container.machine.run("ls", f"/var/lib/torpor/{container.name}/aside").stdout
    assert aside.split() == ["1"]


def test_a_flipped_byte_in_the_pages_is_never_restored(asleep: Container) -> None:
    flip(asleep, "checkpoint/pages-1.img", 5000)
    assert_started_fresh(asleep, "pages-1.img is damaged")


def test_a_flipped_byte_in_large_pages_is_found_beside_the_restore(machine: Machine) -> None:
    make_busybox(machine)
    container = Container(machine, "large")
    # Two MiB of a shell variable: more than is verified before runc starts.
    fill = "a=0123456789abcdef; while [ ${#a} -lt 2097152 ]; do a=$a$a; done; "
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", fill + COUNTER])
    try:
        container.start()
        time.sleep(1.5)
        container.stop()
        flip(container, "checkpoint/pages-1.img", 1_500_000)
        assert_started_fresh(container, "pages-1.img is damaged")
    finally:
        container.remove()


@pytest.mark.parametrize("file", ["checkpoint/core-1.img", "config.json", "checkpoint/pstree.img"])
def test_a_flipped_byte_in_a_small_file_is_never_restored(asleep: Container, file: str) -> None:
    flip(asleep, file, 10)
    assert_started_fresh(asleep, "is damaged")


def test_a_truncated_file_is_never_restored(asleep: Container) -> None:
    asleep.machine.run("truncate", "-s", "-4096", f"{images(asleep)}/checkpoint/pages-1.img")
    assert_started_fresh(asleep, "its manifest says")


def test_a_missing_file_is_never_restored(asleep: Container) -> None:
    asleep.machine.run("rm", f"{images(asleep)}/checkpoint/pagemap-1.img")
    assert_started_fresh(asleep, "No such file")


def test_an_added_file_is_never_restored(asleep: Container) -> None:
    asleep.machine.run("touch", f"{images(asleep)}/checkpoint/extra.img")
    assert_started_fresh(asleep, "is not in the manifest")


def test_a_missing_manifest_is_never_believed(asleep: Container) -> None:
    asleep.machine.run("rm", f"{images(asleep)}/manifest")
    assert_started_fresh(asleep, "manifest is missing")


def test_a_manifest_of_another_container_is_never_believed(asleep: Container) -> None:
    machine = asleep.machine
    other = Container(machine, "other")
    other.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER])
    try:
        other.start()
        other.stop()
        machine.run("rm", "-rf", images(asleep))
        machine.run("cp", "-a", images(other), images(asleep))
        assert_started_fresh(asleep, "is of name 'other'")
    finally:
        other.remove()


def test_a_state_record_that_cannot_be_read_proves_nothing(asleep: Container) -> None:
    asleep.machine.write(f"/var/lib/torpor/{asleep.name}/state", "torpor-state=1\nstate=REA")
    assert_started_fresh(asleep, "not a whole torpor state record")


def test_with_fail_damage_stops_every_start_until_it_is_discarded(machine: Machine) -> None:
    make_busybox(machine)
    container = Container(machine, "careful")
    container.define(
        rootfs=BUSYBOX,
        command=["/bin/sh", "-c", COUNTER],
        checkpoint={"restore-failure": "fail"},
    )
    try:
        container.start()
        time.sleep(0.2)
        container.stop()
        flip(container, "checkpoint/pages-1.img", 5000)
        for _ in range(3):
            assert container.systemctl("start", check=False) != 0
            assert container.state() == "DAMAGED"
            aside = machine.run("ls", "/var/lib/torpor/careful/aside").stdout
            assert aside.split() == ["1"]
        assert container.numbers().count(1) == 1
        assert "torpor discard careful" in container.journal()
        machine.run("torpor", "discard", container.name)
        container.start()
    finally:
        container.remove()


def test_with_fail_sound_images_are_kept_when_criu_cannot_restore_them(machine: Machine) -> None:
    make_busybox(machine)
    machine.run("mkdir", "-p", "/srv/data")
    make_bundle(
        machine,
        "/srv/bound",
        BUSYBOX,
        lambda config: config["mounts"].append(bind("/srv/data", "/data")),
    )
    container = Container(machine, "bound").define(
        bundle="/srv/bound",
        command=["/bin/sh", "-c", f"exec 5>/data/file; {COUNTER}"],
        checkpoint={"restore-failure": "fail"},
    )
    try:
        container.start()
        time.sleep(0.3)
        container.stop()
        machine.run("mv", "/srv/data", "/srv/data.away")
        assert container.systemctl("start", check=False) != 0
        assert container.state() == "READY"
        assert "generation 1 was not restored and is kept" in container.journal()
        machine.run("mv", "/srv/data.away", "/srv/data")
        container.start()
        time.sleep(0.2)
        assert container.numbers().count(1) == 1
    finally:
        container.remove()
        machine.run("rm", "-rf", "/srv/data", "/srv/bound")


def test_a_truncated_config_is_damage_like_any_other(asleep: Container) -> None:
    asleep.machine.run("truncate", "-s", "10", f"{images(asleep)}/config.json")
    assert_started_fresh(asleep, "its manifest says")


@pytest.mark.parametrize(
    "path", ["/usr/sbin/criu", "/usr/sbin/runc", "/usr/share/torpor/criu.conf"]
)
def test_what_is_missing_on_the_host_costs_no_memory(asleep: Container, path: str) -> None:
    machine = asleep.machine
    if machine.run("test", "-e", path, check=False).returncode:
        path = machine.run("sh", "-c", f"command -v {path.rpartition('/')[2]}").stdout.strip()
    machine.run("mv", path, f"{path}.away")
    try:
        for _ in range(4):
            assert asleep.systemctl("start", check=False) != 0
    finally:
        machine.run("mv", f"{path}.away", path)
    assert asleep.state() == "READY"
    asleep.start()
    time.sleep(0.2)
    assert asleep.numbers().count(1) == 1


def test_a_rootfs_that_is_not_mounted_costs_no_memory(machine: Machine) -> None:
    rootfs = "/srv/mounted"
    machine.run("mkdir", "-p", rootfs)
    machine.run("mount", "-t", "tmpfs", "tmpfs", rootfs)
    make_busybox(machine, rootfs)
    container = Container(machine, "mounted")
    container.define(rootfs=rootfs, command=["/bin/sh", "-c", COUNTER])
    try:
        container.start()
        time.sleep(0.3)
        container.stop()
        machine.run("mount", "--bind", "/mnt", rootfs)
        assert container.systemctl("start", check=False) != 0
        assert "is its file system mounted" in container.journal()
        machine.run("umount", rootfs)
        container.start()
        time.sleep(0.2)
        assert container.numbers().count(1) == 1
    finally:
        container.remove()
        machine.run("umount", "--lazy", rootfs)
