"""A container that ends gives its unit its exact result, and leaves no memory behind."""

import re
import time
from collections.abc import Callable, Iterator

import pytest

from containers import BUSYBOX, Container, make_busybox
from machine import Machine

Make = Callable[[str], Container]


@pytest.fixture
def make(machine: Machine) -> Iterator[Make]:
    """Makes a container that runs a shell script; removed after the test."""
    make_busybox(machine)
    made = []

    def make_one(script: str) -> Container:
        container = Container(machine, f"exits{time.monotonic_ns()}")
        made.append(container)
        return container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", script])

    yield make_one
    for container in made:
        container.remove()


def assert_failed_with(container: Container, result: str, status: str) -> None:
    container.wait_for("failed")
    assert container.property("Result") == result
    assert container.property("ExecMainStatus") == status
    assert container.state() == "CRASHED"


@pytest.mark.parametrize("attempt", range(5))
def test_an_exit_at_once_fails_the_unit_with_its_status(make: Make, attempt: int) -> None:
    container = make("echo last words; exit 3")
    container.systemctl("start", check=False)
    assert_failed_with(container, "exit-code", "3")
    assert "last words" in container.journal()


def test_an_exit_later_fails_the_unit_with_its_status_after_its_last_line(make: Make) -> None:
    # More than the journal takes in at once: the pipe is still full when the program ends.
    container = make("sleep 0.5; /bin/busybox seq 60000; exit 3")
    container.drop_in("rate", "LogRateLimitIntervalSec=30s\nLogRateLimitBurst=1000000")
    container.start()
    assert_failed_with(container, "exit-code", "3")
    lines = re.findall(r"^(\d+)$", container.journal(), re.MULTILINE)
    assert [int(line) for line in lines] == list(range(1, 60001))


def test_all_last_words_of_a_real_stop_are_in_the_journal(make: Make) -> None:
    words = "/bin/busybox seq 60000; exit 0"
    container = make(f"trap '{words}' TERM; while :; do sleep 0.1; done")
    container.drop_in("rate", "LogRateLimitIntervalSec=30s\nLogRateLimitBurst=1000000")
    container.start()
    time.sleep(0.3)
    container.machine.run("torpor", "stop", "--fresh", container.name)
    lines = [int(line) for line in container.journal().splitlines() if line.isdigit()]
    assert lines == list(range(1, 60001))
    assert container.property("Result") == "success"


def assert_exact_after_waking(make: Make) -> None:
    """A program that ends with its first instruction after waking."""
    container = make("while :; do [ -e /var/tmp/woken ] && { echo woken; exit 3; }; done")
    mark = f"{BUSYBOX}/var/tmp/woken"
    container.machine.run("rm", "-f", mark)
    container.start()
    time.sleep(0.2)
    container.stop()
    container.machine.run("touch", mark)
    container.systemctl("start", check=False)
    container.machine.run("rm", "-f", mark)
    assert_failed_with(container, "exit-code", "3")
    assert "woken" in container.journal()


@pytest.mark.parametrize("attempt", range(3))
def test_an_exit_right_after_waking_fails_the_unit_with_its_status(
    make: Make, attempt: int
) -> None:
    assert_exact_after_waking(make)


def test_an_exit_right_after_waking_is_exact_when_systemd_is_busy(
    machine: Machine, make: Make
) -> None:
    # Reloading takes it a tenth of a second, in which it reads no main PID.
    loop = "while systemctl daemon-reload; do sleep 0.1; done"
    machine.run("systemd-run", "-q", "--unit=busy", "sh", "-c", loop)
    try:
        for _ in range(4):
            assert_exact_after_waking(make)
    finally:
        machine.run("systemctl", "stop", "busy")


def test_an_exit_with_0_ends_the_unit_in_order(make: Make) -> None:
    container = make("sleep 0.3")
    container.start()
    container.wait_for("inactive")
    assert container.property("Result") == "success"
    assert container.state() == "EXITED"


def test_sigkill_from_outside_fails_the_unit_by_signal(make: Make) -> None:
    container = make("while :; do sleep 0.1; done")
    container.start()
    container.stop()
    container.start()
    container.machine.run("runc", "kill", container.name, "KILL")
    assert_failed_with(container, "signal", "9")


def test_restart_on_failure_starts_fresh(make: Make) -> None:
    container = make("echo begun; while :; do sleep 0.1; done")
    container.drop_in("restart", "Restart=on-failure\nRestartSec=100ms")
    container.start()
    container.stop()
    container.start()
    container.machine.run("runc", "kill", container.name, "KILL")
    deadline = time.monotonic() + 10
    while container.journal().count("begun") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    container.wait_for("active")
    assert container.status()["reason"] == "started fresh"


def test_a_program_that_is_not_there_is_one_clear_message(make: Make) -> None:
    container = make("true")
    container.define(rootfs=BUSYBOX, command=["/bin/nothing-here"])
    assert container.systemctl("start", check=False) != 0
    text = container.journal()
    assert "/bin/nothing-here" in text
    assert "Traceback" not in text
