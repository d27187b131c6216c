"""Disks that are full, fail or do not answer, programs that hang, and helpers held at a moment."""

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from containers import COUNTER, Container
from machine import Machine

HERE = Path(__file__).resolve().parent
MARK = "/run/fault-moment"
HANG = "/opt/hang"  # first in PATH of units whose programs hang
_FILL = """
for size in 64k 1k 1; do dd if=/dev/zero bs=$size >>"$1/filler" 2>/dev/null || true; done
"""
# Loop devices are the host's, and the machine's /dev has none.
_LOOP = """
[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
for n in $(seq 0 63); do [ -e /dev/loop$n ] || mknod /dev/loop$n b 7 $n; done
mkdir -p "$2"; mount -o loop "$1" "$2"
"""
# What a start or stop could leave behind.
_LEFT = r"""
ps -eo comm= | grep -E '^(criu|runc|start|stop|settle|tar|sync)$' || true
grep -E "criu|/run/(runc|torpor)/$1" /proc/self/mountinfo || true
ls -d /run/runc/$1 /run/torpor/$1 /tmp/.criu* 2>/dev/null || true
find /var/lib/torpor/$1 -name '*.new' -o -name criu-root
find /sys/fs/cgroup -path "*torpor@$1*" -name payload
"""


def left(machine: Machine, container: Container) -> str:
    """What a container that has ended may not leave behind."""
    return machine.run("sh", "-c", _LEFT, "sh", container.name).stdout


def generations(container: Container) -> list[str]:
    script = 'ls "/var/lib/torpor/$1/generations" 2>/dev/null || true'
    return container.machine.run("sh", "-c", script, "sh", container.name).stdout.split()


# Ends on SIGTERM, with a last word: so a graceful stop can be told from a kill.
GRACEFUL_COUNTER = f"trap 'echo goodbye; exit 0' TERM; {COUNTER}"


class Case:
    """One case on a counter that others have used before: from here on its journal counts."""

    def __init__(self, counter: Container) -> None:
        self.counter = counter
        counter.systemctl("reset-failed", check=False)
        counter.start()
        self._offset = len(counter.journal())
        self.before = generations(counter)

    def said(self) -> str:
        return self.counter.journal()[self._offset :]

    def numbers(self) -> list[int]:
        return [int(digits) for digits in re.findall(r"^count (\d+)$", self.said(), re.MULTILINE)]

    def assert_ended_in_order(self, *words: str) -> None:
        """It went on when it could not sleep, was stopped by its signal, and left nothing."""
        text = self.said()
        for word in ("cannot checkpoint: ", "goodbye", "will start fresh", *words):
            assert word.lower() in text.lower(), text
        assert "Traceback" not in text and "torpor's own fault" not in text, text
        numbers = self.numbers()
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert self.counter.property("Result") == "success"
        assert self.counter.state() in ("EXITED", "NONE", "RUNNING", "DUMPING")
        assert generations(self.counter) == self.before
        assert left(self.counter.machine, self.counter) == ""

    def assert_starts_fresh(self) -> None:
        self._start("started fresh")
        numbers = self.numbers()
        assert numbers.count(1) == 1
        again = numbers.index(1)
        assert numbers[again:] == list(range(1, len(numbers) - again + 1))

    def assert_wakes(self) -> None:
        self._start("restored")
        numbers = self.numbers()
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    def _start(self, how: str) -> None:
        self.counter.systemctl("reset-failed", check=False)
        self.counter.start()
        time.sleep(0.25)
        assert self.counter.property("StatusText").startswith(how), self.said()


