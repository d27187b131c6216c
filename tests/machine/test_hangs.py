"""What never ends is given up in time; the unit ends, and its next start is right."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import faults
from containers import Container, make_busybox
from faults import GRACEFUL_COUNTER, Case, FailingDisk
from machine import Machine

NAME = "hung"
ROOTFS = "/srv/hung"
STATE = f"/var/lib/torpor/{NAME}"
COMMAND = ["/bin/sh", "-c", GRACEFUL_COUNTER]
# Two thirds of it may be spent waiting in vain, the rest is for an orderly end.
TIMEOUT_S = 6
# Beyond that: systemd's own kill, a clean-up, and a machine that is busy with other things.
SLACK_S = 8
TIMEOUTS = f"TimeoutStartSec={TIMEOUT_S}\nTimeoutStopSec={TIMEOUT_S}"
HANGS = "exec sleep 1000"
CRIU = 'exec /usr/sbin/criu "$@"'
RUNC = 'exec /usr/sbin/runc "$@"'
MANY = 20
RAVES = f'exec yes "not an end" >$(ls -d {STATE}/generations/*/work | tail -n 1)/dump.log'
# Images that are whole by their manifest, and whose pages end too early: CRIU reads on for ever.
RESEAL = """
import sys
sys.path.append("/usr/lib/python3/dist-packages")
from torpor import images, patience
from torpor.container import Container
container = Container(sys.argv[1])
generation = images.Generation(container, int(sys.argv[2]))
manifest = images.read_manifest(container, generation)
pages = generation.images + "/pages-1.img"
with open(pages, "r+b") as file:
    file.truncate(8192)
