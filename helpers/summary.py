"""What a start and a stop need to know of a configuration, so that they need not read it."""

import os

from torpor import facts, mount_list, namespaces, signals, systemd_mode
from torpor.container import RUN_ROOT
from torpor.oci_config import Config


def of(config: Config, root: str, machine_id: str = "") -> list[tuple[str, str]]:
    """Pairs for the record of a rendering. config is well-formed, root its root as it is now.

    machine_id is what its systemd takes for it, where that is known.
    """
    env = (config.get("process") or {}).get("env") or []
    return [
        ("stop-signal", str(_stop_signal(config))),
        ("owner", _owner(config)),
        ("machine-id", machine_id or systemd_mode.told_id(env)),
        *(("sync", path) for path in _writable_paths(config)),
        *(("obstacle", text) for text in _obstacles(config, root)),
    ]


def _stop_signal(config: Config) -> int:
    """The signal for a real stop, from the annotation that image builders set; SIGTERM else."""
    text = str((config.get("annotations") or {}).get("org.opencontainers.image.stopSignal", "15"))
    return signals.parse(text) or 15


def _owner(config: Config) -> str:
    uid, gid = facts.owner(config)
    return f"{uid}:{gid}"


def _writable_paths(config: Config) -> list[str]:
    """The rootfs and the bind sources that the container may write, but for what is in memory."""
    paths = [] if config["root"].get("readonly") else [config["root"]["path"]]
    for mount in config.get("mounts") or []:
        options = mount.get("options") or []
        if mount_list.is_bind(mount) and "ro" not in options:
            paths.append(mount.get("source") or "")
    return [path for path in paths if os.path.isabs(path) and not _is_in_memory(path)]


def _is_in_memory(path: str) -> bool:
    parts = path.removeprefix(f"{RUN_ROOT}/").split("/")
    ours = path.startswith(f"{RUN_ROOT}/") and parts[1:2] in (["shm"], ["files"])
    return ours or path == "/dev/shm"


def _obstacles(config: Config, root: str) -> list[str]:
    """What would keep it from waking, and what to do: two words with a tab between."""
    found = []
    if config["root"].get("readonly") and not os.path.isdir(f"{root}/tmp"):
        # CRIU makes a directory there to assemble the mounts on (cr_pivot_root in criu/mount.c).
        problem = "its rootfs is read-only and has no /tmp, in which CRIU could restore it"
        found.append(f"{problem}\tmake that directory in the rootfs")
    joined = namespaces.obstacle((config.get("linux") or {}).get("namespaces") or [])
    return [*found, *([f"{joined}\tuse namespaces of its own or the host's"] if joined else [])]
