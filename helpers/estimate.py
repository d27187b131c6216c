"""How much a dump of a running container will write, at least: what its images must hold."""

import os
import stat

from torpor import mounts, preparation
from torpor.cgroup import Cgroup
from torpor.container import Container

_DELETED = " (deleted)"
_BLOCK_BYTES = 512  # of st_blocks


def size_bytes(container: Container, cgroup: Cgroup, pids: list[int]) -> int:
    """Too little rather than too much: who has room for it must not be refused."""
    anonymous, shared = cgroup.memory_bytes()
    in_files = _tmpfs_bytes(container, pids[0]) if pids else 0
    # With a memory controller what is in a tmpfs counts as shared memory too, unless others
    # brought it in, as a restore does.
    return anonymous + max(shared, in_files) + _ghost_bytes(pids)


def _tmpfs_bytes(container: Container, pid: int) -> int:
    """What is in the container's own file systems in memory, and in its /dev/shm.

    Those that the host has mounted too are not dumped.
    """
    shm = preparation.shm_path(container)
    hosts = {fields[2] for fields in _mounts("self")}
    places = {
        fields[2]: f"/proc/{pid}/root{fields[4]}"
        for fields in _mounts(str(pid))
        if "tmpfs" in fields[fields.index("-") + 1 :][:1] and fields[2] not in hosts
    }
    return sum(map(_used_bytes, [*places.values(), *([shm] if os.path.ismount(shm) else [])]))


def _mounts(process_id: str) -> list[list[str]]:
    """The fields of each mount; none of a process that is gone."""
    try:
        return [*mounts.table(process_id)]
    except OSError:
        return []


def _used_bytes(place: str) -> int:
    try:
        disk = os.statvfs(place)
    except OSError:
        return 0
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def _ghost_bytes(pids: list[int]) -> int:
    """Files that are open and have no name any more travel in the images.

    Not those in memory, which are counted as that.
    """
    ghosts: dict[tuple[int, int], int] = {}
    for pid in pids:
        for fd in _descriptors(pid):
            try:
                if not os.readlink(fd).endswith(_DELETED):
                    continue  # and so a file system that hangs is not asked
                found = os.stat(fd)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and not found.st_nlink and os.major(found.st_dev):
                ghosts[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK_BYTES
    return sum(ghosts.values())


def _descriptors(pid: int) -> list[str]:
    directory = f"/proc/{pid}/fd"
    try:
        return [f"{directory}/{fd}" for fd in os.listdir(directory)]
    except OSError:
        return []
