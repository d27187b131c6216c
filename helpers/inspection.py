"""What a generation's images hold, as people ask: processes, memory, files, mounts, sizes.

A generation is a directory, wherever it came from: nothing of the host is asked.
"""

import os
from dataclasses import dataclass

from torpor import dumped_mounts, images
from torpor.container import Container
from torpor.criu_images import ImageDirectory
from torpor.dumped_mounts import Mount
from torpor.dumped_processes import Process, Processes, SharedMemory, pagemap_of, shared_pagemap
from torpor.errors import ImageError, TorporError
from torpor.images import Generation, Manifest
from torpor.open_files import OpenFiles

# Kinds of what takes space.
PROCESS, SHARED, DELETED, CONTENT, OTHER = "process", "shared", "deleted", "content", "other"
_NO_SUCH = 4  # the exit status of torpor status for what is not there
_SMALL_BYTES = 50 << 10  # what is no larger than this is not told from others
_USEC = 1e-6


@dataclass(frozen=True)
class Space:
    """What takes up room on the disk; all together are the generation."""

    kind: str
    name: str
    size_bytes: int


@dataclass(frozen=True)
class Times:
    """What CRIU measured. The container is frozen before it comes and until all is durable."""

    freezing_s: float
    frozen_s: float
    memory_dump_s: float
    memory_write_s: float
    pages_scanned: int
    pages_written: int


@dataclass(frozen=True)
class Inspection:
    facts: dict[str, str]  # of the manifest
    size_bytes: int
    files: int
    times: Times | None  # None where CRIU's statistics were not kept
    space: list[Space]  # the largest first
    processes: list[Process]  # a parent before its children
    shared_memory: list[SharedMemory]
    mounts: list[Mount]


def find(container: Container, number: int | None = None) -> Generation:
    """A generation that is kept or was set aside, the newest kept one where none is named.

    Raises TorporError.
    """
    kept = images.generations(container)
    wanted = kept[-1] if number is None and kept else number
    if wanted in kept:
        return Generation(container, wanted)
    if wanted is not None and os.path.isdir(container.aside_dir(wanted)):
        return Generation(container, wanted, container.aside_dir(wanted))
    which = "are no images" if wanted is None else f"is no generation {wanted}"
    there = f"there are: {' '.join(map(str, kept))}; " if kept and wanted is not None else ""
    raise TorporError(
        f"{container.name}: there {which}",
        f"{there}images are there while a container sleeps, and longer where keep: says so",
        exit_code=_NO_SUCH,
    )


def read(container: Container, generation: Generation) -> Inspection:
    """What is in a generation of a container. Raises TorporError."""
    try:
        return of(generation, images.read_manifest(container, generation))
    except (ImageError, OSError) as error:
        raise unreadable(generation, error) from error


def unreadable(generation: Generation, error: Exception) -> TorporError:
    """Why it could not be read: who wakes meanwhile removes its images."""
    number = generation.number
    if is_gone(generation):
        return TorporError(f"generation {number} is gone: its container was started or discarded")
    return ImageError(
        f"generation {number} cannot be read: {error}",
        "a start compares all of it before it uses any",
    )


def is_gone(generation: Generation) -> bool:
    return not os.path.isdir(generation.path)


def of(generation: Generation, manifest: Manifest) -> Inspection:
    """Read what is in a generation. Raises ImageError, TorporError without CRIU's library."""
    directory = ImageDirectory(generation.images)
    files = OpenFiles(directory)
    processes = Processes(directory, files)
    shared = processes.shared_memory()
    mounts = dumped_mounts.mounts(directory)
    sizes_bytes = _sizes_bytes(generation, directory)
    names = _names(directory, files, processes.all, shared, mounts)
    return Inspection(
        facts=manifest.facts,
        size_bytes=sum(sizes_bytes.values()),
        files=len(sizes_bytes),
        times=_times(generation),
        space=_space(sizes_bytes, names),
        processes=processes.all,
        shared_memory=shared,
        mounts=mounts,
    )


def _sizes_bytes(generation: Generation, directory: ImageDirectory) -> dict[str, int]:
    """All that a manifest speaks of, by its path in the generation."""
    return {
        path: directory.sizes_bytes.get(path.partition("/")[2]) or _size_bytes(generation, path)
        for path in images.walk(generation)
    }


def _size_bytes(generation: Generation, path: str) -> int:
    try:
        return os.stat(f"{generation.path}/{path}", follow_symlinks=False).st_size
    except OSError as error:
        raise ImageError(f"{generation.path}/{path}: {error.strerror}") from error


def _names(
    directory: ImageDirectory,
    files: OpenFiles,
    processes: list[Process],
    shared: list[SharedMemory],
    mounts: list[Mount],
) -> dict[str, tuple[str, str]]:
    """The kind and the name of what is in those files that can be large."""
    found = {"shm.tar": (CONTENT, "/dev/shm")}
    pagemaps = {pagemap_of(one.pid): (PROCESS, f"{one.pid} {one.name}") for one in processes}
    pagemaps |= {shared_pagemap(one.number): (SHARED, one.name) for one in shared}
    for pagemap in pagemaps.keys() & directory.sizes_bytes.keys():
        found[f"checkpoint/{directory.pages_image(pagemap)}"] = pagemaps[pagemap]
    for image, path in files.ghost_names().items():
        found[f"checkpoint/{image}"] = (DELETED, path)
    for mount in mounts:
        found[f"checkpoint/{mount.content}"] = (CONTENT, mount.place)
    return found


def _space(sizes_bytes: dict[str, int], names: dict[str, tuple[str, str]]) -> list[Space]:
    large = {path: size for path, size in sizes_bytes.items() if size > _SMALL_BYTES}
    named = [Space(*names[path], size) for path, size in large.items() if path in names]
    rest = sum(sizes_bytes.values()) - sum(one.size_bytes for one in named)
    named.append(Space(OTHER, f"{len(sizes_bytes) - len(named)} files", rest))
    return sorted(named, key=lambda one: -one.size_bytes)


def _times(generation: Generation) -> Times | None:
    """CRIU's statistics; what was not kept, or not whole, is not missed."""
    directory, _, name = generation.statistics.rpartition("/")
    try:
        dump = ImageDirectory(directory).entry(name).get("dump")
    except ImageError:
        return None
    if not dump:
        return None
    return Times(
        freezing_s=dump["freezing_time"] * _USEC,
        frozen_s=dump["frozen_time"] * _USEC,
        memory_dump_s=dump["memdump_time"] * _USEC,
        memory_write_s=dump["memwrite_time"] * _USEC,
        pages_scanned=int(dump["pages_scanned"]),
        pages_written=int(dump["pages_written"]),
    )
