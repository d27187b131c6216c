"""A definition's slice, weights and order are its unit's own, and change while it runs.

Limits are the container's own cgroup's: tests/vm has the controllers for them.
"""

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap
from machine import Machine

COMMAND = ["/bin/sh", "-c", COUNTER]
OF_UNIT = {
    "memory-min": "1M",
    "memory-low": "2M",
    "cpu-weight": "idle",
    "allowed-cpus": "0-1",
    "allowed-memory-nodes": "0",
    "io-weight": "50",
    "io-device-weight": "/dev/null 20",
    "ip-address-allow": ["localhost", "10.0.0.1"],
    "ip-address-deny": "any",
    "oom-policy": "kill",
}
GENERATOR = "/usr/lib/systemd/system-generators/torpor-generator"


@pytest.fixture
def sliced(machine: Machine) -> Iterator[Container]:
    make_busybox(machine)
    container = Container(machine, f"sliced-{time.monotonic_ns()}.x_1")
    define(container, slice="torpor-a.slice", resources={"memory-low": "1G", "cpu-weight": 400})
    yield container
    container.remove()


def define(container: Container, **keys: object) -> None:
    container.define(rootfs=BUSYBOX, command=COMMAND, **keys)


def reload(machine: Machine) -> None:
    machine.run("systemctl", "daemon-reload")


def cgroup(container: Container) -> str:
    """The cgroup of the container's init."""
    pid = container.property("MainPID")
    return container.machine.run("grep", "^0::", f"/proc/{pid}/cgroup").stdout.strip()[3:]


