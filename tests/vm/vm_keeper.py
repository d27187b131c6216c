#!/usr/bin/python3
"""vm_keeper.py DIRECTORY COMMAND... - keep one virtual machine, and clean up after it.

A process of its own between a test run and qemu, because it has to outlive the run: however
that ends, the pipe on standard input closes, and then qemu is killed and the directory removed.
The directory's lock, held by whoever started us, stays ours through an inherited descriptor.

Lines understood on standard input:
    boot    start qemu, when it has ended
    crash   kill qemu, which is a power cut, and start it again
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path


def start(directory: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """Run qemu in the directory; what it says itself goes to a log, and it ends when we do."""
    with (directory / "qemu.log").open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def keep(directory: Path, command: list[str]) -> None:
    """Do as the run says until it ends."""
    qemu: subprocess.Popen[bytes] | None = None
    for line in sys.stdin:
        if qemu:
            if line.strip() == "crash":
                qemu.kill()
            qemu.wait()
        qemu = start(directory, command)
    if qemu:
        qemu.kill()
        qemu.wait()


def main() -> None:
    """Keep the machine, and leave nothing of it."""
    directory, command = Path(sys.argv[1]), sys.argv[2:]
    # Ours to end is the run that holds the other end of the pipe, not whoever presses Ctrl-C.
    # (A handler, since SIG_IGN would be inherited by qemu.)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        keep(directory, command)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
