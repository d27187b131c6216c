"""The main job: memory is kept through stop, start and reboot."""

import time
from collections.abc import Iterator

import pytest

from containers import (
    BUSYBOX,
    COUNTER,
    REDIS,
    REDIS_CHECK,
    REDIS_COMMAND,
    REDIS_FILL,
    Container,
    make_busybox,
    make_redis,
    without_gap,
)
from cycle import running
from machine import Machine

# Nearly always waits in vfork(2), which a dump has to find a moment without.
SPAWNER = r"""
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned long i = 1;; i++) {
        printf("count %lu\n", i);
        pid_t child = vfork();
        if (!child) { usleep(80000); _exit(0); }
        waitpid(child, NULL, 0);
        usleep(10000);
    }
}
"""


@pytest.fixture
def counter(machine: Machine) -> Iterator[Container]:
    make_busybox(machine)
    container = Container(machine, f"counter{time.monotonic_ns()}")
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER])
    yield container
    container.remove()


def test_a_counter_goes_on_through_stops_starts_and_a_reboot(counter: Container) -> None:
    counter.start()
    for _ in range(3):
        time.sleep(0.3)
        counter.stop()
        assert counter.property("ActiveState") == "inactive"
        assert counter.property("Result") == "success"
        counter.start()
        assert counter.property("StatusText").startswith("restored generation")
    counter.stop()
    counter.machine.reboot()
    counter.start()
    time.sleep(0.5)
    numbers = counter.numbers()
    assert len(numbers) > 10
    assert without_gap(numbers)


def test_a_running_container_sleeps_at_shutdown_and_wakes_at_boot_when_enabled(
    counter: Container,
) -> None:
    machine = counter.machine
    machine.run("systemctl", "enable", counter.unit)
    counter.start()
    time.sleep(0.3)
    machine.reboot()
    counter.start()
    assert counter.status()["reason"] == "woke from generation 1"
    assert counter.property("StatusText").startswith("restored generation 1")
    time.sleep(0.3)
    assert without_gap(counter.numbers())
    machine.run("systemctl", "disable", counter.unit)


def test_stopping_twice_and_starting_twice_change_nothing(counter: Container) -> None:
    counter.start()
    counter.start()
    counter.stop()
    counter.stop()
    assert counter.state() == "READY"
    counter.start()
    counter.start()
    time.sleep(0.2)
    assert without_gap(counter.numbers())


def test_a_start_while_it_falls_asleep_wakes_it_again(counter: Container) -> None:
    counter.start()
    time.sleep(0.3)
    counter.machine.run("systemctl", "stop", "--no-block", counter.unit)
    counter.start()
    time.sleep(0.3)
    assert counter.property("ActiveState") == "active"
    assert without_gap(counter.numbers())


def test_no_line_is_lost_when_it_falls_asleep_in_the_middle_of_a_flood(machine: Machine) -> None:
    make_busybox(machine)
    container = Container(machine, "flood")
    # More than the journal takes in at once: the pipe is full when it is frozen.
    script = "/bin/busybox seq 60000; while :; do sleep 1; done"
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", script])
    container.drop_in("rate", "LogRateLimitIntervalSec=30s\nLogRateLimitBurst=1000000")
    try:
        container.start()
        time.sleep(0.2)
        for _ in range(2):
            container.stop()
            assert container.state() == "READY"
            container.start()
        time.sleep(2)
        lines = [int(line) for line in container.journal().splitlines() if line.isdigit()]
        assert lines == list(range(1, 60001))
    finally:
        container.remove()


def test_the_state_is_named_by_systemctl_status(counter: Container) -> None:
    counter.start()
    counter.stop()
    counter.start()
    text = counter.machine.run("systemctl", "status", counter.unit).stdout
    assert 'Status: "restored generation 1, ' in text
    assert "MiB, in " in text


def test_nothing_of_torpor_but_one_cat_stays_beside_a_running_container(counter: Container) -> None:
    counter.start()
    counter.stop()
    counter.start()
    time.sleep(0.5)
    group = counter.property("ControlGroup")
    found = counter.machine.run("sh", "-c", BESIDE_PAYLOAD, "sh", group).stdout
    assert found.split() == ["cat"]


def test_a_long_dump_and_restore_outlive_the_timeouts_and_show_progress(machine: Machine) -> None:
    make_busybox(machine)
    container = Container(machine, "heavy")
    machine.write("/srv/heavy.c", HEAVY)
    machine.run("gcc", "-O2", "-static", "-o", f"{BUSYBOX}/bin/heavy", "/srv/heavy.c")
    container.define(rootfs=BUSYBOX, command=["/bin/heavy"])
    container.drop_in("timeout", "TimeoutStartSec=2s\nTimeoutStopSec=2s")
    try:
        container.start()
        container.wait_for_line("count 1")
        container.machine.run("systemctl", "stop", "--no-block", container.unit)
        machine.run("timeout", "30", "sh", "-c", UNTIL_PROGRESS, "sh", container.unit)
        container.wait_for("inactive", timeout_s=60)
        assert container.state() == "READY"
        container.machine.run("systemctl", "start", "--no-block", container.unit)
        time.sleep(2.5)
        container.start()
        assert container.property("StatusText").startswith("restored generation 1")
        time.sleep(0.2)
        assert without_gap(container.numbers())
    finally:
        container.remove()


