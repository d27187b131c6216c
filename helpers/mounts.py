"""Mounts on the host that a killed restore leaves behind."""

import os

from torpor import lock, process

# CRIU assembles a container's mounts on a tmpfs there (create_mnt_roots in criu/mount.c).
_CRIU_DIRECTORY = "/tmp"
_CRIU_PREFIX = ".criu.mntns."


def is_mounted(path: str) -> bool:
    """Whether something is mounted at exactly this path (proc_pid_mountinfo(5))."""
    with open(
        "/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n"
    ) as table:
        return any(line.split(" ")[4] == path for line in table)


def below(directory: str) -> list[str]:
    """The places below a directory where something is mounted, the deepest first.

    The directory's own path must hold nothing that proc_pid_mountinfo(5) escapes.
    """
    prefix = f"{directory}/"
    with open(
        "/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n"
    ) as table:
        places = {line.split(" ")[4] for line in table}
    found = [place for place in places if place.startswith(prefix)]
    return sorted(found, key=lambda place: (-place.count("/"), place))


def detach(path: str, most: int = 16) -> bool:
    """Unmount lazily whatever lies at a path, layer by layer; False when something stays."""
    for _ in range(most):
        if not is_mounted(path):
            return True
        process.spawn(["umount", "--lazy", "--no-canonicalize", path]).wait()
    return not is_mounted(path)


def sweep_criu() -> None:
    """Remove what killed restores left, unless one is under way that may be using it.

    Whoever restores calls this at its end, so the last of several sweeps for all.
    """
    if _criu_leftovers():
        lock.while_nothing_restores(_sweep)


def _criu_leftovers() -> list[str]:
    try:
        names = os.listdir(_CRIU_DIRECTORY)
    except OSError:
        return []
    return [f"{_CRIU_DIRECTORY}/{name}" for name in names if name.startswith(_CRIU_PREFIX)]


def _sweep() -> None:
    if process.any_named("criu"):
        return  # somebody else's restore
    for path in _criu_leftovers():
        # /tmp belongs to everybody: root's directories only, no link is followed, and what
        # somebody removes meanwhile is no fault.
        try:
            if os.lstat(path).st_uid == 0 and detach(path):
                os.rmdir(path)
        except OSError:
            pass
