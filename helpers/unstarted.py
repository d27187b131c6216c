"""A container that a runtime has made, and whose program it has not started yet.

At the stage createRuntime (config.md of the OCI runtime specification) its process is in all of its
namespaces, its file systems are mounted, and the host's are still what surrounds them: runc and
crun change the root directory only later. That makes it possible to tell the right moment from any
other, and somebody else's process from the container's.
"""

import os
import sys

from torpor import detached, mountinfo, scope
from torpor.errors import TorporError

_KINDS = ("mnt", "cgroup", "user")
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Unstarted:
    """The process that becomes a container's PID 1, and its root file system."""

    def __init__(self, pid: int, root: str) -> None:
        """root is the path of its root file system. Raises TorporError, OSError."""
        self.pid = pid
        self._root = root
        self._namespaces = {kind: _namespace(pid, kind) for kind in _KINDS}
        self._process = os.open("/proc/self", _PATH)
        if not self.has_own("mnt"):
            raise _not_it(f"process {pid} is in the host's mount namespace")
        if _pid_inside(pid) != 1:
            raise TorporError(
                f"process {pid} is not PID 1 of a pid namespace, as systemd must be",
                "Give the container a pid namespace of its own.",
            )

    def has_own(self, kind: str) -> bool:
        """Whether its namespace of a kind is another than that of this process."""
        own = os.stat(f"/proc/self/ns/{kind}")
        return not os.path.samestat(os.fstat(self._namespaces[kind]), own)

    def enter(self) -> None:
        """Become its root, in its namespaces, with its root file system as working directory.

        This process cannot go back, and imports nothing any more: what is found at a path is the
        container's from now on. Raises TorporError, OSError.
        """
        expected = os.stat(self._root)
        is_mapped = self._is_mapped()
        sys.meta_path.clear()
        for kind in ("cgroup", "mnt"):
            os.setns(self._namespaces[kind], 0)
        if not os.path.samestat(os.stat("/proc/self"), os.fstat(self._process)):
            raise _not_it(f"process {self.pid} is not surrounded by the host's files")
        root = os.open(self._root, _PATH)
        if not (os.path.samestat(os.fstat(root), expected) and detached.is_mounted(root)):
            raise _not_it(f"process {self.pid} does not have {self._root} before it")
        if is_mapped:
            os.setns(self._namespaces["user"], os.CLONE_NEWUSER)
            _become_root()
        os.fchdir(root)
        os.close(root)

    def _is_mapped(self) -> bool:
        """Whether it has a user namespace of its own. Raises TorporError for one without a root."""
        if not self.has_own("user"):
            return False
        if scope.host_root(self.pid) is None:
            raise TorporError(
                "its user namespace has no root", "Map its uid and gid 0: systemd runs as root."
            )
        return True

    def mounts(self) -> list[list[str]]:
        """The fields of each mount in the namespace that this process is in now (mountinfo)."""
        fd = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._process)
        with open(fd, encoding="utf-8", errors="surrogateescape", newline="\n") as table:
            return [mountinfo.fields(line) for line in table]


def _namespace(pid: int, kind: str) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _not_it(f"there is no process {pid}") from None


def _pid_inside(pid: int) -> int:
    """Its process id in the innermost namespace, 0 where it cannot be told (proc_pid_status(5))."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        words = next((line.split() for line in status if line.startswith("NSpid:")), ["0"])
    return int(words[-1])


def _become_root() -> None:
    try:
        os.setgroups([])
    except PermissionError:
        pass  # one that an ordinary user made (user_namespaces(7))
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _not_it(problem: str) -> TorporError:
    return TorporError(
        f"{problem}, so it is no container that is being made",
        "This hook belongs to the stage createRuntime: see torpor-hooks(7).",
    )
