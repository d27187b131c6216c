"""Device nodes of the host that a container may use."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torpor import values
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

# A path of /dev/disk/by-path or by-id holds colons itself.
_FORM = re.compile(r"(/.*?)(?::(/[^:]*))?(?::([rwm]{1,3}))?", re.DOTALL)
_ALL_ACCESS = "rwm"
_DIRECTORY_LIMIT = 4096  # entries looked at below one directory
_TYPES = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}
_HINT = "Write HOST, HOST:CONTAINER or HOST:CONTAINER:ACCESS; ACCESS is of the letters r, w and m."


@dataclass(frozen=True)
class Device:
    """A device, or a directory of them, of the host, and its place in the container.

    access is r(ead), w(rite) and m(knod) of the device cgroup; line is that of the definition.
    """

    host: str
    container: str
    access: str = _ALL_ACCESS
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Found:
    """What a device is on this machine: type is b, c or p (a FIFO), path the container's."""

    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    access: str = _ALL_ACCESS


def parse(node: Node) -> tuple[Device, ...]:
    """A list of HOST[:CONTAINER][:ACCESS]. Raises WrongError."""
    devices: dict[str, Device] = {}
    for device in values.list_of(_device, node):
        if device.container in devices:
            problem = f"'{shown(device.container)}' is given twice"
            raise WrongError(problem, "Remove one.", device.line)
        devices[device.container] = device
    return tuple(devices.values())


def look_up(device: Device) -> tuple[Found, ...]:
    """The device on this machine, or all devices below the directory that it names.

    Links are followed to the device, but not below a directory. Raises WrongError.
    """
    try:
        status = os.stat(device.host)
        if not stat.S_ISDIR(status.st_mode):
            return (_require_found(device, status),)
        found = tuple(_below(device))
    except OSError as error:
        problem = f"{shown(device.host)}: {error.strerror}"
        raise WrongError(problem, _HINT if ":" in device.host else "", device.line) from error
    if not found:
        raise WrongError(f"{shown(device.host)} holds no devices", "", device.line)
    return found


def nodes(founds: Iterable[Found], base: Iterable[Any] = ()) -> list[Any]:
    """linux.devices: base, in which founds replace those of their path; the last one wins."""
    ours = {found.path: _node(found) for found in founds}
    kept = [entry for entry in base if not (isinstance(entry, dict) and _path(entry) in ours)]
    return kept + list(ours.values())


def rules(founds: Iterable[Found], base: Iterable[Any] = ()) -> list[Any]:
    """linux.resources.devices: base, for a rootfs the rule that denies all, and then founds.

    A later rule goes first in the device cgroup, which knows no FIFOs.
    """
    ours = [_rule(found) for found in founds if found.type != "p"]
    return [*base, *(rule for index, rule in enumerate(ours) if rule not in ours[:index])]


def _device(node: Node) -> Device:
    match = _FORM.fullmatch(words := values.text(node))
    access = match[3] or _ALL_ACCESS if match else ""
    if not match or ":/" in match[1] or len(set(access)) < len(access):
        raise WrongError(f"'{shown(words)}' is not a device", _HINT, node.line)
    host = values.absolute(match[1], node.line)
    container = values.absolute(match[2], node.line) if match[2] else host
    if container == "/" or host in ("/", "/dev"):
        raise WrongError(
            f"'{shown(words)}' is more than a device", "Name what it needs.", node.line
        )
    return Device(host, container, access, node.line)


def _require_found(device: Device, status: os.stat_result) -> Found:
    if (found := _found(device.container, device.access, status)) is None:
        hint = "Mount files and sockets with mounts:"
        raise WrongError(f"{shown(device.host)} is not a device", hint, device.line)
    return found


def _found(path: str, access: str, status: os.stat_result) -> Found | None:
    if (kind := _TYPES.get(stat.S_IFMT(status.st_mode))) is None:
        return None
    rdev = status.st_rdev
    return Found(
        path,
        kind,
        os.major(rdev),
        os.minor(rdev),
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        access,
    )


def _below(device: Device) -> Iterator[Found]:
    """The devices in the tree of device.host, in the order of their names."""
    seen = 0
    for directory, names, files in os.walk(device.host, onerror=_raise):
        names.sort()
        seen += len(names) + len(files)
        if seen > _DIRECTORY_LIMIT:
            raise OSError(errno.E2BIG, f"holds more than {_DIRECTORY_LIMIT} entries")
        for name in sorted(files):
            host = os.path.join(directory, name)
            path = os.path.join(device.container, os.path.relpath(host, device.host))
            status = os.lstat(host)
            if not stat.S_ISFIFO(status.st_mode) and (found := _found(path, device.access, status)):
                yield found


def _raise(error: OSError) -> None:
    raise error


def _path(entry: dict[str, Any]) -> str:
    return path if isinstance(path := entry.get("path"), str) else ""


def _node(found: Found) -> dict[str, Any]:
    numbers = {} if found.type == "p" else {"major": found.major, "minor": found.minor}
    place = {"path": found.path, "type": found.type}
    return place | numbers | {"fileMode": found.mode, "uid": found.uid, "gid": found.gid}


def _rule(found: Found) -> dict[str, Any]:
    return {
        "allow": True,
        "type": found.type,
        "major": found.major,
        "minor": found.minor,
        "access": found.access,
    }
