"""A container through its life: started, put to sleep and woken, ended, and nothing left of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from containers import Container
from machine import Machine

INIT = ["/sbin/init"]
LOOP = ["/bin/sh", "-c", "while :; do sleep 0.1; done"]

_SETTLED = """
for _ in $(seq 600); do
    systemctl is-system-running | grep -qvE 'initializing|starting|offline' && break
    sleep 0.1
done
systemctl is-system-running
systemctl --failed --no-legend
"""
_PLACES = '-e "^/run/torpor/$1" -e "^/var/lib/torpor/$1/"'
_LEFT = f'findmnt -rno TARGET | grep {_PLACES}; ls -d "/run/torpor/$1" 2>/dev/null; true'


@contextmanager
def running(machine: Machine, name: str, **keys: object) -> Iterator[Container]:
    """A started container that is killed in the end, whereupon nothing of it may be left.

    It loops, unless a command is given; an empty one stands for the image's.
    """
    wanted = {"command": LOOP, **keys}
    if not wanted["command"]:
        del wanted["command"]
    container = Container(machine, name).define(**wanted)
    try:
        container.start()
        yield container
    finally:
        container.remove()
    assert left(container) == ""


def cycle(container: Container) -> None:
    """Put it to sleep and wake it; while it sleeps nothing of it is mounted."""
    container.stop()
    assert container.state() == "READY", container.journal()
    assert left(container) == ""
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()


def left(container: Container) -> str:
    """What is mounted or made for it in the machine: paths, a line each."""
    return container.machine.run("sh", "-c", _LEFT, "sh", container.name).stdout


def within(container: Container, script: str, *, check: bool = True) -> str:
    """What a busybox shell prints that enters the running container."""
    enter = ("nsenter", "--target", container.property("MainPID"), "--all", "--root", "--wd=/")
    return container.machine.run(*enter, "/bin/busybox", "sh", "-c", script, check=check).stdout


def enter(container: Container, script: str, *, check: bool = True) -> str:
    """What a shell of the container's own prints in it, without the last line break."""
    words = ("nsenter", "--target", container.property("MainPID"), "--all", "--root", "--wd=/")
    return container.machine.run(*words, "/bin/sh", "-c", script, check=check).stdout.strip()


def settled(container: Container) -> str:
    """What the systemd in it says of itself when it has nothing left to start: "running"."""
    return enter(container, _SETTLED, check=False)


def idle(container: Container) -> bool:
    """Whether no process of it runs all the time: CPU time of each in two seconds."""
    script = "cat /proc/[0-9]*/stat | awk '{print $1, $14 + $15}'"
    before = dict(line.split() for line in enter(container, script).splitlines())
    time.sleep(2)
    after = dict(line.split() for line in enter(container, script).splitlines())
    return all(int(after[pid]) - int(ticks) < 100 for pid, ticks in before.items() if pid in after)


def woke_s(container: Container) -> int:
    """When its unit last began to start, in seconds since 1970."""
    show = ("systemctl", "show", "--timestamp=unix", "-P", "InactiveExitTimestamp")
    return int(container.machine.run(*show, container.unit).stdout.strip().lstrip("@"))
