"""A container's own cgroup, as its systemd must find it mounted: writable, and nothing above it.

It is looked up on the host's side, and mounted in the container's namespaces.
"""

import os

from torpor import detached, hierarchy, process, scope, systemd_mode
from torpor.errors import TorporError
from torpor.unstarted import Unstarted

_V1_MOUNT = systemd_mode.CGROUP_V1_PLACE  # on the host as in a container
_V1_DELEGATED = ("cgroup.procs", "tasks")
_ATTRIBUTES = detached.flags(systemd_mode.CGROUP_OPTIONS)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SystemdCgroup:
    """In the hierarchy that systemd keeps: cgroup v2, or name=systemd beside controllers of v1."""

    def __init__(self, container: Unstarted) -> None:
        """Raises TorporError, OSError."""
        self.is_unified = hierarchy.mount_point() == systemd_mode.CGROUP_PLACE
        self._pid = container.pid
        self._has_namespace = container.has_own("cgroup")
        self._path = self._path_of(self._pid)
        self._is_own = self._path != self._path_of(os.getpid())
        mount = systemd_mode.CGROUP_PLACE if self.is_unified else _V1_MOUNT
        self._directory = os.open(f"{mount}{self._path}", _DIRECTORY)

    def _path_of(self, pid: int) -> str:
        content = process.read_small(f"/proc/{pid}/cgroup")
        path = scope.path_in(content, is_v2=self.is_unified)
        if not path.startswith("/") or ".." in path.split("/"):
            raise TorporError(
                f"process {pid} is in no cgroup of systemd's that is seen here: {path or 'none'}",
                "systemd needs cgroup v2, or a hierarchy name=systemd at /sys/fs/cgroup/systemd.",
            )
        return path

    def hand_over(self, owner: tuple[int, int]) -> None:
        """Let a user of this host make cgroups below it, if nothing but the container is in it.

        Raises OSError.
        """
        if not (self._is_own and self._has_namespace):
            return
        scope.of_process(self._pid).hand_over(*owner)
        if not self.is_unified:
            for name in _V1_DELEGATED:
                os.chown(name, *owner, dir_fd=self._directory, follow_symlinks=False)
            os.fchown(self._directory, *owner)

    def mount(self) -> int:
        """A mount of it that lies nowhere yet, made in the container's namespaces.

        Raises TorporError where that is more than the container, OSError.
        """
        if not self._has_namespace:
            raise _too_much("it has no cgroup namespace of its own")
        if not self._is_own:
            raise _too_much(f"it has no cgroup of its own, but is in {self._path} with others")
        if self.is_unified:
            mount = detached.new("cgroup2", _ATTRIBUTES)
        else:
            mount = detached.new("cgroup", _ATTRIBUTES, name="systemd")
        if not os.path.samestat(os.fstat(mount), os.fstat(self._directory)):
            raise _too_much("its cgroup namespace begins at another cgroup than its own")
        return mount


def _too_much(problem: str) -> TorporError:
    return TorporError(
        f"{problem}: systemd would be given cgroups of the host",
        "podman: --cgroupns=private; runc: a namespace of type cgroup in linux.namespaces, "
        "without a path, and a linux.cgroupsPath.",
    )
