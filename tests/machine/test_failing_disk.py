"""A disk that fails costs no memory that is safe, and wakes none that is stale."""

from collections.abc import Iterator

import pytest

import faults
from containers import BUSYBOX, Container, make_busybox
from faults import GRACEFUL_COUNTER, Case, FailingDisk
from machine import Machine

NAME = "eio"
STATE = f"/var/lib/torpor/{NAME}"
COMMAND = ["/bin/sh", "-c", GRACEFUL_COUNTER]


@pytest.fixture(scope="module")
def disk(machine: Machine) -> Iterator[FailingDisk]:
    """Where its records and images are."""
    with FailingDisk(machine, STATE) as failing:
        yield failing


@pytest.fixture(scope="module")
def counter(machine: Machine, disk: FailingDisk) -> Iterator[Container]:
    """A counter that slept once."""
    make_busybox(machine)
    container = Container(machine, NAME)
    container.define(rootfs=BUSYBOX, command=COMMAND, checkpoint={"keep": 2})
    container.start()
    container.sleep_and_wake()
    yield container
    machine.run("systemctl", "kill", "-s", "KILL", container.unit, check=False)
    machine.run("systemctl", "stop", container.unit, check=False)


@pytest.fixture
def case(counter: Container, disk: FailingDisk) -> Iterator[Case]:
    yield Case(counter)
    disk.obey()


# from which moment of the dump, what fails then
DUMPS = [
    ("dumping", "mkdir EIO *"),
    ("frozen", "create EIO */checkpoint/*"),
    ("frozen", "write EIO */checkpoint/pages-*"),
    ("post-dump", "fsync EIO */checkpoint/*"),
    ("post-dump", "read EIO */checkpoint/core-*"),
    ("post-dump", "rename EIO */manifest"),
    ("sealed", "write EIO state.new"),
    ("sealed", "rename EIO state"),
]


@pytest.mark.parametrize(("moment", "rule"), DUMPS)
def test_what_fails_in_a_dump_ends_it_in_order(
    case: Case, disk: FailingDisk, moment: str, rule: str
) -> None:
    faults.begin_held(case.counter, "stop", moment)
    disk.obey(rule)
    faults.go_on(case.counter)
    disk.obey()
    case.assert_ended_in_order("Input/output error", STATE)
    case.assert_starts_fresh()


def test_images_that_can_neither_be_kept_nor_voided_are_not_outrun(
    case: Case, disk: FailingDisk
) -> None:
    # COMMITTED may be on the disk or not, and nothing can be taken back.
    faults.begin_held(case.counter, "stop", "sealed")
    disk.obey("fsyncdir EIO *", "unlink EIO manifest", "unlink EIO */manifest")
    faults.go_on(case.counter)
    disk.obey()
    assert "can neither be kept nor voided" in case.said()
    assert "goodbye" not in case.said()  # not even for that did it run
    assert case.counter.state() in ("RUNNING", "CRASHED")
    case.assert_starts_fresh()


def test_a_wake_that_cannot_be_recorded_lets_it_sleep_on(case: Case, disk: FailingDisk) -> None:
    case.counter.stop()
    disk.obey("fsync EIO state.new")
    assert case.counter.systemctl("start", check=False) != 0
    disk.obey()
    assert f"Input/output error: '{STATE}/state'" in case.said()
    assert case.counter.state() == "READY"
    assert faults.left(case.counter.machine, case.counter) == ""
    case.assert_wakes()


@pytest.mark.parametrize(
    ("moment", "rule"), [("post-restore", "rename EIO state"), ("restoring", "create EIO *.log")]
)
def test_a_disk_that_fails_in_the_middle_of_a_wake_lets_it_sleep_on(
    case: Case, disk: FailingDisk, moment: str, rule: str
) -> None:
    case.counter.stop()
    faults.begin_held(case.counter, "start", moment)
    disk.obey(rule)
    faults.go_on(case.counter)
    disk.obey()
    assert case.counter.state() in ("READY", "RESTORING")
    assert "it sleeps on" in case.said()
    assert faults.left(case.counter.machine, case.counter) == ""
    case.assert_wakes()


def test_images_that_cannot_be_read_are_set_aside(case: Case, disk: FailingDisk) -> None:
    case.counter.stop()
    number = faults.generations(case.counter)[-1]
    case.counter.machine.run("sh", "-c", "echo 3 >/proc/sys/vm/drop_caches")
    disk.obey("read EIO */checkpoint/pages-1.img")
    case.counter.start()
    disk.obey()
    assert "pages-1.img: Input/output error" in case.said()
    assert case.counter.property("StatusText").startswith("started fresh")
    aside = case.counter.machine.run("ls", f"{STATE}/aside").stdout
    assert aside.split() == [number]


def test_a_log_that_cannot_be_written_costs_nothing(case: Case, disk: FailingDisk) -> None:
    faults.begin_held(case.counter, "stop", "frozen")
    disk.obey("write EIO */dump.log")
    faults.go_on(case.counter)
    assert case.counter.state() == "READY"
    case.assert_wakes()


def test_a_bind_mount_whose_disk_fails_keeps_it_from_sleeping(machine: Machine) -> None:
    rootfs = make_busybox(machine, "/srv/bound-eio")
    container = Container(machine, "bound-eio")
    with FailingDisk(machine, "/srv/eio") as disk:
        machine.run("mkdir", "-p", "/srv/eio/data")
        container.define(rootfs=rootfs, command=COMMAND, mounts=["/srv/eio/data:/data"])
        case = Case(container)
        faults.begin_held(container, "stop", "post-dump")
        disk.obey("getattr EIO data", "lookup EIO data")
        faults.go_on(container)
        disk.obey()
        case.assert_ended_in_order("the images could not be made durable", "/srv/eio/data")
        container.remove()
