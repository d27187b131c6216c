"""The cgroup tree that systemd keeps: where it is mounted, and where a slice lies in it.

For hooks too, so with os alone.
"""

import os

_V2_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # the second beside v1 controllers
_ROOT_SLICE = "-.slice"


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
