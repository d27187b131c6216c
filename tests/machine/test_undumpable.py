"""A container that CRIU cannot dump is stopped gracefully, with a reason that helps."""

import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, bind, make_bundle, make_busybox
from machine import Machine

# Ends on SIGTERM, with a last word: so a graceful stop can be told from a kill.
GRACEFUL = "trap 'echo goodbye; exit 0' TERM; "

IO_URING = r"""
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <signal.h>
#include <stdlib.h>
static void end(int n) { (void)n; write(1, "goodbye\n", 8); _exit(0); }
int main(void) {
    char params[120];
    memset(params, 0, sizeof params);
    long fd = syscall(425 /* io_uring_setup */, 4, params);
    signal(SIGTERM, end);
    printf("ring %ld\n", fd);
    fflush(stdout);
    for (;;) pause();
}
"""


@pytest.fixture
def container(machine: Machine) -> Iterator[Container]:
    make_busybox(machine)
    container = Container(machine, f"undumpable{time.monotonic_ns()}")
    yield container
    container.remove()


def assert_ended_gracefully(container: Container, *words: str) -> None:
    began_s = time.monotonic()
    container.stop()
    assert time.monotonic() - began_s < 20
    text = container.journal()
    for word in ("cannot checkpoint: CRIU: ", "goodbye", "will start fresh", *words):
        assert word in text, text
    assert "Traceback" not in text
    assert container.property("Result") == "success"
    assert container.state() == "EXITED"
    kept = container.machine.run("ls", f"/var/lib/torpor/{container.name}").stdout
    assert "last-dump.log" in kept
    container.start()
    assert container.property("StatusText").startswith("started fresh")


def test_a_file_of_the_host_as_stdout(container: Container) -> None:
    machine = container.machine
    machine.run("mkdir", "-p", "/srv/out")
    make_bundle(
        machine,
        "/srv/outside",
        BUSYBOX,
        lambda config: config["mounts"].append(bind("/srv/out", "/out")),
    )
    script = f"exec 6>&1 >/out/log; trap 'echo goodbye >&6; exit 0' TERM; {COUNTER}"
    container.define(bundle="/srv/outside", command=["/bin/sh", "-c", script])
    container.start()
    time.sleep(0.3)
    pid = container.property("MainPID")
    machine.run("nsenter", "-t", pid, "-m", "/bin/busybox", "umount", "-l", "/out")
    assert_ended_gracefully(container, "Can't lookup mount=", "a file from outside")


def test_a_user_of_io_uring(container: Container) -> None:
    machine = container.machine
    machine.write("/srv/ring.c", IO_URING)
    machine.run("gcc", "-static", "-o", f"{BUSYBOX}/bin/ring", "/srv/ring.c")
    container.define(rootfs=BUSYBOX, command=["/bin/ring"])
    container.start()
    time.sleep(0.3)
    assert "ring -" not in container.journal(), "this kernel refuses io_uring"
    assert_ended_gracefully(container, "io_uring")


def test_a_process_stopped_under_a_debugger(container: Container) -> None:
    machine = container.machine
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", GRACEFUL + COUNTER])
    container.start()
    time.sleep(0.3)
    tracer = machine.popen("strace", "-o", "/dev/null", "-p", container.property("MainPID"))
    time.sleep(0.5)
    try:
        assert_ended_gracefully(container, "is being traced by strace")
    finally:
        tracer.kill()
