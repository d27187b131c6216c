"""A reboot of the kernel, and a power cut, while containers run, sleep and wake."""

import random
import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, Container, make_busybox

from .vm import Vm

# What it counts it writes to its disk, so that memory can be compared with what was known outside.
SCRIPT = """
echo fresh >>/log/count
i=0
while :; do i=$((i+1)); echo $i >>/log/count; sync -d /log/count; sleep 0.3; done
"""
NAMES = ("one", "two", "three")
CYCLES = "cycles.service"
LONGEST_S = 20.0


@pytest.fixture(scope="module")
def counters(vm: Vm) -> Iterator[list[Container]]:
    """Counters that are started at boot: one in a slice of its own, one with limits."""
    make_busybox(vm)
    vm.run("ln", "-sf", "busybox", f"{BUSYBOX}/bin/sync")
    made = [Container(vm, name) for name in NAMES]
    keys: list[dict[str, object]] = [
        {},
        {"slice": "torpor-own.slice"},
        {"resources": {"memory-max": "512M", "tasks-max": 200, "cpu-weight": 50}},
    ]
    for container, own in zip(made, keys, strict=True):
        command = ["/bin/sh", "-c", SCRIPT]
        mounts = [f"{container.name}:/log"]
        container.define(rootfs=BUSYBOX, command=command, mounts=mounts, **own)
    units = [container.unit for container in made]
    vm.run("systemctl", "enable", *units)
    vm.run("systemctl", "daemon-reload")
    vm.run("systemctl", "start", *units)
    yield made
    for container in made:
        container.remove()


def log(container: Container) -> list[str]:
    """What it has written to its disk."""
    return container.machine.read(f"/var/lib/torpor/.volumes/{container.name}/count").split()


def goes_back(lines: list[str]) -> bool:
    """Whether a number is not the next one, but for the first after a fresh start."""
    expected = 0
    for line in lines:
        if line != "fresh" and int(line) != expected:
            return True
        expected = 1 if line == "fresh" else expected + 1
    return False


def test_containers_wake_from_a_reboot_of_the_kernel_where_they_were(
    vm: Vm, counters: list[Container]
) -> None:
    before = [log(container) for container in counters]
    boot_id = vm.read("/proc/sys/kernel/random/boot_id")
    vm.reboot()
    assert vm.read("/proc/sys/kernel/random/boot_id") != boot_id
    for container, lines in zip(counters, before, strict=True):
        assert container.property("StatusText").startswith("restored"), container.journal()
        after = log(container)
        assert len(after) > len(lines)
        assert not goes_back(after) and after.count("fresh") == 1


def test_after_a_power_cut_no_memory_is_older_than_the_disk(
    vm: Vm, counters: list[Container]
) -> None:
    units = " ".join(container.unit for container in counters)
    loop = f"while :; do for unit in {units}; do systemctl restart $unit; done; done"
    loop = loop.replace("restart $unit", "stop $unit; systemctl start $unit")
    vm.write("/var/synced", "text")
    vm.run("sync")
    vm.run("systemd-run", f"--unit={CYCLES}", "sh", "-c", loop)
    delay_s = random.uniform(0, LONGEST_S)
    print(f"power cut after {delay_s:.3f} s")
    time.sleep(delay_s)
    vm.write("/var/not-synced", "text")
    vm.crash_and_boot()
    # It was a power cut, then.
    assert vm.read("/var/synced") == "text"
    assert vm.run("cat", "/var/not-synced", check=False).stdout == ""
    for container in counters:
        assert container.property("ActiveState") == "active", container.journal()
        lines = log(container)
        assert not goes_back(lines), lines
        assert container.state() == "RUNNING"
    time.sleep(2)
    for container in counters:
        assert not goes_back(log(container))
    vm.run("rm", "-f", "/var/synced", "/var/not-synced")
