"""Containers that kills and faults are tried on, and the programs that do it inside a machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from containers import Container, make_busybox
from machine import Machine

HERE = Path(__file__).resolve().parent
# Where a machine has the programs.
PROGRAM = "/srv/trials"
_PARTS = (
    "subject.py",
    "random_kills.py",
    "fault_points.py",
    "races.py",
    "cycles.py",
    "after_cut.py",
)
# Each number is on disk before the next one is thought of.
COUNT = """
trap 'exit 0' TERM
echo begin >>/own/journal
i=0; while :; do i=$((i+1)); echo $i >>/own/journal; sleep 0.02; done
"""


def install(machine: Machine) -> None:
    """Bring the programs into a machine."""
    for part in _PARTS:
        machine.write(f"{PROGRAM}/{part}", (HERE / part).read_text())


@contextmanager
def running(machine: Machine, kind: str, count: int) -> Iterator[list[Container]]:
    """So many containers that run, and the programs to try something on them."""
    install(machine)
    made = [define(machine, f"{kind}{number}") for number in range(count)]
    for container in made:
        # When its helper is dead, systemd gives the start, and the container, this long.
        container.drop_in("timeout", "TimeoutStartSec=6s\nTimeoutStopSec=3s")
        container.start()
    yield made
    for container in made:
        remove(container)


def remove(container: Container) -> None:
    """Remove a container, its journal and its root file system."""
    container.remove()
    container.machine.run("rm", "-rf", f"/srv/{container.name}")


def define(machine: Machine, name: str, image: str = "", **keys: object) -> Container:
    """A container with a journal at /srv/NAME/journal, and a root file system of its own.

    image: have an overlay over it rather than write to it.
    """
    place = f"/srv/{name}"
    rootfs = make_busybox(machine, f"{place}/rootfs")
    machine.run("mkdir", "-p", f"{rootfs}/own", f"{rootfs}/kept", f"{place}/own")
    machine.write(f"{place}/own/journal", "")
    machine.run("ln", "-sfn", "own/journal", f"{place}/journal")
    own_mounts = [f"{place}/own:/own"]
    root = {"image": rootfs} if image else {"rootfs": rootfs}
    return Container(machine, name).define(
        **root, command=["/bin/sh", "-c", COUNT], mounts=own_mounts, **keys
    )
