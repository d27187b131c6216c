"""Limits of a definition are the kernel's, and none of them keeps a container from sleeping."""

import re
import time
from collections.abc import Callable, Iterator

import pytest

import guest
from containers import BUSYBOX, Container, make_busybox

from .vm import Vm

FORK = "for number in $(seq 60); do sleep 1000 & done"
MEMORY_BYTES = 64 << 20
TASKS = 6
# Has 95 % of its memory, all of its tasks, and uses all the time that it is given.
GREEDY = f"""
import os, time
block = bytearray(os.urandom(1 << 20))
held = []
while int(open('/sys/fs/cgroup/memory.current').read()) < {MEMORY_BYTES} * 95 // 100:
    held.append(bytes(block))
for _ in range({TASKS}):
    try:
        if os.fork() == 0:
            time.sleep(1e6)
    except BlockingIOError:
        break
number = 0
print('full', open('/sys/fs/cgroup/pids.current').read(), flush=True)
while True:
    number += 1
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
    print('count', number, flush=True)
"""
NEEDS = {"namespaces": {"cgroup": "own"}}
STOP_RATIO = 4.0

Define = Callable[..., Container]


@pytest.fixture
def define(vm: Vm) -> Iterator[Define]:
    """Makes containers that run a script and have a definition's resources:, none to begin with."""
    make_busybox(vm)
    vm.run("sh", "-c", f"ln -sf busybox {BUSYBOX}/bin/tail; ln -sf busybox {BUSYBOX}/bin/seq")
    made = []

    def define(script: str, **resources: str | int) -> Container:
        container = Container(vm, f"limited-{time.monotonic_ns()}")
        made.append(container)
        limit(container, script, **resources)
        vm.run("systemctl", "daemon-reload")
        return container

    yield define
    for container in made:
        container.remove()


def limit(container: Container, script: str, **resources: str | int) -> None:
    limits = {name.replace("_", "-"): value for name, value in resources.items()}
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", script], resources=limits)


def knob(container: Container, file: str) -> str:
    group = container.property("ControlGroup")
    return container.machine.read(f"/sys/fs/cgroup{group}/payload/{file}").strip()


def until(container: Container, words: str, timeout_s: int = 300) -> None:
    script = 'until journalctl -u "$1" -o cat | grep -q "$2"; do sleep 0.5; done'
    container.machine.run(
        "timeout", str(timeout_s), "sh", "-c", script, "sh", container.unit, words
    )


def stop_s(container: Container) -> float:
    began_s = time.monotonic()
    container.stop()
    return time.monotonic() - began_s


def test_no_more_tasks_than_its_own_are_made(define: Define) -> None:
    container = define(f"({FORK}); echo ended", tasks_max=30)
    container.start()
    container.wait_for("inactive", timeout_s=60)
    assert "can't fork: Resource temporarily unavailable" in container.journal()


def test_who_takes_too_much_memory_is_killed_and_the_unit_says_so(define: Define) -> None:
    container = define("tail /dev/zero; echo survived; sleep 1000", memory_max="32M")
    container.start()
    until(container, "survived")
    container.stop()
    one_for_all = define("tail /dev/zero; sleep 1000", memory_max="32M", oom_policy="kill")
    one_for_all.start()
    one_for_all.wait_for("failed", timeout_s=120)
    assert one_for_all.property("Result") == "oom-kill"


def test_limits_change_while_it_runs_and_hold_after_a_wake(define: Define) -> None:
    container = define("while :; do sleep 1; done", memory_max="64M", cpu_quota="50%")
    container.start()
    assert knob(container, "memory.max") == str(64 << 20)
    assert knob(container, "cpu.max") == "50000 100000"
    limit(
        container,
        "while :; do sleep 1; done",
        memory_max="96M",
        tasks_max=50,
        io_write_bandwidth_max="/srv 50M",
        allowed_cpus="0",
    )
    said = container.machine.run("torpor", "apply", container.name).stdout
    assert f"memory.max: {64 << 20} -> {96 << 20}" in said
    assert "cpu.max: 50000 100000 -> max 100000" in said
    for _ in range(2):
        assert knob(container, "memory.max") == str(96 << 20)
        assert (knob(container, "cpu.max"), knob(container, "pids.max")) == ("max 100000", "50")
        assert "wbps=50000000" in knob(container, "io.max")
        assert knob(container, "cpuset.cpus.effective") == "0"
        container.stop()
        assert container.state() == "READY", container.journal()
        container.start()


def test_one_at_all_of_its_limits_sleeps_in_time_and_wakes_with_them(vm: Vm) -> None:
    twins = {}
    for name, resources in (
        ("free", {}),
        ("tight", {"memory-max": str(MEMORY_BYTES), "cpu-quota": "10%", "tasks-max": TASKS}),
    ):
        twins[name] = Container(vm, name).define(
            image=guest.PLACE,
            command=["/usr/bin/python3", "-c", GREEDY],
            resources=resources,
            **NEEDS,
        )
    try:
        times_s = {}
        for name, container in twins.items():
            container.start()
            until(container, "count 1")
            times_s[name] = stop_s(container)
            assert container.state() == "READY", container.journal()
        assert times_s["tight"] < STOP_RATIO * times_s["free"], times_s
        tight = twins["tight"]
        tight.start()
        assert tight.property("StatusText").startswith("restored"), tight.journal()
        assert knob(tight, "memory.max") == str(MEMORY_BYTES)
        assert (knob(tight, "cpu.max"), knob(tight, "pids.max")) == ("10000 100000", str(TASKS))
        number = int(re.findall(r"^count (\d+)$", tight.journal(), re.MULTILINE)[-1])
        until(tight, f"^count {number + 1}$")
        assert int(knob(tight, "memory.current")) > MEMORY_BYTES * 8 // 10
    finally:
        for container in twins.values():
            container.remove()
