"""A full disk costs no memory that is safe, and no container its orderly end."""

from collections.abc import Iterator

import pytest

import faults
from containers import BUSYBOX, Container, make_busybox
from faults import GRACEFUL_COUNTER, Case
from machine import Machine

NAME = "full"
STATE = f"/var/lib/torpor/{NAME}"
NOTHING_FREE = " bytes are needed, 0 are free"
# Memory that no /proc says to be a container's own: the estimate is too low.
SHARER = """
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    unsigned size = 48 << 20;
    char *all = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(all, 1, size);
    unlink("/tmp/share");
    for (;;) pause();
}
"""
SHARE = "(until [ -e /tmp/share ]; do sleep 0.1; done; exec /bin/share) & "


@pytest.fixture(scope="module")
def counter(machine: Machine) -> Iterator[Container]:
    """A counter that slept once, on a small disk of its own."""
    make_busybox(machine)
    machine.write("/srv/share.c", SHARER)
    machine.run("gcc", "-static", "-o", f"{BUSYBOX}/bin/share", "/srv/share.c")
    container = Container(machine, NAME)
    with faults.small_disk(machine, STATE, "96M"):
        define(container)
        container.start()
        container.sleep_and_wake()
        yield container
        machine.run("systemctl", "kill", "-s", "KILL", container.unit, check=False)
        machine.run("systemctl", "stop", container.unit, check=False)
    container.remove()


def define(counter: Container) -> None:
    command = ["/bin/sh", "-c", SHARE + GRACEFUL_COUNTER]
    counter.define(rootfs=BUSYBOX, command=command, checkpoint={"keep": 2})


@pytest.fixture
def case(counter: Container) -> Iterator[Case]:
    yield Case(counter)
    faults.make_room(counter.machine, STATE)


def leave_free(machine: Machine, mebibytes: int) -> None:
    script = 'n=$(df --output=avail -m "$1" | tail -n 1); fallocate -l $((n - $2))M "$1/filler"'
    machine.run("sh", "-ec", script, "sh", STATE, str(mebibytes))


def test_images_that_do_not_fit_after_all(case: Case) -> None:
    machine = case.counter.machine
    shared = f"touch {BUSYBOX}/tmp/share; while [ -e {BUSYBOX}/tmp/share ]; do sleep 0.1; done"
    machine.run("timeout", "10", "sh", "-c", shared)
    leave_free(machine, 36)
    case.counter.stop()
    number = int(case.before[-1]) + 1
    case.assert_ended_in_order(
        "No space left on device",
        f"make room in {STATE}/generations/{number}: the images may need ",
        " were written; ",
    )
    case.assert_starts_fresh()


@pytest.mark.parametrize("moment", ["dumping", "post-dump", "sealed"])
def test_a_disk_that_fills_up_at_a_moment_of_the_dump(case: Case, moment: str) -> None:
    faults.begin_held(case.counter, "stop", moment)
    faults.fill(case.counter.machine, STATE)
    faults.go_on(case.counter)
    case.assert_ended_in_order("No space left on device", STATE)
    if moment != "dumping":
        assert NOTHING_FREE in case.said()
    faults.make_room(case.counter.machine, STATE)
    case.assert_starts_fresh()


def test_a_full_disk_lets_a_sleeper_sleep_on(case: Case) -> None:
    case.counter.stop()
    faults.fill(case.counter.machine, STATE)
    assert case.counter.systemctl("start", check=False) != 0
    assert case.counter.state() == "READY"
    assert NOTHING_FREE in case.said() and f"{STATE}/state" in case.said()
    assert faults.left(case.counter.machine, case.counter) == ""
    faults.make_room(case.counter.machine, STATE)
    case.assert_wakes()


@pytest.mark.parametrize("moment", ["restoring", "post-restore"])
def test_a_disk_that_fills_up_while_it_wakes(case: Case, moment: str) -> None:
    case.counter.stop()
    faults.begin_held(case.counter, "start", moment)
    faults.fill(case.counter.machine, STATE)
    faults.go_on(case.counter)
    assert case.counter.property("ActiveState") == "failed"
    assert case.counter.state() in ("READY", "RESTORING")
    assert "it sleeps on" in case.said() and STATE in case.said()
    assert faults.left(case.counter.machine, case.counter) == ""
    faults.make_room(case.counter.machine, STATE)
    case.assert_wakes()


def test_a_full_disk_at_a_fresh_start_is_said(case: Case) -> None:
    machine = case.counter.machine
    machine.run("torpor", "stop", "--fresh", NAME)
    faults.fill(machine, STATE)
    assert case.counter.systemctl("start", check=False) != 0
    assert NOTHING_FREE in case.said()
    assert case.counter.state() == "EXITED"
    faults.make_room(machine, STATE)
    case.assert_starts_fresh()


def test_a_full_run_is_noticed_before_anything_is_frozen(case: Case) -> None:
    machine = case.counter.machine
    machine.run("torpor", "stop", "--fresh", NAME)
    machine.run("mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", "/run/torpor")
    try:
        case.counter.start()
        faults.fill(machine, "/run/torpor")
        case.counter.stop()
        assert f"cannot checkpoint: /run/torpor/{NAME}: 0.0 MiB are free" in case.said()
        assert "make room in /run" in case.said()
        assert case.counter.state() == "EXITED"
        faults.fill(machine, "/run/torpor")
        assert case.counter.systemctl("start", check=False) != 0
        assert f"{NOTHING_FREE}): '/run/torpor/" in case.said()
        assert "own fault" not in case.said()
    finally:
        machine.run("umount", "--lazy", "/run/torpor")
    case.counter.systemctl("reset-failed", check=False)
    case.counter.start()
    assert case.counter.property("StatusText").startswith("started fresh")


# 20 MiB each: in /dev/shm, in a tmpfs of its own, in a file that has no name any more.
CONTENT = {
    "shm": "dd if=/dev/zero of=/dev/shm/big bs=1M count=20",
    "tmpfs": "dd if=/dev/zero of=/scratch/big bs=1M count=20",
    "ghost": "dd if=/dev/zero of=/tmp/big bs=1M count=20; exec 9</tmp/big; rm /tmp/big",
}


@pytest.mark.parametrize("kind", CONTENT)
def test_the_preflight_knows_what_else_is_in_images(case: Case, kind: str) -> None:
    machine = case.counter.machine
    machine.run("torpor", "stop", "--fresh", NAME)
    script = f"{CONTENT[kind]}; echo {kind}; {GRACEFUL_COUNTER}"
    case.counter.define(
        rootfs=BUSYBOX, command=["/bin/sh", "-c", script], mounts=["tmpfs:/scratch"]
    )
    leave_free(machine, 44)
    try:
        case.counter.start()
        case.counter.wait_for_line(kind)
        case.counter.stop()
        text = case.said()
        assert f"cannot checkpoint: {STATE}/generations: " in text, text
        assert " are free, the images may need 5" in text
        assert "goodbye" in text
        assert case.counter.state() == "EXITED"
    finally:
        define(case.counter)
