"""The place of somebody else's container in the cgroup tree: its slice, its unit, its owner.

A runtime that uses systemd runs a container in a scope: runc in /SLICES/PREFIX-ID.scope, podman in
/SLICES/libpod-ID.scope, with crun in a cgroup `container` below it.
"""

import errno
import os

from torpor import hierarchy
from torpor.errors import RuntimeFailedError, TorporError

TYPE_CHECKING = False  # typing is not imported
if TYPE_CHECKING:
    from collections.abc import Iterable

    from torpor.resources import Property

_LIMIT = 1 << 16  # characters
_UNIT_SUFFIXES = (".scope", ".service")
# systemd marks a unit's cgroup with these (its core/cgroup.c).
_DELEGATION_MARKS = ("trusted.delegate", "user.delegate")


class Place:
    """Where a container's cgroup is, as /proc/PID/cgroup has it."""

    __slots__ = ("_mount", "path", "slices", "unit")

    def __init__(self, path: str, mount: str) -> None:
        self._mount = mount  # of cgroup v2, empty on a host without it
        self.path = path
        parts = path.split("/")[1:]
        depth = next((at for at, part in enumerate(parts) if part[-6:] != ".slice"), len(parts))
        self.slices = "".join(f"/{part}" for part in parts[:depth])  # empty at the top
        # What is below a scope or a service is not systemd's, whatever its name is.
        below = parts[depth] if depth < len(parts) else ""
        self.unit = below if below.endswith(_UNIT_SUFFIXES) else ""  # empty where it has none

    def is_in(self, slice: str) -> bool:
        """Whether it lies in a slice, or in one below that."""
        wanted = hierarchy.slice_path(slice)
        return wanted == "/" or (wanted != "" and f"{self.slices}/".startswith(f"{wanted}/"))

    def has_delegation(self) -> bool:
        """Whether systemd leaves what is below the unit alone: Delegate=yes. Raises OSError."""
        directory = f"{self._mount}{self.slices}/{self.unit}"
        return any(_has_mark(directory, mark) for mark in _DELEGATION_MARKS)

    def hand_over(self, uid: int, gid: int) -> bool:
        """Let the host's uid:gid make cgroups below it (cgroup-v2.rst, "Delegation").

        Its limits stay as they are: their files are not handed over, nor is any cgroup above it.
        False where the runtime has done it, or where there is no cgroup v2. Raises OSError.
        """
        if not self._mount:
            return False
        return hierarchy.delegate(self._mount + self.path, uid, gid)


def of_process(pid: int) -> Place:
    """Raises RuntimeFailedError where the process is gone, or outside of what can be seen."""
    mount = hierarchy.mount_point()
    path = path_in(_read(f"/proc/{pid}/cgroup"), is_v2=bool(mount))
    if not path.startswith("/") or ".." in path.split("/"):
        raise RuntimeFailedError(
            f"process {pid} is in no cgroup that can be seen here: {path or 'none'}",
            "Run the container where systemd runs, and in its cgroup namespace.",
        )
    return Place(path, mount)


def path_in(content: str, *, is_v2: bool) -> str:
    """The path in systemd's hierarchy that a /proc/PID/cgroup has, empty for none (cgroups(7)).

    That is cgroup v2, beside controllers of v1 too, and name=systemd where v2 is not mounted.
    """
    for line in content.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number, controllers) == ("0", "") if is_v2 else controllers == "name=systemd":
            return path
    return ""


def host_root(pid: int) -> tuple[int, int] | None:
    """Which uid and gid of this host a container's root is; None without a user namespace.

    None, too, where the user namespace has no root (user_namespaces(7)).
    """
    try:
        if os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
            return None
    except FileNotFoundError:
        return None  # a kernel without user namespaces, or gone: then the runtime says so
    uid = _outside(_read(f"/proc/{pid}/uid_map"))
    gid = _outside(_read(f"/proc/{pid}/gid_map"))
    return None if uid is None or gid is None else (uid, gid)


def _outside(content: str) -> int | None:
    """What 0 is outside: each line is the first id inside, the first outside, and how many."""
    for line in content.splitlines():
        inside, outside, _ = line.split()
        if inside == "0":
            return int(outside)
    return None


def set_properties(unit: str, properties: "Iterable[Property]") -> None:
    """Set what org.freedesktop.systemd1(5) calls properties, until the unit is gone.

    Raises TorporError, with systemd's words.
    """
    from pystemd.systemd1 import Manager

    name = ""
    try:
        with Manager() as manager:
            for name, signature, value in properties:
                # pystemd knows the signatures of some properties only.
                given = (name.encode(), signature.encode(), value)
                manager.Manager.SetUnitProperties(unit.encode(), True, {"_custom": given})
    except Exception as error:  # pystemd's own errors derive from Exception itself
        raise TorporError(
            f"systemd did not set {name or 'the limits'} of {unit}: {error}",
            f"Try it by hand: systemctl set-property --runtime {unit} NAME=VALUE",
        ) from error


def _has_mark(directory: str, mark: str) -> bool:
    try:
        return os.getxattr(directory, mark) == b"1"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
            return False
        raise


def _read(path: str) -> str:
    """A small file of /proc or /sys, empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LIMIT)
    except OSError:
        return ""