def test_clean_forgets_the_memory(counter: Container) -> None:
    counter.start()
    time.sleep(0.3)
    counter.stop()
    counter.machine.run("systemctl", "clean", "--what=state", counter.unit)
    counter.start()
    time.sleep(0.2)
    assert counter.numbers().count(1) == 2


def test_reload_sends_the_hangup_signal(machine: Machine) -> None:
    make_busybox(machine)
    container = Container(machine, "reloads")
    script = "trap 'echo reloaded' HUP; while :; do sleep 0.1; done"
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", script])
    try:
        container.start()
        time.sleep(0.3)
        container.systemctl("reload")
        time.sleep(0.5)
        assert "reloaded" in container.journal()
    finally:
        container.remove()


@pytest.mark.parametrize("pid", ["own", "host"])
def test_a_reload_leaves_alone_who_does_not_handle_the_hangup_signal(
    machine: Machine, pid: str
) -> None:
    """In the host's pid namespace it would be killed, and started again."""
    make_busybox(machine)
    with running(machine, "deaf", rootfs=BUSYBOX, namespaces={"pid": pid}) as container:
        first = container.property("MainPID")
        assert container.systemctl("reload", check=False)
        assert "does not handle SIGHUP" in container.journal()
        assert container.property("MainPID") == first
        assert container.property("NRestarts") == "0"
        machine.run("torpor", "stop", "--fresh", "deaf")


def test_runc_knows_the_container_by_its_name(counter: Container) -> None:
    counter.start()
    done = counter.machine.run("runc", "exec", counter.name, "/bin/echo", "inside")
    assert done.stdout == "inside\n"
    assert counter.name in counter.machine.run("runc", "list", "-q").stdout.split()


def test_the_shipped_unit_has_no_fault(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", "--man=no", "torpor@name.service")
    assert done.stdout + done.stderr == ""


UNTIL_PROGRESS = """
until systemctl show -P StatusText "$1" | grep -q "checkpointing: "; do sleep 0.05; done
"""


# As much memory as takes some seconds to write, of bytes that no file system compresses.
HEAVY = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
    size_t words = (size_t)5 << 26; /* 2.5 GiB */
    uint64_t *memory = malloc(words * 8), seed = 88172645463325252u;
    for (size_t i = 0; i < words; i++) {
        seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17;
        memory[i] = seed;
    }
    for (int i = 1; ; i++) { printf("count %d\n", i); fflush(stdout); usleep(100000); }
}
"""


BESIDE_PAYLOAD = """
cd "/sys/fs/cgroup$1" 2>/dev/null || cd "/sys/fs/cgroup/unified$1"
for group in . supervisor .control; do
    for pid in $(cat $group/cgroup.procs 2>/dev/null); do cat /proc/$pid/comm; done
done
"""


def test_redis_without_persistence_keeps_100000_keys(machine: Machine) -> None:
    make_redis(machine)
    redis = Container(machine, "redis")
    redis.define(rootfs=REDIS, command=REDIS_COMMAND)

    def ask(*words: str) -> str:
        argv = ("runc", "exec", "redis", "/bin/redis-cli", "-h", "127.0.0.1", *words)
        return machine.run(*argv).stdout.strip()

    try:
        redis.start()
        time.sleep(0.5)
        assert ask("EVAL", REDIS_FILL, "0", "100000") == "100000"
        redis.stop()
        redis.start()
        assert ask("PING") == "PONG"  # at once: lo is up and the socket listens
        assert ask("EVAL", REDIS_CHECK, "0", "100000") == "100000"
        redis.stop()
        machine.reboot()
        redis.start()
        assert ask("PING") == "PONG"
        assert ask("EVAL", REDIS_CHECK, "0", "100000") == "100000"
    finally:
        redis.remove()


def test_who_starts_programs_all_the_time_sleeps_between_two(counter: Container) -> None:
    machine = counter.machine
    machine.write("/srv/spawner.c", SPAWNER)
    machine.run("gcc", "-O1", "-w", "-static", "-o", f"{BUSYBOX}/bin/spawner", "/srv/spawner.c")
    counter.define(rootfs=BUSYBOX, command=["/bin/spawner"])
    counter.start()
    for _ in range(5):
        time.sleep(0.3)
        counter.stop()
        assert counter.state() == "READY", counter.journal()
        counter.start()
        assert counter.property("StatusText").startswith("restored"), counter.journal()
    time.sleep(0.3)
    assert without_gap(counter.numbers())
