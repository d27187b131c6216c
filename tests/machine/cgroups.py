"""A cgroup of its own for each machine, in every hierarchy of the host.

systemd-nspawn --keep-unit builds its payload's tree where it was started: two machines started
in one cgroup would share one. On a systemd host a scope is that cgroup; elsewhere it is a
directory in the version 2 hierarchy and, where mounted, in name=systemd.

In the hierarchies of version 1 controllers the machine has no use for a cgroup, but CRIU has: it
dumps what is below the cgroup of each task, and a restore makes again what has gone since. In
one that others use too, those would be theirs.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

# Run by sh before the command: join the cgroups named first, up to "--".
JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'
REMOVE_TIMEOUT_S = 5.0


def systemd_is_pid_1() -> bool:
    """What sd_booted(3) says."""
    return Path("/run/systemd/system").is_dir()


def hierarchies(*, without_systemds: bool = False) -> list[Path]:
    """Mount points of all hierarchies, or of those in which systemd makes no cgroups for us."""
    found: dict[tuple[str, str], Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        systemds = kind == "cgroup2" or "name=systemd" in options.split(",")
        if kind in ("cgroup", "cgroup2") and not (systemds and without_systemds):
            found.setdefault((kind, options), Path(before.split()[4]))
    return list(found.values())


def of_machine(name: str) -> list[Path]:
    """The cgroup directories that belong to a machine of this name, where they exist."""
    places = [root / parent for root in hierarchies() for parent in ("", "system.slice")]
    return [path for place in places for path in place.glob(f"{name}*") if path.is_dir()]


def make(directory: Path) -> None:
    """Make a cgroup that processes can join."""
    directory.mkdir(exist_ok=True)
    # Nothing may join a new one of version 1 (cpuset(7)) before it has processors and memory.
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (directory / "tasks").exists() and (directory / file).exists():
            (directory / file).write_text((directory.parent / file).read_text())


def command_in_own_cgroup(name: str, boot: int, argv: Sequence[str]) -> list[str]:
    """The command line that runs argv in a cgroup of its own; the process id stays."""
    scope = []
    if systemd_is_pid_1():
        scope = ["systemd-run", "--quiet", "--scope", "--collect", "--slice=system.slice"]
        # A number per boot: the scope of the boot before may not have been collected yet.
        scope += [f"--unit={name}-{boot}", "--property=Delegate=yes", "--"]
    directories = [root / name for root in hierarchies(without_systemds=bool(scope))]
    for directory in directories:
        make(directory)
    return [*scope, "/bin/sh", "-c", JOIN, "sh", *map(str, directories), "--", *argv]


def kill(name: str) -> None:
    """SIGKILL everything in a machine's cgroups at once; does not wait."""
    for directory in of_machine(name):
        with contextlib.suppress(OSError):  # version 1 has no such file
            (directory / "cgroup.kill").write_text("1")


def remove_tree(top: Path) -> None:
    """Remove a cgroup and those below it, as far as they are empty."""
    if top.suffix == ".scope":
        # systemd's own: it would wait for ever for a cgroup that vanished to become empty.
        subprocess.run(["systemctl", "stop", top.name], capture_output=True, check=False)
        return
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):  # not all are dead yet
            Path(directory).rmdir()


def remove(name: str) -> None:
    """Kill what is left in a machine's cgroups and remove them, deepest first.

    A child of the caller has to be reaped before: in version 1 a zombie keeps its cgroup.
    """
    kill(name)
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while (left := of_machine(name)) and time.monotonic() < deadline:
        for top in left:
            remove_tree(top)
        time.sleep(0.01)
