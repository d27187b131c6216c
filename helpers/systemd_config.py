"""What a configuration holds beyond any other's so that systemd boots, sleeps and wakes in it."""

import errno

from torpor import capabilities, mount_list, systemd_mode
from torpor.definition import Definition
from torpor.errors import DefinitionError
from torpor.oci_config import Config, objects, section

# CAP_SYS_BOOT is about the container's own pid namespace, but for these (kexec_load(2)), and them
# a user namespace's root cannot use anyway.
NO_KEXEC: Config = {
    "names": ["kexec_load", "kexec_file_load"],
    "action": "SCMP_ACT_ERRNO",
    "errnoRet": errno.EPERM,
}
_OWN_KINDS = {"pid": "systemd must be PID 1", "cgroup": "it would hold the host's cgroup tree"}


def require_namespaces(definition: Definition, config: Config) -> None:
    """Raises DefinitionError unless the container has namespaces of its own where it must."""
    entries = objects(section(config, "linux"), "namespaces")
    own = {entry.get("type") for entry in entries if not entry.get("path")}
    for kind, reason in _OWN_KINDS.items():
        if kind not in own:
            key = "namespaces" if kind in definition.namespaces else _key(definition)
            raise definition.error(
                key,
                f"systemd needs a {kind} namespace of the container's own: {reason}",
                f"Write namespaces: {{{kind}: own}}, or systemd: never.",
            )


def blame(definition: Definition, problem: str, hint: str) -> DefinitionError:
    """The error for a root file system in which systemd cannot boot."""
    return definition.error(
        _key(definition), f"systemd is to boot in it, but {problem}", f"{hint} Or: systemd: never."
    )


def _key(definition: Definition) -> str:
    """Where the definition says that systemd boots."""
    keys = ("systemd", "image", "rootfs", "bundle")
    return next(key for key in keys if key in definition.lines)


def environment(machine_id: str) -> list[tuple[str, str]]:
    """Variables of its PID 1."""
    parts = (machine_id[:8], machine_id[8:12], machine_id[12:16], machine_id[16:20])
    return [
        ("container", "torpor"),
        ("container_uuid", "-".join((*parts, machine_id[20:]))),
        *systemd_mode.NO_WATCHES,
    ]


def capability_names(definition: Definition, *, is_mapped: bool) -> tuple[str, ...]:
    """Those that systemd has where nobody says otherwise."""
    if is_mapped or definition.seccomp is None:
        return capabilities.FOR_SYSTEMD
    # Somebody else's filter need not stop what ours would.
    return tuple(name for name in capabilities.FOR_SYSTEMD if name != "CAP_SYS_BOOT")


def mounts(definition: Definition, base: list[Config], *, read_only: bool) -> list[Config]:
    """What systemd must find mounted, and neither base nor the definition mounts."""
    taken = {mount_list.normal(mount.get("destination")) for mount in base}
    taken -= {place for place in taken if _is_cgroup(place, base)}
    taken |= {mount.destination for mount in definition.mounts}
    wanted = systemd_mode.TMPFS | (systemd_mode.TMPFS_READ_ONLY if read_only else {})
    found = [
        _mount(place, "tmpfs", options)
        for place, options in wanted.items()
        if not _is_taken(place, taken)
    ]
    if systemd_mode.CGROUP_PLACE not in taken:
        found.append(_mount(systemd_mode.CGROUP_PLACE, "cgroup", systemd_mode.CGROUP_OPTIONS))
    return found


def _is_taken(place: str, taken: set[str]) -> bool:
    """Whether something is mounted there; or above it, of what systemd can do without."""
    if place in systemd_mode.NEEDED:
        return place in taken
    return any(place == other or place.startswith(f"{other}/") for other in taken)


def _is_cgroup(place: str, base: list[Config]) -> bool:
    """Whether what is mounted there is the cgroup tree as runtimes show it: read-only."""
    found = [m for m in base if mount_list.normal(m.get("destination")) == place]
    return found[-1].get("type") in ("cgroup", "cgroup2")


def _mount(destination: str, kind: str, options: tuple[str, ...]) -> Config:
    return {
        "destination": destination,
        "type": kind,
        "source": kind,
        "options": [*options],
    }


def has_tmpfs(config: Config, place: str) -> bool:
    """Whether config mounts a tmpfs in exactly that place."""
    found = [
        mount.get("type")
        for mount in objects(config, "mounts")
        if mount_list.normal(mount.get("destination")) == place
    ]
    return bool(found) and found[-1] == "tmpfs"
