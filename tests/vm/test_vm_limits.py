"""Limits of a definition are the kernel's, and do not keep a container from its sleep."""

import time
from collections.abc import Callable, Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap

from .vm import Vm

MEBIBYTE = 1 << 20
BUSY = "while :; do :; done"
IDLE = "while :; do sleep 1000; done"
# tail keeps what it was told to print at the end, which does not come.
HOLD = f"(head -c {40 * MEBIBYTE} /dev/zero; {IDLE}) | tail -c {40 * MEBIBYTE} >/dev/null"
FORK = "for number in $(seq 60); do sleep 1000 & done"

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


def limit_now(container: Container, script: str, **resources: str | int) -> None:
    """Limit a container that runs."""
    limit(container, script, **resources)
    container.machine.run("torpor", "apply", container.name)


def cgroup(container: Container, file: str) -> str:
    """The content of a file of the unit's cgroup."""
    return container.machine.read(f"/sys/fs/cgroup{container.property('ControlGroup')}/{file}")


def flat(text: str) -> dict[str, int]:
    """A flat keyed file of a cgroup (cgroup-v2.rst)."""
    return {name: int(value) for name, value in map(str.split, text.splitlines())}


def test_more_memory_than_its_own_ends_it_as_out_of_memory(define: Define) -> None:
    container = define(f"tail -c {200 * MEBIBYTE} /dev/zero", memory_max="48M")
    container.start()
    container.wait_for("failed", timeout_s=60)
    assert container.property("Result") == "oom-kill"
    assert container.state() == "EXITED"


def test_no_more_tasks_than_its_own_are_made(define: Define) -> None:
    container = define(f"({FORK}); echo ended", tasks_max=30)
    container.start()
    container.wait_for("inactive", timeout_s=60)
    assert "can't fork: Resource temporarily unavailable" in container.journal()


def test_no_more_processor_time_than_its_own_is_given(define: Define) -> None:
    container = define(BUSY)
    container.start()
    limit_now(container, BUSY, cpu_quota="20%")
    before, began = flat(cgroup(container, "cpu.stat")), uptime(container)
    time.sleep(3)
    after, ended = flat(cgroup(container, "cpu.stat")), uptime(container)
    assert after["nr_throttled"] > before["nr_throttled"]
    assert after["usage_usec"] - before["usage_usec"] < 0.4 * 1e6 * (ended - began)


def uptime(container: Container) -> float:
    """Seconds since the machine was booted, by its own clock."""
    return float(container.machine.read("/proc/uptime").split()[0])


def test_a_quota_of_processor_time_does_not_hold_up_a_sleep_or_a_wake(define: Define) -> None:
    container = define(IDLE)
    container.start()
    limit_now(container, IDLE, cpu_quota="25%")
    copy = "ExecStopPost=/bin/cp /sys/fs/cgroup%s/cpu.stat /run/%N.stat"
    container.drop_in("witness", copy % container.property("ControlGroup"))
    before, began = flat(cgroup(container, "cpu.stat")), uptime(container)
    container.stop()
    after, ended = flat(container.machine.read(f"/run/{container.unit}.stat")), uptime(container)
    assert container.state() == "READY"
    throttled_s = (after["throttled_usec"] - before["throttled_usec"]) / 1e6
    assert throttled_s < (ended - began) / 2
    began = uptime(container)
    container.start()
    throttled_s = flat(cgroup(container, "cpu.stat"))["throttled_usec"] / 1e6
    assert throttled_s < (uptime(container) - began) / 2
    assert container.property("StatusText").startswith("restored")


@pytest.mark.parametrize(
    ("script", "resources"),
    [
        (f"{HOLD} & {COUNTER}", {"memory_max": "56M"}),
        (f"for number in $(seq 24); do sleep 1000 & done; {COUNTER}", {"tasks_max": 28}),
    ],
    ids=["memory", "tasks"],
)
def test_a_container_at_its_limit_sleeps_and_wakes(
    define: Define, script: str, resources: dict[str, str | int]
) -> None:
    container = define(f"{script}")
    container.start()
    while not container.numbers():
        time.sleep(0.5)
    limit_now(container, script, **resources)
    container.stop()
    assert container.state() == "READY", container.journal()
    container.start()
    assert container.property("StatusText").startswith("restored")
    assert without_gap(container.numbers())