@contextmanager
def small_disk(machine: Machine, place: str, size: str) -> Iterator[str]:
    """An ext4 of its own at a place, where root has no more room than others."""
    image = machine.root / f"srv/small{place.replace('/', '-')}.img"
    image.touch()
    subprocess.run(["truncate", f"--size={size}", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m0", image], check=True)
    machine.run("sh", "-ec", _LOOP, "sh", f"/srv/{image.name}", place)
    try:
        yield place
    finally:
        machine.run("umount", place)
        image.unlink()


def fill(machine: Machine, place: str) -> None:
    """Leave no byte free."""
    machine.run("sh", "-c", _FILL, "sh", place)


def make_room(machine: Machine, place: str) -> None:
    machine.run("rm", "-f", f"{place}/filler")


class FailingDisk:
    """A file system that fails and stops on demand; what it holds is in a directory beside it."""

    def __init__(self, machine: Machine, place: str) -> None:
        self._machine = machine
        self._place = place
        self._unit = f"failing{place.replace('/', '-')}"
        self._backing, self._rules = f"/srv/{self._unit}", f"/srv/{self._unit}.rules"

    def __enter__(self) -> "FailingDisk":
        machine = self._machine
        machine.write("/srv/failing_fs.py", (HERE / "failing_fs.py").read_text())
        machine.run("mkdir", "-p", self._backing, self._place)
        self.obey()
        argv = ["python3", "/srv/failing_fs.py", self._place, self._backing, self._rules]
        # Not ended by a shutdown before who uses it.
        machine.run("systemd-run", f"--unit={self._unit}", *argv)
        script = f"until mountpoint -q {self._place}; do sleep 0.02; done"
        machine.run("timeout", "10", "sh", "-c", script)
        show = ("systemctl", "show", "--property=MainPID", "--value", self._unit)
        self._pid = int(machine.run(*show).stdout)
        return self

    def __exit__(self, *_: object) -> None:
        self._machine.signal(self._pid, "KILL")
        self._machine.run("umount", "--lazy", self._place)
        self._machine.run("rm", "-rf", self._backing, self._rules, self._place)
        self._machine.run("systemctl", "reset-failed", self._unit, check=False)

    def obey(self, *rules: str) -> None:
        """Fail from now on as the rules of failing_fs.py say, and in no other way."""
        self._machine.write(self._rules, "".join(f"{rule}\n" for rule in rules))

    def stop(self) -> None:
        """Answer nothing any more."""
        self._machine.signal(self._pid, "STOP")

    def go_on(self) -> None:
        self._machine.signal(self._pid, "CONT")


def begin_held(container: Container, verb: str, moment: str) -> None:
    """Begin a verb of systemctl; returns when its helper has stopped itself at the moment."""
    machine = container.machine
    environment = f'"TORPOR_FAULT={moment}=stop" "TORPOR_FAULT_FILE={MARK}"'
    machine.run("rm", "-f", MARK)
    drop_in = container.drop_in("moment", f"Environment={environment}")
    machine.run("systemctl", verb, "--no-block", container.unit)
    machine.run("timeout", "20", "sh", "-c", f"until [ -s {MARK} ]; do sleep 0.02; done")
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")


def go_on(container: Container, timeout_s: int = 60) -> None:
    """Let the helper go on that begin_held() left, and wait until the unit is at rest."""
    container.machine.run("sh", "-c", f"kill -CONT $(cut -d' ' -f2 {MARK})")
    wait_for_rest(container, timeout_s)


def wait_for_rest(container: Container, timeout_s: int = 60) -> None:
    """Wait until the unit is not about to become anything else."""
    wait = 'while systemctl is-active "$1" | grep -q ing; do sleep 0.05; done'
    container.machine.run("timeout", str(timeout_s), "sh", "-c", wait, "sh", container.unit)


def replace_program(container: Container, name: str, lines: Sequence[str]) -> None:
    """Have the container's unit find another program of this name."""
    directory = f"{HANG}/{container.name}"
    container.machine.write(f"{directory}/{name}", "\n".join(("#!/bin/sh", *lines, "")), 0o755)
    container.drop_in("path", f"Environment=PATH={directory}:/usr/sbin:/usr/bin:/sbin:/bin")


def restore_programs(container: Container) -> None:
    container.machine.run("rm", "-rf", f"{HANG}/{container.name}")