stall = patience.Stall(patience.Patience(container, patience.STARTING))
images.seal(generation, manifest.facts, lambda: None, stall)
"""


def define(machine: Machine, name: str = NAME, **keys: object) -> Container:
    container = Container(machine, name)
    container.define(**{"rootfs": ROOTFS, "command": COMMAND, **keys})
    container.drop_in("timeout", TIMEOUTS)
    return container


@pytest.fixture(scope="module", autouse=True)
def rootfs(machine: Machine) -> str:
    return make_busybox(machine, ROOTFS)


@pytest.fixture(scope="module")
def counter(machine: Machine) -> Iterator[Container]:
    container = define(machine, checkpoint={"keep": 2})
    container.start()
    container.sleep_and_wake()
    yield container
    container.remove()


@pytest.fixture
def more_time(counter: Container) -> Iterator[None]:
    """For what waits as long for runc to leave as a stop may take here."""
    path = counter.drop_in("unhurried", f"TimeoutStopSec={3 * TIMEOUT_S}")
    yield
    counter.machine.run("rm", path)
    counter.machine.run("systemctl", "daemon-reload")


@pytest.fixture
def case(counter: Container) -> Iterator[Case]:
    yield Case(counter)
    faults.restore_programs(counter)


def timed(container: Container, verb: str) -> float:
    began_s = time.monotonic()
    container.systemctl(verb, check=False)
    return time.monotonic() - began_s


def test_a_criu_that_never_begins_to_dump(case: Case) -> None:
    faults.replace_program(case.counter, "criu", [f'[ "$1" = swrk ] && {HANGS}', CRIU])
    assert timed(case.counter, "stop") < TIMEOUT_S + SLACK_S
    case.assert_ended_in_order("s, so runc and CRIU were killed", "nothing happened for ")
    faults.restore_programs(case.counter)
    case.assert_starts_fresh()


def test_a_criu_that_hangs_with_the_processes_in_its_hands(case: Case) -> None:
    # It waits for tar, which is to save the content of a file system in memory.
    faults.replace_program(case.counter, "tar", [HANGS])
    assert timed(case.counter, "stop") < TIMEOUT_S + SLACK_S
    text = case.said()
    assert "CRIU was cut off in the middle: nothing happened for " in text, text
    assert "Traceback" not in text and "own fault" not in text
    assert case.counter.property("ActiveState") == "failed"
    assert case.counter.state() == "NONE"
    assert faults.generations(case.counter) == case.before
    assert faults.left(case.counter.machine, case.counter) == ""
    faults.restore_programs(case.counter)
    case.assert_starts_fresh()


def test_a_criu_that_writes_its_log_for_ever(case: Case) -> None:
    faults.replace_program(case.counter, "criu", [f'[ "$1" = swrk ] && {RAVES}', CRIU])
    assert timed(case.counter, "stop") < TIMEOUT_S + SLACK_S
    assert "its log grew beyond 64.0 MiB, so runc and CRIU were killed" in case.said()
    size = case.counter.machine.run("stat", "-c", "%s", f"{STATE}/last-dump.log").stdout
    assert int(size) <= 256 << 10
    assert faults.generations(case.counter) == case.before
    faults.restore_programs(case.counter)
    case.assert_starts_fresh()


@pytest.mark.usefixtures("more_time")
@pytest.mark.parametrize("program", ["runc", "criu"])
def test_who_is_stopped_when_the_images_are_safe_costs_no_memory(case: Case, program: str) -> None:
    faults.begin_held(case.counter, "stop", "sealed")
    case.counter.machine.run("pkill", "-STOP", "-x", program)
    began_s = time.monotonic()
    faults.go_on(case.counter)
    assert time.monotonic() - began_s < TIMEOUT_S + SLACK_S
    assert case.counter.state() == "READY"
    assert case.counter.property("Result") == "success"
    assert faults.left(case.counter.machine, case.counter) == ""
    case.assert_wakes()


def test_a_criu_that_never_begins_to_restore_costs_no_memory(case: Case) -> None:
    case.counter.stop()
    faults.replace_program(case.counter, "criu", [f'[ "$1" = swrk ] && {HANGS}', CRIU])
    assert timed(case.counter, "start") < TIMEOUT_S + SLACK_S
    assert case.counter.property("ActiveState") == "failed"
    assert "did not even begin" in case.said()
    assert case.counter.state() == "READY"
    assert faults.left(case.counter.machine, case.counter) == ""
    faults.restore_programs(case.counter)
    case.assert_wakes()


def test_a_stop_while_criu_hangs_in_a_restore_lets_it_sleep_on(case: Case) -> None:
    case.counter.stop()
    faults.replace_program(case.counter, "criu", [f'[ "$1" = swrk ] && {HANGS}', CRIU])
    case.counter.machine.run("systemctl", "start", "--no-block", case.counter.unit)
    time.sleep(1)
    assert timed(case.counter, "stop") < SLACK_S
    assert case.counter.state() == "READY"
    faults.restore_programs(case.counter)
    case.assert_wakes()


def test_images_over_which_criu_loops(case: Case) -> None:
    machine = case.counter.machine
    case.counter.stop()
    number = faults.generations(case.counter)[-1]
    machine.run("python3", "-c", RESEAL, NAME, number)
    assert timed(case.counter, "start") < 5 * TIMEOUT_S
    text = case.said()
    assert "cannot restore" in text, text
    assert case.counter.property("StatusText").startswith("started fresh"), text
    assert machine.run("ls", f"{STATE}/aside").stdout.split() == [number]
    used = machine.run("du", "-sm", STATE).stdout.split()[0]
    assert int(used) < 200
    machine.run("rm", "-rf", f"{STATE}/aside")


def test_a_runc_that_never_creates(case: Case) -> None:
    machine = case.counter.machine
    machine.run("torpor", "stop", "--fresh", NAME)
    faults.replace_program(
        case.counter, "runc", [f'case " $* " in *" create "*) {HANGS} ;; esac', RUNC]
    )
    # What runc has become is killed when TimeoutStopSec= is over too.
    assert timed(case.counter, "start") < 2 * TIMEOUT_S + SLACK_S
    assert case.counter.property("ActiveState") == "failed"
    assert case.counter.property("Result") == "timeout"
    assert case.counter.state() == "CRASHED"
    assert faults.left(machine, case.counter) == ""
    machine.run("systemctl", "start", "--no-block", case.counter.unit)
    time.sleep(1)
    assert timed(case.counter, "stop") < TIMEOUT_S + SLACK_S
    faults.restore_programs(case.counter)
    case.assert_starts_fresh()


def test_a_frozen_bind_mount(machine: Machine) -> None:
    with FailingDisk(machine, "/srv/nfs") as disk:
        machine.run("mkdir", "-p", "/srv/nfs/data")
        container = define(machine, "hung-bound", mounts=["/srv/nfs/data:/data"])
        try:
            case = Case(container)
            disk.stop()
            assert timed(container, "stop") < TIMEOUT_S + SLACK_S
            assert container.property("ActiveState") in ("inactive", "failed")
            assert container.state() in ("EXITED", "NONE", "CRASHED"), case.said()
            assert "Traceback" not in case.said()
            assert timed(container, "start") < TIMEOUT_S + SLACK_S
            disk.go_on()
            case.assert_starts_fresh()
        finally:
            disk.go_on()
            container.remove()


def test_a_file_system_that_hangs_when_it_is_synced(machine: Machine) -> None:
    with FailingDisk(machine, "/srv/nfs") as disk:
        machine.run("mkdir", "-p", "/srv/nfs/data")
        container = define(machine, "hung-sync", mounts=["/srv/nfs/data:/data"])
        try:
            case = Case(container)
            faults.begin_held(container, "stop", "post-dump")
            disk.stop()
            began_s = time.monotonic()
            faults.go_on(container)
            assert time.monotonic() - began_s < TIMEOUT_S + SLACK_S
            case.assert_ended_in_order("/srv/nfs/data: its file system does not answer")
            disk.go_on()
            case.assert_starts_fresh()
        finally:
            disk.go_on()
            container.remove()


def test_a_process_that_no_signal_reaches(machine: Machine) -> None:
    with FailingDisk(machine, "/srv/nfs") as disk:
        machine.run("sh", "-c", "echo text >/srv/nfs/file")
        command = ["/bin/sh", "-c", f"(sleep 1; cat /data/file) & {GRACEFUL_COUNTER}"]
        container = define(machine, "hung-reader", command=command, mounts=["/srv/nfs:/data"])
        try:
            case = Case(container)
            disk.obey("open stop file")
            time.sleep(1.5)
            # systemd itself waits six times for what no signal ends; then the unit is failed.
            container.drop_in("timeout", "TimeoutStopSec=3s")
            assert timed(container, "stop") < 8 * 3 + SLACK_S
            assert container.property("ActiveState") == "failed"
            disk.obey()
            disk.go_on()
            case.assert_starts_fresh()
        finally:
            disk.go_on()
            container.remove()


@contextmanager
def state_on_failing_disk(machine: Machine, name: str) -> Iterator[tuple[Case, FailingDisk]]:
    """A running container whose state directory is on a disk that can stop."""
    with FailingDisk(machine, f"/var/lib/torpor/{name}") as disk:
        container = define(machine, name)
        try:
            yield Case(container), disk
        finally:
            disk.go_on()
            machine.run("systemctl", "kill", "-s", "KILL", container.unit, check=False)
            machine.run("systemctl", "stop", container.unit, check=False)
    container.remove()


def test_images_on_a_disk_that_does_not_answer(machine: Machine) -> None:
    """systemd looks at each process of a unit that it ends: none may hang in its execve(2)."""
    with state_on_failing_disk(machine, "hung-state") as (case, disk):
        faults.begin_held(case.counter, "stop", "post-dump")
        disk.stop()
        began_s = time.monotonic()
        faults.go_on(case.counter)
        assert time.monotonic() - began_s < 4 * TIMEOUT_S + SLACK_S
        assert case.counter.property("ActiveState") == "failed"
        disk.go_on()
        case.assert_starts_fresh()


def test_a_disk_that_stops_answering_while_images_are_synced(machine: Machine) -> None:
    with state_on_failing_disk(machine, "hung-sync") as (case, disk):
        disk.obey("fsync stop */checkpoint/pages-*")
        assert timed(case.counter, "stop") < 4 * TIMEOUT_S + SLACK_S
        assert case.counter.property("ActiveState") == "failed"
        disk.obey()
        disk.go_on()
        case.assert_starts_fresh()


# For all instances: a daemon-reload for each would take longer than all the rest.
TEMPLATE = "/etc/systemd/system/torpor@.service.d/hang.conf"


def test_twenty_that_all_fail_to_sleep_do_not_hold_up_a_poweroff(machine: Machine) -> None:
    containers = [Container(machine, f"unsleeping{number}") for number in range(MANY)]
    for container in containers:
        container.define(rootfs=ROOTFS, command=COMMAND)
    path = f"{faults.HANG}/all"
    machine.write(f"{path}/criu", f'#!/bin/sh\n[ "$1" = swrk ] && {HANGS}\n{CRIU}\n', 0o755)
    environment = f"Environment=PATH={path}:/usr/sbin:/usr/bin:/sbin:/bin"
    machine.write(TEMPLATE, f"[Service]\n{TIMEOUTS}\n{environment}\n")
    try:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", *(each.unit for each in containers), timeout=300)
        began_s = time.monotonic()
        machine.poweroff()
        took_s = time.monotonic() - began_s
        machine.boot()
        assert took_s < TIMEOUT_S + 3 * SLACK_S
        journal = machine.run(
            "journalctl", "--boot=-1", "-o", "cat", "-u", "torpor@unsleeping*"
        ).stdout
        assert journal.count("it is stopped without sleeping") == MANY
        assert journal.count("goodbye\n") == MANY
        assert machine.run("torpor", "status").stdout.count("ended by shutdown") == MANY
        machine.run("rm", "-r", TEMPLATE, path)
        machine.run("systemctl", "daemon-reload")
        containers[0].start()
        assert containers[0].property("StatusText").startswith("started fresh")
    finally:
        machine.run("rm", "-rf", TEMPLATE, path)
        containers[0].remove()
        for container in containers[1:]:
            state = f"/var/lib/torpor/{container.name}"
            machine.run("rm", "-rf", f"/etc/torpor/{container.name}.yaml", state)