def apply(container: Container) -> subprocess.CompletedProcess[str]:
    """Where the test machine has no controllers of cgroup v2 apply says so and ends with 1."""
    done = container.machine.run("torpor", "apply", container.name, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_a_container_runs_in_its_slice_with_its_weights(sliced: Container) -> None:
    reload(sliced.machine)
    sliced.start()
    assert cgroup(sliced) == f"/torpor.slice/torpor-a.slice/{sliced.unit}.service/payload"
    assert sliced.property("MemoryLow") == str(1 << 30)
    assert sliced.property("CPUWeight") == "400"
    shown = sliced.machine.run("systemctl", "cat", sliced.unit).stdout
    assert f"# Made by torpor-generator from /etc/torpor/{sliced.name}.yaml." in shown
    assert "Slice=torpor-a.slice\nMemoryLow=1G\nCPUWeight=400\n" in shown
    assert BUSYBOX in sliced.property("RequiresMountsFor")


def test_without_a_slice_of_its_own_it_is_in_torpors(sliced: Container) -> None:
    define(sliced)
    reload(sliced.machine)
    sliced.start()
    assert cgroup(sliced) == f"/torpor.slice/{sliced.unit}.service/payload"


def test_the_administrators_drop_ins_win(sliced: Container) -> None:
    sliced.drop_in("override", "MemoryLow=2G\nSlice=mine.slice")
    sliced.start()
    assert cgroup(sliced).startswith("/mine.slice/")
    assert sliced.property("MemoryLow") == str(2 << 30)
    assert "MemoryLow is 2G, not 1G: another drop-in overrules" in apply(sliced).stderr
    sliced.machine.run("systemctl", "set-property", sliced.unit, "CPUWeight=300")
    reload(sliced.machine)
    assert sliced.property("CPUWeight") == "300"
    sliced.machine.run("systemctl", "revert", sliced.unit)


def test_new_weights_reach_a_running_container(sliced: Container) -> None:
    reload(sliced.machine)
    sliced.start()
    pid = sliced.property("MainPID")
    define(sliced, slice="torpor-a.slice", resources={"memory-low": "50%", "io-weight": 50})
    assert sliced.property("NeedDaemonReload") == "yes"
    said = apply(sliced).stdout
    assert re.search(r"^MemoryLow: 1G -> \d+[KMG]?$", said, re.MULTILINE)
    assert "CPUWeight: 400 -> default" in said
    assert "IOWeight: default -> 50" in said
    assert int(sliced.property("MemoryLow")) > 0
    assert sliced.property("IOWeight") == "50"
    assert (sliced.property("MainPID"), sliced.property("NeedDaemonReload")) == (pid, "no")
    assert apply(sliced).stdout == "no limit changed\n"
    sliced.stop()
    sliced.start()
    assert without_gap(sliced.numbers())


def test_a_limit_that_the_kernel_does_not_know_is_not_passed_over(sliced: Container) -> None:
    reload(sliced.machine)
    sliced.start()
    known = sliced.machine.read(
        f"/sys/fs/cgroup{sliced.property('ControlGroup')}/cgroup.controllers"
    )
    done = apply(sliced)
    assert done.returncode == (0 if {"memory", "cpu"} <= set(known.split()) else 1)
    assert ("MemoryLow: nothing enforces this" in done.stderr) == ("memory" not in known)
    define(sliced, slice="torpor-a.slice", resources={"memory-max": "1G"})
    said = apply(sliced).stderr
    assert ("nothing enforces memory.max" in said) == ("memory" not in known)
    sliced.stop()
    sliced.start()
    assert ("nothing enforces memory.max" in sliced.journal()) == ("memory" not in known)


def test_all_that_is_the_units_is_taken_by_systemd_as_it_was_meant(sliced: Container) -> None:
    define(sliced)
    reload(sliced.machine)
    sliced.start()
    define(sliced, resources=OF_UNIT)
    done = apply(sliced)
    assert "overrules" not in done.stderr
    for line in (
        "CPUWeight: default -> idle",
        "AllowedCPUs: all -> 0-1",
        "IPAddressAllow: none -> 10.0.0.1/32 127.0.0.0/8 ::1/128",
        "OOMPolicy: continue -> kill",
    ):
        assert line in done.stdout.splitlines()
    given = [line for line in done.stdout.splitlines() if line[0].isupper()]
    assert len(given) == len(OF_UNIT)
    reload(sliced.machine)
    script = 'journalctl --sync; journalctl -b --no-pager -o cat | grep "$1.*ignoring"'
    found = sliced.machine.run("sh", "-c", script, "sh", "10-torpor.conf", check=False)
    assert found.stdout == ""


def test_a_sleeper_wakes_in_the_slice_that_its_definition_got(sliced: Container) -> None:
    reload(sliced.machine)
    sliced.start()
    define(sliced, slice="torpor-b.slice")
    done = apply(sliced)
    assert "its slice torpor-b.slice counts from its next start on" in done.stderr
    assert cgroup(sliced).startswith("/torpor.slice/torpor-a.slice/")
    sliced.stop()
    assert sliced.state() == "READY", sliced.journal()
    sliced.start()
    assert cgroup(sliced) == f"/torpor.slice/torpor-b.slice/{sliced.unit}.service/payload"
    time.sleep(0.2)
    assert without_gap(sliced.numbers())
    sliced.stop()
    assert sliced.state() == "READY"


def test_a_container_in_a_slice_of_its_own_sleeps_at_shutdown(sliced: Container) -> None:
    reload(sliced.machine)
    sliced.start()
    sliced.machine.reboot()
    assert sliced.state() == "READY", sliced.journal()
    sliced.start()
    assert cgroup(sliced).startswith("/torpor.slice/torpor-a.slice/")
    assert sliced.property("CPUWeight") == "400"
    time.sleep(0.2)
    assert without_gap(sliced.numbers())


def test_apply_refuses_what_it_cannot_do_and_changes_nothing(sliced: Container) -> None:
    done = apply(sliced)
    assert done.returncode == 1
    assert done.stderr.startswith(f"torpor: {sliced.name} is not running\n  ")
    reload(sliced.machine)
    sliced.start()
    define(sliced, slice="a--b.slice", resources={"cpu-weight": 10})
    done = apply(sliced)
    assert done.returncode == 78
    assert f"{sliced.name}.yaml:" in done.stderr
    assert "key 'slice': 'a--b.slice' has a dash at its beginning or end" in done.stderr
    assert sliced.property("CPUWeight") == "400"


def test_one_wrong_definition_among_good_ones_is_named_and_lifts_no_limit(
    sliced: Container,
) -> None:
    machine = sliced.machine
    machine.write("/etc/torpor/a-wrong.yaml", "rootfs: [\n")
    reload(machine)
    sliced.start()
    define(sliced, hostnam="x", slice="torpor-a.slice", resources={"cpu-weight": 50})
    machine.run("systemctl", "daemon-reload")
    try:
        assert sliced.property("CPUWeight") == "50"
        script = "journalctl --sync; journalctl -b --no-pager -o cat"
        journal = machine.run("sh", "-c", script).stdout
        assert "a-wrong.yaml:" in journal
        assert f"{sliced.name}.yaml:" in journal
        assert re.search("torpor-generator'? failed with exit status 1", journal)
        done = machine.run("torpor", "check", "a-wrong", check=False)
        assert done.returncode == 78
    finally:
        machine.run("rm", "/etc/torpor/a-wrong.yaml")
    define(sliced)
    reload(machine)


def test_a_container_waits_for_what_it_requires(sliced: Container) -> None:
    other = Container(sliced.machine, "required")
    define(other)
    define(sliced, requires="required", after="dbus.service")
    reload(sliced.machine)
    try:
        sliced.start()
        assert other.property("ActiveState") == "active"
        assert {"torpor@required.service", "dbus.service"} <= set(sliced.property("After").split())
        other.stop()
        assert (sliced.state(), other.state()) == ("READY", "READY")
    finally:
        other.remove()


def test_the_generator_run_by_hand_says_what_it_misses(machine: Machine) -> None:
    done = machine.run(GENERATOR, check=False)
    assert done.returncode == 2
    assert "usage: torpor-generator" in done.stderr
