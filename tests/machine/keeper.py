#!/usr/bin/python3
"""keeper.py DIRECTORY [NSPAWN-OPTION...] - keep one machine, and clean up after it.

A process of its own between a test run and systemd-nspawn, because it has to outlive the run:
however that ends, by SIGKILL too, the pipe on standard input closes, and then the machine is
killed and its cgroup, its mounts and its directory are removed. PR_SET_PDEATHSIG alone would not
do: it kills systemd-nspawn, whose payload may live on, and it fires when a mere *thread* ends.
The directory's lock, held by whoever started us, stays ours through an inherited descriptor.

Lines understood on standard input:
    boot    start the machine, when it is off
    crash   kill everything in it at once, and start it again on the same root
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cgroups

# What systemd-nspawn exits with when its payload reboots and --keep-unit leaves that to us.
EXIT_REBOOT = 133

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    # CRIU suspends seccomp through ptrace, and refuses when it is itself confined.
    "SYSTEMD_SECCOMP": "0",
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
}

# What systemd-nspawn keeps on the host per machine, and leaves behind when it is killed: by
# the machine's name, and a lock by its root's inode.
NSPAWN_RUNTIME = (Path("/run/systemd/nspawn/propagate"), Path("/run/systemd/nspawn/unix-export"))
NSPAWN_LOCKS = Path("/run/systemd/nspawn/locks")


def nspawn_command(directory: Path, options: list[str]) -> list[str]:
    """How the machine in a directory is booted."""
    return [
        *("setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "--quiet"),
        *("--register=no", "--keep-unit", "--boot", "--capability=all", "--private-network"),
        *(f"--machine={directory.name}", f"--directory={directory}/root", *options),
    ]


def start(directory: Path, boot: int, options: list[str]) -> subprocess.Popen[bytes]:
    """Boot the machine; its console goes to a log."""
    command = nspawn_command(directory, options)
    with (directory / "console.log").open("ab") as console:
        return subprocess.Popen(
            cgroups.command_in_own_cgroup(directory.name, boot, command),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )


def unmount_below(directory: Path) -> None:
    """Detach every mount at or below a directory; none is expected."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4]) for line in mounts]
    for point in reversed(points):
        if point == directory or directory in point.parents:
            subprocess.run(["umount", "--lazy", point], check=False)


def forget_nspawn(directory: Path) -> None:
    """Remove what a killed systemd-nspawn left on the host; it refuses to start over a mount."""
    for runtime in NSPAWN_RUNTIME:
        unmount_below(runtime / directory.name)
        with contextlib.suppress(OSError):
            shutil.rmtree(runtime / directory.name)
    with contextlib.suppress(OSError):
        root = (directory / "root").stat()
        (NSPAWN_LOCKS / f"inode-{root.st_dev}:{root.st_ino}").unlink()


def kill(directory: Path, nspawn: subprocess.Popen[bytes] | None) -> None:
    """End the machine as a power failure ends it: everything in it at once."""
    cgroups.kill(directory.name)
    if nspawn:
        nspawn.kill()  # it may not have joined its cgroup yet
        nspawn.wait()
    cgroups.remove(directory.name)
    forget_nspawn(directory)


def next_event(nspawn: subprocess.Popen[bytes] | None) -> str:
    """Wait for a line ("" at the end of the run) or for the machine to go ("reboot", "off")."""
    fds = [0]
    if nspawn:
        fds.append(os.pidfd_open(nspawn.pid))
    ready, _, _ = select.select(fds, [], [])
    for fd in fds[1:]:
        os.close(fd)
    if 0 in ready or not nspawn:
        return os.read(0, 64).decode().strip()
    return "reboot" if nspawn.wait() == EXIT_REBOOT else "off"


def keep(directory: Path, options: list[str]) -> None:
    """Do as the run says until it ends."""
    nspawn: subprocess.Popen[bytes] | None = None
    boots = 0
    while event := next_event(nspawn):
        if event == "crash":
            kill(directory, nspawn)
        elif event == "off":
            nspawn = None
        if event in ("crash", "reboot") or (event == "boot" and not nspawn):
            boots += 1
            nspawn = start(directory, boots, options)
    kill(directory, nspawn)


def sweep(directory: Path) -> None:
    """Remove everything a machine consists of, its directory last."""
    cgroups.remove(directory.name)
    forget_nspawn(directory)
    unmount_below(directory)
    # Again when that failed: the copy of the image may have been under way when the run died.
    for _ in range(3):
        done = subprocess.run(["rm", "-rf", "--one-file-system", directory], check=False)
        if done.returncode == 0:
            break


def main() -> None:
    """Keep the machine, and leave nothing of it."""
    directory, *options = sys.argv[1:]
    # Ours to end is the run that holds the other end of the pipe, not whoever presses Ctrl-C.
    # (A handler, since SIG_IGN would be inherited by the machine.)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        keep(Path(directory), options)
    finally:
        sweep(Path(directory))


if __name__ == "__main__":
    main()
