"""A container through its life: started, put to sleep and woken, ended, and nothing left of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from containers import Config, Container
from machine import Machine

LOOP = ["/bin/sh", "-c", "while :; do sleep 0.1; done"]

_LEFT = 'findmnt -rno TARGET | grep "^/run/torpor/$1"; ls -d "/run/torpor/$1" 2>/dev/null; true'


def without_cgroup_mount(config: Config) -> None:
    """Change a bundle that is to sleep in a user namespace.

    On a host with cgroup v1 the machine tells CRIU to leave cgroups alone, and then it cannot
    mount them for another user.
    """
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]


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
