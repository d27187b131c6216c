"""Telling from outside that a program runs, the same way whoever started it."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence

_TIMEOUT_S = 120.0


class BenchError(Exception):
    """A measurement that could not be made."""


def run(argv: Sequence[str], *, check: bool = True) -> str:
    """A command's output. Raises BenchError."""
    # A file, as conmon keeps what it was given open.
    with open("/run/bench-output", "w+", encoding="utf-8") as output:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
        )
        output.seek(0)
        text = output.read()
    if check and done.returncode:
        raise BenchError(f"{' '.join(argv)}: status {done.returncode}\n{text[-2000:]}")
    return text


def milliseconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return (time.perf_counter() - began_s) * 1e3


def find(comm: str) -> int:
    """The process of this name, 0 while there is none."""
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int, reverse=True):
        if _read(f"/proc/{pid}/comm") == comm:
            return int(pid)
    return 0


def processes_in(cgroup: str) -> list[int]:
    """Those in the cgroups whose names end like this."""
    ends = f"/{cgroup}"
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in pids if _read(f"/proc/{pid}/cgroup").endswith(ends)]


def switches(pid: int) -> int:
    """How often the process has slept, which one that is frozen or stopped does not."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def until_running(comm: str) -> int:
    """Wait until a program of this name has run on; its pid. Raises BenchError."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    pid = before = 0
    while time.monotonic() < deadline_s:
        pid = pid or find(comm)
        now = switches(pid) if pid else 0
        if before and now > before:
            return pid
        before = before or now
        time.sleep(0.0005)
    raise BenchError(f"{comm} does not run")


def until_gone(comm: str) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while find(comm):
        if time.monotonic() > deadline_s:
            raise BenchError(f"{comm} does not end")
        time.sleep(0.001)


def pss_kib(pid: int) -> int:
    """A process's proportional set size."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
