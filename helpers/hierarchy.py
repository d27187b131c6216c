"""The cgroup tree that systemd keeps: where it is mounted, where a slice lies in it, whose it is.

For hooks too, so with os alone.
"""

import os

_V2_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # the second beside v1 controllers
_ROOT_SLICE = "-.slice"
# What a manager of a cgroup may change in it: kernels from 4.15 on name it there themselves.
_DELEGATE_LIST = "/sys/kernel/cgroup/delegate"
_DELEGATED = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n"
_LIST_LIMIT_BYTES = 1 << 16


def mount_point() -> str:
    """Where cgroup v2 is mounted, empty where it is not."""
    return next((path for path in _V2_MOUNTS if os.path.exists(f"{path}/cgroup.controllers")), "")


def slice_path(name: str) -> str:
    """The cgroup path of a slice: a-b.slice lies at /a.slice/a-b.slice (systemd.slice(5)).

    Empty for a name with which nothing can lie there.
    """
    if name == _ROOT_SLICE:
        return "/"
    parts = name.removesuffix(".slice").split("-")
    if not name.endswith(".slice") or "" in parts or "/" in name:
        return ""
    return "".join(f"/{'-'.join(parts[: end + 1])}.slice" for end in range(len(parts)))


def delegate(path: str, uid: int, gid: int, *, again: bool = False) -> bool:
    """Let uid:gid make cgroups below the one at path (cgroup-v2.rst, "Delegation").

    Its limits stay as they are: their files are not given away, nor is any cgroup above it. False
    where it is somebody else's already, unless again. Raises OSError.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not again and os.fstat(directory).st_uid != os.geteuid():
            return False
        for name in _delegated().split():
            try:
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                pass  # of a controller that is not there
        os.fchown(directory, uid, gid)  # last: it says that all is done
    finally:
        os.close(directory)
    return True


def _delegated() -> str:
    try:
        fd = os.open(_DELEGATE_LIST, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _DELEGATED
    try:
        return os.read(fd, _LIST_LIMIT_BYTES).decode("ascii", "replace")
    finally:
        os.close(fd)
