"""What became of a container between two of its generations."""

from collections import Counter
from dataclasses import dataclass

from torpor.criu_images import ImageDirectory
from torpor.dumped_mounts import Mount
from torpor.dumped_processes import Process, SharedMemory, pagemap_of, shared_pagemap
from torpor.inspection import Inspection
from torpor.open_files import PIPE, UNIX, OpenFile
from torpor.page_difference import Pages, compare_pagemaps

CAME, WENT, STAYED = "came", "went", "stayed"


@dataclass(frozen=True)
class ProcessDifference:
    """Processes are told by their id, which a sleep does not change."""

    change: str
    pid: int
    name: str
    command: list[str]
    memory_before_bytes: int
    memory_after_bytes: int
    pages: Pages
    opened: list[OpenFile]  # of one that stayed
    closed: list[OpenFile]


@dataclass(frozen=True)
class SharedDifference:
    """Shared memory is told by its name, and by who has mapped it where."""

    change: str
    name: str
    memory_before_bytes: int
    memory_after_bytes: int
    pages: Pages


@dataclass(frozen=True)
class Difference:
    size_before_bytes: int
    size_after_bytes: int
    processes: list[ProcessDifference]
    shared_memory: list[SharedDifference]
    mounted: list[Mount]
    unmounted: list[Mount]


class Side:
    """A generation that is compared."""

    def __init__(self, images: str, found: Inspection) -> None:
        self.directory = ImageDirectory(images)
        self.found = found
        self.processes = {one.pid: one for one in found.processes}
        self.shared = {(one.name, one.place): one for one in found.shared_memory}


def between(before: Side, after: Side) -> Difference:
    """Compare, page by page too. Raises ImageError, OSError."""
    pids = [*after.processes, *(before.processes.keys() - after.processes.keys())]
    segments = [*after.shared, *(before.shared.keys() - after.shared.keys())]
    mounted, unmounted = _mounts(before.found.mounts, after.found.mounts)
    return Difference(
        size_before_bytes=before.found.size_bytes,
        size_after_bytes=after.found.size_bytes,
        processes=[_process(pid, before, after) for pid in pids],
        shared_memory=[
            _segment(before.shared.get(key), after.shared.get(key), before, after)
            for key in segments
        ],
        mounted=mounted,
        unmounted=unmounted,
    )


def _change(was: object, now: object) -> str:
    return STAYED if was and now else CAME if now else WENT


def _process(pid: int, before: Side, after: Side) -> ProcessDifference:
    was, now = before.processes.get(pid), after.processes.get(pid)
    known = now or was
    assert known
    opened, closed = _files(was, now) if was and now else ([], [])
    return ProcessDifference(
        change=_change(was, now),
        pid=pid,
        name=known.name,
        command=known.command,
        memory_before_bytes=was.memory_bytes if was else 0,
        memory_after_bytes=now.memory_bytes if now else 0,
        pages=_pages(before, pagemap_of(pid), after, pagemap_of(pid)),
        opened=opened,
        closed=closed,
    )


def _segment(
    was: SharedMemory | None, now: SharedMemory | None, before: Side, after: Side
) -> SharedDifference:
    known = now or was
    assert known
    return SharedDifference(
        change=_change(was, now),
        name=known.name,
        memory_before_bytes=was.memory_bytes if was else 0,
        memory_after_bytes=now.memory_bytes if now else 0,
        pages=_pages(
            before,
            shared_pagemap(was.number) if was else "",
            after,
            shared_pagemap(now.number) if now else "",
        ),
    )


def _pages(before: Side, pagemap_before: str, after: Side, pagemap_after: str) -> Pages:
    was = pagemap_before in before.directory.sizes_bytes
    now = pagemap_after in after.directory.sizes_bytes
    if was and now:
        return compare_pagemaps(before.directory, pagemap_before, after.directory, pagemap_after)
    return Pages(
        new=_count(after.directory, pagemap_after) if now else 0,
        gone=_count(before.directory, pagemap_before) if was else 0,
    )


def _count(directory: ImageDirectory, pagemap: str) -> int:
    return sum(run.pages for run in directory.runs(pagemap))


def _files(was: Process, now: Process) -> tuple[list[OpenFile], list[OpenFile]]:
    """What it opened, and what it closed: how far it has read is no difference."""
    old = {_identity(one): one for one in was.files}
    new = {_identity(one): one for one in now.files}
    opened = [new[key] for key in new if key not in old]
    return opened, [old[key] for key in old if key not in new]


def _identity(file: OpenFile) -> tuple[object, ...]:
    # The kernel's numbers of pipes and of sockets without a name are others after each wake.
    name = "" if file.kind == PIPE else file.name
    peer = bool(file.peer) if file.kind == UNIX else file.peer
    return file.fd, file.kind, name, file.mode, file.deleted, file.state, peer


def _mounts(before: list[Mount], after: list[Mount]) -> tuple[list[Mount], list[Mount]]:
    was = Counter(map(_mounted, before))
    now = Counter(map(_mounted, after))
    return _only_in(after, now - was), _only_in(before, was - now)


def _mounted(mount: Mount) -> tuple[object, ...]:
    """A namespace has another number after each wake; options are of who made the file system."""
    return mount.place, mount.type, mount.source, mount.read_only, mount.outside


def _only_in(mounts: list[Mount], more: Counter[tuple[object, ...]]) -> list[Mount]:
    found = []
    for mount in reversed(mounts):
        if more[_mounted(mount)] > 0:
            more[_mounted(mount)] -= 1
            found.append(mount)
    return found[::-1]
