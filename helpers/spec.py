"""The OCI runtime configuration (config.json) that a definition asks for.

Format: https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config.md
"""

import copy
import errno
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from torpor import inroot, regular_file
from torpor.definition import Definition
from torpor.errors import DefinitionError
from torpor.schema import User

BUNDLE_CONFIG_LIMIT_BYTES = 16 << 20
ACCOUNTS_LIMIT_BYTES = 1 << 20
HOOK_DIRECTORY = "/usr/libexec/torpor/"
NAME_ANNOTATION = "io.torpor.name"
STOP_SIGNAL_ANNOTATION = "org.opencontainers.image.stopSignal"

_OCI_VERSION = "1.2.0"
_DEPTH_LIMIT = 64
_ID_MAX = (1 << 31) - 1  # runc's libcontainer/user refuses larger ids
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITIES = (  # podman's default set, containers-common 0.62
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")
_MOUNTS = (  # those of `runc spec`, runc 1.1.15
    ("/proc", "proc", "proc", ""),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
)
_MASKED_PATHS = (  # as `runc spec`
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)  # as `runc spec`

Config = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a configuration holds that only this machine knows."""

    cgroup_path: str


@dataclass(frozen=True)
class Rendered:
    """A config.json, and what its reader should be told: one line each."""

    config: Config
    warnings: tuple[str, ...] = ()


def render(definition: Definition, base: Config | None, facts: Facts) -> Rendered:
    """The config.json of definition; base is its bundle's config.json, None for a rootfs.

    base is left as it is. Reads nothing but links and the account files of the root file system.
    Raises DefinitionError where the definition does not fit that, or base is unusable.
    """
    try:
        return _render(definition, base, facts)
    except _ShapeError as error:
        raise DefinitionError(f"{definition.bundle}/config.json: {error}") from error


class _ShapeError(Exception):
    """A part of a bundle's config.json is not of the kind that the specification says."""


def _render(definition: Definition, base: Config | None, facts: Facts) -> Rendered:
    warnings: tuple[str, ...] = ()
    if definition.bundle is None:
        config = _from_rootfs(definition)
    elif base is not None:
        config, warnings = _from_bundle(definition, definition.bundle, base)
    else:
        raise ValueError("the definition names a bundle: base must be its config.json")
    _section(config, "linux")["cgroupsPath"] = facts.cgroup_path
    annotations = _section(config, "annotations")
    annotations[NAME_ANNOTATION] = definition.name
    if definition.stop_signal is not None:
        annotations[STOP_SIGNAL_ANNOTATION] = str(definition.stop_signal)
    return Rendered(config, warnings)


def dumps(config: Config) -> bytes:
    """The canonical bytes of config: equal configurations give equal bytes."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def load_bundle(path: str) -> Config:
    """The config.json in the bundle directory path.

    Raises DefinitionError, which names the file; also where ociVersion, root.path or process.args
    is missing.
    """
    file = os.path.join(path, "config.json")
    try:
        content, _ = regular_file.read(file, BUNDLE_CONFIG_LIMIT_BYTES)
    except OSError as error:
        raise DefinitionError(f"{file}: cannot read the bundle: {error.strerror}") from error
    try:
        config = _parse(content)
    except (ValueError, RecursionError) as error:
        reason = (
            "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        )
        raise DefinitionError(f"{file}: {reason}") from error
    if not isinstance(config, dict):
        raise DefinitionError(f"{file}: is not a JSON object")
    _require_bundle_keys(file, config)
    return config


def _parse(content: bytes) -> object:
    """content as strict JSON: UTF-8, no key twice, no NaN. Raises ValueError or RecursionError."""
    value: object = json.loads(
        content.decode("utf-8"),
        object_pairs_hook=_object_of_unique_keys,
        parse_constant=_refuse_number,
        parse_float=_finite,
    )
    _require_shallow(value)
    return value


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> Config:
    result: Config = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key[:60]!a} is given twice")
        result[key] = value
    return result


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:60]} is not a number of JSON")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse_number(text)


def _require_shallow(value: object) -> None:
    level = [value]
    for _ in range(_DEPTH_LIMIT):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
        if not level:
            return
    raise RecursionError


def _require_bundle_keys(file: str, config: Config) -> None:
    root, process = config.get("root"), config.get("process")
    args = process.get("args") if isinstance(process, dict) else None
    root_path = root.get("path") if isinstance(root, dict) else None
    if not isinstance(config.get("ociVersion"), str):
        raise DefinitionError(f"{file}: has no ociVersion", "Is this an OCI runtime bundle?")
    if not isinstance(root_path, str) or not root_path:
        raise DefinitionError(
            f"{file}: has no root.path", "It names the directory of the root file system."
        )
    if not isinstance(args, list) or not args or not all(isinstance(arg, str) for arg in args):
        raise DefinitionError(
            f"{file}: has no process.args", "It is the list of the program and its arguments."
        )


def _from_rootfs(definition: Definition) -> Config:
    root = _resolve_rootfs(definition)
    hostname = definition.hostname or definition.name
    user = _process_user(definition, definition.user or User(0, 0), root)
    env = [f"PATH={_DEFAULT_PATH}", f"HOSTNAME={hostname}", "container=torpor"]
    return {
        "ociVersion": _OCI_VERSION,
        "process": {
            "terminal": False,
            "user": user,
            "args": list(definition.command or ()),
            "env": _with_env(env, definition.env),
            "cwd": definition.cwd or "/",
            "capabilities": _capabilities(user["uid"]),
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": False},
        "hostname": hostname,
        "mounts": [_mount(*mount) for mount in _MOUNTS],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": namespace} for namespace in _NAMESPACES],
            "maskedPaths": list(_MASKED_PATHS),
            "readonlyPaths": list(_READONLY_PATHS),
        },
    }


def _resolve_rootfs(definition: Definition) -> str:
    try:
        root = os.path.realpath(definition.rootfs or "", strict=True)
    except OSError as error:
        raise definition.error("rootfs", f"{definition.rootfs}: {error.strerror}") from error
    if root == "/":
        raise definition.error(
            "rootfs", f"{definition.rootfs} is the root directory of this machine"
        )
    return root


def _mount(destination: str, kind: str, source: str, options: str) -> Config:
    mount: Config = {"destination": destination, "type": kind, "source": source}
    return mount | {"options": options.split(",")} if options else mount


def _capabilities(uid: int) -> dict[str, list[str]]:
    """What root may use at once and another user may only gain by execve(2), as in podman."""
    usable = list(_CAPABILITIES) if uid == 0 else []
    return {"bounding": list(_CAPABILITIES), "effective": usable, "permitted": list(usable)}


def _from_bundle(
    definition: Definition, bundle: str, base: Config
) -> tuple[Config, tuple[str, ...]]:
    config = copy.deepcopy(base)
    root = _section(config, "root")
    root["path"] = _resolve_bundle_root(bundle, root.get("path"))
    process = _section(config, "process")
    warnings = _without_terminal(process, bundle)
    if definition.command is not None:
        process["args"] = list(definition.command)
    if definition.cwd is not None:
        process["cwd"] = definition.cwd
    if definition.hostname is not None:
        config["hostname"] = definition.hostname
    if definition.env:
        process["env"] = _with_env(_list(process, "env"), definition.env)
    if definition.user is not None:
        process["user"] = _process_user(definition, definition.user, root["path"])
    _remove_own_hooks(config)
    return config, warnings


def _resolve_bundle_root(bundle: str, path: object) -> str:
    """root.path as an absolute path without links: a relative one begins at the bundle."""
    if not isinstance(path, str) or not path:
        raise DefinitionError(f"{bundle}/config.json: has no root.path")
    try:
        return os.path.realpath(os.path.join(bundle, path), strict=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DefinitionError(f"{bundle}/config.json: root.path {path!a}: {reason}") from error


def _without_terminal(process: Config, bundle: str) -> tuple[str, ...]:
    had_terminal = process.get("terminal")
    process["terminal"] = False
    process.pop("consoleSize", None)
    if not had_terminal:
        return ()
    ignored = "process.terminal is ignored: the output of a service goes to the journal"
    return (f"{bundle}/config.json: {ignored}",)


def without_own_hooks(config: Config) -> Config:
    """A copy without torpor's hooks."""
    copied = copy.deepcopy(config)
    _remove_own_hooks(copied)
    return copied


def _remove_own_hooks(config: Config) -> None:
    """Drop torpor's hooks, which record what others do: the container's own unit does it itself."""
    if not config.get("hooks"):
        return
    hooks = _section(config, "hooks")
    for stage in list(hooks):
        entries = _list(hooks, stage)
        others = [entry for entry in entries if not _is_own_hook(entry)]
        if others == entries:
            continue
        hooks[stage] = others
        if not others:
            del hooks[stage]
    if not hooks:
        del config["hooks"]


def _is_own_hook(entry: object) -> bool:
    path = entry.get("path") if isinstance(entry, dict) else None
    return isinstance(path, str) and os.path.normpath(path).startswith(HOOK_DIRECTORY)


def _with_env(env: list[Any], changes: tuple[tuple[str, str], ...]) -> list[str]:
    """env, a list of NAME=VALUE, where changes replace in place or are added at the end."""
    merged = {str(entry).partition("=")[0]: str(entry) for entry in env}
    merged.update((name, f"{name}={value}") for name, value in changes)
    return list(merged.values())


def _section(parent: Config, key: str) -> Config:
    """The object parent[key], made where there is none."""
    section = parent.get(key)
    if section is None:
        section = parent[key] = {}
    if not isinstance(section, dict):
        raise _ShapeError(f"{key} is not an object")
    return section


def _list(parent: Config, key: str) -> list[Any]:
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _ShapeError(f"{key} is not a list")
    return value


def _process_user(definition: Definition, wanted: User, root: str) -> Config:
    """process.user for wanted: names are looked up in root's account files, as runc does not.

    Without a group, the account's own and its supplementary ones apply; a uid without an account
    has group 0.
    """
    if isinstance(wanted.user, int) and isinstance(wanted.group, int):
        return {"uid": wanted.user, "gid": wanted.group}
    accounts = _Accounts(definition, root)
    name, uid, gid = accounts.user(wanted.user)
    if wanted.group is not None:
        return {"uid": uid, "gid": accounts.group(wanted.group)}
    result: Config = {"uid": uid, "gid": gid}
    if supplementary := accounts.supplementary(name, gid):
        result["additionalGids"] = supplementary
    return result


class _Accounts:
    """passwd(5) and group(5) of a root file system, whose author is not trusted."""

    def __init__(self, definition: Definition, root: str) -> None:
        self._definition = definition
        self._root = root

    def user(self, wanted: int | str) -> tuple[str | None, int, int]:
        """Name, uid and gid of wanted; a uid that has no account stands for itself, with gid 0."""
        key, field = (wanted, 0) if isinstance(wanted, str) else (str(wanted), 2)
        for fields in self._records("etc/passwd", 4):
            if fields[field] == key:
                return fields[0], self._id(fields[2], "passwd"), self._id(fields[3], "passwd")
        if isinstance(wanted, str):
            self._missing(f"user '{wanted}'", "passwd")
        return None, wanted, 0

    def group(self, wanted: int | str) -> int:
        """The gid of wanted."""
        if isinstance(wanted, int):
            return wanted
        for fields in self._records("etc/group", 3):
            if fields[0] == wanted:
                return self._id(fields[2], "group")
        self._missing(f"group '{wanted}'", "group")

    def supplementary(self, name: str | None, gid: int) -> list[int]:
        """The ids of the groups, other than gid, that list name as a member."""
        if name is None:
            return []
        groups = (
            fields for fields in self._records("etc/group", 4) if name in fields[3].split(",")
        )
        return sorted({self._id(fields[2], "group") for fields in groups} - {gid})

    def _records(self, path: str, least_fields: int) -> Iterator[list[str]]:
        for line in self._content(path).splitlines():
            fields = line.decode("utf-8", "surrogateescape").split(":")
            if len(fields) >= least_fields:
                yield fields

    def _content(self, path: str) -> bytes:
        try:
            return inroot.read_in_root(self._root, path, ACCOUNTS_LIMIT_BYTES)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return b""
            problem = f"cannot read {self._root}/{path}: {error.strerror}"
            raise self._definition.error("user", problem) from error

    def _id(self, text: str, file: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _ID_MAX):
            raise self._definition.error(
                "user", f"{self._root}/etc/{file} holds the id {text[:60]!a}"
            )
        return int(text)

    def _missing(self, who: str, file: str) -> NoReturn:
        hint = "Add it there, or give numbers: user: UID:GID"
        raise self._definition.error("user", f"{who} is not in {self._root}/etc/{file}", hint)
