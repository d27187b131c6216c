"""Real reboots, another kernel, another time: each goes on where it was, its timers too."""

import re
from collections.abc import Iterator

import pytest

import guest
from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap
from cycle import running

from . import vm_disk
from .vm import Vm

# Its clock may stand still while it sleeps, and never goes back. It rings 40 s after it was told
# to: a shutdown takes long here, and it is not to ring while CRIU looks at its timers.
CLOCK = """
import signal, time
signal.signal(signal.SIGALRM, lambda *_: print('rang', time.monotonic() - asked, flush=True))
signal.signal(signal.SIGUSR1, lambda *_: (signal.alarm(40), print('will ring', flush=True)))
asked = last = time.monotonic()
while True:
    now = time.monotonic()
    if now < last:
        print('went back', last - now, flush=True)
    last = now
    time.sleep(0.2)
    print('tick', flush=True)
"""
UNTIL = 'until journalctl -u "$1" -o cat | grep -q "$2"; do sleep 0.5; done'
COUNTERS: list[dict[str, object]] = [
    {},
    {"user": "1000:1000"},  # without a user namespace: CRIU needs CAP_SYS_RESOURCE for it
    {"resources": {"memory-max": "64M", "tasks-max": 20, "cpu-quota": "50%"}},
    {"network": {"bridge": "vb0", "subnet": "10.80.0.0/24"}},
]


@pytest.fixture
def five(vm: Vm) -> Iterator[list[Container]]:
    make_busybox(vm)
    made = [
        Container(vm, f"reboot{number}").define(
            rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER], **keys
        )
        for number, keys in enumerate(COUNTERS)
    ]
    made.append(
        Container(vm, "clock").define(image=guest.PLACE, command=["/usr/bin/python3", "-c", CLOCK])
    )
    vm.run("systemctl", "daemon-reload")
    for container in made:
        vm.run("systemctl", "enable", container.unit)
        container.start()
    yield made
    for container in made:
        container.remove()


def test_five_containers_go_on_after_a_reboot(vm: Vm, five: list[Container]) -> None:
    clock = five[-1]
    until(clock, "tick")
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=USR1", clock.unit)
    until(clock, "will ring")
    vm.reboot()
    for container in five:
        assert container.property("StatusText").startswith("restored"), container.journal()
    until(clock, "^rang")
    said = clock.journal()
    assert "went back" not in said
    assert len(re.findall("^rang", said, re.MULTILINE)) == 1
    for container in five[:-1]:
        numbers = container.numbers()
        assert len(numbers) > 3
        assert without_gap(numbers)
    status = vm.read(f"/proc/{five[1].property('MainPID')}/status")
    assert re.search(r"^Uid:\t1000\t", status, re.MULTILINE)
    limited = five[2].property("ControlGroup")
    assert vm.read(f"/sys/fs/cgroup{limited}/payload/pids.max").strip() == "20"


def until(container: Container, words: str) -> None:
    wait = ("timeout", "120", "sh", "-c", UNTIL, "sh", container.unit, words)
    done = container.machine.run(*wait, timeout=100, check=False)
    assert done.returncode == 0, container.journal()[-2000:]


def test_a_newer_kernel_wakes_what_the_older_put_to_sleep(vm: Vm) -> None:
    rootfs = make_busybox(vm)
    with running(vm, "upgraded", rootfs=rootfs, command=["/bin/sh", "-c", COUNTER]) as container:
        vm.run("systemctl", "enable", container.unit)
        old = vm.run("uname", "-r").stdout
        vm.change_kernel(vm_disk.NEWER)
        try:
            assert vm.run("uname", "-r").stdout != old
            assert container.property("StatusText").startswith("restored"), container.journal()
            number = len(container.numbers())
            until(container, f"^count {number + 1}$")
            assert without_gap(container.numbers())
        finally:
            # Whether it can sleep there is a question of CRIU's age, and not asked.
            vm.change_kernel(vm_disk.KERNEL)


def test_a_clock_that_is_set_back_changes_nothing(vm: Vm) -> None:
    rootfs = make_busybox(vm)
    with running(vm, "behind", rootfs=rootfs, command=["/bin/sh", "-c", COUNTER]) as container:
        container.stop()
        vm.run("date", "--set=-1 day")
        try:
            container.start()
            assert container.property("StatusText").startswith("restored"), container.journal()
            container.stop()
            assert container.state() == "READY"
        finally:
            vm.run("date", "--set=+1 day")
