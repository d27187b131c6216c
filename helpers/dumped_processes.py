"""The processes of a dump and their memory, as CRIU's images tell."""

from dataclasses import dataclass

from torpor.criu_images import PAGE_BYTES, Entry, ImageDirectory, number_in
from torpor.errors import ImageError
from torpor.open_files import OpenFile, OpenFiles

RUNNING, STOPPED, ZOMBIE = "running", "stopped", "zombie"
# COMPEL_TASK_* in compel/include/uapi/task-state.h; CRIU saves a zombie as one that is dead.
_STATES = {2: ZOMBIE, 3: STOPPED, 6: ZOMBIE}
_COMMAND_MAX_BYTES = 4096
_ANON_SHARED, _MEMFD = 1 << 8, 1 << 14  # VMA_* in criu/include/image.h
SHARED = "pagemap-shmem-"  # the beginning of an image's name


@dataclass(frozen=True)
class Process:
    pid: int  # in the container
    ppid: int
    pgid: int
    sid: int
    name: str
    command: list[str]  # as /proc/PID/cmdline said it; what is cut off or not here is missing
    state: str
    threads: int
    uid: int | None
    gid: int | None
    memory_bytes: int  # its own that is in the images; what files of the container hold is not
    shared_bytes: int  # in shared memory that it has mapped
    mapped_bytes: int  # its address space
    mount_namespace: int
    files: list[OpenFile]


@dataclass(frozen=True)
class SharedMemory:
    number: int  # CRIU's, which the next dump chooses anew
    name: str
    memory_bytes: int
    pids: list[int]  # who has mapped it
    place: tuple[int, int] | None  # the first of them, and the address there


class Processes:
    """All of a dump, and who of them has mapped which shared memory where."""

    def __init__(self, directory: ImageDirectory, files: OpenFiles) -> None:
        self._directory = directory
        self._files = files
        self._mapped: dict[int, list[tuple[int, int]]] = {}  # shared memory → (pid, address)
        self._shared_bytes = {
            number_in(pagemap): stored_bytes(directory, pagemap)
            for pagemap in directory.matching(SHARED)
        }
        self.all = [self._of(entry) for entry in in_order(directory.entries("pstree.img"))]

    def shared_memory(self) -> list[SharedMemory]:
        """What processes share, or have open as memory without a name. Raises ImageError."""
        names = self._files.memory_names()
        return [self._segment(number, names) for number in self._shared_bytes]

    def _segment(self, number: int, names: dict[int, str]) -> SharedMemory:
        places = sorted(self._mapped.get(number, []))
        return SharedMemory(
            number=number,
            name=names.get(number, ""),
            memory_bytes=self._shared_bytes[number],
            pids=sorted({pid for pid, _ in places}),
            place=places[0] if places else None,
        )

    def _of(self, entry: Entry) -> Process:
        pid = int(entry["pid"])
        core = self._directory.entry(f"core-{pid}.img")
        task = core.get("tc", {})
        creds = core.get("thread_core", {}).get("creds", {})
        ids = self._directory.entry_if_any(f"ids-{pid}.img") or core.get("ids", {})
        memory = self._directory.entry_if_any(f"mm-{pid}.img")
        shared = self._shared(pid, memory)
        return Process(
            pid=pid,
            ppid=int(entry["ppid"]),
            pgid=int(entry["pgid"]),
            sid=int(entry["sid"]),
            name=str(task.get("comm", "")),
            command=self._command(pid, memory),
            state=_STATES.get(int(task.get("task_state", 0)), RUNNING),
            threads=len(entry.get("threads", [])),
            uid=creds.get("uid"),
            gid=creds.get("gid"),
            memory_bytes=stored_bytes(self._directory, pagemap_of(pid)),
            shared_bytes=sum(self._shared_bytes.get(number, 0) for number in shared),
            mapped_bytes=sum(int(vma["end"]) - int(vma["start"]) for vma in _vmas(memory)),
            mount_namespace=int(ids.get("mnt_ns_id", 0)),
            files=self._files.of(int(ids["files_id"])) if "files_id" in ids else [],
        )

    def _shared(self, pid: int, memory: Entry) -> set[int]:
        """The shared memory that a process has mapped."""
        numbers = set()
        for vma in _vmas(memory):
            kind, number = int(vma["status"]), int(vma["shmid"])
            if kind & _MEMFD:
                number = self._files.memory_of(number)
            if kind & (_MEMFD | _ANON_SHARED):
                numbers.add(number)
                self._mapped.setdefault(number, []).append((pid, int(vma["start"])))
        return numbers

    def _command(self, pid: int, memory: Entry) -> list[str]:
        start, end = int(memory.get("mm_arg_start", 0)), int(memory.get("mm_arg_end", 0))
        if pagemap_of(pid) not in self._directory.sizes_bytes or end <= start:
            return []
        size = min(end - start, _COMMAND_MAX_BYTES)
        text = self._directory.memory(pagemap_of(pid), start, size)
        return text.rstrip(b"\0").decode("utf-8", "replace").split("\0") if text else []


def in_order(entries: list[Entry]) -> list[Entry]:
    """The processes by their ids, but so that children follow their parent.

    Raises ImageError.
    """
    children: dict[int, list[Entry]] = {}
    entries = sorted(entries, key=lambda entry: -int(entry["pid"]))
    for entry in entries:
        children.setdefault(int(entry["ppid"]), []).append(entry)
    known = {int(entry["pid"]) for entry in entries}
    left = [entry for entry in entries if int(entry["ppid"]) not in known]
    found = []
    while left:
        entry = left.pop()
        found.append(entry)
        left += children.pop(int(entry["pid"]), [])
    if len(found) != len(entries) or len(known) != len(entries):
        raise ImageError("pstree.img is damaged: its processes are no tree")
    return found


def pagemap_of(pid: int) -> str:
    return f"pagemap-{pid}.img"


def shared_pagemap(number: int) -> str:
    return f"{SHARED}{number}.img"


def stored_bytes(directory: ImageDirectory, pagemap: str) -> int:
    """The memory that the images hold by a pagemap; nothing where there is no such one."""
    if pagemap not in directory.sizes_bytes:
        return 0
    return sum(
        run.pages * PAGE_BYTES for run in directory.runs(pagemap) if run.offset_bytes is not None
    )


def _vmas(memory: Entry) -> list[Entry]:
    found: list[Entry] = memory.get("vmas", [])
    return found
