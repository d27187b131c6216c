"""The cgroups that a container made below its own, as a systemd in it does for each unit.

CRIU makes only those again that had processes. A watch on an empty one could then not be restored,
and what the container had delegated or limited would be lost (cgroup-v2.rst of the kernel).
"""

import os

from torpor import hierarchy, record
from torpor.cgroup import Cgroup
from torpor.errors import RecordError
from torpor.process import read_small
from torpor.umask import PUBLIC, Umask

_FORM = "cgroups"
_CGROUP = "cgroup"  # UID:GID PATH, relative to the container's own, which has none
_KNOB = "knob"  # PATH, FILE and a line of it, with tabs between
_SUBTREE_CONTROL = "cgroup.subtree_control"
_KNOBS = (
    *("cgroup.max.depth", "cgroup.max.descendants"),
    *("cpu.weight", "cpu.idle", "cpu.max", "cpu.max.burst", "cpuset.cpus", "cpuset.mems"),
    *("memory.min", "memory.low", "memory.high", "memory.max", "memory.oom.group"),
    *("memory.swap.high", "memory.swap.max", "memory.zswap.max"),
    *("io.weight", "io.bfq.weight", "io.max", "io.latency", "pids.max"),
)


def save(top: Cgroup, path: str) -> bool:
    """Record what is below a frozen container's cgroup; False where there is nothing."""
    found = list(_below(top.path))
    if not found:
        return False
    pairs = [(_KNOB, f"\t{_SUBTREE_CONTROL}\t{_enabled(top.path)}")]
    pairs.append((_CGROUP, _owner(top.path)))
    for relative in found:
        directory = f"{top.path}/{relative}"
        pairs.append((_CGROUP, f"{_owner(directory)} {relative}"))
        pairs += [(_KNOB, f"{relative}\t{file}\t{line}") for file, line in _knobs(directory)]
        pairs.append((_KNOB, f"{relative}\t{_SUBTREE_CONTROL}\t{_enabled(directory)}"))
    record.replace(path, record.serialize(_FORM, pairs))  # the seal syncs it
    return True


def _owner(directory: str) -> str:
    status = os.stat(directory)
    return f"{status.st_uid}:{status.st_gid}"


def _below(top: str) -> "list[str]":
    """Paths from there, each after the one above it, however deep the container went."""
    found: list[str] = []
    pending = [""]
    while pending:
        above = pending.pop()
        with os.scandir(f"{top}/{above}") as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        below = [f"{above}/{name}".lstrip("/") for name in names]
        found += below
        pending += below
    return found


def _enabled(directory: str) -> str:
    controllers = read_small(f"{directory}/{_SUBTREE_CONTROL}").split()
    return " ".join(f"+{name}" for name in controllers)


def _knobs(directory: str) -> "list[tuple[str, str]]":
    files = ((file, read_small(f"{directory}/{file}")) for file in _KNOBS)
    return [(file, line) for file, text in files for line in text.splitlines() if line]


class Saved:
    """What was saved; empty where there was nothing."""

    def __init__(self, path: str) -> None:
        """Raises RecordError."""
        text = record.read_bytes(path)
        pairs = record.parse(text, _FORM, path) if text is not None else []
        self._cgroups = [_cgroup(value, path) for key, value in pairs if key == _CGROUP]
        knobs = [_knob(value, path) for key, value in pairs if key == _KNOB]
        self._controllers = [knob for knob in knobs if knob[1] == _SUBTREE_CONTROL and knob[2]]
        self._limits = [knob for knob in knobs if knob[1] != _SUBTREE_CONTROL]

    @property
    def has_controllers(self) -> bool:
        return bool(self._controllers)

    def make(self, top: Cgroup) -> None:
        """Make the cgroups again, before CRIU opens what the container has open there.

        Raises OSError.
        """
        for relative, uid, gid in self._cgroups:
            directory = f"{top.path}/{relative}".rstrip("/")
            try:
                with Umask(PUBLIC):
                    os.mkdir(directory)
            except FileExistsError:
                pass
            if uid or gid:
                # CRIU gives away the directories that it makes, but not the files in them.
                hierarchy.delegate(directory, uid, gid, again=True)

    def enable(self, top: Cgroup, elsewhere: Cgroup) -> None:
        """Hand controllers down again, from above, before CRIU opens the files that come with them.

        No process may be above those that get them: whatever is there, which is CRIU, goes
        elsewhere. A controller that this host has not is left out, and what needs it will say so.
        Raises OSError.
        """
        for pid in read_small(f"{top.path}/cgroup.procs").split():
            elsewhere.write("cgroup.procs", pid)
        for relative, file, line in self._controllers:
            directory = f"{top.path}/{relative}".rstrip("/")
            known = read_small(f"{directory}/cgroup.controllers").split()
            _write(f"{directory}/{file}", " ".join(one for one in line.split() if one[1:] in known))

    def limit(self, top: Cgroup) -> list[str]:
        """Limit as it was; warnings of what cannot be."""
        warnings = []
        for relative, file, line in self._limits:
            path = f"{top.path}/{relative}/{file}"
            if line in read_small(path).splitlines():
                continue
            try:
                _write(path, line)
            except OSError as error:
                warnings.append(f"{path} cannot be {line!r} again: {error.strerror}")
        return warnings


def _cgroup(value: str, where: str) -> tuple[str, int, int]:
    owner, _, relative = value.partition(" ")
    uid, _, gid = owner.partition(":")
    if not (record.is_number(uid) and record.is_number(gid) and _is_below(relative)):
        raise RecordError(f"{where}: no cgroup: {value[:80]!r}")
    return relative, int(uid), int(gid)


def _knob(value: str, where: str) -> tuple[str, str, str]:
    relative, file, line = ["", "", *value.rsplit("\t", 2)][-3:]
    if file in ("", ".", "..") or "/" in file or not _is_below(relative):
        raise RecordError(f"{where}: no limit of a cgroup: {value[:80]!r}")
    return relative, file, line


def _is_below(relative: str) -> bool:
    """Whether it is the path of a cgroup below the container's own, or of that itself."""
    return "\0" not in relative and not relative.startswith("/") and ".." not in relative.split("/")


def _write(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
