"""The flags of a container's mounts, which a restore may lose.

CRIU sets those of a mount again only where they differ from those of the mount that it takes it
for a copy of. Where it then mounts it from the host's path all the same, a read-only mount comes
back writable (do_bind_mount_v2 in criu/mount-v2.c).
"""

import os

from torpor import mountinfo, process, record
from torpor.errors import (
    CheckpointError,
    HostFaultError,
    RecordError,
    RestoreCutOffError,
    RestoreError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    # Where it is, as the kernel writes it, and how many others lie below it at the same place.
    Place = tuple[str, int]
    Change = tuple[str, str, "list[str]"]  # its place, the number of the mount, words to add

_FORM = "mounts"
_NAMESPACE = "namespace"  # the process ids of one in it: see _number
_MOUNT = "mount"  # WORD,WORD... LAYER PLACE
_GUARDS = ("ro", "nosuid", "nodev", "noexec", "nosymfollow")
_WORDS = (*_GUARDS, "noatime", "nodiratime")
# Of 100,000 mounts, as many as Linux allows, few have a long path.
_TABLE_MAX_BYTES = 64 << 20
_DEADLINE_S = 10.0
# What is at a place may hold any bytes: each is a character.
_CODING = "latin-1"


def save(pids: list[int], path: str) -> None:
    """Record the flags in each mount namespace of processes that do not run.

    Raises CheckpointError, RecordError, OSError.
    """
    pairs = []
    for pid in _witnesses(pids):
        pairs.append((_NAMESPACE, _number(pid)))
        for (place, layer), (_, words) in flags(_table(pid, CheckpointError)).items():
            if words:
                pairs.append((_MOUNT, f"{','.join(words)} {layer} {place}"))
    if pairs:
        record.replace(path, record.serialize(_FORM, pairs))  # the seal syncs it


class Saved:
    """What was saved; empty where there was nothing, as in a dump of an older torpor."""

    def __init__(self, path: str) -> None:
        """Raises RecordError."""
        text = record.read_bytes(path)
        self._namespaces: dict[str, dict[Place, list[str]]] = {}
        current: dict[Place, list[str]] | None = None
        for key, value in record.parse(text, _FORM, path) if text is not None else []:
            if key == _NAMESPACE:
                current = self._namespaces.setdefault(value, {})
            elif key == _MOUNT:
                place, words = _mount(value, path)
                if current is None:
                    raise RecordError(f"{path}: a mount of no namespace: {value[:80]!a}")
                current[place] = words

    def put_back(self, pids: list[int]) -> None:
        """Set again what restored processes lost, before they run; nothing is ever taken away.

        Raises RestoreError where a flag is lost for good that guards something,
        RestoreCutOffError where a process is gone, HostFaultError, OSError.
        """
        for pid in self._found(pids) if self._namespaces else []:
            saved = self._namespaces[_number(pid)]
            if changes := lost(saved, flags(_table(pid, RestoreError))):
                _mend(pid, changes)

    def _found(self, pids: list[int]) -> list[int]:
        """A process in each of the namespaces. The first that there are have the lowest numbers."""
        left = set(self._namespaces)
        found = []
        for pid in sorted(pids):
            if (number := _number(pid)) in left and not _is_ours(pid):
                left.remove(number)
                found.append(pid)
            if not left:
                return found
        raise RestoreCutOffError(f"restored process {min(left)!a} is gone: was it killed?")


def flags(table: str) -> "dict[Place, tuple[str, list[str]]]":
    """Of each mount in a mountinfo (proc_pid_mountinfo(5)): its number and its flags."""
    mounts: dict[str, tuple[str, str, str]] = {}
    above: dict[str, list[str]] = {}
    for line in table.split("\n")[:-1]:
        number, parent, _, _, place, options, _ = line.split(" ", 6)
        mounts[number] = (parent, place, options)
        if parent != number:
            above.setdefault(parent, []).append(number)
    pending = [one for one, (parent, *_) in mounts.items() if parent == one or parent not in mounts]
    layers: dict[str, int] = {}
    found = {}
    for number in pending:
        pending += above.get(number, ())
        _, place, options = mounts[number]
        layer = layers[place] = layers.get(place, -1) + 1
        has = options.split(",")
        found[place, layer] = (number, [word for word in _WORDS if word in has])
    return found


def lost(
    saved: "dict[Place, list[str]]", found: "dict[Place, tuple[str, list[str]]]"
) -> "list[Change]":
    """What to add so that each mount has the flags again that it had."""
    changes = []
    for place, words in saved.items():
        number, has = found.get(place, ("", words))
        if missing := [word for word in words if word not in has]:
            changes.append((place[0], number, missing))
    return changes


def _mount(value: str, where: str) -> "tuple[Place, list[str]]":
    words, _, rest = value.partition(" ")
    layer, _, place = rest.partition(" ")
    known = all(word in _WORDS for word in words.split(","))
    if not (known and record.is_number(layer) and place.startswith("/")):
        raise RecordError(f"{where}: no flags of a mount: {value[:80]!a}")
    return (place, int(layer)), words.split(",")


def _witnesses(pids: list[int]) -> "Iterable[int]":
    """A process of each mount namespace, one that sees all of it if there is one."""
    found: dict[int, int] = {}
    for pid in sorted(pids, reverse=True):
        try:
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        except OSError:
            continue  # a zombie has none
        if not _is_ours(pid) and (namespace not in found or _sees_all(pid)):
            found[namespace] = pid
    return found.values()


def _is_ours(pid: int) -> bool:
    """Whether it shares the host's mounts, which are not the container's to change."""
    try:
        return os.path.samefile(f"/proc/{pid}/ns/mnt", "/proc/self/ns/mnt")
    except OSError:
        return True


def _number(pid: int) -> str:
    """Its process ids in the pid namespaces that were restored with it (proc_pid_status(5))."""
    outside, *inside = process.status(pid).get("NSpid", [""])
    return " ".join(inside) or outside


def _sees_all(pid: int) -> bool:
    """Whether its root is that of its mount namespace: elsewhere only the mounts below are told."""
    try:
        return os.readlink(f"/proc/{pid}/root") == "/"
    except OSError:
        return False


def _table(pid: int, kind: "type[CheckpointError | RestoreError]") -> str:
    if _sees_all(pid):
        text = _read(f"/proc/{pid}/mountinfo", None)
    else:
        text = _within(pid, lambda proc: _read("mountinfo", proc))
    if len(text) > _TABLE_MAX_BYTES:
        raise kind(f"it has more mounts than can be looked at: {_TABLE_MAX_BYTES} bytes of names")
    return text


def _read(path: str, directory: int | None) -> str:
    """Up to a byte more than is allowed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        pieces = []
        left = _TABLE_MAX_BYTES + 1
        while left > 0 and (piece := os.read(fd, min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces).decode(_CODING)
    finally:
        os.close(fd)


def _mend(pid: int, changes: "list[Change]") -> None:
    from torpor import detached  # not in the child, nor where nothing was lost

    def add(_: int) -> str:
        for place, number, words in changes:
            try:
                path = mountinfo.fields(place)[0].encode(_CODING)
                detached.add(path, int(number), words)
            except OSError as error:
                if any(word in _GUARDS for word in words):
                    return f"{place} was {', '.join(words)} and is no more: {error.strerror}"
        return ""

    if problem := _within(pid, add):
        raise RestoreError(
            f"the mount at {problem}", "It is not woken, as it could then do more than before."
        )


def _within(pid: int, work: "Callable[[int], str]") -> str:
    """What work says in the mount namespace of a process, of a child that is given its /proc/self.

    work must not import anything: what is found at a path is the container's. No other thread may
    be running. Raises HostFaultError, OSError.
    """
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    reader, writer = os.pipe()
    try:
        if (child := os.fork()) == 0:
            _say(work, namespace, writer)
    finally:
        os.close(writer)
        os.close(namespace)
    status, said = process.collect(process.Child(child), reader, _DEADLINE_S, 2 * _TABLE_MAX_BYTES)
    if status:
        raise HostFaultError(
            f"the mounts of process {pid} could not be looked at",
            "does a file system in it not answer? See: dmesg | tail",
        )
    return said


def _say(work: "Callable[[int], str]", namespace: int, writer: int) -> "NoReturn":
    status = 1
    try:
        itself = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.setns(namespace, os.CLONE_NEWNS)
        record.write_all(writer, work(itself).encode())
        status = 0
    finally:
        os._exit(status)
