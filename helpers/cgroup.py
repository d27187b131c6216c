"""The unit's cgroup and the payload below it, on cgroup v2 (cgroup-v2.rst of the kernel)."""

import os
import select
import time

from torpor import hierarchy
from torpor.errors import RuntimeFailedError
from torpor.process import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOAD = "payload"
SUPERVISOR = "supervisor"

_SOON_S = 1.0


def mount_point() -> str:
    """Where cgroup v2 is mounted: at the top, or beside v1 controllers."""
    if path := hierarchy.mount_point():
        return path
    raise RuntimeFailedError(
        "no cgroup v2 hierarchy is mounted", "torpor needs cgroup v2: boot without legacy cgroups"
    )


def own_path() -> str:
    """The cgroup that this process is in, as /proc/self/cgroup names it."""
    for line in read_small("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:]
    raise RuntimeFailedError("this process is in no cgroup v2", "see cgroups(7)")


def own_unit() -> str:
    """The cgroup of the unit that this process belongs to.

    Helpers run in a subgroup of it (DelegateSubgroup= and systemd's .control).
    """
    path = own_path()
    head, _, tail = path.rpartition("/")
    return head if tail in (SUPERVISOR, ".control") else path


class Cgroup:
    """One cgroup directory."""

    __slots__ = ("name", "path")

    def __init__(self, name: str) -> None:
        self.name = name  # as /proc/PID/cgroup and cgroupsPath have it
        self.path = mount_point() + name

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def write(self, file: str, value: str) -> None:
        fd = os.open(f"{self.path}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def pids(self) -> list[int]:
        """Every process in it and below it."""
        found = []
        for directory, _, _ in os.walk(self.path):
            found += [int(pid) for pid in read_small(f"{directory}/cgroup.procs").split()]
        return found

    def freeze(self, timeout_s: "Callable[[], float]") -> None:
        """Stop every task in it; RuntimeFailedError when one does not stop in time.

        timeout_s is asked only when it takes longer than usual.
        """
        self.write("cgroup.freeze", "1")
        if self._wait_for("frozen 1", _SOON_S):
            return
        limit_s = timeout_s()
        if not self._wait_for("frozen 1", limit_s - _SOON_S):
            self.thaw()
            raise RuntimeFailedError(
                f"its processes did not freeze within {limit_s:.0f} s",
                "one of them hangs in the kernel: look for state D in: ps -eo pid,stat,wchan,args",
            )

    def thaw(self) -> None:
        self.write("cgroup.freeze", "0")

    def begin_kill(self) -> None:
        """SIGKILL every task in it, frozen ones too: none runs on, but they take time to go."""
        self.write("cgroup.kill", "1")

    def kill(self, timeout_s: float) -> None:
        """SIGKILL every task in it, frozen ones too, and wait until the last is gone."""
        if not self.exists():
            return
        self.begin_kill()
        if not self._wait_for("populated 0", timeout_s):
            raise RuntimeFailedError(
                f"its processes did not die within {timeout_s:.0f} s of SIGKILL",
                "one of them hangs in the kernel: look for state D in: ps -eo pid,stat,wchan,args",
            )

    def remove(self) -> None:
        """Remove it and the empty ones below it."""
        for directory, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass

    def memory_bytes(self) -> tuple[int, int]:
        """How much memory its tasks hold, without files in the page cache: their own, and shared.

        What is swapped out counts as shared. Where the memory controller is not there, summed
        from /proc without shared pages: too little rather than too much.
        """
        fields = dict(
            line.split(" ", 1)
            for line in read_small(f"{self.path}/memory.stat").splitlines()
            if " " in line
        )
        if "anon" in fields:
            swapped = read_small(f"{self.path}/memory.swap.current").strip() or "0"
            return int(fields["anon"]), int(fields.get("shmem", "0")) + int(swapped)
        pages = 0
        for pid in self.pids():
            statm = read_small(f"/proc/{pid}/statm").split()
            pages += int(statm[1]) - int(statm[2]) if len(statm) > 2 else 0
        return pages * os.sysconf("SC_PAGE_SIZE"), 0

    def _wait_for(self, event: str, timeout_s: float) -> bool:
        """Wait for a line of cgroup.events; the kernel signals a change with POLLPRI."""
        deadline = time.monotonic() + timeout_s
        fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLPRI)
            while event not in os.pread(fd, 4096, 0).decode().splitlines():
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                poller.poll(int(left_s * 1000) + 1)
            return True
        except OSError:  # removed meanwhile: nothing is in it
            return event == "populated 0"
        finally:
            os.close(fd)


def supervisor_of(unit_cgroup: str) -> Cgroup:
    """Where the helpers of a unit are, and its log pump."""
    return Cgroup(f"{unit_cgroup}/{SUPERVISOR}")


def payload_of(unit_cgroup: str) -> Cgroup:
    return Cgroup(f"{unit_cgroup}/{PAYLOAD}")
